package meta

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Records are immutable once they are in a transaction or in the cache: a
// change is made on a copy. Each begins with a byte for its format's version.

const (
	recordV1 = 1
	recordV2 = 2 // inodes: with flags; volumes: with a state and settings
)

// inode is an inode: what stat tells, and what its chunks need.
type inode struct {
	tnv.Attr
	// Chunks from TrimFrom on that were last written by a batch up to TrimSeq
	// are as good as gone: truncation leaves them to the background.
	TrimFrom uint64
	TrimSeq  tnv.BatchSeq
	Alloc    uint64 // bytes of extents, those left to trim included; Blocks follows from it
	Xattrs   uint32 // number of extended attributes
	Target   string // of a symbolic link
}

const inodeFixed = 1 + 7*4 + 13*8

func (n *inode) encode() []byte {
	b := make([]byte, 0, inodeFixed+len(n.Target))
	b = append(b, recordV2)
	for _, v := range []uint32{n.Mode, n.Nlink, n.UID, n.GID, n.Rdev, n.Xattrs, uint32(n.Flags)} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	for _, v := range []uint64{uint64(n.Ino), n.Size, n.Blocks, uint64(n.Atime), uint64(n.Mtime), uint64(n.Ctime),
		uint64(n.Btime), uint64(n.Parent), n.Version, n.Data, n.TrimFrom, uint64(n.TrimSeq), n.Alloc} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return append(b, n.Target...)
}

func decodeInode(b []byte) (any, error) {
	d := decoder{b: b}
	version := d.u8()
	if version != recordV1 && version != recordV2 {
		d.fail()
	}
	var n inode
	for _, p := range []*uint32{&n.Mode, &n.Nlink, &n.UID, &n.GID, &n.Rdev, &n.Xattrs} {
		*p = d.u32()
	}
	if version == recordV2 {
		n.Flags = tnv.AttrFlags(d.u32())
	}
	var at, mt, ct, bt, ino, parent, trimSeq uint64
	for _, p := range []*uint64{&ino, &n.Size, &n.Blocks, &at, &mt, &ct, &bt, &parent, &n.Version, &n.Data, &n.TrimFrom, &trimSeq, &n.Alloc} {
		*p = d.u64()
	}
	n.Ino, n.Parent, n.TrimSeq = tnv.Ino(ino), tnv.Ino(parent), tnv.BatchSeq(trimSeq)
	n.Atime, n.Mtime, n.Ctime, n.Btime = int64(at), int64(mt), int64(ct), int64(bt)
	n.Target = string(d.rest())
	return &n, d.err
}

// dentry is where a name leads.
type dentry struct {
	Ino  tnv.Ino
	Type tnv.FileType
}

func (e *dentry) encode() []byte {
	return append(binary.BigEndian.AppendUint64([]byte{recordV1}, uint64(e.Ino)), byte(e.Type))
}

func decodeDentry(b []byte) (any, error) {
	d := decoder{b: b}
	d.version()
	e := dentry{Ino: tnv.Ino(d.u64()), Type: tnv.FileType(d.u8())}
	return &e, d.err
}

// An extent takes 29 bytes on disk:
//
//	off 4 | len 4 | block 8 | block off 4 | block len 4 | group 4 | flags 1
const extentSize = 29

func appendExtents(b []byte, l []tnv.Extent) []byte {
	b = slices.Grow(b, len(l)*extentSize)
	for _, e := range l {
		b = binary.BigEndian.AppendUint32(b, e.Off)
		b = binary.BigEndian.AppendUint32(b, e.Len)
		b = binary.BigEndian.AppendUint64(b, uint64(e.Block))
		b = binary.BigEndian.AppendUint32(b, e.BlockOff)
		b = binary.BigEndian.AppendUint32(b, e.BlockLen)
		b = binary.BigEndian.AppendUint32(b, uint32(e.Group))
		b = append(b, byte(e.Flags))
	}
	return b
}

func (d *decoder) extents() []tnv.Extent {
	if len(d.b)%extentSize != 0 {
		d.fail()
		return nil
	}
	l := make([]tnv.Extent, 0, len(d.b)/extentSize)
	for len(d.b) > 0 && d.err == nil {
		l = append(l, tnv.Extent{Off: d.u32(), Len: d.u32(), Block: tnv.BlockID(d.u64()), BlockOff: d.u32(),
			BlockLen: d.u32(), Group: tnv.GroupID(d.u32()), Flags: tnv.ExtentFlags(d.u8())})
	}
	return l
}

// chunk is a chunk's extents, deltas folded in. It is stored as a base record
// (version, seq, extents) and delta records (version, extents).
type chunk struct {
	extents []tnv.Extent
	seq     tnv.BatchSeq   // the last batch that wrote it
	base    int            // extents in the base record; -1: there is no base record
	deltas  []tnv.BatchSeq // the delta records, in order
	added   int            // extents in the delta records
}

func (c *chunk) encodeBase() []byte {
	return appendExtents(binary.BigEndian.AppendUint64([]byte{recordV1}, uint64(c.seq)), c.extents)
}

func encodeDelta(l []tnv.Extent) []byte { return appendExtents([]byte{recordV1}, l) }

// unlinked is an inode without a name, kept until no session holds a handle.
type unlinked struct {
	Waiting []tnv.SessionID // sessions that have not answered yet; empty: it may be reclaimed
}

func (u *unlinked) encode() []byte {
	b := []byte{recordV1}
	for _, s := range u.Waiting {
		b = binary.BigEndian.AppendUint64(b, uint64(s))
	}
	return b
}

func decodeUnlinked(b []byte) (any, error) {
	d := decoder{b: b}
	d.version()
	var u unlinked
	for len(d.b) > 0 && d.err == nil {
		u.Waiting = append(u.Waiting, tnv.SessionID(d.u64()))
	}
	return &u, d.err
}

// grantSize is how many block ids one grant record covers, a power of two.
const grantSize = 256

// grant says to whom a range of block ids was granted, and which were used in
// a commit. It goes when all are used or the session ends.
type grant struct {
	Session tnv.SessionID
	Used    [grantSize / 64]uint64
}

func (g *grant) full() bool {
	n := 0
	for _, w := range g.Used {
		n += bits.OnesCount64(w)
	}
	return n == grantSize
}

// use marks an id as used; false if it was already.
func (g *grant) use(b tnv.BlockID) bool {
	i := uint64(b) % grantSize
	if g.Used[i/64]&(1<<(i%64)) != 0 {
		return false
	}
	g.Used[i/64] |= 1 << (i % 64)
	return true
}

func (g *grant) used(b tnv.BlockID) bool {
	i := uint64(b) % grantSize
	return g.Used[i/64]&(1<<(i%64)) != 0
}

func (g *grant) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{recordV1}, uint64(g.Session))
	for _, w := range g.Used {
		b = binary.BigEndian.AppendUint64(b, w)
	}
	return b
}

func decodeGrant(b []byte) (any, error) {
	d := decoder{b: b}
	d.version()
	g := grant{Session: tnv.SessionID(d.u64())}
	for i := range g.Used {
		g.Used[i] = d.u64()
	}
	return &g, d.err
}

// usage is what the volume holds.
type usage struct {
	Files uint64 // inodes
	Bytes uint64 // allocated to files
}

func (u *usage) encode() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{recordV1}, u.Files), u.Bytes)
}

func decodeUsage(b []byte) (any, error) {
	d := decoder{b: b}
	d.version()
	return &usage{Files: d.u64(), Bytes: d.u64()}, d.err
}

// counter is the first id that was never reserved.
type counter struct{ Next uint64 }

func (c *counter) encode() []byte {
	return binary.BigEndian.AppendUint64([]byte{recordV1}, c.Next)
}

func decodeCounter(b []byte) (any, error) {
	d := decoder{b: b}
	d.version()
	return &counter{d.u64()}, d.err
}

// mark is a record whose key says it all: a pending deletion, a pending trim.
type mark struct{}

func (mark) encode() []byte { return []byte{recordV1} }

func decodeMark(b []byte) (any, error) {
	d := decoder{b: b}
	d.version()
	return mark{}, d.err
}

// lacking is a block that a store lacks: where it belongs.
type lacking struct {
	Home  tnv.Home
	Bytes uint32
}

func (l *lacking) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{recordV1}, uint64(l.Home.Ino))
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, l.Home.Chunk), l.Bytes)
}

func decodeLacking(b []byte) (any, error) {
	d := decoder{b: b}
	d.version()
	l := lacking{Home: tnv.Home{Ino: tnv.Ino(d.u64()), Chunk: d.u64()}, Bytes: d.u32()}
	return &l, d.err
}

// session is a client's session as the store keeps it; whether it is alive is
// the owner's to know.
type session struct {
	ID       tnv.SessionID
	Identity string
	Client   string
	ReadOnly bool
	Begun    int64 // nanoseconds since 1970
	Ended    bool  // nothing is done in its name any more; what it held is being freed
}

// slot is the last answer of a session's slot.
type slot struct {
	Seq    uint64
	Failed bool // Reply is a protocol.WireError
	Reply  []byte
}

func (s *slot) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{recordV1}, s.Seq)
	if s.Failed {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	return append(b, s.Reply...)
}

func decodeSlot(b []byte) (any, error) {
	d := decoder{b: b}
	d.version()
	s := slot{Seq: d.u64(), Failed: d.u8() == 1, Reply: slices.Clone(d.rest())}
	return &s, d.err
}

// group is a group's name.
type group struct {
	ID   tnv.GroupID
	Name string
}

// node is a storage daemon that was taken into the cluster.
type node struct {
	ID    tnv.NodeID
	Group tnv.GroupID
	Boot  tnv.BootID
	Host  string
	Addr  string // where it was last
}

// Rare records are msgpack behind the version byte.
func packed(v any) []byte {
	b, err := protocol.Marshal(v)
	if err != nil {
		panic(err) // our own types always marshal
	}
	return append([]byte{recordV1}, b...)
}

func (s *session) encode() []byte { return packed(s) }
func (g *group) encode() []byte   { return packed(g) }
func (n *node) encode() []byte    { return packed(n) }

func unpack[T any](b []byte) (any, error) {
	d := decoder{b: b}
	d.version()
	v := new(T)
	if d.err == nil {
		if err := protocol.Unmarshal(d.b, v); err != nil {
			d.fail()
		}
	}
	return v, d.err
}

// xattr is an extended attribute's value.
type xattr struct{ Value []byte }

func (x *xattr) encode() []byte { return append([]byte{recordV1}, x.Value...) }

func decodeXattr(b []byte) (any, error) {
	d := decoder{b: b}
	d.version()
	return &xattr{slices.Clone(d.rest())}, d.err
}

// decoder reads a record; after the first error it returns zeros.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = tnv.E("decode record", tnv.KindCorrupt, "damaged or of a newer format")
	}
}

func (d *decoder) take(n int) []byte {
	if d.err == nil && len(d.b) < n {
		d.fail()
	}
	if d.err != nil {
		return make([]byte, n)
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) u8() byte    { return d.take(1)[0] }
func (d *decoder) u32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }
func (d *decoder) u64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }
func (d *decoder) rest() []byte {
	p := d.b
	d.b = nil
	return p
}

func (d *decoder) version() {
	if d.u8() != recordV1 {
		d.fail()
	}
}

// encoder is a record that is stored under its own key.
type encoder interface{ encode() []byte }

// decoders tells how the record of each key class is read. Chunks are read
// from several keys: see loadChunk.
var decoders = map[byte]func([]byte) (any, error){
	keyInode:    decodeInode,
	keyDentry:   decodeDentry,
	keyXattr:    decodeXattr,
	keyUnlinked: decodeUnlinked,
	keyTrim:     decodeMark,
	keyLock:     decodeHeld,
	keySession:  unpack[session],
	keySlot:     decodeSlot,
	keyRefs:     decodeReferences,
	keyGrant:    decodeGrant,
	keyDeletion: decodeMark,
	keyLacking:  decodeLacking,
	keyOrphan:   decodeOrphan,
	keyCollect:  unpack[collection],
	keyMoved:    decodeMoved,
	keyUsage:    decodeUsage,
	keyCounter:  decodeCounter,
	keyVolume:   decodeVolume,
	keyGroup:    unpack[group],
	keyNode:     unpack[node],
	keyDrain:    unpack[Drain],
	keyRetired:  decodeMark,
}
