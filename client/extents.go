package client

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// extentCache is the extents of some of an inode's chunks, all of one version
// of its content. It is under the inode's mutex; the slices never change.
type extentCache struct {
	ver    uint64 // Attr.Data that they are of; 0: none
	chunks map[uint64][]tnv.Extent
	count  int
}

const (
	maxCachedChunks  = 64
	maxCachedExtents = 64 << 10 // some 3 MiB
)

func (e *extentCache) reset(ver uint64) { *e = extentCache{ver: ver} }

func (e *extentCache) has(first uint64, count uint32) bool {
	for i := range uint64(count) {
		if _, ok := e.chunks[first+i]; !ok {
			return false
		}
	}
	return e.ver != 0
}

// put takes the extents of a reply, unless newer ones are there.
func (e *extentCache) put(ver, first uint64, chunks [][]tnv.Extent) {
	if ver < e.ver {
		return
	}
	n := 0
	for _, ch := range chunks {
		n += len(ch)
	}
	if ver > e.ver || e.count+n > maxCachedExtents || len(e.chunks)+len(chunks) > maxCachedChunks {
		e.reset(ver)
	}
	if e.chunks == nil {
		e.chunks = map[uint64][]tnv.Extent{}
	}
	for i, ch := range chunks {
		if _, ok := e.chunks[first+uint64(i)]; !ok {
			e.chunks[first+uint64(i)] = ch
			e.count += len(ch)
		}
	}
}

// layout is what a read goes by: the extents of chunks from first on, of one
// version, and the attributes read with them.
type layout struct {
	attr   tnv.Attr
	first  uint64
	chunks [][]tnv.Extent
}

// chunksOf is the range of chunks that cover n > 0 bytes at off.
func chunksOf(off int64, n int) (first uint64, count uint32) {
	first = uint64(off / tnv.ChunkSize)
	return first, uint32(uint64((off+int64(n)-1)/tnv.ChunkSize) - first + 1)
}

// cachedLocked is the layout of a range by what is known; ok says whether it is
// all there.
func (in *inode) cachedLocked(first uint64, count uint32) (l layout, ok bool) {
	if !in.ext.has(first, count) {
		return l, false
	}
	l = layout{attr: in.attr, first: first}
	for i := range uint64(count) {
		l.chunks = append(l.chunks, in.ext.chunks[first+i])
	}
	return l, true
}

// latest is the layout of the newest version known; ok is false if the owner
// has to be asked for it.
func (in *inode) latest(first uint64, count uint32) (l layout, ok bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	l, ok = in.cachedLocked(first, count)
	return l, ok && in.ext.ver == in.attr.Data
}

// askExtents asks the owner, and takes what it says into the cache.
func (in *inode) askExtents(ctx context.Context, first uint64, count uint32, ifData uint64) (protocol.ExtentsReply, error) {
	var rep protocol.ExtentsReply
	req := protocol.Extents{Ino: in.ino, First: first, Count: count, IfData: ifData}
	with, err := in.c.read(ctx, tnv.Root, protocol.TypeExtents, &rep, &req)
	if err != nil {
		return rep, err
	}
	in.c.leases.takeAttr(with, rep.Attr)
	for !rep.Same && len(rep.Chunks) < int(count) { // of a file in many pieces a few chunks come at a time
		n := uint32(len(rep.Chunks))
		var more protocol.ExtentsReply
		req := protocol.Extents{Ino: in.ino, First: first + uint64(n), Count: count - n}
		if _, err := in.c.read(ctx, tnv.Root, protocol.TypeExtents, &more, &req); err != nil {
			return rep, err
		}
		if n > 0 && more.Attr.Data != rep.Attr.Data { // it changed meanwhile: from the start
			return in.askExtents(ctx, first, count, 0)
		}
		if len(more.Chunks) == 0 || len(more.Chunks) > int(count-n) {
			return rep, tnv.E("extents", tnv.KindProtocol, "%d chunks came, %d were asked for", len(more.Chunks), count-n)
		}
		rep.Chunks = append(rep.Chunks, more.Chunks...)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.noteLocked(rep.Attr)
	if !rep.Same {
		in.ext.put(rep.Attr.Data, first, rep.Chunks)
	}
	return rep, nil
}

// leased tells whether a layout is the newest for certain, and if so brings its
// attributes up to date.
func (in *inode) leased(l *layout) bool {
	a, ok := in.c.leases.attr(in.ino)
	if ok = ok && a.Data == l.attr.Data; ok {
		l.attr = a
	}
	return ok
}

// current is the layout as the owner has it now. guess, if it is one, was made
// by the cache, and is confirmed or replaced.
func (in *inode) current(ctx context.Context, first uint64, count uint32, guess layout, guessed bool) (l layout, same bool, err error) {
	var ver uint64
	if guessed {
		ver = guess.attr.Data
		if in.leased(&guess) {
			return guess, true, nil
		}
	}
	rep, err := in.askExtents(ctx, first, count, ver)
	if err != nil {
		return l, false, err
	}
	if rep.Same {
		guess.attr = rep.Attr
		return guess, true, nil
	}
	return layout{attr: rep.Attr, first: first, chunks: rep.Chunks}, false, nil
}

// blockRef is a run of bytes of a block.
type blockRef struct {
	key   tnv.BlockKey
	home  tnv.Home
	group tnv.GroupID
	len   uint32 // of the block
	lo    uint32 // the run: [lo, hi) of the block
	hi    uint32
}

// run is a part of a file: a run of a block, or zeros where the block's id is 0.
type run struct {
	off int64
	n   int
	blk blockRef
}

// runs cuts [off, off+n) of the file into runs. Chunks that the layout lacks
// count as beyond its end: runs stop there.
func (l *layout) runs(vol tnv.VolumeID, ino tnv.Ino, off int64, n int) (rs []run) {
	end := off + int64(n)
	for off < end {
		chunk := uint64(off / tnv.ChunkSize)
		if chunk < l.first || chunk >= l.first+uint64(len(l.chunks)) {
			return rs
		}
		base := int64(chunk) * tnv.ChunkSize
		stop := min(end, base+tnv.ChunkSize)
		ext := l.chunks[chunk-l.first]
		for _, e := range ext[firstAfter(ext, uint32(off-base)):] {
			lo := base + int64(e.Off)
			if lo >= stop {
				break
			}
			if lo > off {
				rs = append(rs, run{off: off, n: int(lo - off)})
				off = lo
			}
			hi := min(stop, base+int64(e.End()))
			r := run{off: off, n: int(hi - off)}
			if e.Block != 0 {
				at := e.BlockOff + uint32(off-lo)
				r.blk = blockRef{key: tnv.BlockKey{Vol: vol, ID: e.Block}, home: tnv.Home{Ino: ino, Chunk: chunk},
					group: e.Group, len: e.BlockLen, lo: at, hi: at + uint32(r.n)}
			}
			rs = append(rs, r)
			off = hi
		}
		if off < stop {
			rs = append(rs, run{off: off, n: int(stop - off)})
			off = stop
		}
	}
	return rs
}

// firstAfter is the index of the first extent that ends behind off.
func firstAfter(ext []tnv.Extent, off uint32) int {
	lo, hi := 0, len(ext)
	for lo < hi {
		if m := (lo + hi) / 2; ext[m].End() > off {
			hi = m
		} else {
			lo = m + 1
		}
	}
	return lo
}
