package httpd

import (
	"context"
	"errors"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/webdav"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
	"github.com/tnvfs/tnv/protocol"
)

// davLocks are the locks that WebDAV clients hold. The package's table knows their
// tokens, paths and ends; beside it, the lock of a file is an exclusive flock of
// that file in the cluster, held for as long: so other daemons, and programs on
// mounts that lock files, are shut out, and shut these clients out. Locks of
// directories, and of names without a file, are this daemon's alone.
//
// Invariant: a token in held has its file open and locked; who takes a token out
// of held closes the file.
const (
	maxDAVLocks = 4096
	// maxDAVLife is for how long a lock is given; clients renew it.
	maxDAVLife = time.Hour
)

type davLocks struct {
	h     *handler
	table webdav.LockSystem

	mu    sync.Mutex
	held  map[string]*davHeld // by token
	count int
	last  uint64
}

// davHeld is a lock in the cluster.
type davHeld struct {
	path  string
	w     writer // nil: it is of this daemon alone
	owner uint64
	timer *time.Timer
}

func newDAVLocks(h *handler) *davLocks {
	return &davLocks{h: h, table: webdav.NewMemLS(), held: map[string]*davHeld{}}
}

func (l *davLocks) close() {
	l.mu.Lock()
	held := l.held
	l.held = map[string]*davHeld{}
	l.mu.Unlock()
	for _, x := range held {
		x.end()
	}
}

func (x *davHeld) end() {
	x.timer.Stop()
	if x.w != nil {
		x.w.Close()
	}
}

// drop gives a lock in the cluster back.
func (l *davLocks) drop(token string) {
	l.mu.Lock()
	x := l.held[token]
	delete(l.held, token)
	l.mu.Unlock()
	if x != nil {
		x.end()
	}
}

// removed ends the locks of what is not there any more (RFC 4918, 9.6).
func (l *davLocks) removed(p string) {
	l.mu.Lock()
	var gone []string
	for token, x := range l.held {
		if access.Beneath(x.path, p) {
			gone = append(gone, token)
		}
	}
	l.mu.Unlock()
	for _, token := range gone {
		l.drop(token)
	}
}

// free tells whether nobody has locked what is at some paths.
func (l *davLocks) free(ctx context.Context, paths ...string) error {
	for _, p := range paths {
		token, err := l.table.Create(time.Now(), webdav.LockDetails{Root: p, Duration: -1})
		if err != nil {
			return tnv.E(p, tnv.KindWouldBlock, "it is locked")
		}
		l.table.Unlock(time.Now(), token)
	}
	return nil
}

// lock takes the lock of a file in the cluster, if there is a file.
func (l *davLocks) lock(ctx context.Context, p string) (*davHeld, error) {
	l.mu.Lock()
	l.last++
	x := &davHeld{path: p, owner: l.last}
	full := len(l.held) >= maxDAVLocks
	l.mu.Unlock()
	if full {
		return nil, tnv.E("lock", tnv.KindNoLock, "%d locks are held", maxDAVLocks)
	}
	res, err := l.h.src.Resolve(ctx, l.h.cred, p, true)
	if errors.Is(err, tnv.KindNotExist) || err == nil && !res.Attr.IsRegular() {
		return x, nil
	}
	if err != nil {
		return nil, err
	}
	w, err := l.h.src.OpenWrite(ctx, res.Attr.Ino)
	if err != nil {
		return nil, err
	}
	if err := w.Lock(ctx, x.flock()); err != nil {
		w.Close()
		return nil, err
	}
	x.w = w
	return x, nil
}

func (x *davHeld) flock() protocol.Lock {
	return protocol.Lock{Kind: protocol.LockFlock, Mode: protocol.LockExclusive, Owner: 1<<63 | x.owner}
}

// moveLock goes on with a path's lock on the draft that is about to take it. If the
// file that it replaces is locked by somebody outside of this daemon, KindBusy.
func (l *davLocks) moveLock(ctx context.Context, p string, d *draft) error {
	token, x := l.of(p)
	if x == nil {
		return l.foreign(ctx, p)
	}
	at, err := d.w.Attr(ctx)
	if err != nil {
		return err
	}
	w, err := l.h.src.OpenWrite(ctx, at.Ino)
	if err != nil {
		return err
	}
	if err := w.Lock(ctx, x.flock()); err != nil {
		w.Close()
		return err
	}
	l.mu.Lock()
	old := x.w
	if l.held[token] == x {
		x.w = w
	} else {
		old = w // it has ended meanwhile
	}
	l.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return nil
}

// of finds the lock that was taken of a path itself.
func (l *davLocks) of(p string) (string, *davHeld) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for token, x := range l.held {
		if x.path == p {
			return token, x
		}
	}
	return "", nil
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
		return webdav.ErrLocked
	}
	return err
}

// davView is the table as one request sees it.
type davView struct {
	l *davLocks
	d *davFS
}

// Confirm implements webdav.LockSystem. Tags among the conditions are compared
// with what is there; those that hold need no further look.
func (v *davView) Confirm(now time.Time, name0, name1 string, conditions ...webdav.Condition) (func(), error) {
	for _, c := range conditions {
		switch {
		case c.ETag != "" && (v.tag(name0, name1) == c.ETag) == c.Not:
			return nil, webdav.ErrConfirmationFailed
		case c.Token == "DAV:no-lock" && !c.Not:
			return nil, webdav.ErrConfirmationFailed
		}
	}
	return v.l.table.Confirm(now, name0, name1, conditions...)
}

// tag is the entity tag of what conditions are about.
func (v *davView) tag(name0, name1 string) string {
	name := name0
	if name == "" {
		name = name1
	}
	p, err := v.d.clean(name, false)
	if err != nil {
		return ""
	}
	at, err := v.d.stat(v.d.r.Context(), p)
	if err != nil {
		return ""
	}
	return etag(&at)
}

// Create implements webdav.LockSystem. A lock for the time of a request (its
// duration is negative) is of the table alone.
func (v *davView) Create(now time.Time, ld webdav.LockDetails) (string, error) {
	ld.Root = path.Clean("/" + strings.TrimPrefix(ld.Root, "/"))
	if v.d.r.Method != "LOCK" {
		return v.l.table.Create(now, ld)
	}
	if ld.Duration < 0 || ld.Duration > maxDAVLife {
		ld.Duration = maxDAVLife
	}
	token, err := v.l.table.Create(now, ld)
	if err != nil {
		return "", err
	}
	x, err := v.l.lock(v.d.r.Context(), ld.Root)
	if err != nil {
		v.l.table.Unlock(now, token)
		if errors.Is(err, tnv.KindWouldBlock) {
			return "", webdav.ErrLocked
		}
		return "", v.d.fail("lock", ld.Root, err)
	}
	x.timer = time.AfterFunc(ld.Duration, func() { v.l.drop(token) })
	v.l.mu.Lock()
	defer v.l.mu.Unlock()
	v.l.held[token] = x
	return token, nil
}

// Refresh implements webdav.LockSystem.
func (v *davView) Refresh(now time.Time, token string, duration time.Duration) (webdav.LockDetails, error) {
	if duration < 0 || duration > maxDAVLife {
		duration = maxDAVLife
	}
	ld, err := v.l.table.Refresh(now, token, duration)
	if err == nil {
		v.l.mu.Lock()
		defer v.l.mu.Unlock()
		if x := v.l.held[token]; x != nil {
			x.timer.Reset(duration)
		}
	}
	return ld, err
}

// Unlock implements webdav.LockSystem.
func (v *davView) Unlock(now time.Time, token string) error {
	err := v.l.table.Unlock(now, token)
	if err == nil {
		v.l.drop(token)
	}
	return err
}
