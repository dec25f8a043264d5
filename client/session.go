package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/clock"
	"github.com/tnvfs/tnv/protocol"
)

// Times of the connection to the owner. A dead tracker costs a few seconds.
const (
	dialTimeout    = 2 * time.Second        // one tracker's answer to a connection
	openTimeout    = 4 * time.Second        // one tracker's answer to OpenSession
	attemptTimeout = 4 * time.Second        // silence after which a tracker is pinged
	pingTimeout    = 1 * time.Second        // silence after which a connection is given up
	minBackoff     = 10 * time.Millisecond  // between rounds over all trackers
	maxBackoff     = 500 * time.Millisecond // with jitter
)

// sess is one session with the owner. When it ends, ended is closed and whatever
// was granted to it is void.
type sess struct {
	info  protocol.SessionInfo
	slots chan *slot // the free ones
	ended chan struct{}
	ids   idPool
	spare spare
}

// slot carries one mutation at a time. Whoever took it from sess.slots owns it.
type slot struct {
	id  uint32
	seq uint64 // of the last mutation
}

const maxSlots = 256

func newSess(info protocol.SessionInfo) *sess {
	n := min(max(info.Slots, 1), maxSlots)
	s := &sess{info: info, slots: make(chan *slot, n), ended: make(chan struct{})}
	for i := range n {
		s.slots <- &slot{id: i}
	}
	return s
}

// attachment is a live connection on which a session is open.
type attachment struct {
	conn *protocol.Client
	sess *sess
	addr string
}

// link keeps a session with the volume's owner, through whichever tracker that
// is. There is at most one attachment; when it breaks, one goroutine looks for
// the next, and everybody waits for it.
type link struct {
	cfg  *Config
	ep   *protocol.Endpoint
	life context.Context // ends with the client
	wg   *sync.WaitGroup // of the client
	// lost is called when a session has ended, before the next is used; moved
	// when a session was resumed with an owner of another epoch. Both are called
	// without locks, on the dialling goroutine, and do no I/O.
	lost  func(old *sess)
	moved func()
	// dropped is called before a session is gone on with on a new connection: it
	// returns when nothing is believed that was leased before. began is called with
	// the connection, the session and the time at which it was asked for; pushed
	// for each frame that the owner sends unasked, on the reading goroutine.
	dropped func()
	began   func(conn *protocol.Client, info *protocol.SessionInfo, sent time.Duration)
	pushed  func(conn *protocol.Client, f *protocol.Frame)
	m       *metrics

	mu      sync.Mutex
	cur     *attachment
	sess    *sess         // the newest; nil before the first
	dialing chan struct{} // not nil: closed when the dialling goroutine is done
	lastErr error         // why no attachment could be made
	told    []string      // trackers, as one of them named them last
	avoid   avoided
}

// attach waits for an attachment. Its error, when ctx ends, is KindUnavailable
// or that of the ctx: see opError.
func (l *link) attach(ctx context.Context) (*attachment, error) {
	for {
		l.mu.Lock()
		if l.cur != nil && l.cur.conn.Err() == nil {
			a := l.cur
			l.mu.Unlock()
			return a, nil
		}
		l.cur = nil
		if l.life.Err() != nil {
			l.mu.Unlock()
			return nil, errClosed
		}
		if l.dialing == nil {
			l.dialing = make(chan struct{})
			l.wg.Add(1)
			go l.dial(l.dialing)
		}
		wait := l.dialing
		l.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

var errClosed = tnv.E("client", tnv.KindUnavailable, "the client is closed")

// left tells whether another connection is the one in use.
func (l *link) left(conn *protocol.Client) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cur != nil && l.cur.conn != conn
}

// drop gives an attachment up: its connection is of no use any more.
func (l *link) drop(a *attachment) {
	l.mu.Lock()
	if l.cur == a {
		l.cur = nil
	}
	l.mu.Unlock()
	a.conn.Close()
}

// dial tries all trackers, round after round, until one takes the session.
func (l *link) dial(done chan struct{}) {
	defer l.wg.Done()
	backoff := minBackoff
	for l.life.Err() == nil {
		a, err := l.round()
		l.mu.Lock()
		l.lastErr = err
		if err == nil {
			l.cur = a
			l.dialing = nil
			l.mu.Unlock()
			close(done)
			return
		}
		l.mu.Unlock()
		select {
		case <-time.After(backoff/2 + rand.N(backoff)):
		case <-l.life.Done():
		}
		backoff = min(2*backoff, l.mostBackoff())
	}
	l.mu.Lock()
	l.dialing = nil
	l.mu.Unlock()
	close(done)
}

// definite tells whether asking again can not help.
func definite(err error) bool {
	switch tnv.KindOf(err) {
	case tnv.KindAuth, tnv.KindVersion, tnv.KindWrongCluster, tnv.KindNotExist, tnv.KindInvalid, tnv.KindReadOnly, tnv.KindPermission:
		return true
	}
	return false
}

// try opens or resumes the session at one tracker.
func (l *link) try(addr string, s *sess) (*attachment, error) {
	limit := dialTimeout
	if len(l.known()) > 1 {
		limit = ownerTimeout
	}
	ctx, cancel := context.WithTimeout(l.life, limit)
	defer cancel()
	conn, err := l.connect(ctx, addr)
	if err != nil {
		return nil, err
	}
	req := protocol.OpenSession{Volume: l.cfg.Volume, Identity: l.cfg.Identity, Client: l.cfg.Name, ReadOnly: l.cfg.ReadOnly}
	if s != nil {
		req.Resume, req.Dropped = s.info.Session, true
	}
	l.dropped()
	sent := clock.Boot()
	info, err := l.open(conn, &req)
	if tnv.KindOf(err) == tnv.KindSessionEnded && req.Resume != 0 {
		req.Resume = 0
		sent = clock.Boot()
		info, err = l.open(conn, &req)
	}
	if err != nil {
		if elsewhere(tnv.KindOf(err)) {
			l.ask(ctx, conn) // whom else there is to ask
		}
		conn.Close()
		return nil, err
	}
	a := &attachment{conn: conn, sess: l.adopt(s, info), addr: addr}
	l.began(conn, &info, sent)
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		l.refreshTrackers(conn)
	}()
	return a, nil
}

// connect connects to a tracker, and has what it pushes handed on.
func (l *link) connect(ctx context.Context, addr string) (*protocol.Client, error) {
	var self atomic.Pointer[protocol.Client]
	conn, err := protocol.DialClient(ctx, l.ep, addr, func(f *protocol.Frame) {
		if c := self.Load(); c != nil { // nothing is pushed before a session is open
			l.pushed(c, f)
		}
	})
	self.Store(conn)
	return conn, err
}

func (l *link) open(conn *protocol.Client, req *protocol.OpenSession) (protocol.SessionInfo, error) {
	ctx, cancel := context.WithTimeout(l.life, openTimeout)
	defer cancel()
	var info protocol.SessionInfo
	err := conn.Call(ctx, protocol.TypeOpenSession, &info, req)
	if err == nil && (info.Session == 0 || info.Vol == 0) {
		err = tnv.E("open session", tnv.KindProtocol, "the tracker named no session")
	}
	return info, err
}

// adopt makes the session that info tells of the current one: the old one, if
// it was resumed, or a new one in its place.
func (l *link) adopt(old *sess, info protocol.SessionInfo) *sess {
	if old != nil && info.Session == old.info.Session {
		if info.Epoch != old.info.Epoch || info.Seq < old.info.Seq {
			l.moved()
		}
		l.mu.Lock()
		old.info.Epoch, old.info.Seq = info.Epoch, info.Seq
		l.mu.Unlock()
		return old
	}
	s := newSess(info)
	if old != nil {
		close(old.ended)
		l.m.sessionsLost.Inc()
		l.cfg.Log.WithField("session", old.info.Session).Warn("the session has ended: what was not yet written is lost")
		l.lost(old)
	}
	l.mu.Lock()
	l.sess = s
	l.mu.Unlock()
	return s
}

// first waits for the first attachment; unlike attach it gives up as soon as a
// tracker's answer says that waiting can not help.
func (l *link) first(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	ready := make(chan error, 1)
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		_, err := l.attach(ctx)
		ready <- err
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ready:
			if err == nil {
				return nil
			}
			if why := l.why(); why != nil && tnv.KindOf(err) == tnv.KindTimeout {
				return tnv.Wrap("connect", why)
			}
			return tnv.Wrap("connect", err)
		case <-tick.C:
			if why := l.why(); why != nil && definite(why) {
				return tnv.Wrap("connect", why)
			}
		}
	}
}

// why is the reason for having no attachment; nil if unknown.
func (l *link) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastErr
}

// opError is what an operation returns that gave up: the caller's own ending,
// if it was that, else KindUnavailable with what is known of the cause.
func (l *link) opError(caller context.Context, op string, err error) error {
	if cause := caller.Err(); cause != nil {
		return tnv.Wrap(op, cause)
	}
	if errors.Is(err, errClosed) {
		return err
	}
	if why := l.why(); why != nil {
		err = why
	}
	return &tnv.Error{Op: op, Kind: tnv.KindUnavailable, Err: err,
		Msg: "no answer within " + l.cfg.Timeout.String()}
}

// close ends the session and the connection.
func (l *link) close(ctx context.Context) {
	l.mu.Lock()
	a := l.cur
	l.mu.Unlock()
	if a == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	req := protocol.CloseSession{Vol: a.sess.info.Vol, Session: a.sess.info.Session}
	if err := a.conn.Call(ctx, protocol.TypeCloseSession, nil, &req); err != nil {
		l.cfg.Log.WithError(err).Info("the session was not closed: it ends by itself")
	}
}
