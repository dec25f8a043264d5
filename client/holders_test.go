package client

import (
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// A slow member's word that it holds a piece counts only while all members are slow.
func TestWellHeld(t *testing.T) {
	at := func(ids ...tnv.NodeID) (l []tnv.Holder) {
		for _, id := range ids {
			l = append(l, tnv.Holder{Node: id, Boot: 1})
		}
		return l
	}
	for name, tc := range map[string]struct {
		first, second tnv.NodeState
		held          []tnv.Holder
		want          bool
	}{
		"both":                      {tnv.NodeAlive, tnv.NodeAlive, at(1, 2), true},
		"one of two":                {tnv.NodeAlive, tnv.NodeAlive, at(1), false},
		"another boot":              {tnv.NodeAlive, tnv.NodeAlive, []tnv.Holder{{Node: 1, Boot: 1}, {Node: 2, Boot: 9}}, false},
		"a slow one is not awaited": {tnv.NodeAlive, tnv.NodeSlow, at(1), true},
		"a slow one alone":          {tnv.NodeAlive, tnv.NodeSlow, at(2), false},
		"slow where the other died": {tnv.NodeLost, tnv.NodeSlow, at(2), true},
	} {
		g := &tnv.Group{ID: 1, Nodes: []tnv.Node{{ID: 1, Boot: 1, State: tc.first}, {ID: 2, Boot: 1, State: tc.second}}}
		p := &piece{}
		p.put.sess = &sess{info: protocol.SessionInfo{MinReplicas: 2}}
		p.put.holders = tc.held
		if is := (&inode{}).wellHeld(p, g); is != tc.want {
			t.Errorf("%s: well held %v", name, is)
		}
	}
}
