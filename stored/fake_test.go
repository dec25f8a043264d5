package stored

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// fakeTracker speaks a tracker's side of the protocol: it keeps a map of those
// that announce themselves, and answers about blocks as a test tells it.
type fakeTracker struct {
	t    testing.TB
	key  protocol.Key
	addr string
	srv  *protocol.Server
	wg   sync.WaitGroup

	mu        sync.Mutex
	m         tnv.Map
	announces []protocol.Announce
	beats     map[tnv.NodeID]protocol.NodeBeat
	left      map[tnv.NodeID]bool
	dead      map[tnv.BlockKey]protocol.Liveness
	lacking   map[tnv.NodeID]map[tnv.BlockKey]tnv.Home
	held      map[tnv.NodeID]map[tnv.BlockKey]bool
	refuse    error    // of announces
	forget    bool     // heartbeats are answered KindNotExist until the next announce
	noHelds   bool     // held is refused
	others    []string // trackers that it tells of
}

func newFakeTracker(t testing.TB, key protocol.Key) *fakeTracker {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &fakeTracker{t: t, key: key, addr: ln.Addr().String(), m: tnv.Map{Epoch: 1},
		beats: map[tnv.NodeID]protocol.NodeBeat{}, left: map[tnv.NodeID]bool{}, dead: map[tnv.BlockKey]protocol.Liveness{},
		lacking: map[tnv.NodeID]map[tnv.BlockKey]tnv.Home{}, held: map[tnv.NodeID]map[tnv.BlockKey]bool{}}
	k.srv = &protocol.Server{Endpoint: &protocol.Endpoint{Key: key, Role: protocol.RoleTracker}, Log: testLog(t), Handle: k.handle}
	k.wg.Go(func() { k.srv.Serve(ln) })
	t.Cleanup(func() {
		k.srv.Close()
		k.wg.Wait()
	})
	return k
}

func (k *fakeTracker) handle(_ context.Context, _ *protocol.Peer, f *protocol.Frame) ([]any, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch f.Type {
	case protocol.TypeAnnounce:
		var req protocol.Announce
		if err := f.Decode(&req); err != nil {
			return nil, err
		}
		return k.announce(req)
	case protocol.TypeNodeBeat:
		var req protocol.NodeBeat
		if err := f.Decode(&req); err != nil {
			return nil, err
		}
		if k.forget {
			return nil, tnv.E("beat", tnv.KindNotExist, "who are you?")
		}
		k.beats[req.Node] = req
		var reply protocol.NodeBeatReply
		if req.State == tnv.NodeLeaving {
			k.left[req.Node] = true
		}
		reply.Lacking = uint64(len(k.lacking[req.Node]))
		if req.MapVersion != k.m.Version || req.MapEpoch != k.m.Epoch {
			reply.Map = k.copyMap()
		}
		return []any{&reply}, nil
	}
	if f.Type == protocol.TypeOwner {
		return []any{&protocol.OwnerReply{Trackers: k.others}}, nil
	}
	return k.blocks(f)
}

// blocks answers what is asked about blocks.
func (k *fakeTracker) blocks(f *protocol.Frame) ([]any, error) {
	switch f.Type {
	case protocol.TypeAlive:
		var req protocol.Alive
		if err := f.Decode(&req); err != nil {
			return nil, err
		}
		var reply protocol.AliveReply
		for _, b := range req.Blocks {
			reply.State = append(reply.State, k.dead[tnv.BlockKey{Vol: req.Vol, ID: b.Block}])
		}
		return []any{&reply}, nil
	case protocol.TypeHeld:
		var req protocol.Held
		if err := f.Decode(&req); err != nil {
			return nil, err
		}
		if k.noHelds {
			return nil, tnv.E("held", tnv.KindUnavailable, "not now")
		}
		if k.held[req.Node] == nil {
			k.held[req.Node] = map[tnv.BlockKey]bool{}
		}
		for _, id := range req.Blocks {
			key := tnv.BlockKey{Vol: req.Vol, ID: id}
			k.held[req.Node][key] = true
			delete(k.lacking[req.Node], key)
		}
		return nil, nil
	case protocol.TypeLacking:
		var req protocol.Lacking
		if err := f.Decode(&req); err != nil {
			return nil, err
		}
		var reply protocol.LackingReply
		for key, home := range k.lacking[req.Node] {
			if key.Vol == req.Vol && key.ID >= req.From {
				reply.Blocks = append(reply.Blocks, protocol.BlockHome{Block: key.ID, Home: home})
			}
		}
		slices.SortFunc(reply.Blocks, func(a, b protocol.BlockHome) int { return compareIDs(a.Block, b.Block) })
		if n := int(req.Limit); len(reply.Blocks) > n {
			reply.Blocks, reply.More = reply.Blocks[:n], true
		}
		return []any{&reply}, nil
	}
	return nil, tnv.E("fake tracker", tnv.KindNotSupported, "type %d", f.Type)
}

func (k *fakeTracker) announce(req protocol.Announce) ([]any, error) {
	if k.refuse != nil {
		return nil, k.refuse
	}
	k.forget = false
	k.announces = append(k.announces, req)
	i := slices.IndexFunc(k.m.Groups, func(g tnv.Group) bool { return g.Name == req.Group })
	if i < 0 {
		i = len(k.m.Groups)
		k.m.Groups = append(k.m.Groups, tnv.Group{ID: tnv.GroupID(i + 1), Name: req.Group})
	}
	g := &k.m.Groups[i]
	req.Node.Group, req.Node.State = g.ID, tnv.NodeAlive
	g.Nodes = slices.DeleteFunc(g.Nodes, func(n tnv.Node) bool { return n.ID == req.Node.ID })
	g.Nodes = append(g.Nodes, req.Node)
	k.m.Version++
	return []any{&protocol.AnnounceReply{Group: g.ID, Map: *k.copyMap(), BeatMs: 20}}, nil
}

func (k *fakeTracker) copyMap() *tnv.Map {
	m := k.m
	m.Groups = slices.Clone(m.Groups)
	for i := range m.Groups {
		m.Groups[i].Nodes = slices.Clone(m.Groups[i].Nodes)
	}
	return &m
}

// lose shows a store as lost, as a tracker does without heartbeats.
func (k *fakeTracker) lose(id tnv.NodeID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.m.Version++
	k.m.Node(id).State = tnv.NodeLost
}

func (k *fakeTracker) do(fn func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fn()
}

func testLog(t testing.TB) *logrus.Entry {
	l := logrus.New()
	l.SetOutput(testWriter{t})
	if os.Getenv("TNV_TEST_DEBUG") != "" {
		l.SetLevel(logrus.DebugLevel)
	}
	return logrus.NewEntry(l)
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

// node is a storage daemon that a test runs.
type node struct {
	t      testing.TB
	cfg    Config
	addr   string
	d      *daemon
	fail   *failing // the store that d uses
	cancel context.CancelFunc
	done   chan error
}

// startNode runs a storage daemon on dir and returns once it serves.
func startNode(t testing.TB, k *fakeTracker, dir string, change ...func(*Config)) *node {
	t.Helper()
	return startNodeWith(t, k, dir, trouble{}, change...)
}

// startNodeWith is startNode with a disk that makes trouble from the start.
func startNodeWith(t testing.TB, k *fakeTracker, dir string, how trouble, change ...func(*Config)) *node {
	t.Helper()
	cfg := Config{Dir: dir, Trackers: []string{k.addr}, Key: k.key, Host: "test", AllowSameHost: true,
		ConvergeEvery: 200 * time.Millisecond, ConvergeGrace: 20 * time.Millisecond, Log: testLog(t)}
	for _, c := range change {
		c(&cfg)
	}
	n := &node{t: t, done: make(chan error, 1)}
	ready := make(chan string, 1)
	cfg.Ready = func(addr string) { ready <- addr }
	n.cfg = cfg
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() {
		n.done <- runWith(ctx, cfg, func(d *daemon) {
			n.fail = &failing{store: d.store, how: how}
			d.store = n.fail
			n.d = d
		})
	}()
	select {
	case n.addr = <-ready:
	case err := <-n.done:
		cancel()
		t.Fatalf("storage daemon ended: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("storage daemon does not get ready")
	}
	t.Cleanup(n.stop)
	eventually(t, "announced", func() bool { return len(n.d.trackers.connected()) > 0 })
	return n
}

func (n *node) stop() {
	n.cancel()
	select {
	case err := <-n.done:
		if err != nil {
			n.t.Errorf("storage daemon ended with %v", err)
		}
		n.done <- nil
	case <-time.After(20 * time.Second):
		n.t.Error("storage daemon does not stop")
	}
}

func (n *node) link() protocol.ChainLink { return protocol.ChainLink{Node: n.d.node, Addr: n.addr} }

func (n *node) has(key tnv.BlockKey) bool { return n.d.store.Has(key) }

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}

// asker speaks to daemons as a client (or another role) does.
type asker struct {
	t    testing.TB
	pool *protocol.Pool
}

func newAsker(t testing.TB, key protocol.Key, role protocol.Role) *asker {
	a := &asker{t: t, pool: &protocol.Pool{Endpoint: &protocol.Endpoint{Key: key, Role: role}}}
	t.Cleanup(func() { a.pool.Close() })
	return a
}

func block(id int, n int) (protocol.BlockMeta, []byte) {
	data := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(id), byte(id >> 8)})
	rng.Read(data)
	return metaOf(id, data), data
}

func metaOf(id int, data []byte) protocol.BlockMeta {
	key := tnv.BlockKey{Vol: 1, ID: tnv.BlockID(id)}
	unit := protocol.UnitFor(len(data))
	return protocol.BlockMeta{Key: key, Home: tnv.Home{Ino: 7, Chunk: uint64(id)}, Len: uint32(len(data)), Unit: unit,
		Sums: protocol.BlockSums(key, unit, data)}
}

func bkey(id int) tnv.BlockKey { return tnv.BlockKey{Vol: 1, ID: tnv.BlockID(id)} }

func (a *asker) putRaw(addr string, req *protocol.Put, data []byte) (protocol.PutReply, error) {
	var reply protocol.PutReply
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := a.pool.Do(ctx, addr, func(w *protocol.Wire) (bool, error) {
		if err := w.WriteFrame(protocol.TypePut, 0, 0, []any{req}, data); err != nil {
			return false, err
		}
		f, err := w.ReadFrame()
		if err != nil {
			return false, err
		}
		if f.Flags&protocol.FlagPush != 0 {
			return false, fmt.Errorf("a push came where a reply was due")
		}
		return true, f.Decode(&reply)
	})
	return reply, err
}

// put stores block id of n bytes at the first node, with the rest as chain.
func (a *asker) put(id, n int, sync bool, first *node, rest ...protocol.ChainLink) ([]tnv.NodeID, error) {
	meta, data := block(id, n)
	reply, err := a.putRaw(first.addr, &protocol.Put{Block: meta, Sync: sync, Chain: rest}, data)
	var ids []tnv.NodeID
	for _, h := range reply.Holders {
		if h.Boot == 0 {
			a.t.Errorf("holder %v without a boot id", h.Node)
		}
		ids = append(ids, h.Node)
	}
	return ids, err
}

func (a *asker) mustPut(id, n int, sync bool, first *node, rest ...protocol.ChainLink) {
	a.t.Helper()
	ids, err := a.put(id, n, sync, first, rest...)
	if err != nil || len(ids) != 1+len(rest) {
		a.t.Fatalf("put %d: holders %v, %v", id, ids, err)
	}
}

func (a *asker) get(addr string, req protocol.Get) (protocol.GetReply, []byte, error) {
	var reply protocol.GetReply
	var data []byte
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := a.pool.Do(ctx, addr, func(w *protocol.Wire) (bool, error) {
		if err := w.WriteFrame(protocol.TypeGet, 0, 0, []any{&req}); err != nil {
			return false, err
		}
		f, err := w.ReadFrame()
		if err != nil {
			return false, err
		}
		if err := f.Decode(&reply); err != nil {
			return true, err
		}
		data = make([]byte, w.PayloadLeft())
		return true, w.ReadPayload(data)
	})
	return reply, data, err
}

func (a *asker) call(addr string, typ protocol.Type, rep any, req any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return a.pool.Call(ctx, addr, typ, rep, req)
}

// holds tells whether a node gives block id of n bytes, right.
func (a *asker) holds(n *node, id, size int) error {
	want, data := block(id, size)
	reply, got, err := a.get(n.addr, protocol.Get{Key: want.Key, Meta: true})
	if err != nil {
		return err
	}
	if reply.Block.Home != want.Home || reply.Block.Len != want.Len {
		return fmt.Errorf("block %d: header %+v", id, reply.Block)
	}
	if bad := protocol.Verify(want.Key, reply.Block.Unit, 0, got, reply.Block.Sums); bad >= 0 {
		return tnv.E("verify", tnv.KindCorrupt, "unit %d", bad)
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("block %d: other bytes", id)
	}
	return nil
}
