package meta

import (
	"context"
	"slices"

	"github.com/tnvfs/tnv"
)

// check reads every record of the volume and verifies what must hold between them.
func (h *harness) check() {
	h.t.Helper()
	ctx := context.Background()
	h.must(h.v.sync(ctx))
	inodes := map[tnv.Ino]*inode{}
	entries, subdirs, names := map[tnv.Ino]uint64{}, map[tnv.Ino]uint32{}, map[tnv.Ino]uint32{}
	parked := map[tnv.Ino]bool{}
	blocks := map[tnv.BlockID]bool{}
	refs := map[tnv.BlockID]uint64{}
	alloc := map[tnv.Ino]uint64{}
	xattrs := map[tnv.Ino]uint32{}
	chunks := map[string]*chunk{}
	var use usage
	pairs, _, err := h.v.scan(ctx, "\x00", "", 0, nil)
	h.must(err)
	for _, p := range pairs {
		switch p.key[0] {
		case keyInode:
			n, err := decodeInode(p.value)
			h.must(err)
			inodes[n.(*inode).Ino] = n.(*inode)
		case keyDentry:
			e, err := decodeDentry(p.value)
			h.must(err)
			d := e.(*dentry)
			parent := tnv.Ino(split1(p.key))
			entries[parent]++
			names[d.Ino]++
			if d.Type == tnv.TypeDir {
				subdirs[parent]++
			}
		case keyChunk:
			key := p.key[:17]
			if chunks[key] == nil {
				chunks[key] = &chunk{base: -1}
			}
			h.must(chunks[key].load(p.key[17:], p.value))
		case keyRefs:
			r, err := decodeReferences(p.value)
			h.must(err)
			refs[tnv.BlockID(split1(p.key))] = r.(*references).Count
		case keyUnlinked:
			parked[tnv.Ino(split1(p.key))] = true
		case keyXattr:
			xattrs[tnv.Ino(split1(p.key))]++
		case keyUsage:
			u, err := decodeUsage(p.value)
			h.must(err)
			use = *u.(*usage)
		}
	}
	h.checkFlags(pairs, inodes)
	for key, c := range chunks {
		ino, _ := split2(key)
		if inodes[tnv.Ino(ino)] == nil {
			h.t.Errorf("chunk of inode %d, which is not", ino)
		}
		if !slices.IsSortedFunc(c.extents, func(a, b tnv.Extent) int { return int(int64(a.End()) - int64(b.Off)) }) {
			h.t.Errorf("inode %d: extents overlap or are not sorted: %v", ino, c.extents)
		}
		for _, e := range c.extents {
			blocks[e.Block] = true
			alloc[tnv.Ino(ino)] += uint64(e.Len)
		}
	}
	var bytes uint64
	for ino, n := range inodes {
		links := names[ino]
		if n.IsDir() {
			links = subdirs[ino] + 2
			if n.Size != entries[ino] {
				h.t.Errorf("directory %d counts %d entries and has %d", ino, n.Size, entries[ino])
			}
			if ino != tnv.RootIno && names[ino] != 1 && n.Nlink > 0 {
				h.t.Errorf("directory %d has %d names", ino, names[ino])
			}
			if n.Nlink == 0 {
				links = 0
			}
		}
		if n.Nlink != links {
			h.t.Errorf("inode %d counts %d links and has %d", ino, n.Nlink, links)
		}
		if (n.Nlink == 0) != parked[ino] {
			h.t.Errorf("inode %d with %d links: parked is %v", ino, n.Nlink, parked[ino])
		}
		if n.Alloc != alloc[ino] {
			h.t.Errorf("inode %d counts %d bytes and has %d", ino, n.Alloc, alloc[ino])
		}
		if n.Xattrs != xattrs[ino] {
			h.t.Errorf("inode %d counts %d attributes and has %d", ino, n.Xattrs, xattrs[ino])
		}
		bytes += n.Alloc
	}
	for ino := range names {
		if inodes[ino] == nil {
			h.t.Errorf("an entry names inode %d, which is not", ino)
		}
	}
	if use.Files != uint64(len(inodes)) || use.Bytes != bytes {
		h.t.Errorf("usage %+v, but there are %d inodes with %d bytes", use, len(inodes), bytes)
	}
	h.checkRefs(chunks, refs)
	for _, n := range h.cluster.m.Groups[0].Nodes {
		ids, err := h.v.Deletions(ctx, n.ID, 0, 0)
		h.must(err)
		for _, b := range ids {
			if blocks[b] {
				h.t.Errorf("block %d is named by a chunk and to be deleted at %v", b, n.ID)
			}
		}
	}
}
