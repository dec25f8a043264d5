package httpd

import (
	"context"
	"net"
	"sync"
)

// limitListener lets so many connections be open at a time; further ones wait in
// the system's queue.
type limitListener struct {
	net.Listener
	places  chan struct{}
	done    chan struct{}
	once    sync.Once
	changed func(delta int)
}

func newLimitListener(ln net.Listener, n int, changed func(delta int)) *limitListener {
	return &limitListener{Listener: ln, places: make(chan struct{}, n), done: make(chan struct{}), changed: changed}
}

// Accept waits for a free place, then for a connection.
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	l.changed(+1)
	return &limitedConn{Conn: c, release: func() { l.changed(-1); <-l.places }}, nil
}

// Close ends Accept.
func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// limitedConn gives its place back when it is closed. It can hold one piece back,
// to send it with the next in one go: net/http writes the header and the first
// bytes of a body apart from the rest, which would be one more call of the system,
// and one more wake-up of the reader, for each range.
type limitedConn struct {
	net.Conn
	once    sync.Once
	release func()

	// Of the goroutine that writes the answer.
	hold bool   // the next piece is to be held back
	held []byte // a copy
}

type connKey struct{}

// withConn makes the connection known to the requests on it.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// connOf finds the connection of a request; nil if it is none of ours.
func connOf(ctx context.Context) *limitedConn {
	c, _ := ctx.Value(connKey{}).(*limitedConn)
	return c
}

// Write implements net.Conn.
func (c *limitedConn) Write(p []byte) (int, error) {
	if c.hold {
		c.hold = false
		c.held = append(c.held[:0], p...)
		return len(p), nil
	}
	if len(c.held) == 0 {
		return c.Conn.Write(p)
	}
	first := len(c.held)
	v := net.Buffers{c.held, p}
	n, err := v.WriteTo(c.Conn)
	c.held = c.held[:0]
	return max(0, int(n)-first), err
}

// flush sends what is held back.
func (c *limitedConn) flush() error {
	c.hold = false
	if len(c.held) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.held)
	c.held = c.held[:0]
	return err
}

func (c *limitedConn) Close() error {
	defer c.once.Do(c.release)
	return c.Conn.Close()
}
