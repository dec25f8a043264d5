package meta

import (
	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// lookupName answers Lookup: that there is no such name is an answer, too, and
// can be leased.
func lookupName(tx *Tx, c *call, rq *protocol.Lookup) (*protocol.AttrReply, error) {
	rep, err := lookup(tx, c, rq)
	if err == errMiss {
		return nil, err
	}
	if err == nil || tnv.KindOf(err) == tnv.KindNotExist {
		tx.lease(rq.Parent, protocol.LeaseNames)
	}
	if err != nil && tnv.KindOf(err) == tnv.KindNotExist {
		return &protocol.AttrReply{}, nil
	}
	return rep, err
}

// lookup finds a name in a directory.
func lookup(tx *Tx, _ *call, rq *protocol.Lookup) (*protocol.AttrReply, error) {
	if len(rq.Name) > tnv.MaxNameLen {
		return nil, checkName(rq.Name)
	}
	if err := tx.want(inodeKey(rq.Parent), dentryKey(rq.Parent, rq.Name)); err != nil {
		return nil, err
	}
	dir, err := tx.dir(rq.Parent)
	if err != nil {
		return nil, err
	}
	ino := tnv.Ino(0)
	switch {
	case rq.Name == "..":
		ino = dir.Parent
	case rq.Name == ".":
		ino = dir.Ino
	default:
		e, err := tx.entry(rq.Parent, rq.Name)
		if err != nil {
			return nil, err
		}
		if e == nil {
			return nil, tnv.E("lookup", tnv.KindNotExist, "%q", rq.Name)
		}
		ino = e.Ino
	}
	n, err := tx.inode(ino)
	if err != nil {
		return nil, err
	}
	tx.lease(n.Ino, protocol.LeaseAttr)
	return attrReply(n), nil
}

// getAttr reads an inode.
func getAttr(tx *Tx, _ *call, rq *protocol.GetAttr) (*protocol.AttrReply, error) {
	n, err := tx.inode(rq.Ino)
	if err != nil {
		return nil, err
	}
	tx.lease(rq.Ino, protocol.LeaseAttr)
	return attrReply(n), nil
}

// readLink reads a symbolic link.
func readLink(tx *Tx, _ *call, rq *protocol.ReadLink) (*protocol.ReadLinkReply, error) {
	n, err := tx.inode(rq.Ino)
	if err != nil {
		return nil, err
	}
	if n.Type() != tnv.TypeSymlink {
		return nil, tnv.E("readlink", tnv.KindInvalid, "inode %d is no symbolic link", rq.Ino)
	}
	return &protocol.ReadLinkReply{Target: n.Target}, nil
}

// maxExtents is how many extents one reply has, so that it fits a frame, except
// that the first chunk always comes: it has at most maxChunkExtents.
const maxExtents = 40000

// extents reads the extents of some chunks, and the attributes of that moment.
func extents(tx *Tx, _ *call, rq *protocol.Extents) (*protocol.ExtentsReply, error) {
	if rq.Count > protocol.MaxChunks {
		return nil, tnv.E("extents", tnv.KindInvalid, "%d chunks, at most %d", rq.Count, protocol.MaxChunks)
	}
	n, err := tx.inode(rq.Ino)
	if err != nil {
		return nil, err
	}
	tx.lease(rq.Ino, protocol.LeaseAttr)
	rep := &protocol.ExtentsReply{Attr: n.Attr}
	if n.IsDir() {
		return nil, tnv.E("extents", tnv.KindIsDir, "inode %d", rq.Ino)
	}
	if rq.IfData == n.Data && rq.IfData != 0 {
		rep.Same = true
		return rep, nil
	}
	keys := make([]string, rq.Count)
	for i := range keys {
		keys[i] = chunkKey(rq.Ino, rq.First+uint64(i))
	}
	if err := tx.want(keys...); err != nil {
		return nil, err
	}
	total := 0
	for i := range keys {
		c, _, err := tx.chunkOf(n, rq.First+uint64(i))
		if err != nil {
			return nil, err
		}
		var l []tnv.Extent
		if c != nil {
			l = c.extents
		}
		if total += len(l); total > maxExtents && i > 0 {
			break
		}
		rep.Chunks = append(rep.Chunks, l)
	}
	return rep, nil
}

// statFS tells the volume's usage and the space of the groups: of each what its
// smallest member has.
func statFS(tx *Tx, c *call, _ *protocol.StatFS) (*tnv.StatFS, error) {
	u, err := getAs[usage](tx, usageKey())
	if err != nil {
		return nil, err
	}
	var st tnv.StatFS
	if u != nil {
		st.Files, st.Bytes = u.Files, u.Bytes
	}
	for _, g := range c.v.cluster.Map().Groups {
		if capacity, free, known := spaceOf(&g); known {
			st.Capacity += capacity
			st.Free += free
		}
	}
	if most := c.v.set.Load().MaxBytes; most > 0 {
		st.Capacity = min(st.Capacity, most)
		st.Free = min(st.Free, most-min(most, st.Bytes))
	}
	return &st, nil
}

// spaceOf is the space of a group in bytes: what its smallest member has. It is
// not known if no member has been heard of since the tracker's start.
func spaceOf(g *tnv.Group) (capacity, free uint64, known bool) {
	capacity, free = ^uint64(0), ^uint64(0)
	for _, n := range g.Nodes {
		if n.Capacity == 0 {
			continue
		}
		known = true
		capacity = min(capacity, n.Capacity)
		free = min(free, n.Capacity-min(n.Used, n.Capacity))
	}
	return capacity, free, known
}
