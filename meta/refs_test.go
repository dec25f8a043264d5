package meta

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// checkRefs verifies the invariants of refs.go over all chunks and R records,
// and that of the blocks that the harness has written those live that are named,
// and the rest is to be deleted by every member.
func (h *harness) checkRefs(chunks map[string]*chunk, refs map[tnv.BlockID]uint64) {
	h.t.Helper()
	count := map[tnv.BlockID]uint64{}
	for key, c := range chunks {
		ino, index := split2(key)
		here := tnv.Home{Ino: tnv.Ino(ino), Chunk: index}
		for _, e := range c.extents {
			count[e.Block]++
			_, counted := refs[e.Block]
			if shared := e.Flags&tnv.ExtentShared != 0; shared != counted {
				h.t.Errorf("block %d in %v: shared is %v, it has references: %v", e.Block, here, shared, counted)
			}
			if home, known := h.homes[e.Block]; known && !counted && home != here {
				h.t.Errorf("block %d of %v is named by %v and has no references", e.Block, home, here)
			}
		}
	}
	for b, n := range refs {
		if n != count[b] {
			h.t.Errorf("block %d has %d references, %d extents name it", b, n, count[b])
		}
	}
	ctx := context.Background()
	for _, n := range h.cluster.m.Groups[0].Nodes {
		ids, err := h.v.Deletions(ctx, n.ID, 0, 0)
		h.must(err)
		freed := map[tnv.BlockID]bool{}
		for _, b := range ids {
			freed[b] = true
		}
		for b := range h.homes {
			if freed[b] != (count[b] == 0) {
				h.t.Errorf("block %d is named by %d extents, to be deleted at %v: %v", b, count[b], n.ID, freed[b])
			}
		}
	}
	var ask []protocol.BlockHome
	for b, home := range h.homes {
		ask = append(ask, protocol.BlockHome{Block: b, Home: home})
	}
	for ; len(ask) > 0; ask = ask[min(len(ask), protocol.MaxBatch):] {
		part := ask[:min(len(ask), protocol.MaxBatch)]
		states, err := h.v.Alive(ctx, part)
		h.must(err)
		for i, s := range states {
			if b := part[i].Block; count[b] == 0 && s != protocol.DeadBlock {
				h.t.Errorf("block %d is named by nothing and has state %d", b, s)
			} else if refs[b] > 0 && s != protocol.LiveBlock {
				h.t.Errorf("block %d with %d references has state %d", b, refs[b], s)
			}
		}
	}
}
