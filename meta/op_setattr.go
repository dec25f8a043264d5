package meta

import (
	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// setAttr changes attributes; the kernel has checked that it is allowed.
func setAttr(tx *Tx, _ *call, rq *protocol.SetAttr) (*protocol.AttrReply, error) {
	n, err := tx.inode(rq.Ino)
	if err != nil {
		return nil, err
	}
	has := func(m protocol.SetAttrMask) bool { return rq.Mask&m != 0 }
	if has(protocol.SetAccessed) {
		is := *n
		is.Atime = tx.now
		return attrReply(tx.update(is)), nil
	}
	is := tx.changed(n)
	if has(protocol.SetMode) {
		if err := tx.chmod(&is, rq.Mode); err != nil {
			return nil, err
		}
	}
	if has(protocol.SetUID) {
		is.UID = rq.UID
	}
	if has(protocol.SetGID) {
		is.GID = rq.GID
	}
	if has(protocol.SetKillSUID) {
		is.Mode = killSUID(is.Mode)
	}
	if has(protocol.SetKillSUID|protocol.SetSize|protocol.SetUID|protocol.SetGID) && !is.IsDir() {
		if err := tx.dropXattr(&is, tnv.XattrCapability); err != nil {
			return nil, err
		}
	}
	if has(protocol.SetSize) {
		if err := tx.resize(&is, rq.Size); err != nil {
			return nil, err
		}
		is.Mtime, is.Data = tx.now, uint64(tx.seq)
	}
	if has(protocol.SetAtime) {
		is.Atime = rq.Atime
	}
	if has(protocol.SetMtime) {
		is.Mtime = rq.Mtime
	}
	if has(protocol.SetAtimeNow) {
		is.Atime = tx.now
	}
	if has(protocol.SetMtimeNow) {
		is.Mtime = tx.now
	}
	return attrReply(tx.update(is)), nil
}

// killSUID is the mode after a write by someone unprivileged.
func killSUID(mode uint32) uint32 {
	mode &^= 0o4000
	if mode&0o010 != 0 {
		mode &^= 0o2000
	}
	return mode
}

// trimAtOnce is how many chunks are freed in the transaction that truncates or
// reclaims; more are left to the background.
const trimAtOnce = 32

// freeAtOnce is about how many blocks one transaction frees: each costs a record
// per member of its group, written under the lock.
const freeAtOnce = 4096

// resize sets the size of a file. What it cuts off reads as zeros at once, and
// is freed now or in the background.
func (tx *Tx) resize(n *inode, size uint64) error {
	switch {
	case n.IsDir():
		return tnv.E("truncate", tnv.KindIsDir, "inode %d", n.Ino)
	case !n.IsRegular():
		return tnv.E("truncate", tnv.KindInvalid, "inode %d is no regular file", n.Ino)
	case size > tnv.MaxFileSize:
		return tnv.E("truncate", tnv.KindTooBig, "%d bytes", size)
	}
	if size >= n.Size {
		n.Size = size
		return nil
	}
	first := size / tnv.ChunkSize        // the chunk that is cut
	last := (n.Size - 1) / tnv.ChunkSize // the last one that may be there
	if in := size % tnv.ChunkSize; in > 0 {
		if err := tx.cutChunk(n, first, uint32(in)); err != nil {
			return err
		}
		first++
	}
	n.Size = size
	if first > last {
		return nil
	}
	if last-first < trimAtOnce {
		blocks, err := tx.extentsIn(n.Ino, first, last)
		if err != nil {
			return err
		}
		if blocks <= freeAtOnce {
			return tx.freeChunks(n, first, last)
		}
	}
	if n.TrimSeq != 0 && n.TrimFrom < first {
		return trimBusy{n.Ino} // two different trims of one inode: the older one first
	}
	n.TrimFrom, n.TrimSeq = first, tx.seq
	tx.set(trimKey(n.Ino), mark{})
	tx.then(func() { tx.s.owner.wantReclaim(n.Ino) })
	return nil
}

// cutChunk removes what a chunk holds from an offset on.
func (tx *Tx) cutChunk(n *inode, index uint64, from uint32) error {
	c, _, err := tx.chunkOf(n, index)
	if err != nil || c == nil {
		return err
	}
	grew, err := tx.writeChunk(n, index, []tnv.Extent{{Off: from, Len: tnv.ChunkSize - from}})
	if err != nil {
		return err
	}
	return tx.allocate(n, grew)
}

// allocate notes by how many bytes an inode's allocation grew.
func (tx *Tx) allocate(n *inode, grew int64) error {
	if grew == 0 {
		return nil
	}
	n.Alloc += uint64(grew)
	n.Blocks = (n.Alloc + 511) / 512
	return tx.addUsage(0, grew)
}

// extentsIn counts the extents of chunks first to last.
func (tx *Tx) extentsIn(ino tnv.Ino, first, last uint64) (int, error) {
	keys := chunkKeys(ino, first, last)
	if err := tx.want(keys...); err != nil {
		return 0, err
	}
	n := 0
	for _, key := range keys {
		if c, _ := getAs[chunk](tx, key); c != nil {
			n += len(c.extents)
		}
	}
	return n, nil
}

// freeChunks frees chunks first to last.
func (tx *Tx) freeChunks(n *inode, first, last uint64) error {
	keys := chunkKeys(n.Ino, first, last)
	if err := tx.want(keys...); err != nil {
		return err
	}
	for _, key := range keys {
		c, err := getAs[chunk](tx, key)
		if err != nil {
			return err
		}
		if c == nil {
			continue
		}
		tx.replaced(c.extents, nil)
		tx.dropChunk(key, c)
		if err := tx.allocate(n, -int64(allocated(c.extents))); err != nil {
			return err
		}
	}
	return nil
}
