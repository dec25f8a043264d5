package blockstore

import (
	"container/list"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// handle is an open file with a count of its users: the last closes it.
type handle struct {
	r    io.ReaderAt
	os   *os.File // of a real file opened for reading; else nil
	w    vfs.File // of a file opened for writing; else nil
	c    io.Closer
	refs atomic.Int32
}

func newHandle(r io.ReaderAt, c io.Closer) *handle {
	h := &handle{r: r, c: c}
	h.refs.Store(1)
	return h
}

// retain adds a user. The caller is one, or holds the lock of whoever is.
func (h *handle) retain() *handle {
	h.refs.Add(1)
	return h
}

func (h *handle) release() {
	if h.refs.Add(-1) == 0 {
		h.c.Close() // a file read only, or synced before: nothing is lost
	}
}

// fileTable keeps the files most recently read open, so that a store of any
// size gets by with few descriptors.
type fileTable struct {
	fs  vfs.FS
	max int

	mu   sync.Mutex
	open map[string]*list.Element // of *openFile
	lru  list.List                // the most recent in front
}

type openFile struct {
	name string
	h    *handle
}

func newFileTable(fs vfs.FS, max int) *fileTable {
	return &fileTable{fs: fs, max: max, open: map[string]*list.Element{}}
}

// get opens a file for reading, or finds it open. The caller releases it.
func (t *fileTable) get(name string) (*handle, error) {
	if h := t.find(name); h != nil {
		return h, nil
	}
	h, err := t.openFile(name)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.open[name]; e != nil { // someone was faster
		h.release()
		t.lru.MoveToFront(e)
		return e.Value.(*openFile).h.retain(), nil
	}
	t.open[name] = t.lru.PushFront(&openFile{name, h})
	h.retain()
	for t.lru.Len() > t.max {
		t.removeLocked(t.lru.Back())
	}
	return h, nil
}

func (t *fileTable) find(name string) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.open[name]
	if e == nil {
		return nil
	}
	t.lru.MoveToFront(e)
	return e.Value.(*openFile).h.retain()
}

func (t *fileTable) openFile(name string) (*handle, error) {
	if t.fs == vfs.Default {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		h := newHandle(f, f)
		h.os = f
		return h, nil
	}
	f, err := t.fs.Open(name)
	if err != nil {
		return nil, err
	}
	return newHandle(f, f), nil
}

func (t *fileTable) removeLocked(e *list.Element) {
	f := e.Value.(*openFile)
	t.lru.Remove(e)
	delete(t.open, f.name)
	f.h.release()
}

// forget drops a file that was removed or replaced.
func (t *fileTable) forget(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.open[name]; e != nil {
		t.removeLocked(e)
	}
}

// close drops all; who still reads closes what it has.
func (t *fileTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.lru.Len() > 0 {
		t.removeLocked(t.lru.Back())
	}
}

// puncher is a file that can free a range of itself; a real file does so by
// its descriptor.
type puncher interface {
	Punch(off, n int64) error
}

// punchHole frees a range, which reads as zeros from then on. False: this kind
// of file, or its file system, cannot.
func punchHole(f vfs.File, off, n int64) (bool, error) {
	if p, ok := f.(puncher); ok {
		return true, p.Punch(off, n)
	}
	if f.Fd() == vfs.InvalidFd {
		return false, nil
	}
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return false, nil
	}
	return err == nil, err
}

// startWriteBack asks the kernel to begin writing a range; it does not wait.
func startWriteBack(f vfs.File, off, n int64) {
	if f.Fd() != vfs.InvalidFd {
		unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE) // a hint: the sync that follows tells
	}
}

// dropCache makes the kernel forget the clean pages of a file, so that what is
// read next comes from the disk.
func dropCache(f vfs.File) {
	if f.Fd() != vfs.InvalidFd {
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // a hint
	}
}

// releaseTail gives back what was preallocated behind end.
func releaseTail(f vfs.File, end int64) {
	if f.Fd() != vfs.InvalidFd {
		unix.Ftruncate(int(f.Fd()), end) // only space is lost if it fails
	}
}
