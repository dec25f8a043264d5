package client_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/protocol"
	"github.com/tnvfs/tnv/trackerd"
)

// locked opens a new file at several clients.
func locked(t *testing.T, l ...*client.Client) (hs []*client.Handle) {
	t.Helper()
	_, rep, err := l[0].CreateFile(ctx, tnv.Root, protocol.Create{Parent: tnv.RootIno, Name: "locked", Mode: 0o100644}, os.O_RDWR)
	must(t, err)
	for _, c := range l {
		h, _, err := c.OpenFile(ctx, rep.Attr.Ino, os.O_RDWR)
		must(t, err)
		hs = append(hs, h)
	}
	return hs
}

func flock(owner uint64, m protocol.LockMode) protocol.Lock {
	return protocol.Lock{Kind: protocol.LockFlock, Mode: m, Owner: owner, End: protocol.LockEOF}
}

func posix(owner uint64, m protocol.LockMode, start, end uint64) protocol.Lock {
	return protocol.Lock{Kind: protocol.LockPosix, Mode: m, Owner: owner, Pid: 4711, Start: start, End: end}
}

func wantKind(t *testing.T, err error, want tnv.Kind) {
	t.Helper()
	if tnv.KindOf(err) != want || err == nil {
		t.Fatalf("%v, want %v", err, want)
	}
}

func TestLocks(t *testing.T) {
	k := startCluster(t, 1, 1)
	a, b := k.connect(), k.connect()
	h := locked(t, a, b)
	ha, hb := h[0], h[1]
	must(t, ha.Lock(ctx, flock(1, protocol.LockExclusive)))
	wantKind(t, hb.Lock(ctx, flock(1, protocol.LockShared)), tnv.KindWouldBlock)
	must(t, hb.Lock(ctx, posix(1, protocol.LockExclusive, 0, 9)))
	is, err := ha.GetLock(ctx, posix(1, protocol.LockShared, 5, 20))
	must(t, err)
	if is.Mode != protocol.LockExclusive || is.Start != 0 || is.End != 9 || is.Pid != 0 {
		t.Errorf("in the way: %+v", is)
	}
	if is, err = hb.GetLock(ctx, posix(2, protocol.LockShared, 5, 20)); err != nil || is.Pid != 4711 {
		t.Errorf("in the way, of this client: %+v, %v", is, err)
	}

	// What was written under a lock is there for who gets it next.
	got := make(chan error, 1)
	buf := make([]byte, 5)
	go func() {
		err := hb.LockWait(ctx, flock(1, protocol.LockExclusive), nil)
		if err == nil {
			_, err = hb.ReadAt(ctx, buf, 0)
		}
		got <- err
	}()
	_, err = ha.WriteAt(ctx, []byte("hello"), 0)
	must(t, err)
	time.Sleep(50 * time.Millisecond)
	must(t, ha.Lock(ctx, flock(1, protocol.LockNone)))
	if err := <-got; err != nil && err != io.EOF || string(buf) != "hello" {
		t.Fatalf("read %q, %v", buf, err)
	}

	// An interrupted wait holds nothing, and leaves the queue.
	interrupt := make(chan struct{})
	time.AfterFunc(50*time.Millisecond, func() { close(interrupt) })
	wantKind(t, ha.LockWait(ctx, flock(1, protocol.LockShared), interrupt), tnv.KindInterrupted)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	wantKind(t, ha.LockWait(short, flock(1, protocol.LockShared), nil), tnv.KindTimeout)
	must(t, hb.Unlock(ctx, protocol.LockFlock, 1))
	must(t, hb.Lock(ctx, flock(2, protocol.LockExclusive)))

	// The close of a handle, a process's close, and the client's end free.
	must(t, hb.Unlock(ctx, protocol.LockPosix, 1))
	must(t, ha.Lock(ctx, posix(9, protocol.LockExclusive, 0, protocol.LockEOF)))
	must(t, hb.Close())
	must(t, ha.Lock(ctx, flock(1, protocol.LockExclusive)))
	_, _ = ha.WriteAt(ctx, []byte("more"), 0)
	must(t, a.Close(ctx))
	hb, _, err = b.OpenFile(ctx, ha.Ino(), os.O_RDONLY)
	must(t, err)
	must(t, hb.Lock(ctx, flock(1, protocol.LockExclusive)))
	must(t, hb.Lock(ctx, posix(1, protocol.LockExclusive, 0, protocol.LockEOF)))
}

func TestReadOnlyClientLocks(t *testing.T) {
	k := startCluster(t, 0, 0)
	h := locked(t, k.connect())
	r := k.connect(func(c *client.Config) { c.ReadOnly = true })
	hr, _, err := r.OpenFile(ctx, h[0].Ino(), os.O_RDONLY)
	must(t, err)
	must(t, hr.Lock(ctx, flock(1, protocol.LockExclusive)))
	wantKind(t, h[0].Lock(ctx, flock(1, protocol.LockShared)), tnv.KindWouldBlock)
}

func (k *cluster) restartTracker(down time.Duration) {
	k.stop["trackerd"]()
	time.Sleep(down)
	k.daemon("trackerd", func(ctx context.Context, ready func(string)) error {
		return trackerd.Run(ctx, trackerd.Config{Listen: k.tracker, Dir: filepath.Join(k.dir, "trackerd"), Key: k.key, Log: quiet(), Ready: ready})
	})
}

// Locks, and the wish for one, survive the tracker.
func TestLocksAcrossTrackerRestart(t *testing.T) {
	k := startCluster(t, 0, 0)
	h := locked(t, k.connect(), k.connect(), k.connect())
	must(t, h[0].Lock(ctx, flock(1, protocol.LockExclusive)))
	got := make(chan error, 1)
	go func() { got <- h[1].LockWait(ctx, flock(1, protocol.LockExclusive), nil) }()
	time.Sleep(100 * time.Millisecond)
	for range 2 {
		k.restartTracker(300 * time.Millisecond)
		wantKind(t, h[2].Lock(ctx, flock(1, protocol.LockShared)), tnv.KindWouldBlock)
	}
	select {
	case err := <-got:
		t.Fatalf("the wait ended: %v", err)
	default:
	}
	must(t, h[0].Lock(ctx, flock(1, protocol.LockNone)))
	must(t, <-got)
	wantKind(t, h[2].Lock(ctx, flock(1, protocol.LockShared)), tnv.KindWouldBlock)
}

// Nobody waits longer than Config.Timeout for a tracker that is gone, and an
// unlock that could not be told of is told of when it is back.
func TestLocksWithoutTracker(t *testing.T) {
	k := startCluster(t, 0, 0)
	a, b := k.connect(func(c *client.Config) { c.Timeout = time.Second }), k.connect()
	h := locked(t, a, b)
	must(t, h[1].Lock(ctx, flock(1, protocol.LockExclusive)))
	must(t, h[0].Lock(ctx, posix(1, protocol.LockExclusive, 0, 99)))
	k.stop["trackerd"]()
	start := time.Now()
	wantKind(t, h[0].LockWait(ctx, flock(1, protocol.LockExclusive), nil), tnv.KindUnavailable)
	if err := h[0].Unlock(ctx, protocol.LockPosix, 1); err == nil {
		t.Error("unlocked without a tracker")
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	k.restartTracker(0)
	must(t, h[1].LockWait(ctx, posix(1, protocol.LockExclusive, 0, 99), nil))
}

// proxy passes connections on to a tracker, and cuts them.
type proxy struct {
	ln   net.Listener
	to   string
	mu   sync.Mutex
	open map[net.Conn]bool
}

func newProxy(t *testing.T, to string) *proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{ln: ln, to: to, open: map[net.Conn]bool{}}
	t.Cleanup(func() { ln.Close(); p.cut() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			p.mu.Lock()
			p.open[c], p.open[up] = true, true
			p.mu.Unlock()
			go p.pass(c, up)
			go p.pass(up, c)
		}
	}()
	return p
}

func (p *proxy) pass(a, b net.Conn) {
	io.Copy(a, b)
	a.Close()
	b.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, a)
	delete(p.open, b)
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.Close()
	}
}

// Owners of several clients lock and unlock, wait and give up, while their
// connections are cut all the time: no two hold what excludes each other, nobody
// starves, and at the end nobody holds anything.
func TestLocksOverBrokenConnections(t *testing.T) {
	k := startCluster(t, 0, 0)
	p := newProxy(t, k.tracker)
	var clients []*client.Client
	for range 3 {
		clients = append(clients, k.connect(func(c *client.Config) { c.Trackers = []string{p.ln.Addr().String()} }))
	}
	hs := locked(t, append(clients, k.connect())...)
	watcher := hs[3]
	const (
		owners = 3 // of each client
		bytes  = 4
	)
	var readers, writers [bytes]atomic.Int32
	var wg sync.WaitGroup
	var grants, gaveUp atomic.Int32
	stop := time.Now().Add(3 * time.Second)
	for c := range 3 {
		for o := range owners {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(c*10+o)))
				for time.Now().Before(stop) {
					b, mode := rnd.IntN(bytes), protocol.LockShared+protocol.LockMode(rnd.IntN(2))
					lk := posix(uint64(o+1), mode, uint64(b), uint64(b))
					if b == 0 { // this one by flock
						lk = flock(uint64(o+1), mode)
					}
					lctx, cancel := context.WithTimeout(ctx, 10*time.Second) // who waits longer waits for nobody
					interrupt := make(chan struct{})
					switch rnd.IntN(4) {
					case 0:
						time.AfterFunc(time.Duration(rnd.Int64N(int64(20*time.Millisecond))), cancel)
					case 1:
						time.AfterFunc(time.Duration(rnd.Int64N(int64(20*time.Millisecond))), func() { close(interrupt) })
					}
					err := hs[c].LockWait(lctx, lk, interrupt)
					cancel()
					if err != nil {
						if kind := tnv.KindOf(err); kind != tnv.KindCanceled && kind != tnv.KindInterrupted {
							t.Errorf("lock: %v", err)
						}
						gaveUp.Add(1)
						continue
					}
					grants.Add(1)
					if mode == protocol.LockShared {
						readers[b].Add(1)
						if writers[b].Load() != 0 {
							t.Errorf("byte %d: shared beside exclusive", b)
						}
					} else if w := writers[b].Add(1); w != 1 || readers[b].Load() != 0 {
						t.Errorf("byte %d: %d exclusive, %d shared", b, w, readers[b].Load())
					}
					time.Sleep(time.Duration(rnd.Int64N(int64(3 * time.Millisecond))))
					if mode == protocol.LockShared {
						readers[b].Add(-1)
					} else {
						writers[b].Add(-1)
					}
					lk.Mode = protocol.LockNone
					if err := hs[c].Lock(ctx, lk); err != nil {
						t.Errorf("unlock: %v", err)
					}
				}
			})
		}
	}
	for time.Now().Before(stop) {
		time.Sleep(100 * time.Millisecond)
		p.cut()
	}
	wg.Wait()
	t.Logf("%d locks, %d given up", grants.Load(), gaveUp.Load())
	if grants.Load() < 50 {
		t.Error("too few for a test")
	}
	must(t, within(watcher, flock(1, protocol.LockExclusive)))
	must(t, within(watcher, posix(1, protocol.LockExclusive, 0, protocol.LockEOF)))
}

// within waits for what must soon be free.
func within(h *client.Handle, k protocol.Lock) error {
	lctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return h.LockWait(lctx, k, nil)
}

// BenchmarkLockHandOver is from an unlock at one client to the lock of another that waits for it.
func BenchmarkLockHandOver(b *testing.B) {
	k := startCluster(b, 0, 0)
	a, c := k.connect(), k.connect()
	_, rep, err := a.CreateFile(ctx, tnv.Root, protocol.Create{Parent: tnv.RootIno, Name: "locked", Mode: 0o100644}, os.O_RDWR)
	must(b, err)
	var h [2]*client.Handle
	for i, c := range []*client.Client{a, c} {
		h[i], _, err = c.OpenFile(ctx, rep.Attr.Ino, os.O_RDWR)
		must(b, err)
	}
	must(b, h[0].Lock(ctx, flock(1, protocol.LockExclusive)))
	var spent time.Duration
	for i := range b.N {
		got := make(chan time.Time)
		go func() {
			if err := h[1-i%2].LockWait(ctx, flock(1, protocol.LockExclusive), nil); err != nil {
				b.Error(err)
			}
			got <- time.Now()
		}()
		time.Sleep(2 * time.Millisecond) // it is in the queue
		start := time.Now()
		if err := h[i%2].Lock(ctx, flock(1, protocol.LockNone)); err != nil {
			b.Fatal(err)
		}
		spent += (<-got).Sub(start)
	}
	b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "µs/hand-over")
}

// A session that is ended because others want its locks has none any more; who
// wrote by handles of what was locked is told (K8), and may lock again.
func TestLocksEndWithSession(t *testing.T) {
	k := startCluster(t, 1, 1)
	a, b := k.connect(), k.connect()
	h := locked(t, a, b)
	must(t, h[1].Lock(ctx, posix(1, protocol.LockExclusive, 0, 9)))
	must(t, h[0].Lock(ctx, flock(1, protocol.LockExclusive)))
	waiting := make(chan error, 1)
	go func() { waiting <- h[0].LockWait(ctx, posix(1, protocol.LockExclusive, 0, 9), nil) }()
	time.Sleep(50 * time.Millisecond)
	old := a.Info()
	conn, err := protocol.DialClient(ctx, &protocol.Endpoint{Key: k.key, Role: protocol.RoleClient}, k.tracker, nil)
	must(t, err)
	defer conn.Close()
	must(t, conn.Call(ctx, protocol.TypeCloseSession, nil, &protocol.CloseSession{Vol: old.Vol, Session: old.Session}))
	must(t, h[1].Lock(ctx, flock(1, protocol.LockExclusive)))
	for end := time.Now().Add(10 * time.Second); a.Info().Session == old.Session; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the client does not notice")
		}
	}
	_, err = h[0].WriteAt(ctx, []byte("as if it were locked"), 0)
	wantKind(t, err, tnv.KindSessionEnded)
	wantKind(t, h[0].Sync(ctx, false), tnv.KindSessionEnded)
	must(t, h[1].Unlock(ctx, protocol.LockFlock, 1))
	must(t, h[0].Lock(ctx, flock(1, protocol.LockExclusive)))
	// Who waits is queued in the next session.
	must(t, h[1].Unlock(ctx, protocol.LockPosix, 1))
	must(t, <-waiting)
	wantKind(t, h[1].Lock(ctx, posix(1, protocol.LockShared, 5, 5)), tnv.KindWouldBlock)
}
