package meta

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	seekSteps   = 64  // chunks that one Seek looks at
	seekRestart = 3   // how often it begins anew if the file changes meanwhile
	seekAhead   = 8   // chunks that a search for a hole has read at once
	seekExtents = 1e5 // extents that it looks at before it answers that it goes on
)

// seek looks for data or a hole. Chunks that are not stored cost nothing: data
// is looked for along the stored keys, however large the file.
func seek(ctx context.Context, c *call, rq *protocol.Seek) (*protocol.SeekReply, error) {
	once := c.v.seekData
	if rq.Hole {
		once = c.v.seekHole
	}
	for try := 0; ; try++ {
		rep, same, err := once(ctx, rq)
		if err != nil || same || try == seekRestart {
			return rep, err
		}
	}
}

// seekable reads the inode of a Seek. It tells whether there is anything at off.
func seekable(tx *Tx, rq *protocol.Seek) (n *inode, there bool, err error) {
	n, err = tx.inode(rq.Ino)
	if err == nil && !n.IsRegular() {
		err = tnv.E("seek", tnv.KindInvalid, "inode %d is no regular file", rq.Ino)
	}
	return n, err == nil && rq.Off < n.Size, err
}

// seekData takes several looks; same tells whether the content was the same in all.
func (v *Volume) seekData(ctx context.Context, rq *protocol.Seek) (rep *protocol.SeekReply, same bool, err error) {
	at, version := rq.Off, uint64(0)
	for range seekSteps {
		err := v.read(ctx, func(tx *Tx) error {
			rep, err = lookForData(tx, rq, at)
			return err
		})
		if err != nil {
			return nil, false, err
		}
		if version == 0 {
			version = rep.Attr.Data
		}
		same = rep.Attr.Data == version
		if rep.State != protocol.SeekOn || !same {
			return rep, same, nil
		}
		next, stored, err := v.nextChunk(ctx, rq.Ino, at/tnv.ChunkSize+1)
		if err != nil {
			return nil, false, err
		}
		if at = next * tnv.ChunkSize; !stored {
			at = rep.Attr.Size // one more look, whether that still holds
		}
		rep.Off = at
	}
	return rep, true, nil
}

// lookForData looks at the chunk of one place.
func lookForData(tx *Tx, rq *protocol.Seek, at uint64) (*protocol.SeekReply, error) {
	n, there, err := seekable(tx, rq)
	if err != nil {
		return nil, err
	}
	rep := &protocol.SeekReply{Attr: n.Attr}
	if !there || at >= n.Size {
		return rep, nil
	}
	c, _, err := tx.chunkOf(n, at/tnv.ChunkSize)
	if err != nil {
		return nil, err
	}
	rep.State, rep.Off = protocol.SeekOn, at
	if c == nil {
		return rep, nil
	}
	base := at / tnv.ChunkSize * tnv.ChunkSize
	for _, e := range c.extents {
		if base+uint64(e.End()) > at {
			rep.State, rep.Off = protocol.SeekFound, max(at, base+uint64(e.Off))
			break
		}
	}
	return rep, nil
}

// nextChunk finds the first chunk from one on that has records.
func (v *Volume) nextChunk(ctx context.Context, ino tnv.Ino, from uint64) (index uint64, there bool, err error) {
	pairs, seen, err := v.scan(ctx, chunkKey(ino, from), prefixEnd(key1(keyChunk, uint64(ino))), 1, nil)
	if err == nil {
		err = v.wait(ctx, seen)
	}
	if err != nil || len(pairs) == 0 {
		return 0, false, err
	}
	_, index = split2(pairs[0].key)
	return index, true, nil
}

// seekHole walks over chunks that are full; one that is not stored ends it.
func (v *Volume) seekHole(ctx context.Context, rq *protocol.Seek) (rep *protocol.SeekReply, same bool, err error) {
	err = v.read(ctx, func(tx *Tx) error {
		n, there, err := seekable(tx, rq)
		if err != nil {
			return err
		}
		rep = &protocol.SeekReply{Attr: n.Attr}
		if !there {
			return nil
		}
		rep.State, rep.Off, err = lookForHole(tx, n, rq.Off)
		return err
	})
	return rep, true, err
}

func lookForHole(tx *Tx, n *inode, at uint64) (protocol.SeekState, uint64, error) {
	first, last := at/tnv.ChunkSize, (n.Size-1)/tnv.ChunkSize
	seen := 0
	for i := first; i <= last; i++ {
		if i-first == seekSteps || seen > seekExtents {
			return protocol.SeekOn, at, nil
		}
		if (i-first)%seekAhead == 0 {
			if err := tx.want(chunkKeys(n.Ino, i, min(last, i+seekAhead-1))...); err != nil {
				return 0, 0, err
			}
		}
		c, _, err := tx.chunkOf(n, i)
		if err != nil {
			return 0, 0, err
		}
		if c == nil {
			return protocol.SeekFound, at, nil
		}
		base := i * tnv.ChunkSize
		for _, e := range c.extents {
			if base+uint64(e.Off) > at {
				break
			}
			at = max(at, base+uint64(e.End()))
		}
		if seen += len(c.extents); at < min(base+tnv.ChunkSize, n.Size) {
			return protocol.SeekFound, at, nil
		}
	}
	return protocol.SeekFound, n.Size, nil
}
