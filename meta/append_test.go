package meta

import (
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

// The owner finds the place of what is appended, whatever the guess, within the
// chunk that was named; else it does nothing.
func TestCommitAppends(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	appendAt := func(guess uint64, n uint32) (tnv.Attr, error) {
		rq := h.commitOf(f, guess, n, h.block())
		rq.Append = true
		rep, err := do[protocol.AttrReply](h, protocol.TypeCommit, rq)
		if err != nil {
			return tnv.Attr{}, err
		}
		return rep.Attr, nil
	}
	want := uint64(0)
	for _, guess := range []uint64{0, 0, 1000, 5, tnv.ChunkSize - 10} {
		want += 10
		if a, err := appendAt(guess, 10); err != nil || a.Size != want {
			t.Fatalf("10 bytes for %d: size %d, %v; want %d", guess, a.Size, err, want)
		}
	}
	rep, err := do[protocol.ExtentsReply](h, protocol.TypeExtents, &protocol.Extents{Ino: f, Count: 1})
	h.must(err)
	end := uint32(0)
	for _, e := range rep.Chunks[0] {
		if e.Off != end || e.Block == 0 {
			t.Errorf("extent %+v, want one at %d", e, end)
		}
		end = e.Off + e.Len
	}
	_, err = h.write(f, tnv.ChunkSize-15, 10) // ends 5 before the chunk does
	h.must(err)
	for _, guess := range []uint64{0, tnv.ChunkSize + 3} {
		if a, err := appendAt(guess, 10); tnv.KindOf(err) != tnv.KindWouldBlock {
			t.Errorf("10 bytes for %d of a file that ends 5 before its chunk: size %d, %v", guess, a.Size, err)
		}
	}
	if a, err := appendAt(7, 5); err != nil || a.Size != tnv.ChunkSize {
		t.Errorf("what fits: size %d, %v", a.Size, err)
	}
	if _, err := do[protocol.AttrReply](h, protocol.TypeCommit, &protocol.Commit{Ino: f, Append: true}); tnv.KindOf(err) != tnv.KindInvalid {
		t.Errorf("nothing to append: %v", err)
	}
}
