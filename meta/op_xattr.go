package meta

import (
	"context"
	"slices"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Flags of setxattr(2).
const (
	xattrCreate  = 1
	xattrReplace = 2
)

// maxXattrs is how many extended attributes an inode may have: listxattr(2)
// gives at most 64 KiB of names, each of at most 255 bytes and a zero.
const maxXattrs = 256

func checkXattrName(name string) error {
	switch {
	case name == "":
		return tnv.E("xattr", tnv.KindInvalid, "no name")
	case len(name) > 255:
		return tnv.E("xattr", tnv.KindRange, "name of %d bytes", len(name))
	}
	return nil
}

// getXattr reads an extended attribute.
func getXattr(tx *Tx, _ *call, rq *protocol.GetXattr) (*protocol.XattrReply, error) {
	if err := checkXattrName(rq.Name); err != nil {
		return nil, err
	}
	n, err := tx.inode(rq.Ino)
	if err != nil {
		return nil, err
	}
	var x *xattr
	if n.Xattrs > 0 { // most inodes have none: no look into the store for them
		if x, err = getAs[xattr](tx, xattrKey(rq.Ino, rq.Name)); err != nil {
			return nil, err
		}
	}
	if x == nil {
		return nil, tnv.E("getxattr", tnv.KindNoData, "%q", rq.Name)
	}
	return &protocol.XattrReply{Value: x.Value}, nil
}

// listXattr lists the names of an inode's extended attributes.
func listXattr(ctx context.Context, c *call, rq *protocol.ListXattr) (*protocol.ListXattrReply, error) {
	rep := &protocol.ListXattrReply{}
	none := false
	err := c.v.read(ctx, func(tx *Tx) error {
		n, err := tx.inode(rq.Ino)
		none = err == nil && n.Xattrs == 0
		return err
	})
	if err != nil || none {
		return rep, err
	}
	same, unpin, err := c.v.pin(ctx, inodeKey(rq.Ino))
	if err != nil {
		return nil, err
	}
	defer unpin()
	prefix := xattrKey(rq.Ino, "")
	pairs, seen, err := c.v.scan(ctx, prefix, prefixEnd(prefix), 0, same)
	if err != nil {
		return nil, err
	}
	for _, p := range pairs {
		rep.Names = append(rep.Names, p.key[len(prefix):])
	}
	slices.Sort(rep.Names)
	return rep, c.v.wait(ctx, seen)
}

// setXattr sets an extended attribute.
func setXattr(tx *Tx, _ *call, rq *protocol.SetXattr) (*empty, error) {
	if err := checkXattrName(rq.Name); err != nil {
		return nil, err
	}
	if len(rq.Value) > tnv.MaxXattrSize {
		return nil, tnv.E("setxattr", tnv.KindXattrTooBig, "%d bytes, at most %d", len(rq.Value), tnv.MaxXattrSize)
	}
	key := xattrKey(rq.Ino, rq.Name)
	if err := tx.want(inodeKey(rq.Ino), key); err != nil {
		return nil, err
	}
	n, err := tx.inode(rq.Ino)
	if err != nil {
		return nil, err
	}
	x, err := getAs[xattr](tx, key)
	switch {
	case err != nil:
		return nil, err
	case x != nil && rq.Flags&xattrCreate != 0:
		return nil, tnv.E("setxattr", tnv.KindExist, "%q", rq.Name)
	case x == nil && rq.Flags&xattrReplace != 0:
		return nil, tnv.E("setxattr", tnv.KindNoData, "%q", rq.Name)
	case x == nil && n.Xattrs >= maxXattrs:
		return nil, tnv.E("setxattr", tnv.KindNoSpace, "an inode has at most %d attributes", maxXattrs)
	}
	is := tx.changed(n)
	if x == nil {
		is.Xattrs++
	}
	tx.set(key, &xattr{slices.Clone(rq.Value)})
	tx.update(is)
	return &empty{}, nil
}

// removeXattr removes an extended attribute.
func removeXattr(tx *Tx, _ *call, rq *protocol.RemoveXattr) (*empty, error) {
	if err := checkXattrName(rq.Name); err != nil {
		return nil, err
	}
	key := xattrKey(rq.Ino, rq.Name)
	if err := tx.want(inodeKey(rq.Ino), key); err != nil {
		return nil, err
	}
	n, err := tx.inode(rq.Ino)
	if err != nil {
		return nil, err
	}
	x, err := getAs[xattr](tx, key)
	if err != nil {
		return nil, err
	}
	if x == nil {
		return nil, tnv.E("removexattr", tnv.KindNoData, "%q", rq.Name)
	}
	is := tx.changed(n)
	is.Xattrs--
	tx.del(key)
	tx.update(is)
	return &empty{}, nil
}
