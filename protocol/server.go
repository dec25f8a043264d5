package protocol

import (
	"context"
	"errors"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
)

// Peer is the asking side of a connection, as a server sees it.
type Peer struct {
	Role Role
	Addr string
	w    *Wire
}

// Push sends a frame that nobody answers. It may block as long as a write to
// the connection does.
func (p *Peer) Push(t Type, values ...any) error {
	return p.w.WriteFrame(t, FlagPush, 0, values)
}

// Close ends the connection.
func (p *Peer) Close() { p.w.Close() }

// Wire is the connection itself, for handlers of block connections.
func (p *Peer) Wire() *Wire { return p.w }

// Server answers connections. Set the fields, then call Serve.
type Server struct {
	Endpoint *Endpoint
	Log      *logrus.Entry
	// Handle answers one request of a multiplexed connection: it returns the
	// values of the reply's body. It runs on a goroutine of its own, and ctx
	// ends with the connection. A panic in it answers KindOther.
	Handle func(ctx context.Context, p *Peer, f *Frame) ([]any, error)
	// Inline, if set, names requests that are answered at once: they are handled
	// on the connection's own goroutine if nothing else has come yet.
	Inline func(t Type) bool
	// Block, if set, is called instead, on the connection's goroutine, one
	// request after another; it reads the payload and writes the reply itself.
	// An error ends the connection.
	Block func(ctx context.Context, p *Peer, f *Frame) error
	// Closed, if set, is called once for each connection that Handle or Block
	// may have seen, when it is over.
	Closed func(p *Peer)
	// MaxOutstanding bounds the requests under way on one connection; further
	// ones wait in the socket. 0: 256.
	MaxOutstanding int
	// Idle ends a connection on which nothing was asked for so long. 0: never.
	Idle time.Duration

	mu    sync.Mutex
	conns map[net.Conn]bool
	lns   map[net.Listener]bool
	done  bool
	wg    sync.WaitGroup
}

// Serve accepts connections until the listener or the server is closed.
func (s *Server) Serve(ln net.Listener) error {
	s.mu.Lock()
	if s.done {
		s.mu.Unlock()
		ln.Close()
		return net.ErrClosed
	}
	if s.conns == nil {
		s.conns, s.lns = map[net.Conn]bool{}, map[net.Listener]bool{}
	}
	s.lns[ln] = true
	s.mu.Unlock()
	for {
		c, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.Log.WithError(err).Warn("accept failed")
			time.Sleep(50 * time.Millisecond) // out of descriptors, most likely
			continue
		}
		s.mu.Lock()
		if s.done {
			s.mu.Unlock()
			c.Close()
			return nil
		}
		s.conns[c] = true
		s.wg.Add(1)
		s.mu.Unlock()
		go s.serve(c)
	}
}

// Close ends all listeners and connections and waits for their handlers.
func (s *Server) Close() error {
	s.mu.Lock()
	s.done = true
	for ln := range s.lns {
		ln.Close()
	}
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

func (s *Server) serve(c net.Conn) {
	defer s.wg.Done()
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	w, role, err := Accept(s.Endpoint, c)
	if err != nil {
		s.Log.WithError(err).WithField("peer", c.RemoteAddr().String()).Warn("refused a connection")
		return
	}
	p := &Peer{Role: role, Addr: c.RemoteAddr().String(), w: w}
	if s.Closed != nil {
		defer s.Closed(p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var under sync.WaitGroup
	defer under.Wait()
	defer cancel()
	limit := make(chan struct{}, max(1, orDefault(s.MaxOutstanding, 256)))
	for {
		if s.Idle > 0 {
			c.SetReadDeadline(time.Now().Add(s.Idle))
		}
		f, err := w.ReadFrame()
		if err != nil {
			if tnv.KindOf(err) == tnv.KindProtocol {
				s.Log.WithError(err).WithField("peer", p.Addr).Warn("connection closed")
			}
			return
		}
		if f.Type == TypePing {
			if w.WriteReply(&f, nil, nil) != nil {
				return
			}
			continue
		}
		if s.Block != nil {
			if err := s.block(ctx, p, &f); err != nil {
				s.Log.WithError(err).WithField("peer", p.Addr).Debug("connection closed")
				return
			}
			continue
		}
		if s.Inline != nil && s.Inline(f.Type) && w.r.Buffered() == 0 {
			s.handle(ctx, p, &f) // nobody waits behind it: no need to wake another goroutine
			continue
		}
		limit <- struct{}{}
		under.Add(1)
		go func() {
			defer under.Done()
			s.handle(ctx, p, &f)
			<-limit
		}()
	}
}

func orDefault(v, d int) int {
	if v == 0 {
		return d
	}
	return v
}

func (s *Server) handle(ctx context.Context, p *Peer, f *Frame) {
	values, err := func() (v []any, err error) {
		defer s.recovered(f, &err)
		return s.Handle(ctx, p, f)
	}()
	if err := p.w.WriteReply(f, err, values); err != nil {
		if tnv.KindOf(err) == tnv.KindProtocol { // the reply was too large: say so instead
			err = p.w.WriteReply(f, err, nil)
		}
		if err != nil {
			p.w.Close()
		}
	}
}

func (s *Server) block(ctx context.Context, p *Peer, f *Frame) (err error) {
	defer s.recovered(f, &err)
	return s.Block(ctx, p, f)
}

// recovered turns a panic into an error: one bad request ends alone.
func (s *Server) recovered(f *Frame, err *error) {
	if v := recover(); v != nil {
		s.Log.WithFields(logrus.Fields{"type": f.Type, "panic": v, "stack": string(debug.Stack())}).Error("request panicked")
		*err = tnv.E("request", tnv.KindOther, "internal error: %v", v)
	}
}
