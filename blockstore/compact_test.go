package blockstore

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tnvfs/tnv"
)

func TestCompaction(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := newStore(t, fs, quiet(fs))
	for id := 1; id <= 60; id++ {
		mustPut(t, s, id, 10_000, false)
	}
	s.sealAll(t)
	before := s.Stats()
	var ids []tnv.BlockID
	for id := 1; id <= 60; id++ {
		if id%7 != 0 {
			ids = append(ids, tnv.BlockID(id))
		}
	}
	ok(t, s.Delete(ctx, 1, ids))
	s.keepHouse()
	if st := s.Stats(); st.Segments >= before.Segments || st.CompactedData != 80_000 {
		t.Fatalf("before %+v, after %+v", before, st)
	}
	for _, s := range []*Store{s, openStore(t, quiet(fs.CrashClone(vfs.CrashCloneCfg{})))} {
		if n := s.Stats().Blocks; n != 8 {
			t.Fatalf("%d blocks", n)
		}
		for id := 7; id <= 60; id += 7 {
			ok(t, s.Verify(key(id)))
		}
	}
}

// The space of small blocks comes back from a segment that still takes records,
// too: too little of it could be punched. A segment that is used well, or
// hardly begun, goes on.
func TestCompactionOfActive(t *testing.T) {
	fs := vfs.NewCrashableMem()
	opt := quiet(fs)
	opt.SegmentSize = 4 << 20
	s := newStore(t, fs, opt)
	var ids []tnv.BlockID
	remove := func() {
		ok(t, s.Delete(ctx, 1, ids))
		ids = nil
		s.keepHouse()
	}
	for id := 1; id <= 5; id++ {
		mustPut(t, s, id, 3000, false)
		ids = append(ids, tnv.BlockID(id))
	}
	first := s.active
	remove()
	for id := 100; id < 200; id++ {
		mustPut(t, s, id, 3000, false)
		if id%10 >= 7 {
			ids = append(ids, tnv.BlockID(id))
		}
	}
	remove()
	if s.active != first {
		t.Fatal("a segment was given up that is hardly begun, or used well")
	}
	for id := 100; id < 200; id++ {
		if id%10 != 0 {
			ids = append(ids, tnv.BlockID(id))
		}
	}
	before := s.Stats().Used
	remove()
	if st := s.Stats(); st.Used > before/4 || st.Blocks != 10 {
		t.Fatalf("of %d bytes %d are in use still, %+v", before, st.Used, st)
	}
	for _, s := range []*Store{s, openStore(t, quiet(fs.CrashClone(vfs.CrashCloneCfg{})))} {
		for id := 100; id < 200; id += 10 {
			ok(t, s.Verify(key(id)))
		}
	}
}

// A removed segment gives its space back while a client on this host still holds
// the file open.
func TestRemovedSegmentHeldOpen(t *testing.T) {
	opt := quiet(vfs.Default)
	dir := t.TempDir()
	_, err := Init(dir, "c", "g1", opt)
	ok(t, err)
	s, err := Open(dir, opt)
	ok(t, err)
	t.Cleanup(func() { s.Close() })
	mustPut(t, s, 1, 100_000, true)
	s.sealAll(t)
	r, err := s.Open(key(1))
	ok(t, err)
	file, _ := r.File()
	held, err := os.Open(file.Name())
	ok(t, err)
	defer held.Close()
	ok(t, r.Close())
	ok(t, s.Delete(ctx, 1, []tnv.BlockID{1}))
	s.keepHouse()
	if _, err := os.Stat(held.Name()); !os.IsNotExist(err) {
		t.Fatalf("the segment is not removed: %v", err)
	}
	fi, err := held.Stat()
	ok(t, err)
	if n := fi.Sys().(*syscall.Stat_t).Blocks; n != 0 {
		t.Fatalf("it still has %d sectors of the disk", n)
	}
}

// A copy is synced before the old one goes (P7), and a block deleted while it
// is copied stays deleted.
func TestCompactionSyncFails(t *testing.T) {
	fs := &faultFS{FS: vfs.NewMem()}
	s := newStore(t, fs, quiet(fs))
	for id := 1; id <= 20; id++ {
		mustPut(t, s, id, 10_000, true)
	}
	s.sealAll(t)
	var ids []tnv.BlockID
	for id := tnv.BlockID(2); id <= 20; id++ {
		ids = append(ids, id)
	}
	ok(t, s.Delete(ctx, 1, ids))
	fs.set(func(op, name string) error {
		if op == "sync" && strings.HasSuffix(name, "0002.seg") && s.unsealedWith(2) {
			return errIO
		}
		return nil
	})
	s.keepHouse()
	fs.set(nil)
	s.keepHouse()
	if err := s.Verify(key(1)); err != nil {
		t.Fatalf("the old copy went: %v", err)
	}
}

// A full disk keeps a segment from being compacted for as long as it is full,
// and little longer.
func TestCompactionWithoutRoom(t *testing.T) {
	fs := &faultFS{FS: vfs.NewMem()}
	s := newStore(t, fs, quiet(fs))
	for id := 1; id <= 20; id++ {
		mustPut(t, s, id, 10_000, true)
	}
	s.sealAll(t)
	var ids []tnv.BlockID
	for id := tnv.BlockID(2); id <= 20; id++ {
		ids = append(ids, id)
	}
	ok(t, s.Delete(ctx, 1, ids))
	fs.set(func(op, name string) error {
		if op == "write" && strings.HasSuffix(name, ".seg") {
			return syscall.ENOSPC
		}
		return nil
	})
	s.keepHouse()
	fs.set(nil)
	if st := s.Stats(); st.CompactedData != 0 {
		t.Fatalf("%d bytes were compacted without room", st.CompactedData)
	}
	time.Sleep(noRoomFor)
	s.keepHouse()
	if st := s.Stats(); st.CompactedData != 10_000 || st.Segments > 2 {
		t.Fatalf("with room again: %+v", st)
	}
	ok(t, s.Verify(key(1)))
}

// A copy is verified before it is one; the damaged original stays, so that the
// scrubber finds it.
func TestCompactionOfDamage(t *testing.T) {
	fs := vfs.NewMem()
	s := newStore(t, fs, quiet(fs))
	var ids []tnv.BlockID
	for id := 1; id <= 20; id++ {
		mustPut(t, s, id, 10_000, true)
		if id > 2 {
			ids = append(ids, tnv.BlockID(id))
		}
	}
	s.sealAll(t)
	seg, _, off := segmentFile(s, key(1))
	flip(t, fs, seg, off+5000)
	ok(t, s.Delete(ctx, 1, ids))
	s.keepHouse()
	wantKind(t, s.Verify(key(1)), tnv.KindCorrupt)
	ok(t, s.Verify(key(2)))
	if s.Stats().Segments != 2 {
		t.Fatal("nothing was compacted, or the damaged segment went")
	}
	ok(t, s.Drop(key(1), "test"))
	s.keepHouse()
	if s.Stats().Segments != 1 {
		t.Fatal("the empty segment stays")
	}
}

func TestDeleteWhileCompacting(t *testing.T) {
	fs := vfs.NewMem()
	s := newStore(t, fs, quiet(fs))
	for id := 1; id <= 2; id++ {
		mustPut(t, s, id, 10_000, true)
	}
	s.sealAll(t)
	seg := s.segments[1]
	buf := make([]byte, tnv.MaxBlockSize)
	var moves []move
	for id := 1; id <= 2; id++ {
		m, err := s.copyBlock(seg, key(id), buf)
		ok(t, err)
		moves = append(moves, m)
	}
	ok(t, s.Delete(ctx, 1, []tnv.BlockID{1}))
	ok(t, s.settle(moves))
	if s.Has(key(1)) || !s.Has(key(2)) || s.index.get(key(2)).seg == 1 {
		t.Fatal("the copies were taken wrongly")
	}
	ok(t, s.Verify(key(2)))
}

// unsealedWith tells whether segment n of this boot has records.
func (s *Store) unsealedWith(n uint64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, g := range s.unsealed {
		if g.id&0xffff == n && g.count > 0 {
			return true
		}
	}
	return false
}

func TestForgetTombstones(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := newStore(t, fs, quiet(fs))
	mustPut(t, s, 1, 10_000, true)
	mustPut(t, s, 2, 10_000, true)
	s.sealAll(t)
	var ids []tnv.BlockID
	for id := tnv.BlockID(1000); id < 5000; id++ {
		ids = append(ids, id)
	}
	ok(t, s.Delete(ctx, 1, append(ids, 1)))
	s.keepHouse()
	if n := s.Stats().Tombstones; n != 1 {
		t.Fatalf("%d tombstones: that of block 1, which has a record, must stay, the others must go", n)
	}
	s = openStore(t, quiet(fs.CrashClone(vfs.CrashCloneCfg{})))
	if s.Has(key(1)) || !s.Has(key(2)) || s.Stats().LogBytes > 1000 {
		t.Fatalf("%+v", s.Stats())
	}
	// An index that lists the block, or none at all, does not bring it back.
	_, idx, _ := segmentFile(s, key(2))
	ok(t, s.opt.FS.Remove(idx))
	ok(t, s.Close())
	s = openStore(t, s.opt)
	if s.Has(key(1)) || !s.Has(key(2)) {
		t.Fatal("a deleted block came back")
	}
}
