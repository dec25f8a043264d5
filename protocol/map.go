package protocol

import "github.com/tnvfs/tnv"

// What is told of the cluster unasked, and asked of storage daemons about themselves.
const (
	TypeMapChanged Type = 0xd0 + iota // pushed by a tracker to clients and storage daemons: MapChanged
	TypeScrub                         // Scrub, reply ScrubReply
)

// MapChanged brings a new cluster map to whoever has a session, or announced
// itself, on the connection. It comes when a member's state or place changed; of
// mere changes of used space KeepAlive and NodeBeat tell. It may be lost: they
// name the version at hand, and bring the newest.
type MapChanged struct {
	Map tnv.Map
}

// Scrub asks a storage daemon how far it is with reading all its blocks.
type Scrub struct {
	Now bool // begin anew, and read all at once, at the rate that is allowed
}

// ScrubReply tells of the pass under way: what was read of what there is, and
// what was bad.
type ScrubReply struct {
	Hurried    bool   // it was asked for, and is not over
	Passes     uint64 // that came to the end since the start
	Blocks     uint64 // read in this pass
	Bytes      uint64
	TotalBytes uint64 // of all blocks held
	Bad        uint64 // found in this pass
	Waiting    uint64 // blocks that were found bad or missing and are looked after now
	Found      []BadBlock
}

// BadBlock is a block that a storage daemon found damaged since its start, by
// scrubbing or because somebody complained.
type BadBlock struct {
	Key    tnv.BlockKey
	Home   tnv.Home
	Why    string
	Mended bool
}

// MaxBadBlocks is how many a ScrubReply names: the newest.
const MaxBadBlocks = 256
