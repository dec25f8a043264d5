package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/protocol"
)

const (
	punch  = protocol.FallocPunchHole | protocol.FallocKeepSize
	allocs = protocol.FallocKeepSize
)

// contentModel is a file as bytes, and which of them were ever written: the rest are holes.
type contentModel struct{ data, written []byte }

func (m *contentModel) grow(n int) {
	if d := n - len(m.data); d > 0 {
		m.data, m.written = append(m.data, make([]byte, d)...), append(m.written, make([]byte, d)...)
	}
}

func (m *contentModel) set(off int, data, written []byte) {
	m.grow(off + len(data))
	copy(m.data[off:], data)
	copy(m.written[off:], written)
}

func (m *contentModel) fallocate(mode uint32, off, n int) {
	if mode&^protocol.FallocZeroRange == 0 {
		m.grow(off + n)
	}
	lo, hi := min(off, len(m.data)), min(off+n, len(m.data))
	switch mode {
	case 0, protocol.FallocKeepSize:
	case protocol.FallocCollapseRange:
		m.data, m.written = append(m.data[:lo:lo], m.data[hi:]...), append(m.written[:lo:lo], m.written[hi:]...)
	case protocol.FallocInsertRange:
		z := make([]byte, n)
		m.data = append(m.data[:lo:lo], append(z, m.data[lo:]...)...)
		m.written = append(m.written[:lo:lo], append(bytes.Clone(z), m.written[lo:]...)...)
	default:
		clear(m.data[lo:hi])
		clear(m.written[lo:hi])
	}
}

// seek is where data or a hole is; -1: nowhere.
func (m *contentModel) seek(off int, hole bool) int64 {
	want := byte(1)
	if hole {
		want = 0
	}
	if off >= len(m.data) {
		return -1
	}
	if i := bytes.IndexByte(m.written[off:], want); i >= 0 {
		return int64(off + i)
	}
	if hole {
		return int64(len(m.data))
	}
	return -1
}

// TestRealContent compares random work of two clients on two files with a model:
// what one does, the other sees.
func TestRealContent(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 7))
	k := startCluster(t, 1, 2)
	clients := []*client.Client{k.connect(), k.connect()}
	var h [2][2]*client.Handle // client, file
	var m [2]contentModel
	for f := range 2 {
		made, err := clients[0].CreatePath(ctx, fmt.Sprint(f), 0o644)
		must(t, err)
		h[0][f] = made
		h[1][f], _, err = clients[1].OpenFile(ctx, made.Ino(), 2)
		must(t, err)
	}
	fail := func(step int, format string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d, step %d: %s", seed, step, fmt.Sprintf(format, args...))
	}
	for step := range 400 {
		c, f := r.IntN(2), r.IntN(2)
		off, n := r.IntN(9<<20), 1+r.IntN(1<<(1+r.IntN(22)))
		switch op := r.IntN(10); op {
		case 0, 1, 2:
			n = min(n, 300000)
			b := noise(r.Uint64(), n)
			must(t, h[1-c][f].Flush(ctx)) // or its older bytes may be committed behind these
			_, err := h[c][f].WriteAt(ctx, b, int64(off))
			must(t, err)
			if r.IntN(2) == 0 { // it is the business of what comes next to commit it
				must(t, h[c][f].Flush(ctx))
			}
			m[f].set(off, b, bytes.Repeat([]byte{1}, n))
			if r.IntN(2) == 0 {
				continue
			}
			must(t, h[c][f].Flush(ctx))
		case 3, 4, 5:
			must(t, h[1-c][f].Flush(ctx))
			mode := []uint32{0, allocs, punch, protocol.FallocZeroRange, protocol.FallocZeroRange | allocs, protocol.FallocCollapseRange, protocol.FallocInsertRange}[r.IntN(7)]
			if mode&(protocol.FallocCollapseRange|protocol.FallocInsertRange) != 0 {
				off, n = off/4096*4096, (n+4095)/4096*4096
				if mode == protocol.FallocCollapseRange && off+n >= len(m[f].data) || mode == protocol.FallocInsertRange && (off >= len(m[f].data) || len(m[f].data) > 24<<20) {
					continue
				}
			}
			must(t, h[c][f].Fallocate(ctx, mode, int64(off), int64(n)))
			m[f].fallocate(mode, off, n)
		case 6, 7:
			g, to := r.IntN(2), r.IntN(9<<20)
			must(t, h[1-c][f].Flush(ctx))
			must(t, h[1-c][g].Flush(ctx))
			got, err := h[c][f].CopyRange(ctx, h[c][g], int64(off), int64(to), int64(n))
			if f == g && off < to+n && to < off+n {
				if !errors.Is(err, tnv.KindInvalid) {
					fail(step, "overlapping copy: %v", err)
				}
				continue
			}
			must(t, err)
			want := max(0, min(n, len(m[f].data)-off))
			if int(got) != want {
				fail(step, "%d bytes copied of %d", got, want)
			}
			if want > 0 {
				m[g].set(to, bytes.Clone(m[f].data[off:off+want]), bytes.Clone(m[f].written[off:off+want]))
			}
		case 8:
			must(t, h[1-c][f].Flush(ctx))
			for hole, seek := range map[bool]func() (int64, error){
				false: func() (int64, error) { return h[c][f].SeekData(ctx, int64(off)) },
				true:  func() (int64, error) { return h[c][f].SeekHole(ctx, int64(off)) }} {
				got, err := seek()
				want := m[f].seek(off, hole)
				if errors.Is(err, tnv.KindNotDeviceOrAddr) {
					got, err = -1, nil
				}
				if err != nil || got != want {
					fail(step, "seek from %d, hole %v: %d, %v; want %d", off, hole, got, err, want)
				}
			}
		case 9:
			must(t, h[c][f].Sync(ctx, false))
		}
		must(t, h[0][f].Flush(ctx))
		must(t, h[1][f].Flush(ctx))
		for c := range 2 {
			off := max(0, off-5000)
			b := make([]byte, n+10000)
			got, err := h[c][f].ReadAt(ctx, b, int64(off))
			if want := max(0, min(len(b), len(m[f].data)-off)); got != want || err != nil && err != io.EOF || got > 0 && !bytes.Equal(b[:got], m[f].data[off:off+got]) {
				fail(step, "client %d reads %d bytes of file %d at %d: %v; want %d, or other bytes", c, got, f, off, err, want)
			}
		}
	}
	for f := range 2 {
		must(t, h[0][f].Flush(ctx))
		must(t, h[1][f].Flush(ctx))
		for c := range 2 {
			got, err := clients[c].ReadFile(ctx, fmt.Sprint(f))
			must(t, err)
			if !bytes.Equal(got, m[f].data) {
				t.Fatalf("seed %d: file %d differs for client %d", seed, f, c)
			}
			must(t, h[c][f].Close())
		}
	}
}

// blocksHeld is how many live blocks all storage daemons have.
func blocksHeld(t *testing.T, c *client.Client) (n uint64) {
	st, err := c.Status(ctx)
	must(t, err)
	for _, g := range st.Groups {
		for _, s := range g.Nodes {
			n += s.Blocks
		}
	}
	return n
}

func eventually(t *testing.T, what string, fn func() bool) {
	t.Helper()
	for range 600 {
		if fn() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("never:", what)
}

// TestRealClone: a clone takes no space, outlives its source, is copied to a new
// member of the group, and frees the space when it goes as the last.
func TestRealClone(t *testing.T) {
	k := startCluster(t, 1, 2)
	c := k.connect()
	want := noise(5, 70<<20+12345) // more than a chunk
	must(t, c.WriteFile(ctx, "a", want, 0o644))
	eventually(t, "both stores tell of their blocks", func() bool { return blocksHeld(t, c) >= 2*18 })
	before := blocksHeld(t, c)
	from, _, err := c.OpenPath(ctx, "a")
	must(t, err)
	to, err := c.CreatePath(ctx, "b", 0o644)
	must(t, err)
	for off := int64(0); ; {
		n, err := from.CopyRange(ctx, to, off, off+100, 1<<40)
		must(t, err)
		if n == 0 {
			break
		}
		off += n
	}
	must(t, from.Close())
	must(t, to.Sync(ctx, false))
	must(t, to.Close())
	must(t, c.RemoveAll(ctx, "a"))
	eventually(t, "the source is reclaimed", func() bool {
		st, err := c.Status(ctx)
		must(t, err)
		return st.Volumes[0].Unlinked == 0
	})
	if n := blocksHeld(t, c); n != before {
		t.Errorf("%d blocks are held, %d before the clone", n, before)
	}
	k.store(1, 3, "127.0.0.1:0") // it asks which blocks live before it copies them
	eventually(t, "the new member has all", func() bool { return blocksHeld(t, c) == before/2*3 })
	k.stop["stored-1-1"]()
	k.stop["stored-1-2"]()
	got, err := c.ReadFile(ctx, "b")
	must(t, err)
	if !bytes.Equal(got[100:], want) || !bytes.Equal(got[:100], make([]byte, 100)) {
		t.Fatal("the clone differs")
	}
	must(t, c.RemoveAll(ctx, "b"))
	eventually(t, "the space is free", func() bool {
		st, err := c.Status(ctx)
		must(t, err)
		for _, n := range st.Groups[0].Nodes {
			if n.Node.State == tnv.NodeAlive && n.Blocks > 0 {
				return false
			}
		}
		return true
	})
}
