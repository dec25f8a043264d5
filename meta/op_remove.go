package meta

import (
	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// victim finds what an entry to be removed stands for.
func (tx *Tx) victim(parent tnv.Ino, name string) (*inode, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := tx.want(inodeKey(parent), dentryKey(parent, name)); err != nil {
		return nil, err
	}
	if _, err := tx.dir(parent); err != nil {
		return nil, err
	}
	e, err := tx.entry(parent, name)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, tnv.E("remove", tnv.KindNotExist, "%q", name)
	}
	return tx.inode(e.Ino)
}

// unlink removes a name that is not a directory's.
func unlink(tx *Tx, c *call, rq *protocol.Unlink) (*protocol.UnlinkReply, error) {
	if rq.Name == "." || rq.Name == ".." {
		return nil, tnv.E("unlink", tnv.KindIsDir, "%q", rq.Name)
	}
	n, err := tx.victim(rq.Parent, rq.Name)
	if err != nil {
		return nil, err
	}
	if n.IsDir() {
		return nil, tnv.E("unlink", tnv.KindIsDir, "%q", rq.Name)
	}
	tx.del(dentryKey(rq.Parent, rq.Name))
	is, gone := tx.dropLink(c.v, n)
	return &protocol.UnlinkReply{Unlinked: gone, Attr: is.Attr}, tx.updateDir(rq.Parent, -1, 0)
}

// rmdir removes an empty directory.
func rmdir(tx *Tx, c *call, rq *protocol.Rmdir) (*empty, error) {
	switch rq.Name {
	case ".":
		return nil, tnv.E("rmdir", tnv.KindInvalid, `"."`)
	case "..":
		return nil, tnv.E("rmdir", tnv.KindNotEmpty, `".."`)
	}
	n, err := tx.victim(rq.Parent, rq.Name)
	switch {
	case err != nil:
		return nil, err
	case !n.IsDir():
		return nil, tnv.E("rmdir", tnv.KindNotDir, "%q", rq.Name)
	case n.Size > 0:
		return nil, tnv.E("rmdir", tnv.KindNotEmpty, "%q", rq.Name)
	}
	tx.del(dentryKey(rq.Parent, rq.Name))
	tx.dropLink(c.v, n)
	return &empty{}, tx.updateDir(rq.Parent, -1, -1)
}
