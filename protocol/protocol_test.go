package protocol

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
)

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

// serve runs a server on loopback and returns its address.
func serve(t testing.TB, s *Server) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Log = quiet()
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	t.Cleanup(func() { s.Close(); <-done })
	return ln.Addr().String()
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestHandshakeRefusals(t *testing.T) {
	key := NewKey()
	other := NewKey()
	stolen := Key{Cluster: key.Cluster, Secret: other.Secret} // knows the cluster's name only
	addr := serve(t, &Server{Endpoint: &Endpoint{Key: key, Role: RoleTracker},
		Handle: func(context.Context, *Peer, *Frame) ([]any, error) { return nil, nil }})
	for _, c := range []struct {
		name string
		e    Endpoint
		want tnv.Kind
	}{
		{"another cluster", Endpoint{Key: other, Role: RoleClient}, tnv.KindWrongCluster},
		{"wrong secret", Endpoint{Key: stolen, Role: RoleClient}, tnv.KindAuth},
		{"newer version", Endpoint{Key: key, Role: RoleClient, Versions: []uint16{Version + 1}}, tnv.KindVersion},
	} {
		if _, _, err := Dial(within(t), &c.e, addr); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	// An asker that does not check the answerer would be refused all the same:
	// its own proof is wrong.
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := NewWire(c)
	w.SetDeadline(time.Now().Add(5 * time.Second))
	w.WriteFrame(TypeHello, 0, 0, []any{&Hello{Versions: []uint16{Version}, Cluster: key.Cluster, Role: RoleClient, Nonce: make([]byte, 32)}})
	if _, err := w.ReadFrame(); err != nil {
		t.Fatal(err)
	}
	w.WriteFrame(TypeProof, 0, 0, []any{&Proof{MAC: make([]byte, 32)}})
	f, err := w.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Decode(); !errors.Is(err, tnv.KindAuth) {
		t.Fatalf("a wrong proof: %v", err)
	}
	ok := Endpoint{Key: key, Role: RoleClient, Versions: []uint16{Version + 1, Version}}
	w2, role, err := Dial(within(t), &ok, addr)
	if err != nil || role != RoleTracker {
		t.Fatalf("a newer client that speaks the old version, too: %v, %v", role, err)
	}
	w2.Close()
}

// A silent or babbling peer costs a bounded time and no memory.
func TestHostileBytes(t *testing.T) {
	addr := serve(t, &Server{Endpoint: &Endpoint{Key: NewKey(), Role: RoleTracker},
		Handle: func(context.Context, *Peer, *Frame) ([]any, error) { return nil, nil }})
	huge := make([]byte, headerSize)
	binary.BigEndian.PutUint16(huge, magic)
	binary.BigEndian.PutUint32(huge[12:], 1<<31)
	for _, b := range [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n........................"), huge, bytes.Repeat([]byte{0xff}, 4096)} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(3 * time.Second))
		c.Write(b)
		if _, err := io.Copy(io.Discard, c); errors.Is(err, context.DeadlineExceeded) {
			t.Error("the connection stays open")
		} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Error("the connection stays open")
		}
		c.Close()
	}
}

func TestMultiplexing(t *testing.T) {
	key := NewKey()
	release := make(chan struct{})
	addr := serve(t, &Server{Endpoint: &Endpoint{Key: key, Role: RoleTracker}, Handle: func(_ context.Context, p *Peer, f *Frame) ([]any, error) {
		var rq Lookup
		if err := f.Decode(&rq); err != nil {
			return nil, err
		}
		switch rq.Name {
		case "slow":
			<-release
		case "panic":
			panic("on purpose")
		case "push":
			p.Push(TypeGetMap, &GetMap{IfVersion: 5})
		case "missing":
			return nil, tnv.E("lookup", tnv.KindNotExist, "%q", rq.Name)
		}
		return []any{&ReadLinkReply{Target: rq.Name}}, nil
	}})
	pushed := make(chan uint64, 1)
	c, err := DialClient(within(t), &Endpoint{Key: key, Role: RoleClient}, addr, func(f *Frame) {
		var m GetMap
		if f.Decode(&m) == nil {
			pushed <- m.IfVersion
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	call := func(name string) (string, error) {
		var rep ReadLinkReply
		err := c.Call(within(t), TypeLookup, &rep, &Lookup{Name: name})
		return rep.Target, err
	}
	slow := make(chan error, 1)
	go func() { _, err := call("slow"); slow <- err }()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			name := string(rune('a' + i%26))
			if got, err := call(name); err != nil || got != name {
				t.Errorf("asked %q, got %q, %v", name, got, err)
			}
		}()
	}
	wg.Wait()
	if _, err := call("missing"); !errors.Is(err, tnv.KindNotExist) {
		t.Errorf("error over the wire: %v", err)
	}
	if _, err := call("panic"); err == nil || errors.Is(err, tnv.KindUnavailable) {
		t.Errorf("a panic: %v", err)
	}
	if _, err := call("push"); err != nil || <-pushed != 5 {
		t.Errorf("push: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Call(ctx, TypeLookup, nil, &Lookup{Name: "slow"}); !errors.Is(err, tnv.KindCanceled) {
		t.Errorf("cancelled call: %v", err)
	}
	close(release)
	if err := <-slow; err != nil {
		t.Errorf("the slow one: %v", err)
	}
	c.Close()
	if _, err := call("a"); !errors.Is(err, tnv.KindUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}

// A pooled connection to a daemon that was restarted is replaced unseen; the
// end of a context ends a call that hangs.
func TestPool(t *testing.T) {
	key := NewKey()
	var served atomic.Int32
	block := func(_ context.Context, p *Peer, f *Frame) error {
		served.Add(1)
		var rq Get
		if err := f.Decode(&rq); err != nil {
			return err
		}
		if rq.Len == 99 {
			time.Sleep(time.Minute)
		}
		return p.Wire().WriteReply(f, nil, []any{&GetReply{Off: rq.Off}}, make([]byte, rq.Len))
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	s := &Server{Endpoint: &Endpoint{Key: key, Role: RoleStore}, Block: block, Log: quiet()}
	go s.Serve(ln)
	pool := &Pool{Endpoint: &Endpoint{Key: key, Role: RoleClient}}
	defer pool.Close()
	var rep GetReply
	if err := pool.Call(within(t), addr, TypeGet, &rep, &Get{Off: 7, Len: 5000}); err != nil || rep.Off != 7 {
		t.Fatalf("%+v, %v", rep, err)
	}
	s.Close()
	if ln, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	s = &Server{Endpoint: s.Endpoint, Block: block, Log: quiet()}
	go s.Serve(ln)
	if err := pool.Call(within(t), addr, TypeGet, &rep, &Get{Off: 8}); err != nil || rep.Off != 8 || served.Load() != 2 {
		t.Fatalf("after a restart: %+v, %v, %d served", rep, err, served.Load())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := pool.Call(ctx, addr, TypeGet, &rep, &Get{Len: 99}); !errors.Is(err, tnv.KindTimeout) || time.Since(start) > 2*time.Second {
		t.Fatalf("a frozen daemon: %v after %v", err, time.Since(start))
	}
	ln.Close()
}

func TestBlockSums(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 2000)
	key := tnv.BlockKey{Vol: 1, ID: 2}
	sums := BlockSums(key, MinUnit, data)
	if Verify(key, MinUnit, 0, data, sums) != -1 {
		t.Fatal("right bytes do not verify")
	}
	if Verify(key, MinUnit, 2, data[2*MinUnit:], sums[2:]) != -1 {
		t.Fatal("a part does not verify")
	}
	if Verify(tnv.BlockKey{Vol: 1, ID: 3}, MinUnit, 0, data, sums) != 0 {
		t.Fatal("the bytes verify under another block's name")
	}
	if Verify(key, MinUnit, 1, data[:MinUnit], sums[:1]) == -1 {
		t.Fatal("the bytes verify at another place")
	}
	data[MinUnit] ^= 1
	if bad := Verify(key, MinUnit, 0, data, sums); bad != 1 {
		t.Fatalf("bad unit %d, want 1", bad)
	}
	if Verify(key, MinUnit, 0, data[:100], sums) == -1 {
		t.Fatal("missing bytes verify")
	}
}

// messages is one of each message that a daemon decodes from others.
func messages() []any {
	return []any{new(Hello), new(Proof), new(WireError), new(Head), new(OpenSession), new(SessionInfo), new(KeepAlive), new(KeepAliveReply),
		new(CloseSession), new(Released), new(GetMap), new(GetMapReply), new(Announce), new(AnnounceReply), new(NodeBeat), new(NodeBeatReply),
		new(Alive), new(AliveReply), new(Held), new(Lacking), new(LackingReply), new(Status), new(Lookup), new(AttrReply), new(GetAttr),
		new(ReadDir), new(ReadDirReply), new(ReadLinkReply), new(GetXattr), new(XattrReply), new(ListXattr), new(ListXattrReply),
		new(Extents), new(ExtentsReply), new(Resolve), new(ResolveReply), new(Create), new(CreateReply), new(Mkdir), new(Symlink),
		new(Link), new(Unlink), new(UnlinkReply), new(Rmdir), new(Rename), new(SetAttr), new(SetXattr), new(RemoveXattr), new(Commit),
		new(Grant), new(GrantReply), new(Put), new(PutReply), new(Get), new(GetReply), new(Delete), new(Sync), new(SyncReply),
		new(Digest), new(DigestReply), new(List), new(ListReply), new(Repair), new(Locate), new(LocateReply),
		new(GetLock), new(GetLockReply), new(SetLock), new(SetLockReply), new(LockWait), new(LockWaitReply), new(DropWaits),
		new(Seek), new(SeekReply), new(Fallocate), new(FallocateReply), new(CopyRange), new(CopyRangeReply),
		new(Owner), new(OwnerReply), new(TakeOver), new(Admit), new(AdmitReply), new(Drain), new(Trackers),
		new(MapChanged), new(Scrub), new(ScrubReply),
		new(TakeIDs), new(TakeIDsReply), new(CreateVolume), new(ListVolumes), new(ListVolumesReply), new(DeleteVolume), new(UndeleteVolume),
		new(RenameVolume), new(SetVolume), new(VolumeInfo)}
}

// FuzzDecode: no body can make a decoder panic or allocate beyond its length.
func FuzzDecode(f *testing.F) {
	for i, m := range messages() {
		b, err := Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	f.Add(uint8(0), []byte{0xdd, 0xff, 0xff, 0xff, 0xff})        // an array of 2^32-1
	f.Add(uint8(31), []byte{0x91, 0xc6, 0xff, 0xff, 0xff, 0xff}) // bytes of 2^32-1
	f.Fuzz(func(t *testing.T, i uint8, body []byte) {
		all := messages()
		m := all[int(i)%len(all)]
		if err := Unmarshal(body, m); err == nil {
			if _, err := Marshal(m); err != nil {
				t.Fatalf("%T decodes but does not encode: %v", m, err)
			}
		}
	})
}

// FuzzReadFrame: no bytes can make the frame reader panic or accept a damaged frame.
func FuzzReadFrame(f *testing.F) {
	var good bytes.Buffer
	fr, _ := NewFrame(TypeLookup, &Lookup{Parent: 1, Name: "x"})
	var hb [headerSize]byte
	fr.Header.encode(&hb, fr.body)
	good.Write(hb[:])
	good.Write(fr.body)
	f.Add(good.Bytes())
	f.Add(good.Bytes()[:10])
	f.Fuzz(func(t *testing.T, b []byte) {
		a, c := net.Pipe()
		defer a.Close()
		go func() { c.Write(b); c.Close() }()
		got, err := NewWire(a).ReadFrame()
		if err == nil && int(got.Body) > len(b) {
			t.Fatal("a body longer than what came")
		}
	})
}

func TestDamagedFrame(t *testing.T) {
	fr, _ := NewFrame(TypeLookup, &Lookup{Parent: 1, Name: "some name"})
	var hb [headerSize]byte
	fr.Header.encode(&hb, fr.body)
	whole := append(hb[:], fr.body...)
	read := func(b []byte) error {
		a, c := net.Pipe()
		defer a.Close()
		go func() { c.Write(b); c.Close() }()
		_, err := NewWire(a).ReadFrame()
		return err
	}
	if err := read(whole); err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x10
		if read(bad) == nil {
			t.Errorf("a flipped bit in byte %d goes unnoticed", i)
		}
	}
}
