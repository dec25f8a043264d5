package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

var ctx = context.Background()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func randomBytes(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		v := r.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return b
}

func create(t testing.TB, c *Client, name string) *Handle {
	t.Helper()
	h, _, err := c.CreateFile(ctx, tnv.Root, protocol.Create{Parent: tnv.RootIno, Name: name, Mode: 0o644}, os.O_RDWR)
	must(t, err)
	return h
}

func check(t testing.TB, h *Handle, want []byte) {
	t.Helper()
	got := make([]byte, len(want)+10)
	n, err := h.ReadAt(ctx, got, 0)
	if err != io.EOF {
		t.Fatalf("read: %d, %v; want %d and EOF", n, err, len(want))
	}
	if !bytes.Equal(got[:n], want) {
		i := 0
		for i < min(n, len(want)) && got[i] == want[i] {
			i++
		}
		t.Fatalf("read %d bytes, want %d; first difference at %d", n, len(want), i)
	}
}

func TestWriteRead(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.connect(f.config())
	want := randomBytes(1, 9<<20+12345)
	h := create(t, c, "a")
	for off := 0; off < len(want); off += 1 << 17 {
		_, err := h.WriteAt(ctx, want[off:min(len(want), off+1<<17)], int64(off))
		must(t, err)
	}
	check(t, h, want) // before it is flushed
	must(t, h.Flush(ctx))
	check(t, h, want)
	must(t, h.Close())
	other := f.connect(f.config())
	h2, a, err := other.OpenPath(ctx, "/a")
	must(t, err)
	if a.Size != uint64(len(want)) {
		t.Fatalf("size %d", a.Size)
	}
	check(t, h2, want)
	for off := int64(0); off < int64(len(want)); {
		parts, release, err := h2.View(ctx, off, 300_000)
		must(t, err)
		for _, b := range parts {
			if !bytes.Equal(b, want[off:off+int64(len(b))]) {
				t.Fatalf("view differs at %d", off)
			}
			off += int64(len(b))
		}
		release()
	}
	if _, _, err := h2.View(ctx, int64(len(want)), 1); err != io.EOF {
		t.Fatalf("view at the end: %v", err)
	}
	must(t, h2.Close())
	for _, s := range f.stores {
		if len(s.blocks) == 0 {
			t.Errorf("store %v has no block", s.id)
		}
	}
}

func TestVisibleWithinASecond(t *testing.T) {
	f := newFake(t, 1, 2)
	c, other := f.connect(f.config()), f.connect(f.config())
	h := create(t, c, "rec")
	_, err := h.WriteAt(ctx, []byte("frame"), 0)
	must(t, err)
	deadline := time.Now().Add(1200 * time.Millisecond)
	for {
		a, err := other.Stat(ctx, "rec")
		must(t, err)
		if a.Size == 5 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not visible after more than a second")
		}
		time.Sleep(20 * time.Millisecond)
	}
	must(t, h.Close())
}

// TestModel writes, truncates, syncs, reopens at random, and compares each read.
func TestModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	f := newFake(t, 2, 2)
	c := f.connect(f.config())
	other := f.connect(f.config())
	h := create(t, c, "m")
	o, _, err := other.OpenFile(ctx, h.Ino(), os.O_RDONLY)
	must(t, err)
	for _, s := range f.stores {
		s.mu.Lock()
		s.slow = 2 * time.Millisecond
		s.mu.Unlock()
	}
	const limit = 70 << 20 // beyond a chunk
	model := make([]byte, limit)
	size := 0
	at := func() int {
		if r.IntN(3) > 0 {
			return r.IntN(300_000)
		}
		return []int{0, 4 << 20, 8 << 20, tnv.ChunkSize}[r.IntN(4)] + r.IntN(100_000)
	}
	var hist []string
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d, last of %v: %s", seed, hist[max(0, len(hist)-8):], fmt.Sprintf(format, args...))
	}
	for step := range 600 {
		off, n := at(), 1+r.IntN(1<<(1+r.IntN(19)))
		op := r.IntN(22)
		hist = append(hist, fmt.Sprintf("%d:op%d@%d+%d", step, op, off, n))
		switch {
		case op < 9:
			b := randomBytes(r.Uint64(), n)
			if _, err := h.WriteAt(ctx, b, int64(off)); err != nil {
				fail("%v", err)
			}
			copy(model[off:], b)
			size = max(size, off+n)
		case op < 15:
			b := make([]byte, n)
			read := h.ReadAt
			if op%2 == 0 {
				read = h.ReadAtVersion
			}
			got, err := read(ctx, b, int64(off))
			want := max(0, min(n, size-off))
			if got != want || (err == io.EOF) != (want < n) || err != nil && err != io.EOF {
				fail("read %d, %v; want %d", got, err, want)
			}
			if !bytes.Equal(b[:got], model[off:off+got]) {
				fail("bytes differ")
			}
		case op == 15:
			must(t, h.Flush(ctx))
			b := make([]byte, n)
			got, err := o.ReadAt(ctx, b, int64(off))
			if want := max(0, min(n, size-off)); got != want || err != nil && err != io.EOF || !bytes.Equal(b[:got], model[off:off+got]) {
				fail("other client: %d, %v; want %d", got, err, want)
			}
		case op == 16:
			must(t, h.Sync(ctx, false))
		case op == 17:
			off = r.IntN(size + 1000)
			_, err := c.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: h.Ino(), Mask: protocol.SetSize, Size: uint64(off)})
			must(t, err)
			if off < size {
				clear(model[off:size])
			}
			size = off
		case op == 18:
			must(t, h.Close())
			h, _, err = c.OpenFile(ctx, h.Ino(), os.O_RDWR)
			must(t, err)
		case op >= 20: // sealed, and on its way while the next operations go on
			gone, cancel := context.WithCancel(ctx)
			cancel()
			h.Flush(gone)
		case op == 19:
			a, err := h.Attr(ctx)
			if err != nil || a.Size != uint64(size) {
				fail("size %d, want %d", a.Size, size)
			}
		}
	}
	must(t, h.Close())
}

func TestDefiniteErrorsAtConnect(t *testing.T) {
	f := newFake(t, 1, 1)
	cfg := f.config()
	cfg.Key = protocol.Key{Cluster: f.key.Cluster, Secret: make([]byte, 32)}
	start := time.Now()
	if _, err := Connect(ctx, cfg); tnv.KindOf(err) != tnv.KindAuth {
		t.Errorf("wrong key: %v", err)
	}
	cfg = f.config()
	cfg.Volume = "nope"
	if _, err := Connect(ctx, cfg); tnv.KindOf(err) != tnv.KindNotExist {
		t.Errorf("wrong volume: %v", err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("took %v", d)
	}
	cfg = f.config()
	cfg.Trackers = []string{"127.0.0.1:1"}
	cfg.Timeout = 300 * time.Millisecond
	if _, err := Connect(ctx, cfg); tnv.KindOf(err) != tnv.KindUnavailable {
		t.Errorf("no tracker: %v", err)
	}
	if _, err := Connect(ctx, Config{}); tnv.KindOf(err) != tnv.KindInvalid {
		t.Errorf("no configuration: %v", err)
	}
}

func TestUnreachableIsAnError(t *testing.T) {
	f := newFake(t, 1, 2)
	cfg := f.config()
	cfg.Timeout = 500 * time.Millisecond
	c := f.connect(cfg)
	must(t, c.WriteFile(ctx, "x", []byte("hello"), 0o644))
	f.track.stop()
	if _, err := c.Stat(ctx, "x"); !errors.Is(err, tnv.KindUnavailable) {
		t.Fatalf("stat: %v", err)
	}
	if _, err := c.Create(ctx, tnv.Root, protocol.Create{Parent: tnv.RootIno, Name: "y"}); !errors.Is(err, tnv.KindUnavailable) {
		t.Fatalf("create: %v", err)
	}
	f.track.start(f.track.addr)
	for try := 0; ; try++ { // half a second is little on a busy machine
		a, err := c.Stat(ctx, "x")
		if err == nil && a.Size == 5 {
			return
		}
		if try == 10 {
			t.Fatalf("afterwards: %d, %v", a.Size, err)
		}
	}
}
