package meta

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

// thousand is the size of a group of which a few orphans are less than 1%.
func thousand(tnv.GroupID) uint64 { return 1000 }

// orphaned gives blocks that a store holds and nothing will ever name: granted to
// a session that has ended.
func (h *harness) orphaned(home tnv.Ino, n int) (l []protocol.ListedBlock) {
	h.t.Helper()
	other := *h
	other.newSession()
	for range n {
		l = append(l, protocol.ListedBlock{Block: other.block(), Home: tnv.Home{Ino: home}, Len: 4096})
	}
	h.must(h.v.EndSession(context.Background(), other.session))
	return l
}

func (h *harness) quarantine(l []protocol.ListedBlock) int {
	h.t.Helper()
	n, err := h.v.Quarantine(context.Background(), 1, l)
	h.must(err)
	return n
}

func (h *harness) collect(quarantine time.Duration, size func(tnv.GroupID) uint64) protocol.Collection {
	h.t.Helper()
	st, err := h.v.CollectOrphans(context.Background(), quarantine, size)
	h.must(err)
	return st
}

func (h *harness) toDelete() []tnv.BlockID {
	h.t.Helper()
	ids, err := h.v.Deletions(context.Background(), 11, 0, 0)
	h.must(err)
	return ids
}

// D7: an orphan waits for the end of its quarantine, the next owner included, and
// goes then; blocks that are named, or may be, never get there.
func TestOrphans(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	named, err := h.write(f, 0, 4096)
	h.must(err)
	mine := h.block() // granted, and may be committed
	dead := h.orphaned(f, 3)
	all := append(slices.Clone(dead), protocol.ListedBlock{Block: named, Home: tnv.Home{Ino: f}}, protocol.ListedBlock{Block: mine, Home: tnv.Home{Ino: f}},
		protocol.ListedBlock{Block: h.v.HighWater() + 5, Home: tnv.Home{Ino: f}})
	if n := h.quarantine(all); n != 3 {
		t.Fatalf("%d blocks are in quarantine, want 3", n)
	}
	if n := h.quarantine(all); n != 0 {
		t.Fatalf("%d blocks begin their quarantine again", n)
	}
	if st := h.collect(time.Hour, thousand); st.Quarantined != 3 || st.QuarantinedBytes != 3*4096 || st.Due != 0 || st.Collected != 0 {
		t.Fatalf("in quarantine: %+v", st)
	}
	h.reopen()
	if st := h.collect(0, thousand); st.Due != 3 || st.Collected != 3 || len(st.Asks) != 0 {
		t.Fatalf("after the quarantine: %+v", st)
	}
	want := []tnv.BlockID{dead[0].Block, dead[1].Block, dead[2].Block}
	if ids := h.toDelete(); !slices.Equal(ids, want) {
		t.Fatalf("to be deleted: %v, want %v", ids, want)
	}
	if st := h.collect(0, thousand); st.Quarantined != 0 {
		t.Fatalf("afterwards: %+v", st)
	}
}

// D7: deleting looks again. A record of a block that lives, whatever made it, goes
// without the block.
func TestOrphanIsLookedAtAgain(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	ctx := context.Background()
	f := h.create(tnv.RootIno, "f")
	named, err := h.write(f, 0, 4096)
	h.must(err)
	mine := h.block()
	h.must(h.v.mutate(ctx, func(tx *Tx) error {
		for _, b := range []tnv.BlockID{named, mine} {
			tx.set(orphanKey(b), &orphan{Group: 1, Home: tnv.Home{Ino: f}, Since: 1})
		}
		return nil
	}))
	if st := h.collect(0, thousand); st.Due != 2 || st.Collected != 0 {
		t.Fatalf("blocks that live: %+v", st)
	}
	if ids := h.toDelete(); len(ids) != 0 {
		t.Fatalf("blocks that live are to be deleted: %v", ids)
	}
}

// D7: deleting is fenced: an owner that was passed over deletes nothing.
func TestOrphansAreFenced(t *testing.T) {
	engine := mem.New(mem.Options{})
	h := start(t, engine, Config{})
	ctx := context.Background()
	f := h.create(tnv.RootIno, "f")
	h.quarantine(h.orphaned(f, 1))
	old := h.v
	seen, err := engine.Lease(ctx, testVol)
	h.must(err)
	lease, err := engine.Acquire(ctx, seen, "next", time.Second)
	h.must(err)
	_, err = old.CollectOrphans(ctx, 0, thousand)
	kindIs(t, err, tnv.KindFenced)
	old.Close()
	h.v, err = OpenVolume(ctx, kv.Engine(engine), lease, "media", h.cfg)
	h.must(err)
	if ids := h.toDelete(); len(ids) != 0 {
		t.Fatalf("an owner that was passed over has blocks deleted: %v", ids)
	}
}

// D7: more than 1% of a group, ids that were never given out, and metadata from a
// copy stop the collection until the operator has spoken; what comes behind his
// word needs another.
func TestCollectionAsks(t *testing.T) {
	ctx := context.Background()
	f := tnv.Ino(99)
	for what, hold := range map[string]func(h *harness) func(tnv.GroupID) uint64{
		"more than 1%": func(*harness) func(tnv.GroupID) uint64 { return func(tnv.GroupID) uint64 { return 299 } },
		"restored":     func(h *harness) func(tnv.GroupID) uint64 { h.must(h.v.MarkRestored(ctx)); return thousand },
		"restored, by a record": func(h *harness) func(tnv.GroupID) uint64 {
			key, value := RestoredMark()
			h.v.Close()
			seen, err := h.engine.Lease(ctx, testVol)
			h.must(err)
			seq, err := h.engine.Seq(ctx, testVol)
			h.must(err)
			h.must(h.engine.Apply(ctx, kv.Fence{Vol: testVol, Epoch: seen.Epoch}, []kv.Batch{{Seq: seq + 1, Writes: []kv.Write{{Key: key, Value: value}}}}))
			h.v = nil
			h.reopen()
			return thousand
		},
		"ids above the mark": func(h *harness) func(tnv.GroupID) uint64 {
			h.must(h.v.NoteAhead(ctx, h.v.HighWater()-1)) // given out, or will be
			if st, err := h.v.Collection(ctx, 0, thousand); err != nil || len(st.Asks) != 0 {
				t.Fatalf("an id below the mark: %+v, %v", st, err)
			}
			h.must(h.v.NoteAhead(ctx, h.v.HighWater()+7))
			return thousand
		},
	} {
		t.Run(what, func(t *testing.T) {
			h := start(t, mem.New(mem.Options{}), Config{})
			h.quarantine(h.orphaned(f, 3))
			size := hold(h)
			ahead := h.v.HighWater() + 7
			if st := h.collect(0, size); st.Collected != 0 || len(st.Asks) != 1 || len(h.toDelete()) != 0 {
				t.Fatalf("without the operator's word: %+v", st)
			}
			h.must(h.v.ApproveCollection(ctx))
			if st := h.collect(0, size); st.Collected != 3 || len(st.Asks) != 0 {
				t.Fatalf("with it: %+v", st)
			}
			h.newSession() // the one before may be gone with a restart
			if b := h.block(); what == "ids above the mark" && b <= ahead {
				t.Fatalf("id %d is given out, and a store may hold it", b)
			}
			if what == "more than 1%" {
				h.quarantine(h.orphaned(f, 3))
				if st := h.collect(0, size); st.Collected != 0 || len(st.Asks) != 1 {
					t.Fatalf("orphans behind the operator's word: %+v", st)
				}
			}
		})
	}
}

// What a session gives back is deleted, and never committed; what it has
// committed, or another has, is left alone (D3).
func TestGiveBack(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	named, err := h.write(f, 0, 4096)
	h.must(err)
	spare := h.block()
	other := *h
	other.newSession()
	theirs := other.block()
	_, err = do[struct{}](h, protocol.TypeGiveBack, &protocol.GiveBack{Blocks: []protocol.GroupBlock{{Block: named, Group: 1}, {Block: spare, Group: 1}, {Block: theirs, Group: 1}, {Block: 1 << 40, Group: 1}}})
	h.must(err)
	if ids := h.toDelete(); !slices.Equal(ids, []tnv.BlockID{spare}) {
		t.Fatalf("to be deleted: %v, want %v", ids, spare)
	}
	_, err = do[protocol.AttrReply](h, protocol.TypeCommit, h.commitOf(f, 4096, 4096, spare))
	kindIs(t, err, tnv.KindConflict)
	_, err = do[protocol.AttrReply](&other, protocol.TypeCommit, other.commitOf(f, 4096, 4096, theirs))
	h.must(err)
}

// A census has what is named at one moment, whatever is not applied yet, and its
// parts make up the whole.
func TestCensus(t *testing.T) {
	engine := mem.New(mem.Options{})
	h := start(t, engine, Config{})
	ctx := context.Background()
	f, g := h.create(tnv.RootIno, "f"), h.create(tnv.RootIno, "g")
	want := map[tnv.BlockID]Named{}
	for i := range uint64(60) { // more than foldAt: deltas
		b, err := h.write(f, i*8192, 4096)
		h.must(err)
		want[b] = Named{1, 4096, tnv.Home{Ino: f}, false}
	}
	gone, err := h.write(g, 0, 4096)
	h.must(err)
	b, err := h.write(g, 0, 4096)
	h.must(err)
	want[b] = Named{1, 4096, tnv.Home{Ino: g}, false}
	got := map[tnv.BlockID]Named{}
	for n := range uint32(4) {
		part, err := h.v.Census(ctx, Part{n, 4})
		h.must(err)
		if len(part) == 0 || len(part) > 40 {
			t.Errorf("part %d of 4 has %d of 61", n, len(part))
		}
		for b, x := range part {
			got[b] = x
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d blocks, want %d", len(got), len(want))
	}
	for b, x := range want {
		if got[b] != x {
			t.Errorf("block %d: %+v, want %+v", b, got[b], x)
		}
	}
	if _, there := got[gone]; there {
		t.Error("a block that was replaced is named")
	}
}
