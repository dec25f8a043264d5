package blockstore

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tnvfs/tnv"
)

// diskFS says that so much is available.
type diskFS struct {
	vfs.FS
	avail atomic.Uint64
}

func (d *diskFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: d.avail.Load()}, nil
}

// Another store fills the disk: this one notices before it has eaten what is
// kept back.
func TestSharedDisk(t *testing.T) {
	fs := &diskFS{FS: vfs.NewMem()}
	fs.avail.Store(48 << 20)
	opt := quiet(fs)
	opt.SegmentSize = 64 << 20
	s := newStore(t, fs, opt)
	mustPut(t, s, 1, 1000, false)
	const left = 10
	fs.avail.Store(left << 20) // within the second
	taken := 0
	var err error
	for i := 2; err == nil; i++ {
		m, p := block(key(i), 1<<20)
		if err = put(s, m, p, false); err == nil {
			taken++
			fs.avail.Store(uint64(max(left-taken, 0)) << 20)
		}
	}
	wantKind(t, err, tnv.KindNoSpace)
	if taken > 8 {
		t.Errorf("%d MiB were taken of the last %d", taken, left)
	}
}

// What is kept back suffices to move some blocks, on small disks too.
func TestReserve(t *testing.T) {
	s := &Store{}
	for capacity, want := range map[int64]int64{80 << 20: 10 << 20, 400 << 20: 16 << 20, 50 << 30: 1 << 30, 1 << 40: 2 << 30} {
		if got := s.reserved(capacity); got != want {
			t.Errorf("of %d bytes %d are kept back, want %d", capacity, got, want)
		}
	}
}

// allocFS notes how far files are allocated ahead.
type allocFS struct {
	diskFS
	longest int64
}

func (a *allocFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := a.FS.Create(name, c)
	return &allocFile{f, a}, err
}

type allocFile struct {
	vfs.File
	fs *allocFS
}

func (f *allocFile) Preallocate(off, n int64) error {
	f.fs.longest = max(f.fs.longest, n)
	return f.File.Preallocate(off, n)
}

// On a disk that is nearly full segments are not allocated ahead: that would
// take what is kept back from compaction, and from other stores.
func TestNoAllocationAhead(t *testing.T) {
	fs := &allocFS{diskFS: diskFS{FS: vfs.NewMem()}}
	fs.avail.Store(1 << 30)
	opt := quiet(fs)
	opt.SegmentSize = 64 << 20
	s := newStore(t, fs, opt)
	mustPut(t, s, 1, 1000, false)
	if fs.longest != opt.SegmentSize/16 {
		t.Errorf("with room, %d bytes are allocated at once", fs.longest)
	}
	fs.avail.Store(8 << 20)
	s.sealAll(t)
	fs.longest = 0
	s.space.asked = time.Time{}
	mustPut(t, s, 2, 1000, false)
	if fs.longest > 8192 {
		t.Errorf("on a disk that is nearly full, %d bytes are allocated at once", fs.longest)
	}
}
