package meta

import (
	"context"
	"slices"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

// merge of flat extents does what laying them one after another does.
func TestMergeIsOverlay(t *testing.T) {
	r := newRand(t)
	for range 3000 {
		var l []tnv.Extent
		block := tnv.BlockID(0)
		some := func(n int) (add []tnv.Extent) {
			for range n {
				block++
				e := tnv.Extent{Off: uint32(r.IntN(60)), Len: uint32(1 + r.IntN(20)), Block: block, BlockOff: 7, BlockLen: 100}
				if r.IntN(4) == 0 {
					e.Block = 0
				}
				add = append(add, e)
			}
			return add
		}
		for range 3 {
			add := some(1 + r.IntN(6))
			want := slices.Clone(l)
			for _, e := range add {
				want = overlay(want, e)
			}
			before := slices.Clone(l)
			got := merge(l, flatten(add))
			if !slices.Equal(got, want) {
				t.Fatalf("%v over %v:\n got %v\nwant %v", add, l, got, want)
			}
			if !slices.Equal(l, before) {
				t.Fatal("the extents below were changed")
			}
			l = got
		}
	}
}

// A chunk in memory equals what is read back, at every stage between folds.
func TestFoldedChunkReloads(t *testing.T) {
	r := newRand(t)
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	ctx := context.Background()
	key := chunkKey(f, 0)
	sawDeltas, sawFold := 0, 0
	for i := range 600 {
		switch {
		case i < 100 || r.IntN(20) > 0:
			_, err := h.write(f, uint64(r.IntN(2000))*8192, 4096*uint32(1+r.IntN(3)))
			h.must(err)
		case r.IntN(2) == 0:
			h.truncate(f, uint64(r.IntN(2000))*8192+100)
		default: // a hole
			_, err := do[protocol.AttrReply](h, protocol.TypeCommit, &protocol.Commit{Ino: f, Chunks: []protocol.ChunkExtents{
				{Extents: []tnv.Extent{{Off: uint32(r.IntN(2000)) * 8192, Len: 1 << 16}}}}})
			h.must(err)
		}
		h.v.mu.RLock()
		is, _ := h.v.cache[key].val.(*chunk)
		h.v.mu.RUnlock()
		stored, err := h.v.loadChunk(ctx, key)
		h.must(err)
		if (is == nil) != (stored == nil) {
			t.Fatalf("step %d: in memory %v, stored %v", i, is, stored)
		}
		if is == nil {
			continue
		}
		if len(stored.deltas) > sawDeltas {
			sawDeltas = len(stored.deltas)
		} else if sawDeltas > 0 && len(stored.deltas) == 0 {
			sawFold++
		}
		if !slices.Equal(is.extents, stored.extents) || !slices.Equal(is.deltas, stored.deltas) ||
			is.base != stored.base || is.added != stored.added || is.seq != stored.seq {
			t.Fatalf("step %d:\nin memory %+v\n   stored %+v", i, is, stored)
		}
	}
	if sawDeltas < 10 || sawFold == 0 {
		t.Fatalf("at most %d deltas, folded %d times: the test does not reach what it is for", sawDeltas, sawFold)
	}
	h.check()
}

// A chunk in as many pieces as are allowed is still stored and answered; one
// piece more is refused, and neither ends the tracker. It can be mended.
func TestChunkInTooManyPieces(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	const each = protocol.MaxBatch
	one := func(i int) *protocol.Commit {
		rq := &protocol.Commit{Ino: f, Size: tnv.ChunkSize, Chunks: make([]protocol.ChunkExtents, 1)}
		for j := range each {
			b := h.block()
			c := h.commitOf(f, 0, 1<<9, b)
			e := c.Chunks[0].Extents[0]
			e.Off = uint32(j*1024 + (each+1)*1024*(i%15) + i/15*8)
			e.Len, e.BlockOff, e.BlockLen = 4, 1<<20, 4<<20
			rq.Chunks[0].Extents = append(rq.Chunks[0].Extents, e)
			rq.Holders = append(rq.Holders, c.Holders...)
		}
		return rq
	}
	var refused error
	for i := range 20 {
		if _, refused = do[protocol.AttrReply](h, protocol.TypeCommit, one(i)); refused != nil {
			break
		}
	}
	kindIs(t, refused, tnv.KindNoSpace)
	read := func() [][]tnv.Extent {
		head := protocol.Head{Vol: testVol, Session: h.session}
		rq, err := protocol.NewFrame(protocol.TypeExtents, &head, &protocol.Extents{Ino: f, Count: protocol.MaxChunks})
		h.must(err)
		values, err := h.v.Do(context.Background(), rq)
		h.must(err)
		if body, err := protocol.Marshal(values...); err != nil || len(body) > protocol.MaxBody {
			t.Fatalf("a reply of %d bytes: %v", len(body), err)
		}
		return values[0].(*protocol.ExtentsReply).Chunks
	}
	if l := read(); len(l[0]) != maxChunkExtents {
		t.Fatalf("%d extents were taken, not %d", len(l[0]), maxChunkExtents)
	}
	_, err := h.write(f, 0, 4<<20) // in one piece: fewer than before
	h.must(err)
	h.reopen()
	if l := read(); len(l[0]) >= maxChunkExtents {
		t.Fatalf("%d extents", len(l[0]))
	}
}

// Several chunks in many pieces come in parts, each within a frame.
func TestExtentsWithinFrame(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	const chunks, pieces = 18, 4000
	for c := range chunks {
		h.writeMany(f, uint64(c), pieces)
	}
	got := 0
	for replies := 1; got < chunks; replies++ {
		head := protocol.Head{Vol: testVol, Session: h.session}
		rq, err := protocol.NewFrame(protocol.TypeExtents, &head, &protocol.Extents{Ino: f, First: uint64(got), Count: uint32(chunks - got)})
		h.must(err)
		values, err := h.v.Do(context.Background(), rq)
		h.must(err)
		body, err := protocol.Marshal(values...)
		h.must(err)
		rep := values[0].(*protocol.ExtentsReply)
		if len(rep.Chunks) == 0 || replies > chunks {
			t.Fatal("no progress")
		}
		for _, l := range rep.Chunks {
			if len(l) != pieces {
				t.Fatalf("chunk %d has %d extents", got, len(l))
			}
			got++
		}
		if len(body) > protocol.MaxBody/2 {
			t.Errorf("a reply of %d bytes", len(body))
		}
		if got == chunks && replies < 2 {
			t.Error("all came at once: the limit was not reached")
		}
	}
}

// Extents behind the end of the file would be found by nobody when it is freed.
func TestCommitBeyondSize(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	for _, at := range []uint64{4096, 10 * tnv.ChunkSize, tnv.MaxFileSize &^ (tnv.ChunkSize - 1)} {
		rq := h.commitOf(f, at, 4096, h.block())
		rq.Size = 4096
		_, err := do[protocol.AttrReply](h, protocol.TypeCommit, rq)
		kindIs(t, err, tnv.KindInvalid)
	}
	// At the largest size everything still works.
	last := uint64(tnv.MaxFileSize) - 4095
	b := h.block()
	rq := h.commitOf(f, last&^4095, 4095, b)
	_, err := do[protocol.AttrReply](h, protocol.TypeCommit, rq)
	h.must(err)
	rep, err := do[protocol.ExtentsReply](h, protocol.TypeExtents, &protocol.Extents{Ino: f, First: last / tnv.ChunkSize, Count: protocol.MaxChunks})
	if err != nil || rep.Attr.Size != tnv.MaxFileSize || len(rep.Chunks[0]) != 1 {
		t.Fatalf("%+v, %v", rep.Attr, err)
	}
	_, err = do[protocol.AttrReply](h, protocol.TypeSetAttr, &protocol.SetAttr{Ino: f, Mask: protocol.SetSize, Size: 1 << 63})
	kindIs(t, err, tnv.KindTooBig)
	h.truncate(f, tnv.MaxFileSize-1)
	h.truncate(f, 1)
	h.truncate(f, tnv.MaxFileSize)
	rep, err = do[protocol.ExtentsReply](h, protocol.TypeExtents, &protocol.Extents{Ino: f, First: last / tnv.ChunkSize, Count: 1})
	if err != nil || len(rep.Chunks[0]) != 0 {
		t.Fatalf("what was cut off shows again: %+v, %v", rep, err)
	}
	h.unlink("f")
	h.released(f)
	h.idle()
	h.checkEmpty()
}

// The outcome of a batch that got no answer is open: the owner gives up, and the
// next one answers the repeated request right, executed or not.
func TestOpenOutcome(t *testing.T) {
	for _, applied := range []bool{false, true} {
		engine := mem.New(mem.Options{})
		h := start(t, engine, Config{})
		h.create(tnv.RootIno, "first")
		engine.FailApply(kv.ErrClosed, applied)
		rq := &protocol.Create{Parent: tnv.RootIno, Name: "x", Excl: true}
		kindIs(t, h.send(5, 1, protocol.TypeCreate, nil, rq), tnv.KindUnavailable)
		_, err := h.lookup(tnv.RootIno, "first")
		kindIs(t, err, tnv.KindUnavailable)
		h.reopen()
		var made protocol.CreateReply
		h.must(h.send(5, 1, protocol.TypeCreate, &made, rq))
		a, err := h.lookup(tnv.RootIno, "x")
		if err != nil || !made.Created || a.Ino != made.Attr.Ino {
			t.Fatalf("applied %v: %+v, but inode %d, %v", applied, made, a.Ino, err)
		}
		h.check()
	}
}

// P10: no id is given twice, whatever a power loss takes.
func TestIDsAfterPowerLoss(t *testing.T) {
	r := newRand(t)
	engine := mem.New(mem.Options{})
	h := start(t, engine, Config{})
	inos, blocks, sessions := map[tnv.Ino]bool{}, map[tnv.BlockID]bool{}, map[tnv.SessionID]bool{}
	for range 12 {
		h.newSession()
		if sessions[h.session] {
			t.Fatalf("session %d twice", h.session)
		}
		sessions[h.session] = true
		for range 20 {
			rep, err := do[protocol.CreateReply](h, protocol.TypeCreate, &protocol.Create{Parent: tnv.RootIno, Name: string(rune('a' + r.IntN(26)))})
			h.must(err)
			if rep.Created && inos[rep.Attr.Ino] {
				t.Fatalf("inode %d twice", rep.Attr.Ino)
			}
			inos[rep.Attr.Ino] = true
			if b := h.block(); blocks[b] {
				t.Fatalf("block %d twice", b)
			} else {
				blocks[b] = true
			}
		}
		e := h.engineOf()
		h.engine = e.PowerLoss(r.IntN(e.Unsynced() + 1))
		h.v.Close()
		h.v = nil
		h.reopen()
	}
	h.check()
}
