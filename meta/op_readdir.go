package meta

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// maxListing is how many entries one reply has at the most, collisions apart.
const maxListing = 4096

// readDir lists a part of a directory, as it was at one moment.
func readDir(ctx context.Context, c *call, rq *protocol.ReadDir) (*protocol.ReadDirReply, error) {
	v, rep := c.v, &protocol.ReadDirReply{}
	limit := int(min(max(rq.Limit, 1), maxListing))
	err := v.read(ctx, func(tx *Tx) error {
		dir, err := tx.dir(rq.Ino)
		if err == nil {
			rep.Dir = dir.Attr
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	from, to := key2(keyDentry, uint64(rq.Ino), max(rq.Cookie+1, tnv.FirstCookie)), prefixEnd(dentryPrefix(rq.Ino))
	if rq.Cookie == ^uint64(0) {
		from = to
	}
	same, unpin, err := v.pin(ctx, inodeKey(rq.Ino))
	if err != nil {
		return nil, err
	}
	defer unpin()
	pairs, seen, err := v.scan(ctx, from, to, limit+1, same)
	if err != nil {
		return nil, err
	}
	rep.End = len(pairs) <= limit
	if !rep.End {
		// Names of one cookie are never parted: reading goes on behind a cookie.
		last, _ := dentryName(pairs[limit-1].key)
		group := key2(keyDentry, uint64(rq.Ino), last)
		pairs = pairs[:limit]
		for limit > 0 && pairs[limit-1].key >= group {
			limit--
		}
		together, s, err := v.scan(ctx, group, prefixEnd(group), 0, same)
		if err != nil {
			return nil, err
		}
		pairs, seen = append(pairs[:limit], together...), max(seen, s)
	}
	if err := v.wait(ctx, seen); err != nil {
		return nil, err
	}
	for _, p := range pairs {
		e, err := decodeDentry(p.value)
		if err != nil {
			return nil, v.damaged(p.key, err)
		}
		cookie, name := dentryName(p.key)
		d := e.(*dentry)
		rep.Entries = append(rep.Entries, tnv.Dirent{Name: name, Ino: d.Ino, Type: d.Type, Cookie: cookie})
	}
	c.leased, err = v.readFor(ctx, c.head.Session, func(tx *Tx) error { return listed(tx, rq, rep) })
	return rep, err
}

// listed reads the attributes of listed entries, if they are asked for; those
// that are gone meanwhile leave the listing. If the directory is still as it was
// listed, its names are leased.
func listed(tx *Tx, rq *protocol.ReadDir, rep *protocol.ReadDirReply) error {
	tx.look(rq.Ino)
	dir, err := getAs[inode](tx, inodeKey(rq.Ino))
	if err != nil {
		return err
	}
	if dir != nil && dir.Data == rep.Dir.Data {
		tx.lease(rq.Ino, protocol.LeaseNames)
	}
	if dir != nil && dir.Version == rep.Dir.Version {
		tx.lease(rq.Ino, protocol.LeaseAttr)
	}
	if !rq.Attrs {
		return nil
	}
	keys := make([]string, len(rep.Entries))
	for i, e := range rep.Entries {
		keys[i] = inodeKey(e.Ino)
	}
	if err := tx.want(keys...); err != nil {
		return err
	}
	entries := rep.Entries
	rep.Entries, rep.Attrs = nil, nil
	for i, e := range entries {
		n, err := getAs[inode](tx, keys[i])
		if err != nil {
			return err
		}
		if n != nil {
			rep.Entries, rep.Attrs = append(rep.Entries, e), append(rep.Attrs, n.Attr)
			tx.lease(e.Ino, protocol.LeaseAttr)
		}
	}
	return nil
}
