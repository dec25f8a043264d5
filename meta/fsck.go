package meta

import (
	"context"
	"slices"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// The checker of records. It reads them all as of one moment, while mutations go
// on, and verifies what must hold between them at the end of every batch: names
// and link counts, directories and their counts, chunks and allocation, extents
// and references, deletions, counters. So what it finds is wrong, whatever the
// load. Part by part, so that what it notes of each inode and block fits in memory.
//
// What is wrong with a count is repaired by the difference, not by the right
// value: operations change counts by differences, too, so that the repair holds
// whatever has happened since the moment (fsck_repair.go).

// maxFsck is how many inodes and blocks are noted at a time: some 150 MiB.
const maxFsck = 1 << 20

// fsckInode is what is seen of an inode.
type fsckInode struct {
	rec     *inode      // without Target
	names   uint32      // entries that name it
	few     []fsckEntry // some of them, until the inode is seen
	parent  tnv.Ino     // of one of them
	entries uint64      // in it, if it is a directory
	subdirs uint32
	alloc   uint64
	end     uint64 // where its last extent ends
	chunks  uint32
	xattrs  uint32
	parked  bool
	unsure  bool // a chunk of it could not be read
}

// fsckEntry is an entry that names an inode.
type fsckEntry struct {
	parent tnv.Ino
	typ    tnv.FileType
	name   string
}

// fewEntries is how many entries of one inode are checked for its type.
const fewEntries = 4

// fsckBlock is what is seen of a block.
type fsckBlock struct {
	extents, marked uint32
	refs            uint64
	home, bare      tnv.Home // a chunk that names it; one in which its extents are not marked
	elsewhere       bool     // another chunk than home names it
	counted         bool     // it has an R record
}

// fsck is one pass over the records.
type fsck struct {
	v      *Volume
	part   Part
	emit   func(protocol.Damage)
	inodes map[tnv.Ino]*fsckInode
	blocks map[tnv.BlockID]*fsckBlock
	walk   chunkWalk
	use    usage
	files  uint64
	bytes  uint64
	most   map[string]uint64 // largest id in use
	next   map[string]uint64 // first id that was never reserved
	seen   uint64
	blind  bool // some chunk could not be read: what names blocks is not known
}

// CheckRecords calls emit for all damage of the records of a part, and returns
// how many records it has read. ErrTooMany asks for a smaller part.
func (v *Volume) CheckRecords(ctx context.Context, part Part, emit func(protocol.Damage)) (uint64, error) {
	c := &fsck{v: v, part: part, emit: emit, inodes: map[tnv.Ino]*fsckInode{}, blocks: map[tnv.BlockID]*fsckBlock{},
		most: map[string]uint64{}, next: map[string]uint64{}}
	c.walk.fn = c.chunk
	err := v.snapshot(ctx, "\x00", "", func(key string, value []byte) error {
		if len(c.inodes)+len(c.blocks) > maxFsck {
			return ErrTooMany
		}
		if c.seen++; key[0] != keyChunk {
			if err := c.walk.flush(); err != nil {
				return err
			}
		}
		c.record(key, value)
		return nil
	})
	if err == nil {
		err = c.walk.flush()
	}
	if err != nil {
		return c.seen, err
	}
	c.judge()
	return c.seen, nil
}

// inode is the note of an inode of the part; nil for others.
func (c *fsck) inode(ino tnv.Ino) *fsckInode {
	if !c.part.Has(uint64(ino)) {
		return nil
	}
	n := c.inodes[ino]
	if n == nil {
		n = &fsckInode{}
		c.inodes[ino] = n
	}
	return n
}

func (c *fsck) block(b tnv.BlockID) *fsckBlock {
	if !c.part.Has(uint64(b)) {
		return nil
	}
	x := c.blocks[b]
	if x == nil {
		x = &fsckBlock{}
		c.blocks[b] = x
	}
	return x
}

// record takes one stored record in. Classes come in the order of their bytes:
// chunks before deletions.
func (c *fsck) record(key string, value []byte) {
	if key[0] == keyChunk {
		c.chunkRecord(key, value)
		return
	}
	decode := decoders[key[0]]
	if decode == nil {
		c.unreadable(key)
		return
	}
	val, err := decode(value)
	if err != nil {
		c.unreadable(key)
		return
	}
	switch rec := val.(type) {
	case *dentry:
		c.dentry(key, rec)
	case *inode:
		c.inodeRecord(rec)
	case *unlinked:
		if n := c.inode(tnv.Ino(split1(key))); n != nil {
			n.parked = true
		}
	case *xattr:
		if n := c.inode(tnv.Ino(split1(key))); n != nil {
			n.xattrs++
		}
	case *references:
		if x := c.block(tnv.BlockID(split1(key))); x != nil {
			x.counted, x.refs = true, rec.Count
		}
	case *usage:
		c.use = *rec
	case *counter:
		c.next[key[1:]] = rec.Next
	case mark:
		if key[0] == keyDeletion {
			c.deletion(key)
		}
	}
}

func (c *fsck) unreadable(key string) {
	if c.part.N == 0 {
		c.emit(protocol.Damage{Kind: protocol.DamageRecord, Name: formatKey(c.v.vol, key)})
	}
}

// chunkRecord takes one of a chunk's records. Extents that overlap are told from
// a record that makes no sense.
func (c *fsck) chunkRecord(key string, value []byte) {
	if len(key) < 18 {
		c.unreadable(key)
		return
	}
	ino, index := split2(key)
	if err := c.walk.take(key, value); err == nil {
		return
	}
	c.walk.key, c.walk.c, c.blind = "", nil, true
	n := c.inode(tnv.Ino(ino))
	if n == nil {
		return
	}
	n.unsure = true
	if _, ok := looseExtents(key[17:], value); ok {
		c.emit(protocol.Damage{Kind: protocol.DamageExtents, Ino: tnv.Ino(ino), Chunk: index})
		return
	}
	c.emit(protocol.Damage{Kind: protocol.DamageRecord, Ino: tnv.Ino(ino), Chunk: index, Name: formatKey(c.v.vol, key)})
}

// looseExtents reads the extents of a base record that overlap.
func looseExtents(suffix string, value []byte) ([]tnv.Extent, bool) {
	d := decoder{b: value}
	d.version()
	if suffix != "\x00" {
		return nil, false
	}
	d.u64()
	l := d.extents()
	return l, d.err == nil && !slices.ContainsFunc(l, func(e tnv.Extent) bool { return !inChunk(e) })
}

func (c *fsck) chunk(home tnv.Home, ch *chunk) error {
	c.most[idIno] = max(c.most[idIno], uint64(home.Ino))
	n := c.inode(home.Ino)
	if n != nil {
		n.chunks++
		n.alloc += allocated(ch.extents)
	}
	for _, e := range ch.extents {
		if n != nil {
			n.end = max(n.end, home.Chunk*tnv.ChunkSize+uint64(e.End()))
		}
		c.most[idBlock] = max(c.most[idBlock], uint64(e.Block))
		x := c.block(e.Block)
		if x == nil {
			continue
		}
		if x.extents++; e.Flags&tnv.ExtentShared != 0 {
			x.marked++
		} else {
			x.bare = home
		}
		x.elsewhere = x.elsewhere || x.extents > 1 && x.home != home
		x.home = home
	}
	return nil
}

func (c *fsck) dentry(key string, e *dentry) {
	parent := tnv.Ino(split1(key))
	if p := c.inode(parent); p != nil {
		p.entries++
		if e.Type == tnv.TypeDir {
			p.subdirs++
		}
	}
	n := c.inode(e.Ino)
	if n == nil {
		return
	}
	n.names++
	n.parent = parent
	if len(n.few) < fewEntries { // inodes come behind entries: what this one names is not known yet
		_, name := dentryName(key)
		n.few = append(n.few, fsckEntry{parent, e.Type, name})
	}
}

func (c *fsck) inodeRecord(rec *inode) {
	c.files++
	c.bytes += rec.Alloc
	c.most[idIno] = max(c.most[idIno], uint64(rec.Ino))
	if n := c.inode(rec.Ino); n != nil {
		rec.Target = ""
		n.rec = rec
		for _, e := range n.few {
			if e.typ != rec.Type() {
				c.emit(protocol.Damage{Kind: protocol.DamageType, Ino: e.parent, Child: rec.Ino, Name: e.name, Have: uint64(e.typ), Want: uint64(rec.Type())})
			}
		}
		n.few = nil
	}
}

func (c *fsck) deletion(key string) {
	node, b := split2(key)
	if !c.part.Has(b) {
		return
	}
	if x := c.blocks[tnv.BlockID(b)]; x != nil && x.extents > 0 {
		c.emit(protocol.Damage{Kind: protocol.DamageDeletion, Ino: x.home.Ino, Chunk: x.home.Chunk, Block: tnv.BlockID(b), Node: tnv.NodeID(node)})
	}
}

// judge compares what was seen.
func (c *fsck) judge() {
	for ino, n := range c.inodes {
		switch {
		case n.rec != nil:
			c.judgeNames(n)
			c.judgeContent(n)
		case n.chunks > 0:
			c.emit(protocol.Damage{Kind: protocol.DamageChunk, Ino: ino, Have: n.alloc, Want: n.end})
		case n.parked:
			c.emit(protocol.Damage{Kind: protocol.DamageParked, Ino: ino})
		}
		for _, e := range n.few {
			if n.chunks == 0 {
				c.emit(protocol.Damage{Kind: protocol.DamageDangling, Ino: e.parent, Child: ino, Name: e.name})
			}
		}
	}
	for b, x := range c.blocks {
		if !c.blind {
			c.judgeBlock(b, x)
		}
	}
	if c.part.N != 0 {
		return
	}
	if c.use.Files != c.files {
		c.emit(protocol.Damage{Kind: protocol.DamageFiles, Have: c.use.Files, Want: c.files})
	}
	if c.use.Bytes != c.bytes {
		c.emit(protocol.Damage{Kind: protocol.DamageBytes, Have: c.use.Bytes, Want: c.bytes})
	}
	for name, most := range c.most {
		if most >= c.next[name] && most > uint64(tnv.RootIno) {
			c.emit(protocol.Damage{Kind: protocol.DamageCounter, Name: name, Have: c.next[name], Want: most + 1})
		}
	}
}

func (c *fsck) judgeNames(n *fsckInode) {
	rec := n.rec
	links := n.names
	if rec.IsDir() {
		links = n.subdirs + 2
	}
	damage := func(kind protocol.DamageKind, have, want uint64) {
		c.emit(protocol.Damage{Kind: kind, Ino: rec.Ino, Have: have, Want: want})
	}
	switch named := n.names > 0 || rec.Ino == tnv.RootIno; {
	case !named && n.parked && rec.Nlink == 0:
	case !named:
		damage(protocol.DamageNameless, uint64(rec.Nlink), uint64(links))
	case n.parked:
		damage(protocol.DamageParked, uint64(rec.Nlink), uint64(links))
	case rec.Nlink != links:
		damage(protocol.DamageLinks, uint64(rec.Nlink), uint64(links))
	}
	if rec.IsDir() {
		if rec.Size != n.entries {
			damage(protocol.DamageEntries, rec.Size, n.entries)
		}
		if n.names > 0 && rec.Parent != n.parent {
			damage(protocol.DamageParent, uint64(rec.Parent), uint64(n.parent))
		}
	}
}

func (c *fsck) judgeContent(n *fsckInode) {
	if n.rec.Alloc != n.alloc && !n.unsure {
		c.emit(protocol.Damage{Kind: protocol.DamageAlloc, Ino: n.rec.Ino, Have: n.rec.Alloc, Want: n.alloc})
	}
	if n.rec.Xattrs != n.xattrs {
		c.emit(protocol.Damage{Kind: protocol.DamageXattrs, Ino: n.rec.Ino, Have: uint64(n.rec.Xattrs), Want: uint64(n.xattrs)})
	}
}

func (c *fsck) judgeBlock(b tnv.BlockID, x *fsckBlock) {
	if x.refs != uint64(x.marked) {
		c.emit(protocol.Damage{Kind: protocol.DamageRefs, Ino: x.home.Ino, Chunk: x.home.Chunk, Block: b, Have: x.refs, Want: uint64(x.marked)})
	}
	if x.extents > x.marked && (x.marked > 0 || x.counted || x.elsewhere) {
		c.emit(protocol.Damage{Kind: protocol.DamageShared, Ino: x.bare.Ino, Chunk: x.bare.Chunk, Block: b})
	}
}
