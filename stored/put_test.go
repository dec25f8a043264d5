package stored

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// group starts n storage daemons with a fake tracker.
func group(t testing.TB, n int, change ...func(*Config)) (*fakeTracker, []*node) {
	t.Helper()
	k := newFakeTracker(t, protocol.NewKey())
	var nodes []*node
	for range n {
		nodes = append(nodes, startNode(t, k, filepath.Join(t.TempDir(), "store"), change...))
	}
	return k, nodes
}

// quiet keeps the background comparison out of a test of puts.
func quiet(c *Config) { c.ConvergeEvery, c.ConvergeGrace = time.Hour, time.Hour }

func TestPutChain(t *testing.T) {
	k, n := group(t, 3, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	id := 0
	for _, size := range []int{1, 4095, 4096, 70_000, 80 << 10, 256 << 10, 256<<10 + 1, 1 << 20, 4<<20 - 5, 4 << 20} {
		for _, sync := range []bool{false, true} {
			for links := range 3 {
				id++
				var chain []protocol.ChainLink
				for _, o := range n[1 : 1+links] {
					chain = append(chain, o.link())
				}
				ids, err := a.put(id, size, sync, n[0], chain...)
				want := []tnv.NodeID{n[0].d.node, n[1].d.node, n[2].d.node}[:1+links]
				if err != nil || !slices.Equal(ids, want) {
					t.Fatalf("put of %d bytes over %d: holders %v, want %v: %v", size, links, ids, want, err)
				}
				for i, o := range n {
					if i <= links {
						if err := a.holds(o, id, size); err != nil {
							t.Fatalf("member %d: %v", i, err)
						}
					} else if o.has(bkey(id)) {
						t.Fatalf("member %d has a block that was not meant for it", i)
					}
				}
			}
		}
	}
	if used := n[0].d.mem.used(); used != 0 {
		t.Errorf("%d bytes of memory are still taken", used)
	}
}

func TestPutDeadHop(t *testing.T) {
	k, n := group(t, 2, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := protocol.ChainLink{Node: 99, Addr: ln.Addr().String()}
	ln.Close()
	ids, err := a.put(1, 1<<20, true, n[0], dead, n[1].link())
	if err != nil || !slices.Equal(ids, []tnv.NodeID{n[0].d.node, n[1].d.node}) {
		t.Fatalf("holders %v: %v", ids, err)
	}
	if err := a.holds(n[1], 1, 1<<20); err != nil {
		t.Fatal(err)
	}
	if ids, err = a.put(2, 5000, false, n[0], dead); err != nil || !slices.Equal(ids, []tnv.NodeID{n[0].d.node}) {
		t.Fatalf("holders %v: %v", ids, err)
	}
}

// frozen is a server that does the handshake and then what fn says.
func frozen(t *testing.T, key protocol.Key, handshake bool, fn func(c net.Conn, w *protocol.Wire)) protocol.ChainLink {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.(*net.TCPConn).SetReadBuffer(4096)
			go func() {
				defer c.Close()
				if handshake {
					w, _, err := protocol.Accept(&protocol.Endpoint{Key: key, Role: protocol.RoleStore}, c)
					if err != nil {
						return
					}
					fn(c, w)
				}
				<-stop
			}()
		}
	}()
	t.Cleanup(func() {
		close(stop)
		ln.Close()
		<-done
	})
	return protocol.ChainLink{Node: 98, Addr: ln.Addr().String()}
}

func TestPutFrozenHop(t *testing.T) {
	k, n := group(t, 2, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	nothing := func(net.Conn, *protocol.Wire) {}
	for name, link := range map[string]protocol.ChainLink{
		"no handshake":            frozen(t, k.key, false, nothing),
		"reads nothing":           frozen(t, k.key, true, nothing),
		"reads all, says nothing": frozen(t, k.key, true, func(c net.Conn, _ *protocol.Wire) { io.Copy(io.Discard, c) }),
	} {
		t.Run(name, func(t *testing.T) {
			base := 100 * len(name)
			began := time.Now()
			ids, err := a.put(base, 4<<20, true, n[0], link, n[1].link())
			if err != nil || !slices.Equal(ids, []tnv.NodeID{n[0].d.node, n[1].d.node}) {
				t.Fatalf("holders %v: %v", ids, err)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("a frozen member cost %v", took)
			}
			if err := a.holds(n[1], base, 4<<20); err != nil {
				t.Fatal(err)
			}
			began = time.Now() // it is known now, and costs nothing
			for i := range 4 {
				if ids, err := a.put(base+1+i, 4096, false, n[0], link, n[1].link()); err != nil || len(ids) != 2 {
					t.Fatalf("holders %v: %v", ids, err)
				}
			}
			if took := time.Since(began); took > suspectFor/2 {
				t.Errorf("puts past a member known to be frozen took %v", took)
			}
		})
	}
}

func TestPutHopFailsMidway(t *testing.T) {
	k, n := group(t, 2, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	link := frozen(t, k.key, true, func(c net.Conn, w *protocol.Wire) {
		w.ReadFrame()
		io.CopyN(io.Discard, c, 300<<10)
		c.Close()
	})
	ids, err := a.put(1, 4<<20, false, n[0], link, n[1].link())
	if err != nil || !slices.Equal(ids, []tnv.NodeID{n[0].d.node, n[1].d.node}) {
		t.Fatalf("holders %v: %v", ids, err)
	}
	if err := a.holds(n[1], 1, 4<<20); err != nil {
		t.Fatal(err)
	}
}

// A store that works long on a put, but says so, is waited for.
func TestPutSlowHopIsWaitedFor(t *testing.T) {
	k, n := group(t, 2, quiet)
	n[1].fail.set(trouble{commitDelay: (hopSilence + slowOp) / 2})
	a := newAsker(t, k.key, protocol.RoleClient)
	a.mustPut(1, 100_000, true, n[0], n[1].link())
	a.mustPut(2, 100, true, n[1]) // no sign of life goes to who wants none: the reply comes first
}

// A disk that takes seconds is not waited for: the store says so itself, to
// whoever sent it the block and to the trackers, and is well again afterwards.
func TestPutSlowDiskIsNotWaitedFor(t *testing.T) {
	k, n := group(t, 2, quiet)
	n[1].fail.set(trouble{commitDelay: 4 * time.Second})
	a := newAsker(t, k.key, protocol.RoleClient)
	began := time.Now()
	ids, err := a.put(1, 100_000, true, n[0], n[1].link())
	if took := time.Since(began); err != nil || !slices.Equal(ids, []tnv.NodeID{n[0].d.node}) || took > slowOp+hopSilence/2 {
		t.Fatalf("holders %v after %v: %v", ids, took, err)
	}
	state := func(want tnv.NodeState) func() bool {
		return func() bool {
			k.mu.Lock()
			defer k.mu.Unlock()
			return k.beats[n[1].d.node].State == want
		}
	}
	eventually(t, "the trackers are told that the disk is slow", state(tnv.NodeSlow))
	n[1].fail.set(trouble{})
	eventually(t, "it is well again", state(tnv.NodeAlive))
}

func TestPutClientGoesAway(t *testing.T) {
	k, n := group(t, 2, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	meta, data := block(1, 2<<20)
	w, _, err := protocol.Dial(context.Background(), a.pool.Endpoint, n[0].addr)
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	err = w.WriteFrameFrom(protocol.TypePut, 0, 0, []any{&protocol.Put{Block: meta, Chain: []protocol.ChainLink{n[1].link()}}}, len(data), func(c net.Conn) error {
		c.Write(data[:1<<20])
		return gone
	})
	if err != gone {
		t.Fatal(err)
	}
	eventually(t, "memory is given back", func() bool { return n[0].d.mem.used() == 0 && n[1].d.mem.used() == 0 })
	if n[0].has(meta.Key) || n[1].has(meta.Key) {
		t.Fatal("half a block is held")
	}
	a.mustPut(1, 2<<20, true, n[0], n[1].link()) // the retry is not in its own way
}

func TestPutAgain(t *testing.T) {
	k, n := group(t, 2, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	a.mustPut(1, 300_000, false, n[0])
	a.mustPut(1, 300_000, true, n[0], n[1].link()) // held here, new there
	a.mustPut(1, 300_000, true, n[0], n[1].link())
	if err := a.holds(n[1], 1, 300_000); err != nil {
		t.Fatal(err)
	}
	_, other := block(2, 300_000)
	meta := metaOf(1, other)
	for _, chain := range [][]protocol.ChainLink{nil, {n[1].link()}} {
		if _, err := a.putRaw(n[0].addr, &protocol.Put{Block: meta, Chain: chain}, other); tnv.KindOf(err) != tnv.KindConflict {
			t.Fatalf("other bytes under a held id: %v", err)
		}
	}
	if err := a.holds(n[0], 1, 300_000); err != nil {
		t.Fatal(err)
	}
}

func TestPutBadSums(t *testing.T) {
	k, n := group(t, 2, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	for id, size := range map[int]int{1: 4096, 2: 1 << 20} {
		meta, data := block(id, size)
		data[size-1] ^= 1
		if _, err := a.putRaw(n[0].addr, &protocol.Put{Block: meta, Sync: true, Chain: []protocol.ChainLink{n[1].link()}}, data); tnv.KindOf(err) != tnv.KindCorrupt {
			t.Fatalf("bytes that do not match their sums: %v", err)
		}
		if n[0].has(meta.Key) || n[1].has(meta.Key) {
			t.Fatal("they are held")
		}
	}
}

func TestPutRefused(t *testing.T) {
	k, n := group(t, 1, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	meta, data := block(1, 5000)
	good := func() protocol.Put { return protocol.Put{Block: meta} }
	for name, change := range map[string]func(*protocol.Put){
		"self in chain":    func(p *protocol.Put) { p.Chain = []protocol.ChainLink{n[0].link()} },
		"twice in chain":   func(p *protocol.Put) { p.Chain = []protocol.ChainLink{{Node: 1, Addr: "a:1"}, {Node: 1, Addr: "a:2"}} },
		"no address":       func(p *protocol.Put) { p.Chain = []protocol.ChainLink{{Node: 1}} },
		"long chain":       func(p *protocol.Put) { p.Chain = make([]protocol.ChainLink, 9) },
		"too few sums":     func(p *protocol.Put) { p.Block.Sums = p.Block.Sums[:1] },
		"length not right": func(p *protocol.Put) { p.Block.Len++ },
		"no id":            func(p *protocol.Put) { p.Block.Key.ID = 0 },
	} {
		p := good()
		change(&p)
		if _, err := a.putRaw(n[0].addr, &p, data); tnv.KindOf(err) != tnv.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n[0].has(meta.Key) {
		t.Fatal("a refused block is held")
	}
}

// failing is a store whose disk makes trouble, if told to.
type failing struct {
	store
	mu  sync.Mutex
	how trouble
}

type trouble struct {
	create, write, commit error
	commitDelay           time.Duration
}

func (f *failing) set(t trouble) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.how = t
}

func (f *failing) get() trouble {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.how
}

type failingWriter struct {
	writer
	f *failing
}

func (f *failing) Create(m protocol.BlockMeta) (writer, error) {
	if err := f.get().create; err != nil {
		return nil, err
	}
	w, err := f.store.Create(m)
	if err != nil {
		return nil, err
	}
	return failingWriter{w, f}, nil
}

func (w failingWriter) Write(p []byte) (int, error) {
	if err := w.f.get().write; err != nil {
		return 0, err
	}
	return w.writer.Write(p)
}

func (w failingWriter) Commit(sync bool) error {
	how := w.f.get()
	time.Sleep(how.commitDelay)
	if how.commit != nil {
		w.writer.Abort()
		return how.commit
	}
	return w.writer.Commit(sync)
}

func TestPutOwnDiskFails(t *testing.T) {
	k, n := group(t, 2, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	for i, how := range []trouble{
		{create: tnv.E("create", tnv.KindNoSpace, "full")},
		{write: tnv.Wrap("write", syscall.EIO)},
		{commit: tnv.Wrap("fdatasync", syscall.EIO)},
	} {
		n[0].fail.set(how)
		id := 10 * (i + 1)
		ids, err := a.put(id, 600_000, true, n[0], n[1].link())
		if err != nil || !slices.Equal(ids, []tnv.NodeID{n[1].d.node}) {
			t.Fatalf("%+v: holders %v: %v", how, ids, err)
		}
		if err := a.holds(n[1], id, 600_000); err != nil {
			t.Fatal(err)
		}
		if ids, err = a.put(id+1, 600_000, true, n[0]); err == nil || len(ids) != 0 {
			t.Fatalf("%+v: nobody has it, holders %v", how, ids)
		}
		ids, err = a.put(id+2, 600_000, false, n[0], protocol.ChainLink{Node: 5, Addr: "127.0.0.1:1"})
		if err == nil || len(ids) != 0 {
			t.Fatalf("%+v: nobody has it, holders %v", how, ids)
		}
	}
}
