package meta

import (
	"slices"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// What one CopyRange does at most. A chunk is always done, however many extents it has.
const (
	maxCopyPieces = 4096    // extents of the source that are copied
	maxCopyWork   = 1 << 16 // extents of the chunks that are touched, on either side
)

// copyRange makes a range of a file name the blocks of another: a clone.
func copyRange(tx *Tx, _ *call, rq *protocol.CopyRange) (*protocol.CopyRangeReply, error) {
	if err := checkCopy(rq); err != nil {
		return nil, err
	}
	if err := tx.want(inodeKey(rq.From), inodeKey(rq.To), usageKey()); err != nil {
		return nil, err
	}
	src, err := tx.inode(rq.From)
	if err != nil {
		return nil, err
	}
	dst, err := tx.inode(rq.To)
	if err != nil {
		return nil, err
	}
	if !src.IsRegular() || !dst.IsRegular() {
		return nil, tnv.E("copy range", tnv.KindInvalid, "inode %d or %d is no regular file", rq.From, rq.To)
	}
	n := min(rq.Len, src.Size-min(rq.FromOff, src.Size))
	if n == 0 {
		return &protocol.CopyRangeReply{Attr: dst.Attr}, nil
	}
	if n, err = tx.targetRoom(dst, rq.ToOff, n); err != nil {
		return nil, err
	}
	pieces, n, err := tx.piecesOf(src, rq.FromOff, n)
	if err != nil {
		return nil, err
	}
	if err := tx.sharePieces(src, rq.FromOff, pieces); err != nil {
		return nil, err
	}
	is := tx.changed(dst)
	if err := tx.layPieces(&is, rq.ToOff, n, pieces); err != nil {
		return nil, err
	}
	is.Size = max(is.Size, rq.ToOff+n)
	is.Mtime, is.Data = tx.now, uint64(tx.seq)
	if rq.KillSUID {
		is.Mode = killSUID(is.Mode)
	}
	rep := &protocol.CopyRangeReply{Attr: tx.update(is).Attr, Copied: n}
	for _, p := range pieces {
		if !slices.Contains(rep.Groups, p.e.Group) {
			rep.Groups = append(rep.Groups, p.e.Group)
		}
	}
	return rep, nil
}

func checkCopy(rq *protocol.CopyRange) error {
	for _, off := range []uint64{rq.FromOff, rq.ToOff} {
		if off > tnv.MaxFileSize || rq.Len > tnv.MaxFileSize-off {
			return tnv.E("copy range", tnv.KindTooBig, "%d bytes at %d", rq.Len, off)
		}
	}
	if rq.From == rq.To && rq.FromOff < rq.ToOff+rq.Len && rq.ToOff < rq.FromOff+rq.Len {
		return tnv.E("copy range", tnv.KindInvalid, "the ranges of inode %d overlap", rq.From)
	}
	return nil
}

// someChunks is how many bytes of n from off on lie in as many chunks as one
// request touches; their records are in memory.
func (tx *Tx) someChunks(ino tnv.Ino, off, n uint64) (uint64, error) {
	first := off / tnv.ChunkSize
	n = min(n, (first+protocol.MaxChunks)*tnv.ChunkSize-off)
	return n, tx.want(chunkKeys(ino, first, (off+n-1)/tnv.ChunkSize)...)
}

// targetRoom is how many bytes of n at off of the target one transaction replaces.
func (tx *Tx) targetRoom(dst *inode, off, n uint64) (uint64, error) {
	n, err := tx.someChunks(dst.Ino, off, n)
	if err != nil {
		return 0, err
	}
	work := 0
	for i := off / tnv.ChunkSize; i*tnv.ChunkSize < off+n; i++ {
		c, err := getAs[chunk](tx, chunkKey(dst.Ino, i))
		if err != nil {
			return 0, err
		}
		if c == nil {
			continue
		}
		if work += len(c.extents); work > maxCopyWork && i*tnv.ChunkSize > off {
			return i*tnv.ChunkSize - off, nil
		}
	}
	return n, nil
}

// piecesOf lists what the source has in n bytes from off on, and how many bytes
// that are if it is more than one transaction copies. Places are relative to off.
func (tx *Tx) piecesOf(src *inode, off, n uint64) ([]placed, uint64, error) {
	n, err := tx.someChunks(src.Ino, off, n)
	if err != nil {
		return nil, 0, err
	}
	var pieces []placed
	work := 0
	for i := off / tnv.ChunkSize; i*tnv.ChunkSize < off+n; i++ {
		c, _, err := tx.chunkOf(src, i)
		if err != nil {
			return nil, 0, err
		}
		if c == nil {
			continue
		}
		base := i * tnv.ChunkSize
		if work += len(c.extents); work > maxCopyWork && base > off {
			return pieces, base - off, nil
		}
		for _, e := range c.extents {
			from, to := max(base+uint64(e.Off), off), min(base+uint64(e.End()), off+n)
			if from >= to {
				continue
			}
			if len(pieces) == maxCopyPieces {
				return pieces, from - off, nil
			}
			pieces = append(pieces, placed{from - off, cut(e, uint32(from-base), uint32(to-base))})
		}
	}
	return pieces, n, nil
}

// sharePieces gives the blocks of pieces references where they have none yet.
func (tx *Tx) sharePieces(src *inode, off uint64, pieces []placed) error {
	for i := 0; i < len(pieces); {
		chunk := (off + pieces[i].at) / tnv.ChunkSize
		blocks := map[tnv.BlockID]bool{}
		for ; i < len(pieces) && (off+pieces[i].at)/tnv.ChunkSize == chunk; i++ {
			blocks[pieces[i].e.Block] = true
			pieces[i].e.Flags |= tnv.ExtentShared
		}
		if err := tx.share(src, chunk, blocks); err != nil {
			return err
		}
	}
	return nil
}

// layPieces makes n bytes at off of the target what pieces say, with holes between.
func (tx *Tx) layPieces(dst *inode, off, n uint64, pieces []placed) error {
	for at := off; at < off+n; {
		base := at / tnv.ChunkSize * tnv.ChunkSize
		end := min(base+tnv.ChunkSize, off+n)
		add := []tnv.Extent{{Off: uint32(at - base), Len: uint32(end - at)}} // the hole under all
		for len(pieces) > 0 && off+pieces[0].at < end {
			p := split(placed{off + pieces[0].at, pieces[0].e})
			add = append(add, p[0].e)
			if len(p) == 1 {
				pieces = pieces[1:]
				continue
			}
			pieces = slices.Clone(pieces)
			pieces[0] = placed{p[1].at - off, p[1].e}
		}
		grew, err := tx.writeChunk(dst, at/tnv.ChunkSize, add)
		if err != nil {
			return err
		}
		if err := tx.allocate(dst, grew); err != nil {
			return err
		}
		at = end
	}
	return nil
}
