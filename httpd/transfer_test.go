package httpd

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// A file that becomes shorter while it is sent must not end as if it were whole.
func TestTruncatedWhileSent(t *testing.T) {
	for _, rng := range []string{"", "bytes=0-5,100000-7999999"} {
		f := newFake()
		data := noise(8 << 20)
		f.file("/a.mp4", bytes.Clone(data))
		f.onRead = func(n *node, off int64) {
			if off >= 1<<20 {
				f.mu.Lock()
				n.data = n.data[:1<<20+5]
				f.mu.Unlock()
			}
		}
		srv, _ := start(t, f, tnv.Root)
		req, _ := http.NewRequest("GET", srv.URL+"/a.mp4", nil)
		if rng != "" {
			req.Header.Set("Range", rng)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			t.Errorf("Range %q: the answer ended as if it were whole, after %d bytes", rng, len(body))
		}
		if rng == "" && !bytes.Equal(body, data[:len(body)]) {
			t.Errorf("wrong bytes were sent before the cut")
		}
	}
}

// A file that is rewritten in place while it is sent must not end as if it were
// one version; one that grows may.
func TestChangedWhileSent(t *testing.T) {
	for _, grows := range []bool{false, true} {
		f := newFake()
		n := f.file("/a.mp4", noise(8<<20))
		f.onRead = func(_ *node, off int64) {
			if off >= 1<<20 {
				f.mu.Lock()
				n.attr.Data = 8
				if grows {
					n.attr.Size = 9 << 20
				}
				f.mu.Unlock()
			}
		}
		srv, _ := start(t, f, tnv.Root)
		resp, err := http.Get(srv.URL + "/a.mp4")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if (err == nil) != grows {
			t.Errorf("grows %v: %d bytes, error %v", grows, len(body), err)
		}
	}
}

// With more transfers than may hold the client's memory, bytes are copied, and right.
func TestCopiedWhenMany(t *testing.T) {
	f := newFake()
	data := noise(3<<20 + 1)
	f.file("/a.mp4", data)
	srv, h := start(t, f, tnv.Root)
	h.views = 0
	for _, rng := range []string{"", "bytes=5-70000", "bytes=1-3145728"} {
		resp, body := do(t, "GET", srv.URL+"/a.mp4", "Range: "+rng)
		want := map[string][]byte{"": data, "bytes=5-70000": data[5:70001], "bytes=1-3145728": data[1:]}[rng]
		if !bytes.Equal(body, want) {
			t.Errorf("Range %q: status %d, %d bytes, want %d", rng, resp.StatusCode, len(body), len(want))
		}
	}
}

// Requests for one path share questions, and none gets an answer older than itself.
func TestLookupsAreShared(t *testing.T) {
	f := newFake()
	f.file("/a.mp4", noise(10))
	slow := &slowSource{fake: f, gate: make(chan struct{})}
	l := newLookups(t.Context(), slow, tnv.Root)
	var wg sync.WaitGroup
	var answered atomic.Int64
	ask := func() {
		wg.Go(func() {
			if _, err := l.resolve(t.Context(), "/a.mp4"); err != nil {
				t.Error(err)
			}
			answered.Add(1)
		})
	}
	ask()
	slow.gate <- struct{}{} // the first question is under way
	for range 50 {
		ask()
	}
	for end := time.Now().Add(10 * time.Second); slow.begun.Load() != 1 || !waiting(l, "/a.mp4"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody waits for the next answer")
		}
	}
	time.Sleep(20 * time.Millisecond) // all 50 are there
	slow.gate <- struct{}{}           // the first is answered
	slow.gate <- struct{}{}           // the second begins
	time.Sleep(20 * time.Millisecond)
	if n := answered.Load(); n != 1 {
		t.Errorf("%d requests have an answer, want 1: the others came when its question was already under way", n)
	}
	slow.gate <- struct{}{} // and is answered
	wg.Wait()
	l.wg.Wait()
	if n := slow.begun.Load(); n != 2 {
		t.Errorf("%d questions for 51 requests, want 2", n)
	}
	if len(l.paths) != 0 {
		t.Errorf("%d paths are still noted", len(l.paths))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	go func() { slow.gate <- struct{}{}; slow.gate <- struct{}{} }()
	if _, err := l.resolve(ctx, "/a.mp4"); err == nil {
		t.Log("the answer came before the caller left")
	}
	l.wg.Wait()
}

func waiting(l *lookups, path string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.paths[path]
	return k != nil && k.next != nil
}

// slowSource begins and ends each question when the gate lets it.
type slowSource struct {
	*fake
	gate  chan struct{}
	begun atomic.Int64
}

func (s *slowSource) Resolve(ctx context.Context, c tnv.Cred, p string, follow bool) (protocol.ResolveReply, error) {
	<-s.gate
	s.begun.Add(1)
	<-s.gate
	return s.fake.Resolve(ctx, c, p, follow)
}

// A reader that goes away ends the reading.
func TestReaderLeaves(t *testing.T) {
	f := newFake()
	f.file("/a.mp4", make([]byte, 64<<20))
	var reads atomic.Int64
	f.onRead = func(*node, int64) { reads.Add(1) }
	srv, h := start(t, f, tnv.Root)
	ctx, cancel := context.WithCancel(context.Background())
	req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL+"/a.mp4", nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	io.CopyN(io.Discard, resp.Body, 100<<10)
	cancel()
	resp.Body.Close()
	for end := time.Now().Add(10 * time.Second); h.active.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the transfer goes on without a reader")
		}
	}
	if n := reads.Load() * 100_000; n >= 64<<20 {
		t.Errorf("%d bytes were read for a reader that took 100 KiB", n)
	}
}

// A reader that takes nothing is cut off after the stall limit, and one that is
// merely slow is not.
func TestSlowReaders(t *testing.T) {
	f := newFake()
	data := noise(32 << 20)
	f.file("/a.mp4", data)
	srv, h := start(t, f, tnv.Root)
	h.stall = time.Second
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.(*net.TCPConn).SetReadBuffer(4 << 10)
	io.WriteString(c, "GET /a.mp4 HTTP/1.1\r\nHost: x\r\n\r\n")
	begin := time.Now()
	for h.active.Load() == 0 && time.Since(begin) < 10*time.Second {
		time.Sleep(time.Millisecond)
	}
	for h.active.Load() > 0 {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("a reader that takes nothing is never cut off")
		}
		time.Sleep(5 * time.Millisecond)
	}
	resp, err := http.Get(srv.URL + "/a.mp4")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got bytes.Buffer
	for range 16 {
		io.CopyN(&got, resp.Body, 2<<20)
		time.Sleep(100 * time.Millisecond) // 1.6 s in all, more than the limit
	}
	if !bytes.Equal(got.Bytes(), data) {
		t.Errorf("a slow reader got %d of %d bytes", got.Len(), len(data))
	}
}

func TestLimitListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open atomic.Int64
	l := newLimitListener(ln, 1, func(d int) { open.Add(int64(d)) })
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	for range 2 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first := <-accepted
	select {
	case <-accepted:
		t.Fatal("a second connection got in while there was place for one")
	case <-time.After(100 * time.Millisecond):
	}
	first.Close()
	first.Close() // a second close gives no second place
	second := <-accepted
	if open.Load() != 1 {
		t.Errorf("%d open, want 1", open.Load())
	}
	l.Close()
	second.Close()
	if _, ok := <-accepted; ok {
		t.Error("a connection after Close")
	}
}

func TestPieceSizes(t *testing.T) {
	for _, c := range []struct {
		active, left int64
		want         int
	}{{1, 1 << 30, largePiece}, {1, 64 << 10, mediumPiece}, {1, 100, smallPiece}, {100, 1 << 30, mediumPiece}, {1000, 1 << 30, smallPiece}} {
		p := newPiece(c.active, c.left)
		if len(p.b) != c.want {
			t.Errorf("%d transfers, %d bytes left: %d, want %d", c.active, c.left, len(p.b), c.want)
		}
		p.release()
	}
}
