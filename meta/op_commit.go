package meta

import (
	"context"
	"slices"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// grantBlocks gives block ids to the session. A commit accepts an id only from
// the session that it was granted to, and once (D3).
func grantBlocks(tx *Tx, c *call, rq *protocol.Grant) (*protocol.GrantReply, error) {
	n := (min(max(uint64(rq.Count), 1), 4096) + grantSize - 1) / grantSize * grantSize
	first, err := tx.newIDs(idBlock, n)
	if err != nil {
		return nil, err
	}
	session, v := c.head.Session, c.v
	for b := first; b < first+n; b += grantSize {
		id := tnv.BlockID(b)
		tx.set(grantKey(id), &grant{Session: session})
		tx.then(func() { v.noteGrant(session, id, true) })
	}
	return &protocol.GrantReply{First: tnv.BlockID(first), Count: uint32(n)}, nil
}

// commitOperation adds to a commit that it may have to be on disk.
func commitOperation(apply operation) operation {
	return func(ctx context.Context, v *Volume, f *protocol.Frame) ([]any, error) {
		values, err := apply(ctx, v, f)
		if err != nil {
			return nil, err
		}
		var head protocol.Head
		var rq protocol.Commit
		if err := f.Decode(&head, &rq); err != nil {
			return nil, err
		}
		if rq.Sync {
			if err := v.sync(ctx); err != nil {
				return nil, err
			}
		}
		return values, nil
	}
}

// commit makes written blocks part of a file.
func commit(tx *Tx, c *call, rq *protocol.Commit) (*protocol.AttrReply, error) {
	if err := checkCommit(rq); err != nil {
		return nil, err
	}
	if err := tx.want(commitKeys(rq)...); err != nil {
		return nil, err
	}
	n, err := tx.inode(rq.Ino)
	if err != nil {
		return nil, err
	}
	if !n.IsRegular() {
		return nil, tnv.E("commit", tnv.KindInvalid, "inode %d is no regular file", rq.Ino)
	}
	if rq.Append {
		if rq, err = atEnd(rq, n.Size); err != nil {
			return nil, err
		}
	}
	if len(rq.Chunks) == 0 && rq.Size <= n.Size && !rq.KillSUID && rq.Mtime == 0 {
		return attrReply(n), nil // only Sync was wanted
	}
	if end := endOf(rq); end > max(n.Size, rq.Size) {
		return nil, tnv.E("commit", tnv.KindInvalid, "extents up to byte %d of a file of %d", end, max(n.Size, rq.Size))
	}
	if err := tx.takeBlocks(c, rq); err != nil {
		return nil, err
	}
	is := tx.changed(n)
	for _, ch := range rq.Chunks {
		grew, err := tx.writeChunk(&is, ch.Chunk, ch.Extents)
		if err != nil {
			return nil, err
		}
		if err := tx.allocate(&is, grew); err != nil {
			return nil, err
		}
	}
	is.Size = max(is.Size, rq.Size)
	is.Mtime = tx.now
	if rq.Mtime != 0 {
		is.Mtime = rq.Mtime
	}
	if rq.KillSUID {
		is.Mode = killSUID(is.Mode)
	}
	if err := tx.dropXattr(&is, tnv.XattrCapability); err != nil {
		return nil, err
	}
	is.Data = uint64(tx.seq)
	return attrReply(tx.update(is)), nil
}

// atEnd is a commit that appends, moved to where the file ends (K9).
func atEnd(rq *protocol.Commit, size uint64) (*protocol.Commit, error) {
	if len(rq.Chunks) == 0 || len(rq.Chunks[0].Extents) == 0 {
		return nil, tnv.E("commit", tnv.KindInvalid, "nothing to append")
	}
	first := rq.Chunks[0]
	move := int64(size) - int64(first.Chunk*tnv.ChunkSize+uint64(first.Extents[0].Off))
	if move == 0 {
		return rq, nil
	}
	elsewhere := tnv.E("commit", tnv.KindWouldBlock, "the file ends at %d, and what is appended is not for chunk %d alone", size, size/tnv.ChunkSize)
	if len(rq.Chunks) != 1 || size/tnv.ChunkSize != first.Chunk {
		return nil, elsewhere
	}
	l := slices.Clone(first.Extents)
	for i := range l {
		off := int64(l[i].Off) + move
		if off < 0 || off+int64(l[i].Len) > tnv.ChunkSize {
			return nil, elsewhere
		}
		l[i].Off = uint32(off)
	}
	is := *rq
	is.Chunks = []protocol.ChunkExtents{{Chunk: first.Chunk, Extents: l}}
	if is.Size = uint64(max(0, int64(rq.Size)+move)); is.Size > tnv.MaxFileSize {
		return nil, tnv.E("commit", tnv.KindTooBig, "%d bytes", is.Size)
	}
	return &is, nil
}

// endOf is the end of the last extent with a block. What lies behind a file's
// end would show when the file grows, and would not be found when it is freed.
func endOf(rq *protocol.Commit) (end uint64) {
	for _, ch := range rq.Chunks {
		for _, e := range ch.Extents {
			if e.Block != 0 {
				end = max(end, ch.Chunk*tnv.ChunkSize+uint64(e.End()))
			}
		}
	}
	return end
}

// checkCommit refuses extents that make no sense.
func checkCommit(rq *protocol.Commit) error {
	bad := func(format string, args ...any) error { return tnv.E("commit", tnv.KindInvalid, format, args...) }
	if len(rq.Chunks) > protocol.MaxChunks || len(rq.Holders) > protocol.MaxBatch {
		return bad("%d chunks, %d blocks", len(rq.Chunks), len(rq.Holders))
	}
	if rq.Size > tnv.MaxFileSize {
		return tnv.E("commit", tnv.KindTooBig, "%d bytes", rq.Size)
	}
	held := make(map[tnv.BlockID]bool, len(rq.Holders))
	for _, h := range rq.Holders {
		if held[h.Block] {
			return bad("block %d has two lists of holders", h.Block)
		}
		held[h.Block] = true
	}
	seen := map[uint64]bool{}
	total := 0
	for _, ch := range rq.Chunks {
		if ch.Chunk > tnv.MaxFileSize/tnv.ChunkSize || seen[ch.Chunk] {
			return bad("chunk %d twice or beyond the largest file", ch.Chunk)
		}
		seen[ch.Chunk] = true
		total += len(ch.Extents)
		for _, e := range ch.Extents {
			switch {
			case !inChunk(e):
				return bad("extent of %d bytes at %d of a chunk", e.Len, e.Off)
			case e.Block == 0:
			case e.BlockLen > tnv.MaxBlockSize || uint64(e.BlockOff)+uint64(e.Len) > uint64(e.BlockLen):
				return bad("extent of %d bytes at %d of block %d, which has %d", e.Len, e.BlockOff, e.Block, e.BlockLen)
			case !held[e.Block]:
				return bad("nobody is said to hold block %d", e.Block)
			case e.Flags != 0:
				return bad("extent with flags %#x", e.Flags)
			}
		}
	}
	if total > protocol.MaxBatch {
		return bad("%d extents, at most %d", total, protocol.MaxBatch)
	}
	return nil
}

func commitKeys(rq *protocol.Commit) []string {
	keys := []string{inodeKey(rq.Ino), usageKey()}
	for _, ch := range rq.Chunks {
		keys = append(keys, chunkKey(rq.Ino, ch.Chunk))
	}
	for _, h := range rq.Holders {
		if k := grantKey(h.Block); !slices.Contains(keys[max(0, len(keys)-2):], k) {
			keys = append(keys, k)
		}
	}
	return keys
}

// takeBlocks checks that the session may use the blocks and that enough current
// members hold them, and notes who lacks one (D3, D4).
func (tx *Tx) takeBlocks(c *call, rq *protocol.Commit) error {
	type place struct {
		group tnv.GroupID
		chunk uint64
		len   uint32
	}
	places := map[tnv.BlockID]place{}
	for _, ch := range rq.Chunks {
		for _, e := range ch.Extents {
			if e.Block == 0 {
				continue
			}
			p := place{e.Group, ch.Chunk, e.BlockLen}
			if was, ok := places[e.Block]; ok && was != p {
				return tnv.E("commit", tnv.KindInvalid, "block %d in two places", e.Block)
			}
			places[e.Block] = p
		}
	}
	m := c.v.cluster.Map()
	for _, h := range rq.Holders {
		p, ok := places[h.Block]
		if !ok {
			continue
		}
		if err := tx.useID(c, h.Block); err != nil {
			return err
		}
		g := m.Group(p.group)
		if g == nil || c.v.closed(p.group) {
			return tnv.E("commit", tnv.KindTooFewHolders, "block %d is in group %d, which is not, or not any more: it must be put elsewhere", h.Block, p.group)
		}
		lack, err := whoLacks(g, h, c.v.set.Load().MinReplicas)
		if err != nil {
			return err
		}
		for _, n := range lack {
			tx.noteLack(c.v, n, h.Block, &lacking{Home: tnv.Home{Ino: rq.Ino, Chunk: p.chunk}, Bytes: p.len})
		}
	}
	return nil
}

// useID takes a block id that was granted to the session.
func (tx *Tx) useID(c *call, b tnv.BlockID) error {
	key := grantKey(b)
	g, err := getAs[grant](tx, key)
	if err != nil {
		return err
	}
	if g == nil || g.Session != c.head.Session {
		return tnv.E("commit", tnv.KindInvalid, "block id %d was not granted to session %d, or all of its range is used", b, c.head.Session)
	}
	is := *g
	if !is.use(b) {
		return tnv.E("commit", tnv.KindConflict, "block id %d was committed before", b)
	}
	if is.full() {
		tx.del(key)
		tx.then(func() { c.v.noteGrant(is.Session, b&^(grantSize-1), false) })
		return nil
	}
	tx.set(key, &is)
	return nil
}

// whoLacks lists the members of a group that do not hold a block, as far as the
// holders named are members in their current boot. Too few of them is an error:
// the block must be put again. A member that is slow is not waited for, nor does
// it count: its disk may never come back.
func whoLacks(g *tnv.Group, h protocol.BlockHolders, want uint32) ([]tnv.NodeID, error) {
	var lack []tnv.NodeID
	alive, holds := uint32(g.Awaiting()), uint32(0)
	for _, n := range g.Nodes {
		if slices.Contains(h.Holders, tnv.Holder{Node: n.ID, Boot: n.Boot}) {
			if n.State != tnv.NodeSlow || g.Awaited(n.ID) {
				holds++
			}
		} else {
			lack = append(lack, n.ID)
		}
	}
	if holds == 0 || holds < min(want, alive) {
		return nil, tnv.E("commit", tnv.KindTooFewHolders, "block %d is held by %d of %d live members of group %s", h.Block, holds, alive, g.Name)
	}
	return lack, nil
}
