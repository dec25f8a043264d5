package client

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// By path, for applications and tools: with the rights of root, from the
// volume's root whether a path begins with a slash or not.

// readDirBatch is how many entries are read in one round trip.
const readDirBatch = 1024

// permBits are st_mode's permission bits of an fs.FileMode.
func permBits(m fs.FileMode) uint32 {
	p := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		p |= syscall.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		p |= syscall.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		p |= syscall.S_ISVTX
	}
	return p
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Stat resolves a path, a symbolic link at its end too.
func (c *Client) Stat(ctx context.Context, name string) (tnv.Attr, error) {
	r, err := c.Resolve(ctx, tnv.Root, name, true)
	return r.Attr, pathError("stat", name, err)
}

// Lstat resolves a path, but not a symbolic link at its end.
func (c *Client) Lstat(ctx context.Context, name string) (tnv.Attr, error) {
	r, err := c.Resolve(ctx, tnv.Root, name, false)
	return r.Attr, pathError("lstat", name, err)
}

// parent finds the directory of a path, and the name in it.
func (c *Client) parent(ctx context.Context, name string) (tnv.Ino, string, error) {
	dir, base := path.Split(strings.TrimRight(name, "/"))
	if base == "" || base == "." || base == ".." {
		return 0, "", tnv.E("path", tnv.KindInvalid, "%q names no entry of a directory", name)
	}
	if dir == "" || strings.Trim(dir, "/") == "" {
		return tnv.RootIno, base, nil
	}
	r, err := c.Resolve(ctx, tnv.Root, dir, true)
	if err == nil && !r.Attr.IsDir() {
		err = tnv.E("path", tnv.KindNotDir, "%s", dir)
	}
	return r.Attr.Ino, base, err
}

// OpenPath opens a file for reading.
func (c *Client) OpenPath(ctx context.Context, name string) (*Handle, tnv.Attr, error) {
	return c.OpenPathFlags(ctx, name, os.O_RDONLY, 0)
}

// OpenPathFlags is open(2): the access mode, os.O_CREATE, os.O_EXCL and
// os.O_TRUNC count. A symbolic link at the end is followed, except that a new
// file is not made where one points into nothing.
func (c *Client) OpenPathFlags(ctx context.Context, name string, flags int, perm fs.FileMode) (*Handle, tnv.Attr, error) {
	if flags&os.O_EXCL == 0 || flags&os.O_CREATE == 0 {
		h, a, err := c.openExisting(ctx, name, flags)
		if err == nil || flags&os.O_CREATE == 0 || !errors.Is(err, tnv.KindNotExist) {
			return h, a, pathError("open", name, err)
		}
	}
	dir, base, err := c.parent(ctx, name)
	if err != nil {
		return nil, tnv.Attr{}, pathError("create", name, err)
	}
	h, rep, err := c.CreateFile(ctx, tnv.Root, protocol.Create{Parent: dir, Name: base,
		Mode: permBits(perm), Excl: flags&os.O_EXCL != 0}, flags)
	return h, rep.Attr, pathError("create", name, err)
}

func (c *Client) openExisting(ctx context.Context, name string, flags int) (*Handle, tnv.Attr, error) {
	r, err := c.Resolve(ctx, tnv.Root, name, true)
	if err != nil {
		return nil, tnv.Attr{}, err
	}
	return c.OpenFile(ctx, r.Attr.Ino, flags)
}

// CreatePath makes a file, or empties the one that is there, and opens it for
// reading and writing.
func (c *Client) CreatePath(ctx context.Context, name string, perm fs.FileMode) (*Handle, error) {
	h, _, err := c.OpenPathFlags(ctx, name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, perm)
	return h, err
}

// MkdirPath makes one directory.
func (c *Client) MkdirPath(ctx context.Context, name string, perm fs.FileMode) error {
	dir, base, err := c.parent(ctx, name)
	if err == nil {
		_, err = c.Mkdir(ctx, tnv.Root, protocol.Mkdir{Parent: dir, Name: base, Mode: permBits(perm)})
	}
	return pathError("mkdir", name, err)
}

// MkdirAll makes a directory and those above it; that they are there is no error.
func (c *Client) MkdirAll(ctx context.Context, name string, perm fs.FileMode) error {
	clean := path.Clean("/" + name)
	if clean == "/" {
		return nil
	}
	r, err := c.Resolve(ctx, tnv.Root, clean, true)
	switch {
	case err == nil && r.Attr.IsDir():
		return nil
	case err == nil:
		return pathError("mkdir", name, tnv.E("mkdir", tnv.KindNotDir, "%s", clean))
	case !errors.Is(err, tnv.KindNotExist):
		return pathError("mkdir", name, err)
	}
	if err := c.MkdirAll(ctx, path.Dir(clean), perm); err != nil {
		return err
	}
	if err := c.MkdirPath(ctx, clean, perm); err != nil && !errors.Is(err, tnv.KindExist) {
		return err
	}
	return nil
}

// RemovePath removes a file or an empty directory.
func (c *Client) RemovePath(ctx context.Context, name string) error {
	dir, base, err := c.parent(ctx, name)
	if err == nil {
		err = c.removeEntry(ctx, dir, base)
	}
	return pathError("remove", name, err)
}

func (c *Client) removeEntry(ctx context.Context, dir tnv.Ino, name string) error {
	_, err := c.Unlink(ctx, tnv.Root, protocol.Unlink{Parent: dir, Name: name})
	if k := tnv.KindOf(err); k == tnv.KindIsDir || k == tnv.KindNotPermitted {
		return c.Rmdir(ctx, tnv.Root, protocol.Rmdir{Parent: dir, Name: name})
	}
	return err
}

// RemoveAll removes a path and all beneath it; that nothing is there is no
// error. Symbolic links are removed, not followed.
func (c *Client) RemoveAll(ctx context.Context, name string) error {
	dir, base, err := c.parent(ctx, name)
	if err == nil {
		err = c.removeTree(ctx, dir, base)
	}
	if errors.Is(err, tnv.KindNotExist) {
		return nil
	}
	return pathError("remove", name, err)
}

func (c *Client) removeTree(ctx context.Context, dir tnv.Ino, name string) error {
	a, err := c.Lookup(ctx, tnv.Root, dir, name)
	if err != nil {
		return err
	}
	if !a.IsDir() {
		_, err := c.Unlink(ctx, tnv.Root, protocol.Unlink{Parent: dir, Name: name})
		return err
	}
	for {
		rep, err := c.ReadDir(ctx, tnv.Root, protocol.ReadDir{Ino: a.Ino, Limit: readDirBatch})
		if err != nil {
			return err
		}
		for _, e := range rep.Entries {
			if e.Type == tnv.TypeDir {
				err = c.removeTree(ctx, a.Ino, e.Name)
			} else {
				_, err = c.Unlink(ctx, tnv.Root, protocol.Unlink{Parent: a.Ino, Name: e.Name})
			}
			if err != nil && !errors.Is(err, tnv.KindNotExist) {
				return err
			}
		}
		if rep.End {
			break
		}
	}
	return c.Rmdir(ctx, tnv.Root, protocol.Rmdir{Parent: dir, Name: name})
}

// RenamePath moves a file or directory; a file, or an empty directory, that has
// the new name is replaced.
func (c *Client) RenamePath(ctx context.Context, from, to string) error {
	d1, n1, err := c.parent(ctx, from)
	if err != nil {
		return pathError("rename", from, err)
	}
	d2, n2, err := c.parent(ctx, to)
	if err != nil {
		return pathError("rename", to, err)
	}
	_, err = c.Rename(ctx, tnv.Root, protocol.Rename{Parent: d1, Name: n1, NewParent: d2, NewName: n2})
	return pathError("rename", from, err)
}

// Entry is one entry of a directory with its attributes.
type Entry struct {
	Name string
	Attr tnv.Attr
}

// ReadDirPath lists a directory, in no particular order.
func (c *Client) ReadDirPath(ctx context.Context, name string) ([]Entry, error) {
	r, err := c.Resolve(ctx, tnv.Root, name, true)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	l, err := c.entries(ctx, r.Attr.Ino)
	return l, pathError("readdir", name, err)
}

func (c *Client) entries(ctx context.Context, ino tnv.Ino) ([]Entry, error) {
	var l []Entry
	for cookie := uint64(0); ; {
		rep, err := c.ReadDir(ctx, tnv.Root, protocol.ReadDir{Ino: ino, Cookie: cookie, Limit: readDirBatch, Attrs: true})
		if err != nil {
			return nil, err
		}
		if len(rep.Attrs) != len(rep.Entries) {
			return nil, tnv.E("readdir", tnv.KindProtocol, "%d entries with %d attributes", len(rep.Entries), len(rep.Attrs))
		}
		for i, e := range rep.Entries {
			l = append(l, Entry{Name: e.Name, Attr: rep.Attrs[i]})
			cookie = e.Cookie
		}
		if rep.End || len(rep.Entries) == 0 {
			return l, nil
		}
	}
}

// ReadFile reads a whole file.
func (c *Client) ReadFile(ctx context.Context, name string) ([]byte, error) {
	h, a, err := c.OpenPath(ctx, name)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	b := make([]byte, a.Size)
	n, err := h.ReadAt(ctx, b, 0)
	if err == io.EOF {
		err = nil
	}
	return b[:n], pathError("read", name, err)
}

// WriteFile writes a whole file, replacing what it held.
func (c *Client) WriteFile(ctx context.Context, name string, data []byte, perm fs.FileMode) error {
	h, err := c.CreatePath(ctx, name, perm)
	if err != nil {
		return err
	}
	if _, err = h.WriteAt(ctx, data, 0); err == nil {
		err = h.Flush(ctx)
	}
	return pathError("write", name, errors.Join(err, h.Close()))
}
