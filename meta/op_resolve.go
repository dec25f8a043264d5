package meta

import (
	"strings"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	// maxSymlinks is how many links a walk follows, as the kernel does.
	maxSymlinks = 40
	// maxPath is the length of the longest path in bytes, as the kernel's.
	maxPath = 4096
	// ownName is the directory of the HTTP daemons in the root: what was deleted, and
	// what is being received, whoever may see it. No link leads there.
	ownName = ".tnv"
)

// resolve walks a path from the volume's root. Links stay within the volume.
func resolve(tx *Tx, c *call, rq *protocol.Resolve) (*protocol.ResolveReply, error) {
	if len(rq.Path) > maxPath {
		return nil, tnv.E("resolve", tnv.KindNameTooLong, "a path of %d bytes, at most %d", len(rq.Path), maxPath)
	}
	at, err := tx.inode(tnv.RootIno)
	if err != nil {
		return nil, err
	}
	parent := tnv.Ino(0)
	rest := strings.Split(rq.Path, "/")
	links := 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			if !at.IsDir() {
				return nil, tnv.E("resolve", tnv.KindNotDir, "%q", rq.Path)
			}
			continue
		}
		if err := tx.maySearch(at, c.head.Cred); err != nil {
			return nil, err
		}
		if links > 0 && name == ownName && at.Ino == tnv.RootIno {
			return nil, tnv.E("resolve", tnv.KindNotExist, "%q", rq.Path)
		}
		rep, err := lookup(tx, c, &protocol.Lookup{Parent: at.Ino, Name: name})
		if err != nil {
			return nil, err
		}
		n, err := tx.inode(rep.Attr.Ino)
		if err != nil {
			return nil, err
		}
		if n.Type() == tnv.TypeSymlink && (rq.Follow || len(rest) > 0) {
			if links++; links > maxSymlinks {
				return nil, tnv.E("resolve", tnv.KindLoop, "%q", rq.Path)
			}
			rest = append(strings.Split(n.Target, "/"), rest...)
			if strings.HasPrefix(n.Target, "/") {
				if at, err = tx.inode(tnv.RootIno); err != nil {
					return nil, err
				}
				parent = 0
			}
			continue
		}
		parent, at = at.Ino, n
		switch {
		case at.Ino == tnv.RootIno:
			parent = 0
		case at.IsDir():
			parent = at.Parent // not where it was found, after ".."
		}
	}
	tx.lease(at.Ino, protocol.LeaseAttr)
	return &protocol.ResolveReply{Attr: at.Attr, Parent: parent}, nil
}

// maySearch checks the search permission of a directory for one user and group.
func (tx *Tx) maySearch(dir *inode, cred tnv.Cred) error {
	if !dir.IsDir() {
		return tnv.E("resolve", tnv.KindNotDir, "inode %d", dir.Ino)
	}
	if dir.Flags&tnv.HasAccessACL != 0 && cred.UID != 0 {
		l, err := tx.aclOf(dir, tnv.XattrAccessACL)
		if err != nil {
			return err
		}
		if !l.allows(dir, cred, 1) {
			return tnv.E("resolve", tnv.KindPermission, "directory %d", dir.Ino)
		}
		return nil
	}
	shift := 0
	switch {
	case cred.UID == 0:
		return nil
	case cred.UID == dir.UID:
		shift = 6
	case cred.GID == dir.GID:
		shift = 3
	}
	if dir.Mode>>shift&1 == 0 {
		return tnv.E("resolve", tnv.KindPermission, "directory %d", dir.Ino)
	}
	return nil
}
