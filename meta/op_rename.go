package meta

import (
	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// rename moves a name, over another one if it has to (renameat2(2)).
func rename(tx *Tx, c *call, rq *protocol.Rename) (*protocol.UnlinkReply, error) {
	if err := checkRename(rq); err != nil {
		return nil, err
	}
	err := tx.want(inodeKey(rq.Parent), inodeKey(rq.NewParent), dentryKey(rq.Parent, rq.Name), dentryKey(rq.NewParent, rq.NewName))
	if err != nil {
		return nil, err
	}
	from, err := tx.victim(rq.Parent, rq.Name)
	if err != nil {
		return nil, err
	}
	newDir, err := tx.dir(rq.NewParent)
	if err != nil {
		return nil, err
	}
	if newDir.Nlink == 0 {
		return nil, tnv.E("rename", tnv.KindNotExist, "the directory was removed")
	}
	var to *inode
	e, err := tx.entry(rq.NewParent, rq.NewName)
	if err != nil {
		return nil, err
	}
	if e != nil {
		if to, err = tx.inode(e.Ino); err != nil {
			return nil, err
		}
	}
	if from.IsDir() {
		if err := tx.checkLoop(from.Ino, rq.NewParent); err != nil {
			return nil, err
		}
	}
	switch {
	case rq.Flags == protocol.RenameNoReplace && to != nil:
		return nil, tnv.E("rename", tnv.KindExist, "%q", rq.NewName)
	case rq.Flags == protocol.RenameExchange:
		return exchange(tx, rq, from, to)
	case to != nil && to.Ino == from.Ino: // the same entry, or two names of one inode
		return &protocol.UnlinkReply{Attr: from.Attr}, nil
	}
	return move(tx, c, rq, from, to)
}

func checkRename(rq *protocol.Rename) error {
	if rq.Flags != 0 && rq.Flags != protocol.RenameNoReplace && rq.Flags != protocol.RenameExchange {
		return tnv.E("rename", tnv.KindInvalid, "flags %#x", rq.Flags)
	}
	for _, name := range []string{rq.Name, rq.NewName} {
		if name == "." || name == ".." {
			return tnv.E("rename", tnv.KindBusy, "%q", name)
		}
		if err := checkName(name); err != nil {
			return err
		}
	}
	return nil
}

// checkLoop refuses to move a directory into itself or below itself.
func (tx *Tx) checkLoop(moved, into tnv.Ino) error {
	for at := into; ; {
		if at == moved {
			return tnv.E("rename", tnv.KindInvalid, "a directory cannot be moved below itself")
		}
		if at == tnv.RootIno {
			return nil
		}
		n, err := tx.dir(at)
		if err != nil {
			return err
		}
		at = n.Parent
	}
}

// move takes an entry to its new place; what was there loses its name.
func move(tx *Tx, c *call, rq *protocol.Rename, from, to *inode) (*protocol.UnlinkReply, error) {
	rep := &protocol.UnlinkReply{}
	if to != nil {
		switch {
		case to.IsDir() && !from.IsDir():
			return nil, tnv.E("rename", tnv.KindIsDir, "%q", rq.NewName)
		case !to.IsDir() && from.IsDir():
			return nil, tnv.E("rename", tnv.KindNotDir, "%q", rq.NewName)
		case to.IsDir() && to.Size > 0:
			return nil, tnv.E("rename", tnv.KindNotEmpty, "%q", rq.NewName)
		}
		_, rep.Unlinked = tx.dropLink(c.v, to)
	}
	tx.del(dentryKey(rq.Parent, rq.Name))
	tx.set(dentryKey(rq.NewParent, rq.NewName), &dentry{from.Ino, from.Type()})
	moved := tx.changed(from)
	if moved.IsDir() {
		moved.Parent = rq.NewParent
	}
	rep.Attr = tx.update(moved).Attr
	gone, come := -1, 1
	if to != nil {
		come = 0
	}
	goneDirs, comeDirs := 0, 0
	if from.IsDir() {
		goneDirs, comeDirs = -1, 1
	}
	if to != nil && to.IsDir() {
		comeDirs--
	}
	if rq.Parent == rq.NewParent {
		return rep, tx.updateDir(rq.Parent, gone+come, goneDirs+comeDirs)
	}
	if err := tx.updateDir(rq.Parent, gone, goneDirs); err != nil {
		return nil, err
	}
	return rep, tx.updateDir(rq.NewParent, come, comeDirs)
}

// exchange swaps two entries.
func exchange(tx *Tx, rq *protocol.Rename, from, to *inode) (*protocol.UnlinkReply, error) {
	if to == nil {
		return nil, tnv.E("rename", tnv.KindNotExist, "%q", rq.NewName)
	}
	if to.IsDir() {
		if err := tx.checkLoop(to.Ino, rq.Parent); err != nil {
			return nil, err
		}
	}
	if from.Ino == to.Ino {
		return &protocol.UnlinkReply{Attr: from.Attr}, nil
	}
	tx.set(dentryKey(rq.Parent, rq.Name), &dentry{to.Ino, to.Type()})
	tx.set(dentryKey(rq.NewParent, rq.NewName), &dentry{from.Ino, from.Type()})
	a, b := tx.changed(from), tx.changed(to)
	subdirs := 0 // that NewParent gains and Parent loses
	if a.IsDir() {
		a.Parent = rq.NewParent
		subdirs++
	}
	if b.IsDir() {
		b.Parent = rq.Parent
		subdirs--
	}
	rep := &protocol.UnlinkReply{Attr: tx.update(a).Attr}
	tx.update(b)
	if rq.Parent == rq.NewParent {
		return rep, tx.updateDir(rq.Parent, 0, 0)
	}
	if err := tx.updateDir(rq.Parent, 0, -subdirs); err != nil {
		return nil, err
	}
	return rep, tx.updateDir(rq.NewParent, 0, subdirs)
}
