package blockstore

import (
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// faultFS goes wrong when told to. Rules see the operation ("write", "sync",
// "read", "create", "prealloc", "punch") and the file's name.
type faultFS struct {
	vfs.FS
	mu      sync.Mutex
	rule    func(op, name string) error
	punches atomic.Int64
}

func (f *faultFS) set(rule func(op, name string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rule = rule
}

func (f *faultFS) ask(op, name string) error {
	f.mu.Lock()
	rule := f.rule
	f.mu.Unlock()
	if rule == nil {
		return nil
	}
	return rule(op, name)
}

func (f *faultFS) Unwrap() vfs.FS { return f.FS }

func (f *faultFS) file(name string, h vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &faultFile{File: h, fs: f, name: name}, nil
}

func (f *faultFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.ask("create", name); err != nil {
		return nil, err
	}
	h, err := f.FS.Create(name, c)
	return f.file(name, h, err)
}

func (f *faultFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	h, err := f.FS.Open(name, opts...)
	return f.file(name, h, err)
}

func (f *faultFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	h, err := f.FS.OpenReadWrite(name, c, opts...)
	return f.file(name, h, err)
}

type faultFile struct {
	vfs.File
	fs   *faultFS
	name string
}

func (f *faultFile) Write(p []byte) (int, error) {
	if err := f.fs.ask("write", f.name); err != nil {
		n, _ := f.File.Write(p[:len(p)/2]) // torn
		return n, err
	}
	return f.File.Write(p)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.ask("write", f.name); err != nil {
		n, _ := f.File.WriteAt(p[:len(p)/2], off) // torn
		return n, err
	}
	return f.File.WriteAt(p, off)
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.ask("read", f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultFile) Sync() error {
	if err := f.fs.ask("sync", f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultFile) SyncData() error { return f.Sync() }

func (f *faultFile) Preallocate(off, n int64) error {
	if err := f.fs.ask("prealloc", f.name); err != nil {
		return err
	}
	return f.File.Preallocate(off, n)
}

func (f *faultFile) Punch(off, n int64) error {
	if err := f.fs.ask("punch", f.name); err != nil {
		return err
	}
	f.fs.punches.Add(1)
	_, err := f.File.WriteAt(make([]byte, n), off)
	return err
}

// on makes a rule for one operation and the names that contain part.
func on(op, part string, err error) func(string, string) error {
	return func(o, name string) error {
		if o == op && strings.Contains(name, part) {
			return err
		}
		return nil
	}
}

// flip inverts bits of a byte of a file.
func flip(t testing.TB, fs vfs.FS, name string, off int64) {
	t.Helper()
	f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

var errIO = syscall.EIO
