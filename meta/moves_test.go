package meta

import (
	"context"
	"slices"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

// secondGroup adds a group 2 of two members to the cluster.
func (h *harness) secondGroup() {
	m := *h.cluster.m
	m.Groups = append(slices.Clone(m.Groups), tnv.Group{ID: 2, Name: "g2", Nodes: []tnv.Node{
		{ID: 21, Group: 2, Boot: 1, State: tnv.NodeAlive}, {ID: 22, Group: 2, Boot: 1, State: tnv.NodeAlive}}})
	h.cluster.m = &m
}

// made gives moves new blocks in group 2, as stores would that have made them.
func (h *harness) made(moves []Move) []Move {
	h.t.Helper()
	id, _, err := h.v.MoverIDs(context.Background())
	h.must(err)
	for i := range moves {
		if moves[i].Block == 0 {
			moves[i].Block, moves[i].Group = id, 2
			moves[i].Holders = []tnv.Holder{{Node: 21, Boot: 1}, {Node: 22, Boot: 1}}
			id++
		}
	}
	return moves
}

func (h *harness) plan(home tnv.Home, from tnv.GroupID) []Move {
	h.t.Helper()
	moves, err := h.v.PlanMoves(context.Background(), home, from)
	h.must(err)
	return moves
}

func (h *harness) replace(home tnv.Home, moves []Move) int {
	h.t.Helper()
	n, err := h.v.Replace(context.Background(), home, moves)
	h.must(err)
	return n
}

func (h *harness) extentsAt(home tnv.Home) []tnv.Extent {
	h.t.Helper()
	rep, err := do[protocol.ExtentsReply](h, protocol.TypeExtents, &protocol.Extents{Ino: home.Ino, First: home.Chunk, Count: 1})
	h.must(err)
	return rep.Chunks[0]
}

// A group is emptied: what is shared stays shared, neighbours become one block,
// every old block is deleted by the batch that takes its last extent.
func TestMovesOutOfGroup(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	h.secondGroup()
	f, c := h.create(tnv.RootIno, "f"), h.create(tnv.RootIno, "c")
	var old []tnv.BlockID
	for i := range uint64(6) {
		b, err := h.write(f, i*4096, 4096)
		h.must(err)
		old = append(old, b)
	}
	far, err := h.write(f, 1<<20, 2<<20)
	h.must(err)
	_, err = do[protocol.CopyRangeReply](h, protocol.TypeCopyRange, &protocol.CopyRange{From: f, To: c, Len: 8192})
	h.must(err)
	before := h.attr(f)
	for range 9 { // pass after pass, until none is left
		homes, err := h.v.ChunksOf(context.Background(), 1, tnv.Home{}, 1)
		h.must(err)
		if len(homes) == 0 {
			break
		}
		moves := h.plan(homes[0], 1)
		if n := h.replace(homes[0], h.made(moves)); n != len(moves) {
			t.Fatalf("%d of %d moves of %v were done", n, len(moves), homes[0])
		}
	}
	fe, ce := h.extentsAt(tnv.Home{Ino: f}), h.extentsAt(tnv.Home{Ino: c})
	if len(fe) != 4 || len(ce) != 2 { // two shared, the next four as one, and the last
		t.Fatalf("extents: %+v; of the clone: %+v", fe, ce)
	}
	if fe[0].Block != ce[0].Block || fe[1].Block != ce[1].Block || fe[0].Flags&tnv.ExtentShared == 0 {
		t.Fatalf("what was shared is not any more: %+v, %+v", fe, ce)
	}
	if e := fe[2]; e.Off != 8192 || e.Len != 16384 || e.BlockLen != fe[3].BlockLen {
		t.Fatalf("neighbours: %+v", fe)
	}
	if fe[2].Block != fe[3].Block || fe[3].BlockOff != 16384 {
		t.Fatalf("what fits goes to one block: %+v", fe)
	}
	if now := h.attr(f); now.Data != before.Data || now.Mtime != before.Mtime || now.Blocks != before.Blocks {
		t.Fatalf("the content counts as changed: %+v, before %+v", now, before)
	}
	want := slices.Sorted(slices.Values(append(old, far)))
	if ids := h.toDelete(); !slices.Equal(ids, want) {
		t.Fatalf("to be deleted: %v, want %v", ids, want)
	}
	if found := h.fsck(1); len(found) != 0 {
		t.Fatalf("damage: %+v", found)
	}
	h.must(h.v.ForgetMoves(context.Background()))
	h.must(h.v.ForgetNode(context.Background(), 11))
	h.must(h.v.ForgetNode(context.Background(), 12))
	if st, err := h.v.Status(context.Background()); err != nil || st.PendingDeletions != 0 {
		t.Fatalf("of stores that are gone: %+v, %v", st, err)
	}
}

// D10: new blocks take the place of the very extents that were read. What was
// written, cut or removed meanwhile stays as it is, and the new block goes.
func TestMoveOfWhatChanged(t *testing.T) {
	for what, change := range map[string]func(h *harness, f tnv.Ino){
		"written over": func(h *harness, f tnv.Ino) { _, err := h.write(f, 0, 4096); h.must(err) },
		"cut":          func(h *harness, f tnv.Ino) { h.truncate(f, 1000) },
		"removed":      func(h *harness, f tnv.Ino) { h.unlink("f"); h.released(f); h.idle() },
		"shared": func(h *harness, f tnv.Ino) {
			_, err := do[protocol.CopyRangeReply](h, protocol.TypeCopyRange, &protocol.CopyRange{From: f, To: h.create(tnv.RootIno, "c"), Len: 8192})
			h.must(err)
		},
	} {
		t.Run(what, func(t *testing.T) {
			h := start(t, mem.New(mem.Options{}), Config{})
			h.secondGroup()
			f := h.create(tnv.RootIno, "f")
			for i := range uint64(2) {
				_, err := h.write(f, i*4096, 4096)
				h.must(err)
			}
			home := tnv.Home{Ino: f}
			moves := h.made(h.plan(home, 1))
			change(h, f)
			var was []tnv.Extent
			if what != "removed" {
				was = h.extentsAt(home)
			}
			if n := h.replace(home, moves); n != 0 {
				t.Fatalf("%d moves were done", n)
			}
			if what != "removed" && !slices.Equal(h.extentsAt(home), was) {
				t.Fatal("extents have changed")
			}
			ids, err := h.v.Deletions(context.Background(), 21, 0, 0)
			h.must(err)
			if !slices.Equal(ids, []tnv.BlockID{moves[0].Block}) {
				t.Fatalf("of the new blocks are deleted: %v", ids)
			}
			if found := h.fsck(1); len(found) != 0 {
				t.Fatalf("damage: %+v", found)
			}
		})
	}
}

// D10: compaction makes large blocks of many small ones, and leaves blocks with
// references alone.
func TestCompactionOfChunk(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	h.secondGroup()
	f, c := h.create(tnv.RootIno, "f"), h.create(tnv.RootIno, "c")
	for i := range uint64(400) {
		_, err := h.write(f, i*4096, 4096)
		h.must(err)
	}
	_, err := do[protocol.CopyRangeReply](h, protocol.TypeCopyRange, &protocol.CopyRange{From: f, FromOff: 100 * 4096, To: c, Len: 8192})
	h.must(err)
	shared := h.extentsAt(tnv.Home{Ino: c})
	homes, err := h.v.ChunksOf(context.Background(), 0, tnv.Home{}, 10)
	h.must(err)
	if !slices.Equal(homes, []tnv.Home{{Ino: f}}) {
		t.Fatalf("chunks in many pieces: %v", homes)
	}
	moves := h.plan(homes[0], 0)
	if n := h.replace(homes[0], h.made(moves)); n != 2 {
		t.Fatalf("%d moves of %d, want 2", n, len(moves))
	}
	l := h.extentsAt(homes[0])
	if len(l) != 4 || l[1].Block != shared[0].Block || l[2].Block != shared[1].Block {
		t.Fatalf("after the compaction: %+v; shared %+v", l, shared)
	}
	if found := h.fsck(1); len(found) != 0 {
		t.Fatalf("damage: %+v", found)
	}
}

// A copy of a shared block is named again only while something names it; and a
// new owner takes back what was granted to the movers of the last.
func TestCopyOfSharedIsGone(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	h.secondGroup()
	f, c := h.create(tnv.RootIno, "f"), h.create(tnv.RootIno, "c")
	_, err := h.write(f, 0, 4096)
	h.must(err)
	_, err = do[protocol.CopyRangeReply](h, protocol.TypeCopyRange, &protocol.CopyRange{From: f, To: c, Len: 4096})
	h.must(err)
	first := h.made(h.plan(tnv.Home{Ino: f}, 1))
	h.replace(tnv.Home{Ino: f}, first)
	again := h.plan(tnv.Home{Ino: c}, 1)
	if len(again) != 1 || again[0].Block != first[0].Block {
		t.Fatalf("the clone's plan: %+v, the copy is %+v", again, first)
	}
	h.truncate(f, 0)
	h.idle()
	if n := h.replace(tnv.Home{Ino: c}, again); n != 0 {
		t.Fatal("a block that is being deleted is named again")
	}
	if again = h.plan(tnv.Home{Ino: c}, 1); again[0].Block != 0 {
		t.Fatalf("the clone's plan after the copy went: %+v", again)
	}
	id, _, err := h.v.MoverIDs(context.Background())
	h.must(err)
	ask := []protocol.BlockHome{{Block: id, Home: tnv.Home{Ino: c}}}
	if st, err := h.v.Alive(context.Background(), ask); err != nil || st[0] != protocol.LiveBlock {
		t.Fatalf("a block that is being moved: %v, %v", st, err)
	}
	h.reopen()
	if st, err := h.v.Alive(context.Background(), ask); err != nil || st[0] != protocol.DeadBlock {
		t.Fatalf("a block of a mover that is gone: %v, %v", st, err)
	}
}

// A mover's block needs as many holders as the volume's setting says now.
func TestMoverKeepsSetting(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{MinReplicas: 1})
	h.secondGroup()
	f := h.create(tnv.RootIno, "f")
	_, err := h.write(f, 0, 4096)
	h.must(err)
	set := *h.v.set.Load()
	set.MinReplicas = 2
	h.v.SetSettings(set)
	home := tnv.Home{Ino: f}
	moves := h.made(h.plan(home, 1))
	moves[0].Holders = moves[0].Holders[:1]
	if _, err := h.v.Replace(t.Context(), home, moves); tnv.KindOf(err) != tnv.KindTooFewHolders {
		t.Fatalf("a block that one of two members holds: %v", err)
	}
}
