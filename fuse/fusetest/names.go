package fusetest

import (
	"context"
	"sort"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Lookup finds a name.
func (v *Volume) Lookup(ctx context.Context, _ tnv.Cred, parent tnv.Ino, name string) (tnv.Attr, error) {
	if err := v.begin(ctx, "lookup"); err != nil {
		return tnv.Attr{}, err
	}
	defer v.mu.Unlock()
	_, n, err := v.entryLocked(parent, name)
	if err != nil {
		return tnv.Attr{}, err
	}
	return n.attr, nil
}

// GetAttr reads attributes.
func (v *Volume) GetAttr(ctx context.Context, _ tnv.Cred, ino tnv.Ino) (tnv.Attr, error) {
	if err := v.begin(ctx, "getattr"); err != nil {
		return tnv.Attr{}, err
	}
	defer v.mu.Unlock()
	n, err := v.getLocked(ino)
	if err != nil {
		return tnv.Attr{}, err
	}
	return n.attr, nil
}

// SetAttr changes attributes.
func (v *Volume) SetAttr(ctx context.Context, _ tnv.Cred, rq protocol.SetAttr) (tnv.Attr, error) {
	if err := v.begin(ctx, "setattr"); err != nil {
		return tnv.Attr{}, err
	}
	defer v.mu.Unlock()
	n, err := v.getLocked(rq.Ino)
	if err != nil {
		return tnv.Attr{}, err
	}
	has := func(m protocol.SetAttrMask) bool { return rq.Mask&m != 0 }
	if has(protocol.SetAccessed) {
		v.seq++
		n.attr.Version, n.attr.Atime = v.seq, time.Now().UnixNano()
		return n.attr, nil
	}
	v.changedLocked(n, has(protocol.SetSize))
	if has(protocol.SetMode) {
		n.attr.Mode = n.attr.Mode&^0o7777 | rq.Mode&0o7777
	}
	if has(protocol.SetUID) {
		n.attr.UID = rq.UID
	}
	if has(protocol.SetGID) {
		n.attr.GID = rq.GID
	}
	if has(protocol.SetKillSUID) {
		n.killSUID()
	}
	if has(protocol.SetSize) {
		n.resize(rq.Size)
	}
	if has(protocol.SetAtime) {
		n.attr.Atime = rq.Atime
	}
	if has(protocol.SetMtime) {
		n.attr.Mtime = rq.Mtime
	}
	if has(protocol.SetAtimeNow) {
		n.attr.Atime = n.attr.Ctime
	}
	if has(protocol.SetMtimeNow) {
		n.attr.Mtime = n.attr.Ctime
	}
	return n.attr, nil
}

func (n *node) killSUID() {
	n.attr.Mode &^= 0o4000
	if n.attr.Mode&0o010 != 0 {
		n.attr.Mode &^= 0o2000
	}
}

// Create makes a file, or finds a regular one unless rq.Excl.
func (v *Volume) Create(ctx context.Context, cred tnv.Cred, rq protocol.Create) (protocol.CreateReply, error) {
	if err := v.begin(ctx, "create"); err != nil {
		return protocol.CreateReply{}, err
	}
	defer v.mu.Unlock()
	mode := v.maskedLocked(rq.Parent, rq.Mode, rq.Umask)
	if rq.Unnamed {
		n := v.makeLocked(tnv.Attr{Mode: mode, UID: cred.UID, GID: cred.GID, Flags: tnv.Linkable})
		return protocol.CreateReply{Attr: n.attr, Created: true}, nil
	}
	if _, old, _ := v.entryLocked(rq.Parent, rq.Name); old != nil && !rq.Excl && old.attr.IsRegular() {
		return protocol.CreateReply{Attr: old.attr}, nil
	}
	n, err := v.addLocked(cred, rq.Parent, rq.Name, tnv.Attr{Mode: mode, Rdev: rq.Rdev})
	if err != nil {
		return protocol.CreateReply{}, err
	}
	return protocol.CreateReply{Attr: n.attr, Created: true}, nil
}

// maskedLocked applies the umask, unless the directory has a default ACL. That is
// all that is done about ACLs.
func (v *Volume) maskedLocked(parent tnv.Ino, mode, umask uint32) uint32 {
	if dir, err := v.dirLocked(parent); err == nil && dir.attr.Flags&tnv.HasDefaultACL != 0 {
		return mode
	}
	return mode &^ umask
}

// Mkdir makes a directory.
func (v *Volume) Mkdir(ctx context.Context, cred tnv.Cred, rq protocol.Mkdir) (tnv.Attr, error) {
	if err := v.begin(ctx, "mkdir"); err != nil {
		return tnv.Attr{}, err
	}
	defer v.mu.Unlock()
	n, err := v.addLocked(cred, rq.Parent, rq.Name, tnv.Attr{Mode: tnv.TypeDir.Mode() | v.maskedLocked(rq.Parent, rq.Mode, rq.Umask)&0o7777})
	if err != nil {
		return tnv.Attr{}, err
	}
	return n.attr, nil
}

// Symlink makes a symbolic link.
func (v *Volume) Symlink(ctx context.Context, cred tnv.Cred, rq protocol.Symlink) (tnv.Attr, error) {
	if err := v.begin(ctx, "symlink"); err != nil {
		return tnv.Attr{}, err
	}
	defer v.mu.Unlock()
	n, err := v.addLocked(cred, rq.Parent, rq.Name, tnv.Attr{Mode: tnv.TypeSymlink.Mode() | 0o777, Size: uint64(len(rq.Target))})
	if err != nil {
		return tnv.Attr{}, err
	}
	n.target = rq.Target
	return n.attr, nil
}

// ReadLink reads one.
func (v *Volume) ReadLink(ctx context.Context, _ tnv.Cred, ino tnv.Ino) (string, error) {
	if err := v.begin(ctx, "readlink"); err != nil {
		return "", err
	}
	defer v.mu.Unlock()
	n, err := v.getLocked(ino)
	if err != nil {
		return "", err
	}
	return n.target, nil
}

// Link gives an inode one more name.
func (v *Volume) Link(ctx context.Context, _ tnv.Cred, rq protocol.Link) (tnv.Attr, error) {
	if err := v.begin(ctx, "link"); err != nil {
		return tnv.Attr{}, err
	}
	defer v.mu.Unlock()
	n, err := v.getLocked(rq.Ino)
	if err != nil {
		return tnv.Attr{}, err
	}
	dir, old, err := v.entryLocked(rq.Parent, rq.Name)
	if old != nil {
		return tnv.Attr{}, tnv.E("link", tnv.KindExist, "%q", rq.Name)
	}
	if dir == nil {
		return tnv.Attr{}, err
	}
	dir.names[rq.Name] = rq.Ino
	n.attr.Nlink++
	v.changedLocked(dir, true)
	v.changedLocked(n, false)
	return n.attr, nil
}

// Unlink removes a name.
func (v *Volume) Unlink(ctx context.Context, _ tnv.Cred, rq protocol.Unlink) (protocol.UnlinkReply, error) {
	if err := v.begin(ctx, "unlink"); err != nil {
		return protocol.UnlinkReply{}, err
	}
	defer v.mu.Unlock()
	dir, n, err := v.entryLocked(rq.Parent, rq.Name)
	switch {
	case err != nil:
		return protocol.UnlinkReply{}, err
	case n.attr.IsDir():
		return protocol.UnlinkReply{}, tnv.E("unlink", tnv.KindIsDir, "%q", rq.Name)
	}
	v.dropLocked(dir, n, rq.Name)
	return protocol.UnlinkReply{Attr: n.attr}, nil
}

// Rmdir removes an empty directory.
func (v *Volume) Rmdir(ctx context.Context, _ tnv.Cred, rq protocol.Rmdir) error {
	if err := v.begin(ctx, "rmdir"); err != nil {
		return err
	}
	defer v.mu.Unlock()
	dir, n, err := v.entryLocked(rq.Parent, rq.Name)
	switch {
	case err != nil:
		return err
	case !n.attr.IsDir():
		return tnv.E("rmdir", tnv.KindNotDir, "%q", rq.Name)
	case len(n.names) > 0:
		return tnv.E("rmdir", tnv.KindNotEmpty, "%q", rq.Name)
	}
	v.dropLocked(dir, n, rq.Name)
	return nil
}

// Rename moves a name. Loops are not looked for.
func (v *Volume) Rename(ctx context.Context, _ tnv.Cred, rq protocol.Rename) (protocol.UnlinkReply, error) {
	var rep protocol.UnlinkReply
	if err := v.begin(ctx, "rename"); err != nil {
		return rep, err
	}
	defer v.mu.Unlock()
	from, n, err := v.entryLocked(rq.Parent, rq.Name)
	if err != nil {
		return rep, err
	}
	to, old, err := v.entryLocked(rq.NewParent, rq.NewName)
	switch {
	case to == nil:
		return rep, err
	case rq.Flags&protocol.RenameExchange != 0:
		if old == nil {
			return rep, err
		}
		from.names[rq.Name], to.names[rq.NewName] = old.attr.Ino, n.attr.Ino
		v.movedLocked(old, from)
		v.movedLocked(n, to)
		v.changedLocked(from, true)
		v.changedLocked(to, true)
		return rep, nil
	case old != nil && rq.Flags&protocol.RenameNoReplace != 0:
		return rep, tnv.E("rename", tnv.KindExist, "%q", rq.NewName)
	case old == n:
		return rep, nil
	case old != nil && len(old.names) > 0:
		return rep, tnv.E("rename", tnv.KindNotEmpty, "%q", rq.NewName)
	}
	if old != nil {
		v.dropLocked(to, old, rq.NewName)
	}
	delete(from.names, rq.Name)
	to.names[rq.NewName] = n.attr.Ino
	v.movedLocked(n, to)
	v.changedLocked(from, true)
	v.changedLocked(to, true)
	v.changedLocked(n, false)
	return rep, nil
}

func (v *Volume) movedLocked(n, to *node) {
	if !n.attr.IsDir() || n.attr.Parent == to.attr.Ino {
		return
	}
	v.inodes[n.attr.Parent].attr.Nlink--
	to.attr.Nlink++
	n.attr.Parent = to.attr.Ino
}

// GetXattr reads an extended attribute.
func (v *Volume) GetXattr(ctx context.Context, _ tnv.Cred, ino tnv.Ino, name string) ([]byte, error) {
	if err := v.begin(ctx, "getxattr"); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	n, err := v.getLocked(ino)
	if err != nil {
		return nil, err
	}
	value, ok := n.xattr[name]
	if !ok {
		return nil, tnv.E("getxattr", tnv.KindNoData, "%q", name)
	}
	return value, nil
}

// ListXattr lists their names.
func (v *Volume) ListXattr(ctx context.Context, _ tnv.Cred, ino tnv.Ino) ([]string, error) {
	if err := v.begin(ctx, "listxattr"); err != nil {
		return nil, err
	}
	defer v.mu.Unlock()
	n, err := v.getLocked(ino)
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range n.xattr {
		names = append(names, name)
	}
	sort.Strings(names)
	return names, nil
}

// SetXattr sets one.
func (v *Volume) SetXattr(ctx context.Context, _ tnv.Cred, rq protocol.SetXattr) error {
	if err := v.begin(ctx, "setxattr"); err != nil {
		return err
	}
	defer v.mu.Unlock()
	n, err := v.getLocked(rq.Ino)
	if err != nil {
		return err
	}
	if _, there := n.xattr[rq.Name]; there && rq.Flags == 1 {
		return tnv.E("setxattr", tnv.KindExist, "%q", rq.Name)
	} else if !there && rq.Flags == 2 {
		return tnv.E("setxattr", tnv.KindNoData, "%q", rq.Name)
	}
	n.xattr[rq.Name] = rq.Value
	n.attr.Flags |= tnv.XattrFlag(rq.Name)
	v.changedLocked(n, false)
	return nil
}

// RemoveXattr removes one.
func (v *Volume) RemoveXattr(ctx context.Context, _ tnv.Cred, rq protocol.RemoveXattr) error {
	if err := v.begin(ctx, "removexattr"); err != nil {
		return err
	}
	defer v.mu.Unlock()
	n, err := v.getLocked(rq.Ino)
	if err != nil {
		return err
	}
	if _, there := n.xattr[rq.Name]; !there {
		return tnv.E("removexattr", tnv.KindNoData, "%q", rq.Name)
	}
	delete(n.xattr, rq.Name)
	n.attr.Flags &^= tnv.XattrFlag(rq.Name)
	v.changedLocked(n, false)
	return nil
}

// StatFS tells of a volume of 1 TiB.
func (v *Volume) StatFS(ctx context.Context) (tnv.StatFS, error) {
	if err := v.begin(ctx, "statfs"); err != nil {
		return tnv.StatFS{}, err
	}
	defer v.mu.Unlock()
	return tnv.StatFS{Capacity: 1 << 40, Free: 1 << 39, Files: uint64(len(v.inodes))}, nil
}

// AttrLease tells that nothing is leased.
func (v *Volume) AttrLease(tnv.Ino, uint64) time.Duration { return 0 }

// Contested tells that nothing is.
func (v *Volume) Contested(tnv.Ino) bool { return false }

// NamesLease tells that nothing is leased.
func (v *Volume) NamesLease(tnv.Ino) time.Duration { return 0 }

// SyncFS does nothing.
func (v *Volume) SyncFS(ctx context.Context) error {
	if err := v.begin(ctx, "syncfs"); err != nil {
		return err
	}
	v.mu.Unlock()
	return nil
}
