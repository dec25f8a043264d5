package e2e

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// stores asks storage daemons directly.
type stores struct {
	t    testing.TB
	pool *protocol.Pool
}

func (c *Cluster) stores() *stores {
	c.t.Helper()
	return &stores{c.t, &protocol.Pool{Endpoint: &protocol.Endpoint{Key: c.Key(), Role: protocol.RoleTool}}}
}

const askLimit = 10 * time.Second

func (s *stores) call(addr string, typ protocol.Type, rep, req any) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	if err := s.pool.Call(ctx, addr, typ, rep, req); err != nil {
		s.t.Fatalf("ask %s: %v", addr, err)
	}
}

// list gives the lengths of all blocks of a store.
func (s *stores) list(addr string) map[tnv.BlockKey]protocol.ListedBlock {
	s.t.Helper()
	out := map[tnv.BlockKey]protocol.ListedBlock{}
	var d protocol.DigestReply
	s.call(addr, protocol.TypeDigest, &d, &protocol.Digest{Vol: 1, Parts: 1})
	for _, vol := range d.Vols {
		for from := tnv.BlockID(0); ; {
			var rep protocol.ListReply
			s.call(addr, protocol.TypeList, &rep, &protocol.List{Vol: vol, From: from, Limit: protocol.MaxBatch})
			for _, b := range rep.Blocks {
				out[tnv.BlockKey{Vol: vol, ID: b.Block}] = b
				from = b.Block + 1
			}
			if !rep.More {
				break
			}
		}
	}
	return out
}

// verify reads a whole block from one store and checks every byte of it.
func (s *stores) verify(addr string, key tnv.BlockKey) error {
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	return s.pool.Do(ctx, addr, func(w *protocol.Wire) (bool, error) {
		if err := w.WriteFrame(protocol.TypeGet, 0, 0, []any{&protocol.Get{Key: key}}); err != nil {
			return false, err
		}
		f, err := w.ReadFrame()
		if err != nil {
			return false, err
		}
		var rep protocol.GetReply
		if err := f.Decode(&rep); err != nil {
			return true, err
		}
		data := make([]byte, f.Payload)
		if err := w.ReadPayload(data); err != nil {
			return false, err
		}
		if len(data) != int(rep.Block.Len) || len(rep.Block.Sums) != protocol.Units(rep.Block.Len, rep.Block.Unit) {
			return true, fmt.Errorf("block %v: %d of %d bytes came, with %d sums", key, len(data), rep.Block.Len, len(rep.Block.Sums))
		}
		if u := protocol.Verify(key, rep.Block.Unit, 0, data, rep.Block.Sums); u >= 0 {
			return true, fmt.Errorf("block %v: unit %d is wrong", key, u)
		}
		return true, nil
	})
}

// waitSame waits until all members of each group hold the same blocks and
// nothing waits for deletion. It returns how many blocks each group holds.
func (c *Cluster) waitSame(limit time.Duration) (counts []int) {
	c.t.Helper()
	s := c.stores()
	defer s.pool.Close()
	for end := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		st := c.Status()
		same := len(st.Groups) > 0 && st.Volumes[0].PendingDeletions == 0
		counts = nil
		var diff string
		for _, g := range st.Groups {
			first := s.list(g.Nodes[0].Addr)
			counts = append(counts, len(first))
			for _, n := range g.Nodes[1:] {
				if other := s.list(n.Addr); !maps.Equal(first, other) {
					same = false
					diff = fmt.Sprintf("%s has %d blocks, %s has %d; only the first has %v, only the second %v",
						g.Nodes[0].Addr, len(first), n.Addr, len(other), without(first, other), without(other, first))
				}
			}
		}
		if same {
			return counts
		}
		if time.Now().After(end) {
			c.t.Fatalf("after %v the members' blocks differ, or are still to be deleted: %s; %+v", limit, diff, st.Volumes)
		}
	}
}

// without names up to ten blocks that a has and b has not.
func without(a, b map[tnv.BlockKey]protocol.ListedBlock) (out []protocol.ListedBlock) {
	for k, v := range a {
		if o, ok := b[k]; (!ok || o != v) && len(out) < 10 {
			out = append(out, v)
		}
	}
	return out
}

// ask has a store look at a block of its own.
func (s *stores) ask(addr string, key tnv.BlockKey, home tnv.Home) {
	s.t.Helper()
	s.call(addr, protocol.TypeRepair, nil, &protocol.Repair{Key: key, Home: home})
}

// nodeOf is a storage daemon in the status, by the name of its process.
func (c *Cluster) nodeOf(name string) Node {
	c.t.Helper()
	st := c.Status()
	for _, p := range st.Processes {
		for _, g := range st.Groups {
			for _, n := range g.Nodes {
				if p.Name == name && p.Addr == n.Addr {
					return n
				}
			}
		}
	}
	c.t.Fatalf("%s is not in the status: %+v", name, st)
	return Node{}
}
