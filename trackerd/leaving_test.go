package trackerd

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

// follower is members to which a registry elsewhere says what is.
func follower(t *testing.T, d *meta.Directory) *members {
	t.Helper()
	m := newMembers(1, d.Groups, quiet())
	m.know(d, time.Now(), false)
	return m
}

// A group that another tracker empties takes no new blocks here, is closed when that
// says so, and goes when it is gone; what was read late changes nothing of that.
func TestGroupsLeaveElsewhere(t *testing.T) {
	g := []tnv.Group{{ID: 2, Name: "g1", Nodes: []tnv.Node{{ID: 11, Group: 2, Boot: 1}}}, {ID: 3, Name: "g2", Nodes: []tnv.Node{{ID: 21, Group: 3, Boot: 1}, {ID: 22, Group: 3, Boot: 1}}}}
	moving := &meta.Directory{Groups: g, Drains: []meta.Drain{{Group: 2}}}
	m := follower(t, moving)
	if !m.leaves(2) || m.leaves(3) || m.Closed(2) {
		t.Fatal("a group that is being emptied is not seen to be")
	}
	m.know(&meta.Directory{Groups: g}, time.Now(), false)
	if m.leaves(2) {
		t.Fatal("the emptying was cancelled, and is not here")
	}
	m.know(&meta.Directory{Groups: g, Drains: []meta.Drain{{Group: 2, Closed: true}}}, time.Now(), false)
	m.know(moving, time.Now(), false)
	if !m.Closed(2) {
		t.Fatal("a group was closed, and is open")
	}
	left := &meta.Directory{Groups: g[1:], Retired: []tnv.NodeID{11, 22}}
	m.know(left, time.Now(), false)
	m.know(moving, time.Now(), false) // read before, and late
	is := m.Map()
	if len(is.Groups) != 1 || is.Groups[0].ID != 3 || !m.Closed(2) {
		t.Fatalf("a group that has left: %+v", is.Groups)
	}
	m.know(left, time.Now(), false)
	if n := m.Map().Groups[0].Nodes; len(n) != 1 || n[0].ID != 21 {
		t.Fatalf("a store that was taken out: %+v", n)
	}
	// Where the registry is, what is read may lag behind what was done.
	m = follower(t, &meta.Directory{Groups: g})
	m.setLeaving(2, true)
	m.know(&meta.Directory{Groups: g}, time.Now(), true)
	m.setLeaving(2, false)
	if !m.Closed(2) {
		t.Fatal("a group that was closed here is open")
	}
}

// A group that is closed is so to whoever opens a volume, though a store was admitted
// since the reading began that says so.
func TestClosedWhileAdmitting(t *testing.T) {
	g := []tnv.Group{{ID: 2, Name: "g1"}, {ID: 3, Name: "g2"}}
	tr := &tracker{log: quiet(), held: newHoldings(), members: newMembers(1, g, quiet()), directory: newDirectory(nil)}
	tr.directory.cur = &meta.Directory{Groups: g, Drains: []meta.Drain{{Group: 2, Closed: true}, {Group: 3}}}
	tr.directory.asOf = time.Now()
	tr.members.announced(tnv.Node{ID: 31, Group: 3, Boot: 1}, 0, "g2", nil)
	tr.followClosed()
	if !tr.members.Closed(2) || tr.members.Closed(3) {
		t.Fatalf("closed: %v, %v", tr.members.Closed(2), tr.members.Closed(3))
	}
	if tr.members.Map().Node(31) == nil {
		t.Fatal("the store that was admitted is not there")
	}
}

// Emptying, balancing and taking stores out are for a tracker that owns all; of a
// drain that was begun all trackers know, and whoever owns all goes on with it.
func TestDrainOfSeveralTrackers(t *testing.T) {
	names := []string{"media", "a", "b", "c"}
	o := onShared(t, names...)
	r1, _ := o.run()
	eventually(t, "one tracker owns all", func() bool { return even(r1.owners(names...), names, r1) })
	a, b := r1.newStore(11, "h1"), r1.newStore(21, "h1")
	a.live("g1")
	b.live("g2")
	a.hold(tnv.Home{}) // nothing
	a.mu.Lock()
	a.copies = map[tnv.BlockID]tnv.Home{5: {Ino: 77}} // it does not end while this is there
	a.mu.Unlock()
	tool := r1.dial(protocol.RoleTool)
	begin := &protocol.GroupDrain{Group: "g1"}
	eventually(t, "g2 has room", func() bool { return tool.call(protocol.TypeGroupDrain, nil, begin) == nil })
	r2, _ := o.run()
	eventually(t, "two share", func() bool { return even(r2.owners(names...), names, r1, r2) })
	for _, r := range []*running{r1, r2} {
		tool := r.dial(protocol.RoleTool)
		eventually(t, "both know that the group leaves", func() bool { return tool.group(t, "g1").State == "draining" })
		kindIs(t, tool.call(protocol.TypeGroupDrain, nil, &protocol.GroupDrain{Group: "g2"}), tnv.KindNotOwner)
		kindIs(t, tool.call(protocol.TypeNodeRemove, nil, &protocol.NodeRemove{Node: 11}), tnv.KindNotOwner)
		kindIs(t, tool.call(protocol.TypeBalance, nil, &protocol.Balance{}), tnv.KindNotOwner)
	}
	if err := r1.stop(); err != nil {
		t.Fatal(err)
	}
	a2 := r2.newStore(11, "h1")
	a2.node.Boot, a2.copies = 2, map[tnv.BlockID]tnv.Home{5: {Ino: 77}}
	a2.live("g1")
	tool = r2.dial(protocol.RoleTool)
	failed := func() string {
		var rep protocol.Moves
		tool.must(protocol.TypeMoves, &rep, &protocol.MovesRequest{})
		for _, j := range rep.Jobs {
			if j.Kind == "drain" {
				return j.Failed
			}
		}
		return ""
	}
	eventually(t, "the heir goes on, up to the copy", func() bool { return strings.Contains(failed(), "lineage 77") })
	a2.mu.Lock()
	a2.copies = nil
	a2.mu.Unlock()
	eventually(t, "the group leaves", func() bool {
		var st protocol.Status
		tool.must(protocol.TypeStatus, &st, &protocol.StatusRequest{})
		return !slices.ContainsFunc(st.Groups, func(g protocol.GroupStatus) bool { return g.Name == "g1" })
	})
}

// A volume that was deleted may come back: its blocks are neither moved nor lost.
func TestDrainAndDeletedVolumes(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	a, b := r.newStore(11, "h1"), r.newStore(12, "h2")
	a.live("g1")
	b.live("g1")
	c := r.newStore(21, "h1")
	c.live("g2")
	tool := r.dial(protocol.RoleTool)
	tool.must(protocol.TypeCreateVolume, nil, &protocol.CreateVolume{Name: "films"})
	tool.must(protocol.TypeDeleteVolume, nil, &protocol.DeleteVolume{Name: "films", DelayMs: uint64(time.Hour.Milliseconds())})
	kindIs(t, tool.call(protocol.TypeGroupDrain, nil, &protocol.GroupDrain{Group: "g1"}), tnv.KindConflict)
	kindIs(t, tool.call(protocol.TypeNodeRemove, nil, &protocol.NodeRemove{Node: 11}), tnv.KindConflict)
	tool.must(protocol.TypeUndeleteVolume, nil, &protocol.UndeleteVolume{Name: "films"})
	a.mu.Lock()
	a.copies = map[tnv.BlockID]tnv.Home{5: {Ino: 77}}
	a.mu.Unlock()
	kindIs(t, tool.call(protocol.TypeNodeRemove, nil, &protocol.NodeRemove{Node: 11}), tnv.KindBusy) // the other lacks a piece
	b.mu.Lock()
	b.copies = map[tnv.BlockID]tnv.Home{5: {Ino: 77}}
	b.mu.Unlock()
	tool.must(protocol.TypeNodeRemove, nil, &protocol.NodeRemove{Node: 11})
}
