package fuse

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Atime says when reading changes the time of access: as the mount options of
// the same names do on a disk, since the kernel leaves it all to the mount.
type Atime uint8

const (
	Relatime    Atime = iota // where it is not behind mtime and ctime, or a day old
	NoAtime                  // never
	StrictAtime              // always
)

// atimes tells the owner what was read, behind the reader's back.
//
// Invariant: an inode in pending was read, and the owner is being told. Whoever
// asks for its attributes waits for that, so a stat(2) behind a read(2) on this
// mount sees the new time; elsewhere it is seen moments later. What does not fit is
// forgotten: the next read finds the time just as old.
type atimes struct {
	mode   Atime
	noDirs bool // nodiratime
	send   func(context.Context, tnv.Ino) error
	forget func(tnv.Ino) // has the kernel ask for the attributes
	log    *logrus.Entry
	life   context.Context
	end    context.CancelFunc

	waiting atomic.Int32 // len(pending)
	mu      sync.Mutex
	pending map[tnv.Ino]chan struct{} // closed when the owner knows
	queue   []tnv.Ino
	workers int
	wg      sync.WaitGroup
}

const (
	maxAtimes    = 1024 // inodes to tell of
	atimeWorkers = 4    // requests under way
	atimeTimeout = 10 * time.Second
)

func (t *atimes) start(f *FS, opt Options) {
	t.mode, t.noDirs, t.log, t.pending = opt.Atime, opt.NoDirAtime, f.log, map[tnv.Ino]chan struct{}{}
	t.life, t.end = context.WithCancel(context.Background())
	t.forget = func(ino tnv.Ino) { // no READ is waited for: this is called in one, and cuts nothing
		if live, given := f.known.believed(ino); live {
			f.notify.attributes(f.node(ino))
			f.known.unbelieved(ino, given)
		}
	}
	t.send = func(ctx context.Context, ino tnv.Ino) error {
		_, err := f.b.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: ino, Mask: protocol.SetAccessed})
		return err
	}
}

// stop ends it: what is pending has atimeTimeout left.
func (t *atimes) stop() {
	defer time.AfterFunc(atimeTimeout, t.end).Stop()
	t.wg.Wait()
	t.end()
}

// due tells whether reading changes the time of access.
func (t *atimes) due(a *tnv.Attr) bool {
	switch {
	case t.mode == NoAtime, t.noDirs && a.IsDir():
		return false
	case t.mode == StrictAtime:
		return true
	}
	return a.Atime <= a.Mtime || a.Atime <= a.Ctime || time.Now().UnixNano()-a.Atime >= int64(24*time.Hour)
}

// note has the owner told that an inode was read.
func (t *atimes) note(ino tnv.Ino) {
	t.mu.Lock()
	if t.pending[ino] != nil || len(t.pending) >= maxAtimes {
		t.mu.Unlock()
		return
	}
	t.pending[ino] = make(chan struct{})
	t.waiting.Add(1)
	t.queue = append(t.queue, ino)
	if t.workers < atimeWorkers {
		t.workers++
		t.wg.Add(1)
		go t.work()
	}
	t.mu.Unlock()
	t.forget(ino)
}

// work empties the queue.
func (t *atimes) work() {
	defer t.wg.Done()
	for {
		t.mu.Lock()
		if len(t.queue) == 0 {
			t.workers--
			t.mu.Unlock()
			return
		}
		ino := t.queue[0]
		t.queue = t.queue[1:]
		t.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.life, atimeTimeout)
		if err := t.send(ctx, ino); err != nil {
			t.log.WithError(err).WithField("ino", ino).Debug("a time of access is lost")
		}
		cancel()
		t.mu.Lock()
		close(t.pending[ino])
		delete(t.pending, ino)
		t.waiting.Add(-1)
		t.mu.Unlock()
	}
}

// settle waits until the owner knows of every read of an inode that is over, and
// tells whether there was one to wait for.
func (t *atimes) settle(ctx context.Context, ino tnv.Ino) bool {
	if t.waiting.Load() == 0 {
		return false
	}
	t.mu.Lock()
	told := t.pending[ino]
	t.mu.Unlock()
	if told == nil {
		return false
	}
	select {
	case <-told:
	case <-ctx.Done():
	}
	return true
}

// access is what a handle knows of the time of access.
type access struct {
	never   bool         // O_NOATIME
	due     atomic.Bool  // the next read changes it
	changed atomic.Int64 // when the file last changed, as far as known
	noted   atomic.Int64 // for which of these times a read was noted
}

// judge takes in attributes.
func (h *access) judge(t *atimes, a *tnv.Attr) {
	h.changed.Store(max(a.Mtime, a.Ctime))
	h.due.Store(!h.never && t.due(a))
}

// accessed notes that a handle was read from.
func (f *FS) accessed(h *handle) {
	if !h.access.due.Load() {
		return
	}
	if at := h.access.changed.Load(); f.atimes.mode != StrictAtime && h.access.noted.Swap(at) == at {
		return
	}
	f.atimes.note(h.ino)
}
