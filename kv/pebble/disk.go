package pebble

import (
	"errors"
	"io"
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk is the file system that Pebble gets. It does two things:
//
// It puts off the syncs of log files (logsync.go).
//
// It freezes at the first write or sync that fails, of whatever file: from then
// on nothing is changed on the disk by this process, so that the next one finds
// what was there at that moment. Pebble ends the process where a log or a
// directory fails; TNV wants an engine that returns errors. So those two swallow
// what they are given once the disk is frozen, and never report an error: the
// engine asks for the failure after each commit. Other files report it, and
// Pebble tries again with a new file; that is slowed down.
type disk struct {
	vfs.FS
	log     *logSync
	failure *failure
	syncNow bool // a log's Sync is not put off

	quit     chan struct{} // closed: no more throttling
	quitOnce sync.Once

	mu   sync.Mutex
	held io.Closer // the directory's lock
}

func newDisk(fs vfs.FS, log *logSync, failure *failure, syncNow bool) *disk {
	return &disk{FS: fs, log: log, failure: failure, syncNow: syncNow, quit: make(chan struct{})}
}

func isLog(name string) bool { return path.Ext(name) == ".log" }

// frozen gives the failure, after a pause, if the disk is frozen.
func (d *disk) frozen() error {
	err := d.failure.get()
	if err != nil {
		select {
		case <-d.quit:
		case <-time.After(100 * time.Millisecond):
		}
	}
	return err
}

func (d *disk) stopThrottling() { d.quitOnce.Do(func() { close(d.quit) }) }

// Create implements vfs.FS.
func (d *disk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if isLog(name) {
		return d.createLog(name, category), nil
	}
	if err := d.frozen(); err != nil {
		return nil, err
	}
	f, err := d.FS.Create(name, category)
	if err != nil {
		return nil, d.failure.set("create "+name, err)
	}
	return &file{f, d, name}, nil
}

func (d *disk) createLog(name string, category vfs.DiskWriteCategory) vfs.File {
	if d.failure.get() != nil {
		return nowhere{}
	}
	f, err := d.FS.Create(name, category)
	if err != nil {
		_ = d.failure.set("create "+name, err)
		return nowhere{}
	}
	d.log.begin(f)
	return &logFile{f, d, name}
}

// ReuseForWrite implements vfs.FS: a file is never used again.
func (d *disk) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	_ = d.Remove(oldname)
	return d.Create(newname, category)
}

// OpenReadWrite implements vfs.FS.
func (d *disk) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := d.frozen(); err != nil {
		return nil, err
	}
	f, err := d.FS.OpenReadWrite(name, category, opts...)
	if err != nil {
		return nil, d.failure.set("open "+name, err)
	}
	return &file{f, d, name}, nil
}

// OpenDir implements vfs.FS.
func (d *disk) OpenDir(name string) (vfs.File, error) {
	f, err := d.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &directory{f, d, name}, nil
}

// Rename implements vfs.FS.
func (d *disk) Rename(oldname, newname string) error {
	if err := d.frozen(); err != nil {
		return err
	}
	return d.failure.set("rename "+oldname, d.FS.Rename(oldname, newname))
}

// Link implements vfs.FS.
func (d *disk) Link(oldname, newname string) error {
	if err := d.frozen(); err != nil {
		return err
	}
	return d.failure.set("link "+oldname, d.FS.Link(oldname, newname))
}

// Remove implements vfs.FS. To fail to remove what is not needed harms nobody.
func (d *disk) Remove(name string) error {
	if err := d.failure.get(); err != nil {
		return err
	}
	return d.FS.Remove(name)
}

// RemoveAll implements vfs.FS.
func (d *disk) RemoveAll(name string) error {
	if err := d.failure.get(); err != nil {
		return err
	}
	return d.FS.RemoveAll(name)
}

// Unwrap implements vfs.FS.
func (d *disk) Unwrap() vfs.FS { return d.FS }

type inUseError struct{ err error }

func (e *inUseError) Error() string { return "in use: " + e.err.Error() }

// Lock implements vfs.FS. It is the first moment at which the directory is ours,
// and before Pebble reads anything.
func (d *disk) Lock(name string) (io.Closer, error) {
	c, err := d.FS.Lock(name)
	if err != nil {
		var no syscall.Errno
		if !errors.As(err, &no) || no == syscall.EAGAIN {
			return nil, &inUseError{err} // no errno: this process has it
		}
		return nil, err
	}
	d.mu.Lock()
	d.held = c
	d.mu.Unlock()
	if err := trimLog(d.FS, d.FS.PathDir(name)); err != nil {
		_ = d.unlock()
		return nil, err
	}
	return unlocker{d}, nil
}

type unlocker struct{ d *disk }

func (u unlocker) Close() error { return u.d.unlock() }

// unlock releases the directory, once: by Pebble's close, or without it.
func (d *disk) unlock() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held == nil {
		return nil
	}
	err := d.held.Close()
	d.held = nil
	return err
}

// file is a table, a manifest or a marker.
type file struct {
	vfs.File
	d    *disk
	name string
}

func (f *file) do(op string, fn func() error) error {
	if err := f.d.failure.get(); err != nil {
		return err
	}
	return f.d.failure.set(op+" "+f.name, fn())
}

func (f *file) Write(p []byte) (n int, err error) {
	err = f.do("write", func() error { n, err = f.File.Write(p); return err })
	return n, err
}

func (f *file) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.do("write", func() error { n, err = f.File.WriteAt(p, off); return err })
	return n, err
}

func (f *file) Sync() error     { return f.do("sync", f.File.Sync) }
func (f *file) SyncData() error { return f.do("sync", f.File.SyncData) }

func (f *file) SyncTo(length int64) (full bool, err error) {
	err = f.do("sync", func() error { full, err = f.File.SyncTo(length); return err })
	return full, err
}

// directory swallows what fails; see disk.
type directory struct {
	vfs.File
	d    *disk
	name string
}

func (f *directory) Sync() error {
	if f.d.failure.get() == nil {
		_ = f.d.failure.set("sync "+f.name, f.File.Sync())
	}
	return nil
}

func (f *directory) SyncData() error { return f.Sync() }

// logFile is a log: its syncs are put off, and it swallows what fails; see disk.
type logFile struct {
	vfs.File
	d    *disk
	name string
}

func (f *logFile) Write(p []byte) (int, error) {
	if f.d.failure.get() == nil {
		_, err := f.File.Write(p)
		_ = f.d.failure.set("write "+f.name, err)
		f.d.log.wrote()
	}
	return len(p), nil
}

func (f *logFile) Sync() error {
	if f.d.syncNow {
		_ = f.d.log.sync()
	}
	return nil
}

func (f *logFile) SyncData() error { return f.Sync() }

func (f *logFile) SyncTo(int64) (bool, error) { return false, nil }

func (f *logFile) Close() error {
	f.d.log.end(f.name)
	return nil
}

// nowhere is a log on a frozen disk.
type nowhere struct{}

func (nowhere) Close() error                           { return nil }
func (nowhere) Read([]byte) (int, error)               { return 0, io.EOF }
func (nowhere) ReadAt([]byte, int64) (int, error)      { return 0, io.EOF }
func (nowhere) Write(p []byte) (int, error)            { return len(p), nil }
func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nowhere) Preallocate(int64, int64) error         { return nil }
func (nowhere) Stat() (vfs.FileInfo, error)            { return nil, errors.New("no such file") }
func (nowhere) Sync() error                            { return nil }
func (nowhere) SyncTo(int64) (bool, error)             { return false, nil }
func (nowhere) SyncData() error                        { return nil }
func (nowhere) Prefetch(int64, int64) error            { return nil }
func (nowhere) Fd() uintptr                            { return vfs.InvalidFd }
