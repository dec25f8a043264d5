package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/protocol"
	"github.com/tnvfs/tnv/stored"
	"github.com/tnvfs/tnv/trackerd"
)

var ctx = context.Background()

// cluster is a real tracker and real storage daemons in this process.
type cluster struct {
	tb      testing.TB
	key     protocol.Key
	tracker string
	dir     string
	stop    map[string]func()
}

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	if os.Getenv("TNV_TEST_LOG") != "" {
		l.SetOutput(os.Stderr)
	}
	return logrus.NewEntry(l)
}

// daemon runs a daemon until its stop is called or the test ends.
func (k *cluster) daemon(name string, run func(ctx context.Context, ready func(addr string)) error) (addr string) {
	k.tb.Helper()
	dctx, cancel := context.WithCancel(ctx)
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() { done <- run(dctx, func(a string) { ready <- a }) }()
	select {
	case addr = <-ready:
	case err := <-done:
		cancel()
		k.tb.Fatalf("%s: %v", name, err)
	case <-time.After(20 * time.Second):
		cancel()
		k.tb.Fatalf("%s is not ready", name)
	}
	var once sync.Once
	k.stop[name] = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				k.tb.Logf("%s ended: %v", name, err)
			}
		})
	}
	k.tb.Cleanup(k.stop[name])
	return addr
}

func startCluster(tb testing.TB, groups, replicas int) *cluster {
	k := &cluster{tb: tb, key: protocol.NewKey(), dir: tb.TempDir(), stop: map[string]func(){}}
	k.tracker = k.daemon("trackerd", func(ctx context.Context, ready func(string)) error {
		return trackerd.Run(ctx, trackerd.Config{Listen: "127.0.0.1:0", Dir: filepath.Join(k.dir, "trackerd"), Key: k.key, Log: quiet(), Ready: ready,
			NoCopies: true}) // blocks are counted here
	})
	for g := 1; g <= groups; g++ {
		for r := 1; r <= replicas; r++ {
			k.store(g, r, "127.0.0.1:0")
		}
	}
	return k
}

func (k *cluster) store(g, r int, listen string) string {
	name := fmt.Sprintf("stored-%d-%d", g, r)
	return k.daemon(name, func(ctx context.Context, ready func(string)) error {
		return stored.Run(ctx, stored.Config{Listen: listen, Dir: filepath.Join(k.dir, name), Group: fmt.Sprintf("g%d", g),
			Trackers: []string{k.tracker}, Key: k.key, AllowSameHost: true, Log: quiet(), Ready: ready})
	})
}

func (k *cluster) connect(change ...func(*client.Config)) *client.Client {
	k.tb.Helper()
	cfg := client.Config{Trackers: []string{k.tracker}, Key: k.key, Log: quiet(), Timeout: 15 * time.Second}
	for _, f := range change {
		f(&cfg)
	}
	c, err := client.Connect(ctx, cfg)
	if err != nil {
		k.tb.Fatal(err)
	}
	k.tb.Cleanup(func() { c.Close(ctx) })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		alive := 0
		for _, g := range c.Map().Groups {
			for _, n := range g.Nodes {
				if n.State == tnv.NodeAlive {
					alive++
				}
			}
		}
		if alive >= len(k.stop)-1 {
			return c
		}
		if time.Now().After(deadline) {
			k.tb.Fatalf("%d of %d storage daemons are alive in the map", alive, len(k.stop)-1)
		}
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func noise(seed uint64, n int) []byte {
	var s [32]byte
	s[0], s[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	rand.NewChaCha8(s).Read(b)
	return b
}

func TestRealCluster(t *testing.T) {
	k := startCluster(t, 2, 2)
	c, other := k.connect(), k.connect(func(c *client.Config) { c.NoLocal = true })
	must(t, c.MkdirAll(ctx, "films/old", 0o755))
	want := noise(1, 70<<20+777)
	h, err := c.CreatePath(ctx, "films/old/a.mkv", 0o644)
	must(t, err)
	for off := 0; off < len(want); off += 1 << 20 {
		_, err := h.WriteAt(ctx, want[off:min(len(want), off+1<<20)], int64(off))
		must(t, err)
	}
	must(t, h.Sync(ctx, false))
	must(t, h.Close())
	for i, c := range []*client.Client{c, other} {
		got, err := c.ReadFile(ctx, "films/old/a.mkv")
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("client %d reads other bytes", i)
		}
	}
	must(t, c.MkdirAll(ctx, "/films/nfo/", 0o755))
	for i := range 50 {
		must(t, c.WriteFile(ctx, fmt.Sprintf("films/nfo/%d.nfo", i), noise(uint64(i), 20*i), 0o644))
	}
	must(t, c.SyncFS(ctx))
	sub, err := fs.Sub(other.FS(), "films/nfo")
	must(t, err)
	must(t, fstest.TestFS(sub, "7.nfo", "49.nfo"))
	if _, err := fs.Stat(other.FS(), "films/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat of nothing: %v", err)
	}
	must(t, c.RenamePath(ctx, "films/nfo/1.nfo", "films/nfo/2.nfo"))
	st, err := c.Status(ctx)
	must(t, err)
	if len(st.Groups) != 2 || st.Groups[0].State != "whole" {
		t.Errorf("status %+v", st.Groups)
	}
	must(t, c.RemoveAll(ctx, "films"))
	if l, err := other.ReadDirPath(ctx, "/"); err != nil || len(l) != 0 {
		t.Errorf("%v, %v", l, err)
	}
	sf, err := other.StatFS(ctx)
	must(t, err)
	if sf.Capacity == 0 || sf.Free == 0 {
		t.Errorf("statfs %+v", sf)
	}
}

// TestRealStoreStops stops a storage daemon while files are written and read.
func TestRealStoreStops(t *testing.T) {
	k := startCluster(t, 1, 2)
	c := k.connect()
	want := noise(2, 40<<20)
	must(t, c.WriteFile(ctx, "before", want, 0o644))
	go func() {
		time.Sleep(20 * time.Millisecond)
		k.stop["stored-1-2"]()
	}()
	must(t, c.WriteFile(ctx, "during", want, 0o644))
	for _, n := range []string{"before", "during"} {
		got, err := c.ReadFile(ctx, n)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatal(n, "differs")
		}
	}
	h, err := c.CreatePath(ctx, "synced", 0o644)
	must(t, err)
	_, err = h.WriteAt(ctx, []byte("one member left"), 0)
	must(t, err)
	must(t, h.Sync(ctx, false))
	must(t, h.Close())
}

// TestRealModel compares random work with a model; readers see every flush.
func TestRealModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 3))
	k := startCluster(t, 1, 2)
	c, other := k.connect(), k.connect()
	h, err := c.CreatePath(ctx, "m", 0o644)
	must(t, err)
	o, _, err := other.OpenPath(ctx, "m")
	must(t, err)
	model := make([]byte, 6<<20)
	size := 0
	for step := range 500 {
		off, n := r.IntN(5<<20), 1+r.IntN(1<<(1+r.IntN(17)))
		switch r.IntN(6) {
		case 0, 1, 2:
			b := noise(r.Uint64(), n)
			_, err := h.WriteAt(ctx, b, int64(off))
			must(t, err)
			copy(model[off:], b)
			size = max(size, off+n)
		case 3:
			must(t, h.Flush(ctx))
			b := make([]byte, n)
			got, err := o.ReadAt(ctx, b, int64(off))
			if want := max(0, min(n, size-off)); got != want || err != nil && err != io.EOF || !bytes.Equal(b[:got], model[off:off+got]) {
				t.Fatalf("seed %d, step %d: other client at %d: %d, %v; want %d", seed, step, off, got, err, want)
			}
		case 4:
			b := make([]byte, n)
			got, err := h.ReadAt(ctx, b, int64(off))
			if want := max(0, min(n, size-off)); got != want || err != nil && err != io.EOF || !bytes.Equal(b[:got], model[off:off+got]) {
				t.Fatalf("seed %d, step %d: at %d: %d, %v; want %d", seed, step, off, got, err, want)
			}
		case 5:
			if r.IntN(4) > 0 {
				must(t, h.Sync(ctx, true))
				continue
			}
			cut := r.IntN(size + 4096)
			_, err := c.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: h.Ino(), Mask: protocol.SetSize, Size: uint64(cut)})
			must(t, err)
			if cut < size {
				clear(model[cut:size])
			}
			size = cut
		}
	}
	must(t, h.Close())
	must(t, o.Close())
}
