package meta

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0: a new one")

func newRand(t testing.TB) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// modelFile is a file's content: which block covers each cell.
type modelFile struct {
	size  uint64
	cells map[uint64]tnv.BlockID
}

const cell = 1 << 20

// TestModelOfContent compares commits and truncations with a model, with a cache
// far too small, restarts of the owner, and the checker at the end.
func TestModelOfContent(t *testing.T) {
	r := newRand(t)
	h := start(t, mem.New(mem.Options{}), Config{CacheBytes: 3000})
	files := map[tnv.Ino]*modelFile{}
	var inos []tnv.Ino
	for i := range 3 {
		ino := h.create(tnv.RootIno, fmt.Sprint(i))
		files[ino], inos = &modelFile{cells: map[uint64]tnv.BlockID{}}, append(inos, ino)
	}
	for step := range 1500 {
		ino := inos[r.IntN(len(inos))]
		f := files[ino]
		switch k := r.IntN(100); {
		case k < 70:
			n := uint64(1 + r.IntN(4))
			at := uint64(r.IntN(150))
			if r.IntN(4) == 0 {
				at += 64 * uint64(r.IntN(80))
			}
			if at%64+n > 64 {
				n = 64 - at%64
			}
			b, err := h.write(ino, at*cell, uint32(n*cell))
			h.must(err)
			for c := at; c < at+n; c++ {
				f.cells[c] = b
			}
			f.size = max(f.size, (at+n)*cell)
		case k < 90:
			size := uint64(r.IntN(160)) * cell
			if r.IntN(3) == 0 {
				size = uint64(r.IntN(5000)) * cell
			}
			_, err := do[protocol.AttrReply](h, protocol.TypeSetAttr, &protocol.SetAttr{Ino: ino, Mask: protocol.SetSize, Size: size})
			h.must(err)
			f.size = size
			for c := range f.cells {
				if c*cell >= size {
					delete(f.cells, c)
				}
			}
		case k < 93:
			h.reopen()
		default:
			h.compare(ino, f, uint64(r.IntN(80)))
		}
		if step%300 == 299 {
			for _, ino := range inos {
				for first := uint64(0); first < 90; first += 30 {
					h.compare(ino, files[ino], first)
				}
			}
		}
	}
	h.eventually("everything is trimmed", func() bool {
		h.v.smu.Lock()
		defer h.v.smu.Unlock()
		return len(h.v.reclaim) == 0
	})
	h.check()
}

// compare reads 30 chunks and compares them with the model.
func (h *harness) compare(ino tnv.Ino, f *modelFile, first uint64) {
	h.t.Helper()
	rep, err := do[protocol.ExtentsReply](h, protocol.TypeExtents, &protocol.Extents{Ino: ino, First: first, Count: 30})
	h.must(err)
	if rep.Attr.Size != f.size {
		h.t.Fatalf("inode %d has %d bytes, want %d", ino, rep.Attr.Size, f.size)
	}
	got := map[uint64]tnv.BlockID{}
	for i, l := range rep.Chunks {
		for _, e := range l {
			for off := e.Off; off < e.End(); off += cell {
				c := (first+uint64(i))*64 + uint64(off/cell)
				if c*cell < f.size {
					got[c] = e.Block
				}
			}
		}
	}
	for c := first * 64; c < (first+30)*64; c++ {
		if got[c] != f.cells[c] {
			h.t.Fatalf("inode %d, cell %d: block %d, want %d", ino, c, got[c], f.cells[c])
		}
	}
}

// TestParallelSessions has sessions rename, make and remove in the same few
// directories at once, with a small cache, then checks the tree.
func TestParallelSessions(t *testing.T) {
	r := newRand(t)
	h := start(t, mem.New(mem.Options{}), Config{CacheBytes: 20000})
	dirs := []tnv.Ino{tnv.RootIno}
	for i := range 4 {
		dirs = append(dirs, h.mkdir(dirs[r.IntN(len(dirs))], fmt.Sprintf("dir%d", i)))
	}
	var wg sync.WaitGroup
	for w := range 8 {
		mine := rand.New(rand.NewPCG(r.Uint64(), 2))
		c := *h
		c.newSession()
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 300 {
				d, e := dirs[mine.IntN(len(dirs))], dirs[mine.IntN(len(dirs))]
				name, other := fmt.Sprint("n", mine.IntN(6)), fmt.Sprint("n", mine.IntN(6))
				var err error
				switch mine.IntN(8) {
				case 0, 1:
					_, err = do[protocol.CreateReply](&c, protocol.TypeCreate, &protocol.Create{Parent: d, Name: name})
				case 2:
					_, err = do[protocol.AttrReply](&c, protocol.TypeMkdir, &protocol.Mkdir{Parent: d, Name: name})
				case 3:
					var rep protocol.UnlinkReply
					if rep, err = do[protocol.UnlinkReply](&c, protocol.TypeUnlink, &protocol.Unlink{Parent: d, Name: name}); err == nil && rep.Unlinked != 0 {
						_, err = do[struct{}](&c, protocol.TypeReleased, &protocol.Released{Inos: []tnv.Ino{rep.Unlinked}})
					}
				case 4:
					_, err = do[struct{}](&c, protocol.TypeRmdir, &protocol.Rmdir{Parent: d, Name: name})
				case 5:
					_, err = do[protocol.UnlinkReply](&c, protocol.TypeRename, &protocol.Rename{Parent: d, Name: name, NewParent: e, NewName: other, Flags: uint32(mine.IntN(3))})
				case 6:
					_, err = do[protocol.ReadDirReply](&c, protocol.TypeReadDir, &protocol.ReadDir{Ino: d, Limit: uint32(1 + mine.IntN(10)), Attrs: true})
				case 7:
					var a tnv.Attr
					if a, err = c.lookup(d, name); err == nil && a.IsRegular() {
						_, err = c.write(a.Ino, uint64(mine.IntN(100))*cell, cell)
					}
				}
				switch tnv.KindOf(err) {
				case tnv.KindOther, tnv.KindProtocol, tnv.KindBusy, tnv.KindCorrupt:
					if err != nil {
						t.Errorf("worker %d, step %d: %v", w, i, err)
					}
				}
			}
			if err := c.v.EndSession(context.Background(), c.session); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	h.must(h.v.EndSession(context.Background(), h.session))
	h.newSession()
	h.eventually("everything is reclaimed", func() bool {
		st, err := h.v.Status(context.Background())
		return err == nil && st.Unlinked == 0
	})
	h.check()
	h.reopen()
	h.check()
}

// K7: an answer never leaves before the batch that it has seen is applied.
func TestReadWaitsForApply(t *testing.T) {
	e := mem.New(mem.Options{})
	h := start(t, e, Config{})
	h.create(tnv.RootIno, "first") // so that ids are reserved
	held := e.PauseApply()
	made := make(chan error, 1)
	go func() {
		c := *h
		made <- c.send(1, 1, protocol.TypeCreate, nil, &protocol.Create{Parent: tnv.RootIno, Name: "x"})
	}()
	h.eventually("the create is published", func() bool {
		h.v.mu.RLock()
		defer h.v.mu.RUnlock()
		return h.v.cache[dentryKey(tnv.RootIno, "x")] != nil && h.v.cache[dentryKey(tnv.RootIno, "x")].val != nil
	})
	seen := make(chan error, 2)
	go func() { _, err := h.lookup(tnv.RootIno, "x"); seen <- err }()
	go func() { // an error has seen the batch, too
		c := *h
		seen <- c.send(2, 1, protocol.TypeCreate, nil, &protocol.Create{Parent: tnv.RootIno, Name: "x", Excl: true})
	}()
	select {
	case err := <-seen:
		t.Fatalf("answered from a batch that is not applied: %v", err)
	case <-made:
		t.Fatal("acknowledged before it is applied")
	case <-time.After(100 * time.Millisecond):
	}
	held.Resume()
	h.must(<-made)
	for range 2 {
		if err := <-seen; err != nil && !errors.Is(err, tnv.KindExist) {
			t.Fatal(err)
		}
	}
}

// P4: a batch of an epoch that is over changes nothing, and its owner gives up.
func TestFencedOwnerGivesUp(t *testing.T) {
	engine := mem.New(mem.Options{})
	h := start(t, engine, Config{})
	old := *h
	h.v = nil
	h.reopen() // another owner, in the next epoch
	err := old.send(9, 1, protocol.TypeCreate, nil, &protocol.Create{Parent: tnv.RootIno, Name: "late"})
	kindIs(t, err, tnv.KindFenced)
	select {
	case <-old.v.Dead():
	default:
		t.Fatal("the fenced owner goes on")
	}
	_, err = old.lookup(tnv.RootIno, "late")
	kindIs(t, err, tnv.KindFenced)
	_, err = h.lookup(tnv.RootIno, "late")
	kindIs(t, err, tnv.KindNotExist)
	old.v.Close()
}
