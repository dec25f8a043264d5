package trackerd

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

// running is a tracker that a test runs.
type running struct {
	t    testing.TB
	cfg  Config
	addr string
	stop func() error
}

func run(t testing.TB, cfg Config) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan string, 1)
	done := make(chan error, 1)
	cfg.Listen, cfg.Log, cfg.Memory = "127.0.0.1:0", quiet(), 64<<20
	cfg.NoCopies = true // its stores are no real ones
	cfg.Ready = func(addr string) { ready <- addr }
	go func() { done <- Run(ctx, cfg) }()
	r := &running{t: t, cfg: cfg}
	r.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			return context.DeadlineExceeded
		}
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("the tracker did not stop cleanly: %v", err)
		}
	})
	select {
	case r.addr = <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("the tracker does not start: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("the tracker does not get ready")
	}
	return r
}

// again stops the tracker and runs it on the same directory.
func (r *running) again() *running {
	r.t.Helper()
	if err := r.stop(); err != nil {
		r.t.Fatalf("stop: %v", err)
	}
	return run(r.t, r.cfg)
}

// asker is a connection to the tracker.
type asker struct {
	t testing.TB
	c *protocol.Client
}

func (r *running) dial(role protocol.Role) *asker {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := protocol.DialClient(ctx, &protocol.Endpoint{Key: r.cfg.Key, Role: role}, r.addr, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return &asker{r.t, c}
}

func (a *asker) call(t protocol.Type, rep any, values ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return a.c.Call(ctx, t, rep, values...)
}

func (a *asker) must(t protocol.Type, rep any, values ...any) {
	a.t.Helper()
	if err := a.call(t, rep, values...); err != nil {
		a.t.Fatal(err)
	}
}

func kindIs(t testing.TB, err error, want tnv.Kind) {
	t.Helper()
	if err == nil || tnv.KindOf(err) != want {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func eventually(t testing.TB, what string, fn func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if fn() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// store is a storage daemon as the tracker sees it: it announces itself, sends
// heartbeats, and notes what it is told to sync and delete.
type store struct {
	*asker
	node tnv.Node

	mu     sync.Mutex
	orders []string // "sync" and "delete", in the order in which they came
	gone   []tnv.BlockID
	refuse error // what sync and delete answer
	holds  map[tnv.BlockID]tnv.Home
	copies map[tnv.BlockID]tnv.Home // pieces of copies of the metadata
	stop   func()
	listed func() // called once, before a list is answered
}

// newStore listens for the tracker's orders.
func (r *running) newStore(id tnv.NodeID, host string) *store {
	r.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	s := &store{asker: r.dial(protocol.RoleStore), stop: func() {},
		node: tnv.Node{ID: id, Boot: 1, Addr: ln.Addr().String(), Host: host}}
	srv := &protocol.Server{Endpoint: &protocol.Endpoint{Key: r.cfg.Key, Role: protocol.RoleStore}, Log: quiet(), Handle: s.handle}
	served := make(chan struct{})
	go func() { defer close(served); srv.Serve(ln) }()
	r.t.Cleanup(func() { s.stop(); srv.Close(); <-served })
	return s
}

func (s *store) handle(_ context.Context, _ *protocol.Peer, f *protocol.Frame) ([]any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return nil, s.refuse
	}
	switch f.Type {
	case protocol.TypeSync:
		s.orders = append(s.orders, "sync")
		return []any{s.syncLocked(f)}, nil
	case protocol.TypeDelete:
		var rq protocol.Delete
		if err := f.Decode(&rq); err != nil {
			return nil, err
		}
		if rq.Node != s.node.ID {
			return nil, tnv.E("delete", tnv.KindConflict, "another store")
		}
		s.orders = append(s.orders, "delete")
		s.gone = append(s.gone, rq.Blocks...)
		for _, b := range rq.Blocks {
			delete(s.holds, b)
		}
		return []any{&protocol.DeleteReply{}}, nil
	case protocol.TypeList:
		if s.listed != nil {
			s.listed()
			s.listed = nil
		}
		var rq protocol.List
		err := f.Decode(&rq)
		return []any{s.listLocked(&rq)}, err
	}
	return nil, tnv.E("store", tnv.KindProtocol, "type %d", f.Type)
}

func (s *store) refuses(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = err
}

func (s *store) told() (orders []string, gone []tnv.BlockID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.orders), slices.Clone(s.gone)
}

func (s *store) announce(group string, sameHost bool) (protocol.AnnounceReply, error) {
	var rep protocol.AnnounceReply
	err := s.call(protocol.TypeAnnounce, &rep, &protocol.Announce{Node: s.node, Group: group, SameHost: sameHost})
	if err == nil {
		s.node.Group = rep.Group
	}
	return rep, err
}

func (s *store) beat(behind uint64) error {
	return s.call(protocol.TypeNodeBeat, nil, &protocol.NodeBeat{Node: s.node.ID, Boot: s.node.Boot, State: tnv.NodeAlive,
		Used: 10, Capacity: 100, BehindBlocks: behind})
}

// live announces the store and sends heartbeats until stop is called.
func (s *store) live(group string) {
	s.t.Helper()
	if _, err := s.announce(group, true); err != nil {
		s.t.Fatal(err)
	}
	end, ended := make(chan struct{}), make(chan struct{})
	s.stop = sync.OnceFunc(func() { close(end); <-ended })
	go func() {
		defer close(ended)
		for {
			s.beat(0)
			select {
			case <-end:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
}

func (a *asker) group(t testing.TB, name string) protocol.GroupStatus {
	t.Helper()
	var st protocol.Status
	a.must(protocol.TypeStatus, &st, &protocol.StatusRequest{})
	for _, g := range st.Groups {
		if g.Name == name {
			return g
		}
	}
	t.Fatalf("no group %s in %+v", name, st)
	return protocol.GroupStatus{}
}

// session is a client's session with the volume media.
type session struct {
	*asker
	info protocol.SessionInfo
	seq  uint64
}

func (r *running) session(rq protocol.OpenSession) *session {
	r.t.Helper()
	s := &session{asker: r.dial(protocol.RoleClient)}
	rq.Volume = "media"
	s.must(protocol.TypeOpenSession, &s.info, &rq)
	return s
}

func (s *session) head(slot uint32, seq uint64) *protocol.Head {
	return &protocol.Head{Vol: s.info.Vol, Session: s.info.Session, Slot: slot, Seq: seq}
}

func (s *session) change(t protocol.Type, rep any, rq any) {
	s.t.Helper()
	s.seq++
	s.must(t, rep, s.head(0, s.seq), rq)
}

// write makes a file anew with one block in it, held by some stores.
func (s *session) write(ino tnv.Ino, group tnv.GroupID, holders ...*store) tnv.BlockID {
	s.t.Helper()
	var g protocol.GrantReply
	s.change(protocol.TypeGrant, &g, &protocol.Grant{Count: 1})
	by := protocol.BlockHolders{Block: g.First}
	for _, h := range holders {
		by.Holders = append(by.Holders, tnv.Holder{Node: h.node.ID, Boot: h.node.Boot})
	}
	s.change(protocol.TypeCommit, nil, &protocol.Commit{Ino: ino, Size: 4096, Holders: []protocol.BlockHolders{by},
		Chunks: []protocol.ChunkExtents{{Extents: []tnv.Extent{{Len: 4096, Block: g.First, BlockLen: 4096, Group: group}}}}})
	return g.First
}

// Storage daemons come, beat, fall silent and come back; map and status follow.
func TestMembers(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	tool := r.dial(protocol.RoleTool)
	a, b := r.newStore(11, "h1"), r.newStore(12, "h2")
	kindIs(t, a.beat(0), tnv.KindNotExist)
	a.live("g1")
	b.live("g1")
	eventually(t, "whole", func() bool { return tool.group(t, "g1").State == "whole" })
	var m protocol.GetMapReply
	tool.must(protocol.TypeGetMap, &m, &protocol.GetMap{})
	if len(m.Map.Groups) != 1 || len(m.Map.Groups[0].Nodes) != 2 || m.Map.Node(11).Addr != a.node.Addr {
		t.Fatalf("map: %+v", m.Map)
	}
	eventually(t, "a map that stands still", func() bool {
		was := m.Map
		m = protocol.GetMapReply{}
		tool.must(protocol.TypeGetMap, &m, &protocol.GetMap{Epoch: was.Epoch, IfVersion: was.Version})
		return m.Map == nil
	})
	b.stop()
	eventually(t, "b is lost", func() bool {
		g := tool.group(t, "g1")
		return g.State == "degraded" && g.Nodes[1].Node.State == tnv.NodeLost && g.Nodes[0].Node.State == tnv.NodeAlive
	})
	a.stop()
	eventually(t, "down", func() bool { return tool.group(t, "g1").State == "down" })
	b.live("g1")
	a.live("g1")
	eventually(t, "whole again", func() bool { return tool.group(t, "g1").State == "whole" })
	b.stop()
	if err := b.beat(5); err != nil {
		t.Fatal(err)
	}
	if g := tool.group(t, "g1"); g.State != "degraded" || g.BehindBlocks != 5 || g.Nodes[0].BehindBlocks != 0 {
		t.Fatalf("one that lacks blocks: %+v", g)
	}
	kindIs(t, tool.call(protocol.TypeNodeBeat, nil, &protocol.NodeBeat{Node: 11, Boot: 1}), tnv.KindNotPermitted)
	kindIs(t, tool.call(0x3f, nil), tnv.KindNotPermitted)
	kindIs(t, a.call(0x3f, nil), tnv.KindProtocol)
}

// D8: who is not taken in, also by the next tracker on the directory.
func TestRefusedStores(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	setup := r.newStore(11, "h1")
	setup.node.Boot = 5
	if _, err := setup.announce("g1", false); err != nil {
		t.Fatal(err)
	}
	addr := setup.node.Addr
	for round := range 2 {
		a := r.newStore(11, "h1")
		for _, c := range []struct {
			what string
			node tnv.Node
			in   string
		}{
			{"a boot counter that went back", tnv.Node{ID: 11, Boot: 4, Addr: addr, Host: "h1"}, "g1"},
			{"two daemons in one boot", tnv.Node{ID: 11, Boot: 5, Addr: a.node.Addr, Host: "h1"}, "g1"},
			{"another group", tnv.Node{ID: 11, Boot: 6, Addr: addr, Host: "h1"}, "g2"},
			{"the same host", tnv.Node{ID: 12, Boot: 1, Addr: a.node.Addr, Host: "h1"}, "g1"},
		} {
			a.node = c.node
			if _, err := a.announce(c.in, false); tnv.KindOf(err) != tnv.KindConflict {
				t.Errorf("round %d: %s: %v", round, c.what, err)
			}
		}
		for _, n := range []tnv.Node{{Boot: 1, Addr: "x"}, {ID: 13, Addr: "x"}, {ID: 13, Boot: 1}} {
			a.node = n
			_, err := a.announce("g1", true)
			kindIs(t, err, tnv.KindInvalid)
		}
		if round == 0 {
			r = r.again()
		}
	}
	again := r.newStore(11, "h1")
	again.node.Boot, again.node.Addr = 5, addr
	if _, err := again.announce("g1", false); err != nil {
		t.Fatalf("the daemon itself, to the next tracker: %v", err)
	}
	next := r.newStore(11, "h1")
	next.node.Boot = 6
	if _, err := next.announce("g1", false); err != nil {
		t.Fatalf("its next boot: %v", err)
	}
	kindIs(t, again.beat(0), tnv.KindNotExist)
	same := r.newStore(12, "h1")
	if _, err := same.announce("g1", true); err != nil {
		t.Fatalf("the same host, allowed: %v", err)
	}
}

// An empty store at the address of a member takes its place, whatever was to be
// deleted or copied there is forgotten, also by the next tracker; one that is not
// empty, or is elsewhere, does not.
func TestEmptiedStoreTakesItsPlace(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	a, b := r.newStore(11, "h1"), r.newStore(12, "h2")
	a.live("g1")
	b.live("g1")
	b.stop()
	tool := r.dial(protocol.RoleTool)
	eventually(t, "b is lost", func() bool { return tool.group(t, "g1").State == "degraded" })
	s := r.session(protocol.OpenSession{})
	var made protocol.CreateReply
	s.change(protocol.TypeCreate, &made, &protocol.Create{Parent: tnv.RootIno, Name: "f"})
	s.write(made.Attr.Ino, a.node.Group, a) // b lacks it,
	s.write(made.Attr.Ino, a.node.Group, a) // is to delete it, and lacks the next
	addr := b.node.Addr
	for _, c := range []struct {
		what string
		node tnv.Node
		new  bool
	}{
		{"not empty", tnv.Node{ID: 13, Boot: 1, Addr: addr, Host: "h2"}, false},
		{"elsewhere", tnv.Node{ID: 13, Boot: 1, Addr: "127.0.0.1:1", Host: "h2"}, true},
	} {
		err := b.call(protocol.TypeAnnounce, nil, &protocol.Announce{Node: c.node, Group: "g1", New: c.new})
		if tnv.KindOf(err) != tnv.KindConflict {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	empty := tnv.Node{ID: 13, Boot: 1, Addr: addr, Host: "h2"}
	b.must(protocol.TypeAnnounce, nil, &protocol.Announce{Node: empty, Group: "g1", New: true})
	if g := tool.group(t, "g1"); len(g.Nodes) != 2 || g.State != "degraded" {
		t.Fatalf("before it has compared itself: %+v", g)
	}
	var st protocol.Status
	eventually(t, "what was said of the old one is forgotten", func() bool {
		st = protocol.Status{}
		tool.must(protocol.TypeStatus, &st, &protocol.StatusRequest{})
		return st.Volumes[0].PendingDeletions == 0
	})
	a.stop()
	r = r.again()
	tool = r.dial(protocol.RoleTool)
	if g := tool.group(t, "g1"); len(g.Nodes) != 2 || g.Nodes[0].Node.ID != 11 || g.Nodes[1].Node.ID != 13 || g.BehindBlocks != 0 {
		t.Fatalf("by the next tracker: %+v", g)
	}
}

// From a commit that a member missed, over its copy, to the deletion of the
// block: whose order leaves only when what replaces it is on disk (D2).
func TestBlockLife(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	a, b := r.newStore(11, "h1"), r.newStore(12, "h2")
	a.live("g1")
	b.live("g1")
	b.stop()
	tool := r.dial(protocol.RoleTool)
	eventually(t, "b is lost", func() bool { return tool.group(t, "g1").State == "degraded" })
	s := r.session(protocol.OpenSession{})
	var made protocol.CreateReply
	s.change(protocol.TypeCreate, &made, &protocol.Create{Parent: tnv.RootIno, Name: "f"})
	ino := made.Attr.Ino
	old := s.write(ino, a.node.Group, a)
	b.live("g1")

	var lack protocol.LackingReply
	b.must(protocol.TypeLacking, &lack, &protocol.Lacking{Node: 12, Vol: s.info.Vol, Limit: 10})
	if len(lack.Blocks) != 1 || lack.Blocks[0] != (protocol.BlockHome{Block: old, Home: tnv.Home{Ino: ino}}) || lack.More {
		t.Fatalf("lacking: %+v", lack)
	}
	if g := tool.group(t, "g1"); g.State != "degraded" || g.BehindBlocks != 1 || g.BehindBytes != 4096 {
		t.Fatalf("a member lacks a block: %+v", g)
	}
	kindIs(t, b.call(protocol.TypeHeld, nil, &protocol.Held{Node: 12, Boot: 9, Vol: s.info.Vol, Blocks: []tnv.BlockID{old}}), tnv.KindNotExist)
	kindIs(t, b.call(protocol.TypeHeld, nil, &protocol.Held{Node: 12, Boot: 1, Vol: 77, Blocks: []tnv.BlockID{old}}), tnv.KindNotOwner)
	b.must(protocol.TypeHeld, nil, &protocol.Held{Node: 12, Boot: 1, Vol: s.info.Vol, Blocks: []tnv.BlockID{old}})
	if g := tool.group(t, "g1"); g.State != "whole" {
		t.Fatalf("nothing is lacking any more: %+v", g)
	}
	if o, _ := a.told(); len(o) > 0 {
		t.Fatalf("orders before anything was freed: %v", o)
	}

	b.refuses(tnv.E("sync", tnv.KindOther, "the disk is slow"))
	fresh := s.write(ino, a.node.Group, a, b)
	ask := protocol.Alive{Vol: s.info.Vol, Blocks: []protocol.BlockHome{
		{Block: old, Home: tnv.Home{Ino: ino}}, {Block: fresh, Home: tnv.Home{Ino: ino}}, {Block: fresh + 1, Home: tnv.Home{Ino: ino}}, {Block: 1 << 50}}}
	var alive protocol.AliveReply
	b.must(protocol.TypeAlive, &alive, &ask)
	if want := []protocol.Liveness{protocol.DeadBlock, protocol.LiveBlock, protocol.LiveBlock, protocol.LiveBlock}; !slices.Equal(alive.State, want) {
		t.Fatalf("alive: %v, want %v", alive.State, want)
	}
	time.Sleep(3 * sweepEvery)
	time.Sleep(deleteEvery)
	if o, _ := a.told(); slices.Contains(o, "delete") {
		t.Fatalf("a block was deleted while a live store has not synced what replaces it: %v", o)
	}
	b.refuses(nil)
	for _, st := range []*store{a, b} {
		eventually(t, "the block is deleted everywhere", func() bool { _, gone := st.told(); return len(gone) > 0 })
		if o, gone := st.told(); !slices.Equal(gone, []tnv.BlockID{old}) || o[0] != "sync" {
			t.Fatalf("store %v was told %v of %v", st.node.ID, o, gone)
		}
	}
	eventually(t, "no deletion is pending", func() bool {
		var st protocol.Status
		tool.must(protocol.TypeStatus, &st, &protocol.StatusRequest{})
		return st.Volumes[0].PendingDeletions == 0 && st.Volumes[0].Files == 2 && st.Volumes[0].Bytes == 4096
	})
}

// The next tracker on the directory goes on with sessions, slots, members and
// deletions where the last one stopped.
func TestRestart(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	a := r.newStore(11, "h1")
	a.live("g1")
	s := r.session(protocol.OpenSession{Identity: "me"})
	var first, second protocol.CreateReply
	rq := &protocol.Create{Parent: tnv.RootIno, Name: "f", Excl: true}
	s.must(protocol.TypeCreate, &first, s.head(7, 1), rq)
	s.seq = 0
	block := s.write(first.Attr.Ino, a.node.Group, a)
	a.refuses(tnv.E("delete", tnv.KindOther, "not now"))
	s.change(protocol.TypeUnlink, nil, &protocol.Unlink{Parent: tnv.RootIno, Name: "f"})
	var old protocol.KeepAliveReply
	s.must(protocol.TypeKeepAlive, &old, &protocol.KeepAlive{Vol: s.info.Vol, Session: s.info.Session})
	a.stop()

	r = r.again()
	was := s.info
	s2 := r.session(protocol.OpenSession{Resume: was.Session, Identity: "me"})
	if !s2.info.Resumed || s2.info.Session != was.Session || s2.info.Epoch <= was.Epoch || s2.info.Vol != was.Vol {
		t.Fatalf("resumed as %+v, was %+v", s2.info, was)
	}
	s2.must(protocol.TypeCreate, &second, s2.head(7, 1), rq)
	if first != second {
		t.Fatalf("a repeated request got %+v, first %+v", second, first)
	}
	var ka protocol.KeepAliveReply
	s2.must(protocol.TypeKeepAlive, &ka, &protocol.KeepAlive{Vol: was.Vol, Session: was.Session, MapVersion: old.Map.Version})
	if ka.Map == nil || ka.Map.Version <= old.Map.Version || len(ka.Unlinked) != 1 || ka.Unlinked[0] != first.Attr.Ino {
		t.Fatalf("keep-alive at the next tracker: %+v; the map was %+v", ka, old.Map)
	}
	if n := ka.Map.Node(11); n == nil || n.State != tnv.NodeLost || n.Boot != 1 {
		t.Fatalf("the member that was known: %+v", n)
	}
	b := r.newStore(11, "h1")
	b.node.Boot = 2
	b.live("g1")
	s2.must(protocol.TypeReleased, nil, s2.head(0, 0), &protocol.Released{Inos: ka.Unlinked})
	eventually(t, "the block is deleted", func() bool { _, gone := b.told(); return slices.Equal(gone, []tnv.BlockID{block}) })
	s3 := r.session(protocol.OpenSession{Identity: "me"}) // a client that was restarted
	if s3.info.Session == was.Session {
		t.Fatal("a session id was used again")
	}
	kindIs(t, s2.call(protocol.TypeGetAttr, nil, s2.head(0, 0), &protocol.GetAttr{Ino: tnv.RootIno}), tnv.KindSessionEnded)
	s3.must(protocol.TypeCloseSession, nil, &protocol.CloseSession{Vol: was.Vol, Session: s3.info.Session})
	kindIs(t, s3.call(protocol.TypeKeepAlive, nil, &protocol.KeepAlive{Vol: was.Vol, Session: s3.info.Session}), tnv.KindSessionEnded)
	kindIs(t, s3.call(protocol.TypeOpenSession, nil, &protocol.OpenSession{Volume: "none"}), tnv.KindNotExist)
	kindIs(t, s3.call(protocol.TypeGetAttr, nil, &protocol.Head{Vol: 99}, &protocol.GetAttr{Ino: 1}), tnv.KindNotOwner)
}

// What a tracker does not start with, and that it leaves the directory as it is.
func TestRefusedConfigs(t *testing.T) {
	key := protocol.NewKey()
	dir := t.TempDir()
	r := run(t, Config{Dir: dir, Key: key})
	try := func(cfg Config) error {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		cfg.Log = quiet()
		cfg.Ready = func(string) { cancel() }
		return Run(ctx, cfg)
	}
	good := Config{Listen: "127.0.0.1:0", Dir: dir, Key: key}
	kindIs(t, try(good), tnv.KindBusy) // in use
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Config){
		"no directory":     func(c *Config) { c.Dir = "" },
		"no address":       func(c *Config) { c.Listen = "" },
		"no key":           func(c *Config) { c.Key = protocol.Key{} },
		"durability":       func(c *Config) { c.Durability = "maybe" },
		"little memory":    func(c *Config) { c.Memory = 1 << 20 },
		"a volume twice":   func(c *Config) { c.Volumes = []string{"a", "b", "a"} },
		"a volume's name":  func(c *Config) { c.Volumes = []string{"a/b"} },
		"address in use":   func(c *Config) { c.Listen = listening(t) },
		"file, not a dir":  func(c *Config) { c.Dir = filepath.Join(dir, "cluster") },
		"another cluster":  func(c *Config) { c.Key = protocol.NewKey() },
		"admin not usable": func(c *Config) { c.Admin = listening(t) },
	} {
		cfg := good
		change(&cfg)
		err := try(cfg)
		if err == nil {
			t.Errorf("%s: the tracker has started", what)
		}
		if what == "another cluster" && tnv.KindOf(err) != tnv.KindWrongCluster {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := try(good); err != nil {
		t.Fatalf("afterwards: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "cluster")); err != nil || string(b) != key.Cluster {
		t.Fatalf("the cluster's id is %q, %v", b, err)
	}
	if l, err := filepath.Glob(filepath.Join(dir, "cluster.*")); err != nil || len(l) > 0 {
		t.Fatalf("left over: %v, %v", l, err)
	}
}

// listening is an address that is in use.
func listening(t testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}

// Many that wait for the stores' sync share rounds, and none is let through by
// a round that began before it came.
func TestSettleShares(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	a := r.newStore(11, "h1")
	a.node.State = tnv.NodeAlive
	tr := &tracker{log: quiet(), members: newMembers(1, []tnv.Group{{ID: 1, Name: "g1"}}, quiet()),
		pool: &protocol.Pool{Endpoint: &protocol.Endpoint{Key: r.cfg.Key, Role: protocol.RoleTracker}}}
	defer tr.pool.Close()
	n := a.node
	n.Group = 1
	tr.members.announced(n, 0, "g1", nil)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := tr.settle(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	shared, _ := a.told()
	if len(shared) == 0 || len(shared) > 25 {
		t.Errorf("%d rounds for 50 that came together", len(shared))
	}
	for i := range 3 {
		if err := tr.settle(context.Background()); err != nil {
			t.Fatal(err)
		}
		if now, _ := a.told(); len(now) != len(shared)+i+1 {
			t.Fatalf("%d rounds after one more wait", len(now))
		}
	}
	a.refuses(tnv.E("sync", tnv.KindOther, "broken"))
	if err := tr.settle(context.Background()); err == nil {
		t.Fatal("a live store that cannot sync was passed over")
	}
	slow := protocol.NodeBeat{Node: n.ID, Boot: n.Boot, State: tnv.NodeSlow, Capacity: 100}
	if err := tr.members.beat(&slow); err != nil {
		t.Fatal(err)
	}
	if err := tr.settle(context.Background()); err == nil {
		t.Fatal("a slow store was passed over where all are slow")
	}
	b := r.newStore(12, "h2")
	other := b.node
	other.Group = 1
	tr.members.announced(other, 0, "g1", nil)
	if err := tr.settle(context.Background()); err != nil {
		t.Fatalf("a slow store is waited for: %v", err)
	}
	if orders, _ := b.told(); len(orders) != 1 {
		t.Fatalf("the other was told %v", orders)
	}
	b.refuses(tnv.E("sync", tnv.KindOther, "broken"))
	tr.members.expire(time.Now().Add(time.Hour))
	if err := tr.settle(context.Background()); err != nil {
		t.Fatalf("a lost store is waited for: %v", err)
	}
}
