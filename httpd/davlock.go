package httpd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/webdav"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
	"github.com/tnvfs/tnv/protocol"
)

// davLocks are the locks that WebDAV clients hold: a table of tokens, paths and
// ends, and beside it, for the lock of a file, a flock of that file in the cluster,
// held for as long: so other daemons, and programs on mounts that lock files, are
// shut out, and shut these clients out. Locks of directories, and of names without a
// file, are this daemon's alone.
//
// Invariant: of locks in the table whose paths overlap, either all are shared or
// there is one. A lock in the table has its file, if it has one, open and locked; who
// takes it out of the table closes the file.
const (
	maxDAVLocks = 4096
	// maxDAVLife is for how long a lock is given; clients renew it.
	maxDAVLife = time.Hour
)

type davLocks struct {
	h *handler

	mu    sync.Mutex
	table map[string]*davLock // by token
	last  uint64
}

// davLock is a lock. All but path, owner, shared, infinite and token is guarded by davLocks.mu.
type davLock struct {
	token    string
	path     string
	owner    string // XML, as the client gave it
	shared   bool
	infinite bool   // it covers all beneath
	flock    uint64 // owner of the lock in the cluster
	end      time.Time
	timer    *time.Timer
	w        writer // nil: it is of this daemon alone
	gone     bool
}

func newDAVLocks(h *handler) *davLocks {
	return &davLocks{h: h, table: map[string]*davLock{}}
}

func (l *davLocks) close() {
	l.mu.Lock()
	tokens := make([]string, 0, len(l.table))
	for t := range l.table {
		tokens = append(tokens, t)
	}
	l.mu.Unlock()
	for _, t := range tokens {
		l.drop(t)
	}
}

// covers tells whether a lock is about a path.
func (x *davLock) covers(p string) bool {
	return x.path == p || x.infinite && access.Beneath(p, x.path)
}

// coveringLocked lists the locks that are about a path.
func (l *davLocks) coveringLocked(p string) (list []*davLock) {
	for _, x := range l.table {
		if x.covers(p) {
			list = append(list, x)
		}
	}
	return list
}

// open tells whether somebody who has these tokens may change what is at a path,
// and, where it is a tree that goes, all beneath.
func (l *davLocks) open(p string, tree bool, tokens []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.coveringLocked(p)
	if len(list) > 0 && !slices.ContainsFunc(list, func(x *davLock) bool { return slices.Contains(tokens, x.token) }) {
		return false
	}
	for _, x := range l.table {
		if tree && access.Beneath(x.path, p) && !slices.Contains(tokens, x.token) {
			return false
		}
	}
	return true
}

// free is open of trees for who has no tokens.
func (l *davLocks) free(ctx context.Context, paths ...string) error {
	for _, p := range paths {
		if !l.open(p, true, nil) {
			return tnv.E(p, tnv.KindWouldBlock, "it is locked")
		}
		if err := l.foreign(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// drop ends a lock.
func (l *davLocks) drop(token string) bool {
	l.mu.Lock()
	x := l.table[token]
	delete(l.table, token)
	var w writer
	if x != nil {
		x.timer.Stop()
		x.gone, w = true, x.w
	}
	l.mu.Unlock()
	if w != nil {
		w.Close()
	}
	return x != nil
}

// removed ends the locks of what is not there any more (RFC 4918, 9.6).
func (l *davLocks) removed(p string) {
	l.mu.Lock()
	var gone []string
	for token, x := range l.table {
		if access.Beneath(x.path, p) {
			gone = append(gone, token)
		}
	}
	l.mu.Unlock()
	for _, token := range gone {
		l.drop(token)
	}
}

// add takes a lock for a while. KindWouldBlock: somebody has one that excludes it.
func (l *davLocks) add(ctx context.Context, x *davLock, life time.Duration) error {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	x.token = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	l.mu.Lock()
	err := l.admitLocked(x)
	if err == nil {
		l.last++
		x.flock, x.end = 1<<63|l.last, time.Now().Add(life)
		x.timer = time.AfterFunc(life, func() { l.drop(x.token) })
		l.table[x.token] = x
	}
	l.mu.Unlock()
	if err != nil {
		return err
	}
	if err := l.inCluster(ctx, x); err != nil {
		l.drop(x.token)
		return err
	}
	return nil
}

func (l *davLocks) admitLocked(x *davLock) error {
	if len(l.table) >= maxDAVLocks {
		return tnv.E("lock", tnv.KindNoLock, "%d locks are held", maxDAVLocks)
	}
	for _, y := range l.table {
		if (y.covers(x.path) || x.infinite && access.Beneath(y.path, x.path)) && !(x.shared && y.shared) {
			return tnv.E("lock", tnv.KindWouldBlock, "%s is locked", y.path)
		}
	}
	return nil
}

// inCluster takes the lock of a file in the cluster, if there is a file.
func (l *davLocks) inCluster(ctx context.Context, x *davLock) error {
	res, err := l.h.src.Resolve(ctx, l.h.cred, x.path, true)
	if errors.Is(err, tnv.KindNotExist) || err == nil && !res.Attr.IsRegular() {
		return nil
	}
	if err != nil {
		return err
	}
	return l.hold(ctx, x, res.Attr.Ino)
}

// hold has a lock hold a file, and no other one any more.
func (l *davLocks) hold(ctx context.Context, x *davLock, ino tnv.Ino) error {
	w, err := l.h.src.OpenWrite(ctx, ino)
	if err != nil {
		return err
	}
	k := protocol.Lock{Kind: protocol.LockFlock, Mode: protocol.LockExclusive, Owner: x.flock}
	if x.shared {
		k.Mode = protocol.LockShared
	}
	if err := w.Lock(ctx, k); err != nil {
		w.Close()
		return err
	}
	l.mu.Lock()
	old := x.w
	if x.w = w; x.gone { // it has ended meanwhile
		old, x.w = w, nil
	}
	l.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return nil
}

// moveLock has the locks of a path go on with the draft that is about to take it.
// KindWouldBlock: the file that it replaces is locked by somebody outside of this daemon.
func (l *davLocks) moveLock(ctx context.Context, p string, d *draft) error {
	l.mu.Lock()
	var mine []*davLock
	for _, x := range l.table {
		if x.path == p {
			mine = append(mine, x)
		}
	}
	l.mu.Unlock()
	if len(mine) == 0 {
		return l.foreign(ctx, p)
	}
	at, err := d.w.Attr(ctx)
	for _, x := range mine {
		if err == nil {
			err = l.hold(ctx, x, at.Ino)
		}
	}
	return err
}

// foreign tells whether somebody outside of this daemon has locked a file.
func (l *davLocks) foreign(ctx context.Context, p string) error {
	res, err := l.h.src.Resolve(ctx, l.h.cred, p, true)
	if err != nil || !res.Attr.IsRegular() {
		return nil // a new name; that the rest fails will be told by what comes next
	}
	w, err := l.h.src.OpenWrite(ctx, res.Attr.Ino)
	if err != nil {
		return nil
	}
	defer w.Close()
	k, err := w.GetLock(ctx, protocol.Lock{Kind: protocol.LockFlock, Mode: protocol.LockExclusive, Owner: 1 << 62})
	if err == nil && k.Mode != protocol.LockNone {
		return tnv.E(p, tnv.KindWouldBlock, "it is locked by somebody else")
	}
	return err
}

// refresh gives a lock of a path more time.
func (l *davLocks) refresh(token, p string, life time.Duration) (*davLock, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.table[token]
	if x == nil || !x.covers(p) {
		return nil, false
	}
	x.end = time.Now().Add(life)
	x.timer.Reset(life)
	return x, true
}

// of lists the locks that are about a path, and how long they have left.
func (l *davLocks) of(p string) (list []*davLock, left []time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list = l.coveringLocked(p)
	slices.SortFunc(list, func(a, b *davLock) int { return a.end.Compare(b.end) })
	for _, x := range list {
		left = append(left, time.Until(x.end))
	}
	return list, left
}

// knows tells whether a token is that of a lock of a path; an empty path: of any.
func (l *davLocks) knows(token, p string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.table[token]
	return x != nil && (p == "" || x.covers(p))
}

// davView is the table as package webdav asks it, for one request: may that be
// done? LOCK and UNLOCK are answered elsewhere.
type davView struct {
	l *davLocks
	d *davFS
}

// Confirm implements webdav.LockSystem: do the conditions of a list hold, and has
// the client named a lock of each path that is locked?
func (v *davView) Confirm(_ time.Time, name0, name1 string, conditions ...webdav.Condition) (func(), error) {
	p, _, err := cleanPath(name0)
	if name0 == "" {
		p, err = "", nil
	}
	if err != nil {
		return nil, webdav.ErrConfirmationFailed
	}
	for _, c := range conditions {
		ok := false
		if c.ETag != "" {
			ok = v.d.tag(p) == c.ETag
		} else {
			ok = v.l.knows(c.Token, p)
		}
		if ok == c.Not {
			return nil, webdav.ErrConfirmationFailed
		}
	}
	for _, name := range []string{name0, name1} {
		if q, _, err := cleanPath(name); name != "" && (err != nil || !v.l.open(q, false, v.d.tokens)) {
			v.d.locked = true
			return nil, webdav.ErrConfirmationFailed
		}
	}
	return func() {}, nil
}

// Create implements webdav.LockSystem: what the package calls for a client that names no lock.
func (v *davView) Create(_ time.Time, ld webdav.LockDetails) (string, error) {
	if p, _, err := cleanPath(ld.Root); err != nil || !v.l.open(p, false, nil) {
		return "", webdav.ErrLocked
	}
	return "", nil
}

// Refresh implements webdav.LockSystem.
func (v *davView) Refresh(time.Time, string, time.Duration) (webdav.LockDetails, error) {
	return webdav.LockDetails{}, webdav.ErrNoSuchLock
}

// Unlock implements webdav.LockSystem.
func (v *davView) Unlock(time.Time, string) error { return webdav.ErrNoSuchLock }
