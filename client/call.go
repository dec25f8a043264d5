package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// opName is an operation's name in errors.
func opName(t protocol.Type) string {
	if n, ok := opNames[t]; ok {
		return n
	}
	return fmt.Sprintf("request %#x", uint16(t))
}

// The table is never written to.
var opNames = map[protocol.Type]string{
	protocol.TypeLookup: "lookup", protocol.TypeGetAttr: "getattr", protocol.TypeReadDir: "readdir",
	protocol.TypeReadLink: "readlink", protocol.TypeGetXattr: "getxattr", protocol.TypeListXattr: "listxattr",
	protocol.TypeExtents: "extents", protocol.TypeStatFS: "statfs", protocol.TypeResolve: "resolve",
	protocol.TypeCreate: "create", protocol.TypeMkdir: "mkdir", protocol.TypeSymlink: "symlink",
	protocol.TypeLink: "link", protocol.TypeUnlink: "unlink", protocol.TypeRmdir: "rmdir",
	protocol.TypeRename: "rename", protocol.TypeSetAttr: "setattr", protocol.TypeSetXattr: "setxattr",
	protocol.TypeRemoveXattr: "removexattr", protocol.TypeCommit: "commit", protocol.TypeGrant: "grant",
	protocol.TypeSyncFS: "syncfs", protocol.TypeStatus: "status", protocol.TypeGetMap: "map",
	protocol.TypeReleased: "released", protocol.TypeGetLock: "getlock", protocol.TypeSetLock: "lock",
	protocol.TypeLockWait: "lock", protocol.TypeDropWaits: "lock", protocol.TypeAlive: "alive", protocol.TypeSeek: "seek",
	protocol.TypeFallocate: "fallocate", protocol.TypeCopyRange: "copy range", protocol.TypeGiveBack: "give back",
}

// elsewhere tells whether an answer says nothing of the operation, only that
// this tracker, now, is not the one to ask.
func elsewhere(k tnv.Kind) bool {
	switch k {
	case tnv.KindNotOwner, tnv.KindFenced, tnv.KindUnavailable, tnv.KindTimeout:
		return true
	}
	return false
}

// attempt sends one request on one connection and waits for the answer. While
// the tracker answers pings it is slow, not dead: the request is repeated on the
// same connection. An error means that the connection is of no use.
func (l *link) attempt(ctx context.Context, a *attachment, t protocol.Type, values ...any) (protocol.Frame, error) {
	for d := l.patience(); ; d *= 2 {
		tctx, cancel := context.WithTimeout(ctx, d)
		f, err := a.conn.CallRaw(tctx, t, values...)
		cancel()
		if err == nil || ctx.Err() != nil || tnv.KindOf(err) != tnv.KindTimeout {
			return f, err
		}
		pctx, cancel := context.WithTimeout(ctx, pingTimeout)
		perr := a.conn.Call(pctx, protocol.TypePing, nil)
		cancel()
		if perr != nil {
			return f, err
		}
	}
}

// pause keeps retries from spinning.
func pause(ctx context.Context, try int) {
	d := min(minBackoff<<min(try, 6), maxBackoff)
	select {
	case <-time.After(d/2 + rand.N(d/2)):
	case <-ctx.Done():
	}
}

// query runs a request that changes nothing: as often as it takes, until the
// operation's deadline. values makes the request's body for a session; rep are the
// values of the answer's.
func (l *link) query(caller context.Context, t protocol.Type, values func(*sess) []any, rep ...any) error {
	op := opName(t)
	ctx, cancel := context.WithTimeout(caller, l.cfg.Timeout)
	defer cancel()
	var last error
	for try := 0; ; try++ {
		a, err := l.attach(ctx)
		if err != nil {
			if last == nil {
				last = err
			}
			return l.opError(caller, op, last)
		}
		f, err := l.attempt(ctx, a, t, values(a.sess)...)
		if err == nil {
			err = f.Decode(rep...)
			if k := tnv.KindOf(err); err == nil || !elsewhere(k) && k != tnv.KindSessionEnded {
				return err
			}
		}
		if ctx.Err() != nil {
			if last == nil {
				last = err
			}
			return l.opError(caller, op, last)
		}
		last = err
		l.m.retries.Inc()
		l.drop(a)
		pause(ctx, try)
	}
}

// mutation is one mutation on its way: executed once, however often it is sent.
type mutation struct {
	t    protocol.Type
	body protocol.Raw
	sess *sess
	slot *slot
	sent bool // ever handed to a connection
	// The outcome, valid once done is closed.
	f     protocol.Frame
	err   error
	fresh bool // it certainly was not executed, and the session is over
	done  chan struct{}
}

// change runs a mutation exactly once. bound, if not nil, is the only session
// in which it makes sense. If ctx ends after it was sent, the answer is awaited
// in the background with the slot kept; abandoned, if not nil, is called then: the
// outcome is known when m.done is closed. rep are the values of the answer.
func (l *link) change(caller context.Context, t protocol.Type, cred tnv.Cred, req any, bound *sess, abandoned func(m *mutation), rep ...any) error {
	ctx, cancel := context.WithTimeout(caller, l.cfg.Timeout)
	defer cancel()
	for {
		m, err := l.prepare(ctx, t, cred, req, bound)
		if err != nil {
			if tnv.KindOf(err) == tnv.KindSessionEnded || tnv.KindOf(err) == tnv.KindProtocol {
				return err
			}
			return l.opError(caller, opName(t), err)
		}
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			l.carry(ctx, m)
		}()
		select {
		case <-m.done:
		case <-ctx.Done():
			if abandoned != nil {
				abandoned(m)
			}
			return l.opError(caller, opName(t), ctx.Err())
		}
		switch {
		case m.fresh && bound == nil:
			continue // a new session may run it
		case m.err != nil && ctx.Err() != nil:
			return l.opError(caller, opName(t), m.err)
		case m.err != nil:
			return m.err
		}
		return m.f.Decode(rep...)
	}
}

// complete runs a mutation, however long that takes; its error says that it
// never will be: the session or the client is over.
func (l *link) complete(t protocol.Type, cred tnv.Cred, req any) error {
	m, err := l.prepare(l.life, t, cred, req, nil)
	if err != nil {
		return err
	}
	l.carry(l.life, m)
	if m.err != nil {
		return m.err
	}
	return m.f.Decode()
}

// prepare takes a slot and writes the bytes that will be sent.
func (l *link) prepare(ctx context.Context, t protocol.Type, cred tnv.Cred, req any, bound *sess) (*mutation, error) {
	for {
		s := bound
		if s == nil {
			a, err := l.attach(ctx)
			if err != nil {
				return nil, err
			}
			s = a.sess
		}
		select {
		case sl := <-s.slots:
			head := protocol.Head{Vol: s.info.Vol, Session: s.info.Session, Slot: sl.id, Seq: sl.seq + 1, Cred: cred}
			body, err := protocol.Marshal(&head, req)
			if err != nil {
				s.slots <- sl
				return nil, err
			}
			sl.seq++
			return &mutation{t: t, body: body, sess: s, slot: sl, done: make(chan struct{})}, nil
		case <-s.ended:
			if bound != nil {
				return nil, errSessionEnded(t)
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func errSessionEnded(t protocol.Type) error {
	return tnv.E(opName(t), tnv.KindSessionEnded, "the session with the tracker has ended meanwhile")
}

// carry sends a mutation until there is an answer to it. Before it was sent for
// the first time the end of ctx stops it; afterwards only the session's or the
// client's does.
func (l *link) carry(ctx context.Context, m *mutation) {
	defer close(m.done)
	for try := 0; ; try++ {
		wait := l.life
		if !m.sent {
			wait = ctx
		}
		a, err := l.attach(wait)
		if err != nil {
			if !m.sent {
				m.slot.seq--
				m.sess.slots <- m.slot
			}
			m.err = err
			return
		}
		if a.sess != m.sess {
			m.fresh, m.err = !m.sent, errSessionEnded(m.t)
			return
		}
		first := !m.sent
		m.sent = true
		f, err := l.attempt(l.life, a, m.t, m.body)
		if err == nil {
			k := tnv.KindOf(f.Decode())
			if k == tnv.KindSessionEnded {
				m.fresh, m.err = first, errSessionEnded(m.t)
				l.drop(a)
				return
			}
			if !elsewhere(k) {
				m.f = f
				m.sess.slots <- m.slot
				return
			}
		}
		l.m.retries.Inc()
		l.drop(a)
		pause(l.life, try)
	}
}

// read runs an operation that changes nothing. What comes with the answer counts
// for the lease cache.
func (c *Client) read(ctx context.Context, cred tnv.Cred, t protocol.Type, rep, req any) (*told, error) {
	with := &told{mark: c.leases.mark()}
	err := c.link.query(ctx, t, func(s *sess) []any {
		return []any{&protocol.Head{Vol: s.info.Vol, Session: s.info.Session, Cred: cred}, req}
	}, rep, &with.leased)
	return with, err
}

// plain runs a request that is not on a volume.
func (c *Client) plain(ctx context.Context, t protocol.Type, rep, req any) error {
	return c.link.query(ctx, t, func(*sess) []any { return []any{req} }, rep)
}

// nothing is the answer of operations that answer nothing.
type nothing struct{}

// mutate runs a mutation exactly once. fl is what it may change: it is in flight
// already, and to be landed by the caller, who first has it take the answer.
func (c *Client) mutate(ctx context.Context, cred tnv.Cred, t protocol.Type, rep, req any, fl *flight) (*told, error) {
	if c.cfg.ReadOnly {
		return nil, tnv.E(opName(t), tnv.KindReadOnly, "this client was opened read-only")
	}
	return c.mutateIn(ctx, cred, t, rep, req, fl, nil)
}

// mutateIn is mutate within one session, if that is not nil.
func (c *Client) mutateIn(ctx context.Context, cred tnv.Cred, t protocol.Type, rep, req any, fl *flight, bound *sess) (*told, error) {
	with := &told{mark: c.leases.mark()}
	if rep == nil {
		rep = &nothing{}
	}
	err := c.link.change(ctx, t, cred, req, bound, fl.abandoned(&c.wg), rep, &with.leased)
	if err != nil && refused(err) {
		fl.failed()
	}
	return with, err
}

// refused tells whether an error is the owner's answer, and nothing has changed.
func refused(err error) bool {
	switch tnv.KindOf(err) {
	case tnv.KindNotExist, tnv.KindExist, tnv.KindPermission, tnv.KindNotPermitted, tnv.KindNotDir, tnv.KindIsDir,
		tnv.KindNotEmpty, tnv.KindInvalid, tnv.KindNameTooLong, tnv.KindTooManyLinks, tnv.KindNoData, tnv.KindStale:
		return true
	}
	return false
}
