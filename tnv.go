// Package tnv holds the nouns of TNV: what its parts say to each other about.
// To read it is to read the architecture; it imports only the standard library.
//
// A cluster keeps volumes. A volume is one POSIX tree, made of inodes. A regular
// file is a row of chunks of 64 MiB; a chunk is a list of extents; an extent is
// a part of a block. Blocks never change: a block is written once, under an id
// that is never used again, to every member of one group of storage daemons.
// Whatever changes is metadata, and the metadata of a volume has one owner, a
// tracker, for one epoch at a time.
package tnv

import (
	"fmt"
	"strconv"
	"time"
)

// Ids. None is ever used a second time, whatever crashes. Zero is never an id.
type (
	// VolumeID names a volume within its cluster. Volume 0 is the cluster's own.
	VolumeID uint32
	// Ino is an inode number, unique within its volume. 1 is the root directory.
	Ino uint64
	// BlockID names a block, unique within its volume.
	BlockID uint64
	// GroupID names a group of storage daemons that hold the same blocks.
	GroupID uint32
	// NodeID names one store (one data directory of one storage daemon): drawn
	// at random when the store is made, kept in its superblock.
	NodeID uint64
	// BootID is a store's boot counter: it grows with every start.
	BootID uint64
	// SessionID names a client's session with the owner of a volume.
	SessionID uint64
	// Epoch counts the owners of a volume. The store refuses a batch of an old one.
	Epoch uint64
	// BatchSeq numbers the batches of a volume's mutations, without a gap.
	BatchSeq uint64
)

func (n NodeID) String() string { return fmt.Sprintf("%016x", uint64(n)) }

// ParseNodeID reads what NodeID.String wrote.
func ParseNodeID(s string) (NodeID, error) {
	v, err := strconv.ParseUint(s, 16, 64)
	return NodeID(v), err
}

const (
	// CopyVolume is the volume whose blocks are the copies of trackers' metadata that
	// the storage groups keep (package ship). No volume of files has this id.
	CopyVolume VolumeID = 1<<32 - 1
	// RootIno is the root directory of every volume.
	RootIno Ino = 1
	// ChunkSize is the length of a chunk in bytes: extents never cross a
	// multiple of it.
	ChunkSize = 64 << 20
	// MaxBlockSize is the longest block in bytes.
	MaxBlockSize = 4 << 20
	// MaxNameLen is the longest name of a directory entry in bytes.
	MaxNameLen = 255
	// MaxSymlinkLen is the longest target of a symbolic link in bytes.
	MaxSymlinkLen = 4095
	// MaxXattrSize is the longest value of an extended attribute in bytes.
	MaxXattrSize = 64 << 10
	// MaxFileSize is the largest offset that a file may have.
	MaxFileSize = 1<<63 - 1
)

// BlockKey names a block within the cluster.
type BlockKey struct {
	Vol VolumeID
	ID  BlockID
}

func (k BlockKey) String() string { return fmt.Sprintf("%d/%d", k.Vol, k.ID) }

// Less orders keys by volume, then id.
func (k BlockKey) Less(o BlockKey) bool {
	return k.Vol < o.Vol || k.Vol == o.Vol && k.ID < o.ID
}

// Home is the inode and chunk for which a block was written. It stands in the
// block's header, so that "is it alive?" is one look at one chunk.
type Home struct {
	Ino   Ino
	Chunk uint64
}

// FileType is the type of an inode: the S_IFMT bits of st_mode, shifted right by 12.
type FileType uint8

const (
	TypeFIFO    FileType = 0o01
	TypeChar    FileType = 0o02
	TypeDir     FileType = 0o04
	TypeBlock   FileType = 0o06
	TypeRegular FileType = 0o10
	TypeSymlink FileType = 0o12
	TypeSocket  FileType = 0o14
)

// Mode is st_mode as in stat(2): type and permission bits.
func (t FileType) Mode() uint32 { return uint32(t) << 12 }

// Attr is what stat(2) tells of an inode, and its versions. Times are
// nanoseconds since 1970, UTC.
type Attr struct {
	Ino     Ino
	Mode    uint32 // type and permissions, as st_mode
	Nlink   uint32
	UID     uint32
	GID     uint32
	Rdev    uint32
	Size    uint64 // bytes; of a directory: its number of entries
	Blocks  uint64 // allocated units of 512 bytes
	Atime   int64
	Mtime   int64
	Ctime   int64
	Btime   int64
	Parent  Ino    // of a directory; 0 for the rest
	Version uint64 // changes with every change of the inode
	Data    uint64 // changes whenever the content (or a directory's entries) does
	Flags   AttrFlags
}

// AttrFlags tell of extended attributes that the kernel asks for again and
// again: who has the attributes knows which of them are not there.
type AttrFlags uint32

const (
	HasAccessACL  AttrFlags = 1 << iota // system.posix_acl_access
	HasDefaultACL                       // system.posix_acl_default
	HasCapability                       // security.capability
	// Linkable marks a file that never had a name (O_TMPFILE) and may get one.
	Linkable
)

// Extended attributes that mean something to the file system itself.
const (
	XattrAccessACL  = "system.posix_acl_access"
	XattrDefaultACL = "system.posix_acl_default"
	XattrCapability = "security.capability"
)

// XattrFlag is the flag that tells of an extended attribute, 0 for most names.
func XattrFlag(name string) AttrFlags {
	switch name {
	case XattrAccessACL:
		return HasAccessACL
	case XattrDefaultACL:
		return HasDefaultACL
	case XattrCapability:
		return HasCapability
	}
	return 0
}

// Type is the inode's type.
func (a *Attr) Type() FileType { return FileType(a.Mode >> 12 & 0o17) }

// IsDir tells whether the inode is a directory.
func (a *Attr) IsDir() bool { return a.Type() == TypeDir }

// IsRegular tells whether the inode is a regular file.
func (a *Attr) IsRegular() bool { return a.Type() == TypeRegular }

// Dirent is an entry of a directory. Cookie orders the entries and is stable
// for the entry's life: reading goes on behind it. Cookies 0 to 2 are kept for
// the start, "." and "..".
type Dirent struct {
	Name   string
	Ino    Ino
	Type   FileType
	Cookie uint64
}

// FirstCookie is the smallest cookie of an entry in the store.
const FirstCookie = 3

// Extent says that Len bytes at Off of a chunk are the bytes from BlockOff on
// of a block in a group.
type Extent struct {
	Off      uint32 // within the chunk
	Len      uint32
	Block    BlockID
	BlockOff uint32
	BlockLen uint32 // the whole block's length
	Group    GroupID
	Flags    ExtentFlags
}

// End is the offset behind the extent, within the chunk.
func (e Extent) End() uint32 { return e.Off + e.Len }

// ExtentFlags qualify an extent.
type ExtentFlags uint8

// ExtentShared marks an extent whose block has, or may have, a reference count.
const ExtentShared ExtentFlags = 1

// Cred is who asks: the identity of the process behind an operation.
type Cred struct {
	UID uint32
	GID uint32
}

// Root is the superuser.
var Root = Cred{}

// Holder is a store that has a block, in the boot in which it took it.
type Holder struct {
	Node NodeID
	Boot BootID
}

// NodeState is how a tracker sees a storage daemon.
type NodeState uint8

const (
	NodeLost    NodeState = iota // no heartbeat
	NodeAlive                    // heartbeats arrive
	NodeFull                     // alive, takes no new blocks
	NodeLeaving                  // alive, stopping: takes no new blocks
	NodeSlow                     // alive, but its disk fails or takes seconds: nobody waits for it
)

func (s NodeState) String() string {
	names := [...]string{"lost", "alive", "full", "leaving", "slow"}
	if int(s) >= len(names) {
		return "unknown"
	}
	return names[s]
}

// Node is a storage daemon as the cluster map shows it.
type Node struct {
	ID       NodeID
	Group    GroupID
	Boot     BootID
	Addr     string // host:port that peers and clients connect to
	Host     string // the machine's own id: equal for daemons on one machine
	Local    string // path of a unix socket for clients on the same host; may be empty
	State    NodeState
	Used     uint64 // bytes
	Capacity uint64 // bytes
}

// Group is a set of storage daemons with the same content.
type Group struct {
	ID    GroupID
	Name  string
	Nodes []Node
}

// Awaited tells whether a member is worth waiting for: a lost one is not, and a
// slow one only while every member that lives is slow.
func (g *Group) Awaited(id NodeID) bool {
	slow, prompt := false, 0
	for i := range g.Nodes {
		switch n := &g.Nodes[i]; {
		case n.State == NodeLost:
		case n.State == NodeSlow:
			slow = slow || n.ID == id
		case n.ID == id:
			return true
		default:
			prompt++
		}
	}
	return slow && prompt == 0
}

// Awaiting counts the members that are worth waiting for.
func (g *Group) Awaiting() (n int) {
	for i := range g.Nodes {
		if g.Awaited(g.Nodes[i].ID) {
			n++
		}
	}
	return n
}

// Map is the cluster map: every group and storage daemon. Version grows with every change.
type Map struct {
	Epoch   Epoch
	Version uint64
	Groups  []Group
}

// Group finds a group by id; nil if there is none.
func (m *Map) Group(id GroupID) *Group {
	for i := range m.Groups {
		if m.Groups[i].ID == id {
			return &m.Groups[i]
		}
	}
	return nil
}

// Node finds a node by id; nil if there is none.
func (m *Map) Node(id NodeID) *Node {
	for i := range m.Groups {
		for j := range m.Groups[i].Nodes {
			if m.Groups[i].Nodes[j].ID == id {
				return &m.Groups[i].Nodes[j]
			}
		}
	}
	return nil
}

// Awaited is a node that is worth waiting for (Group.Awaited); nil if it is not.
func (m *Map) Awaited(id NodeID) *Node {
	n := m.Node(id)
	if n == nil {
		return nil
	}
	if g := m.Group(n.Group); g != nil && !g.Awaited(id) {
		return nil
	}
	return n
}

// StatFS is what statfs(2) tells of a volume. Bytes, not blocks.
type StatFS struct {
	Capacity uint64 // of the groups, counting a group as its smallest member
	Free     uint64
	Files    uint64 // inodes in use
	Bytes    uint64 // bytes allocated to the volume's files
}

// Time turns nanoseconds since 1970 to a time.
func Time(ns int64) time.Time { return time.Unix(0, ns) }
