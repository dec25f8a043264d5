package meta

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// A chunk's extents are sorted, disjoint and within the chunk. A commit lays new
// ones over them. It writes a small delta record where the chunk has many
// extents, and folds the deltas into the base when they have grown to its size:
// so a small write costs a small record, and a chunk is read in one scan.

// foldAt is the number of extents up to which a chunk is always written whole.
const foldAt = 32

// maxChunkExtents bounds a chunk's extents, so that its record and a reply with
// all of them (at most 37 bytes each) keep their limits.
const maxChunkExtents = 1 << 16

// load takes one stored record of the chunk; suffix is its key behind the chunk's.
func (c *chunk) load(suffix string, v []byte) error {
	d := decoder{b: v}
	d.version()
	switch {
	case suffix == "\x00":
		c.seq = tnv.BatchSeq(d.u64())
		c.extents = d.extents()
		c.base = len(c.extents)
		end := uint32(0)
		for _, e := range c.extents {
			if !inChunk(e) || e.Off < end {
				d.fail()
			}
			end = e.End()
		}
	case len(suffix) == 9 && suffix[0] == 1:
		seq := tnv.BatchSeq(binary.BigEndian.Uint64([]byte(suffix[1:])))
		l := d.extents()
		for _, e := range l {
			if !inChunk(e) {
				d.fail()
				return d.err
			}
			c.extents = overlay(c.extents, e)
		}
		c.seq = seq
		c.deltas = append(c.deltas, seq)
		c.added += len(l)
	default:
		d.fail()
	}
	return d.err
}

// inChunk tells whether an extent has bytes, and all of them lie in a chunk.
func inChunk(e tnv.Extent) bool {
	return e.Len > 0 && uint64(e.Off)+uint64(e.Len) <= tnv.ChunkSize
}

// overlay lays e over l, in place where it can. An e without a block is a hole.
func overlay(l []tnv.Extent, e tnv.Extent) []tnv.Extent { return lay(l, e, e.Block != 0) }

func lay(l []tnv.Extent, e tnv.Extent, keep bool) []tnv.Extent {
	lo := sort.Search(len(l), func(i int) bool { return l[i].End() > e.Off })
	hi := lo
	var parts [3]tnv.Extent
	n := 0
	for ; hi < len(l) && l[hi].Off < e.End(); hi++ {
		if l[hi].Off < e.Off {
			parts[n] = cut(l[hi], l[hi].Off, e.Off)
			n++
		}
	}
	if keep {
		parts[n] = e
		n++
	}
	if hi > lo && l[hi-1].End() > e.End() {
		parts[n] = cut(l[hi-1], e.End(), l[hi-1].End())
		n++
	}
	return slices.Replace(l, lo, hi, parts[:n]...)
}

// flatten lays extents over each other, holes kept: sorted and disjoint.
func flatten(add []tnv.Extent) []tnv.Extent {
	if len(add) == 1 {
		return add
	}
	var top []tnv.Extent
	for _, e := range add {
		top = lay(top, e, true)
	}
	return top
}

// merge lays flat extents over l in one pass; l stays as it is.
func merge(l, top []tnv.Extent) []tnv.Extent {
	out := make([]tnv.Extent, 0, len(l)+2*len(top))
	l = slices.Clone(l)
	for _, t := range top {
		for len(l) > 0 && l[0].End() <= t.Off {
			out, l = append(out, l[0]), l[1:]
		}
		if len(l) > 0 && l[0].Off < t.Off {
			out = append(out, cut(l[0], l[0].Off, t.Off))
		}
		for len(l) > 0 && l[0].End() <= t.End() {
			l = l[1:]
		}
		if len(l) > 0 && l[0].Off < t.End() {
			l[0] = cut(l[0], t.End(), l[0].End())
		}
		if t.Block != 0 {
			out = append(out, t)
		}
	}
	return append(out, l...)
}

// cut is the part of e in [from, to).
func cut(e tnv.Extent, from, to uint32) tnv.Extent {
	e.BlockOff += from - e.Off
	e.Off, e.Len = from, to-from
	return e
}

func allocated(l []tnv.Extent) uint64 {
	var n uint64
	for _, e := range l {
		n += uint64(e.Len)
	}
	return n
}

// blocksGone lists the blocks without references of was that is names no more.
func blocksGone(was, is []tnv.Extent) []tnv.Extent {
	gone := make(map[tnv.BlockID]bool, len(was))
	for _, e := range was {
		gone[e.Block] = e.Block != 0 && e.Flags&tnv.ExtentShared == 0
	}
	for _, e := range is {
		delete(gone, e.Block)
	}
	var out []tnv.Extent
	for _, e := range was {
		if gone[e.Block] {
			delete(gone, e.Block)
			out = append(out, e)
		}
	}
	return out
}

// chunkOf reads a chunk of an inode, without what truncation has left of it; nil if nothing is there.
func (tx *Tx) chunkOf(n *inode, index uint64) (c *chunk, left *chunk, err error) {
	c, err = getAs[chunk](tx, chunkKey(n.Ino, index))
	if err != nil || c == nil {
		return nil, nil, err
	}
	if index >= n.TrimFrom && c.seq <= n.TrimSeq {
		return nil, c, nil
	}
	return c, nil, nil
}

// writeChunk lays extents over a chunk of n and frees the blocks that it names
// no more. It returns by how many bytes the chunk's allocation grew.
func (tx *Tx) writeChunk(n *inode, index uint64, add []tnv.Extent) (int64, error) {
	was, left, err := tx.chunkOf(n, index)
	if err != nil {
		return 0, err
	}
	key := chunkKey(n.Ino, index)
	if was == nil {
		was = &chunk{base: -1}
	}
	top := flatten(add)
	is := &chunk{extents: merge(was.extents, top), seq: tx.seq, base: was.base, deltas: was.deltas, added: was.added + len(add)}
	if len(is.extents) > maxChunkExtents && len(is.extents) > len(was.extents) {
		return 0, tnv.E("commit", tnv.KindNoSpace, "chunk %d of inode %d is in %d pieces, at most %d are allowed: write it anew in larger ones", index, n.Ino, len(is.extents), maxChunkExtents)
	}
	grew := int64(allocated(is.extents)) - int64(allocated(was.extents))
	if left != nil { // all of it goes: the new base replaces it
		tx.replaced(left.extents, nil)
		is.base, is.deltas = left.base, left.deltas
		grew -= int64(allocated(left.extents))
	}
	if old := covered(was.extents, top); len(old) > 0 || len(add) > 1 { // new ones may cover each other
		tx.freeBlocks(blocksGone(append(old, add...), is.extents))
	}
	tx.recount(was.extents, is.extents)
	tx.storeChunk(key, is, add, left != nil)
	return grew, nil
}

// covered lists the extents of l over which flat extents lie.
func covered(l, top []tnv.Extent) (out []tnv.Extent) {
	for _, e := range top {
		i := sort.Search(len(l), func(i int) bool { return l[i].End() > e.Off })
		for ; i < len(l) && l[i].Off < e.End(); i++ {
			out = append(out, l[i])
		}
	}
	return out
}

// setChunk gives a chunk of n other extents, sorted and disjoint.
func (tx *Tx) setChunk(n *inode, index uint64, l []tnv.Extent) error {
	old, left, err := tx.chunkOf(n, index)
	if err != nil || old == nil && len(l) == 0 {
		return err
	}
	if old == nil {
		old = left // all of it goes
	}
	if old == nil {
		old = &chunk{base: -1}
	}
	tx.replaced(old.extents, l)
	is := &chunk{extents: l, seq: tx.seq, base: old.base, deltas: old.deltas}
	tx.storeChunk(chunkKey(n.Ino, index), is, nil, true)
	return tx.allocate(n, int64(allocated(l))-int64(allocated(old.extents)))
}

// storeChunk writes c, of which add is new: as a delta, or folded.
func (tx *Tx) storeChunk(key string, c *chunk, add []tnv.Extent, whole bool) {
	if len(c.extents) == 0 {
		tx.dropChunk(key, c)
		return
	}
	twice := len(c.deltas) > 0 && c.deltas[len(c.deltas)-1] == tx.seq // one batch has one delta
	if !whole && !twice && len(c.extents) > foldAt && c.base >= 0 && c.added < max(foldAt, c.base) {
		c.deltas = append(slices.Clone(c.deltas), tx.seq)
		tx.raw = append(tx.raw, kv.Write{Key: []byte(chunkDeltaKey(key, tx.seq)), Value: encodeDelta(add)})
		tx.put(key, c)
		return
	}
	for _, seq := range c.deltas {
		tx.raw = append(tx.raw, kv.Write{Key: []byte(chunkDeltaKey(key, seq))})
	}
	c.deltas, c.added, c.base = nil, 0, len(c.extents)
	tx.raw = append(tx.raw, kv.Write{Key: []byte(chunkBaseKey(key)), Value: c.encodeBase()})
	tx.put(key, c)
}

// dropChunk removes a chunk's records.
func (tx *Tx) dropChunk(key string, c *chunk) {
	if c.base >= 0 {
		tx.raw = append(tx.raw, kv.Write{Key: []byte(chunkBaseKey(key))})
	}
	for _, seq := range c.deltas {
		tx.raw = append(tx.raw, kv.Write{Key: []byte(chunkDeltaKey(key, seq))})
	}
	tx.put(key, nil)
}

func formatKey(vol tnv.VolumeID, key string) string {
	switch key[0] {
	case keyInode, keyUnlinked, keyTrim:
		return fmt.Sprintf("volume %d, inode %d", vol, split1(key))
	case keyRefs, keyGrant:
		return fmt.Sprintf("volume %d, block %d", vol, split1(key))
	case keyChunk:
		ino, c := split2(key)
		return fmt.Sprintf("volume %d, inode %d, chunk %d", vol, ino, c)
	case keyDentry:
		_, name := dentryName(key)
		return fmt.Sprintf("volume %d, directory %d, entry %q", vol, split1(key), name)
	}
	return fmt.Sprintf("volume %d, record %q", vol, key)
}
