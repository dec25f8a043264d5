package protocol

import "github.com/tnvfs/tnv"

// Trackers: blocks that nothing names, and the checker.
const (
	TypeCollect Type = 0x60 + iota // Collect, reply Collection
)

// Mutations of a session: executed exactly once per slot and sequence.
const (
	TypeGiveBack Type = 0xa0 + iota // GiveBack
)

// Collect asks how the collection of a volume's orphans stands: blocks that
// stores hold and nothing names.
type Collect struct {
	Volume  string
	Now     bool // compare now what the stores hold with what is named, and delete what is due
	Approve bool // the operator's word: what is in quarantine may be deleted
}

// Collection is how it stands.
type Collection struct {
	Quarantined      uint64 // orphans that wait for the end of their quarantine, or for the operator
	QuarantinedBytes uint64
	Due              uint64   // of those: whose quarantine is over
	Collected        uint64   // deleted in this run
	Asks             []string // why some are not deleted without the operator's word
}

// GiveBack says that the session will never commit these blocks, which it may
// have put to a group: they are deleted there.
type GiveBack struct {
	Blocks []GroupBlock // at most MaxBatch
}

// GroupBlock is a block in a group.
type GroupBlock struct {
	Block tnv.BlockID
	Group tnv.GroupID
}
