package client

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// locks knows which owners of this client may have locks, so that what cannot
// be locked is never asked to be unlocked, and carries out what nobody waits for
// any more.
//
// Invariants:
//   - A handle by which an owner has got a lock in this session, or may get one by
//     a request that is under way, is in the via of the owner's state.
//   - What an owner does not want any more is unlocked, however long that takes:
//     a request whose caller went away before its outcome was known as soon as it
//     is known (K10). No other request of that owner is sent before that is done.
//   - A wait that the tracker may have in its queue is in waits, or is being taken
//     out of the queue.
type locks struct {
	c *Client

	mu      sync.Mutex
	owners  map[lockRef]*lockState
	waits   map[uint64]*lockWait
	last    uint64 // number of a wait
	polling bool   // a goroutine asks the tracker for waits that are due
}

// lockRef names an owner of locks on an inode.
type lockRef struct {
	ino   tnv.Ino
	kind  protocol.LockKind
	owner uint64
}

// lockState is what is known of an owner. It is there while somebody uses it or
// it may have a lock.
type lockState struct {
	users  int                     // requests under way
	began  uint64                  // requests for a lock that were ever sent
	via    map[*Handle]*lockHandle // empty: it has no lock
	settle chan struct{}           // not nil: something is being unlocked; closed when it is
}

// lockHandle is a handle by which an owner may have a lock.
type lockHandle struct {
	asking int    // requests under way
	last   uint64 // lockState.began of the newest
}

// lockWait is a request on its way through the tracker's queue.
type lockWait struct {
	there  bool       // the tracker may have it in its queue
	queued bool       // it has, and its turn has not come as far as is known
	turn   chan error // takes one: nil to send again, or why that is in vain
}

func newLocks(c *Client) *locks {
	return &locks{c: c, owners: map[lockRef]*lockState{}, waits: map[uint64]*lockWait{}}
}

// Lock sets a lock on the file, or removes it where k.Mode is
// protocol.LockNone, which first makes visible to others what was written to the
// file here. Errors: tnv.KindWouldBlock if somebody has a lock that excludes it,
// KindNoLock if there are too many. After any other error the owner has no lock
// in that range, or will soon have none. A lock ends with Unlock by its owner, with
// the close of the handle by which its owner got it (but see Unlock), and with the
// session: then writing by handles of the inode fails.
func (h *Handle) Lock(ctx context.Context, k protocol.Lock) error {
	if k.Mode == protocol.LockNone {
		return h.unlock(ctx, k)
	}
	return h.lock(ctx, k, nil, false)
}

// LockWait is Lock, and waits until the lock can be had, in the order of arrival.
// While it is in the queue the end of ctx and the closing of interrupt, which may be
// nil, end it with KindCanceled or KindInterrupted: it is not locked then. An outage
// of the tracker for longer than Config.Timeout gives KindUnavailable. For fcntl
// locks, KindDeadlock: the wait would never end.
func (h *Handle) LockWait(ctx context.Context, k protocol.Lock, interrupt <-chan struct{}) error {
	if k.Mode == protocol.LockNone {
		return h.unlock(ctx, k)
	}
	return h.lock(ctx, k, interrupt, true)
}

// GetLock tells of a lock that is in the way of k; its Mode is protocol.LockNone
// if none is. Its Pid is 0 if it is of another client.
func (h *Handle) GetLock(ctx context.Context, k protocol.Lock) (protocol.Lock, error) {
	var rep protocol.GetLockReply
	if _, err := h.c.read(ctx, tnv.Root, protocol.TypeGetLock, &rep, &protocol.GetLock{Ino: h.in.ino, Lock: k}); err != nil {
		return protocol.Lock{}, err
	}
	if rep.Session != h.c.Info().Session {
		rep.Lock.Pid = 0
	}
	return rep.Lock, nil
}

// Unlock removes all locks of one kind that an owner has on the file, whatever
// handle it got them by, as close(2) by a process does with its fcntl locks. It
// costs nothing if there are none. It goes on when ctx ends.
func (h *Handle) Unlock(ctx context.Context, kind protocol.LockKind, owner uint64) error {
	return h.unlock(ctx, protocol.Lock{Kind: kind, Owner: owner, End: protocol.LockEOF})
}

// lock asks for a lock until it is granted or refused for good.
func (h *Handle) lock(ctx context.Context, k protocol.Lock, interrupt <-chan struct{}, wait bool) error {
	t := h.c.locks
	ref := lockRef{h.in.ino, k.Kind, k.Owner}
	s, err := t.enter(ctx, ref)
	if err != nil {
		return err
	}
	defer t.leave(ref, s)
	req := protocol.SetLock{Ino: ref.ino, Lock: k}
	var w *lockWait
	if wait {
		req.Wait, w = t.newWait()
		defer func() { t.endWait(req.Wait, w) }()
	}
	for {
		state, err := t.ask(ctx, ref, s, h, &req)
		switch {
		case tnv.KindOf(err) == tnv.KindSessionEnded && ctx.Err() == nil && h.c.life.Err() == nil:
			continue // it certainly has no lock: once more, in the next session
		case err != nil:
			return err
		case state == protocol.LockGranted:
			t.granted(w)
			return nil
		case !wait:
			return tnv.E("lock", tnv.KindWouldBlock, "inode %d is locked by somebody else", ref.ino)
		}
		t.queued(w)
		select {
		case err = <-w.turn:
		case <-interrupt:
			err = tnv.E("lock", tnv.KindInterrupted, "while waiting for inode %d", ref.ino)
		case <-ctx.Done():
			err = tnv.Wrap("lock", ctx.Err())
		}
		if err != nil {
			return err
		}
	}
}

// ask sends a request for a lock once.
func (t *locks) ask(ctx context.Context, ref lockRef, s *lockState, h *Handle, req *protocol.SetLock) (protocol.LockState, error) {
	t.mu.Lock()
	v := s.via[h]
	had := v != nil
	if !had {
		v = &lockHandle{}
		s.via[h] = v
	}
	s.began++
	v.asking++
	v.last = s.began
	t.mu.Unlock()
	var rep protocol.SetLockReply
	err := t.c.link.change(ctx, protocol.TypeSetLock, tnv.Root, req, nil, func(m *mutation) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.settleLocked(ref, s, func() { t.undo(m, req) })
	}, &rep)
	t.mu.Lock()
	defer t.mu.Unlock()
	v.asking--
	switch {
	case err == nil && rep.State == protocol.LockGranted:
		s.via[h] = v // the session may have ended before this was sent in the next
	case err == nil && !had && v.asking == 0:
		delete(s.via, h)
	}
	return rep.State, err
}

// undo takes the result that nobody waits for, and undoes it.
func (t *locks) undo(m *mutation, req *protocol.SetLock) {
	<-m.done
	if m.err != nil { // the session is over, or the client
		return
	}
	var rep protocol.SetLockReply
	if m.f.Decode(&rep) != nil || rep.State == protocol.LockRefused {
		return
	}
	if rep.State == protocol.LockQueued {
		t.dropWaits(req.Wait)
		return
	}
	none := *req
	none.Lock.Mode, none.Wait = protocol.LockNone, 0
	if err := t.c.link.complete(protocol.TypeSetLock, tnv.Root, &none); err != nil && t.c.life.Err() == nil {
		t.c.cfg.Log.WithError(err).WithField("inode", req.Ino).Debug("a lock that nobody waits for was not undone: it is gone")
	}
}

// unlock removes what an owner has in a range.
func (h *Handle) unlock(ctx context.Context, k protocol.Lock) error {
	t := h.c.locks
	ref := lockRef{h.in.ino, k.Kind, k.Owner}
	if !t.known(ref) {
		return nil
	}
	err := h.in.flush(ctx, flushCommit)
	return firstError(t.release(ctx, ref, k), err)
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// release unlocks a range. If ctx ends it goes on in the background, before
// anything else that the owner asks for.
func (t *locks) release(ctx context.Context, ref lockRef, k protocol.Lock) error {
	k.Mode = protocol.LockNone
	all := k.Kind == protocol.LockFlock || k.Start == 0 && k.End == protocol.LockEOF
	t.mu.Lock()
	s := t.owners[ref]
	if s == nil {
		t.mu.Unlock()
		return nil
	}
	result := make(chan error, 1)
	t.settleLocked(ref, s, func() {
		gone := t.idle(s)
		err := t.c.link.complete(protocol.TypeSetLock, tnv.Root, &protocol.SetLock{Ino: ref.ino, Lock: k})
		if tnv.KindOf(err) == tnv.KindSessionEnded {
			err = nil // and so have its locks
		}
		if err == nil && all {
			gone()
		}
		result <- err
	})
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, t.c.cfg.Timeout)
	defer cancel()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return tnv.Wrap("unlock", ctx.Err())
	}
}

// idle notes by which handles nobody asks for a lock just now. The function that
// it returns is called when all that they had got by now is unlocked.
func (t *locks) idle(s *lockState) (gone func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	began := s.began
	var idle []*Handle
	for h, v := range s.via {
		if v.asking == 0 {
			idle = append(idle, h)
		}
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, h := range idle {
			if v := s.via[h]; v != nil && v.asking == 0 && v.last <= began {
				delete(s.via, h)
			}
		}
	}
}

// known tells whether an owner may have a lock.
func (t *locks) known(ref lockRef) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.owners[ref]
	return s != nil && (len(s.via) > 0 || s.settle != nil)
}

// enter begins a request of an owner, when what came before it is undone.
func (t *locks) enter(ctx context.Context, ref lockRef) (*lockState, error) {
	t.mu.Lock()
	s := t.owners[ref]
	if s == nil {
		s = &lockState{via: map[*Handle]*lockHandle{}}
		t.owners[ref] = s
	}
	s.users++
	over := time.NewTimer(t.c.cfg.Timeout)
	defer over.Stop()
	for s.settle != nil {
		wait := s.settle
		t.mu.Unlock()
		var err error
		select {
		case <-wait:
		case <-ctx.Done():
			err = tnv.Wrap("lock", ctx.Err())
		case <-over.C:
			err = t.c.unavailable("lock", nil)
		}
		if err != nil {
			t.leave(ref, s)
			return nil, err
		}
		t.mu.Lock()
	}
	t.mu.Unlock()
	return s, nil
}

func (t *locks) leave(ref lockRef, s *lockState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.users--
	t.tidyLocked(ref, s)
}

func (t *locks) tidyLocked(ref lockRef, s *lockState) {
	if s.users == 0 && len(s.via) == 0 {
		delete(t.owners, ref)
	}
}

// settleLocked runs fn in the background; the owner's next requests wait for it.
func (t *locks) settleLocked(ref lockRef, s *lockState, fn func()) {
	done, before := make(chan struct{}), s.settle
	s.settle = done
	s.users++
	t.c.wg.Add(1)
	go func() {
		defer t.c.wg.Done()
		if before != nil {
			<-before
		}
		fn()
		t.mu.Lock()
		defer t.mu.Unlock()
		close(done)
		if s.settle == done {
			s.settle = nil
		}
		s.users--
		t.tidyLocked(ref, s)
	}()
}

// closed unlocks what was got by a handle that is being closed, by owners that are
// open files. A process has told that it closes the file before (see Unlock).
func (t *locks) closed(h *Handle) {
	t.mu.Lock()
	var refs []lockRef
	for ref, s := range t.owners {
		if s.via[h] != nil {
			refs = append(refs, ref)
		}
	}
	t.mu.Unlock()
	for _, ref := range refs {
		if err := t.release(t.c.life, ref, protocol.Lock{Kind: ref.kind, Owner: ref.owner, End: protocol.LockEOF}); err != nil {
			t.c.cfg.Log.WithError(err).WithField("inode", ref.ino).Warn("a closed file is not yet unlocked: that goes on")
		}
	}
}

// forget notes that the session is over, and returns which inodes were locked in it.
func (t *locks) forget() map[tnv.Ino]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	locked := map[tnv.Ino]bool{}
	for ref, s := range t.owners {
		if len(s.via) > 0 {
			locked[ref.ino] = true
		}
		clear(s.via)
		t.tidyLocked(ref, s)
	}
	return locked
}

// pollFor is how long the tracker is asked to wait for something that is due.
const pollFor = 2 * time.Second

// newWait gives a wait its number. It must be known before the tracker is.
func (t *locks) newWait() (uint64, *lockWait) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	w := &lockWait{turn: make(chan error, 1)}
	t.waits[t.last] = w
	return t.last, w
}

// queued notes that the tracker has a wait in its queue.
func (t *locks) queued(w *lockWait) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w.there, w.queued = true, true
	if !t.polling {
		t.polling = true
		t.c.wg.Add(1)
		go t.poll()
	}
}

// granted notes that a wait has got its lock, if it is one.
func (t *locks) granted(w *lockWait) {
	if w == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	w.there = false
}

// endWait forgets a wait, and has the tracker do so if it may have it.
func (t *locks) endWait(id uint64, w *lockWait) {
	t.mu.Lock()
	delete(t.waits, id)
	there := w.there
	t.mu.Unlock()
	if !there {
		return
	}
	t.c.wg.Add(1)
	go func() {
		defer t.c.wg.Done()
		t.dropWaits(id)
	}()
}

// dropWaits takes waits out of the tracker's queue. If the tracker cannot be
// reached, it forgets them by itself, since nobody claims them.
func (t *locks) dropWaits(ids ...uint64) {
	_, err := t.c.read(t.c.life, tnv.Root, protocol.TypeDropWaits, &nothing{}, &protocol.DropWaits{Waits: ids})
	if err != nil && t.c.life.Err() == nil {
		t.c.cfg.Log.WithError(err).Debug("waits for locks were not taken back")
	}
}

// waiting lists what is queued, and what is being claimed, as far as it fits into a message.
func (t *locks) waiting() (queued, claiming []uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, w := range t.waits {
		switch {
		case w.queued && len(queued) < protocol.MaxBatch:
			queued = append(queued, id)
		case !w.queued && len(claiming) < protocol.MaxBatch:
			claiming = append(claiming, id)
		}
	}
	return queued, claiming
}

// poll asks the tracker for waits that are due while anything is queued.
func (t *locks) poll() {
	defer t.c.wg.Done()
	for {
		t.mu.Lock()
		t.polling = slices.ContainsFunc(slices.Collect(maps.Values(t.waits)), func(w *lockWait) bool { return w.queued })
		polling := t.polling
		t.mu.Unlock()
		if !polling {
			return
		}
		var rep protocol.LockWaitReply
		err := t.c.link.query(t.c.life, protocol.TypeLockWait, func(s *sess) []any {
			queued, claiming := t.waiting()
			return []any{&protocol.Head{Vol: s.info.Vol, Session: s.info.Session},
				&protocol.LockWait{Waits: queued, Claiming: claiming, Ms: uint32(min(pollFor, t.c.cfg.Timeout/2).Milliseconds())}}
		}, &rep)
		if err != nil {
			t.fail(err)
		} else if !t.turn(rep.Due) {
			pause(t.c.life, 0) // what is due is being dropped, or is claimed already
		}
	}
}

// turn wakes waits that are due. It tells whether there were any, or nothing was due.
func (t *locks) turn(due []uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	woke := len(due) == 0
	for _, id := range due {
		w := t.waits[id]
		if w == nil {
			continue // it is being dropped
		}
		woke = woke || w.queued
		w.queued = false
		select {
		case w.turn <- nil:
		default:
		}
	}
	return woke
}

// fail ends all waits that are queued.
func (t *locks) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.waits {
		if w.queued {
			w.queued = false
			select {
			case w.turn <- err:
			default:
			}
		}
	}
}
