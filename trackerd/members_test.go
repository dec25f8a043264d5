package trackerd

import (
	"io"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
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
