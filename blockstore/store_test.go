package blockstore

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

var ctx = context.Background()

func key(id int) tnv.BlockKey { return tnv.BlockKey{Vol: 1, ID: tnv.BlockID(id)} }

// block is the only content that a key ever has in these tests.
func block(k tnv.BlockKey, n int) (protocol.BlockMeta, []byte) {
	rng := rand.New(rand.NewPCG(uint64(k.Vol), uint64(k.ID)))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return describe(k, p), p
}

func describe(k tnv.BlockKey, p []byte) protocol.BlockMeta {
	unit := protocol.UnitFor(len(p))
	return protocol.BlockMeta{
		Key: k, Home: tnv.Home{Ino: tnv.Ino(k.ID) + 100, Chunk: uint64(k.ID) % 7},
		Len: uint32(len(p)), Unit: unit, Sums: protocol.BlockSums(k, unit, p),
	}
}

func put(s *Store, m protocol.BlockMeta, p []byte, sync bool) error {
	w, err := s.Create(m)
	if err != nil {
		return err
	}
	for len(p) > 0 {
		n := min(len(p), 5000)
		if _, err := w.Write(p[:n]); err != nil {
			w.Abort()
			return err
		}
		p = p[n:]
	}
	return w.Commit(sync)
}

func mustPut(t testing.TB, s *Store, id, n int, sync bool) []byte {
	t.Helper()
	m, p := block(key(id), n)
	if err := put(s, m, p, sync); err != nil {
		t.Fatal(err)
	}
	return p
}

// read reads a whole block and compares it with its sums.
func read(s *Store, k tnv.BlockKey) ([]byte, error) {
	r, err := s.Open(k)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	p := make([]byte, r.Meta().Len)
	if _, err := r.ReadAt(p, 0); err != nil && err != io.EOF {
		return nil, err
	}
	m := r.Meta()
	if bad := protocol.Verify(k, m.Unit, 0, p, m.Sums); bad >= 0 {
		return nil, tnv.E("test", tnv.KindCorrupt, "unit %d of %v", bad, k)
	}
	return p, nil
}

func wantKind(t testing.TB, err error, kind tnv.Kind) {
	t.Helper()
	if err == nil || tnv.KindOf(err) != kind {
		t.Fatalf("got %v (%v), want %v", err, tnv.KindOf(err), kind)
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// quiet are options with which nothing happens in the background.
func quiet(fs vfs.FS) Options {
	return Options{FS: fs, SegmentSize: 256 << 10, PunchDelay: -1, TombstoneAge: -1, CompactRate: -1, Housekeeping: -1}
}

func newStore(t testing.TB, fs vfs.FS, opt Options) *Store {
	t.Helper()
	_, err := Init("d", "c", "g1", opt)
	ok(t, err)
	return openStore(t, opt)
}

func openStore(t testing.TB, opt Options) *Store {
	t.Helper()
	s, err := Open("d", opt)
	ok(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// segmentFile names the file that holds a block, and where its header begins.
func segmentFile(s *Store, k tnv.BlockKey) (seg, idx string, off int64) {
	at := s.index.get(k)
	g := s.segments[at.seg]
	return s.segmentPath(g), s.indexPath(g), int64(at.off) * sector
}

func TestPutGet(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := newStore(t, fs, quiet(fs))
	sizes := []int{1, 511, 512, 513, 4095, 4096, 4097, 65536, 65537, 100_000}
	for i, n := range sizes {
		mustPut(t, s, i+1, n, i%2 == 0)
	}
	check := func(s *Store) {
		t.Helper()
		for i, n := range sizes {
			_, want := block(key(i+1), n)
			got, err := read(s, key(i+1))
			ok(t, err)
			if !bytes.Equal(got, want) {
				t.Fatalf("block %d differs", i+1)
			}
			ok(t, s.Verify(key(i+1)))
			if h, held := s.Home(key(i + 1)); !held || h.Ino != tnv.Ino(i+101) {
				t.Fatalf("home %v", h)
			}
		}
	}
	check(s)
	_, err := s.Open(key(99))
	wantKind(t, err, tnv.KindMissing)
	boot := s.Super().Boot
	ok(t, s.Close())
	wantKind(t, s.Sync(ctx), tnv.KindUnavailable)
	s = openStore(t, quiet(fs))
	if !s.Super().Clean || s.Super().Boot != boot+1 {
		t.Fatalf("superblock %+v", s.Super())
	}
	check(s)
}

func TestCreateRefuses(t *testing.T) {
	fs := vfs.NewMem()
	s := newStore(t, fs, quiet(fs))
	mustPut(t, s, 1, 5000, false)
	m, p := block(key(1), 5000)
	_, err := s.Create(m)
	wantKind(t, err, tnv.KindExist)
	ok(t, s.SyncBlock(key(1)))
	other := describe(key(1), append([]byte("x"), p...))
	_, err = s.Create(other)
	wantKind(t, err, tnv.KindConflict)
	m.Len = 0
	_, err = s.Create(m)
	wantKind(t, err, tnv.KindInvalid)

	// Two receptions at once: the bytes that come second are not taken (D3).
	m2, p2 := block(key(2), 6000)
	w1, err := s.Create(m2)
	ok(t, err)
	p3 := bytes.Repeat([]byte("y"), 6000)
	w2, err := s.Create(describe(key(2), p3))
	ok(t, err)
	w3, err := s.Create(m2)
	ok(t, err)
	w1.Write(p2)
	w2.Write(p3)
	w3.Write(p2)
	ok(t, w1.Commit(true))
	wantKind(t, w2.Commit(true), tnv.KindConflict)
	ok(t, w3.Commit(true))

	m4, p4 := block(key(4), 9000)
	w, err := s.Create(m4)
	ok(t, err)
	p4[8500] ^= 1
	_, err = w.Write(p4)
	wantKind(t, err, tnv.KindCorrupt)
	wantKind(t, w.Commit(true), tnv.KindCorrupt)
	if s.Has(key(4)) || s.Stats().Receiving != 0 {
		t.Fatal("a bad block is held")
	}
	w, err = s.Create(m4)
	ok(t, err)
	w.Write(p4[:5000])
	wantKind(t, w.Commit(false), tnv.KindInvalid)
}

func TestDelete(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := newStore(t, fs, quiet(fs))
	mustPut(t, s, 1, 5000, true)
	m2, p2 := block(key(2), 5000)
	w, err := s.Create(m2)
	ok(t, err)
	_, err = w.Write(p2[:1000])
	ok(t, err)
	m4, p4 := block(key(4), 5000)
	whole, err := s.Create(m4)
	ok(t, err)
	_, err = whole.Write(p4)
	ok(t, err)
	ok(t, s.Delete(ctx, 1, []tnv.BlockID{1, 2, 3, 4}))
	wantKind(t, whole.Commit(true), tnv.KindStale)
	_, err = w.Write(p2[1000:])
	wantKind(t, err, tnv.KindStale)
	wantKind(t, w.Commit(true), tnv.KindStale)
	for round := range 3 {
		for id := 1; id <= 4; id++ {
			if s.Has(key(id)) {
				t.Fatalf("round %d: deleted block %d is held", round, id)
			}
			m, _ := block(key(id), 5000)
			_, err := s.Create(m)
			wantKind(t, err, tnv.KindStale)
		}
		if round == 0 {
			s = openStore(t, quiet(reset(fs.CrashClone(vfs.CrashCloneCfg{}), &fs)))
		} else {
			ok(t, s.Close())
			s = openStore(t, quiet(fs))
		}
	}
}

func reset(fs *vfs.MemFS, to **vfs.MemFS) *vfs.MemFS {
	*to = fs
	return fs
}

func TestDropAndPutAgain(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := newStore(t, fs, quiet(fs))
	p := mustPut(t, s, 1, 20000, true)
	s.sealAll(t) // its index lists the block
	seg, _, off := segmentFile(s, key(1))
	flip(t, fs, seg, off+5000)
	err := s.Verify(key(1))
	wantKind(t, err, tnv.KindCorrupt)
	if !strings.Contains(err.Error(), "segment 0000000100000001, offset ") {
		t.Fatalf("it does not say where: %v", err)
	}
	ok(t, s.Drop(key(1), "test"))
	wantKind(t, s.Drop(key(1), "test"), tnv.KindMissing)
	s.sealAll(t)
	crash := fs.CrashClone(vfs.CrashCloneCfg{})
	if s2 := openStore(t, quiet(crash)); s2.Has(key(1)) {
		t.Fatal("a dropped copy came back")
	}
	mustPut(t, s, 1, 20000, true)
	s = openStore(t, quiet(fs.CrashClone(vfs.CrashCloneCfg{})))
	got, err := read(s, key(1))
	ok(t, err)
	if !bytes.Equal(got, p) {
		t.Fatal("it differs")
	}
}

// sealAll seals the active segment.
func (s *Store) sealAll(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	if s.active != nil {
		s.drainLocked(s.active)
	}
	s.mu.Unlock()
	ok(t, s.sealDrained())
	deadline := time.Now().Add(5 * time.Second)
	for { // the sealer may have been faster, and not be done
		s.sealMu.Lock()
		s.mu.RLock()
		n := 0
		for _, g := range s.unsealed {
			n += count(g.state == segDraining && g.writers == 0)
		}
		s.mu.RUnlock()
		s.sealMu.Unlock()
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("segments do not seal")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestListAndDigest(t *testing.T) {
	fs := vfs.NewMem()
	s := newStore(t, fs, quiet(fs))
	for id := 1; id <= 50; id++ {
		mustPut(t, s, id, 600, false)
	}
	ok(t, s.Delete(ctx, 1, []tnv.BlockID{7, 50, 60}))
	got, more, err := s.List(1, 5, 20, 4)
	ok(t, err)
	if len(got) != 4 || !more || got[0].Block != 5 || got[2].Block != 8 || got[2].Home.Ino != 108 || got[2].Len != 600 {
		t.Fatalf("%+v %v", got, more)
	}
	got, more, err = s.List(1, 45, 0, 100)
	ok(t, err)
	if len(got) != 5 || more {
		t.Fatalf("%+v %v", got, more)
	}
	counts, sums, last, err := s.Digest(1, 1, 41, 4)
	ok(t, err)
	var want uint64
	for _, id := range []tnv.BlockID{1, 2, 3, 4, 5, 6, 8, 9, 10} {
		want += HashID(id)
	}
	if last != 49 || counts[0] != 9 || counts[3] != 10 || sums[0] != want {
		t.Fatalf("%v %v %v", counts, sums, last)
	}
	counts, _, _, err = s.Digest(1, 0, 0, 256)
	ok(t, err)
	if counts[0] != 48 {
		t.Fatalf("%v", counts)
	}
	counts, _, _, err = s.Digest(1, 0, 0, 1)
	ok(t, err)
	if counts[0] != 48 {
		t.Fatalf("%v", counts)
	}
	if v := s.Volumes(); len(v) != 1 || v[0] != 1 {
		t.Fatalf("%v", v)
	}
}

func TestSecondOpen(t *testing.T) {
	for _, fs := range []vfs.FS{vfs.NewMem(), vfs.Default} {
		dir := "d"
		if fs == vfs.Default {
			dir = t.TempDir()
		}
		_, err := Open(dir+"/none", Options{FS: fs})
		wantKind(t, err, tnv.KindNotExist)
		_, err = Init(dir, "c", "g", Options{FS: fs})
		ok(t, err)
		_, err = Init(dir, "c", "g", Options{FS: fs})
		wantKind(t, err, tnv.KindExist)
		s, err := Open(dir, Options{FS: fs})
		ok(t, err)
		_, err = Open(dir, Options{FS: fs})
		wantKind(t, err, tnv.KindBusy)
		ok(t, s.Close())
		s, err = Open(dir, Options{FS: fs})
		ok(t, err)
		ok(t, s.Close())
	}
}

func TestReaderPins(t *testing.T) {
	mem := vfs.NewMem()
	fs := &faultFS{FS: mem}
	s := newStore(t, fs, quiet(fs))
	want := mustPut(t, s, 1, 100_000, true)
	mustPut(t, s, 2, 100_000, true)
	s.sealAll(t)
	r, err := s.Open(key(1))
	ok(t, err)
	ok(t, s.Delete(ctx, 1, []tnv.BlockID{1}))
	s.keepHouse()
	if fs.punches.Load() != 0 {
		t.Fatal("punched under a reader")
	}
	ok(t, s.Delete(ctx, 1, []tnv.BlockID{2}))
	s.keepHouse() // the segment is empty now
	got := make([]byte, len(want))
	_, err = r.ReadAt(got, 0)
	ok(t, err)
	if !bytes.Equal(got, want) {
		t.Fatal("the reader's bytes changed")
	}
	if s.Stats().Segments != 1 {
		t.Fatal("the segment went under a reader")
	}
	ok(t, r.Close())
	s.keepHouse()
	if st := s.Stats(); st.Segments != 0 || st.Used != 0 {
		t.Fatalf("the empty segment stays: %+v", st)
	}
}

func TestPunchDelay(t *testing.T) {
	fs := &faultFS{FS: vfs.NewMem()}
	opt := quiet(fs)
	opt.PunchDelay = time.Hour
	s := newStore(t, fs, opt)
	mustPut(t, s, 1, 100_000, true)
	mustPut(t, s, 2, 1000, true)
	ok(t, s.Delete(ctx, 1, []tnv.BlockID{1}))
	s.keepHouse()
	if fs.punches.Load() != 0 || s.Stats().PendingPunches != 1 {
		t.Fatal("punched before its time")
	}
}

func TestCapacity(t *testing.T) {
	fs := &faultFS{FS: vfs.NewMem()}
	opt := quiet(fs)
	opt.Capacity, opt.Reserve = 1<<20, 200_000
	s := newStore(t, fs, opt)
	id := 0
	var err error
	for err == nil {
		id++
		m, p := block(key(id), 50_000)
		err = put(s, m, p, false)
	}
	wantKind(t, err, tnv.KindNoSpace)
	if id < 14 || id > 17 || !func() bool { st := s.Stats(); return st.Full() }() {
		t.Fatalf("full after %d blocks", id)
	}
	// The copy of the metadata, for which deletions wait, takes half of what is kept back.
	copies := 0
	for err = nil; err == nil; copies++ {
		m, p := block(tnv.BlockKey{Vol: tnv.CopyVolume, ID: tnv.BlockID(copies + 1)}, 50_000)
		err = put(s, m, p, false)
	}
	wantKind(t, err, tnv.KindNoSpace)
	if copies < 2 || copies > 4 {
		t.Fatalf("%d pieces of copies fit", copies-1)
	}
	for i := 1; i < id; i++ {
		if i%4 != 0 {
			ok(t, s.Delete(ctx, 1, []tnv.BlockID{tnv.BlockID(i)}))
		}
	}
	s.keepHouse()
	mustPut(t, s, 1000, 50_000, true)
	ok(t, s.Verify(key(4)))

	// The disk itself is full.
	fs.set(func(op, name string) error {
		if op == "prealloc" || op == "create" {
			return errNoSpace
		}
		return nil
	})
	err = nil
	for i := 2000; err == nil; i++ {
		m, p := block(key(i), 50_000)
		err = put(s, m, p, false)
	}
	wantKind(t, err, tnv.KindNoSpace)
	ok(t, s.Delete(ctx, 1, []tnv.BlockID{1000}))
	fs.set(nil)
}

var errNoSpace = error(syscall.ENOSPC)
