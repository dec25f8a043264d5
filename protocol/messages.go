package protocol

import "github.com/tnvfs/tnv"

// Type names what a frame's body is. Numbers are append-only. A reply has the
// type of its request; where a comment names no reply, the reply's body is empty.
type Type uint16

// The connection itself.
const (
	TypeHello Type = 1 + iota // Hello, reply Hello
	TypeProof                 // Proof
	TypePing                  // nothing; answered by every daemon
)

// Trackers: sessions and the cluster.
const (
	TypeOpenSession  Type = 0x10 + iota // OpenSession, reply SessionInfo
	TypeKeepAlive                       // KeepAlive, reply KeepAliveReply
	TypeCloseSession                    // CloseSession
	TypeReleased                        // Head, Released
	TypeGetMap                          // GetMap, reply GetMapReply
	TypeAnnounce                        // Announce, reply AnnounceReply
	TypeNodeBeat                        // NodeBeat, reply NodeBeatReply
	TypeAlive                           // Alive, reply AliveReply
	TypeHeld                            // Held
	TypeStatus                          // StatusRequest, reply Status
	TypeLacking                         // Lacking, reply LackingReply
)

// Trackers: operations on a volume. Each body is a Head, then the request.
const (
	TypeLookup    Type = 0x40 + iota // Lookup, reply AttrReply; Attr.Ino 0: there is no such name
	TypeGetAttr                      // GetAttr, reply AttrReply
	TypeReadDir                      // ReadDir, reply ReadDirReply
	TypeReadLink                     // ReadLink, reply ReadLinkReply
	TypeGetXattr                     // GetXattr, reply XattrReply
	TypeListXattr                    // ListXattr, reply ListXattrReply
	TypeExtents                      // Extents, reply ExtentsReply
	TypeStatFS                       // StatFS, reply tnv.StatFS
	TypeResolve                      // Resolve, reply ResolveReply
)

// Mutations: as above, and executed exactly once per slot and sequence.
const (
	TypeCreate      Type = 0x80 + iota // Create, reply CreateReply
	TypeMkdir                          // Mkdir, reply AttrReply
	TypeSymlink                        // Symlink, reply AttrReply
	TypeLink                           // Link, reply AttrReply
	TypeUnlink                         // Unlink, reply UnlinkReply
	TypeRmdir                          // Rmdir
	TypeRename                         // Rename, reply UnlinkReply
	TypeSetAttr                        // SetAttr, reply AttrReply
	TypeSetXattr                       // SetXattr
	TypeRemoveXattr                    // RemoveXattr
	TypeCommit                         // Commit, reply AttrReply
	TypeGrant                          // Grant, reply GrantReply
	TypeSyncFS                         // SyncFS
)

// Storage daemons. A block connection carries one at a time.
const (
	TypePut    Type = 0xc0 + iota // Put and payload, reply PutReply
	TypeGet                       // Get, reply GetReply and payload
	TypeDelete                    // Delete, reply DeleteReply
	TypeSync                      // Sync, reply SyncReply
	TypeDigest                    // Digest, reply DigestReply
	TypeList                      // List, reply ListReply
	TypeRepair                    // Repair
	TypeLocate                    // Locate, reply LocateReply, over a unix socket with a descriptor
)

// Role is what one side of a connection is.
type Role string

const (
	RoleClient  Role = "client"
	RoleTracker Role = "trackerd"
	RoleStore   Role = "stored"
	RoleTool    Role = "tool"
)

// Hello opens the handshake: see the package's page.
type Hello struct {
	Versions []uint16 // asker: all that it speaks; answerer: the one it chose
	Cluster  string
	Role     Role
	Nonce    []byte // 32 bytes
	Proof    []byte // answerer only
}

// Proof is the asker's half of the proof of the key.
type Proof struct {
	MAC []byte
}

// Head stands before every request on a volume.
type Head struct {
	Vol     tnv.VolumeID
	Session tnv.SessionID
	Slot    uint32 // mutations: below SessionInfo.Slots
	Seq     uint64 // mutations: one more than the slot's last
	Cred    tnv.Cred
}

// OpenSession begins a session on a volume, or resumes one.
type OpenSession struct {
	Volume   string
	Resume   tnv.SessionID // not 0: go on with this session if it still is
	Identity string        // a session with the same identity ends; empty: none does
	Client   string        // for people: "mount /mnt/media on host x"
	ReadOnly bool
	Dropped  bool // nothing that was leased before is believed any more
}

// SessionInfo is what a client must know of its session and volume.
type SessionInfo struct {
	Session     tnv.SessionID
	Vol         tnv.VolumeID
	Epoch       tnv.Epoch
	Seq         tnv.BatchSeq // the newest batch that the owner knows of
	Slots       uint32
	KeepAliveMs uint32 // send KeepAlive this often
	ExpiryMs    uint32 // a session without contact for so long may end
	MinReplicas uint32 // holders that a commit needs, at most as many as the group has members alive
	Resumed     bool
	LeaseGen    uint32 // the generation that leases of this session have from now on
	LeaseMs     uint32 // how long leases last behind the sending of a KeepAlive
}

// KeepAlive tells the owner that the session lives.
type KeepAlive struct {
	Vol        tnv.VolumeID
	Session    tnv.SessionID
	MapVersion uint64 // of the cluster map that the client has
}

// KeepAliveReply carries what the owner wants of the session.
type KeepAliveReply struct {
	Epoch    tnv.Epoch
	Map      *tnv.Map  // nil if the client's is current
	Unlinked []tnv.Ino // inodes without a name: Released is due for each, once no handle is open
	// LeaseGen is the generation of leases that this renews. If it is a new one,
	// those of earlier ones have lapsed: whatever they covered is to be forgotten.
	LeaseGen uint32
	Renewed  bool // false: the leases go on lapsing
}

// CloseSession ends a session at once: what it holds is freed.
type CloseSession struct {
	Vol     tnv.VolumeID
	Session tnv.SessionID
}

// Released says that the session has no open handle of these inodes, and that
// it can get none: they have no name.
type Released struct {
	Inos []tnv.Ino
}

// GetMap asks for the cluster map.
type GetMap struct {
	IfVersion uint64 // nothing comes if the map still has this version and Epoch
	Epoch     tnv.Epoch
}

// GetMapReply carries the map; nil if the asker's is current.
type GetMapReply struct {
	Map *tnv.Map
}

// Announce is how a storage daemon enters the cluster, at its start and
// whenever a tracker does not know it.
type Announce struct {
	Node     tnv.Node // Group and State are ignored
	Group    string   // name; a group that is not yet is made
	New      bool     // the store is empty and was never announced
	SameHost bool     // the operator allows members of the group on one host
}

// AnnounceReply takes the daemon in. A daemon that is refused gets an error:
// KindWrongCluster, or KindConflict for a boot counter that went back or is
// used twice, or a host that the group has already.
type AnnounceReply struct {
	Group  tnv.GroupID
	Map    tnv.Map
	BeatMs uint32 // send NodeBeat this often
}

// NodeBeat is a storage daemon's heartbeat.
type NodeBeat struct {
	Node          tnv.NodeID
	Boot          tnv.BootID
	State         tnv.NodeState // NodeAlive, NodeFull, NodeSlow or NodeLeaving
	Used          uint64        // bytes
	Capacity      uint64        // bytes
	Blocks        uint64        // live blocks
	BehindBlocks  uint64        // blocks that peers have and this store lacks, as far as it knows
	BehindBytes   uint64
	CopyRate      uint64 // bytes per second that it copies from peers at present
	Comparing     bool   // since its start it has not compared itself with all its peers: it may lack more
	CorruptBlocks uint64 // found since the start
	MendedBlocks  uint64 // since the start
	MapVersion    uint64
	MapEpoch      tnv.Epoch
}

// NodeBeatReply brings the map if it changed. Error KindNotExist: announce again.
type NodeBeatReply struct {
	Map     *tnv.Map
	Lacking uint64 // blocks that the metadata records the store to lack
}

// BlockHome names a block and where its header says that it belongs.
type BlockHome struct {
	Block tnv.BlockID
	Home  tnv.Home
}

// Alive asks the owner of a volume which blocks the metadata names. At most MaxBatch.
type Alive struct {
	Vol    tnv.VolumeID
	Blocks []BlockHome
}

// AliveReply has one value per block. Any doubt is Alive.
type AliveReply struct {
	State []Liveness
}

// Liveness of a block.
type Liveness uint8

const (
	LiveBlock     Liveness = iota // named by the metadata, or granted and not yet committed, or in doubt
	DeletingBlock                 // a deletion of it is pending
	DeadBlock                     // certainly named by nothing, and never will be
)

// MaxBatch is how many blocks one message may name.
const MaxBatch = 4096

// Held says that a store has these blocks, synced: records of their lack are removed.
type Held struct {
	Node   tnv.NodeID
	Boot   tnv.BootID
	Vol    tnv.VolumeID
	Blocks []tnv.BlockID
}

// Lacking asks the owner of a volume which blocks its metadata records a store
// to lack, in the order of ids, from From on. At most MaxBatch.
type Lacking struct {
	Node  tnv.NodeID
	Vol   tnv.VolumeID
	From  tnv.BlockID
	Limit uint32
}

// LackingReply has them; More: there are more behind the last.
type LackingReply struct {
	Blocks []BlockHome
	More   bool
}

// StatusRequest asks for everything that `tnv status` shows.
type StatusRequest struct {
}

// Status is a tracker's view of the cluster.
type Status struct {
	Trackers []TrackerStatus
	Volumes  []VolumeStatus
	Groups   []GroupStatus
}

// TrackerStatus is one tracker.
type TrackerStatus struct {
	Addr   string
	Alive  bool
	Engine string // "pebble", "postgres", "mem"
}

// VolumeStatus is one volume.
type VolumeStatus struct {
	ID               tnv.VolumeID
	Name             string
	Owner            string // address of the tracker
	Epoch            tnv.Epoch
	Files            uint64 // inodes in use
	Bytes            uint64 // allocated
	Sessions         uint32
	PendingDeletions uint64 // blocks to be deleted, counted per store
	Unlinked         uint64 // inodes without a name, not yet reclaimed
}

// GroupStatus is one group. State is "whole" (every member alive, not slow, and
// lacking nothing, as far as a comparison since its start has shown), "degraded" or "down" (no member alive).
type GroupStatus struct {
	ID           tnv.GroupID
	Name         string
	State        string
	BehindBlocks uint64
	BehindBytes  uint64
	Nodes        []NodeStatus
}

// NodeStatus is one storage daemon.
type NodeStatus struct {
	Node          tnv.Node
	Blocks        uint64
	BehindBlocks  uint64 // the larger of what the metadata and the daemon say
	BehindBytes   uint64
	CopyRate      uint64 // bytes per second that it copies from peers at present
	CorruptBlocks uint64
	MendedBlocks  uint64
	LastBeatMs    uint64 // since the last heartbeat
}

// AttrReply answers most operations.
type AttrReply struct {
	Attr tnv.Attr
}

// Lookup finds a name in a directory. Name may be "..".
type Lookup struct {
	Parent tnv.Ino
	Name   string
}

// GetAttr reads an inode's attributes.
type GetAttr struct {
	Ino tnv.Ino
}

// ReadDir lists entries behind a cookie, in the order of cookies.
type ReadDir struct {
	Ino    tnv.Ino
	Cookie uint64 // 0: from the start. "." and ".." are not among the entries.
	Limit  uint32 // entries
	Attrs  bool   // the attributes of each entry as well
}

// ReadDirReply has at most Limit entries (a few more where cookies collide). End: none is behind them.
type ReadDirReply struct {
	Dir     tnv.Attr
	Entries []tnv.Dirent
	Attrs   []tnv.Attr // as Entries, if asked for
	End     bool
}

// ReadLink reads a symbolic link.
type ReadLink struct {
	Ino tnv.Ino
}

// ReadLinkReply has the link's target.
type ReadLinkReply struct {
	Target string
}

// GetXattr reads an extended attribute.
type GetXattr struct {
	Ino  tnv.Ino
	Name string
}

// XattrReply has its value.
type XattrReply struct {
	Value []byte
}

// ListXattr lists the names of the extended attributes.
type ListXattr struct {
	Ino tnv.Ino
}

// ListXattrReply has them, sorted.
type ListXattrReply struct {
	Names []string
}

// Extents reads the extents of Count chunks from First on.
type Extents struct {
	Ino    tnv.Ino
	First  uint64
	Count  uint32 // at most MaxChunks
	IfData uint64 // not 0: no extents come if Attr.Data still has this value
}

// MaxChunks is how many chunks one Extents or Commit may name.
const MaxChunks = 64

// ExtentsReply has the attributes, read at the same moment, and the extents,
// sorted and disjoint; what they do not cover below the size reads as zeros. Of
// files in many pieces fewer chunks come than were asked for, at least one.
type ExtentsReply struct {
	Attr   tnv.Attr
	Same   bool // IfData still holds: Chunks is empty
	Chunks [][]tnv.Extent
}

// StatFS asks for the volume's figures.
type StatFS struct {
}

// Resolve walks a path from the root in one round trip. Symbolic links on the
// way are followed within the volume (an absolute target begins at its root;
// ".." never leaves it), the last one only with Follow. Search permission is
// checked for Head.Cred.
type Resolve struct {
	Path   string
	Follow bool
}

// ResolveReply has the inode that was found.
type ResolveReply struct {
	Attr   tnv.Attr
	Parent tnv.Ino // the directory in which it was found, 0 for the root
}

// Create makes a regular file or special file, or finds a regular one.
type Create struct {
	Parent  tnv.Ino
	Name    string
	Mode    uint32 // type and permissions; no type: regular
	Rdev    uint32
	Excl    bool   // KindExist if the name is there
	Umask   uint32 // taken from Mode unless Parent has a default ACL
	Unnamed bool   // a regular file without a name, as O_TMPFILE makes it; Name is ignored
}

// CreateReply tells whether it was made.
type CreateReply struct {
	Attr    tnv.Attr
	Created bool
}

// Mkdir makes a directory.
type Mkdir struct {
	Parent tnv.Ino
	Name   string
	Mode   uint32 // permissions
	Umask  uint32 // taken from Mode unless Parent has a default ACL
}

// Symlink makes a symbolic link.
type Symlink struct {
	Parent tnv.Ino
	Name   string
	Target string
}

// Link gives an inode one more name.
type Link struct {
	Ino    tnv.Ino
	Parent tnv.Ino
	Name   string
}

// Unlink removes a name that is not a directory's.
type Unlink struct {
	Parent tnv.Ino
	Name   string
}

// UnlinkReply names the inode that lost its last name, 0 if none did: the
// session sends Released for it once it has no handle.
type UnlinkReply struct {
	Unlinked tnv.Ino
	Attr     tnv.Attr // of the inode that lost a name; of the inode moved, for Rename
}

// Rmdir removes an empty directory.
type Rmdir struct {
	Parent tnv.Ino
	Name   string
}

// Rename moves a name. Flags are those of renameat2(2).
type Rename struct {
	Parent    tnv.Ino
	Name      string
	NewParent tnv.Ino
	NewName   string
	Flags     uint32
}

// Flags of Rename, as in renameat2(2).
const (
	RenameNoReplace = 1
	RenameExchange  = 2
)

// SetAttrMask says which fields of SetAttr count.
type SetAttrMask uint32

const (
	SetMode SetAttrMask = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
	SetAtimeNow // with the owner's clock
	SetMtimeNow
	SetCtime     // only with the kernel's write-back; ignored
	SetKillSUID  // clear set-user-id and set-group-id as a write does
	SetSizeWrite // SetSize by someone who has the file open for writing: no permission check
	SetAccessed  // the content was read: Atime by the owner's clock, and nothing else changes
)

// SetAttr changes attributes. Times are nanoseconds since 1970.
type SetAttr struct {
	Ino   tnv.Ino
	Mask  SetAttrMask
	Mode  uint32
	UID   uint32
	GID   uint32
	Size  uint64
	Atime int64
	Mtime int64
}

// SetXattr sets an extended attribute. Flags as in setxattr(2): 1 create, 2 replace.
// An access ACL changes the mode as well.
type SetXattr struct {
	Ino      tnv.Ino
	Name     string
	Value    []byte
	Flags    uint32
	KillSGID bool // an access ACL set by someone outside the file's group: set-group-id goes
}

// RemoveXattr removes one.
type RemoveXattr struct {
	Ino  tnv.Ino
	Name string
}

// ChunkExtents are new extents of one chunk: those behind cover those before.
type ChunkExtents struct {
	Chunk   uint64
	Extents []tnv.Extent
}

// BlockHolders says who has a block.
type BlockHolders struct {
	Block   tnv.BlockID
	Holders []tnv.Holder
}

// Commit makes written blocks part of a file. At most MaxChunks chunks and
// MaxBatch extents. An extent without a block (Block 0) is a hole.
type Commit struct {
	Ino      tnv.Ino
	Size     uint64 // the file is at least so long afterwards
	Mtime    int64  // of the last write; 0: the owner's clock
	Chunks   []ChunkExtents
	Holders  []BlockHolders // of every block in Chunks
	MapEpoch tnv.Epoch
	Sync     bool // answered only when on disk
	KillSUID bool
	// Append moves the extents, and Size, so that the first begins where the file
	// ends: what was said of their place is a guess. KindWouldBlock: from there they
	// would lie in other chunks than those named; nothing was done.
	Append bool
}

// Grant asks for fresh block ids.
type Grant struct {
	Count uint32 // at most 4096
}

// GrantReply has the ids [First, First+Count).
type GrantReply struct {
	First tnv.BlockID
	Count uint32
}

// SyncFS returns when every mutation acknowledged so far is on disk.
type SyncFS struct {
}

// BlockMeta describes a block: everything but its bytes.
type BlockMeta struct {
	Key  tnv.BlockKey
	Home tnv.Home
	Len  uint32
	Unit uint32   // bytes per checksum: a power of two from 4 KiB to 64 KiB
	Sums []uint32 // see BlockSum; one per unit, the last may be shorter
}

// Put stores a block and forwards it. The payload is its Len bytes.
type Put struct {
	Block BlockMeta
	Sync  bool // every holder has it on disk before it answers
	Chain []ChainLink
}

// ChainLink is the next member to hand the block on to.
type ChainLink struct {
	Node tnv.NodeID
	Addr string
}

// PutReply names who holds the block: the daemon asked and those of the chain
// that took it. Who of the chain is not named does not.
type PutReply struct {
	Holders []tnv.Holder
}

// Get reads Len bytes at Off of a block; Len 0: up to its end.
// KindMissing: this store lacks it. KindBusy: ask another member.
type Get struct {
	Key  tnv.BlockKey
	Off  uint32
	Len  uint32
	Meta bool // the reply names Home and every sum, for a copy
}

// GetReply: the payload is the whole units that cover the range asked for, Off
// being where it begins. Sums are the units' checksums (with Get.Meta: all of the block's).
type GetReply struct {
	Block BlockMeta
	Off   uint32
}

// Delete removes blocks; a tombstone stays. From trackers only. At most MaxBatch.
type Delete struct {
	Node   tnv.NodeID // the store meant: another one refuses
	Vol    tnv.VolumeID
	Blocks []tnv.BlockID
}

// DeleteReply comes when the tombstones are on disk.
type DeleteReply struct {
}

// Sync puts all that was taken so far on disk.
type Sync struct {
	Blocks []tnv.BlockKey // at most MaxBatch; the reply names those of them that the store lacks
}

// SyncReply says in which boot, and which of the blocks the store lacks.
type SyncReply struct {
	Node    tnv.NodeID
	Boot    tnv.BootID
	Missing []tnv.BlockKey
}

// Digest asks for digests of the set of block ids in a range, cut into Parts parts of equal width.
type Digest struct {
	Vol   tnv.VolumeID
	From  tnv.BlockID
	To    tnv.BlockID // exclusive; 0: no end
	Parts uint32      // 1 to 256
}

// DigestReply has per part the number of live blocks, and the sum modulo 2^64 of a
// hash of each id. Vols lists the volumes of which the store has blocks.
type DigestReply struct {
	Vols   []tnv.VolumeID
	Last   tnv.BlockID // largest id held in the volume
	Counts []uint64
	Sums   []uint64
}

// List lists the live blocks of a range in the order of ids.
type List struct {
	Vol   tnv.VolumeID
	From  tnv.BlockID
	To    tnv.BlockID // exclusive; 0: no end
	Limit uint32      // at most MaxBatch
}

// ListReply has them; More: there are more behind the last.
type ListReply struct {
	Blocks []ListedBlock
	More   bool
}

// ListedBlock is a block's id, home and length.
type ListedBlock struct {
	Block tnv.BlockID
	Home  tnv.Home
	Len   uint32
}

// Repair tells a store that a block which it gave out did not match its
// checksums, or that it lacks it: it looks for itself, and mends it from a peer.
type Repair struct {
	Key  tnv.BlockKey
	Home tnv.Home
}

// Locate asks where a block lies, over a unix socket on the store's own host.
type Locate struct {
	Key tnv.BlockKey
}

// LocateReply says where in the segment, whose read-only descriptor comes with
// it (SCM_RIGHTS), the block's bytes lie. They may be punched out later: the
// sums tell, and whoever reads verifies.
type LocateReply struct {
	Block   BlockMeta
	Segment uint64 // equal for equal files
	Off     int64  // of the block's first byte in the file
}
