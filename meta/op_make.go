package meta

import (
	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// create makes a file of any type but directory and link, or finds a regular one.
func create(tx *Tx, c *call, rq *protocol.Create) (*protocol.CreateReply, error) {
	mode := rq.Mode
	if mode&^0o7777 == 0 {
		mode |= tnv.TypeRegular.Mode()
	}
	n := inode{Attr: tnv.Attr{Mode: mode & 0o177777, Nlink: 1, Rdev: rq.Rdev}}
	switch n.Type() {
	case tnv.TypeRegular, tnv.TypeFIFO, tnv.TypeChar, tnv.TypeBlock, tnv.TypeSocket:
	default:
		return nil, tnv.E("create", tnv.KindInvalid, "mode %o", rq.Mode)
	}
	if rq.Unnamed {
		return createUnnamed(tx, c, rq, n)
	}
	made, err := tx.makeInode(c, rq.Parent, rq.Name, rq.Umask, n)
	if tnv.KindOf(err) == tnv.KindExist && !rq.Excl && n.IsRegular() && rq.Name != "." && rq.Name != ".." {
		found, missing := lookup(tx, c, &protocol.Lookup{Parent: rq.Parent, Name: rq.Name})
		if missing != nil {
			return nil, missing
		}
		switch {
		case found.Attr.IsDir():
			return nil, tnv.E("create", tnv.KindIsDir, "%q", rq.Name)
		case !found.Attr.IsRegular():
			return nil, err
		}
		return &protocol.CreateReply{Attr: found.Attr}, nil
	}
	if err != nil {
		return nil, err
	}
	return &protocol.CreateReply{Attr: made.Attr, Created: true}, nil
}

// createUnnamed makes a regular file without a name, which its maker's handle
// keeps: it is parked like one that lost its last name.
func createUnnamed(tx *Tx, c *call, rq *protocol.Create, n inode) (*protocol.CreateReply, error) {
	if !n.IsRegular() {
		return nil, tnv.E("create", tnv.KindInvalid, "mode %o without a name", rq.Mode)
	}
	if err := tx.want(usageKey(), inodeKey(rq.Parent)); err != nil {
		return nil, err
	}
	dir, err := tx.dir(rq.Parent)
	if err != nil {
		return nil, err
	}
	if dir.Nlink == 0 {
		return nil, tnv.E("create", tnv.KindNotExist, "the directory was removed")
	}
	n.Nlink, n.Flags = 0, tnv.Linkable
	made, err := tx.bareInode(c, dir, rq.Umask, n)
	if err != nil {
		return nil, err
	}
	tx.park(c.v, made.Ino)
	return &protocol.CreateReply{Attr: made.Attr, Created: true}, tx.addUsage(1, 0)
}

// mkdir makes a directory.
func mkdir(tx *Tx, c *call, rq *protocol.Mkdir) (*protocol.AttrReply, error) {
	dir, err := tx.dir(rq.Parent)
	if err != nil {
		return nil, err
	}
	if dir.Nlink >= maxLinks {
		return nil, tnv.E("mkdir", tnv.KindTooManyLinks, "directory %d", rq.Parent)
	}
	made, err := tx.makeInode(c, rq.Parent, rq.Name, rq.Umask, inode{Attr: tnv.Attr{
		Mode: tnv.TypeDir.Mode() | rq.Mode&0o7777, Nlink: 2, Parent: rq.Parent}})
	if err != nil {
		return nil, err
	}
	tx.lease(made.Ino, protocol.LeaseNames)
	return attrReply(made), nil
}

// symlink makes a symbolic link.
func symlink(tx *Tx, c *call, rq *protocol.Symlink) (*protocol.AttrReply, error) {
	switch {
	case rq.Target == "":
		return nil, tnv.E("symlink", tnv.KindNotExist, "empty target")
	case len(rq.Target) > tnv.MaxSymlinkLen:
		return nil, tnv.E("symlink", tnv.KindNameTooLong, "target of %d bytes", len(rq.Target))
	}
	made, err := tx.makeInode(c, rq.Parent, rq.Name, 0, inode{Target: rq.Target, Attr: tnv.Attr{
		Mode: tnv.TypeSymlink.Mode() | 0o777, Nlink: 1, Size: uint64(len(rq.Target))}})
	if err != nil {
		return nil, err
	}
	return attrReply(made), nil
}

// link gives an inode another name.
func link(tx *Tx, c *call, rq *protocol.Link) (*protocol.AttrReply, error) {
	if err := tx.want(inodeKey(rq.Ino), unlinkedKey(rq.Ino)); err != nil {
		return nil, err
	}
	if _, err := tx.freshName(rq.Parent, rq.Name); err != nil {
		return nil, err
	}
	n, err := tx.inode(rq.Ino)
	switch {
	case err != nil:
		return nil, err
	case n.IsDir():
		return nil, tnv.E("link", tnv.KindNotPermitted, "inode %d is a directory", rq.Ino)
	case n.Nlink == 0 && n.Flags&tnv.Linkable == 0:
		return nil, tnv.E("link", tnv.KindNotExist, "inode %d has lost its last name", rq.Ino)
	case n.Nlink >= maxLinks:
		return nil, tnv.E("link", tnv.KindTooManyLinks, "inode %d", rq.Ino)
	}
	more := tx.changed(n)
	more.Nlink++
	if n.Nlink == 0 {
		more.Flags &^= tnv.Linkable
		tx.unpark(c.v, rq.Ino)
	}
	is := tx.update(more)
	tx.set(dentryKey(rq.Parent, rq.Name), &dentry{is.Ino, is.Type()})
	return attrReply(is), tx.updateDir(rq.Parent, 1, 0)
}
