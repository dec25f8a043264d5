package client

import (
	"slices"
	"sync"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// spare is the blocks of a session that were put, or may have been, and that
// nobody will commit: put elsewhere under another id, or thrown away. They go
// back to the owner with the next sign of life, which has them deleted. What is
// lost of them with this process the owner finds by itself, when the session has ended.
type spare struct {
	mu      sync.Mutex
	blocks  []protocol.GroupBlock
	sending bool
}

// abandon notes that a piece's block will not be committed.
func (p *piece) abandon() {
	s := p.put.sess
	if s == nil || p.put.meta.Key.ID == 0 || p.put.group == 0 {
		return
	}
	s.spare.mu.Lock()
	defer s.spare.mu.Unlock()
	s.spare.blocks = append(s.spare.blocks, protocol.GroupBlock{Block: p.put.meta.Key.ID, Group: p.put.group})
	p.put.meta = protocol.BlockMeta{}
}

// giveBack sends the owner some of what is spare, in the background.
func (c *Client) giveBack(s *sess) {
	s.spare.mu.Lock()
	defer s.spare.mu.Unlock()
	if len(s.spare.blocks) == 0 || s.spare.sending {
		return
	}
	part := slices.Clone(s.spare.blocks[:min(len(s.spare.blocks), protocol.MaxBatch)])
	s.spare.sending = true
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		err := c.link.change(c.life, protocol.TypeGiveBack, tnv.Root, &protocol.GiveBack{Blocks: part}, s, nil)
		s.spare.mu.Lock()
		defer s.spare.mu.Unlock()
		s.spare.sending = false
		switch tnv.KindOf(err) {
		case tnv.KindUnavailable, tnv.KindTimeout, tnv.KindCanceled:
			if err != nil {
				return // once more, later
			}
		}
		s.spare.blocks = slices.Delete(s.spare.blocks, 0, len(part))
	}()
}
