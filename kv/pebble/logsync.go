package pebble

import (
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// logSync syncs the log: later than Pebble asks, for many callers at once, and
// never again after a failure. There is one log at a time, since Pebble closes
// one before it begins the next.
type logSync struct {
	failure *failure
	written atomic.Uint64 // writes that have returned, over all logs

	mu     sync.Mutex
	cond   sync.Cond
	file   vfs.File // nil between two logs
	busy   bool     // a goroutine is in file's sync or close, without mu
	synced uint64   // so many of the writes are on disk
}

func newLogSync(failure *failure) *logSync {
	l := &logSync{failure: failure}
	l.cond.L = &l.mu
	return l
}

func (l *logSync) begin(f vfs.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file = f
}

// wrote is called after each write, before the commit that wrote is acknowledged.
func (l *logSync) wrote() { l.written.Add(1) }

func (l *logSync) dirty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.synced < l.written.Load()
}

// sync returns when all writes that returned before the call are on disk. One
// caller syncs, those who come meanwhile wait and share the next one.
func (l *logSync) sync() error {
	target := l.written.Load()
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if err := l.failure.get(); err != nil {
			return err
		}
		if l.synced >= target {
			return nil
		}
		if l.busy {
			l.cond.Wait()
			continue
		}
		l.syncLocked("the log", l.file.SyncData)
	}
}

// end syncs and closes the log. The next one must not begin before: a prefix
// would not survive.
func (l *logSync) end(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.busy {
		l.cond.Wait()
	}
	f := l.file
	if l.failure.get() == nil {
		l.syncLocked(name, f.SyncData)
	}
	l.file = nil
	_ = l.failure.set("close "+name, f.Close())
}

// syncLocked runs fn without the lock, and notes what is on disk after it.
func (l *logSync) syncLocked(name string, fn func() error) {
	upto := l.written.Load()
	l.busy = true
	l.mu.Unlock()
	err := fn()
	l.mu.Lock()
	l.busy = false
	if l.failure.set("sync "+name, err) == nil {
		l.synced = upto
	}
	l.cond.Broadcast()
}
