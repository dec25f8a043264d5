package meta

import (
	"encoding/binary"
	"slices"

	"github.com/tnvfs/tnv"
)

// References to blocks (D1). A block's home is the inode and chunk in its
// header, for which it was written.
//
// Invariants, at the end of every batch:
//
//   - A block without an R record is named by its home alone.
//   - An R record counts all extents that name the block, in whatever chunk of
//     whatever inode they stand, those that truncation has left to the background
//     included. It is made by the batch in which the first extent leaves the home,
//     and stays until the count is zero.
//   - The extents of blocks with an R record, and no others, have ExtentShared.
//   - A block is freed by the batch in which its last extent goes, and the R
//     record goes in that batch, too.
//
// So what has no flag is freed by one look at its chunk, and costs no record.
//
// All changes of extents go through Tx.replaced. It only notes by how much the
// counts change: what leaves one chunk and enters another in one transaction
// never counts as gone. settleRefs writes the sums when the function is over.

// references is an R record.
type references struct{ Count uint64 }

func (r *references) encode() []byte {
	return binary.BigEndian.AppendUint64([]byte{recordV1}, r.Count)
}

func decodeReferences(b []byte) (any, error) {
	d := decoder{b: b}
	d.version()
	r := references{Count: d.u64()}
	if r.Count == 0 {
		d.fail()
	}
	return &r, d.err
}

// refChange is by how much a transaction has changed a block's count.
type refChange struct {
	by int64
	of tnv.Extent // one that names the block: it tells the group
}

// replaced notes that a chunk's extents are no longer was but is. Blocks without
// references that only was names are freed.
func (tx *Tx) replaced(was, is []tnv.Extent) {
	tx.freeBlocks(blocksGone(was, is))
	tx.recount(was, is)
}

// recount notes by how much the counts change where is takes the place of was.
func (tx *Tx) recount(was, is []tnv.Extent) {
	for len(was) > 0 && len(is) > 0 && was[0] == is[0] {
		was, is = was[1:], is[1:]
	}
	for len(was) > 0 && len(is) > 0 && was[len(was)-1] == is[len(is)-1] {
		was, is = was[:len(was)-1], is[:len(is)-1]
	}
	tx.refer(was, -1)
	tx.refer(is, 1)
}

func (tx *Tx) refer(l []tnv.Extent, by int64) {
	for _, e := range l {
		if e.Flags&tnv.ExtentShared == 0 {
			continue
		}
		if tx.refs == nil {
			tx.refs = map[tnv.BlockID]refChange{}
		}
		c, known := tx.refs[e.Block]
		if !known {
			tx.freed++ // its record costs as much as that of a deletion
		}
		tx.refs[e.Block] = refChange{c.by + by, e}
	}
}

// settleRefs writes the counts that the function has changed, and frees what is
// not referred to any more. It is the end of every mutation.
func (tx *Tx) settleRefs() error {
	if len(tx.refs) == 0 {
		return nil
	}
	blocks := make([]tnv.BlockID, 0, len(tx.refs))
	for b := range tx.refs {
		blocks = append(blocks, b)
	}
	slices.Sort(blocks)
	keys := make([]string, len(blocks))
	for i, b := range blocks {
		keys[i] = refKey(b)
	}
	if err := tx.want(keys...); err != nil {
		return err
	}
	var gone []tnv.Extent
	for i, b := range blocks {
		r, _ := getAs[references](tx, keys[i])
		was, c := int64(0), tx.refs[b]
		if r != nil {
			was = int64(r.Count)
		}
		switch is := was + c.by; {
		case is < 0:
			return tnv.E("references", tnv.KindCorrupt, "block %d is referred to %d times, %d go", b, was, -c.by)
		case is == 0:
			tx.del(keys[i])
			gone = append(gone, c.of)
		case is != was:
			tx.set(keys[i], &references{uint64(is)})
		}
	}
	tx.deleteBlocks(gone)
	return nil
}

// share gives blocks of a chunk that have no references yet, and are about to
// be named elsewhere too, their flag: the count begins with the extents in the
// chunk, which is their home.
func (tx *Tx) share(n *inode, index uint64, blocks map[tnv.BlockID]bool) error {
	was, _, err := tx.chunkOf(n, index)
	if err != nil || was == nil {
		return err
	}
	is := &chunk{extents: slices.Clone(was.extents), seq: tx.seq, base: was.base, deltas: was.deltas}
	flagShared(is.extents, blocks)
	if slices.Equal(is.extents, was.extents) {
		return nil
	}
	tx.replaced(was.extents, is.extents)
	tx.storeChunk(chunkKey(n.Ino, index), is, nil, true)
	return nil
}

// flagShared gives the extents of some blocks the flag, in place.
func flagShared(l []tnv.Extent, blocks map[tnv.BlockID]bool) {
	for i := range l {
		if blocks[l[i].Block] {
			l[i].Flags |= tnv.ExtentShared
		}
	}
}
