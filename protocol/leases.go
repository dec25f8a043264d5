package protocol

import "github.com/tnvfs/tnv"

// Leases. A lease lets a session answer from its own memory: what is leased does
// not change before the lease was recalled, and the session has answered that it
// forgot, or certainly can not believe it any more. All leases of a session lapse
// together, SessionInfo.LeaseMs after the sending of the last KeepAlive whose
// reply named the generation in which they were granted.
const (
	TypeRecall   Type = 0x30 + iota // pushed by the owner: Recall
	TypeRecalled                    // Recalled
)

// LeaseClass says what of an inode is leased.
type LeaseClass uint8

const (
	// LeaseAttr covers attributes, content and extended attributes of an inode.
	LeaseAttr LeaseClass = 1 + iota
	// LeaseNames covers what each name in a directory stands for: that there is
	// no such name, and which there are, included.
	LeaseNames
	// LeaseSole is LeaseNames where no other session has it, nor looks at the names
	// before this one was asked: it need not be told of its own mutations' effects
	// beforehand. Only in Leased; a recall names LeaseNames.
	LeaseSole
)

// LeaseKey names what can be leased.
type LeaseKey struct {
	Ino   tnv.Ino
	Class LeaseClass
}

// Leased is the second value in the reply to every operation on a volume: what
// it tells beyond the answer. A repeated reply has none.
type Leased struct {
	Gen   uint32       // generation of the session's leases; see KeepAliveReply
	Seq   tnv.BatchSeq // the answer is of the moment behind this batch
	Keys  []LeaseKey   // leased to the session as of that moment
	Attrs []tnv.Attr   // of inodes that the operation changed, beyond those in the answer
}

// MaxRecall is how many keys one Recall names.
const MaxRecall = 4096

// Recall asks a session to forget what was leased to it, wherever it lies: in
// its own memory and in the kernel's. Recalled is the answer, when that is done.
type Recall struct {
	Session tnv.SessionID
	ID      uint64
	Keys    []LeaseKey
}

// Recalled says that a session has forgotten what Recall ID named.
type Recalled struct {
	Vol     tnv.VolumeID
	Session tnv.SessionID
	ID      uint64
}
