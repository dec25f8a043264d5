package meta

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

// engineOf is the harness's engine, with its hooks.
func (h *harness) engineOf() *mem.Engine { return h.engine.(*mem.Engine) }

func (h *harness) truncate(ino tnv.Ino, size uint64) {
	h.t.Helper()
	_, err := do[protocol.AttrReply](h, protocol.TypeSetAttr, &protocol.SetAttr{Ino: ino, Mask: protocol.SetSize, Size: size})
	h.must(err)
}

func (h *harness) unlink(name string) {
	h.t.Helper()
	_, err := do[protocol.UnlinkReply](h, protocol.TypeUnlink, &protocol.Unlink{Parent: tnv.RootIno, Name: name})
	h.must(err)
}

func (h *harness) released(inos ...tnv.Ino) {
	h.t.Helper()
	_, err := do[struct{}](h, protocol.TypeReleased, &protocol.Released{Inos: inos})
	h.must(err)
}

func (h *harness) idle() {
	h.t.Helper()
	h.eventually("everything is reclaimed and trimmed", func() bool {
		h.v.smu.Lock()
		defer h.v.smu.Unlock()
		return len(h.v.reclaim) == 0
	})
}

const farChunk = 40 // beyond what one transaction trims

// A file that is open without a name and is truncated (a temporary file that is
// used again) keeps living, and what is written to it afterwards stays.
func TestTrimOfOpenUnlinkedFile(t *testing.T) {
	for _, size := range []uint64{0, 4096} {
		h := start(t, mem.New(mem.Options{}), Config{})
		f := h.create(tnv.RootIno, "f")
		for _, chunk := range []uint64{0, farChunk} {
			_, err := h.write(f, chunk*tnv.ChunkSize, 8192)
			h.must(err)
		}
		h.unlink("f")
		h.truncate(f, size)
		h.idle()
		b, err := h.write(f, 1<<20, 4096)
		h.must(err)
		h.idle()
		rep, err := do[protocol.ExtentsReply](h, protocol.TypeExtents, &protocol.Extents{Ino: f, Count: 1})
		if err != nil || len(rep.Chunks) != 1 || len(rep.Chunks[0]) == 0 || rep.Chunks[0][len(rep.Chunks[0])-1].Block != b {
			t.Fatalf("truncated to %d: the open file's content is %+v, %v", size, rep, err)
		}
		h.check()
		h.released(f)
		h.idle()
		h.checkEmpty()
	}
}

// checkEmpty verifies that only the root is left, and no chunk of anything.
func (h *harness) checkEmpty() {
	h.t.Helper()
	h.check()
	st, err := h.v.Status(context.Background())
	if err != nil || st.Files != 1 || st.Bytes != 0 || st.Unlinked != 0 {
		h.t.Fatalf("status: %+v, %v", st, err)
	}
}

// A trim that is under way when the file is written anew, unlinked and let go
// leaves nothing behind: neither the old chunks nor the new ones.
func TestRewrittenDuringTrim(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	var blocks []tnv.BlockID
	write := func(off uint64) {
		b, err := h.write(f, off, 4096)
		h.must(err)
		blocks = append(blocks, b)
	}
	write(0)
	write(farChunk * tnv.ChunkSize)
	h.v.cancel() // the reclaimer, so that every step here comes in between
	h.v.bg.Wait()
	h.truncate(f, 0)
	write(0)
	h.unlink("f")
	h.released(f)
	h.must(h.v.reclaimSome(context.Background(), []tnv.Ino{f}))
	h.checkEmpty()
	st, err := h.v.Alive(context.Background(), []protocol.BlockHome{
		{Block: blocks[0], Home: tnv.Home{Ino: f}}, {Block: blocks[1], Home: tnv.Home{Ino: f, Chunk: farChunk}}, {Block: blocks[2], Home: tnv.Home{Ino: f}}})
	h.must(err)
	ids, err := h.v.Deletions(context.Background(), 11, 0, 100)
	if err != nil || len(ids) != 3 {
		t.Fatalf("of three blocks %v are to be deleted, %v", ids, err)
	}
	for i, s := range st {
		if s != protocol.DeadBlock {
			t.Fatalf("block %d of a file that is gone is alive for ever", blocks[i])
		}
	}
}

// A trim that ends while the file is truncated again does not forget the new
// trim, not even when the owner changes.
func TestTrimAfterTrim(t *testing.T) {
	engine := &recording{Engine: mem.New(mem.Options{})}
	h := start(t, engine, Config{})
	f := h.create(tnv.RootIno, "f")
	for _, chunk := range []uint64{0, farChunk, 2 * farChunk} {
		_, err := h.write(f, chunk*tnv.ChunkSize, 4096)
		h.must(err)
	}
	h.v.cancel()
	h.v.bg.Wait()
	h.truncate(f, (farChunk+1)*tnv.ChunkSize)
	again := make(chan error, 1)
	engine.onDelete(trimKey(f), func() { // the trim ends: now comes the second one
		go func() {
			again <- h.send(1, 1, protocol.TypeSetAttr, nil, &protocol.SetAttr{Ino: f, Mask: protocol.SetSize})
		}()
		h.eventually("the second trim is published", func() bool {
			h.v.mu.RLock()
			defer h.v.mu.RUnlock()
			return h.v.cache[inodeKey(f)].val.(*inode).TrimSeq != 0
		})
	})
	h.must(h.v.reclaimSome(context.Background(), []tnv.Ino{f}))
	h.must(<-again)
	h.reopen()
	h.idle()
	h.check()
	if a := h.attr(f); a.Blocks != 0 {
		t.Fatalf("%d units are still allocated to an empty file", a.Blocks)
	}
}

// One inode whose records are damaged does not keep others from being freed.
func TestDamagedInodeStopsNoOther(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	var inos []tnv.Ino
	for i := range 3 {
		inos = append(inos, h.create(tnv.RootIno, fmt.Sprint(i)))
		_, err := h.write(inos[i], 0, 4096)
		h.must(err)
	}
	bad := chunkKey(inos[1], 0)
	h.must(h.v.mutate(context.Background(), func(tx *Tx) error {
		n, err := tx.inode(inos[1])
		if err != nil {
			return err
		}
		tx.update(*n) // so that there is a batch
		tx.raw = append(tx.raw, kv.Write{Key: []byte(chunkBaseKey(bad)), Value: []byte{recordV1, 1}})
		return nil
	}))
	h.reopen() // nothing of it is in memory
	for i, ino := range inos {
		h.unlink(fmt.Sprint(i))
		h.released(ino)
	}
	h.eventually("the others are freed", func() bool {
		st, err := h.v.Status(context.Background())
		return err == nil && st.Unlinked == 1
	})
}

// The memory of records stays near its budget while many blocks are freed.
func TestFreeingKeepsBudget(t *testing.T) {
	const budget = 1 << 20
	h := start(t, mem.New(mem.Options{}), Config{CacheBytes: budget})
	f := h.create(tnv.RootIno, "f")
	for i := range 8 {
		h.writeMany(f, uint64(i), 4000)
	}
	h.unlink("f")
	h.released(f)
	h.idle()
	for _, n := range []tnv.NodeID{11, 12} {
		for {
			ids, err := h.v.Deletions(context.Background(), n, 0, 2048)
			h.must(err)
			if len(ids) == 0 {
				break
			}
			h.must(h.v.Deleted(context.Background(), n, ids))
		}
	}
	h.create(tnv.RootIno, "g")
	h.v.mu.Lock()
	defer h.v.mu.Unlock()
	if h.v.size > 2*budget {
		t.Fatalf("records take %d bytes of memory, the budget is %d", h.v.size, budget)
	}
}

// writeMany commits n blocks of 4 KiB to a chunk, every other place left out.
func (h *harness) writeMany(ino tnv.Ino, chunk uint64, n int) {
	h.t.Helper()
	rq := &protocol.Commit{Ino: ino, Size: (chunk + 1) * tnv.ChunkSize, Chunks: []protocol.ChunkExtents{{Chunk: chunk}}}
	for i := range n {
		b := h.block()
		one := h.commitOf(ino, 0, 4096, b)
		e := one.Chunks[0].Extents[0]
		e.Off = uint32(i * 8192)
		rq.Chunks[0].Extents = append(rq.Chunks[0].Extents, e)
		rq.Holders = append(rq.Holders, one.Holders...)
	}
	_, err := do[protocol.AttrReply](h, protocol.TypeCommit, rq)
	h.must(err)
}

// recording is an engine that notes the longest batch, and fails where it is told to.
type recording struct {
	*mem.Engine
	largest atomic.Int64
	failAt  atomic.Int64 // the call of Apply that fails, counted down; 0: none does
	applied bool         // it takes effect all the same

	mu  sync.Mutex
	key string // at the deletion of this key hook is called, once
	fn  func()
}

func (r *recording) onDelete(key string, fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.key, r.fn = key, fn
}

// hook is what is to be called for the batches.
func (r *recording) hook(batches []kv.Batch) (fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range batches {
		for _, w := range b.Writes {
			if r.fn != nil && string(w.Key) == r.key && w.Value == nil {
				fn, r.fn = r.fn, nil
			}
		}
	}
	return fn
}

func (r *recording) Apply(ctx context.Context, f kv.Fence, batches []kv.Batch) error {
	for _, b := range batches {
		r.largest.Store(max(r.largest.Load(), int64(len(b.Writes))))
	}
	if fn := r.hook(batches); fn != nil {
		fn()
	}
	if r.failAt.Load() > 0 && r.failAt.Add(-1) == 0 {
		r.FailApply(errors.New("no answer"), r.applied)
	}
	return r.Engine.Apply(ctx, f, batches)
}

// No transaction frees blocks without bound, whatever the file looks like.
func TestFreesInSteps(t *testing.T) {
	engine := &recording{Engine: mem.New(mem.Options{})}
	h := start(t, engine, Config{})
	for _, how := range []string{"truncate", "unlink", "several"} {
		var inos []tnv.Ino
		for i := range 3 {
			inos = append(inos, h.create(tnv.RootIno, fmt.Sprint(i)))
			h.writeMany(inos[i], 0, 3000)
			if how != "several" {
				h.writeMany(inos[i], 1, 3000)
			}
		}
		engine.largest.Store(0)
		for i, ino := range inos {
			if how == "truncate" {
				h.truncate(ino, 0)
				h.idle()
			}
			h.unlink(fmt.Sprint(i))
		}
		h.released(inos...)
		h.idle()
		largest := engine.largest.Load()
		if largest > 3*freeAtOnce { // a record per block and member, and a few more
			t.Errorf("%s: one transaction writes %d records", how, largest)
		}
		h.checkEmpty()
	}
}

// D2: nobody is told that a block is dead, nor to delete it, before that is on disk.
func TestDeadOnlyWhenOnDisk(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	ctx := context.Background()
	f := h.create(tnv.RootIno, "f")
	old, err := h.write(f, 0, 4096)
	h.must(err)
	h.must(h.v.sync(ctx))
	_, err = h.write(f, 0, 4096) // in its place
	h.must(err)
	st, err := h.v.Alive(ctx, []protocol.BlockHome{{Block: old, Home: tnv.Home{Ino: f}}})
	if err != nil || st[0] != protocol.DeadBlock {
		t.Fatalf("a block that was replaced: %v, %v", st, err)
	}
	h.engine = h.engineOf().PowerLoss(0)
	h.v.Close()
	h.v = nil
	h.reopen()
	if st, err := h.v.Alive(ctx, []protocol.BlockHome{{Block: old, Home: tnv.Home{Ino: f}}}); err != nil || st[0] != protocol.DeadBlock {
		t.Fatalf("a block that was said to be dead is named again after a power loss: %v, %v", st, err)
	}
}

// The end of a session goes on when its client goes away without waiting for it.
func TestEndOfSessionIsNotCanceled(t *testing.T) {
	engine := mem.New(mem.Options{})
	h := start(t, engine, Config{})
	f := h.create(tnv.RootIno, "f")
	other := *h
	other.newSession()
	other.block()
	h.unlink("f")
	h.released(f)
	ctx, cancel := context.WithCancel(context.Background())
	p := engine.PauseApply()
	done := make(chan error, 1)
	go func() { done <- h.v.EndSession(ctx, other.session) }()
	<-p.Reached()
	cancel()
	p.Resume()
	h.must(<-done)
	h.idle()
	h.checkEmpty()
	if st, _ := h.v.Status(context.Background()); st.Sessions != 1 {
		t.Fatalf("%d sessions are left", st.Sessions)
	}
}

// Wherever a crash interrupts the end of a session, the next owner completes it.
func TestCrashAtEveryStepOfEnd(t *testing.T) {
	for step := int64(1); ; step++ {
		for _, applied := range []bool{false, true} {
			engine := &recording{Engine: mem.New(mem.Options{}), applied: applied}
			h := start(t, engine, Config{})
			f := h.create(tnv.RootIno, "f")
			_, err := h.write(f, 0, 4096)
			h.must(err)
			other := *h
			other.newSession()
			mine := other.block()
			h.unlink("f")
			h.released(f)
			engine.failAt.Store(step)
			err = h.v.EndSession(context.Background(), other.session)
			crashed := engine.failAt.Load() == 0
			engine.failAt.Store(0)
			h.reopen()
			if err != nil {
				h.must(h.v.EndSession(context.Background(), other.session)) // it was not begun, maybe
			}
			h.idle()
			h.checkEmpty()
			other.v = h.v
			_, err = do[protocol.AttrReply](&other, protocol.TypeCommit, other.commitOf(f, 0, 4096, mine))
			kindIs(t, err, tnv.KindSessionEnded)
			if st, _ := h.v.Status(context.Background()); st.Sessions != 1 {
				t.Fatalf("step %d: %d sessions are left", step, st.Sessions)
			}
			if !crashed {
				if step < 4 {
					t.Fatalf("the end of a session took %d steps only", step-1)
				}
				return
			}
		}
	}
}

// A record that still names a session which is over waits for it no more.
func TestWaitsForNoDeadSession(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	h.unlink("f")
	h.must(h.v.mutate(context.Background(), func(tx *Tx) error {
		if err := tx.want(unlinkedKey(f)); err != nil {
			return err
		}
		tx.set(unlinkedKey(f), &unlinked{Waiting: []tnv.SessionID{1, h.session}})
		return nil
	}))
	h.released(f)
	h.idle()
	h.checkEmpty()
}
