package pebble_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/kvtest"
	"github.com/tnvfs/tnv/kv/pebble"
)

var ctx = context.Background()

func TestConformance(t *testing.T) { kvtest.Run(t, onDisk) }

func TestConformanceCrashes(t *testing.T) { kvtest.Run(t, crashable(small())) }

func TestConformanceFlusher(t *testing.T) {
	kvtest.Run(t, crashable(pebble.Options{MemTableSize: 128 << 10, FlushEvery: time.Millisecond}))
}

func TestConformanceSync(t *testing.T) {
	opt := small()
	opt.Durability = pebble.Sync
	kvtest.Run(t, crashable(opt))
}

func BenchmarkEngine(b *testing.B) { kvtest.Bench(b, onDisk) }

func onDisk(t testing.TB) *kvtest.Store {
	dir := t.TempDir()
	open := func(t testing.TB) kv.Engine { return openAt(t, dir, pebble.Options{}) }
	return &kvtest.Store{Engine: open(t), Reopen: open}
}

func openAt(t testing.TB, dir string, opt pebble.Options) *pebble.Engine {
	t.Helper()
	opt.Log = quiet()
	e, err := pebble.Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func acquire(t testing.TB, e kv.Engine) kv.Fence {
	t.Helper()
	seen, err := e.Lease(ctx, 1)
	must(t, err)
	l, err := e.Acquire(ctx, seen, "test", time.Second)
	must(t, err)
	return kv.Fence{Vol: 1, Epoch: l.Epoch}
}

func one(seq int, size int) []kv.Batch {
	return []kv.Batch{{Seq: tnv.BatchSeq(seq), Writes: []kv.Write{{Key: fmt.Appendf(nil, "k%08d", seq), Value: make([]byte, size)}}}}
}

// TestDurabilitySync loses power without any Sync: nothing acknowledged is lost.
func TestDurabilitySync(t *testing.T) {
	opt := small()
	opt.Durability = pebble.Sync
	m := newMachine(opt)
	e := m.start(t)
	r := rand.New(rand.NewPCG(1, 1))
	for n := 0; n < 40; {
		f := acquire(t, e)
		for range 8 {
			n++
			must(t, e.Apply(ctx, f, one(n, r.IntN(30000))))
		}
		m.losePower(t, r)
		e = m.start(t)
		if seq, err := e.Seq(ctx, 1); err != nil || int(seq) != n {
			t.Fatalf("%d of %d batches survived, %v", seq, n, err)
		}
	}
	must(t, e.Close())
}

// TestFlushEvery waits for the flusher instead of calling Sync.
func TestFlushEvery(t *testing.T) {
	m := newMachine(pebble.Options{FlushEvery: 10 * time.Millisecond})
	e := m.start(t)
	must(t, e.Apply(ctx, acquire(t, e), one(1, 10)))
	time.Sleep(200 * time.Millisecond)
	m.process.kill()
	m.disk = m.disk.CrashClone(vfs.CrashCloneCfg{})
	_ = e.Close()
	e = m.start(t)
	defer e.Close()
	if seq, err := e.Seq(ctx, 1); err != nil || seq != 1 {
		t.Fatalf("the flusher did not come: batch %d, %v", seq, err)
	}
}

// TestSyncsAreShared counts the fsyncs that many callers of Sync cause, and that
// Apply causes none.
func TestSyncsAreShared(t *testing.T) {
	m := newMachine(pebble.Options{FlushEvery: time.Hour})
	e := m.start(t)
	defer e.Close()
	f := acquire(t, e)
	var syncs atomic.Int32
	m.process.mu.Lock()
	m.process.broken = func(op, name string) error {
		if op == "sync" && filepath.Ext(name) == ".log" {
			syncs.Add(1)
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	}
	m.process.mu.Unlock()
	for i := range 20 {
		must(t, e.Apply(ctx, f, one(i+1, 10)))
	}
	if n := syncs.Load(); n != 0 {
		t.Errorf("apply synced the log %d times", n)
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if err := e.Sync(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := syncs.Load(); n < 1 || n > 2 {
		t.Errorf("16 callers caused %d syncs", n)
	}
	gone, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	must(t, e.Apply(ctx, f, one(21, 10)))
	if err := e.Sync(gone); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("sync outlived its context: %v", err)
	}
}

// TestLogsAreNotReused rotates logs many times.
func TestLogsAreNotReused(t *testing.T) {
	m := newMachine(pebble.Options{MemTableSize: 64 << 10, FlushEvery: time.Hour})
	e := m.start(t)
	defer e.Close()
	f := acquire(t, e)
	var logs, reused atomic.Int32
	m.process.mu.Lock()
	m.process.broken = func(op, name string) error {
		if op == "create" && filepath.Ext(name) == ".log" {
			logs.Add(1)
		} else if op == "reuse" {
			reused.Add(1)
		}
		return nil
	}
	m.process.mu.Unlock()
	for i := range 300 {
		must(t, e.Apply(ctx, f, one(i+1, 2000)))
	}
	if logs.Load() < 5 || reused.Load() > 0 {
		t.Errorf("%d logs were made, %d used again", logs.Load(), reused.Load())
	}
}

// TestFailures breaks one kind of operation on one kind of file. From then on
// everything returns that error, no sync is tried again, nothing hangs or ends
// the process, and what is on the disk opens again with all that was acknowledged.
func TestFailures(t *testing.T) {
	for _, c := range []struct{ op, file string }{
		{"sync", ".log"}, {"write", ".log"}, {"create", ".log"}, {"sync", "store"},
		{"sync", ".sst"}, {"write", ".sst"}, {"create", ".sst"}, {"sync", "MANIFEST"}, {"write", "MANIFEST"},
	} {
		for _, d := range []pebble.Durability{pebble.OS, pebble.Sync} {
			t.Run(fmt.Sprintf("%s_%s_%d", c.op, strings.Trim(c.file, "."), d), func(t *testing.T) {
				testFailure(t, c.op, c.file, d)
			})
		}
	}
}

func testFailure(t *testing.T, op, file string, durability pebble.Durability) {
	opt := pebble.Options{MemTableSize: 64 << 10, FlushEvery: time.Millisecond, Durability: durability}
	m := newMachine(opt)
	e := m.start(t)
	f := acquire(t, e)
	var known atomic.Bool
	var again atomic.Int32
	m.process.mu.Lock()
	m.process.broken = func(o, name string) error {
		if o == "sync" && known.Load() {
			again.Add(1)
		}
		if o == op && strings.Contains(filepath.Base(name), file) {
			return syscall.EIO
		}
		return nil
	}
	m.process.mu.Unlock()
	acked := 0
	var failed error
	for deadline := time.Now().Add(10 * time.Second); failed == nil; {
		if time.Now().After(deadline) {
			t.Fatal("the engine does not fail")
		}
		if failed = e.Apply(ctx, f, one(acked+1, 1000)); failed == nil {
			acked++
		}
	}
	if !errors.Is(failed, syscall.EIO) || !strings.Contains(failed.Error(), "store") {
		t.Errorf("error is %v", failed)
	}
	known.Store(true)
	time.Sleep(10 * time.Millisecond) // the flusher comes by
	_, get := e.Get(ctx, 1, []byte("k"))
	_, seq := e.Seq(ctx, 1)
	for name, err := range map[string]error{"get": get, "seq": seq, "sync": e.Sync(ctx), "apply": e.Apply(ctx, f, one(acked+1, 1)),
		"scan": e.Scan(ctx, 1, nil, nil, 0, func(_, _ []byte) bool { return true }), "close": e.Close()} {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s after the failure: %v", name, err)
		}
	}
	if n := again.Load(); n > 1 { // one may have been under way
		t.Errorf("%d syncs after the failure", n)
	}
	m.process.kill()
	e = m.start(t)
	defer e.Close()
	if seq, err := e.Seq(ctx, 1); err != nil || int(seq) < acked || int(seq) > acked+1 {
		t.Errorf("batch %d is the last one of %d acknowledged, %v", seq, acked, err)
	}
}

// TestStalledFailure fails a log's sync while writers wait for a flush that does
// not end: they, and Close, return all the same.
func TestStalledFailure(t *testing.T) {
	m := newMachine(pebble.Options{MemTableSize: 64 << 10, FlushEvery: time.Hour})
	e := m.start(t)
	f := acquire(t, e)
	hang, fail := make(chan struct{}), atomic.Bool{}
	defer close(hang)
	m.process.mu.Lock()
	m.process.broken = func(op, name string) error {
		if op == "create" && strings.HasSuffix(name, ".sst") {
			<-hang
		}
		if op == "sync" && strings.HasSuffix(name, ".log") && fail.Load() {
			return syscall.EIO
		}
		return nil
	}
	m.process.mu.Unlock()
	var n atomic.Int32
	done := make(chan error, 1)
	go func() {
		for {
			if err := e.Apply(ctx, f, one(int(n.Load())+1, 4000)); err != nil {
				done <- err
				return
			}
			n.Add(1)
		}
	}()
	for last := int32(-1); n.Load() == 0 || n.Load() != last; time.Sleep(100 * time.Millisecond) {
		last = n.Load()
	}
	fail.Store(true)
	_ = e.Sync(ctx)
	for _, what := range []string{"apply", "close"} {
		select {
		case err := <-done:
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s hangs", what)
		}
		if what == "apply" {
			go func() { done <- e.Close() }()
		}
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	e := openAt(t, dir, pebble.Options{})
	_, err := pebble.Open(dir, pebble.Options{Log: quiet()})
	wantInUse(t, err, dir)
	must(t, e.Close())
	child := startChild(t, dir)
	if _, err := child.out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	_, err = pebble.Open(dir, pebble.Options{Log: quiet()})
	wantInUse(t, err, dir)
	child.kill()
	must(t, openAt(t, dir, pebble.Options{}).Close())
}

func wantInUse(t *testing.T, err error, dir string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), dir+" is in use by another process") || tnv.KindOf(err) != tnv.KindBusy {
		t.Errorf("error is %v", err)
	}
}

// TestDamaged damages one file after another of a store that was closed.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	e := openAt(t, dir, pebble.Options{MemTableSize: 64 << 10})
	f := acquire(t, e)
	for i := range 200 {
		must(t, e.Apply(ctx, f, one(i+1, 2000)))
	}
	must(t, e.Close())
	for _, pattern := range []string{"*.sst", "MANIFEST-*"} {
		for _, how := range []string{"cut", "gone", "flipped"} {
			if pattern == "*.sst" && how == "flipped" {
				continue // found when it is read
			}
			t.Run(pattern+"_"+how, func(t *testing.T) { testDamage(t, dir, pattern, how) })
		}
	}
}

func testDamage(t *testing.T, from, pattern, how string) {
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS(from)))
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	must(t, err)
	if len(files) == 0 {
		t.Fatal("no such file")
	}
	name := files[len(files)-1]
	b, err := os.ReadFile(name)
	must(t, err)
	switch how {
	case "cut":
		must(t, os.Truncate(name, int64(len(b)/2)))
	case "gone":
		must(t, os.Remove(name))
	case "flipped":
		b[len(b)/2] ^= 0x55
		must(t, os.WriteFile(name, b, 0o600))
	}
	e, err := pebble.Open(dir, pebble.Options{Log: quiet()})
	if err == nil {
		e.Close()
		t.Fatal("it opens")
	}
	if tnv.KindOf(err) != tnv.KindCorrupt || !strings.Contains(err.Error(), dir) {
		t.Errorf("error is of kind %v: %v", tnv.KindOf(err), err)
	}
}

// TestKill9 kills a real process that applies batches, again and again, and
// looks for every batch that it acknowledged.
func TestKill9(t *testing.T) {
	dir := t.TempDir()
	acked := 0
	for round := range 3 {
		child := startChild(t, dir)
		for stop := acked + 100 + rand.IntN(400); acked < stop; {
			line, err := child.out.ReadString('\n')
			must(t, err)
			acked, err = strconv.Atoi(strings.TrimSpace(line))
			must(t, err)
		}
		child.kill()
		for { // what it said before it died
			line, err := child.out.ReadString('\n')
			if err != nil {
				break
			}
			acked, err = strconv.Atoi(strings.TrimSpace(line))
			must(t, err)
		}
		e := openAt(t, dir, pebble.Options{})
		seq, err := e.Seq(ctx, 1)
		must(t, err)
		if int(seq) < acked || int(seq) > acked+1 {
			t.Fatalf("round %d: batch %d is the last one, %d was acknowledged", round, seq, acked)
		}
		n := 0
		must(t, e.Scan(ctx, 1, nil, nil, 0, func(_, _ []byte) bool { n++; return true }))
		if n != int(seq) {
			t.Fatalf("round %d: %d keys at batch %d", round, n, seq)
		}
		must(t, e.Close())
		acked = int(seq)
	}
}

// childDir in the environment makes the test binary the child of TestKill9.
const childDir = "TNV_KV_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		runChild(dir)
	}
	os.Exit(m.Run())
}

// runChild applies batches until it is killed, and prints the number of each.
func runChild(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	e, err := pebble.Open(dir, pebble.Options{FlushEvery: time.Hour, MemTableSize: 256 << 10})
	fail(err)
	seen, err := e.Lease(ctx, 1)
	fail(err)
	l, err := e.Acquire(ctx, seen, "child", time.Second)
	fail(err)
	seq, err := e.Seq(ctx, 1)
	fail(err)
	for n := int(seq) + 1; ; n++ {
		fail(e.Apply(ctx, kv.Fence{Vol: 1, Epoch: l.Epoch}, one(n, n%3000)))
		fmt.Println(n)
	}
}

type child struct {
	cmd *exec.Cmd
	out *bufio.Reader
}

func startChild(t *testing.T, dir string) *child {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	c := &child{cmd, bufio.NewReaderSize(out, 1<<20)}
	t.Cleanup(c.kill)
	return c
}

// kill returns when the process, and with it its lock, is gone. What it has
// printed can still be read.
func (c *child) kill() {
	if c.cmd.ProcessState != nil {
		return
	}
	_ = c.cmd.Process.Kill()
	rest, _ := io.ReadAll(c.out)
	_ = c.cmd.Wait()
	c.out = bufio.NewReader(bytes.NewReader(rest))
}
