package protocol

import "github.com/tnvfs/tnv"

// Operations on the content of files. Each body is a Head, then the request.
const (
	TypeSeek Type = 0x58 + iota // Seek, reply SeekReply
)

// Mutations of content: executed exactly once per slot and sequence.
const (
	TypeFallocate Type = 0x98 + iota // Fallocate, reply FallocateReply
	TypeCopyRange                    // CopyRange, reply CopyRangeReply
)

// Seek looks for the next byte of data, or of a hole, from Off on. What no
// extent covers is a hole, and so is what begins at the file's size.
type Seek struct {
	Ino  tnv.Ino
	Off  uint64
	Hole bool // a hole is looked for, else data
}

// SeekReply has what was found, or how far the owner has looked.
type SeekReply struct {
	Attr  tnv.Attr // read at the same moment
	State SeekState
	Off   uint64 // SeekFound: where it is; SeekOn: where to go on
}

// SeekState says what SeekReply.Off is.
type SeekState uint8

const (
	SeekNone  SeekState = iota // there is no data from Off on, or Off is not below the size
	SeekFound                  //
	SeekOn                     // one request looks at a bounded number of chunks: ask on
)

// Modes of Fallocate, as in fallocate(2). 0 and FallocKeepSize allocate;
// FallocPunchHole goes with FallocKeepSize, FallocZeroRange may.
const (
	FallocKeepSize      uint32 = 0x01
	FallocPunchHole     uint32 = 0x02
	FallocCollapseRange uint32 = 0x08
	FallocZeroRange     uint32 = 0x10
	FallocInsertRange   uint32 = 0x20
)

// FallocUnit is what offset and length of a collapse or an insert are multiples of.
const FallocUnit = 4096

// Fallocate changes the space of a range of a file, as fallocate(2) does.
type Fallocate struct {
	Ino      tnv.Ino
	Mode     uint32
	Off      uint64
	Len      uint64
	KillSUID bool
}

// FallocateReply tells how far the owner has come: punching and zeroing are
// done in pieces of a bounded number of chunks and blocks.
type FallocateReply struct {
	Attr tnv.Attr
	Done uint64 // bytes from Fallocate.Off on; below Len: ask for the rest
}

// CopyRange makes a range of a file name the blocks that another range names;
// holes become holes. No data moves. The ranges of one file must not overlap.
type CopyRange struct {
	From     tnv.Ino
	FromOff  uint64
	To       tnv.Ino
	ToOff    uint64
	Len      uint64
	KillSUID bool // of the target
}

// CopyRangeReply tells how much was copied: less than Len at the end of the
// source, and where the source is in more chunks or pieces than one request takes.
type CopyRangeReply struct {
	Attr   tnv.Attr // of the target
	Copied uint64
	Groups []tnv.GroupID // that hold the blocks: they may not have them on disk yet
}
