package httpd

import (
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

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	once    sync.Once
	release func()
}

func (c *limitedConn) Close() error {
	defer c.once.Do(c.release)
	return c.Conn.Close()
}
