package trackerd

import (
	"io"
	"slices"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

// A daemon whose connection has ended is lost soon, one that is silent a while
// later, and one that comes back on another connection not at all.
func TestLost(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	m := newMembers(1, nil, logrus.NewEntry(log))
	conn := func() *protocol.Peer { return &protocol.Peer{Role: protocol.RoleStore} }
	killed, silent, back := conn(), conn(), conn()
	for i, via := range []*protocol.Peer{killed, silent, back} {
		m.announced(tnv.Node{ID: tnv.NodeID(i + 1), Group: 1, Boot: 1}, 0, "g1", via)
	}
	m.disconnected(killed)
	m.disconnected(back)
	m.disconnected(conn()) // nobody's
	m.announced(tnv.Node{ID: 3, Group: 1, Boot: 1}, 0, "g1", conn())
	m.disconnected(back) // late: it is here by another one
	check := func(when time.Duration, want ...tnv.NodeState) {
		t.Helper()
		m.expire(time.Now().Add(when))
		for i, n := range m.Map().Groups[0].Nodes {
			if n.State != want[i] {
				t.Errorf("after %v daemon %d is %v, want %v", when, i+1, n.State, want[i])
			}
		}
	}
	check(0, tnv.NodeAlive, tnv.NodeAlive, tnv.NodeAlive)
	check(2*goneAfter, tnv.NodeLost, tnv.NodeAlive, tnv.NodeAlive)
	if err := m.beat(&protocol.NodeBeat{Node: 1, Boot: 1, State: tnv.NodeAlive}); err != nil { // the network broke, not the daemon
		t.Error(err)
	}
	check(2*goneAfter, tnv.NodeAlive, tnv.NodeAlive, tnv.NodeAlive)
	check(lostAfter+time.Second, tnv.NodeLost, tnv.NodeLost, tnv.NodeLost)
}

// What another tracker has admitted is taken in, and who was replaced there is gone;
// but of what was read before a store was admitted here nothing is believed.
func TestKnow(t *testing.T) {
	node := func(id tnv.NodeID) tnv.Node { return tnv.Node{ID: id, Group: 1, Boot: 1, Addr: "a:1"} }
	says := func(ids ...tnv.NodeID) []tnv.Group {
		g := tnv.Group{ID: 1, Name: "g1"}
		for _, id := range ids {
			g.Nodes = append(g.Nodes, node(id))
		}
		return []tnv.Group{g}
	}
	m := newMembers(1, says(1), quiet())
	check := func(what string, pushed bool, want ...tnv.NodeID) {
		t.Helper()
		var got []tnv.NodeID
		for _, n := range m.Map().Group(1).Nodes {
			got = append(got, n.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: members %v, want %v", what, got, want)
		}
		select {
		case <-m.changed:
			if !pushed {
				t.Errorf("%s: the map is pushed", what)
			}
		default:
			if pushed {
				t.Errorf("%s: the map is not pushed", what)
			}
		}
	}
	now := time.Now()
	m.know(&meta.Directory{Groups: says(1)}, now, false)
	check("nothing is new", false, 1)
	m.know(&meta.Directory{Groups: says(1, 2)}, now, false)
	check("admitted elsewhere", true, 1, 2)
	early := time.Now()
	m.announced(node(3), 2, "g1", nil)
	check("admitted here, in the place of another", true, 1, 3)
	m.know(&meta.Directory{Groups: says(1, 2)}, early, false)
	check("read before that", false, 1, 3)
	later := time.Now()
	m.know(&meta.Directory{Groups: says(1, 4)}, later, false)
	check("replaced elsewhere", true, 1, 4)
	m.know(&meta.Directory{Groups: says(1, 3)}, early, false)
	check("an old reading, late", false, 1, 4)
	if n := m.Map().Node(4); n.State != tnv.NodeLost {
		t.Errorf("a store that was not heard of is %v", n.State)
	}
}
