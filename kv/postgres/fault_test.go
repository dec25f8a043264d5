package postgres_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/pgtest"
	"github.com/tnvfs/tnv/kv/postgres"
)

// writer owns a volume, applies random groups of batches, and knows what must be there.
type writer struct {
	e     *postgres.Engine
	vol   tnv.VolumeID
	fence kv.Fence
	seq   tnv.BatchSeq
	want  map[string][]byte
	rand  *rand.Rand
}

func newWriter(t testing.TB, e *postgres.Engine, vol tnv.VolumeID) *writer {
	t.Helper()
	seen, err := e.Lease(ctx, vol)
	must(t, err)
	l, err := e.Acquire(ctx, seen, "test", time.Second)
	must(t, err)
	return &writer{e: e, vol: vol, fence: kv.Fence{Vol: vol, Epoch: l.Epoch}, want: map[string][]byte{}, rand: rand.New(rand.NewPCG(uint64(vol), 1))}
}

// write applies one group. It is stored, once, if the error is nil.
func (w *writer) write() error {
	var bs []kv.Batch
	next := map[string][]byte{}
	for range 1 + w.rand.IntN(3) {
		b := kv.Batch{Seq: w.seq + tnv.BatchSeq(len(bs)) + 1}
		for range 1 + w.rand.IntN(5) {
			key := fmt.Sprintf("key%d", w.rand.IntN(40))
			var value []byte
			if w.rand.IntN(4) > 0 {
				value = []byte(fmt.Sprint(b.Seq, strings.Repeat("v", w.rand.IntN(2000))))
			}
			next[key] = value
			b.Writes = append(b.Writes, kv.Write{Key: []byte(key), Value: value})
		}
		bs = append(bs, b)
	}
	if err := w.e.Apply(ctx, w.fence, bs); err != nil {
		return err
	}
	w.seq += tnv.BatchSeq(len(bs))
	for k, v := range next {
		if w.want[k] = v; v == nil {
			delete(w.want, k)
		}
	}
	return nil
}

// check compares what is stored with what was acknowledged.
func (w *writer) check(t testing.TB) {
	t.Helper()
	if seq, err := w.e.Seq(ctx, w.vol); err != nil || seq != w.seq {
		t.Errorf("volume %d: batch %d is the last one (%v), %d was acknowledged", w.vol, seq, err, w.seq)
	}
	got := map[string][]byte{}
	must(t, w.e.Scan(ctx, w.vol, nil, nil, 0, func(k, v []byte) bool {
		got[string(k)] = bytes.Clone(v)
		return true
	}))
	if len(got) != len(w.want) {
		t.Errorf("volume %d: %d keys, want %d", w.vol, len(got), len(w.want))
	}
	for k, v := range w.want {
		if !bytes.Equal(got[k], v) {
			t.Errorf("volume %d: %s is %.20q, want %.20q", w.vol, k, got[k], v)
		}
	}
}

// under has several volumes written to while something is done to the server:
// every group is acknowledged, and there once.
func under(t *testing.T, e *postgres.Engine, disturb func()) {
	t.Helper()
	const vols = 4
	var stop atomic.Bool
	var wg sync.WaitGroup
	ws := make([]*writer, vols)
	for i := range ws {
		ws[i] = newWriter(t, e, tnv.VolumeID(i+1))
	}
	for _, w := range ws {
		wg.Go(func() {
			for !stop.Load() {
				if err := w.write(); err != nil {
					t.Errorf("volume %d, behind batch %d: %v", w.vol, w.seq, err)
					return
				}
				if _, err := e.Get(ctx, w.vol, []byte("key1"), []byte("key2")); err != nil {
					t.Errorf("volume %d: %v", w.vol, err)
				}
				if _, err := e.Renew(ctx, kv.Lease{Vol: w.vol, Epoch: w.fence.Epoch}); err != nil {
					t.Errorf("volume %d: %v", w.vol, err)
				}
			}
		})
	}
	disturb()
	stop.Store(true)
	wg.Wait()
	total := tnv.BatchSeq(0)
	for _, w := range ws {
		w.check(t)
		total += w.seq
	}
	t.Logf("%d batches", total)
	if total < 50 {
		t.Errorf("only %d batches were written", total)
	}
}

// What can happen to server and connections, each in a database of its own.
func TestFaults(t *testing.T) {
	s := pgtest.Start(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *pgtest.Server)
	}{
		{"ServerKilled", testServerKilled}, {"ServerRestarted", testServerRestarted}, {"SessionsTerminated", testSessionsTerminated},
		{"ServerFrozen", testServerFrozen}, {"AnswerLost", testAnswerLost}, {"AnswerLostThenFenced", testAnswerLostThenFenced},
		{"Schema", testSchema}, {"BadAddress", testBadAddress}, {"Behind", testBehind},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, s) })
	}
}

func testServerKilled(t *testing.T, s *pgtest.Server) {
	e := open(t, s.NewDatabase(), quick())
	under(t, e, func() {
		for range 5 {
			time.Sleep(time.Duration(50+rand.IntN(250)) * time.Millisecond)
			s.Kill()
			s.Run()
		}
		time.Sleep(100 * time.Millisecond)
	})
}

func testServerRestarted(t *testing.T, s *pgtest.Server) {
	e := open(t, s.NewDatabase(), quick())
	under(t, e, func() {
		for range 3 {
			time.Sleep(time.Duration(50+rand.IntN(150)) * time.Millisecond)
			s.Restart()
		}
		time.Sleep(100 * time.Millisecond)
	})
}

func testSessionsTerminated(t *testing.T, s *pgtest.Server) {
	e := open(t, s.NewDatabase(), quick())
	under(t, e, func() {
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) {
			s.Exec("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tnv'")
		}
	})
}

// A server that stops answering, as behind a dead network, holds nobody forever,
// and what it was asked before is executed once.
func testServerFrozen(t *testing.T, s *pgtest.Server) {
	opt := quick()
	opt.IOTimeout = 200 * time.Millisecond
	e := open(t, s.NewDatabase(), opt)
	under(t, e, func() {
		for range 3 {
			time.Sleep(100 * time.Millisecond)
			s.Signal(syscall.SIGSTOP)
			time.Sleep(500 * time.Millisecond)
			s.Signal(syscall.SIGCONT)
		}
		time.Sleep(200 * time.Millisecond)
	})
}

// proxy stands between engine and server, and loses answers: what is asked while
// it is armed reaches the server and is executed, and then the connection breaks.
type proxy struct {
	dir   string
	armed atomic.Bool
	shut  atomic.Bool // connections are refused
	lost  atomic.Int64
}

func newProxy(t *testing.T, s *pgtest.Server) *proxy {
	p := &proxy{dir: t.TempDir()}
	ln, err := net.Listen("unix", filepath.Join(p.dir, ".s.PGSQL.5432"))
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if p.shut.Load() {
				c.Close()
				continue
			}
			up, err := net.Dial("unix", filepath.Join(s.Dir, ".s.PGSQL.5432"))
			if err != nil {
				c.Close()
				continue
			}
			go func() { io.Copy(up, c); up.Close() }()
			go p.answer(c, up)
		}
	}()
	return p
}

func (p *proxy) answer(c, up net.Conn) {
	defer c.Close()
	defer up.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := up.Read(buf)
		if err != nil {
			return
		}
		if p.armed.CompareAndSwap(true, false) {
			p.lost.Add(1)
			return // the answer is there, and nobody gets it
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// dsn is the server's address, by way of the proxy.
func (p *proxy) dsn(s *pgtest.Server, dsn string) string {
	return strings.ReplaceAll(dsn, urlOf(s.Dir), urlOf(p.dir))
}

func urlOf(path string) string { return strings.ReplaceAll(path, "/", "%2F") }

func testAnswerLost(t *testing.T, s *pgtest.Server) {
	p := newProxy(t, s)
	e := open(t, p.dsn(s, s.NewDatabase()), quick())
	w := newWriter(t, e, 1)
	must(t, w.write())
	for i := range 10 {
		p.armed.Store(true)
		must(t, w.write())
		if p.armed.Load() || p.lost.Load() != int64(i+1) {
			t.Fatal("no answer was lost")
		}
		w.check(t)
	}
	seen, err := e.Lease(ctx, 1)
	must(t, err)
	p.armed.Store(true)
	l, err := e.Acquire(ctx, seen, "again", time.Second)
	must(t, err)
	if l.Epoch != seen.Epoch+1 {
		t.Errorf("epoch %d was acquired behind %d", l.Epoch, seen.Epoch)
	}
	if now, err := e.Lease(ctx, 1); err != nil || now != l {
		t.Errorf("stored is %+v, %v, want %+v", now, err, l)
	}
	p.armed.Store(true)
	must(t, e.Release(ctx, l))
	if err := e.Release(ctx, l); !errors.Is(err, kv.ErrFenced) {
		t.Errorf("released twice: %v", err)
	}
	// A replay by hand is told from a repetition.
	var se *kv.SeqError
	w2 := newWriter(t, e, 1)
	if err := e.Apply(ctx, w2.fence, []kv.Batch{{Seq: w.seq}}); !errors.As(err, &se) || se.Stored != w.seq {
		t.Errorf("the last batch once more: %v", err)
	}
}

// Where the answer is lost and the volume has another owner when the server is
// asked again, the outcome stays open, and the error does not say that nothing was changed.
func testAnswerLostThenFenced(t *testing.T, s *pgtest.Server) {
	p := newProxy(t, s)
	dsn, opt := s.NewDatabase(), quick()
	e, other := open(t, p.dsn(s, dsn), opt), open(t, dsn, opt)
	w := newWriter(t, e, 1)
	must(t, w.write())
	taken := make(chan struct{})
	go func() { // takes over as soon as the commit is there
		defer close(taken)
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
			if seq, err := other.Seq(ctx, 1); err == nil && seq > w.seq {
				newWriter(t, other, 1)
				return
			}
		}
	}()
	p.shut.Store(true) // until the other has taken over
	p.armed.Store(true)
	done := make(chan error, 1)
	go func() { done <- e.Apply(ctx, w.fence, []kv.Batch{{Seq: w.seq + 1}}) }()
	<-taken
	p.shut.Store(false)
	err := <-done
	if err == nil || errors.Is(err, kv.ErrFenced) || tnv.KindOf(err) != tnv.KindFenced {
		t.Errorf("error is %v", err)
	}
	if err := e.Apply(ctx, w.fence, []kv.Batch{{Seq: w.seq + 2}}); !errors.Is(err, kv.ErrFenced) {
		t.Errorf("behind it: %v", err)
	}
}

func testSchema(t *testing.T, s *pgtest.Server) {
	dsn := s.NewDatabase()
	opt := quick()
	opt.Cluster = "mine"
	var wg sync.WaitGroup
	for range 8 { // all make the schema
		wg.Go(func() {
			e, err := postgres.Open(ctx, dsn, opt)
			if err != nil {
				t.Error(err)
				return
			}
			e.Close()
		})
	}
	wg.Wait()
	other := opt
	other.Cluster = "theirs"
	if _, err := postgres.Open(ctx, dsn, other); tnv.KindOf(err) != tnv.KindWrongCluster {
		t.Errorf("another cluster's key: %v", err)
	}
	s.Exec(s.Last(), "UPDATE "+opt.Schema+".format SET version = 1000")
	if _, err := postgres.Open(ctx, dsn, opt); tnv.KindOf(err) != tnv.KindVersion {
		t.Errorf("a newer schema: %v", err)
	}
}

func testBadAddress(t *testing.T, s *pgtest.Server) {
	began := time.Now()
	for _, c := range []struct {
		dsn  string
		want tnv.Kind
	}{
		{"postgres://%zz", tnv.KindInvalid},
		{s.DSN("nowhere"), tnv.KindNotExist},
		{strings.Replace(s.DSN("postgres"), "user=tnv", "user=nobody", 1), tnv.KindAuth},
	} {
		if _, err := postgres.Open(ctx, c.dsn, quick()); tnv.KindOf(err) != c.want {
			t.Errorf("%s: %v, want kind %v", c.dsn, err, c.want)
		}
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("it took %v to say so", d)
	}
	opt := quick()
	opt.Patience = 300 * time.Millisecond
	if _, err := postgres.Open(ctx, "postgres:///x?host="+t.TempDir(), opt); tnv.KindOf(err) != tnv.KindUnavailable {
		t.Errorf("no server: %v", err)
	}
}

// A server that fell over to a standby which lacks the last commits: the owner is
// told that what it had acknowledged is gone.
func testBehind(t *testing.T, s *pgtest.Server) {
	opt := quick()
	e := open(t, s.NewDatabase(), opt)
	w := newWriter(t, e, 1)
	for range 5 {
		must(t, w.write())
	}
	s.Exec(s.Last(), "UPDATE "+opt.Schema+".volume SET seq = seq - 2 WHERE vol = 1")
	var se *kv.SeqError
	if err := w.write(); !errors.As(err, &se) || se.Stored != w.seq-2 || se.Got != w.seq+1 {
		t.Errorf("error is %v", err)
	}
}
