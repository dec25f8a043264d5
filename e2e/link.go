package e2e

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Link is a way to a daemon that the test can break: it forwards connections.
type Link struct {
	Addr string // where it listens

	to string
	ln net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	open  chan struct{} // closed: bytes pass; else they wait until it is
}

// NewLink begins to forward to an address, until the test is over.
func NewLink(t testing.TB, to string) *Link {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Link{Addr: ln.Addr().String(), to: to, ln: ln, conns: map[net.Conn]bool{}, open: make(chan struct{})}
	close(l.open)
	l.wg.Go(l.accept)
	t.Cleanup(func() {
		ln.Close()
		l.Break()
		l.wg.Wait()
	})
	return l
}

// Break closes all connections. New ones are taken.
func (l *Link) Break() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.Close()
	}
}

// Stall lets nothing pass for a while, in either direction, and breaks nothing:
// what is under way arrives late.
func (l *Link) Stall(d time.Duration) {
	open := make(chan struct{})
	l.mu.Lock()
	l.open = open
	l.mu.Unlock()
	time.Sleep(d)
	close(open)
}

func (l *Link) accept() {
	for {
		in, err := l.ln.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() { l.forward(in) })
	}
}

func (l *Link) forward(in net.Conn) {
	defer in.Close()
	out, err := net.DialTimeout("tcp", l.to, 10*time.Second)
	if err != nil {
		return
	}
	defer out.Close()
	l.mu.Lock()
	l.conns[in], l.conns[out] = true, true
	l.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			l.pump(way[0], way[1])
			in.Close()
			out.Close()
		})
	}
	both.Wait()
	l.mu.Lock()
	delete(l.conns, in)
	delete(l.conns, out)
	l.mu.Unlock()
}

// pump copies one direction, when the link is open.
func (l *Link) pump(from io.Reader, to io.Writer) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		l.mu.Lock()
		open := l.open
		l.mu.Unlock()
		<-open
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
