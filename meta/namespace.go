package meta

import (
	"strings"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// What the operations share: inodes, names, and the bookkeeping of directories.

const maxLinks = 65000

// inode returns an inode that can be used: it has a name, or a session may hold it open.
func (tx *Tx) inode(ino tnv.Ino) (*inode, error) {
	n, err := getAs[inode](tx, inodeKey(ino))
	if err != nil {
		return nil, err
	}
	if n == nil {
		return nil, tnv.E("inode", tnv.KindStale, "%d", ino)
	}
	if n.Nlink == 0 {
		u, err := getAs[unlinked](tx, unlinkedKey(ino))
		if err != nil {
			return nil, err
		}
		if u == nil || len(u.Waiting) == 0 {
			return nil, tnv.E("inode", tnv.KindStale, "%d", ino)
		}
	}
	return n, nil
}

// dir returns a directory.
func (tx *Tx) dir(ino tnv.Ino) (*inode, error) {
	n, err := tx.inode(ino)
	if err == nil && !n.IsDir() {
		return nil, tnv.E("directory", tnv.KindNotDir, "inode %d", ino)
	}
	return n, err
}

// entry returns what a name in a directory stands for, nil if nothing.
func (tx *Tx) entry(dir tnv.Ino, name string) (*dentry, error) {
	return getAs[dentry](tx, dentryKey(dir, name))
}

// checkName refuses what cannot be the name of an entry.
func checkName(name string) error {
	switch {
	case name == "":
		return tnv.E("name", tnv.KindNotExist, "empty")
	case len(name) > tnv.MaxNameLen:
		return tnv.E("name", tnv.KindNameTooLong, "%d bytes", len(name))
	case name == "." || name == "..":
		return tnv.E("name", tnv.KindExist, "%q", name)
	case strings.ContainsAny(name, "/\x00"):
		return tnv.E("name", tnv.KindInvalid, "a slash or a zero byte in %q", name)
	}
	return nil
}

// update writes a changed copy of n, with a new version. The session for which
// that is done is told, and leased, the attributes.
func (tx *Tx) update(n inode) *inode {
	n.Version = uint64(tx.seq)
	tx.set(inodeKey(n.Ino), &n)
	tx.tell(n.Attr)
	return &n
}

// changed is a copy of n with a new change time.
func (tx *Tx) changed(n *inode) inode {
	c := *n
	c.Ctime = tx.now
	return c
}

// updateDir notes in a directory that entries and subdirectories came or went.
// The directory is read again, so that two changes of one do not lose one.
func (tx *Tx) updateDir(ino tnv.Ino, entries, subdirs int) error {
	n, err := tx.dir(ino)
	if err != nil {
		return err
	}
	c := tx.changed(n)
	c.Mtime = tx.now
	c.Size += uint64(entries)
	c.Nlink += uint32(subdirs)
	c.Data = uint64(tx.seq)
	tx.update(c)
	return nil
}

// freshName returns the directory in which a new entry may be made.
func (tx *Tx) freshName(parent tnv.Ino, name string) (*inode, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := tx.want(inodeKey(parent), dentryKey(parent, name)); err != nil {
		return nil, err
	}
	dir, err := tx.dir(parent)
	if err != nil {
		return nil, err
	}
	e, err := tx.entry(parent, name)
	if err != nil {
		return nil, err
	}
	if e != nil {
		return nil, tnv.E("make entry", tnv.KindExist, "%q", name)
	}
	if dir.Nlink == 0 {
		return nil, tnv.E("make entry", tnv.KindNotExist, "the directory was removed")
	}
	return dir, nil
}

// makeInode makes an inode and its first name.
func (tx *Tx) makeInode(c *call, parent tnv.Ino, name string, umask uint32, n inode) (*inode, error) {
	if err := tx.want(usageKey()); err != nil {
		return nil, err
	}
	dir, err := tx.freshName(parent, name)
	if err != nil {
		return nil, err
	}
	made, err := tx.bareInode(c, dir, umask, n)
	if err != nil {
		return nil, err
	}
	tx.set(dentryKey(parent, name), &dentry{made.Ino, made.Type()})
	subdirs := 0
	if made.IsDir() {
		subdirs = 1
	}
	if err := tx.updateDir(parent, 1, subdirs); err != nil {
		return nil, err
	}
	return made, tx.addUsage(1, 0)
}

// bareInode makes an inode that belongs in a directory, and no name.
func (tx *Tx) bareInode(c *call, dir *inode, umask uint32, n inode) (*inode, error) {
	id, err := tx.newIDs(idIno, 1)
	if err != nil {
		return nil, err
	}
	n.Ino = tnv.Ino(id)
	n.UID, n.GID = c.head.Cred.UID, c.head.Cred.GID
	if dir.Mode&0o2000 != 0 {
		n.GID = dir.GID
		if n.IsDir() {
			n.Mode |= 0o2000
		}
	}
	if err := tx.inherit(dir, &n, umask); err != nil {
		return nil, err
	}
	n.Atime, n.Mtime, n.Ctime, n.Btime = tx.now, tx.now, tx.now, tx.now
	n.Data = uint64(tx.seq)
	return tx.update(n), nil
}

// addUsage counts inodes and allocated bytes of the volume.
func (tx *Tx) addUsage(files, bytes int64) error {
	u, err := getAs[usage](tx, usageKey())
	if err != nil {
		return err
	}
	var now usage
	if u != nil {
		now = *u
	}
	now.Files += uint64(files)
	now.Bytes += uint64(bytes)
	tx.set(usageKey(), &now)
	return tx.s.owner.checkLimits(&now, files, bytes)
}

// checkLimits refuses what makes a volume grow beyond its settings. The root and what
// was there before they were set count, too.
func (v *Volume) checkLimits(is *usage, files, bytes int64) error {
	set := v.set.Load()
	switch {
	case files > 0 && set.MaxFiles > 0 && is.Files > set.MaxFiles:
		return tnv.E("quota", tnv.KindQuota, "volume %s may hold %d files", set.Name, set.MaxFiles)
	case bytes > 0 && set.MaxBytes > 0 && is.Bytes > set.MaxBytes:
		return tnv.E("quota", tnv.KindQuota, "volume %s may hold %d bytes", set.Name, set.MaxBytes)
	}
	return nil
}

// dropLink takes one name from an inode that is not a directory, or the last
// one from a directory. It returns the inode's number if it has none left.
func (tx *Tx) dropLink(v *Volume, n *inode) (*inode, tnv.Ino) {
	c := tx.changed(n)
	if c.IsDir() {
		c.Nlink = 0
	} else {
		c.Nlink--
	}
	is := tx.update(c)
	if is.Nlink > 0 {
		return is, 0
	}
	tx.park(v, is.Ino)
	return is, is.Ino
}

func attrReply(n *inode) *protocol.AttrReply { return &protocol.AttrReply{Attr: n.Attr} }
