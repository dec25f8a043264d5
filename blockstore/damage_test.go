package blockstore

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// A block's data that looks like records is not taken for records.
func TestForgedHeaders(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := newStore(t, fs, quiet(fs))
	mustPut(t, s, 1, 1000, true)
	seg := s.active.id
	evil, evilData := block(key(666), 512)
	var forged []byte
	for n := range uint32(20) {
		forged = (&record{segment: seg, number: n, meta: evil}).appendTo(forged)
		forged = append(forged, evilData...)
	}
	m := describe(key(2), forged)
	ok(t, put(s, m, forged, true))
	m3, p3 := describe(key(3), forged), forged
	w, err := s.Create(m3) // torn: only its first half arrives
	ok(t, err)
	w.Write(p3[:len(p3)/2/4096*4096])
	mustPut(t, s, 4, 1000, true)
	s2 := openStore(t, quiet(fs.CrashClone(vfs.CrashCloneCfg{})))
	for id, want := range map[int]bool{1: true, 2: true, 3: false, 4: true, 666: false} {
		if s2.Has(key(id)) != want {
			t.Errorf("block %d: held %v", id, !want)
		}
	}
	got, err := read(s2, key(2))
	ok(t, err)
	if !bytes.Equal(got, forged) {
		t.Fatal("it differs")
	}
}

// Nothing is appended to a torn tail.
func TestTornTail(t *testing.T) {
	for keep := 0; keep <= 100; keep += 10 {
		fs := vfs.NewCrashableMem()
		s := newStore(t, fs, quiet(fs))
		for id := 1; id <= 5; id++ {
			mustPut(t, s, id, 9000, true)
		}
		for id := 6; id <= 9; id++ {
			mustPut(t, s, id, 9000, false)
		}
		seg := s.active.id
		fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: keep, RNG: rand.New(rand.NewPCG(uint64(keep), 3))})
		s2 := openStore(t, quiet(fs))
		for id := 1; id <= 5; id++ {
			ok(t, s2.Verify(key(id)))
		}
		mustPut(t, s2, 100, 9000, true)
		if s2.active.id == seg {
			t.Fatal("the torn segment is appended to")
		}
		s3 := openStore(t, quiet(fs.CrashClone(vfs.CrashCloneCfg{})))
		ok(t, s3.Verify(key(100)))
		verifyAll(t, s3)
	}
}

// kill -9: what was committed is there, though never synced.
func TestKill(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := newStore(t, fs, quiet(fs))
	for id := 1; id <= 30; id++ {
		mustPut(t, s, id, 20_000, false)
	}
	ok(t, s.Delete(ctx, 1, []tnv.BlockID{3}))
	fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	s = openStore(t, quiet(fs))
	for id := 1; id <= 30; id++ {
		if err := s.Verify(key(id)); (err == nil) != (id != 3) {
			t.Fatalf("block %d: %v", id, err)
		}
	}
	// They are on disk now.
	s = openStore(t, quiet(fs.CrashClone(vfs.CrashCloneCfg{})))
	if n := s.Stats().Blocks; n != 29 {
		t.Fatalf("%d blocks after a power loss", n)
	}
}

func TestFlippedBits(t *testing.T) {
	setup := func(t *testing.T) (*vfs.MemFS, *Store) {
		fs := vfs.NewCrashableMem()
		s := newStore(t, fs, quiet(fs))
		for id := 1; id <= 4; id++ {
			mustPut(t, s, id, 9000, true)
		}
		ok(t, s.Delete(ctx, 1, []tnv.BlockID{2}))
		return fs, s
	}
	healthy := func(t *testing.T, s *Store, ids ...int) {
		t.Helper()
		for _, id := range ids {
			ok(t, s.Verify(key(id)))
		}
		if s.Has(key(2)) {
			t.Fatal("a deleted block came back")
		}
	}
	t.Run("header", func(t *testing.T) { // sealed: the index tells
		fs, s := setup(t)
		seg, _, off := segmentFile(s, key(3))
		ok(t, s.Close())
		flip(t, fs, seg, off+30)
		healthy(t, openStore(t, quiet(fs)), 1, 3, 4)
	})
	t.Run("header unsealed", func(t *testing.T) { // the walk ends there
		fs, s := setup(t)
		seg, _, off := segmentFile(s, key(3))
		fs = fs.CrashClone(vfs.CrashCloneCfg{})
		flip(t, fs, seg, off+30)
		s = openStore(t, quiet(fs))
		healthy(t, s, 1)
		if s.Has(key(3)) || s.Has(key(4)) {
			t.Fatal("the walk went over a damaged header")
		}
	})
	t.Run("segment header", func(t *testing.T) {
		fs, s := setup(t)
		seg, idx, _ := segmentFile(s, key(3))
		ok(t, s.Close())
		flip(t, fs, seg, 14)
		ok(t, fs.Remove(idx))
		healthy(t, openStore(t, quiet(fs)), 1, 3, 4)
	})
	t.Run("data", func(t *testing.T) {
		fs, s := setup(t)
		seg, _, off := segmentFile(s, key(3))
		ok(t, s.Close())
		flip(t, fs, seg, off+5000)
		s = openStore(t, quiet(fs))
		healthy(t, s, 1, 4)
		wantKind(t, s.Verify(key(3)), tnv.KindCorrupt)
	})
	t.Run("index", func(t *testing.T) {
		fs, s := setup(t)
		_, idx, _ := segmentFile(s, key(3))
		ok(t, s.Close())
		for off := int64(0); off < 64+4*64; off += 13 {
			flip(t, fs, idx, off)
			s = openStore(t, quiet(fs))
			healthy(t, s, 1, 3, 4)
			ok(t, s.Close())
		}
	})
	t.Run("index sums", func(t *testing.T) { // found when they are read
		fs, s := setup(t)
		_, idx, _ := segmentFile(s, key(3))
		ok(t, s.Close())
		for off := int64(64 + 4*64); off < 64+4*64+4*12; off++ {
			flip(t, fs, idx, off)
		}
		s = openStore(t, quiet(fs))
		healthy(t, s, 1, 3, 4)
		if s.Stats().Damaged == 0 {
			t.Fatal("nobody saw it")
		}
	})
	t.Run("delete log", func(t *testing.T) {
		for off := int64(0); off < 3*logSlot; off++ {
			fs, s := setup(t)
			ok(t, s.Close())
			flip(t, fs, "d/"+logName, off)
			s = openStore(t, quiet(fs))
			healthy(t, s, 1, 3, 4)
			ok(t, s.Close())
			if s.Stats().Damaged == 0 {
				t.Fatal("nobody saw it")
			}
			s = openStore(t, quiet(fs))
			healthy(t, s, 1, 3, 4)
		}
	})
	t.Run("superblock", func(t *testing.T) {
		fs, s := setup(t)
		ok(t, s.Close())
		for off := int64(0); off < 40; off++ {
			flip(t, fs, "d/"+superName, off)
			_, err := Open("d", quiet(fs))
			wantKind(t, err, tnv.KindCorrupt)
			if !strings.Contains(err.Error(), "superblock") {
				t.Fatal(err)
			}
			flip(t, fs, "d/"+superName, off)
		}
	})
	t.Run("no delete log", func(t *testing.T) {
		fs, s := setup(t)
		ok(t, s.Close())
		ok(t, fs.Remove("d/"+logName))
		_, err := Open("d", quiet(fs))
		wantKind(t, err, tnv.KindCorrupt)
	})
}

// A failed sync is final for its segment (D5).
func TestSyncFails(t *testing.T) {
	fs := &faultFS{FS: vfs.NewCrashableMem()}
	s := newStore(t, fs, quiet(fs))
	mustPut(t, s, 1, 9000, true)
	mustPut(t, s, 2, 9000, false)
	m5, p5 := block(key(5), 9000)
	w, err := s.Create(m5)
	ok(t, err)
	_, err = w.Write(p5)
	ok(t, err)
	syncs := 0
	fs.set(func(op, name string) error {
		if op == "sync" && strings.HasSuffix(name, ".seg") {
			if syncs++; syncs == 1 {
				return errIO
			}
		}
		return nil
	})
	m3, p3 := block(key(3), 9000)
	wantKind(t, put(s, m3, p3, true), tnv.KindUnavailable)
	wantKind(t, w.Commit(true), tnv.KindUnavailable)
	ok(t, s.Sync(ctx))
	s.sealDrained()
	if syncs != 1 {
		t.Fatalf("the failed sync was tried again (%d)", syncs)
	}
	check := func(s *Store) {
		t.Helper()
		for id, want := range map[int]bool{1: true, 2: false, 3: false, 5: false} {
			if s.Has(key(id)) != want {
				t.Fatalf("block %d: held %v", id, !want)
			}
		}
		ok(t, s.Verify(key(1)))
	}
	check(s)
	mem := fs.FS.(*vfs.MemFS)
	check(openStore(t, quiet(mem.CrashClone(vfs.CrashCloneCfg{}))))
	fs.set(nil)
	mustPut(t, s, 3, 9000, true) // another segment takes it
	mustPut(t, s, 2, 9000, true)
	s = openStore(t, quiet(mem.CrashClone(vfs.CrashCloneCfg{})))
	for id := 1; id <= 3; id++ {
		ok(t, s.Verify(key(id)))
	}
}

func TestIOErrors(t *testing.T) {
	mem := vfs.NewCrashableMem()
	fs := &faultFS{FS: mem}
	s := newStore(t, fs, quiet(fs))
	mustPut(t, s, 1, 9000, true)
	s.sealAll(t)
	for _, rule := range []func(string, string) error{
		on("write", ".seg", errIO), on("create", ".seg", errIO), on("sync", ".seg", errIO), on("write", ".seg", errNoSpace),
	} {
		fs.set(rule)
		m, p := block(key(2), 9000)
		if put(s, m, p, true) == nil || s.Has(key(2)) {
			t.Fatal("put on a failing disk")
		}
		fs.set(nil)
	}
	fs.set(on("read", ".seg", errIO))
	if _, err := read(s, key(1)); err == nil || tnv.KindOf(err) == tnv.KindMissing || tnv.KindOf(err) == tnv.KindCorrupt {
		t.Fatalf("read on a failing disk: %v", err)
	}
	for _, op := range []string{"write", "sync"} {
		fs.set(on(op, logName, errIO))
		if s.Delete(ctx, 1, []tnv.BlockID{1}) == nil {
			t.Fatal("delete on a failing disk")
		}
		if s.Delete(ctx, 1, []tnv.BlockID{1}) == nil {
			t.Fatal("the failed log is used again")
		}
		fs.set(nil)
		ok(t, s.Verify(key(1)))
	}
	mustPut(t, s, 2, 9000, true)
	ok(t, s.Delete(ctx, 1, []tnv.BlockID{3}))
	ok(t, s.Verify(key(2)))
	crashed := openStore(t, quiet(mem.CrashClone(vfs.CrashCloneCfg{})))
	ok(t, crashed.Verify(key(2)))
	m, _ := block(key(3), 100)
	_, err := crashed.Create(m)
	wantKind(t, err, tnv.KindStale)
}

func FuzzRecord(f *testing.F) {
	m, _ := block(key(1), 9000)
	f.Add((&record{segment: 3, number: 4, meta: m}).appendTo(nil))
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, p := range [][]byte{p, fixRecord(p)} {
			if r, ok := decodeRecord(p); ok {
				if again := r.appendTo(nil); !bytes.Equal(again[8:60], p[8:60]) {
					t.Fatal("it is encoded differently")
				}
			}
			readRecord(bytes.NewReader(p), 0)
		}
	})
}

// fixRecord gives random bytes the checksum and magic of a header.
func fixRecord(p []byte) []byte {
	p = bytes.Clone(p)
	if len(p) < fixedHeader {
		return p
	}
	binary.BigEndian.PutUint32(p, recordMagic)
	if n, ok := sumsOf(p); ok && len(p) >= fixedHeader+4*n {
		binary.BigEndian.PutUint32(p[4:], checksum(p[8:fixedHeader+4*n]))
	}
	return p
}

func FuzzIndex(f *testing.F) {
	m, _ := block(key(1), 9000)
	e := entry{key: m.Key, home: m.Home, len: m.Len, unit: m.Unit, off: 1, state: recLive}
	var b bytes.Buffer
	writeIndex(&b, 7, 10_000+sector, []entry{e}, m.Sums)
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) >= indexHeader { // let the fuzzer behind the checksum
			p = bytes.Clone(p)
			binary.BigEndian.PutUint32(p[4:], checksum(p[8:indexHeader]))
		}
		r := bytes.NewReader(p)
		n := 0
		info, err := readIndex(r, int64(len(p)), 7, func(uint32, entry) { n++ })
		if err != nil {
			return
		}
		for i := range uint32(n) {
			readEntry(r, i, &info)
		}
	})
}

func FuzzLog(f *testing.F) {
	f.Add((&slot{kind: slotDelete, key: key(5)}).appendTo(nil))
	f.Fuzz(func(t *testing.T, p []byte) {
		n := 0
		damaged, err := readLog(bytes.NewReader(p), func(slot) { n++ })
		if err != nil || int64(n)*logSlot+damaged < int64(len(p))/logSlot*logSlot {
			t.Fatal(n, damaged, err)
		}
	})
}

func FuzzSuperblock(f *testing.F) {
	b := Superblock{Format: format, Cluster: "c", Group: "g", Node: 1, Boot: 2}
	f.Add(b.encode())
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > 4 {
			p = bytes.Clone(p)
			binary.BigEndian.PutUint32(p[len(p)-4:], checksum(p[:len(p)-4]))
		}
		if b, err := decodeSuperblock(p); err == nil && b.Node == 0 {
			t.Fatal("no node")
		}
	})
}

func FuzzWalk(f *testing.F) {
	m, p := block(key(1), 600)
	seg := (&record{segment: 1, meta: m}).appendTo(make([]byte, sector))
	f.Add(append(seg, p...))
	f.Fuzz(func(t *testing.T, p []byte) {
		w := walker{f: bytes.NewReader(p), size: int64(len(p)), segment: 1}
		if err := w.walk(); err != nil {
			t.Fatal(err)
		}
	})
}

func checksum(p []byte) uint32 { return crc32.Checksum(p, protocol.Castagnoli) }

// A header that lies in the right place and is whole, but was written for
// another segment or number, is none: disks hand out old blocks.
func TestForeignHeader(t *testing.T) {
	m, p := block(key(1), 600)
	p = append(p, make([]byte, sector)...)[:2*sector]
	for _, rec := range []record{{segment: 2, meta: m}, {segment: 1, number: 1, meta: m}, {segment: 1, meta: m}} {
		img := append(rec.appendTo(make([]byte, sector)), p...)
		w := walker{f: bytes.NewReader(img), size: int64(len(img)), segment: 1}
		ok(t, w.walk())
		if want := count(rec.segment == 1 && rec.number == 0); len(w.entries) != want {
			t.Errorf("segment %d, number %d: %d records", rec.segment, rec.number, len(w.entries))
		}
	}
}

// What a start finds after kill -9 is on disk before it counts.
func TestKillThenPowerLoss(t *testing.T) {
	mem := vfs.NewCrashableMem()
	s := newStore(t, mem, quiet(mem))
	mustPut(t, s, 1, 20_000, true)
	mustPut(t, s, 2, 20_000, false)
	s.life.Lock()
	s.closed = true // it is never heard of again
	s.life.Unlock()
	close(s.stop)
	s.wg.Wait()
	again := openStore(t, quiet(noLock{mem}))
	ok(t, again.Verify(key(2)))
	s2 := openStore(t, quiet(mem.CrashClone(vfs.CrashCloneCfg{})))
	ok(t, s2.Verify(key(2)))
}

// noLock is a file system whose locks are gone, as after the owner's death.
type noLock struct{ vfs.FS }

func (noLock) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }
