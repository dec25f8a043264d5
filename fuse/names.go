package fuse

import (
	"context"
	"syscall"

	raw "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Lookup finds a name. "." and ".." come from servers that export the mount.
func (f *FS) Lookup(cancel <-chan struct{}, in *raw.InHeader, name string, out *raw.EntryOut) raw.Status {
	ctx := f.begin(cancel, in)
	defer ctx.end()
	parent := f.ino(in.NodeId)
	asking, believed := f.acls.asking(), f.nameTime(parent)
	var a tnv.Attr
	var err error
	if name == "." || name == ".." && parent == f.root {
		a, err = f.b.GetAttr(ctx, cred(in), parent)
	} else {
		a, err = f.b.Lookup(ctx, cred(in), parent, name)
	}
	if err == nil && f.atimes.settle(ctx, a.Ino) {
		a, err = f.b.GetAttr(ctx, cred(in), a.Ino)
	}
	if tnv.KindOf(err) == tnv.KindNotExist {
		if d := believed.left(); d > 0 { // else the kernel keeps nothing
			out.SetEntryTimeout(d)
			return raw.OK
		}
	}
	if err != nil {
		return status(err)
	}
	f.acls.tell(asking, in, &a)
	if f.entry(out, &a, believed) {
		out.SetAttrTimeout(f.attrTime(&a, false))
	}
	return raw.OK
}

// Forget takes back what Lookup and its like gave out.
func (f *FS) Forget(node, n uint64) {
	ino := f.ino(node)
	f.known.forgot(ino, n)
	f.pages.forget(ino, n)
}

// Mknod makes a file of any type but directory and link.
func (f *FS) Mknod(cancel <-chan struct{}, in *raw.MknodIn, name string, out *raw.EntryOut) raw.Status {
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	believed := f.nameTime(f.ino(in.NodeId))
	rep, err := f.b.Create(ctx, cred(&in.InHeader), protocol.Create{
		Parent: f.ino(in.NodeId), Name: name, Mode: in.Mode, Umask: in.Umask, Rdev: in.Rdev, Excl: true})
	if err != nil {
		return status(err)
	}
	f.entry(out, &rep.Attr, believed)
	return raw.OK
}

// Mkdir makes a directory.
func (f *FS) Mkdir(cancel <-chan struct{}, in *raw.MkdirIn, name string, out *raw.EntryOut) raw.Status {
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	believed := f.nameTime(f.ino(in.NodeId))
	a, err := f.b.Mkdir(ctx, cred(&in.InHeader), protocol.Mkdir{
		Parent: f.ino(in.NodeId), Name: name, Mode: in.Mode & 0o7777, Umask: in.Umask})
	if err != nil {
		return status(err)
	}
	f.entry(out, &a, believed)
	return raw.OK
}

// Symlink makes a symbolic link.
func (f *FS) Symlink(cancel <-chan struct{}, in *raw.InHeader, target, name string, out *raw.EntryOut) raw.Status {
	ctx := f.begin(cancel, in)
	defer ctx.end()
	believed := f.nameTime(f.ino(in.NodeId))
	a, err := f.b.Symlink(ctx, cred(in), protocol.Symlink{Parent: f.ino(in.NodeId), Name: name, Target: target})
	if err != nil {
		return status(err)
	}
	f.entry(out, &a, believed)
	return raw.OK
}

// Readlink reads one.
func (f *FS) Readlink(cancel <-chan struct{}, in *raw.InHeader) ([]byte, raw.Status) {
	ctx := f.begin(cancel, in)
	defer ctx.end()
	target, err := f.b.ReadLink(ctx, cred(in), f.ino(in.NodeId))
	if err != nil {
		return nil, status(err)
	}
	return []byte(target), raw.OK
}

// Link gives an inode one more name.
func (f *FS) Link(cancel <-chan struct{}, in *raw.LinkIn, name string, out *raw.EntryOut) raw.Status {
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	believed := f.nameTime(f.ino(in.NodeId))
	a, err := f.b.Link(ctx, cred(&in.InHeader), protocol.Link{
		Ino: f.ino(in.Oldnodeid), Parent: f.ino(in.NodeId), Name: name})
	if err != nil {
		return status(err)
	}
	f.entry(out, &a, believed)
	return raw.OK
}

// Unlink removes a name that is not a directory's.
func (f *FS) Unlink(cancel <-chan struct{}, in *raw.InHeader, name string) raw.Status {
	ctx := f.begin(cancel, in)
	defer ctx.end()
	_, err := f.b.Unlink(ctx, cred(in), protocol.Unlink{Parent: f.ino(in.NodeId), Name: name})
	return status(err)
}

// Rmdir removes an empty directory.
func (f *FS) Rmdir(cancel <-chan struct{}, in *raw.InHeader, name string) raw.Status {
	ctx := f.begin(cancel, in)
	defer ctx.end()
	return status(f.b.Rmdir(ctx, cred(in), protocol.Rmdir{Parent: f.ino(in.NodeId), Name: name}))
}

// Rename moves a name. RENAME_WHITEOUT is refused.
func (f *FS) Rename(cancel <-chan struct{}, in *raw.RenameIn, from, to string) raw.Status {
	if in.Flags&^(protocol.RenameNoReplace|protocol.RenameExchange) != 0 {
		return raw.EINVAL
	}
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	_, err := f.b.Rename(ctx, cred(&in.InHeader), protocol.Rename{Parent: f.ino(in.NodeId), Name: from,
		NewParent: f.ino(in.Newdir), NewName: to, Flags: in.Flags})
	f.renamed(f.ino(in.NodeId), f.ino(in.Newdir))
	f.renamed(f.ino(in.Newdir), f.ino(in.NodeId))
	return status(err)
}

// Create makes and opens a regular file. The kernel found no such name a moment
// ago. If there is one by now, it has to look again, since it has neither checked
// the right to open that file nor would it truncate it: ESTALE makes it do so.
func (f *FS) Create(cancel <-chan struct{}, in *raw.CreateIn, name string, out *raw.CreateOut) raw.Status {
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	believed := f.nameTime(f.ino(in.NodeId))
	file, rep, err := f.b.CreateFile(ctx, cred(&in.InHeader), protocol.Create{Parent: f.ino(in.NodeId), Name: name,
		Mode: syscall.S_IFREG | in.Mode&0o7777, Umask: in.Umask, Excl: true}, int(in.Flags)&openFlags)
	if err != nil {
		if tnv.KindOf(err) == tnv.KindExist && in.Flags&syscall.O_EXCL == 0 {
			return raw.Status(syscall.ESTALE)
		}
		return status(err)
	}
	f.created(ctx, out, file, &rep.Attr, in.Flags, believed)
	return raw.OK
}

// Tmpfile makes and opens a regular file that has no name; linkat(2) may give it one.
func (f *FS) Tmpfile(cancel <-chan struct{}, in *raw.CreateIn, out *raw.CreateOut) raw.Status {
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	file, rep, err := f.b.CreateFile(ctx, cred(&in.InHeader), protocol.Create{Parent: f.ino(in.NodeId), Unnamed: true,
		Mode: syscall.S_IFREG | in.Mode&0o7777, Umask: in.Umask}, int(in.Flags)&openFlags)
	if err != nil {
		return status(err)
	}
	f.created(ctx, out, file, &rep.Attr, in.Flags, nameTime{f: f})
	return raw.OK
}

// created tells the kernel of a file that is new, and open.
func (f *FS) created(ctx context.Context, out *raw.CreateOut, file File, a *tnv.Attr, flags uint32, name nameTime) {
	f.entry(&out.EntryOut, a, name)
	f.opened(ctx, &out.OpenOut, file, a, flags)
	f.pages.noCaps(a.Ino, a.Version) // it is new
}
