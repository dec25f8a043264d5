package client

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// The namespace by inode: one request each. Errors are those of the owner, or
// tnv.KindUnavailable once Config.Timeout has passed without an answer.

// Lookup finds a name in a directory; the name may be "..".
func (c *Client) Lookup(ctx context.Context, cred tnv.Cred, parent tnv.Ino, name string) (tnv.Attr, error) {
	if ino, known := c.leases.lookup(parent, name); known && len(name) <= tnv.MaxNameLen {
		c.m.leaseHits.Inc()
		if ino == 0 {
			return tnv.Attr{}, tnv.E("lookup", tnv.KindNotExist, "%q", name)
		}
		a, err := c.GetAttr(ctx, cred, ino)
		if err == nil && a.Nlink > 0 {
			return a, nil
		}
	}
	var rep protocol.AttrReply
	with, err := c.read(ctx, cred, protocol.TypeLookup, &rep, &protocol.Lookup{Parent: parent, Name: name})
	if err != nil {
		return tnv.Attr{}, err
	}
	if name != ".." && name != "." {
		c.leases.takeName(with, parent, name, rep.Attr.Ino)
	}
	if rep.Attr.Ino == 0 {
		return tnv.Attr{}, tnv.E("lookup", tnv.KindNotExist, "%q", name)
	}
	c.leases.takeAttr(with, rep.Attr)
	if waited, err := c.inodes.told(ctx, rep.Attr.Ino); waited || err != nil {
		if err != nil {
			return tnv.Attr{}, err
		}
		return c.GetAttr(ctx, cred, rep.Attr.Ino)
	}
	return c.inodes.merge(rep.Attr), nil
}

// GetAttr reads an inode's attributes, with the size and mtime of what this
// client has written and not yet committed.
func (c *Client) GetAttr(ctx context.Context, cred tnv.Cred, ino tnv.Ino) (tnv.Attr, error) {
	if _, err := c.inodes.told(ctx, ino); err != nil {
		return tnv.Attr{}, err
	}
	if a, ok := c.leases.attr(ino); ok {
		c.m.leaseHits.Inc()
		return c.inodes.merge(a), nil
	}
	var rep protocol.AttrReply
	with, err := c.read(ctx, cred, protocol.TypeGetAttr, &rep, &protocol.GetAttr{Ino: ino})
	if err != nil {
		return tnv.Attr{}, err
	}
	c.leases.takeAttr(with, rep.Attr)
	return c.inodes.merge(rep.Attr), nil
}

// SetAttr changes attributes. What this client wrote to the inode is committed
// first, so that no later flush undoes a size or an mtime that is set here.
func (c *Client) SetAttr(ctx context.Context, cred tnv.Cred, req protocol.SetAttr) (tnv.Attr, error) {
	set := func() (tnv.Attr, error) {
		var rep protocol.AttrReply
		if err := c.change(ctx, cred, protocol.TypeSetAttr, &rep, &req, req.Ino); err != nil {
			return tnv.Attr{}, err
		}
		return c.inodes.merge(rep.Attr), nil
	}
	in := c.inodes.find(req.Ino)
	if in == nil {
		return set()
	}
	if req.Mask == protocol.SetAccessed {
		defer c.inodes.release(in)
		return set()
	}
	defer c.inodes.release(in)
	if req.Mask&protocol.SetSize != 0 {
		in.mu.Lock()
		in.before = nil // of an earlier cut
		in.mu.Unlock()
	}
	if err := in.flush(ctx, flushCommit); err != nil {
		return tnv.Attr{}, err
	}
	if req.Mask&protocol.SetSize != 0 {
		defer in.remember(ctx, req.Size)()
	}
	a, err := set()
	if err == nil {
		in.markUnsynced()
	}
	return a, err
}

// change runs a mutation that changes inodes and no names.
func (c *Client) change(ctx context.Context, cred tnv.Cred, t protocol.Type, rep, req any, inos ...tnv.Ino) error {
	fl := c.leases.fly(inos)
	defer fl.land()
	with, err := c.mutate(ctx, cred, t, rep, req, fl)
	if err == nil {
		fl.take(with)
	}
	return err
}

// make runs a mutation that gives a name an inode: that of the attributes that
// attr points to, once the answer is there.
func (c *Client) make(ctx context.Context, cred tnv.Cred, t protocol.Type, parent tnv.Ino, name string, rep, req any, attr *tnv.Attr) error {
	fl := c.leases.fly(nil, nameKey{parent, name})
	defer fl.land()
	with, err := c.mutate(ctx, cred, t, rep, req, fl)
	if err != nil {
		return err
	}
	fl.take(with, attr.Ino)
	if attr.IsDir() {
		c.leases.takeEmpty(with, attr.Ino)
	}
	*attr = c.inodes.merge(*attr)
	return nil
}

// Create makes a regular or special file, or finds a regular one.
func (c *Client) Create(ctx context.Context, cred tnv.Cred, req protocol.Create) (protocol.CreateReply, error) {
	var rep protocol.CreateReply
	err := c.make(ctx, cred, protocol.TypeCreate, req.Parent, req.Name, &rep, &req, &rep.Attr)
	return rep, err
}

// Mkdir makes a directory.
func (c *Client) Mkdir(ctx context.Context, cred tnv.Cred, req protocol.Mkdir) (tnv.Attr, error) {
	var rep protocol.AttrReply
	err := c.make(ctx, cred, protocol.TypeMkdir, req.Parent, req.Name, &rep, &req, &rep.Attr)
	return rep.Attr, err
}

// Symlink makes a symbolic link.
func (c *Client) Symlink(ctx context.Context, cred tnv.Cred, req protocol.Symlink) (tnv.Attr, error) {
	var rep protocol.AttrReply
	err := c.make(ctx, cred, protocol.TypeSymlink, req.Parent, req.Name, &rep, &req, &rep.Attr)
	return rep.Attr, err
}

// Link gives an inode one more name.
func (c *Client) Link(ctx context.Context, cred tnv.Cred, req protocol.Link) (tnv.Attr, error) {
	fl := c.leases.fly([]tnv.Ino{req.Ino}, nameKey{req.Parent, req.Name})
	defer fl.land()
	var rep protocol.AttrReply
	with, err := c.mutate(ctx, cred, protocol.TypeLink, &rep, &req, fl)
	if err != nil {
		return tnv.Attr{}, err
	}
	fl.take(with, req.Ino)
	c.releases.regained(req.Ino)
	return c.inodes.merge(rep.Attr), nil
}

// Unlink removes a name that is not a directory's.
func (c *Client) Unlink(ctx context.Context, cred tnv.Cred, req protocol.Unlink) (protocol.UnlinkReply, error) {
	fl := c.leases.fly(nil, nameKey{req.Parent, req.Name})
	defer fl.land()
	var rep protocol.UnlinkReply
	with, err := c.mutate(ctx, cred, protocol.TypeUnlink, &rep, &req, fl)
	if err != nil {
		return rep, err
	}
	fl.take(with, 0)
	rep.Attr = c.inodes.merge(rep.Attr)
	return rep, nil
}

// Rename moves a name. The reply names the inode that lost its last name by it.
func (c *Client) Rename(ctx context.Context, cred tnv.Cred, req protocol.Rename) (protocol.UnlinkReply, error) {
	from, to := nameKey{req.Parent, req.Name}, nameKey{req.NewParent, req.NewName}
	fl := c.leases.fly(nil, from, to)
	defer fl.land()
	var rep protocol.UnlinkReply
	with, err := c.mutate(ctx, cred, protocol.TypeRename, &rep, &req, fl)
	if err != nil {
		return rep, err
	}
	if req.Flags == 0 || req.Flags == protocol.RenameNoReplace {
		if len(with.leased.Attrs) > 0 { // else the two names were of one inode: nothing has changed
			fl.take(with, 0, rep.Attr.Ino)
		}
	}
	if rep.Attr.Ino != 0 {
		rep.Attr = c.inodes.merge(rep.Attr)
	}
	return rep, nil
}

// Rmdir removes an empty directory.
func (c *Client) Rmdir(ctx context.Context, cred tnv.Cred, req protocol.Rmdir) error {
	fl := c.leases.fly(nil, nameKey{req.Parent, req.Name})
	defer fl.land()
	with, err := c.mutate(ctx, cred, protocol.TypeRmdir, nil, &req, fl)
	if err == nil {
		fl.take(with, 0)
	}
	return err
}

// ReadDir lists a directory behind a cookie.
func (c *Client) ReadDir(ctx context.Context, cred tnv.Cred, req protocol.ReadDir) (protocol.ReadDirReply, error) {
	if !req.Attrs {
		if rep, known := c.leases.list(&req); known {
			c.m.leaseHits.Inc()
			return rep, nil
		}
	}
	var rep protocol.ReadDirReply
	with, err := c.read(ctx, cred, protocol.TypeReadDir, &rep, &req)
	if err != nil {
		return rep, err
	}
	c.leases.takePage(with, &req, &rep)
	c.leases.takeAttrs(with, rep.Attrs)
	for i := range rep.Attrs {
		rep.Attrs[i] = c.inodes.merge(rep.Attrs[i])
	}
	return rep, nil
}

// ReadLink reads a symbolic link.
func (c *Client) ReadLink(ctx context.Context, cred tnv.Cred, ino tnv.Ino) (string, error) {
	var rep protocol.ReadLinkReply
	_, err := c.read(ctx, cred, protocol.TypeReadLink, &rep, &protocol.ReadLink{Ino: ino})
	return rep.Target, err
}

// GetXattr reads an extended attribute; tnv.KindNoData if there is none of the name.
func (c *Client) GetXattr(ctx context.Context, cred tnv.Cred, ino tnv.Ino, name string) ([]byte, error) {
	var rep protocol.XattrReply
	_, err := c.read(ctx, cred, protocol.TypeGetXattr, &rep, &protocol.GetXattr{Ino: ino, Name: name})
	return rep.Value, err
}

// ListXattr lists the names of the extended attributes, sorted.
func (c *Client) ListXattr(ctx context.Context, cred tnv.Cred, ino tnv.Ino) ([]string, error) {
	var rep protocol.ListXattrReply
	_, err := c.read(ctx, cred, protocol.TypeListXattr, &rep, &protocol.ListXattr{Ino: ino})
	return rep.Names, err
}

// SetXattr sets an extended attribute.
func (c *Client) SetXattr(ctx context.Context, cred tnv.Cred, req protocol.SetXattr) error {
	return c.change(ctx, cred, protocol.TypeSetXattr, nil, &req, req.Ino)
}

// RemoveXattr removes an extended attribute.
func (c *Client) RemoveXattr(ctx context.Context, cred tnv.Cred, req protocol.RemoveXattr) error {
	return c.change(ctx, cred, protocol.TypeRemoveXattr, nil, &req, req.Ino)
}

// StatFS reads the volume's figures.
func (c *Client) StatFS(ctx context.Context) (tnv.StatFS, error) {
	var rep tnv.StatFS
	_, err := c.read(ctx, tnv.Root, protocol.TypeStatFS, &rep, &protocol.StatFS{})
	return rep, err
}

// Resolve walks a path from the volume's root in one round trip; follow says
// whether a symbolic link at its end is followed too.
func (c *Client) Resolve(ctx context.Context, cred tnv.Cred, path string, follow bool) (protocol.ResolveReply, error) {
	var rep protocol.ResolveReply
	with, err := c.read(ctx, cred, protocol.TypeResolve, &rep, &protocol.Resolve{Path: path, Follow: follow})
	if err != nil {
		return rep, err
	}
	c.leases.takeAttr(with, rep.Attr)
	rep.Attr = c.inodes.merge(rep.Attr)
	return rep, nil
}

// Status is the tracker's view of the whole cluster.
func (c *Client) Status(ctx context.Context) (protocol.Status, error) {
	var rep protocol.Status
	err := c.plain(ctx, protocol.TypeStatus, &rep, &protocol.StatusRequest{})
	return rep, err
}
