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
	var rep protocol.AttrReply
	err := c.read(ctx, cred, protocol.TypeLookup, &rep, &protocol.Lookup{Parent: parent, Name: name})
	if err != nil {
		return tnv.Attr{}, err
	}
	return c.inodes.merge(rep.Attr), nil
}

// GetAttr reads an inode's attributes, with the size and mtime of what this
// client has written and not yet committed.
func (c *Client) GetAttr(ctx context.Context, cred tnv.Cred, ino tnv.Ino) (tnv.Attr, error) {
	var rep protocol.AttrReply
	if err := c.read(ctx, cred, protocol.TypeGetAttr, &rep, &protocol.GetAttr{Ino: ino}); err != nil {
		return tnv.Attr{}, err
	}
	return c.inodes.merge(rep.Attr), nil
}

// SetAttr changes attributes. What this client wrote to the inode is committed
// first, so that no later flush undoes a size or an mtime that is set here.
func (c *Client) SetAttr(ctx context.Context, cred tnv.Cred, req protocol.SetAttr) (tnv.Attr, error) {
	set := func() (tnv.Attr, error) {
		var rep protocol.AttrReply
		if err := c.mutate(ctx, cred, protocol.TypeSetAttr, &rep, &req); err != nil {
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
	if err := in.flush(ctx, flushCommit); err != nil {
		return tnv.Attr{}, err
	}
	a, err := set()
	if err == nil {
		in.markUnsynced()
	}
	return a, err
}

// Create makes a regular or special file, or finds a regular one.
func (c *Client) Create(ctx context.Context, cred tnv.Cred, req protocol.Create) (protocol.CreateReply, error) {
	var rep protocol.CreateReply
	if err := c.mutate(ctx, cred, protocol.TypeCreate, &rep, &req); err != nil {
		return rep, err
	}
	rep.Attr = c.inodes.merge(rep.Attr)
	return rep, nil
}

// Mkdir makes a directory.
func (c *Client) Mkdir(ctx context.Context, cred tnv.Cred, req protocol.Mkdir) (tnv.Attr, error) {
	var rep protocol.AttrReply
	err := c.mutate(ctx, cred, protocol.TypeMkdir, &rep, &req)
	return rep.Attr, err
}

// Symlink makes a symbolic link.
func (c *Client) Symlink(ctx context.Context, cred tnv.Cred, req protocol.Symlink) (tnv.Attr, error) {
	var rep protocol.AttrReply
	err := c.mutate(ctx, cred, protocol.TypeSymlink, &rep, &req)
	return rep.Attr, err
}

// Link gives an inode one more name.
func (c *Client) Link(ctx context.Context, cred tnv.Cred, req protocol.Link) (tnv.Attr, error) {
	var rep protocol.AttrReply
	if err := c.mutate(ctx, cred, protocol.TypeLink, &rep, &req); err != nil {
		return tnv.Attr{}, err
	}
	c.releases.named(req.Ino)
	return c.inodes.merge(rep.Attr), nil
}

// Unlink removes a name that is not a directory's.
func (c *Client) Unlink(ctx context.Context, cred tnv.Cred, req protocol.Unlink) (protocol.UnlinkReply, error) {
	return c.unlinking(ctx, cred, protocol.TypeUnlink, &req)
}

// Rename moves a name. The reply names the inode that lost its last name by it.
func (c *Client) Rename(ctx context.Context, cred tnv.Cred, req protocol.Rename) (protocol.UnlinkReply, error) {
	return c.unlinking(ctx, cred, protocol.TypeRename, &req)
}

func (c *Client) unlinking(ctx context.Context, cred tnv.Cred, t protocol.Type, req any) (protocol.UnlinkReply, error) {
	var rep protocol.UnlinkReply
	if err := c.mutate(ctx, cred, t, &rep, req); err != nil {
		return rep, err
	}
	if rep.Attr.Ino != 0 {
		rep.Attr = c.inodes.merge(rep.Attr)
	}
	return rep, nil
}

// Rmdir removes an empty directory.
func (c *Client) Rmdir(ctx context.Context, cred tnv.Cred, req protocol.Rmdir) error {
	return c.mutate(ctx, cred, protocol.TypeRmdir, nil, &req)
}

// ReadDir lists a directory behind a cookie.
func (c *Client) ReadDir(ctx context.Context, cred tnv.Cred, req protocol.ReadDir) (protocol.ReadDirReply, error) {
	var rep protocol.ReadDirReply
	if err := c.read(ctx, cred, protocol.TypeReadDir, &rep, &req); err != nil {
		return rep, err
	}
	for i := range rep.Attrs {
		rep.Attrs[i] = c.inodes.merge(rep.Attrs[i])
	}
	return rep, nil
}

// ReadLink reads a symbolic link.
func (c *Client) ReadLink(ctx context.Context, cred tnv.Cred, ino tnv.Ino) (string, error) {
	var rep protocol.ReadLinkReply
	err := c.read(ctx, cred, protocol.TypeReadLink, &rep, &protocol.ReadLink{Ino: ino})
	return rep.Target, err
}

// GetXattr reads an extended attribute; tnv.KindNoData if there is none of the name.
func (c *Client) GetXattr(ctx context.Context, cred tnv.Cred, ino tnv.Ino, name string) ([]byte, error) {
	var rep protocol.XattrReply
	err := c.read(ctx, cred, protocol.TypeGetXattr, &rep, &protocol.GetXattr{Ino: ino, Name: name})
	return rep.Value, err
}

// ListXattr lists the names of the extended attributes, sorted.
func (c *Client) ListXattr(ctx context.Context, cred tnv.Cred, ino tnv.Ino) ([]string, error) {
	var rep protocol.ListXattrReply
	err := c.read(ctx, cred, protocol.TypeListXattr, &rep, &protocol.ListXattr{Ino: ino})
	return rep.Names, err
}

// SetXattr sets an extended attribute.
func (c *Client) SetXattr(ctx context.Context, cred tnv.Cred, req protocol.SetXattr) error {
	return c.mutate(ctx, cred, protocol.TypeSetXattr, nil, &req)
}

// RemoveXattr removes an extended attribute.
func (c *Client) RemoveXattr(ctx context.Context, cred tnv.Cred, req protocol.RemoveXattr) error {
	return c.mutate(ctx, cred, protocol.TypeRemoveXattr, nil, &req)
}

// StatFS reads the volume's figures.
func (c *Client) StatFS(ctx context.Context) (tnv.StatFS, error) {
	var rep tnv.StatFS
	err := c.read(ctx, tnv.Root, protocol.TypeStatFS, &rep, &protocol.StatFS{})
	return rep, err
}

// Resolve walks a path from the volume's root in one round trip; follow says
// whether a symbolic link at its end is followed too.
func (c *Client) Resolve(ctx context.Context, cred tnv.Cred, path string, follow bool) (protocol.ResolveReply, error) {
	var rep protocol.ResolveReply
	if err := c.read(ctx, cred, protocol.TypeResolve, &rep, &protocol.Resolve{Path: path, Follow: follow}); err != nil {
		return rep, err
	}
	rep.Attr = c.inodes.merge(rep.Attr)
	return rep, nil
}

// Status is the tracker's view of the whole cluster.
func (c *Client) Status(ctx context.Context) (protocol.Status, error) {
	var rep protocol.Status
	err := c.plain(ctx, protocol.TypeStatus, &rep, &protocol.StatusRequest{})
	return rep, err
}
