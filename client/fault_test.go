package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// TestExactlyOnce cuts the connection before and after the execution of each
// kind of mutation, some times in a row, and refuses it as a tracker does that
// lost the volume.
func TestExactlyOnce(t *testing.T) {
	types := []protocol.Type{protocol.TypeCreate, protocol.TypeGrant, protocol.TypeCommit, protocol.TypeSetAttr, protocol.TypeUnlink}
	for _, where := range []string{"before", "after", "not owner"} {
		for _, typ := range types {
			t.Run(fmt.Sprintf("%s %s", where, opName(typ)), func(t *testing.T) {
				f := newFake(t, 1, 2)
				c := f.connect(f.config())
				var left atomic.Int32
				left.Store(3)
				cut := func(x protocol.Type) bool { return x == typ && left.Add(-1) >= 0 }
				f.track.mu.Lock()
				switch where {
				case "before":
					f.track.before = cut
				case "after":
					f.track.after = cut
				default:
					f.track.refuse = func(x protocol.Type) error {
						if cut(x) {
							return tnv.E("", tnv.KindNotOwner, "")
						}
						return nil
					}
				}
				f.track.mu.Unlock()
				h, _, err := c.CreateFile(ctx, tnv.Root, protocol.Create{Parent: tnv.RootIno, Name: "once", Excl: true}, os.O_RDWR)
				must(t, err)
				_, err = h.WriteAt(ctx, []byte("once"), 0)
				must(t, err)
				must(t, h.Flush(ctx))
				_, err = c.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: h.Ino(), Mask: protocol.SetSize, Size: 3})
				must(t, err)
				check(t, h, []byte("onc"))
				_, err = c.Unlink(ctx, tnv.Root, protocol.Unlink{Parent: tnv.RootIno, Name: "once"})
				must(t, err)
				must(t, h.Close())
				if left.Load() >= 0 {
					t.Fatalf("the fault did not happen: %d left", left.Load())
				}
				for _, x := range types {
					if n := f.track.counts(&f.track.executed)[x]; n != 1 {
						t.Errorf("%s executed %d times", opName(x), n)
					}
				}
			})
		}
	}
}

// TestIdleConnectionLost loses the connection while nothing is asked.
func TestIdleConnectionLost(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.connect(f.config())
	must(t, c.WriteFile(ctx, "a", []byte("a"), 0o644))
	before := c.Info().Session
	f.track.stop()
	f.track.start(f.track.addr)
	must(t, c.WriteFile(ctx, "b", []byte("b"), 0o644))
	if s := c.Info().Session; s != before {
		t.Errorf("session %d, was %d", s, before)
	}
}

func TestSecondTracker(t *testing.T) {
	f := newFake(t, 1, 2)
	cfg := f.config()
	cfg.Trackers = []string{"127.0.0.1:1", f.track.addr}
	c := f.connect(cfg)
	must(t, c.WriteFile(ctx, "a", []byte("a"), 0o644))
}

func TestSessionLost(t *testing.T) {
	f := newFake(t, 1, 2)
	f.track.keepAlive = 60000 // the loss is noticed by the write itself
	c := f.connect(f.config())
	must(t, c.WriteFile(ctx, "clean", []byte("clean"), 0o644))
	clean, _, err := c.OpenPathFlags(ctx, "clean", os.O_RDWR, 0)
	must(t, err)
	h := create(t, c, "dirty")
	_, err = h.WriteAt(ctx, []byte("gone"), 0)
	must(t, err)
	f.track.endSessions()
	if err := h.Flush(ctx); tnv.KindOf(err) != tnv.KindSessionEnded {
		t.Fatalf("flush: %v", err)
	}
	for range 2 {
		if err := h.Sync(ctx, false); tnv.KindOf(err) != tnv.KindSessionEnded {
			t.Fatalf("sync: %v", err)
		}
		if _, err := h.WriteAt(ctx, []byte("x"), 0); tnv.KindOf(err) != tnv.KindSessionEnded {
			t.Fatalf("write: %v", err)
		}
	}
	if err := h.Close(); tnv.KindOf(err) != tnv.KindSessionEnded {
		t.Fatalf("close: %v", err)
	}
	check(t, clean, []byte("clean")) // reads go on
	_, err = clean.WriteAt(ctx, []byte("C"), 0)
	must(t, err)
	must(t, clean.Close())
	h2, _, err := c.OpenPath(ctx, "dirty")
	must(t, err)
	check(t, h2, nil)
	must(t, h2.Close())
}

func TestMemberDiesWhileWriting(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.connect(f.config())
	h := create(t, c, "film")
	want := randomBytes(3, 24<<20)
	var longest time.Duration
	for off := 0; off < len(want); off += 1 << 20 {
		if off == 8<<20 {
			f.stores[1].kill()
			time.AfterFunc(700*time.Millisecond, func() { f.stores[1].seen(tnv.NodeLost) })
		}
		start := time.Now()
		_, err := h.WriteAt(ctx, want[off:off+1<<20], int64(off))
		must(t, err)
		longest = max(longest, time.Since(start))
	}
	must(t, h.Flush(ctx))
	check(t, h, want)
	must(t, h.Close())
	if longest > 2*time.Second {
		t.Errorf("a write took %v", longest)
	}
}

func TestOtherGroupWhenOneIsDown(t *testing.T) {
	f := newFake(t, 2, 2)
	c := f.connect(f.config())
	f.stores[0].kill()
	f.stores[1].kill()
	start := time.Now()
	want := randomBytes(4, 20<<20)
	must(t, c.WriteFile(ctx, "x", want, 0o644))
	h, _, err := c.OpenPath(ctx, "x")
	must(t, err)
	check(t, h, want)
	must(t, h.Close())
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestFullStoreSaysNoSpace(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.connect(f.config())
	for _, s := range f.stores {
		s.mu.Lock()
		s.refuse = func(typ protocol.Type) error {
			if typ == protocol.TypePut {
				return tnv.E("put", tnv.KindNoSpace, "")
			}
			return nil
		}
		s.mu.Unlock()
	}
	h := create(t, c, "x")
	_, err := h.WriteAt(ctx, []byte("x"), 0)
	must(t, err)
	for range 2 {
		if err := h.Flush(ctx); tnv.KindOf(err) != tnv.KindNoSpace {
			t.Fatalf("flush: %v", err)
		}
	}
	if _, err := h.WriteAt(ctx, []byte("y"), 0); tnv.KindOf(err) != tnv.KindNoSpace {
		t.Fatalf("write: %v", err)
	}
	if err := h.Close(); tnv.KindOf(err) != tnv.KindNoSpace {
		t.Fatalf("close: %v", err)
	}
	if n := len(f.track.commits); n != 0 {
		t.Errorf("%d commits", n)
	}
}

// TestTooFewHolders: the chain reaches one member only for a while, though the
// tracker thinks both alive; the owner refuses until the block is on both.
func TestTooFewHolders(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.connect(f.config())
	var refuse atomic.Bool
	refuse.Store(true)
	f.stores[1].mu.Lock()
	f.stores[1].refuse = func(typ protocol.Type) error {
		if refuse.Load() {
			return tnv.E("put", tnv.KindBusy, "")
		}
		return nil
	}
	f.stores[1].mu.Unlock()
	time.AfterFunc(400*time.Millisecond, func() { refuse.Store(false) })
	must(t, c.WriteFile(ctx, "x", []byte("both"), 0o644))
	if refuse.Load() {
		t.Fatal("acknowledged with one holder")
	}
	if len(f.stores[0].blocks) != 1 || len(f.stores[1].blocks) != 1 {
		t.Fatalf("%d and %d blocks", len(f.stores[0].blocks), len(f.stores[1].blocks))
	}
	// A member that restarts between put and commit counts again only once it has the block.
	h := create(t, c, "y")
	_, err := h.WriteAt(ctx, []byte("y"), 0)
	must(t, err)
	var once sync.Once
	f.track.mu.Lock()
	f.track.refuse = func(typ protocol.Type) error {
		if typ == protocol.TypeCommit {
			once.Do(func() { f.stores[0].restart(true) })
		}
		return nil
	}
	f.track.mu.Unlock()
	must(t, h.Flush(ctx))
	if len(f.stores[0].blocks) < 1 {
		t.Error("the block was not put again")
	}
}

func TestFrozenMemberCostsAFraction(t *testing.T) {
	f := newFake(t, 1, 2)
	w := f.connect(f.config())
	want := randomBytes(5, 16<<20)
	must(t, w.WriteFile(ctx, "film", want, 0o644))
	for _, frozen := range []int{0, 1} {
		c := f.connect(f.config())
		h, _, err := c.OpenPath(ctx, "film")
		must(t, err)
		f.stores[frozen].freeze()
		r := rand.New(rand.NewPCG(1, 1))
		var longest, total time.Duration
		for range 20 {
			off := r.IntN(len(want) - 100_000)
			b := make([]byte, 100_000)
			start := time.Now()
			_, err := h.ReadAt(ctx, b, int64(off))
			must(t, err)
			d := time.Since(start)
			longest, total = max(longest, d), total+d
			if !bytes.Equal(b, want[off:off+len(b)]) {
				t.Fatal("bytes differ")
			}
		}
		f.stores[frozen].thaw()
		if longest > time.Second || total > 3*time.Second {
			t.Errorf("store %d frozen: the longest read took %v, all %v", frozen, longest, total)
		}
		must(t, h.Close())
	}
}

func TestFrozenMemberWhileWriting(t *testing.T) {
	f := newFake(t, 1, 2)
	cfg := f.config()
	cfg.Timeout = 20 * time.Second
	c := f.connect(cfg)
	must(t, c.WriteFile(ctx, "a", randomBytes(1, 100), 0o644))
	f.stores[0].freeze()
	time.AfterFunc(1500*time.Millisecond, func() { f.stores[0].seen(tnv.NodeLost) })
	start := time.Now()
	must(t, c.WriteFile(ctx, "b", randomBytes(2, 9<<20), 0o644))
	if d := time.Since(start); d > 8*time.Second {
		t.Errorf("took %v", d)
	}
	f.stores[0].thaw()
}

func TestCorruptMember(t *testing.T) {
	f := newFake(t, 1, 2)
	w := f.connect(f.config())
	want := randomBytes(6, 5<<20)
	must(t, w.WriteFile(ctx, "x", want, 0o644))
	f.stores[0].mu.Lock()
	f.stores[0].corrupt = true
	f.stores[0].mu.Unlock()
	c := f.connect(f.config())
	h, _, err := c.OpenPath(ctx, "x")
	must(t, err)
	check(t, h, want)
	deadline := time.Now().Add(2 * time.Second)
	for {
		f.stores[0].mu.Lock()
		n, gets := len(f.stores[0].repairs), f.stores[0].gets
		f.stores[0].mu.Unlock()
		if n > 0 && gets > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d repairs reported after %d reads", n, gets)
		}
		time.Sleep(10 * time.Millisecond)
	}
	f.stores[1].mu.Lock()
	f.stores[1].corrupt = true
	if len(f.stores[1].repairs) > 0 {
		t.Error("the good member was reported")
	}
	f.stores[1].mu.Unlock()
	c2 := f.connect(f.config())
	h2, _, err := c2.OpenPath(ctx, "x")
	must(t, err)
	_, err = h2.ReadAt(ctx, make([]byte, 100), 0)
	if tnv.KindOf(err) != tnv.KindCorrupt || !strings.Contains(err.Error(), "inode 2") || !strings.Contains(err.Error(), "group 1") {
		t.Fatalf("both corrupt: %v", err)
	}
}

// TestBlocksReplacedWhileReading: by the cached extents every block is missing,
// but the owner has others by now.
func TestBlocksReplacedWhileReading(t *testing.T) {
	f := newFake(t, 1, 2)
	w := f.connect(f.config())
	must(t, w.WriteFile(ctx, "x", []byte("old bytes"), 0o644))
	c := f.connect(f.config())
	h, _, err := c.OpenPath(ctx, "x")
	must(t, err)
	if _, err := h.c.askOnce(h); err != nil { // the extents are known, the bytes are not
		t.Fatal(err)
	}
	must(t, w.WriteFile(ctx, "x", []byte("new bytes"), 0o644))
	for _, s := range f.stores {
		s.mu.Lock()
		for k, b := range s.blocks {
			if string(b.data) == "old bytes" {
				delete(s.blocks, k)
			}
		}
		s.mu.Unlock()
	}
	b := make([]byte, 9)
	if _, err := h.ReadAtVersion(ctx, b, 0); err != nil || string(b) != "new bytes" {
		t.Fatalf("%q, %v", b, err)
	}
}

func (c *Client) askOnce(h *Handle) (protocol.ExtentsReply, error) {
	return h.in.askExtents(ctx, 0, 1, 0)
}

func TestSyncOfRestartedStore(t *testing.T) {
	for _, lose := range []bool{true, false} {
		t.Run(fmt.Sprintf("lose=%v", lose), func(t *testing.T) { syncOfRestarted(t, lose) })
	}
}

func syncOfRestarted(t *testing.T, lose bool) {
	f := newFake(t, 1, 2)
	cfg := f.config()
	cfg.Memory = 256 << 20 // so that the blocks are not committed early
	c := f.connect(cfg)
	h := create(t, c, "x")
	want := randomBytes(7, 8<<20) // whole blocks: nothing else is put that would tell of the restart
	_, err := h.WriteAt(ctx, want, 0)
	must(t, err)
	deadline := time.Now().Add(3 * time.Second)
	for { // wait for the full blocks to be put, but not yet committed or synced
		f.stores[0].mu.Lock()
		n := len(f.stores[0].blocks)
		f.stores[0].mu.Unlock()
		if n >= 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the blocks were not put")
		}
		time.Sleep(time.Millisecond)
	}
	s := f.stores[0]
	s.mu.Lock()
	s.shown = s.boot // the tracker hears of the restart later: only the store itself can tell
	s.mu.Unlock()
	s.restart(lose)
	time.AfterFunc(500*time.Millisecond, func() {
		s.mu.Lock()
		s.shown = 0
		s.version++
		s.mu.Unlock()
	})
	f.track.mu.Lock()
	early := len(f.track.commits) > 0
	f.track.mu.Unlock()
	if early { // a second has passed: it is not this sync that commits them
		t.Log("the machine is slow: once more")
		syncOfRestarted(t, lose)
		return
	}
	must(t, h.Sync(ctx, false))
	for _, s := range f.stores {
		s.mu.Lock()
		for k, b := range s.blocks {
			if !b.synced {
				t.Errorf("store %v: block %v is not synced", s.id, k)
			}
		}
		if len(s.blocks) != 2 {
			t.Errorf("store %v has %d blocks, want 2", s.id, len(s.blocks))
		}
		s.mu.Unlock()
	}
	must(t, h.Close())
}

// TestSyncOfLostBlocks: a store lost blocks that were committed, and of which
// no copy is here: the sync fails unless the store mends itself in time.
func TestSyncOfLostBlocks(t *testing.T) {
	f := newFake(t, 1, 2)
	cfg := f.config()
	cfg.Timeout = 2 * time.Second
	c := f.connect(cfg)
	h := create(t, c, "x")
	write := func(b string) {
		_, err := h.WriteAt(ctx, []byte(b), 0)
		must(t, err)
		must(t, h.Flush(ctx))
		f.stores[0].restart(true)
	}
	write("lost")
	time.AfterFunc(300*time.Millisecond, func() {
		a, b := f.stores[0], f.stores[1]
		b.mu.Lock()
		defer b.mu.Unlock()
		a.mu.Lock()
		defer a.mu.Unlock()
		for k, v := range b.blocks {
			c := *v
			a.blocks[k] = &c
		}
	})
	must(t, h.Sync(ctx, false))
	if len(f.stores[0].repairs) == 0 {
		t.Error("the loss was not reported")
	}
	write("lost for good")
	if err := h.Sync(ctx, false); tnv.KindOf(err) != tnv.KindTooFewHolders {
		t.Fatalf("sync: %v", err)
	}
	must(t, h.Close())
}

// TestSyncOfReplacedBlocks: blocks that were overwritten since are deleted at
// the stores; a sync does not miss them.
func TestSyncOfReplacedBlocks(t *testing.T) {
	f := newFake(t, 1, 2)
	cfg := f.config()
	cfg.Timeout = 2 * time.Second
	c := f.connect(cfg)
	h := create(t, c, "x")
	for _, b := range []string{"old", "new"} {
		_, err := h.WriteAt(ctx, []byte(b), 0)
		must(t, err)
		must(t, h.Flush(ctx))
	}
	for _, s := range f.stores {
		s.mu.Lock()
		for k, b := range s.blocks {
			if string(b.data) == "old" {
				delete(s.blocks, k)
			}
		}
		s.mu.Unlock()
	}
	must(t, h.Sync(ctx, false))
	check(t, h, []byte("new"))
	must(t, h.Close())
}

func TestSyncCost(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.connect(f.config())
	h := create(t, c, "x")
	_, err := h.WriteAt(ctx, make([]byte, 1<<20), 0)
	must(t, err)
	must(t, h.Sync(ctx, false))
	before := f.track.counts(&f.track.asked)
	puts, syncs := f.stores[0].puts, f.stores[0].syncs+f.stores[1].syncs
	for i := range 10 {
		_, err := h.WriteAt(ctx, make([]byte, 4096), int64(i*8192))
		must(t, err)
		must(t, h.Sync(ctx, true))
		must(t, h.Sync(ctx, false)) // nothing left to do
	}
	after := f.track.counts(&f.track.asked)
	if n := after[protocol.TypeCommit] - before[protocol.TypeCommit]; n != 10 {
		t.Errorf("%d commits for 10 syncs", n)
	}
	if n := f.stores[0].puts - puts; n != 10 {
		t.Errorf("%d puts for 10 syncs", n)
	}
	if n := f.stores[0].syncs + f.stores[1].syncs - syncs; n != 0 {
		t.Errorf("%d sync calls", n)
	}
	for _, b := range f.stores[1].blocks {
		if !b.synced {
			t.Error("a block is not on disk")
		}
	}
	ff := f.track.files[h.Ino()]
	if ff.synced != ff.attr.Version {
		t.Error("the metadata is not on disk")
	}
	// What another handle wrote before, and closed, is synced too.
	must(t, h.Close())
	must(t, c.WriteFile(ctx, "y", []byte("y"), 0o644))
	h, _, err = c.OpenPath(ctx, "y")
	must(t, err)
	must(t, h.Sync(ctx, false))
	for _, s := range f.stores {
		for k, b := range s.blocks {
			if !b.synced {
				t.Errorf("block %v is not synced", k)
			}
		}
	}
	must(t, h.Close())
}

func TestMtime(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.connect(f.config())
	h := create(t, c, "x")
	_, err := h.WriteAt(ctx, []byte("x"), 0)
	must(t, err)
	dirty, err := h.Attr(ctx)
	must(t, err)
	for _, set := range []int64{1234, -1234} {
		_, err = c.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: h.Ino(), Mask: protocol.SetMtime, Mtime: set})
		must(t, err)
		a, err := h.Attr(ctx)
		must(t, err)
		if a.Mtime != set {
			t.Errorf("mtime %d after it was set to %d", a.Mtime, set)
		}
	}
	must(t, h.Close())
	if a, err := c.Stat(ctx, "x"); err != nil || a.Mtime != -1234 {
		t.Errorf("mtime %d of the closed file: %v", a.Mtime, err)
	}
	if dirty.Mtime < 1e18 || dirty.Size != 1 {
		t.Errorf("dirty mtime %d, size %d", dirty.Mtime, dirty.Size)
	}
}

func TestBudget(t *testing.T) {
	f := newFake(t, 1, 2)
	cfg := f.config()
	cfg.Memory = 16 << 20
	cfg.Timeout = 30 * time.Second
	c := f.connect(cfg)
	for _, s := range f.stores {
		s.slow = time.Millisecond
	}
	film := randomBytes(8, 12<<20)
	must(t, c.WriteFile(ctx, "film", film, 0o644))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(2)
		go func() {
			defer wg.Done()
			h := create(t, c, fmt.Sprint("w", i))
			for off := 0; off < len(film); off += 64 << 10 {
				if _, err := h.WriteAt(ctx, film[off:off+64<<10], int64(off)); err != nil {
					t.Error(err)
					return
				}
			}
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		}()
		go func() {
			defer wg.Done()
			h, _, err := c.OpenPath(ctx, "film")
			if err != nil {
				t.Error(err)
				return
			}
			b := make([]byte, 1<<20)
			for off := 0; off < len(film); off += len(b) {
				if _, err := h.ReadAt(ctx, b, int64(off)); err != nil || !bytes.Equal(b, film[off:off+len(b)]) {
					t.Error("read", off, err)
				}
			}
			h.Close()
		}()
	}
	wg.Wait()
	w, r, idle, peak := c.mem.figures()
	if peak > cfg.Memory || w != 0 || w+r+idle > cfg.Memory {
		t.Errorf("limit %d: peak %d; dirty %d, read %d, idle %d at the end", cfg.Memory, peak, w, r, idle)
	}
	if peak < cfg.Memory/2 {
		t.Errorf("peak %d: the budget was hardly used", peak)
	}
	for i := range 8 {
		h, _, err := c.OpenPath(ctx, fmt.Sprint("w", i))
		must(t, err)
		check(t, h, film)
		must(t, h.Close())
	}
}

func TestCancel(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.connect(f.config())
	gate := make(chan struct{})
	f.track.mu.Lock()
	f.track.before = func(typ protocol.Type) bool {
		if typ == protocol.TypeCreate {
			<-gate
		}
		return false
	}
	f.track.mu.Unlock()
	cctx, cancel := context.WithCancel(ctx)
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := c.Create(cctx, tnv.Root, protocol.Create{Parent: tnv.RootIno, Name: "sent"})
	if tnv.KindOf(err) != tnv.KindCanceled {
		t.Fatalf("create: %v", err)
	}
	close(gate)
	deadline := time.Now().Add(2 * time.Second)
	for f.track.counts(&f.track.executed)[protocol.TypeCreate] != 1 {
		if time.Now().After(deadline) {
			t.Fatal("the mutation that was sent did not happen")
		}
		time.Sleep(5 * time.Millisecond)
	}
	// A cancelled read frees what it asked for.
	must(t, c.WriteFile(ctx, "x", randomBytes(1, 1<<20), 0o644))
	h, _, err := c.OpenPath(ctx, "x")
	must(t, err)
	for _, s := range f.stores {
		s.freeze()
	}
	cctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := h.ReadAt(cctx, make([]byte, 1<<20), 0); err == nil {
		t.Fatal("read of frozen stores")
	}
	deadline = time.Now().Add(2 * time.Second)
	for {
		if _, r, _, _ := c.mem.figures(); r == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a cancelled read keeps its memory")
		}
		time.Sleep(5 * time.Millisecond)
	}
	for _, s := range f.stores {
		s.thaw()
	}
	check(t, h, randomBytes(1, 1<<20))
	must(t, h.Close())
}

func TestReleased(t *testing.T) {
	f := newFake(t, 1, 2)
	f.track.keepAlive = 50
	c := f.connect(f.config())
	must(t, c.WriteFile(ctx, "closed", []byte("x"), 0o644))
	h := create(t, c, "open")
	for _, n := range []string{"closed", "open"} {
		must(t, c.RemovePath(ctx, n))
	}
	has := func(ino tnv.Ino) bool {
		f.track.mu.Lock()
		defer f.track.mu.Unlock()
		return slices.Contains(f.track.released, ino)
	}
	wait := func(ino tnv.Ino) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Second); !has(ino); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("inode %d was not released", ino)
			}
		}
	}
	late, _, err := c.OpenFile(ctx, 2, os.O_RDONLY) // by who looked the name up before
	must(t, err)
	time.Sleep(2 * releaseDelay)
	if has(2) {
		t.Fatal("an inode was released that was opened behind its unlinking")
	}
	check(t, late, []byte("x"))
	must(t, late.Close())
	wait(2)
	time.Sleep(200 * time.Millisecond) // some keep-alives that name it
	if has(h.Ino()) {
		t.Fatal("an open inode was released")
	}
	_, err = h.WriteAt(ctx, []byte("still here"), 0)
	must(t, err)
	must(t, h.Flush(ctx))
	check(t, h, []byte("still here"))
	must(t, h.Close())
	wait(3)
	if _, _, err := c.OpenFile(ctx, 3, os.O_RDONLY); tnv.KindOf(err) != tnv.KindStale {
		t.Fatalf("open of a released inode: %v", err)
	}
}

func TestNoLeaks(t *testing.T) {
	f := newFake(t, 1, 2)
	runtime.GC()
	before := runtime.NumGoroutine()
	for i := range 3 {
		c, err := Connect(ctx, f.config())
		must(t, err)
		h := create(t, c, fmt.Sprint("x", i))
		_, err = h.WriteAt(ctx, randomBytes(1, 6<<20), 0)
		must(t, err)
		_, err = io.ReadAll(h.File(ctx))
		must(t, err)
		if i > 0 {
			must(t, h.Close())
		}
		must(t, c.Close(ctx)) // also with a handle open and dirty
		c2 := f.connect(f.config())
		if a, err := c2.Stat(ctx, fmt.Sprint("x", i)); err != nil || a.Size != 6<<20 {
			t.Fatalf("%d, %v", a.Size, err)
		}
		must(t, c2.Close(ctx))
	}
	var n int
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if n = runtime.NumGoroutine(); n <= before+len(f.stores) { // the stores keep their chain connections
			return
		}
	}
	b := make([]byte, 1<<16)
	t.Fatalf("%d goroutines, %d before\n%s", n, before, b[:runtime.Stack(b, true)])
}

func TestReadOnlyClient(t *testing.T) {
	f := newFake(t, 1, 2)
	must(t, f.connect(f.config()).WriteFile(ctx, "x", []byte("x"), 0o644))
	cfg := f.config()
	cfg.ReadOnly = true
	c := f.connect(cfg)
	if _, _, err := c.OpenPathFlags(ctx, "x", os.O_RDWR, 0); !errors.Is(err, tnv.KindReadOnly) {
		t.Errorf("open for writing: %v", err)
	}
	if err := c.RemovePath(ctx, "x"); !errors.Is(err, tnv.KindReadOnly) {
		t.Errorf("remove: %v", err)
	}
	if b, err := c.ReadFile(ctx, "x"); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}
