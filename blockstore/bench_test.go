package blockstore

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
)

func realStore(t testing.TB, opt Options) *Store {
	t.Helper()
	dir := t.TempDir()
	_, err := Init(dir, "c", "g", opt)
	ok(t, err)
	s, err := Open(dir, opt)
	ok(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// The holes are real: the file system has the space back.
func TestRealFiles(t *testing.T) {
	opt := quiet(vfs.Default)
	opt.SegmentSize = 16 << 20
	s := realStore(t, opt)
	var ids []tnv.BlockID
	for id := 1; id <= 12; id++ {
		mustPut(t, s, id, 1<<20, id%3 == 0)
		mustPut(t, s, 100+id, 4096, true)
		ids = append(ids, tnv.BlockID(id))
	}
	seg, _, _ := segmentFile(s, key(1))
	before := allocated(t, seg)
	r, err := s.Open(key(1))
	ok(t, err)
	if f, base := r.File(); f == nil || base%sector != 0 {
		t.Fatal("no file")
	}
	r.Close()
	ok(t, s.Delete(ctx, 1, ids[:8]))
	s.keepHouse()
	if freed := before - allocated(t, seg); freed < 7<<20 {
		t.Fatalf("%d bytes were freed", freed)
	}
	for id := 9; id <= 12; id++ {
		ok(t, s.Verify(key(id)))
		ok(t, s.Verify(key(100+id)))
	}
	dir := s.dir
	ok(t, s.Close())
	s, err = Open(dir, opt)
	ok(t, err)
	defer s.Close()
	for id := 1; id <= 12; id++ {
		if s.Has(key(id)) != (id > 8) {
			t.Fatal(id)
		}
		ok(t, s.Verify(key(100+id)))
	}
}

func allocated(t *testing.T, name string) int64 {
	t.Helper()
	var st syscall.Stat_t
	ok(t, syscall.Stat(name, &st))
	return st.Blocks * 512
}

// What a block costs in memory.
func TestMemoryPerBlock(t *testing.T) {
	const n = 500_000
	x := index{vols: map[tnv.VolumeID]*volume{}}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range n {
		x.set(tnv.BlockKey{Vol: 1, ID: tnv.BlockID(i + 1)}, location{seg: 1, off: uint32(i), pos: uint32(i), len: 1})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := float64(after.HeapAlloc-before.HeapAlloc) / n
	t.Logf("%.1f bytes per block", per)
	if per > 60 {
		t.Errorf("%.1f bytes per block", per)
	}
	runtime.KeepAlive(&x)
}

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{4 << 10, 32 << 10, 4 << 20} {
		for _, sync := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dK/sync=%v", size>>10, sync), func(b *testing.B) {
				benchPut(b, size, sync, 1)
			})
		}
	}
	b.Run("4K/sync=true/16 at once", func(b *testing.B) { benchPut(b, 4<<10, true, 16) })
}

func benchPut(b *testing.B, size int, sync bool, parallel int) {
	s := realStore(b, Options{Capacity: 8 << 30})
	_, p := block(key(1), size)
	var next atomic.Int64
	b.SetBytes(int64(size))
	b.SetParallelism(parallel)
	b.ResetTimer()
	run := func() error {
		i := int(next.Add(1)) - 1
		w, err := s.Create(describe(key(i+1), p)) // the client computes the sums: they cost as much again
		if err != nil {
			return err
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
		return w.Commit(sync)
	}
	if parallel == 1 {
		for b.Loop() {
			ok(b, run())
		}
		return
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := run(); err != nil {
				b.Error(err)
			}
		}
	})
}

// What the disk gives: one write and one fdatasync.
func BenchmarkRawSync(b *testing.B) {
	for _, zeroed := range []bool{false, true} {
		b.Run(fmt.Sprintf("zeroed=%v", zeroed), func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
			ok(b, err)
			defer f.Close()
			p := make([]byte, 4608)
			const n = 8 << 10
			if zeroed {
				for i := range int64(n) {
					_, err := f.WriteAt(p, i*4608)
					ok(b, err)
				}
			}
			ok(b, f.Sync())
			i := int64(0)
			for b.Loop() {
				_, err := f.WriteAt(p, i%n*4608)
				ok(b, err)
				ok(b, unix.Fdatasync(int(f.Fd())))
				i++
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	for _, size := range []int{4 << 10, 4 << 20} {
		b.Run(fmt.Sprintf("%dK", size>>10), func(b *testing.B) {
			s := realStore(b, Options{})
			const n = 32
			for i := range n {
				mustPut(b, s, i+1, size, false)
			}
			s.sealAll(b)
			buf := make([]byte, size)
			b.SetBytes(int64(size))
			i := 0
			for b.Loop() {
				r, err := s.Open(key(i%n + 1))
				ok(b, err)
				if _, err := r.ReadAt(buf, 0); err != nil {
					b.Fatal(err)
				}
				r.Close()
				i++
			}
		})
	}
}
