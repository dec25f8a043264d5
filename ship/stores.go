package ship

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// copies is in how many groups each piece is kept, where there are so many.
const copies = 2

// Stores is the storage groups of a map, as Groups and as Source.
type Stores struct {
	Pool *protocol.Pool
	Map  func() *tnv.Map
	// Leaves tells whether a group is being emptied: it gets no pieces while another takes
	// them. Nil: none is.
	Leaves func(tnv.GroupID) bool
}

// Put implements Groups: a piece counts as stored when one group has it; as many
// as copies are tried.
func (s *Stores) Put(ctx context.Context, id tnv.BlockID, home tnv.Home, data []byte) error {
	key := tnv.BlockKey{Vol: tnv.CopyVolume, ID: id}
	unit := protocol.UnitFor(len(data))
	block := protocol.BlockMeta{Key: key, Home: home, Len: uint32(len(data)), Unit: unit, Sums: protocol.BlockSums(key, unit, data)}
	if err := block.Check(); err != nil {
		return err
	}
	last := tnv.E("ship metadata", tnv.KindUnavailable, "no storage daemon takes blocks")
	stored := 0
	for _, members := range s.takers() {
		if err := s.putIn(ctx, members, &block, data); err != nil {
			last = err
			continue
		}
		if stored++; stored == copies {
			break
		}
	}
	if stored > 0 {
		return nil
	}
	return last
}

// takers are the members that take blocks, by group: groups with most of them first.
// One that is full takes pieces all the same, for a while: see blockstore.
func (s *Stores) takers() (groups [][]tnv.Node) {
	for _, g := range s.Map().Groups {
		var l []tnv.Node
		for _, n := range g.Nodes {
			if n.State == tnv.NodeAlive || n.State == tnv.NodeFull {
				l = append(l, n)
			}
		}
		if len(l) > 0 {
			groups = append(groups, l)
		}
	}
	leaves := func(l []tnv.Node) bool { return s.Leaves != nil && s.Leaves(l[0].Group) }
	if slices.ContainsFunc(groups, func(l []tnv.Node) bool { return !leaves(l) }) {
		groups = slices.DeleteFunc(groups, leaves)
	}
	slices.SortStableFunc(groups, func(a, b []tnv.Node) int { return len(b) - len(a) })
	return groups
}

// putIn puts a block to a group: to one member with the others as a chain, and again
// to those that the chain left out.
func (s *Stores) putIn(ctx context.Context, members []tnv.Node, block *protocol.BlockMeta, data []byte) error {
	var last error
	for i, first := range members {
		var chain []protocol.ChainLink
		for j, n := range members {
			if j != i {
				chain = append(chain, protocol.ChainLink{Node: n.ID, Addr: n.Addr})
			}
		}
		holders, err := s.putTo(ctx, first, block, chain, data)
		if err != nil {
			if last = err; ctx.Err() != nil || tnv.KindOf(err) == tnv.KindConflict {
				return err
			}
			continue
		}
		for _, n := range members {
			if !slices.ContainsFunc(holders, func(h tnv.Holder) bool { return h.Node == n.ID }) {
				_, _ = s.putTo(ctx, n, block, nil, data) // it is filled by the others later, if not now
			}
		}
		return nil
	}
	return last
}

func (s *Stores) putTo(ctx context.Context, n tnv.Node, block *protocol.BlockMeta, chain []protocol.ChainLink, data []byte) ([]tnv.Holder, error) {
	req := protocol.Put{Block: *block, Sync: true, Chain: chain}
	var rep protocol.PutReply
	err := s.Pool.Do(ctx, n.Addr, func(w *protocol.Wire) (bool, error) {
		if err := w.WriteFrame(protocol.TypePut, 0, 0, []any{&req}, data); err != nil {
			return false, err
		}
		f, err := w.ReadFrame()
		if err != nil {
			return false, err
		}
		return true, f.Decode(&rep)
	})
	if err == nil && len(rep.Holders) == 0 {
		err = tnv.E("ship metadata to "+n.Addr, tnv.KindProtocol, "the storage daemon names no holder")
	}
	return rep.Holders, err
}

// List implements Groups and Source. All stores are asked at once.
func (s *Stores) List(ctx context.Context, fn func(Stored)) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []error
	for _, g := range s.Map().Groups {
		for _, n := range g.Nodes {
			if n.State == tnv.NodeLost {
				all = append(all, tnv.E("list pieces", tnv.KindUnavailable, "store %v is lost", n.ID))
				continue
			}
			wg.Go(func() {
				err := s.listAt(ctx, n, func(p Stored) {
					mu.Lock()
					defer mu.Unlock()
					fn(p)
				})
				mu.Lock()
				defer mu.Unlock()
				all = append(all, err)
			})
		}
	}
	wg.Wait()
	return errors.Join(all...)
}

func (s *Stores) listAt(ctx context.Context, n tnv.Node, fn func(Stored)) error {
	rq := protocol.List{Vol: tnv.CopyVolume, From: 1, Limit: protocol.MaxBatch}
	for {
		call, cancel := context.WithTimeout(ctx, putTimeout)
		var rep protocol.ListReply
		err := s.Pool.Call(call, n.Addr, protocol.TypeList, &rep, &rq)
		cancel()
		if err != nil {
			return err
		}
		for _, b := range rep.Blocks {
			fn(Stored{Node: n.ID, ID: b.Block, Home: b.Home})
			rq.From = b.Block + 1
		}
		if !rep.More || len(rep.Blocks) == 0 {
			return nil
		}
	}
}

// Delete implements Groups.
func (s *Stores) Delete(ctx context.Context, node tnv.NodeID, ids []tnv.BlockID) error {
	n := s.Map().Node(node)
	if n == nil {
		return tnv.E("delete pieces", tnv.KindNotExist, "store %v", node)
	}
	call, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	return s.Pool.Call(call, n.Addr, protocol.TypeDelete, nil, &protocol.Delete{Node: node, Vol: tnv.CopyVolume, Blocks: ids})
}

// Get implements Source: from whichever of the stores has it whole.
func (s *Stores) Get(ctx context.Context, p Stored) ([]byte, error) {
	key := tnv.BlockKey{Vol: tnv.CopyVolume, ID: p.ID}
	nodes := []tnv.Node{}
	for _, g := range s.Map().Groups {
		for _, n := range g.Nodes {
			if n.ID == p.Node {
				nodes = slices.Insert(nodes, 0, n)
			} else {
				nodes = append(nodes, n)
			}
		}
	}
	last := tnv.E("read piece", tnv.KindMissing, "%v", key)
	for _, n := range nodes {
		call, cancel := context.WithTimeout(ctx, putTimeout)
		b, err := s.getFrom(call, n, key)
		cancel()
		if err == nil {
			return b, nil
		}
		if tnv.KindOf(err) != tnv.KindMissing {
			last = err
		}
	}
	return nil, last
}

func (s *Stores) getFrom(ctx context.Context, n tnv.Node, key tnv.BlockKey) (data []byte, err error) {
	err = s.Pool.Do(ctx, n.Addr, func(w *protocol.Wire) (bool, error) {
		if err := w.WriteFrame(protocol.TypeGet, 0, 0, []any{&protocol.Get{Key: key, Meta: true}}); err != nil {
			return false, err
		}
		f, err := w.ReadFrame()
		if err != nil {
			return false, err
		}
		var rep protocol.GetReply
		if err := f.Decode(&rep); err != nil {
			return f.Flags&protocol.FlagError != 0, err
		}
		m := &rep.Block
		if m.Check() != nil || m.Key != key || rep.Off != 0 || f.Payload != m.Len {
			return false, tnv.E("read piece", tnv.KindProtocol, "the answer of %s is not what was asked for", n.Addr)
		}
		data = make([]byte, m.Len)
		if err := w.ReadPayload(data); err != nil {
			return false, err
		}
		if protocol.Verify(key, m.Unit, 0, data, m.Sums) >= 0 {
			return true, tnv.E("read piece", tnv.KindCorrupt, "%v at %s does not match its checksums", key, n.Addr)
		}
		return true, nil
	})
	return data, err
}
