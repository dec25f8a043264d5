package protocol

import "github.com/tnvfs/tnv"

// Trackers: groups grow and shrink. From tools only.
const (
	TypeGroupDrain Type = 0x62 + iota // GroupDrain
	TypeMoves                         // MovesRequest, reply Moves
	TypeNodeRemove                    // NodeRemove
	TypeBalance                       // Balance
)

// GroupDrain has a group emptied into the others, and removed then. It goes on
// over restarts of the tracker, until it is done or cancelled.
type GroupDrain struct {
	Group  string
	Rate   uint64 // bytes per second; 0: a default
	Cancel bool
}

// Balance has blocks moved from the fullest group to the emptiest until their
// shares of used space differ by less than Within percent.
type Balance struct {
	Rate   uint64 // bytes per second; 0: a default
	Within uint32 // percent; 0: a default
	Cancel bool
}

// MovesRequest asks what is being moved.
type MovesRequest struct {
}

// Moves has it.
type Moves struct {
	Jobs []MoveJob
}

// MoveJob is a drain or the balancing under way, or the last that ended.
type MoveJob struct {
	Kind       string // "drain" or "balance"
	Group      string // that is emptied
	Stage      string // "moving", "closing", "deleting", "done", "cancelled"
	Moved      uint64 // blocks, since the tracker's start
	MovedBytes uint64
	Left       uint64 // blocks that the group's stores hold yet
	Rate       uint64
	Failed     string // why the last attempt stopped; it is tried again
}

// NodeRemove takes a store out of the cluster for good. KindBusy: the other
// members of its group do not hold all that it has.
type NodeRemove struct {
	Node tnv.NodeID
}
