package blockstore

import (
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
)

// Options tune a store. The zero value works.
type Options struct {
	FS          vfs.FS        // nil: vfs.Default
	SegmentSize int64         // bytes after which a new segment is begun; 0: 1 GiB
	Reserve     int64         // bytes kept back for deletions, index files, compaction; 0: 2% of the capacity, at most 2 GiB; negative: none
	Capacity    int64         // limit on the bytes used; 0: what the disk has
	PunchDelay  time.Duration // a deleted block's space is freed no earlier (D9); 0: 60 s, negative: at once
	// TombstoneAge is how long a deletion is remembered at least, whether or
	// not a segment still holds the block's record; 0: 24 h, negative: no time.
	TombstoneAge time.Duration
	CompactRate  int64         // bytes per second that compaction copies; 0: 64 MiB, negative: no limit
	Housekeeping time.Duration // how often punching and compaction look for work; 0: 1 s, negative: never
	MaxOpenFiles int           // files kept open for reading; 0: 512
	Log          *logrus.Entry // nil: nothing is logged
}

const (
	// step is how far a segment is preallocated ahead.
	step = 64 << 20
	// maxRecords is how many records a segment takes: it bounds the memory of
	// an unsealed segment and of whoever reads an index file.
	maxRecords = 1 << 18
	// maxSegmentSize keeps offsets, counted in sectors, within 32 bits.
	maxSegmentSize = 64 << 30
	// writeBack is how many bytes may be dirty before write-back is begun.
	writeBack = 8 << 20
)

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.SegmentSize <= 0 {
		o.SegmentSize = 1 << 30
	}
	o.SegmentSize = min(o.SegmentSize, maxSegmentSize)
	o.PunchDelay = orDefault(o.PunchDelay, 60*time.Second)
	o.TombstoneAge = orDefault(o.TombstoneAge, 24*time.Hour)
	if o.CompactRate == 0 {
		o.CompactRate = 64 << 20
	}
	if o.Housekeeping == 0 {
		o.Housekeeping = time.Second
	}
	if o.MaxOpenFiles <= 0 {
		o.MaxOpenFiles = 512
	}
	if o.Log == nil {
		l := logrus.New()
		l.SetOutput(io.Discard)
		o.Log = logrus.NewEntry(l)
	}
	return o
}

// orDefault gives d, or def for 0, or 0 for what is negative.
func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return max(d, 0)
}

// syncDir puts a directory's entries on disk.
func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// replaceFile makes name hold what write writes, or leaves it as it was: a
// temporary file is synced, then renamed, then the directory is synced.
func replaceFile(fs vfs.FS, dir, name string, write func(io.Writer) error) error {
	tmp := fs.PathJoin(dir, name+tmpSuffix)
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fs.Rename(tmp, fs.PathJoin(dir, name))
	}
	if err != nil {
		fs.Remove(tmp) // what is left is removed at the next start
		return err
	}
	return syncDir(fs, dir)
}

const tmpSuffix = ".tmp"

// wrap gives an I/O error its operation, with the kind of its errno.
func wrap(op string, err error) error { return tnv.Wrap(op, err) }
