package protocol

import "github.com/tnvfs/tnv"

// Trackers: the checker.
const (
	TypeFsck Type = 0x61 + iota // Fsck, reply FsckReply
)

// Fsck begins a check of a volume, or asks for one that is under way. A tracker
// runs one check of a volume at a time: who comes second is shown that one.
type Fsck struct {
	Volume string
	Repair bool
	Job    uint64 // 0: begin
	From   uint32 // how many findings the asker has
}

// FsckReply has what was found so far.
type FsckReply struct {
	Job      uint64
	Done     bool
	Failed   string // why it could not be completed; empty: it was, or goes on
	Stage    string // what is being looked at
	Records  uint64 // looked at
	Blocks   uint64 // looked at, counted per store
	Orphans  uint64 // blocks that nothing names, in quarantine: no damage
	Findings []Damage
	More     bool // there are more behind these
}

// Damage is one finding.
type Damage struct {
	Kind     DamageKind
	Ino      tnv.Ino // the inode, the directory of an entry, or whose block it is; 0: none
	Child    tnv.Ino // the inode that an entry names
	Chunk    uint64
	Block    tnv.BlockID
	Node     tnv.NodeID
	Name     string // of an entry, or of a record
	Have     uint64 // what the metadata says
	Want     uint64 // what it should say
	Path     string // of Ino, where it is known
	Repaired bool
	Failed   string // why it was not repaired, where that was tried
}

// DamageKind says what is wrong. Numbers are append-only.
type DamageKind uint8

// Kinds of damage. Those without repair are about what is lost.
const (
	DamageRecord   DamageKind = 1 + iota // a record cannot be read; no repair
	DamageDangling                       // an entry names an inode that is not there: the entry goes
	DamageNameless                       // an inode has no name: it gets one in lost+found, or is freed if it was removed
	DamageLinks                          // the link count is wrong
	DamageEntries                        // a directory counts its entries wrongly
	DamageParent                         // a directory names another parent than the one it is in
	DamageType                           // an entry says another type than the inode
	DamageAlloc                          // a file counts its bytes wrongly
	DamageXattrs                         // an inode counts its extended attributes wrongly
	DamageFiles                          // the volume counts its inodes wrongly
	DamageBytes                          // the volume counts its bytes wrongly
	DamageExtents                        // extents of a chunk overlap: those behind lie over those before
	DamageRefs                           // a block's references are counted wrongly
	DamageShared                         // an extent of a block with references is not marked, or is away from the block's home
	DamageDeletion                       // a block that is named is to be deleted
	DamageChunk                          // a chunk of an inode that is not there: it gets one, in lost+found
	DamageParked                         // a mark of an inode without a name whose inode has one, or is not there
	DamageCounter                        // an id is in use that was never given out
	DamageMissing                        // a block that is named is on no member of its group; no repair
	DamageLacking                        // a member lacks a block, and nobody knows: it is recorded, and copied from the others
	DamageGroup                          // a block is in a group that is not there; no repair
)

var damageNames = [...]string{"", "unreadable record", "entry without an inode", "inode without a name", "wrong link count",
	"wrong count of entries", "wrong parent", "entry of the wrong type", "wrong allocation of a file", "wrong count of attributes",
	"wrong count of inodes", "wrong count of bytes", "overlapping extents", "wrong reference count", "shared block without reference",
	"pending deletion of a named block", "chunk without an inode", "mark of an inode that has a name", "id above the high-water mark",
	"missing block", "block on fewer members than wanted", "block in no group"}

// DamageKinds is the number of kinds; they are 1 to that.
const DamageKinds = DamageKind(len(damageNames) - 1)

func (k DamageKind) String() string {
	if int(k) >= len(damageNames) {
		return "unknown damage"
	}
	return damageNames[k]
}

// Repairable tells whether fsck can repair damage of the kind.
func (k DamageKind) Repairable() bool {
	return k != DamageRecord && k != DamageMissing && k != DamageGroup
}
