package client

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tnvfs/tnv"
)

// inode is what this client knows and holds of one inode: the newest attributes
// that any reply brought, the extents of that version, and what was written and
// is not yet committed. All handles of the inode share it.
type inode struct {
	c   *Client
	ino tnv.Ino

	// Under inodes.mu.
	refs    int           // handles and whoever works on it just now
	handles int           // handles, those being opened included
	valid   int           // handles that the owner has confirmed
	idle    *list.Element // in inodes.idle while refs is 0

	commit chan struct{} // a lock: holds one token; taken by whoever commits

	mu       sync.Mutex
	attr     tnv.Attr // newest known; Version 0: nothing known
	ext      extentCache
	dirty    dirtyData
	before   *before              // nil: it was not cut lately
	telling  chan struct{}        // while the owner is being told of a commit: closed when its answer is taken in
	writers  map[*Handle]struct{} // handles open for writing
	killSUID bool                 // due with the next write
	// What fsync has to do beyond what is dirty.
	unsynced  map[tnv.BlockKey]unsyncedBlock // committed or put, not known to be on disk
	foreign   map[tnv.GroupID]uint64         // groups with blocks that others wrote, and this client made the inode's (see owe)
	metaDirty bool                           // changed here since the last synced commit
	everDirty atomic.Bool                    // this client changed it: it knows what fsync has to do
}

func (in *inode) lockCommit(ctx context.Context) error {
	select {
	case in.commit <- struct{}{}:
		return nil
	case <-ctx.Done():
		return tnv.Wrap("wait for a commit", ctx.Err())
	}
}

func (in *inode) unlockCommit() { <-in.commit }

// While a commit is under way nobody here knows whether what it holds, which is
// dirty still, is newer than what the owner tells, or has been written over by
// another client. So a read, of data or attributes, waits for the commit that it
// finds under way. For one that begins later it need not: what that one holds was
// the newest at a moment since the read began.

// tell begins to tell the owner of a commit.
func (in *inode) tell() (end func()) {
	c := make(chan struct{})
	in.mu.Lock()
	in.telling = c
	in.mu.Unlock()
	return func() {
		in.mu.Lock()
		in.telling = nil
		in.mu.Unlock()
		close(c)
	}
}

// told waits for a commit under way.
func (in *inode) told(ctx context.Context) error {
	in.mu.Lock()
	c := in.telling
	in.mu.Unlock()
	if c == nil {
		return nil
	}
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return tnv.Wrap("wait for a commit", ctx.Err())
	}
}

// noteLocked takes attributes that a reply brought, unless newer ones are known.
func (in *inode) noteLocked(a tnv.Attr) {
	if a.Version >= in.attr.Version {
		in.attr = a
	}
}

// mergedLocked is the newest attributes with what is dirty here.
func (in *inode) mergedLocked() tnv.Attr {
	a := in.attr
	in.dirty.mergeInto(&a)
	return a
}

// killSUID is the mode after a write by someone unprivileged, as the owner makes it.
func killSUID(mode uint32) uint32 {
	mode &^= 0o4000
	if mode&0o010 != 0 {
		mode &^= 0o2000
	}
	return mode
}

func (in *inode) markUnsynced() {
	in.everDirty.Store(true)
	in.mu.Lock()
	in.metaDirty = true
	in.mu.Unlock()
}

// inodes is the table of inodes that are open, dirty, not yet synced, or were
// open a short while ago.
type inodes struct {
	c *Client

	mu    sync.Mutex
	table map[tnv.Ino]*inode
	idle  *list.List // of *inode without refs, the longest idle first
}

// maxIdle is how many inodes without a handle are remembered.
const maxIdle = 1024

func newInodes(c *Client) *inodes {
	return &inodes{c: c, table: map[tnv.Ino]*inode{}, idle: list.New()}
}

// find returns the inode if it is in the table, and keeps it there until release.
func (t *inodes) find(ino tnv.Ino) *inode {
	t.mu.Lock()
	defer t.mu.Unlock()
	in := t.table[ino]
	if in != nil {
		t.holdLocked(in)
	}
	return in
}

func (t *inodes) holdLocked(in *inode) {
	in.refs++
	if in.idle != nil {
		t.idle.Remove(in.idle)
		in.idle = nil
	}
}

// get returns the inode, and keeps it until release.
func (t *inodes) get(ino tnv.Ino) *inode {
	t.mu.Lock()
	defer t.mu.Unlock()
	in := t.table[ino]
	if in == nil {
		in = &inode{c: t.c, ino: ino, commit: make(chan struct{}, 1), writers: map[*Handle]struct{}{}}
		in.dirty.windows = map[int64][]*piece{}
		t.table[ino] = in
	}
	t.holdLocked(in)
	return in
}

// release gives back what find or get returned.
func (t *inodes) release(in *inode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if in.refs--; in.refs > 0 {
		return
	}
	in.idle = t.idle.PushBack(in)
	for e := t.idle.Front(); e != nil && t.idle.Len() > maxIdle; {
		next := e.Next()
		if old := e.Value.(*inode); old.forgettable() {
			t.idle.Remove(e)
			old.idle = nil
			delete(t.table, old.ino)
		} else if t.idle.Len() <= 8*maxIdle {
			// It has blocks to be synced yet: the flusher will see to it.
			t.c.flusher.backlog()
			break
		}
		e = next
	}
}

// forgettable tells whether nothing is lost with the inode's state.
func (in *inode) forgettable() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.dirty.empty() && len(in.unsynced) == 0 && len(in.foreign) == 0 && !in.metaDirty
}

// register counts a handle that is being opened, before the owner is asked.
// others tells whether a confirmed handle is open already.
func (t *inodes) register(ino tnv.Ino) (in *inode, others bool) {
	in = t.get(ino)
	t.mu.Lock()
	defer t.mu.Unlock()
	in.handles++
	return in, in.valid > 0
}

// confirm says that the owner knows the inode of a registered handle.
func (t *inodes) confirm(in *inode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	in.valid++
}

// unregister takes a handle away; confirmed says whether confirm was called for it.
func (t *inodes) unregister(in *inode, confirmed bool) {
	t.mu.Lock()
	in.handles--
	if confirmed {
		in.valid--
	}
	last := in.handles == 0
	t.mu.Unlock()
	if last {
		t.c.releases.closed(in.ino)
	}
	t.release(in)
}

// open tells whether a handle of the inode is open or being opened.
func (t *inodes) open(ino tnv.Ino) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	in := t.table[ino]
	return in != nil && in.handles > 0
}

// told waits for a commit of an inode that is under way. waited: there was one.
func (t *inodes) told(ctx context.Context, ino tnv.Ino) (waited bool, err error) {
	t.mu.Lock()
	in := t.table[ino]
	t.mu.Unlock()
	if in == nil {
		return false, nil
	}
	in.mu.Lock()
	waited = in.telling != nil
	in.mu.Unlock()
	return waited, in.told(ctx)
}

// merge takes attributes that a reply brought, and returns the newest that this
// client knows, with the size and mtime of what it has not yet committed.
func (t *inodes) merge(a tnv.Attr) tnv.Attr {
	t.mu.Lock()
	in := t.table[a.Ino]
	t.mu.Unlock()
	if in == nil {
		return a
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.noteLocked(a)
	return in.mergedLocked()
}

// all returns every inode, held.
func (t *inodes) all() []*inode {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := make([]*inode, 0, len(t.table))
	for _, in := range t.table {
		t.holdLocked(in)
		l = append(l, in)
	}
	return l
}

// each runs f for every inode, some at a time, and returns the first error.
func (t *inodes) each(ctx context.Context, f func(*inode) error) error {
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
		limit = make(chan struct{}, 16)
	)
	for _, in := range t.all() {
		limit <- struct{}{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := f(in); err != nil {
				once.Do(func() { first = err })
			}
			t.release(in)
			<-limit
		}()
	}
	wg.Wait()
	if first == nil && ctx.Err() != nil {
		first = tnv.Wrap("flush", ctx.Err())
	}
	return first
}

// forget drops every version that is known: the owner may have gone back to an
// older state, or the numbers may be another's.
func (t *inodes) forget() {
	for _, in := range t.all() {
		in.mu.Lock()
		in.attr = tnv.Attr{}
		in.ext.reset(0)
		in.mu.Unlock()
		t.release(in)
	}
}

// sessionLost fails every inode that has data of the session that ended, or
// that was locked in it.
func (t *inodes) sessionLost(_ *sess, locked map[tnv.Ino]bool) {
	for _, in := range t.all() {
		in.mu.Lock()
		lost := !in.dirty.empty()
		in.mu.Unlock()
		if lost || locked[in.ino] {
			in.fail(tnv.E("write", tnv.KindSessionEnded,
				"the session with the tracker has ended; locks, and what was not yet committed, of inode %d are lost", in.ino))
		}
		t.release(in)
	}
	t.forget()
}

// flusher commits in the background what is dirty for long, and at once what
// others wait for memory for.
type flusher struct {
	c        *Client
	pressure chan struct{}
	syncs    chan struct{}
	syncing  atomic.Bool
}

const (
	flushTick = 200 * time.Millisecond
	flushAge  = 500 * time.Millisecond // dirty data is committed that long after the first write
)

func newFlusher(c *Client) *flusher {
	return &flusher{c: c, pressure: make(chan struct{}, 1), syncs: make(chan struct{}, 1)}
}

// press asks for everything that is dirty to be committed now.
func (f *flusher) press() {
	select {
	case f.pressure <- struct{}{}:
	default:
	}
}

// backlog asks for unsynced blocks of closed inodes to be synced.
func (f *flusher) backlog() {
	select {
	case f.syncs <- struct{}{}:
	default:
	}
}

func (f *flusher) run() {
	defer f.c.wg.Done()
	tick := time.NewTicker(flushTick)
	defer tick.Stop()
	last := time.Now()
	for {
		age := flushAge
		select {
		case <-tick.C:
		case <-f.pressure:
			age = 0
		case <-f.syncs:
			f.syncSoon()
		case <-f.c.life.Done():
			return
		}
		f.flush(age)
		if time.Since(last) > 10*time.Second {
			last = time.Now()
			f.c.mem.trim()
		}
	}
}

// flush starts commits of all that is dirty for at least age. It waits for none.
func (f *flusher) flush(age time.Duration) {
	now := time.Now()
	for _, in := range f.c.inodes.all() {
		in.mu.Lock()
		due := !in.dirty.empty() && !in.dirty.flushing && now.Sub(in.dirty.since) >= age
		if due {
			in.dirty.flushing = true
		}
		in.mu.Unlock()
		if !due {
			f.c.inodes.release(in)
			continue
		}
		f.c.wg.Add(1)
		go func() {
			defer f.c.wg.Done()
			if err := in.flush(f.c.life, flushCommit); err != nil && f.c.life.Err() == nil {
				f.c.cfg.Log.WithError(err).WithField("inode", in.ino).Error("writing in the background failed")
			}
			in.mu.Lock()
			in.dirty.flushing = false
			in.mu.Unlock()
			f.c.inodes.release(in)
		}()
	}
}

// syncSoon runs syncIdle in the background, once at a time.
func (f *flusher) syncSoon() {
	if !f.syncing.CompareAndSwap(false, true) {
		return
	}
	f.c.wg.Add(1)
	go func() {
		defer f.c.wg.Done()
		defer f.syncing.Store(false)
		f.syncIdle()
	}()
}

// syncIdle syncs what closed inodes have left unsynced, so that they can be forgotten.
func (f *flusher) syncIdle() {
	c := f.c
	c.inodes.mu.Lock()
	var l []*inode
	for e := c.inodes.idle.Front(); e != nil; e = e.Next() {
		l = append(l, e.Value.(*inode))
	}
	for _, in := range l {
		c.inodes.holdLocked(in)
	}
	c.inodes.mu.Unlock()
	ctx, cancel := c.opCtx()
	defer cancel()
	err := c.syncAll(ctx, l)
	if err != nil && c.life.Err() == nil {
		c.cfg.Log.WithError(err).Warn("syncing closed files in the background failed")
	}
	for _, in := range l {
		c.inodes.release(in)
	}
}

// gone forgets what would have to be made durable of inodes that have no name
// and no handle any more.
func (t *inodes) gone(inos []tnv.Ino) {
	for _, ino := range inos {
		in := t.find(ino)
		if in == nil {
			continue
		}
		in.mu.Lock()
		in.unsynced, in.foreign, in.metaDirty = nil, nil, false
		in.mu.Unlock()
		t.release(in)
	}
}
