package stored

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

func TestGetRanges(t *testing.T) {
	k, n := group(t, 1, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	for id, size := range map[int]int{1: 1, 2: 10_000, 3: 200_001, 4: 4 << 20} {
		a.mustPut(id, size, false, n[0])
		meta, data := block(id, size)
		unit := int(meta.Unit)
		for _, r := range [][2]int{{0, 0}, {0, 1}, {size - 1, 1}, {size / 2, 0}, {size / 3, size / 3}, {0, size}, {size * 2 / 3, min(size/3, 70_000)}} {
			off, want := r[0], r[1]
			reply, got, err := a.get(n[0].addr, protocol.Get{Key: meta.Key, Off: uint32(off), Len: uint32(want)})
			if err != nil {
				t.Fatalf("%d bytes at %d of %d: %v", want, off, size, err)
			}
			end := off + want
			if want == 0 {
				end = size
			}
			lo, hi := off/unit*unit, min(size, (end+unit-1)/unit*unit)
			if int(reply.Off) != lo || len(got) != hi-lo {
				t.Fatalf("%d bytes at %d of %d: got %d at %d, want %d at %d", want, off, size, len(got), reply.Off, hi-lo, lo)
			}
			if bad := protocol.Verify(meta.Key, reply.Block.Unit, lo/unit, got, reply.Block.Sums); bad >= 0 {
				t.Fatalf("%d bytes at %d of %d: unit %d is bad", want, off, size, bad)
			}
			if len(reply.Block.Sums) != protocol.Units(uint32(len(got)), meta.Unit) || !bytes.Equal(got, data[lo:hi]) {
				t.Fatalf("%d bytes at %d of %d: wrong", want, off, size)
			}
		}
		for _, r := range [][2]int{{size, 1}, {size, 0}, {0, size + 1}, {1 << 31, 1 << 31}} {
			if _, _, err := a.get(n[0].addr, protocol.Get{Key: meta.Key, Off: uint32(r[0]), Len: uint32(r[1])}); tnv.KindOf(err) != tnv.KindInvalid {
				t.Errorf("%v of %d bytes: %v", r, size, err)
			}
		}
	}
	if _, _, err := a.get(n[0].addr, protocol.Get{Key: bkey(99)}); tnv.KindOf(err) != tnv.KindMissing {
		t.Errorf("a block that is not there: %v", err)
	}
}

// Readers share one descriptor of a segment: their offsets must not mix.
func TestGetManyAtOnce(t *testing.T) {
	k, n := group(t, 1, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	for id := 1; id <= 4; id++ {
		a.mustPut(id, 2<<20, false, n[0])
	}
	errs := make(chan error, 16)
	for i := range cap(errs) {
		go func() {
			var err error
			for j := range 8 {
				err = errors.Join(err, a.holds(n[0], 1+(i+j)%4, 2<<20))
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

func TestBusy(t *testing.T) {
	k, n := group(t, 1, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	a.mustPut(1, 5000, false, n[0])
	d := n[0].d
	if err := d.disk.acquire(context.Background(), diskOps, time.Second); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.get(n[0].addr, protocol.Get{Key: bkey(1)}); tnv.KindOf(err) != tnv.KindBusy {
		t.Errorf("no place at the disk: %v", err)
	}
	d.disk.release(diskOps)
	tail := d.mem.forPut(0)
	if err := tail.acquire(context.Background(), tail.size, time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := a.put(2, 5000, false, n[0]); tnv.KindOf(err) != tnv.KindBusy {
		t.Errorf("no memory: %v", err)
	}
	// Memory of another position in the chain is apart: no cycle of waiting.
	if ids, err := a.put(2, 5000, false, n[0], protocol.ChainLink{Node: 5, Addr: "127.0.0.1:1"}); err != nil || len(ids) != 1 {
		t.Errorf("holders %v: %v", ids, err)
	}
	tail.release(tail.size)
	// No place at the disk: the block is handed on, and not kept here.
	if err := d.writes.acquire(context.Background(), diskWrites, time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := a.put(3, 5000, false, n[0]); tnv.KindOf(err) != tnv.KindBusy {
		t.Errorf("no place at the disk: %v", err)
	}
	d.writes.release(diskWrites)
	a.mustPut(3, 5000, false, n[0])
}

func TestDelete(t *testing.T) {
	k, n := group(t, 1, quiet)
	tracker, client := newAsker(t, k.key, protocol.RoleTracker), newAsker(t, k.key, protocol.RoleClient)
	for id := 1; id <= 3; id++ {
		client.mustPut(id, 5000, true, n[0])
	}
	req := protocol.Delete{Node: n[0].d.node, Vol: 1, Blocks: []tnv.BlockID{1, 2, 77}}
	for _, role := range []protocol.Role{protocol.RoleClient, protocol.RoleStore, protocol.RoleTool} {
		if err := newAsker(t, k.key, role).call(n[0].addr, protocol.TypeDelete, nil, &req); tnv.KindOf(err) != tnv.KindPermission {
			t.Errorf("delete by a %s: %v", role, err)
		}
	}
	other := req
	other.Node++
	if err := tracker.call(n[0].addr, protocol.TypeDelete, nil, &other); tnv.KindOf(err) != tnv.KindConflict {
		t.Errorf("delete at another store: %v", err)
	}
	if !n[0].has(bkey(1)) {
		t.Fatal("a refused deletion deleted")
	}
	for range 2 { // orders are repeated
		if err := tracker.call(n[0].addr, protocol.TypeDelete, nil, &req); err != nil {
			t.Fatal(err)
		}
	}
	if n[0].has(bkey(1)) || n[0].has(bkey(2)) || !n[0].has(bkey(3)) {
		t.Fatal("not the blocks named were deleted")
	}
	if _, err := client.put(1, 5000, false, n[0]); err == nil {
		t.Fatal("a deleted id was taken again")
	}
	if _, _, err := client.get(n[0].addr, protocol.Get{Key: bkey(1)}); tnv.KindOf(err) != tnv.KindMissing {
		t.Fatalf("get of a deleted block: %v", err)
	}
}

func TestSyncListDigest(t *testing.T) {
	k, n := group(t, 1, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	for id := 10; id < 20; id++ {
		a.mustPut(id, 100*id, false, n[0])
	}
	var s protocol.SyncReply
	if err := a.call(n[0].addr, protocol.TypeSync, &s, &protocol.Sync{Blocks: []tnv.BlockKey{bkey(10), bkey(9), bkey(19)}}); err != nil {
		t.Fatal(err)
	}
	if s.Node != n[0].d.node || s.Boot != n[0].d.boot || s.Boot == 0 || !slices.Equal(s.Missing, []tnv.BlockKey{bkey(9)}) {
		t.Errorf("sync: %+v", s)
	}
	var l protocol.ListReply
	if err := a.call(n[0].addr, protocol.TypeList, &l, &protocol.List{Vol: 1, From: 12, To: 18, Limit: 4}); err != nil {
		t.Fatal(err)
	}
	if len(l.Blocks) != 4 || !l.More || l.Blocks[0].Block != 12 || l.Blocks[3].Block != 15 || l.Blocks[0].Len != 1200 || l.Blocks[0].Home.Chunk != 12 {
		t.Errorf("list: %+v", l)
	}
	var dg protocol.DigestReply
	if err := a.call(n[0].addr, protocol.TypeDigest, &dg, &protocol.Digest{Vol: 1, From: 10, To: 20, Parts: 5}); err != nil {
		t.Fatal(err)
	}
	if dg.Last != 19 || !slices.Equal(dg.Counts, []uint64{2, 2, 2, 2, 2}) || len(dg.Sums) != 5 || !slices.Equal(dg.Vols, []tnv.VolumeID{1}) {
		t.Errorf("digest: %+v", dg)
	}
	if err := a.call(n[0].addr, protocol.TypeDigest, &dg, &protocol.Digest{Vol: 1, Parts: 1}); err != nil || !slices.Equal(dg.Counts, []uint64{10}) {
		t.Errorf("digest of everything: %+v, %v", dg, err)
	}
	for typ, req := range map[protocol.Type]any{
		protocol.TypeDigest: &protocol.Digest{Vol: 1, Parts: 257},
		protocol.TypeList:   &protocol.List{Vol: 1, Limit: 0},
		protocol.TypeSync:   &protocol.Sync{Blocks: make([]tnv.BlockKey, protocol.MaxBatch+1)},
		protocol.TypeRepair: &protocol.Repair{},
	} {
		if err := a.call(n[0].addr, typ, nil, req); tnv.KindOf(err) != tnv.KindInvalid {
			t.Errorf("type %d without sense: %v", typ, err)
		}
	}
	if err := a.call(n[0].addr, protocol.TypeLookup, nil, &protocol.Lookup{}); tnv.KindOf(err) != tnv.KindNotSupported {
		t.Errorf("a tracker's request: %v", err)
	}
}

func TestWrongKey(t *testing.T) {
	k, n := group(t, 1, quiet)
	bad := k.key
	bad.Secret = bytes.Repeat([]byte{7}, 32)
	if err := newAsker(t, bad, protocol.RoleClient).call(n[0].addr, protocol.TypeSync, nil, &protocol.Sync{}); tnv.KindOf(err) != tnv.KindAuth {
		t.Errorf("wrong key: %v", err)
	}
	other := protocol.NewKey()
	if err := newAsker(t, other, protocol.RoleClient).call(n[0].addr, protocol.TypeSync, nil, &protocol.Sync{}); tnv.KindOf(err) != tnv.KindWrongCluster {
		t.Errorf("another cluster: %v", err)
	}
}

func TestGarbage(t *testing.T) {
	k, n := group(t, 1, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	for _, b := range [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n"), bytes.Repeat([]byte{0xff}, 4096), {0x74, 0x56, 0, 1}} {
		c, err := net.Dial("tcp", n[0].addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(b)
		c.(*net.TCPConn).CloseWrite()
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		for {
			if _, err := c.Read(make([]byte, 4096)); err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("garbage is not hung up on")
				}
				break
			}
		}
		c.Close()
	}
	w, _, err := protocol.Dial(context.Background(), a.pool.Endpoint, n[0].addr) // proven, and garbage then
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.SetDeadline(time.Now().Add(10 * time.Second))
	for _, typ := range []protocol.Type{protocol.TypePut, protocol.TypeGet, protocol.TypeDelete, protocol.TypeSync, protocol.TypeDigest, protocol.TypeList, protocol.TypeRepair, protocol.TypeLocate} {
		if err := w.WriteFrame(typ, 0, 1, []any{protocol.Raw("\xc1\xff\xdf\xff\xff\xff\xff")}, []byte("payload")); err != nil {
			t.Fatal(err)
		}
		f, err := w.ReadFrame()
		if err != nil {
			t.Fatalf("type %d: the connection was ended: %v", typ, err)
		}
		if err := f.Decode(); err == nil {
			t.Errorf("type %d: garbage was accepted", typ)
		}
	}
	a.mustPut(1, 100, false, n[0])
}

func TestLocate(t *testing.T) {
	k, n := group(t, 1, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	for id := 1; id <= 3; id++ {
		a.mustPut(id, 100_000*id, false, n[0])
	}
	ctx := context.Background()
	path := n[0].d.local
	if path == "" || path != k.m.Groups[0].Nodes[0].Local {
		t.Fatalf("no socket, or not announced: %q", path)
	}
	l, err := protocol.DialLocal(ctx, &protocol.Endpoint{Key: k.key, Role: protocol.RoleClient}, path)
	if err != nil {
		t.Fatal(err)
	}
	var first *os.File
	for _, id := range []int{1, 2, 3, 1} {
		reply, f, err := l.Locate(ctx, bkey(id))
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = f
		} else if f != first {
			t.Error("the same segment came with another file")
		}
		buf := make([]byte, reply.Block.Len)
		if _, err := f.ReadAt(buf, reply.Off); err != nil {
			t.Fatal(err)
		}
		if bad := protocol.Verify(bkey(id), reply.Block.Unit, 0, buf, reply.Block.Sums); bad >= 0 || len(buf) != 100_000*id {
			t.Fatalf("block %d read from the segment is bad at unit %d", id, bad)
		}
		if _, err := f.WriteAt([]byte{1}, reply.Off); err == nil {
			t.Fatal("the descriptor lets a client write")
		}
		if _, _, err := l.Locate(ctx, bkey(9)); tnv.KindOf(err) != tnv.KindMissing {
			t.Fatalf("locate of what is not there: %v", err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a file after Close: %v", err)
	}
	if _, _, err := l.Locate(ctx, bkey(1)); tnv.KindOf(err) != tnv.KindUnavailable {
		t.Errorf("locate after Close: %v", err)
	}
	eventually(t, "the connection's state is forgotten", func() bool {
		n[0].d.locators.mu.Lock()
		defer n[0].d.locators.mu.Unlock()
		return len(n[0].d.locators.m) == 0
	})
}

func TestLocateRefused(t *testing.T) {
	k, n := group(t, 1, quiet)
	a, ctx := newAsker(t, k.key, protocol.RoleClient), context.Background()
	a.mustPut(1, 5000, false, n[0])
	if err := a.call(n[0].addr, protocol.TypeLocate, nil, &protocol.Locate{Key: bkey(1)}); tnv.KindOf(err) != tnv.KindPermission {
		t.Errorf("locate over TCP: %v", err)
	}
	s, err := protocol.DialLocal(ctx, &protocol.Endpoint{Key: k.key, Role: protocol.RoleStore}, n[0].d.local)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, _, err := s.Locate(ctx, bkey(1)); tnv.KindOf(err) != tnv.KindPermission {
		t.Errorf("locate by a store: %v", err)
	}
}

func TestConfigRefused(t *testing.T) {
	key := protocol.NewKey()
	dir := t.TempDir()
	good := Config{Dir: dir, Trackers: []string{"127.0.0.1:1"}, Key: key}
	for name, change := range map[string]func(*Config){
		"no directory":     func(c *Config) { c.Dir = "" },
		"no tracker":       func(c *Config) { c.Trackers = nil },
		"no key":           func(c *Config) { c.Key = protocol.Key{} },
		"little memory":    func(c *Config) { c.Memory = 1 << 20 },
		"bad address":      func(c *Config) { c.Listen = "nowhere" },
		"nothing to tell":  func(c *Config) { c.Listen = ":0" },
		"capacity below 0": func(c *Config) { c.Capacity = -1 },
	} {
		cfg := good
		cfg.Dir = filepath.Join(dir, name)
		change(&cfg)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if err := Run(ctx, cfg); tnv.KindOf(err) != tnv.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

func TestDirRefused(t *testing.T) {
	k, n := group(t, 1, quiet)
	run := func(dir string, key protocol.Key, groupName string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return Run(ctx, Config{Dir: dir, Trackers: []string{k.addr}, Key: key, Group: groupName, Log: testLog(t)})
	}
	dir := n[0].cfg.Dir
	if err := run(dir, k.key, ""); tnv.KindOf(err) != tnv.KindBusy {
		t.Errorf("a directory in use: %v", err)
	}
	n[0].stop()
	if err := run(dir, protocol.NewKey(), ""); tnv.KindOf(err) != tnv.KindWrongCluster {
		t.Errorf("another cluster's directory: %v", err)
	}
	theirs := newFakeTracker(t, protocol.NewKey()) // it would take the store in
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := Run(ctx, Config{Dir: dir, Trackers: []string{theirs.addr}, Key: theirs.key, Log: testLog(t)})
	if tnv.KindOf(err) != tnv.KindWrongCluster {
		t.Errorf("another cluster's directory, with that cluster's tracker: %v", err)
	}
	if err := run(dir, k.key, "g2"); tnv.KindOf(err) != tnv.KindConflict {
		t.Errorf("another group's directory: %v", err)
	}
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "letter.txt"), []byte("dear"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(foreign, k.key, ""); tnv.KindOf(err) != tnv.KindNotExist {
		t.Errorf("a directory of something else: %v", err)
	}
	if l, _ := os.ReadDir(foreign); len(l) > 2 {
		t.Errorf("something was made in a directory of something else: %v", l)
	}
	file := filepath.Join(foreign, "letter.txt")
	if err := run(file, k.key, ""); err == nil {
		t.Error("a file was taken for a directory")
	}
	super := filepath.Join(dir, "superblock")
	b, err := os.ReadFile(super)
	if err != nil {
		t.Fatal(err)
	}
	b[20] ^= 1
	if err := os.WriteFile(super, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(dir, k.key, ""); tnv.KindOf(err) != tnv.KindCorrupt {
		t.Errorf("a damaged superblock: %v", err)
	}
	half := filepath.Join(t.TempDir(), "half") // killed while it was made
	if err := os.MkdirAll(half, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"LOCK", "deletes", "superblock.tmp"} {
		if err := os.WriteFile(filepath.Join(half, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	startNode(t, k, half, quiet)
}

func TestAddressInUse(t *testing.T) {
	k, n := group(t, 1, quiet)
	err := Run(context.Background(), Config{Dir: filepath.Join(t.TempDir(), "s"), Listen: n[0].addr, Trackers: []string{k.addr}, Key: k.key, Log: testLog(t)})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("an address in use: %v", err)
	}
}
