package client

import (
	"context"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// unsyncedAt tells how many blocks a store has not on disk.
func unsyncedAt(s *fakeStore) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.blocks {
		if !b.synced {
			n++
		}
	}
	return n
}

// fsync of a clone makes the blocks durable that it names, whoever wrote them,
// also if their own file is not there any more.
func TestSyncOfClone(t *testing.T) {
	for _, sync := range []string{"fsync", "syncfs"} {
		for _, own := range []bool{true, false} {
			f := newFake(t, 1, 2)
			c := f.connect(f.config())
			writer := c
			if !own {
				writer = f.connect(f.config())
			}
			w, to := create(t, writer, "x"), create(t, c, "y")
			_, err := w.WriteAt(ctx, randomBytes(3, 3<<20), 0)
			must(t, err)
			must(t, w.Flush(ctx))
			from, _, err := c.OpenFile(ctx, w.Ino(), 0)
			must(t, err)
			n, err := from.CopyRange(ctx, to, 0, 0, 1<<30)
			if err != nil || n != 3<<20 {
				t.Fatalf("%d bytes, %v", n, err)
			}
			must(t, from.Close())
			_, err = writer.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: w.Ino(), Mask: protocol.SetSize})
			must(t, err)
			if unsyncedAt(f.stores[0]) == 0 {
				t.Fatal("all is synced already: the test shows nothing")
			}
			if sync == "fsync" {
				must(t, to.Sync(ctx, true))
			} else {
				must(t, c.SyncFS(ctx))
			}
			for i, s := range f.stores {
				if k := unsyncedAt(s); k != 0 {
					t.Errorf("%s, own %v: %d blocks are not on disk of store %d", sync, own, k, i)
				}
			}
			syncs := f.stores[0].syncs
			must(t, to.Sync(ctx, false))
			if own && f.stores[0].syncs != syncs {
				t.Error("what is on disk is synced again")
			}
		}
	}
}

// A store that lost blocks of a clone is found by fsync, though the file for
// which they were written does not name them any more (D5).
func TestSyncOfCloneLost(t *testing.T) {
	f := newFake(t, 1, 2)
	cfg := f.config()
	cfg.Timeout = 2 * time.Second
	c := f.connect(cfg)
	h, to := create(t, c, "x"), create(t, c, "y")
	_, err := h.WriteAt(ctx, []byte("lost"), 0)
	must(t, err)
	_, err = h.CopyRange(ctx, to, 0, 0, 4)
	must(t, err)
	_, err = c.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: h.Ino(), Mask: protocol.SetSize})
	must(t, err)
	f.stores[0].restart(true)
	if err := to.Sync(ctx, false); tnv.KindOf(err) != tnv.KindTooFewHolders {
		t.Errorf("fsync of the clone: %v", err)
	}
	_, err = c.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: to.Ino(), Mask: protocol.SetSize})
	must(t, err)
	must(t, to.Sync(ctx, false)) // nobody needs them any more
	must(t, h.Sync(ctx, false))
}

// What sticks to a handle is told by every operation on its content, and the
// owner is not asked to do it (D12).
func TestContentAfterFailure(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.connect(f.config())
	h, other := create(t, c, "x"), create(t, c, "y")
	_, err := h.WriteAt(ctx, []byte("lost"), 0)
	must(t, err)
	h.in.fail(tnv.E("write", tnv.KindNoSpace, "on purpose"))
	if err := h.Fallocate(ctx, protocol.FallocPunchHole|protocol.FallocKeepSize, 0, 1); tnv.KindOf(err) != tnv.KindNoSpace {
		t.Errorf("punch: %v", err)
	}
	if _, err := other.CopyRange(ctx, h, 0, 0, 1); tnv.KindOf(err) != tnv.KindNoSpace {
		t.Errorf("copy: %v", err)
	}
	asked := f.track.counts(&f.track.asked)
	if asked[protocol.TypeFallocate]+asked[protocol.TypeCopyRange] != 0 {
		t.Error("the owner was asked")
	}
	h.Close()
}

// A copy whose caller is interrupted may be executed all the same: fsync of the
// target reckons with it.
func TestSyncOfInterruptedCopy(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.connect(f.config())
	h, to := create(t, c, "x"), create(t, c, "y")
	_, err := to.WriteAt(ctx, []byte("before"), 0)
	must(t, err)
	must(t, to.Sync(ctx, false))
	_, err = h.WriteAt(ctx, randomBytes(4, 1<<20), 0)
	must(t, err)
	executed := make(chan bool, 1)
	ictx, interrupt := context.WithCancel(ctx)
	f.track.mu.Lock()
	f.track.after = func(typ protocol.Type) bool {
		if typ == protocol.TypeCopyRange {
			interrupt()
			time.Sleep(50 * time.Millisecond) // the answer comes when nobody waits for it
			executed <- true
		}
		return false
	}
	f.track.mu.Unlock()
	if _, err := h.CopyRange(ictx, to, 0, 0, 1<<20); tnv.KindOf(err) != tnv.KindCanceled {
		t.Fatalf("an interrupted copy: %v", err)
	}
	<-executed
	must(t, to.Sync(ctx, false))
	for i, s := range f.stores {
		if k := unsyncedAt(s); k != 0 {
			t.Errorf("%d blocks are not on disk of store %d", k, i)
		}
	}
}
