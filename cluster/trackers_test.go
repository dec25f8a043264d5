package cluster

import (
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

func TestPlanTrackers(t *testing.T) {
	const db = "postgres://x/y"
	for _, c := range []struct {
		what  string
		have  state
		n     int
		meta  string
		fresh bool
		ok    bool
	}{
		{"a new one", state{}, 1, "", true, true},
		{"one on a database", state{}, 1, db, true, true},
		{"three on a database", state{}, 3, db, true, true},
		{"three without one", state{}, 3, "", true, false},
		{"too many", state{}, maxTrackers + 1, db, true, false},
		{"none", state{}, 0, "", true, false},
		{"an old state, as it was", state{}, 1, "", false, true},
		{"more of them", state{Trackers: 1, Meta: db}, 3, db, false, true},
		{"fewer", state{Trackers: 3, Meta: db}, 2, db, false, false},
		{"moving to a database", state{Trackers: 1}, 1, db, false, false},
		{"moving to another one", state{Trackers: 1, Meta: db}, 1, db + "2", false, false},
	} {
		st := c.have
		err := st.planTrackers(c.n, c.meta, c.fresh)
		if (err == nil) != c.ok || err != nil && tnv.KindOf(err) != tnv.KindInvalid {
			t.Errorf("%s: %v", c.what, err)
		}
		if err == nil && len(st.Daemons) != c.n {
			t.Errorf("%s: %d daemons are planned, want %d", c.what, len(st.Daemons), c.n)
		}
	}
}

// Each tracker tells of its own volumes and of the stores as it sees them.
func TestStatusOfSeveralTrackers(t *testing.T) {
	group := func(state string, behind uint64, nodes ...protocol.NodeStatus) []protocol.GroupStatus {
		return []protocol.GroupStatus{{ID: 1, Name: "g1", State: state, BehindBlocks: behind, Nodes: nodes}}
	}
	node := func(id tnv.NodeID, boot tnv.BootID, state tnv.NodeState, behind uint64) protocol.NodeStatus {
		return protocol.NodeStatus{Node: tnv.Node{ID: id, Boot: boot, State: state}, BehindBlocks: behind}
	}
	var st protocol.Status
	merge(&st, &protocol.Status{Trackers: []protocol.TrackerStatus{{Addr: "a", Alive: true, Engine: "postgres"}, {Addr: "b", Alive: true, Engine: "postgres"}},
		Volumes: []protocol.VolumeStatus{{ID: 2, Name: "two", Owner: "a", Epoch: 3}, {ID: 3, Name: "three", Owner: "a", Epoch: 1}},
		Groups:  group("whole", 0, node(1, 4, tnv.NodeAlive, 0), node(2, 1, tnv.NodeLost, 0))})
	merge(&st, &protocol.Status{Trackers: []protocol.TrackerStatus{{Addr: "b", Alive: true, Engine: "postgres"}},
		Volumes: []protocol.VolumeStatus{{ID: 2, Name: "two", Owner: "b", Epoch: 4}, {ID: 1, Name: "one", Owner: "b", Epoch: 9}},
		Groups:  group("degraded", 5, node(1, 4, tnv.NodeLost, 5), node(2, 1, tnv.NodeAlive, 0))})
	markTracker(&st, "c", false)
	if len(st.Trackers) != 3 || st.Trackers[1].Engine != "postgres" || st.Trackers[2].Alive {
		t.Errorf("trackers: %+v", st.Trackers)
	}
	if v := st.Volumes; len(v) != 3 || v[0].Name != "one" || v[1].Name != "three" || v[2].Owner != "b" {
		t.Errorf("volumes: %+v", v)
	}
	g := st.Groups[0]
	if len(st.Groups) != 1 || g.State != "degraded" || g.BehindBlocks != 5 || len(g.Nodes) != 2 {
		t.Fatalf("groups: %+v", st.Groups)
	}
	if g.Nodes[0].Node.State != tnv.NodeAlive || g.Nodes[0].BehindBlocks != 5 || g.Nodes[1].Node.State != tnv.NodeAlive {
		t.Errorf("nodes: %+v", g.Nodes)
	}
}
