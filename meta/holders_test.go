package meta

import (
	"slices"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Whose word that it holds a block lets a commit through: a slow member's only while all are slow.
func TestWhoLacks(t *testing.T) {
	at := func(id tnv.NodeID) tnv.Holder { return tnv.Holder{Node: id, Boot: 1} }
	for name, tc := range map[string]struct {
		states [2]tnv.NodeState
		held   []tnv.Holder
		want   uint32
		lacks  []tnv.NodeID
		few    bool
	}{
		"both":                      {[2]tnv.NodeState{tnv.NodeAlive, tnv.NodeAlive}, []tnv.Holder{at(1), at(2)}, 2, nil, false},
		"one of two":                {[2]tnv.NodeState{tnv.NodeAlive, tnv.NodeAlive}, []tnv.Holder{at(1)}, 2, nil, true},
		"a slow one is not awaited": {[2]tnv.NodeState{tnv.NodeAlive, tnv.NodeSlow}, []tnv.Holder{at(1)}, 2, []tnv.NodeID{2}, false},
		"a slow one alone":          {[2]tnv.NodeState{tnv.NodeAlive, tnv.NodeSlow}, []tnv.Holder{at(2)}, 2, nil, true},
		"a slow one too":            {[2]tnv.NodeState{tnv.NodeAlive, tnv.NodeSlow}, []tnv.Holder{at(1), at(2)}, 2, nil, false},
		"slow where the other died": {[2]tnv.NodeState{tnv.NodeLost, tnv.NodeSlow}, []tnv.Holder{at(2)}, 2, []tnv.NodeID{1}, false},
		"one of two that are slow":  {[2]tnv.NodeState{tnv.NodeSlow, tnv.NodeSlow}, []tnv.Holder{at(2)}, 1, []tnv.NodeID{1}, false},
	} {
		g := &tnv.Group{ID: 1, Nodes: []tnv.Node{{ID: 1, Boot: 1, State: tc.states[0]}, {ID: 2, Boot: 1, State: tc.states[1]}}}
		lacks, err := whoLacks(g, protocol.BlockHolders{Block: 7, Holders: tc.held}, tc.want)
		if few := tnv.KindOf(err) == tnv.KindTooFewHolders; few != tc.few || !few && err != nil || !slices.Equal(lacks, tc.lacks) {
			t.Errorf("%s: %v lack it, %v", name, lacks, err)
		}
	}
}
