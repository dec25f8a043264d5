package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
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
func (s *stores) list(addr string) blocks {
	s.t.Helper()
	out := blocks{}
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
// nothing waits for deletion. Blocks that the metadata certainly does not name —
// of writes that a kill kept from being committed — do not count. It returns how
// many blocks of each group count, and how many do not, on all members together.
func (c *Cluster) waitSame(limit time.Duration) (counts []int, orphans int) {
	c.t.Helper()
	s := c.stores()
	defer s.pool.Close()
	for end := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		st := c.Status()
		same := len(st.Groups) > 0 && st.Volumes[0].PendingDeletions == 0
		counts, orphans = nil, 0
		var diff string
		for _, g := range st.Groups {
			var first blocks
			for i, n := range g.Nodes {
				all := s.list(n.Addr)
				// What the tracker keeps of its metadata comes and goes by itself, and no volume names it.
				maps.DeleteFunc(all, func(k tnv.BlockKey, _ protocol.ListedBlock) bool { return k.Vol == tnv.CopyVolume })
				live, dead := c.split(all)
				orphans += dead
				if i == 0 {
					first = live
					counts = append(counts, len(live))
				} else if !maps.Equal(first, live) {
					same = false
					diff = fmt.Sprintf("%s has %d blocks, %s has %d; only the first has %v, only the second %v",
						g.Nodes[0].Addr, len(first), n.Addr, len(live), without(first, live), without(live, first))
				}
			}
		}
		if same {
			return counts, orphans
		}
		if time.Now().After(end) {
			c.t.Fatalf("after %v the members' blocks differ, or are still to be deleted: %s; %+v", limit, diff, st.Volumes)
		}
	}
}

type blocks = map[tnv.BlockKey]protocol.ListedBlock

// split asks the owner which blocks are certainly dead, and leaves them out.
func (c *Cluster) split(all blocks) (live blocks, dead int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	tr, err := protocol.DialClient(ctx, &protocol.Endpoint{Key: c.Key(), Role: protocol.RoleTool}, c.Trackers()[0], nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer tr.Close()
	live = blocks{}
	for part := range slices.Chunk(slices.Collect(maps.Keys(all)), 1000) {
		req := protocol.Alive{Vol: part[0].Vol}
		for _, k := range part {
			if k.Vol != req.Vol {
				c.t.Fatalf("blocks of two volumes: %v, %v", part[0], k)
			}
			req.Blocks = append(req.Blocks, protocol.BlockHome{Block: k.ID, Home: all[k].Home})
		}
		var rep protocol.AliveReply
		if err := tr.Call(ctx, protocol.TypeAlive, &rep, &req); err != nil || len(rep.State) != len(part) {
			c.t.Fatalf("which blocks live: %d of %d answers, %v", len(rep.State), len(part), err)
		}
		for i, k := range part {
			if rep.State[i] == protocol.DeadBlock {
				dead++
			} else {
				live[k] = all[k]
			}
		}
	}
	return live, dead
}

// without names up to ten blocks that a has and b has not.
func without(a, b blocks) (out []protocol.ListedBlock) {
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
