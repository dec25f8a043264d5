package meta

import (
	"context"
	"slices"
	"strings"

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

// checkXattrName refuses what is in none of the namespaces of xattr(7). Who may
// use which one is the kernel's to check.
func checkXattrName(name string) error {
	switch {
	case name == "":
		return tnv.E("xattr", tnv.KindInvalid, "no name")
	case len(name) > 255:
		return tnv.E("xattr", tnv.KindRange, "name of %d bytes", len(name))
	case name == tnv.XattrAccessACL, name == tnv.XattrDefaultACL:
		return nil
	}
	for _, space := range []string{"user.", "trusted.", "security."} {
		if rest, ok := strings.CutPrefix(name, space); ok {
			if rest == "" {
				return tnv.E("xattr", tnv.KindInvalid, "nothing behind %q", space)
			}
			return nil
		}
	}
	return tnv.E("xattr", tnv.KindNotSupported, "namespace of %q", name)
}

// putXattr sets an extended attribute of an inode that is being changed.
func (tx *Tx) putXattr(n *inode, name string, value []byte) error {
	key := xattrKey(n.Ino, name)
	x, err := tx.xattrOf(n, name)
	switch {
	case err != nil:
		return err
	case x == nil && n.Xattrs >= maxXattrs:
		return tnv.E("setxattr", tnv.KindNoSpace, "an inode has at most %d attributes", maxXattrs)
	case x == nil:
		n.Xattrs++
	}
	n.Flags |= tnv.XattrFlag(name)
	tx.set(key, &xattr{value})
	return nil
}

// dropXattr takes one of the names with a flag from an inode that is being changed.
func (tx *Tx) dropXattr(n *inode, name string) error {
	if n.Flags&tnv.XattrFlag(name) == 0 {
		return nil
	}
	n.Flags &^= tnv.XattrFlag(name)
	n.Xattrs--
	tx.del(xattrKey(n.Ino, name))
	return nil
}

// xattrOf reads an extended attribute, nil if there is none. Most inodes have
// none at all: no look into the store for them.
func (tx *Tx) xattrOf(n *inode, name string) (*xattr, error) {
	if n.Xattrs == 0 {
		return nil, nil
	}
	return getAs[xattr](tx, xattrKey(n.Ino, name))
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
	x, err := tx.xattrOf(n, rq.Name)
	if err != nil {
		return nil, err
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
	if err := tx.want(inodeKey(rq.Ino), xattrKey(rq.Ino, rq.Name)); err != nil {
		return nil, err
	}
	n, err := tx.inode(rq.Ino)
	if err != nil {
		return nil, err
	}
	x, err := tx.xattrOf(n, rq.Name)
	switch {
	case err != nil:
		return nil, err
	case x != nil && rq.Flags&xattrCreate != 0:
		return nil, tnv.E("setxattr", tnv.KindExist, "%q", rq.Name)
	case x == nil && rq.Flags&xattrReplace != 0:
		return nil, tnv.E("setxattr", tnv.KindNoData, "%q", rq.Name)
	}
	is := tx.changed(n)
	switch rq.Name {
	case tnv.XattrAccessACL, tnv.XattrDefaultACL:
		err = tx.replaceACL(&is, rq)
	default:
		err = tx.putXattr(&is, rq.Name, slices.Clone(rq.Value))
	}
	if err != nil {
		return nil, err
	}
	tx.update(is)
	return &empty{}, nil
}

// replaceACL sets one of the lists, and the mode that goes with an access ACL.
func (tx *Tx) replaceACL(n *inode, rq *protocol.SetXattr) error {
	l, err := parseACL(rq.Value)
	switch {
	case err != nil:
		return err
	case n.Type() == tnv.TypeSymlink:
		return tnv.E("ACL", tnv.KindNotSupported, "inode %d is a symbolic link", n.Ino)
	case rq.Name == tnv.XattrDefaultACL && !n.IsDir() && l != nil:
		return tnv.E("ACL", tnv.KindPermission, "inode %d is no directory", n.Ino)
	case rq.Name == tnv.XattrAccessACL && l != nil:
		n.Mode = n.Mode&^0o777 | l.mode()
		if rq.KillSGID {
			n.Mode &^= 0o2000
		}
	}
	return tx.setACL(n, rq.Name, l)
}

// removeXattr removes an extended attribute. The mode stays as an access ACL left it.
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
	x, err := tx.xattrOf(n, rq.Name)
	if err != nil {
		return nil, err
	}
	if x == nil {
		if rq.Name == tnv.XattrAccessACL || rq.Name == tnv.XattrDefaultACL {
			return &empty{}, nil // the mode says it all
		}
		return nil, tnv.E("removexattr", tnv.KindNoData, "%q", rq.Name)
	}
	is := tx.changed(n)
	is.Xattrs--
	is.Flags &^= tnv.XattrFlag(rq.Name)
	tx.del(key)
	tx.update(is)
	return &empty{}, nil
}
