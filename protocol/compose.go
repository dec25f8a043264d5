package protocol

import "github.com/tnvfs/tnv"

// Storage daemons: blocks made of others.
const (
	TypeCompose Type = 0xe0 + iota // Compose, reply PutReply
)

// Compose has a store make a block of parts of blocks that its group holds, and
// put it, on disk, to members of a group. From trackers only.
type Compose struct {
	Key   tnv.BlockKey
	Home  tnv.Home
	Parts []BlockPart // at most MaxParts, of at most tnv.MaxBlockSize bytes together
	Chain []ChainLink // where to: the first, and whom that hands it on to
}

// BlockPart is Len bytes at Off of a block.
type BlockPart struct {
	Block tnv.BlockID
	Off   uint32
	Len   uint32
}

// MaxParts is how many parts a block is made of at most.
const MaxParts = 2048
