package trackerd

import (
	"slices"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// A member is replaced: the old one goes when the others hold all, not before,
// and is not taken in again; and a daemon moves to another address.
func TestReplaceMember(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	a, b := r.newStore(11, "h1"), r.newStore(12, "h2")
	a.live("g1")
	b.live("g1")
	tool := r.dial(protocol.RoleTool)
	s := r.session(protocol.OpenSession{})
	var made protocol.CreateReply
	s.change(protocol.TypeCreate, &made, &protocol.Create{Parent: tnv.RootIno, Name: "f"})
	home := tnv.Home{Ino: made.Attr.Ino}
	blk := s.write(home.Ino, a.node.Group, a, b)
	a.hold(home, blk)
	remove := func(id tnv.NodeID) error {
		return tool.call(protocol.TypeNodeRemove, nil, &protocol.NodeRemove{Node: id})
	}
	kindIs(t, remove(99), tnv.KindNotExist)
	kindIs(t, remove(11), tnv.KindBusy) // b lacks the block
	c := r.newStore(13, "h3")
	c.live("g1")
	b.hold(home, blk)
	kindIs(t, remove(11), tnv.KindBusy) // the new one lacks it yet
	c.hold(home, blk)
	a.stop()
	if err := remove(11); err != nil {
		t.Fatal(err)
	}
	if g := tool.group(t, "g1"); len(g.Nodes) != 2 || slices.ContainsFunc(g.Nodes, func(n protocol.NodeStatus) bool { return n.Node.ID == 11 }) {
		t.Fatalf("members: %+v", g.Nodes)
	}
	again := r.again()
	old := again.newStore(11, "h1")
	old.node.Boot = 2
	_, err := old.announce("g1", true)
	kindIs(t, err, tnv.KindConflict)
	_, err = old.announce("g7", true)
	kindIs(t, err, tnv.KindConflict)
	moved := again.newStore(12, "h2")
	moved.node.Boot = 2
	rep, err := moved.announce("g1", false)
	if err != nil || rep.Map.Node(12).Addr != moved.node.Addr {
		t.Fatalf("a daemon at another address: %+v, %v", rep.Map, err)
	}
}

// What is committed while the other members are looked through keeps a store in its
// group; it is a member as before then.
func TestRemoveWhileWriting(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	a, b := r.newStore(11, "h1"), r.newStore(12, "h2")
	a.live("g1")
	if _, err := b.announce("g1", true); err != nil {
		t.Fatal(err)
	}
	beat := func() {
		b.must(protocol.TypeNodeBeat, nil, &protocol.NodeBeat{Node: 12, Boot: 1, State: tnv.NodeSlow, Capacity: 100})
	}
	tool := r.dial(protocol.RoleTool)
	s := r.session(protocol.OpenSession{})
	var made protocol.CreateReply
	s.change(protocol.TypeCreate, &made, &protocol.Create{Parent: tnv.RootIno, Name: "f"})
	beat()
	late := tnv.BlockID(0)
	b.listed = func() { late = s.write(made.Attr.Ino, a.node.Group, a); beat() }
	kindIs(t, tool.call(protocol.TypeNodeRemove, nil, &protocol.NodeRemove{Node: 11}), tnv.KindBusy)
	if late == 0 {
		t.Fatal("nothing was written meanwhile")
	}
	if g := tool.group(t, "g1"); len(g.Nodes) != 2 {
		t.Fatalf("a store that was not taken out: %+v", g)
	}
	b.hold(tnv.Home{Ino: made.Attr.Ino}, late)
	b.must(protocol.TypeHeld, nil, &protocol.Held{Node: 12, Boot: 1, Vol: s.info.Vol, Blocks: []tnv.BlockID{late}})
	beat()
	tool.must(protocol.TypeNodeRemove, nil, &protocol.NodeRemove{Node: 11})
}

// No map shows a store that is hidden, whatever else changes; hidden once, it is not again.
func TestHidden(t *testing.T) {
	m := newMembers(1, []tnv.Group{{ID: 1, Name: "g1", Nodes: []tnv.Node{{ID: 11, Group: 1}, {ID: 12, Group: 1}}}}, quiet())
	if !m.hide(11) || m.hide(11) || !m.hides() {
		t.Fatal("hidden is not what it is")
	}
	m.announced(tnv.Node{ID: 11, Group: 1, Boot: 2}, 0, "g1", nil)
	if m.Map().Node(11) != nil || m.Map().Node(12) == nil {
		t.Fatalf("one of two is hidden: %+v", m.Map())
	}
	if m.unhide(11); m.Map().Node(11) == nil || m.hides() {
		t.Fatal("it is hidden for good")
	}
}

// A group that is being emptied takes no new blocks, over a restart of the
// tracker; cancelled, it takes them again. What has no room elsewhere is not begun.
func TestDrainRecord(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	a := r.newStore(11, "h1")
	a.live("g1")
	tool := r.dial(protocol.RoleTool)
	kindIs(t, tool.call(protocol.TypeGroupDrain, nil, &protocol.GroupDrain{Group: "none"}), tnv.KindNotExist)
	kindIs(t, tool.call(protocol.TypeGroupDrain, nil, &protocol.GroupDrain{Group: "g1"}), tnv.KindNoSpace)
	b := r.newStore(21, "h1")
	b.live("g2")
	b.stop()
	s := r.session(protocol.OpenSession{})
	var made protocol.CreateReply
	s.change(protocol.TypeCreate, &made, &protocol.Create{Parent: tnv.RootIno, Name: "f"})
	blk := s.write(made.Attr.Ino, a.node.Group, a)
	a.hold(tnv.Home{Ino: made.Attr.Ino}, blk)
	b.live("g2")
	eventually(t, "g2 has room", func() bool {
		return tool.call(protocol.TypeGroupDrain, nil, &protocol.GroupDrain{Group: "g1"}) == nil
	})
	kindIs(t, tool.call(protocol.TypeGroupDrain, nil, &protocol.GroupDrain{Group: "g1"}), tnv.KindBusy)
	state := func(tool *asker) (string, tnv.NodeState) {
		var m protocol.GetMapReply
		tool.must(protocol.TypeGetMap, &m, &protocol.GetMap{})
		return tool.group(t, "g1").State, m.Map.Node(11).State
	}
	if st, node := state(tool); st != "draining" || node != tnv.NodeFull {
		t.Fatalf("while it is emptied: %s, %v", st, node)
	}
	again := r.again() // the stores of this test cannot compose: nothing was moved
	tool = again.dial(protocol.RoleTool)
	if st, _ := state(tool); st != "draining" {
		t.Fatalf("after a restart: %s", st)
	}
	tool.must(protocol.TypeGroupDrain, nil, &protocol.GroupDrain{Group: "g1", Cancel: true})
	kindIs(t, tool.call(protocol.TypeGroupDrain, nil, &protocol.GroupDrain{Group: "g1", Cancel: true}), tnv.KindNotExist)
	if st, _ := state(tool); st == "draining" {
		t.Fatal("it is emptied after all")
	}
	last := again.again()
	if st, _ := state(last.dial(protocol.RoleTool)); st == "draining" {
		t.Fatal("after another restart it is emptied again")
	}
}

// Groups are evened out from the fullest to the emptiest, until they are alike.
func TestUnevenness(t *testing.T) {
	g := func(id tnv.GroupID, used, capacity uint64, state tnv.NodeState) tnv.Group {
		return tnv.Group{ID: id, Nodes: []tnv.Node{{ID: tnv.NodeID(id * 10), State: state, Used: used, Capacity: capacity},
			{ID: tnv.NodeID(id*10 + 1), State: state, Used: used / 2, Capacity: capacity}}}
	}
	m := &tnv.Map{Groups: []tnv.Group{g(1, 80, 100, tnv.NodeAlive), g(2, 20, 200, tnv.NodeAlive), g(3, 100, 100, tnv.NodeLost), g(4, 50, 100, tnv.NodeAlive)}}
	from, to, bytes := unevenness(m, 5)
	if bytes != 46 || from.ID != 1 || to.ID != 2 { // both a third full then
		t.Fatalf("%d bytes from %+v to %+v", bytes, from, to)
	}
	if _, _, bytes := unevenness(m, 75); bytes != 0 {
		t.Fatalf("%d bytes where they are alike enough", bytes)
	}
	m.Groups[0] = g(1, 100, 100, tnv.NodeFull)
	if from, _, _ := unevenness(m, 5); from.ID != 1 {
		t.Fatalf("a full group is not emptied: %+v", from)
	}
}

// A drain waits for no store whose disk hangs, as for none that is lost.
func TestLeftBehind(t *testing.T) {
	for is, left := range map[tnv.NodeState]bool{tnv.NodeLost: true, tnv.NodeSlow: true, tnv.NodeAlive: false, tnv.NodeFull: false} {
		if leftBehind(is, lostWait) || leftBehind(is, 2*lostWait) != left {
			t.Errorf("a store that is %v", is)
		}
	}
}
