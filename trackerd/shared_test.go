package trackerd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

// freezer is a tracker's way to a shared engine, which a test can freeze: to the
// tracker that is as if its process, or the network to the database, stood still.
// What it was about to do it does when it thaws, late.
type freezer struct {
	kv.Shared
	mu      sync.Mutex
	thawed  chan struct{} // not nil: frozen until it is closed
	refused int           // calls of Apply that were fenced
	applied int
}

func (f *freezer) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.thawed = make(chan struct{})
}

func (f *freezer) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.thawed != nil {
		close(f.thawed)
		f.thawed = nil
	}
}

func (f *freezer) wait(ctx context.Context) error {
	f.mu.Lock()
	ch := f.thawed
	f.mu.Unlock()
	if ch == nil {
		return nil
	}
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *freezer) Apply(ctx context.Context, fence kv.Fence, bs []kv.Batch) error {
	if err := f.wait(ctx); err != nil {
		return err
	}
	err := f.Shared.Apply(ctx, fence, bs)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case errors.Is(err, kv.ErrFenced):
		f.refused++
	case err == nil && fence.Vol != 0:
		f.applied++
	}
	return err
}

func (f *freezer) Beat(ctx context.Context, me kv.Tracker, ls []kv.Lease) ([]kv.Lease, error) {
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	return f.Shared.Beat(ctx, me, ls)
}

func (f *freezer) Release(ctx context.Context, l kv.Lease) error {
	if err := f.wait(ctx); err != nil {
		return err
	}
	return f.Shared.Release(ctx, l)
}

func (f *freezer) Close() error { return nil } // it is everybody's

// trackers is several trackers on one engine.
type trackersOn struct {
	t      *testing.T
	engine *mem.Engine
	key    protocol.Key
	cfg    Config
}

func onShared(t *testing.T, volumes ...string) *trackersOn {
	return &trackersOn{t, mem.New(mem.Options{Shared: true}), protocol.NewKey(), Config{Volumes: volumes}}
}

func (o *trackersOn) run() (*running, *freezer) {
	o.t.Helper()
	f := &freezer{Shared: o.engine}
	cfg := o.cfg
	cfg.Key = o.key
	cfg.openEngine = func(context.Context, Config) (kv.Engine, error) { return f, nil }
	o.t.Cleanup(f.thaw) // behind it the tracker is stopped
	r := run(o.t, cfg)
	o.t.Cleanup(f.thaw)
	return r, f
}

// owners asks a tracker who owns each volume; by volume.
func (r *running) owners(names ...string) map[string]string {
	r.t.Helper()
	a := r.dial(protocol.RoleClient)
	defer a.c.Close()
	out := map[string]string{}
	for _, name := range names {
		var rep protocol.OwnerReply
		if err := a.call(protocol.TypeOwner, &rep, &protocol.Owner{Name: name}); err == nil {
			out[name] = rep.Addr
		}
	}
	return out
}

// even tells whether volumes are shared out over trackers, all of them owned.
func even(owners map[string]string, volumes []string, trackers ...*running) bool {
	has := map[string]int{}
	for _, v := range volumes {
		has[owners[v]]++
	}
	for _, r := range trackers {
		if n := has[r.addr]; n < len(volumes)/len(trackers)-1 || n > len(volumes)/len(trackers)+1 {
			return false
		}
		delete(has, r.addr)
	}
	return len(has) == 0
}

// Volumes are shared out over the trackers that live, and move when one joins,
// stops or drains; every tracker knows who owns what.
func TestVolumesAreShared(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	o := onShared(t, names...)
	r1, _ := o.run()
	eventually(t, "one tracker owns all", func() bool { return even(r1.owners(names...), names, r1) })
	r2, _ := o.run()
	r3, _ := o.run()
	for _, asked := range []*running{r1, r2, r3} {
		eventually(t, "three trackers share", func() bool { return even(asked.owners(names...), names, r1, r2, r3) })
	}
	var rep protocol.OwnerReply
	r3.dial(protocol.RoleStore).must(protocol.TypeOwner, &rep, &protocol.Owner{})
	all := []string{r1.addr, r2.addr, r3.addr}
	if got := slices.Sorted(slices.Values(rep.Trackers)); !slices.Equal(got, slices.Sorted(slices.Values(all))) {
		t.Errorf("trackers are %v, want %v", got, all)
	}
	if err := r2.stop(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "after a clean stop two share", func() bool { return even(r1.owners(names...), names, r1, r3) })
	if d := time.Since(began); d > time.Second { // at once, not when a lease lapses
		t.Errorf("after a clean stop it took %v", d)
	}
	r3.dial(protocol.RoleTool).must(protocol.TypeDrain, nil, &protocol.Drain{})
	if got := r1.owners(names...); !even(got, names, r1) { // each was taken when it was answered
		t.Errorf("after draining: %v", got)
	}
	kindIs(t, r1.dial(protocol.RoleTool).call(protocol.TypeDrain, nil, &protocol.Drain{}), tnv.KindUnavailable)
	kindIs(t, r1.dial(protocol.RoleClient).call(protocol.TypeDrain, nil, &protocol.Drain{}), tnv.KindNotPermitted)
	kindIs(t, r1.dial(protocol.RoleClient).call(protocol.TypeOwner, nil, &protocol.Owner{Name: "none"}), tnv.KindNotExist)
}

// owned finds the tracker that owns media, and the others.
func owned(t *testing.T, rs []*running, fs []*freezer) (owner *running, f *freezer, other *running) {
	t.Helper()
	eventually(t, "media is owned for good", func() bool {
		addr := rs[0].owners("media")["media"]
		for i, r := range rs {
			if r.addr == addr {
				owner, f, other = r, fs[i], rs[1-i]
			}
		}
		return addr != "" && addr == rs[1].owners("media")["media"]
	})
	time.Sleep(3 * lookEvery) // what was to move has moved
	if addr := other.owners("media")["media"]; addr != owner.addr {
		owner, other = other, owner
		f = fs[slices.Index(rs, owner)]
	}
	return owner, f, other
}

// An owner stands still for longer than its lease, and goes on: its session has
// moved to another tracker with all that it holds; what the old owner was about to
// write is refused, and it answers nothing of the volume any more.
func TestFrozenOwner(t *testing.T) {
	o := onShared(t, "media")
	r1, f1 := o.run()
	r2, f2 := o.run()
	owner, frozen, other := owned(t, []*running{r1, r2}, []*freezer{f1, f2})

	s := owner.session(protocol.OpenSession{Identity: "me"})
	rival := owner.session(protocol.OpenSession{Identity: "rival"})
	var first, again, open protocol.CreateReply
	rq := &protocol.Create{Parent: tnv.RootIno, Name: "f", Excl: true}
	s.must(protocol.TypeCreate, &first, s.head(7, 1), rq)
	s.must(protocol.TypeCreate, &open, s.head(8, 1), &protocol.Create{Parent: tnv.RootIno, Name: "unlinked"})
	s.must(protocol.TypeUnlink, nil, s.head(8, 2), &protocol.Unlink{Parent: tnv.RootIno, Name: "unlinked"})
	lock := protocol.SetLock{Ino: first.Attr.Ino, Lock: protocol.Lock{Kind: protocol.LockPosix, Mode: protocol.LockExclusive, Owner: 1, End: protocol.LockEOF}}
	var got protocol.SetLockReply
	s.must(protocol.TypeSetLock, &got, s.head(9, 1), &lock)

	frozen.freeze()
	late := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		late <- s.c.Call(ctx, protocol.TypeMkdir, nil, s.head(10, 1), &protocol.Mkdir{Parent: tnv.RootIno, Name: "late"})
	}()
	time.Sleep(leaseTTL + 100*time.Millisecond) // before anybody may take over it has stopped
	reader := owner.dial(protocol.RoleClient)
	kindIs(t, reader.call(protocol.TypeGetAttr, nil, s.head(0, 0), &protocol.GetAttr{Ino: tnv.RootIno}), tnv.KindNotOwner)
	kindIs(t, reader.call(protocol.TypeKeepAlive, nil, &protocol.KeepAlive{Vol: s.info.Vol, Session: s.info.Session}), tnv.KindNotOwner)
	began := time.Now()
	eventually(t, "the other takes over", func() bool { return other.owners("media")["media"] == other.addr })
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("the takeover came %v behind the lease's end", d)
	}

	s2 := other.session(protocol.OpenSession{Resume: s.info.Session, Identity: "me", Dropped: true})
	if !s2.info.Resumed || s2.info.Epoch <= s.info.Epoch || s2.info.Vol != s.info.Vol {
		t.Fatalf("resumed as %+v, was %+v", s2.info, s.info)
	}
	s2.must(protocol.TypeCreate, &again, s2.head(7, 1), rq)
	if again != first {
		t.Errorf("a repeated request got %+v, first %+v", again, first)
	}
	var ka protocol.KeepAliveReply
	s2.must(protocol.TypeKeepAlive, &ka, &protocol.KeepAlive{Vol: s.info.Vol, Session: s.info.Session})
	if !slices.Contains(ka.Unlinked, open.Attr.Ino) {
		t.Errorf("the unlinked file is forgotten: %+v", ka)
	}
	s2.must(protocol.TypeGetAttr, nil, s2.head(0, 0), &protocol.GetAttr{Ino: open.Attr.Ino})
	rival2 := other.session(protocol.OpenSession{Resume: rival.info.Session, Identity: "rival", Dropped: true})
	if rival2.must(protocol.TypeSetLock, &got, rival2.head(0, 1), &lock); got.State != protocol.LockRefused {
		t.Errorf("another session gets the lock: %+v", got)
	}
	s2.must(protocol.TypeMkdir, nil, s2.head(10, 1), &protocol.Mkdir{Parent: tnv.RootIno, Name: "late"}) // sent again, as its answer never came

	frozen.thaw()
	if err := <-late; err == nil {
		t.Error("the old owner answered a mutation")
	} else if k := tnv.KindOf(err); k != tnv.KindNotOwner && k != tnv.KindFenced && k != tnv.KindUnavailable {
		t.Errorf("the old owner answers %v", err)
	}
	eventually(t, "the old owner's commit is refused", func() bool {
		frozen.mu.Lock()
		defer frozen.mu.Unlock()
		return frozen.refused > 0
	})
	kindIs(t, reader.call(protocol.TypeGetAttr, nil, s.head(0, 0), &protocol.GetAttr{Ino: tnv.RootIno}), tnv.KindNotOwner)
	var list protocol.ReadDirReply
	s2.must(protocol.TypeReadDir, &list, s2.head(0, 0), &protocol.ReadDir{Ino: tnv.RootIno, Limit: 10})
	if len(list.Entries) != 2 {
		t.Errorf("the directory has %+v", list.Entries)
	}
}

// A storage daemon is admitted through whichever tracker it announces itself to,
// and known to all of them.
func TestStoresOfSeveralTrackers(t *testing.T) {
	o := onShared(t, "media")
	r1, _ := o.run()
	r2, _ := o.run()
	a, b := r1.newStore(11, "h1"), r2.newStore(12, "h2")
	eventually(t, "both are admitted", func() bool {
		_, err1 := a.announce("g1", false)
		_, err2 := b.announce("g1", false)
		return err1 == nil && err2 == nil
	})
	if a.node.Group != b.node.Group || a.node.Group == 0 {
		t.Errorf("one group has two ids: %d and %d", a.node.Group, b.node.Group)
	}
	for _, r := range []*running{r1, r2} {
		tool := r.dial(protocol.RoleTool)
		eventually(t, "both trackers know both stores", func() bool { return len(tool.group(t, "g1").Nodes) == 2 })
	}
	third := r2.newStore(13, "h1") // a host that the group has, by another tracker
	_, err := third.announce("g1", false)
	kindIs(t, err, tnv.KindConflict)
	copied := r2.newStore(11, "h1")
	copied.node.Boot = 1
	_, err = copied.announce("g1", false) // a second daemon on a copy of the store
	kindIs(t, err, tnv.KindConflict)
}

// While nobody reaches the database nobody answers, and nobody takes anything over;
// the owners go on in the same epoch when it is back.
func TestDatabaseAway(t *testing.T) {
	o := onShared(t, "media")
	r1, f1 := o.run()
	r2, f2 := o.run()
	owner, _, other := owned(t, []*running{r1, r2}, []*freezer{f1, f2})
	s := owner.session(protocol.OpenSession{Identity: "me"})
	f1.freeze()
	f2.freeze()
	time.Sleep(leaseTTL + 2*leaseMargin + time.Second)
	kindIs(t, s.call(protocol.TypeGetAttr, nil, s.head(0, 0), &protocol.GetAttr{Ino: tnv.RootIno}), tnv.KindNotOwner)
	f1.thaw()
	f2.thaw()
	eventually(t, "the owner goes on", func() bool {
		return s.call(protocol.TypeGetAttr, nil, s.head(0, 0), &protocol.GetAttr{Ino: tnv.RootIno}) == nil
	})
	var rep protocol.OwnerReply
	other.dial(protocol.RoleClient).must(protocol.TypeOwner, &rep, &protocol.Owner{Name: "media"})
	if rep.Epoch != s.info.Epoch {
		t.Errorf("epoch %d, was %d", rep.Epoch, s.info.Epoch)
	}
}

// A database that has lost what was acknowledged stops the volume: its owner answers
// nothing, and keeps it from the others, until somebody has looked at it.
func TestDatabaseBehind(t *testing.T) {
	o := onShared(t, "media")
	r1, f1 := o.run()
	r2, f2 := o.run()
	owner, _, other := owned(t, []*running{r1, r2}, []*freezer{f1, f2})
	s := owner.session(protocol.OpenSession{Identity: "me"})
	o.engine.FailApply(&kv.SeqError{Stored: 1, Got: 9}, false)
	if err := s.call(protocol.TypeMkdir, nil, s.head(0, 1), &protocol.Mkdir{Parent: tnv.RootIno, Name: "d"}); err == nil {
		t.Fatal("a mutation that was not applied is answered")
	}
	eventually(t, "nothing is answered", func() bool {
		return tnv.KindOf(s.call(protocol.TypeGetAttr, nil, s.head(0, 0), &protocol.GetAttr{Ino: tnv.RootIno})) == tnv.KindNotOwner
	})
	time.Sleep(leaseTTL + leaseMargin + 2*lookEvery)
	before, err := o.engine.Lease(context.Background(), s.info.Vol)
	if err != nil || before.Epoch != s.info.Epoch || before.Released {
		t.Fatalf("the stopped volume's lease is %+v, %v", before, err)
	}
	if err := owner.stop(); err != nil { // somebody has
		t.Fatal(err)
	}
	eventually(t, "the other goes on with what there is", func() bool { return other.owners("media")["media"] == other.addr })
	other.session(protocol.OpenSession{Resume: s.info.Session, Identity: "me"})
}

// Hundreds of volumes are shared out and move like one.
func TestManyVolumes(t *testing.T) {
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprint("v", i))
	}
	o := onShared(t, names...)
	r1, _ := o.run()
	eventually(t, "one tracker owns all", func() bool { return even(r1.owners(names...), names, r1) })
	r2, _ := o.run()
	for _, r := range []*running{r1, r2} {
		eventually(t, "two share", func() bool { return even(r.owners(names...), names, r1, r2) })
	}
	if err := r1.stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are handed over", func() bool { return even(r2.owners(names...), names, r2) })
}

// Volumes move all the time, under load: every mutation is executed once.
func TestMovingUnderLoad(t *testing.T) {
	o := onShared(t, "media")
	o.cfg.Volumes = []string{"media", "x", "y"}
	r1, _ := o.run()
	var stop atomic.Bool
	var wg sync.WaitGroup
	var made [4]int
	for i := range made {
		// It is told of the first tracker alone, which is soon gone.
		c, err := client.Connect(context.Background(), client.Config{Trackers: []string{r1.addr}, Key: o.key, Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer c.Close(context.Background())
			for !stop.Load() {
				began := time.Now()
				if _, err := c.Mkdir(context.Background(), tnv.Root, protocol.Mkdir{Parent: tnv.RootIno, Name: fmt.Sprintf("d%d.%d", i, made[i]), Mode: 0o755}); err != nil {
					t.Errorf("mkdir: %v", err)
					return
				}
				if d := time.Since(began); d > 2*time.Second {
					t.Errorf("mkdir took %v, and nobody was killed", d)
				}
				made[i]++
			}
		})
	}
	last := r1
	for range 4 {
		next, _ := o.run()
		time.Sleep(1200 * time.Millisecond)
		if err := last.stop(); err != nil {
			t.Error(err)
		}
		last = next
	}
	stop.Store(true)
	wg.Wait()
	want := 0
	for _, n := range made {
		want += n
	}
	s := last.session(protocol.OpenSession{})
	var fs tnv.StatFS
	s.must(protocol.TypeStatFS, &fs, s.head(0, 0), &protocol.StatFS{})
	if int(fs.Files) != want+1 || want < 100 {
		t.Errorf("%d inodes, %d were made", fs.Files, want)
	}
	t.Logf("%d directories", want)
}

// An empty store takes a member's place at all trackers, though it is admitted, and
// replaces the member, at one of them.
func TestEmptiedStoreAtSeveralTrackers(t *testing.T) {
	o := onShared(t, "media")
	r1, _ := o.run()
	r2, _ := o.run()
	at1, at2 := r1.newStore(11, "h1"), r2.newStore(11, "h1")
	at2.node = at1.node
	for _, s := range []*store{at1, at2} {
		eventually(t, "it is admitted", func() bool { _, err := s.announce("g1", false); return err == nil })
	}
	empty := tnv.Node{ID: 13, Boot: 1, Addr: at1.node.Addr, Host: "h1"}
	at1.must(protocol.TypeAnnounce, nil, &protocol.Announce{Node: empty, Group: "g1", New: true})
	only := func(r *running) bool {
		g := r.dial(protocol.RoleTool).group(t, "g1")
		return len(g.Nodes) == 1 && g.Nodes[0].Node.ID == 13
	}
	if !only(r1) {
		t.Error("the old one is still a member where the new one was admitted")
	}
	eventually(t, "the other tracker knows", func() bool { return only(r2) })
	at2.must(protocol.TypeAnnounce, nil, &protocol.Announce{Node: empty, Group: "g1"})
	if !only(r2) {
		t.Error("the old one is a member again")
	}
}

// What a volume says of a store is kept while the registry has that store, though
// the tracker that has just taken the volume over does not know it yet.
func TestForgetByRegistry(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	a, b := r.newStore(11, "h1"), r.newStore(12, "h2")
	a.live("g1")
	b.live("g1")
	b.stop()
	eventually(t, "b is lost", func() bool { return r.dial(protocol.RoleTool).group(t, "g1").State == "degraded" })
	s := r.session(protocol.OpenSession{})
	var made protocol.CreateReply
	s.change(protocol.TypeCreate, &made, &protocol.Create{Parent: tnv.RootIno, Name: "f"})
	s.write(made.Attr.Ino, a.node.Group, a) // b lacks it
	a.stop()
	cfg, addr := r.cfg, b.node.Addr
	r.stop()

	ctx := context.Background()
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	heir := &tracker{cfg: cfg, log: quiet(), held: newHoldings(), failed: make(chan error, 1)}
	var err error
	if heir.engine, err = openEngine(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	defer heir.engine.Close()
	if err := heir.start(ctx); err != nil {
		t.Fatal(err)
	}
	defer heir.closeVolumes()
	heir.members = newMembers(9, nil, quiet())
	v := heir.held.volumes()[0]
	lacks := func(want uint64) {
		t.Helper()
		if err := heir.forgetOnce(ctx); err != nil {
			t.Fatal(err)
		}
		if n, _ := v.Lacks(12); n != want {
			t.Errorf("the volume says that b lacks %d blocks, want %d", n, want)
		}
	}
	lacks(1)
	empty := tnv.Node{ID: 13, Boot: 1, Addr: addr, Host: "h2"}
	rep, err := heir.admit(ctx, &protocol.Admit{Node: empty, Group: "g1", New: true})
	if err != nil || rep.Replaced != 12 {
		t.Fatalf("an empty store: %+v, %v", rep, err)
	}
	if err := v.MarkRestored(ctx); err != nil {
		t.Fatal(err)
	}
	lacks(1) // the registry of a copy may not know the stores yet
	if err := v.ApproveCollection(ctx); err != nil {
		t.Fatal(err)
	}
	lacks(0)
}
