package meta

import (
	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// fallocate changes the space of a range of a file. Space is not reserved: to
// allocate sets the size, and fails where the groups have no room. Punched and
// zeroed ranges become holes, in pieces that one transaction can do; a viewer
// may see some pieces done and others not yet. Collapsing and inserting move all
// that lies behind in one transaction, and are refused where that is too much.
func fallocate(tx *Tx, c *call, rq *protocol.Fallocate) (*protocol.FallocateReply, error) {
	switch {
	case rq.Len == 0:
		return nil, tnv.E("fallocate", tnv.KindInvalid, "no bytes")
	case rq.Off > tnv.MaxFileSize || rq.Len > tnv.MaxFileSize-rq.Off:
		return nil, tnv.E("fallocate", tnv.KindTooBig, "%d bytes at %d", rq.Len, rq.Off)
	}
	if err := tx.want(inodeKey(rq.Ino), usageKey()); err != nil {
		return nil, err
	}
	n, err := tx.inode(rq.Ino)
	if err != nil {
		return nil, err
	}
	if !n.IsRegular() {
		return nil, tnv.E("fallocate", tnv.KindInvalid, "inode %d is no regular file", rq.Ino)
	}
	is := tx.changed(n)
	is.Mtime = tx.now
	if rq.KillSUID {
		is.Mode = killSUID(is.Mode)
	}
	done := rq.Len
	switch rq.Mode {
	case 0, protocol.FallocKeepSize:
		err = c.v.room(&is, rq.Off, rq.Len)
	case protocol.FallocPunchHole | protocol.FallocKeepSize:
		done, err = tx.punch(&is, rq.Off, rq.Len)
	case protocol.FallocZeroRange, protocol.FallocZeroRange | protocol.FallocKeepSize:
		if err = c.v.room(&is, rq.Off, rq.Len); err == nil {
			done, err = tx.punch(&is, rq.Off, rq.Len)
		}
	case protocol.FallocCollapseRange:
		err = tx.collapse(&is, rq.Off, rq.Len)
	case protocol.FallocInsertRange:
		err = tx.insert(&is, rq.Off, rq.Len)
	default:
		err = tnv.E("fallocate", tnv.KindNotSupported, "mode %#x", rq.Mode)
	}
	if err != nil {
		return nil, err
	}
	if end := rq.Off + rq.Len; rq.Mode&^protocol.FallocZeroRange == 0 && end > is.Size {
		is.Size = end
	}
	if rq.Mode != protocol.FallocKeepSize { // which changes nothing that can be read
		is.Data = uint64(tx.seq)
	}
	return &protocol.FallocateReply{Attr: tx.update(is).Attr, Done: done}, nil
}

// punch makes a hole of a range, as far as one transaction should go, and
// returns how far that is in bytes. What lies behind the size is a hole already.
func (tx *Tx) punch(n *inode, off, length uint64) (uint64, error) {
	end := min(off+length, n.Size)
	if off >= end {
		return length, nil
	}
	first, last := off/tnv.ChunkSize, (end-1)/tnv.ChunkSize
	if last-first >= protocol.MaxChunks {
		last = first + protocol.MaxChunks - 1
		end = (last + 1) * tnv.ChunkSize
	}
	if err := tx.want(chunkKeys(n.Ino, first, last)...); err != nil {
		return 0, err
	}
	work := 0
	for i := first; i <= last; i++ {
		c, _, err := tx.chunkOf(n, i)
		if err != nil {
			return 0, err
		}
		if c == nil {
			continue
		}
		base := i * tnv.ChunkSize
		if work += len(c.extents); work > freeAtOnce && i > first {
			return base - off, nil
		}
		from, to := max(off, base), min(end, base+tnv.ChunkSize)
		grew, err := tx.writeChunk(n, i, []tnv.Extent{{Off: uint32(from - base), Len: uint32(to - from)}})
		if err != nil {
			return 0, err
		}
		if err := tx.allocate(n, grew); err != nil {
			return 0, err
		}
	}
	if end == min(off+length, n.Size) {
		return length, nil
	}
	return end - off, nil
}

// chunkKeys are the keys of chunks first to last.
func chunkKeys(ino tnv.Ino, first, last uint64) []string {
	keys := make([]string, 0, last-first+1)
	for i := first; i <= last; i++ {
		keys = append(keys, chunkKey(ino, i))
	}
	return keys
}

// room tells whether the groups can hold a range of a file, as far as their
// members have told of their space. What the file has counts as lying in the
// range, as far as it can: a file is never refused for want of what it has.
func (v *Volume) room(n *inode, off, length uint64) error {
	var free uint64
	for _, g := range v.cluster.Map().Groups {
		_, f, known := spaceOf(&g)
		if !known {
			return nil // any doubt is room: the writes will tell
		}
		free += f
	}
	has := min(n.Alloc, min(off+length, n.Size)-min(off, n.Size))
	if length-min(length, has) > free {
		return tnv.E("fallocate", tnv.KindNoSpace, "%d bytes, %d are free", length, free)
	}
	return nil
}
