package meta

import (
	"maps"
	"slices"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// A collapse or an insert moves everything behind a place of a file. It is one
// transaction, so that nobody sees it half done; that bounds what can be moved.
const (
	maxShiftChunks  = 256     // chunks, stored or not, from the place to the file's end: 16 GiB
	maxShiftExtents = 4 << 12 // extents in them
)

// collapse takes a range out of a file: what lies behind moves to its place.
func (tx *Tx) collapse(n *inode, off, length uint64) error {
	switch {
	case off%protocol.FallocUnit != 0 || length%protocol.FallocUnit != 0:
		return tnv.E("fallocate", tnv.KindInvalid, "%d bytes at %d: a range of whole units of %d can be collapsed", length, off, protocol.FallocUnit)
	case off+length >= n.Size:
		return tnv.E("fallocate", tnv.KindInvalid, "the range reaches the end of the file: truncate it")
	}
	if err := tx.shift(n, off, off+length, off); err != nil {
		return err
	}
	n.Size -= length
	return nil
}

// insert makes room in a file: what lies behind off moves by length.
func (tx *Tx) insert(n *inode, off, length uint64) error {
	switch {
	case off%protocol.FallocUnit != 0 || length%protocol.FallocUnit != 0:
		return tnv.E("fallocate", tnv.KindInvalid, "%d bytes at %d: a range of whole units of %d can be inserted", length, off, protocol.FallocUnit)
	case off >= n.Size:
		return tnv.E("fallocate", tnv.KindInvalid, "offset %d is at or behind the end of the file", off)
	case length > tnv.MaxFileSize-n.Size:
		return tnv.E("fallocate", tnv.KindTooBig, "%d bytes more", length)
	}
	if err := tx.shift(n, off, off, off+length); err != nil {
		return err
	}
	n.Size += length
	return nil
}

// placed is an extent and where it begins in its file.
type placed struct {
	at uint64
	e  tnv.Extent
}

// shift moves what n has from tail on, to the place to, and drops what else it
// has from off on. off is the smallest of the three.
func (tx *Tx) shift(n *inode, off, tail, to uint64) error {
	first, last := off/tnv.ChunkSize, (n.Size-1)/tnv.ChunkSize
	if err := tx.canShift(n, first, last); err != nil {
		return err
	}
	chunks := map[uint64][]tnv.Extent{} // as they will be
	leaving := map[tnv.BlockID]bool{}
	for i := first; i <= last; i++ {
		c, _, err := tx.chunkOf(n, i)
		if err != nil {
			return err
		}
		chunks[i] = append(chunks[i], nil...) // it is written, even if it becomes empty
		if c == nil {
			continue
		}
		leaves := map[tnv.BlockID]bool{}
		base := i * tnv.ChunkSize
		for _, e := range c.extents {
			if base+uint64(e.Off) < off {
				chunks[i] = append(chunks[i], cut(e, e.Off, uint32(min(base+uint64(e.End()), off)-base)))
			}
			if base+uint64(e.End()) <= tail {
				continue
			}
			e = cut(e, uint32(max(base+uint64(e.Off), tail)-base), e.End())
			for _, p := range split(placed{base + uint64(e.Off) - tail + to, e}) {
				if j := p.at / tnv.ChunkSize; j != i {
					leaves[e.Block], leaving[e.Block] = true, true
				}
				chunks[p.at/tnv.ChunkSize] = append(chunks[p.at/tnv.ChunkSize], p.e)
			}
		}
		if err := tx.share(n, i, leaves); err != nil {
			return err
		}
	}
	for _, j := range slices.Sorted(maps.Keys(chunks)) {
		flagShared(chunks[j], leaving)
		if err := tx.setChunk(n, j, chunks[j]); err != nil {
			return err
		}
	}
	return nil
}

// canShift refuses a file with too much in chunks first to last.
func (tx *Tx) canShift(n *inode, first, last uint64) error {
	if last-first >= maxShiftChunks {
		return tnv.E("fallocate", tnv.KindNotSupported, "%d chunks would have to move, at most %d can", last-first+1, maxShiftChunks)
	}
	extents, err := tx.extentsIn(n.Ino, first, last)
	if err == nil && extents > maxShiftExtents {
		return tnv.E("fallocate", tnv.KindNotSupported, "%d extents would have to move, at most %d can", extents, maxShiftExtents)
	}
	return err
}

// split cuts an extent at the chunk boundaries of the place where it is to be;
// the parts have their offsets within the chunks there.
func split(p placed) (parts []placed) {
	for p.e.Len > 0 {
		in := uint32(p.at % tnv.ChunkSize)
		part := p.e
		part.Off, part.Len = in, min(p.e.Len, tnv.ChunkSize-in)
		parts = append(parts, placed{p.at, part})
		p.at += uint64(part.Len)
		p.e.BlockOff += part.Len
		p.e.Len -= part.Len
	}
	return parts
}
