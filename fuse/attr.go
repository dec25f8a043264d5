package fuse

import (
	"math"

	raw "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// blockSize is st_blksize: programs read and write in pieces of at least this
// many bytes. The C library makes its stdio buffers so large, so it is no larger.
const blockSize = 128 << 10

// seconds splits nanoseconds since 1970 as the kernel wants them.
func seconds(ns int64) (sec uint64, nsec uint32) {
	s, n := ns/1e9, ns%1e9
	if n < 0 {
		s, n = s-1, n+1e9
	}
	return uint64(s), uint32(n)
}

// nanoseconds is the inverse, at the nearest time that can be told in
// nanoseconds: from 1677 to 2262.
func nanoseconds(sec uint64, nsec uint32) int64 {
	s := int64(sec)
	switch {
	case s > (math.MaxInt64-int64(nsec))/1_000_000_000:
		return math.MaxInt64
	case s <= math.MinInt64/1_000_000_000:
		return math.MinInt64
	}
	return s*1e9 + int64(nsec)
}

func (f *FS) fillAttr(out *raw.Attr, a *tnv.Attr) {
	out.Ino = f.node(a.Ino)
	out.Size = a.Size
	out.Blocks = a.Blocks
	out.Atime, out.Atimensec = seconds(a.Atime)
	out.Mtime, out.Mtimensec = seconds(a.Mtime)
	out.Ctime, out.Ctimensec = seconds(a.Ctime)
	out.Mode = a.Mode
	out.Nlink = a.Nlink
	out.Uid, out.Gid = a.UID, a.GID
	out.Rdev = a.Rdev
	out.Blksize = blockSize
}

// entry answers a request through which the kernel may learn an inode. firm: see
// pages.tells.
func (f *FS) entry(out *raw.EntryOut, a *tnv.Attr, name nameTime) (firm bool) {
	f.known.entered(a.Ino)
	drop, firm := f.pages.entered(a)
	if drop {
		f.notify.send(f.node(a.Ino), a.Ino)
	}
	out.NodeId = f.node(a.Ino)
	out.SetEntryTimeout(name.left())
	out.SetAttrTimeout(f.stale)
	f.fillAttr(&out.Attr, a)
	return firm
}

// tells notes attributes that go to the kernel in reply to a request that names
// the inode. firm: see pages.tells.
func (f *FS) tells(a *tnv.Attr) (firm bool) {
	drop, firm := f.pages.tells(a)
	if drop {
		f.notify.send(f.node(a.Ino), a.Ino)
	}
	return firm
}

// GetAttr answers stat(2), and precedes read(2): see the package's page.
func (f *FS) GetAttr(cancel <-chan struct{}, in *raw.GetAttrIn, out *raw.AttrOut) raw.Status {
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	asked, asking := f.now(), f.acls.asking()
	byHandle := in.Flags()&raw.FUSE_GETATTR_FH != 0 // before a read: it does not want to know of itself
	if !byHandle {
		f.atimes.settle(ctx, f.ino(in.NodeId))
	}
	a, err := f.b.GetAttr(ctx, cred(&in.InHeader), f.ino(in.NodeId))
	if err != nil {
		return status(err)
	}
	f.acls.tell(asking, &in.InHeader, &a)
	f.fillAttr(&out.Attr, &a)
	wrong := false
	if h := f.handle(in.Fh()); byHandle && h != nil {
		h.validated.Store(asked)
		h.access.judge(&f.atimes, &a)
		if h.kept {
			f.accessed(h)
		}
		f.pages.sees(&a)
		out.Mtimensec, wrong = f.pages.wrongMtime(&a, out.Mtimensec)
	}
	if firm := f.tells(&a); firm && !wrong {
		out.SetTimeout(f.attrTime(&a, true))
	}
	return raw.OK
}

// Statx answers statx(2) where the time of birth is wanted.
func (f *FS) Statx(cancel <-chan struct{}, in *raw.StatxIn, out *raw.StatxOut) raw.Status {
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	asking := f.acls.asking()
	f.atimes.settle(ctx, f.ino(in.NodeId))
	a, err := f.b.GetAttr(ctx, cred(&in.InHeader), f.ino(in.NodeId))
	if err != nil {
		return status(err)
	}
	f.acls.tell(asking, &in.InHeader, &a)
	if f.tells(&a) {
		out.SetTimeout(f.attrTime(&a, true))
	}
	x := &out.Statx
	x.Mask = unix.STATX_BASIC_STATS | unix.STATX_BTIME
	x.Blksize, x.Nlink, x.Uid, x.Gid = blockSize, a.Nlink, a.UID, a.GID
	x.Mode, x.Ino, x.Size, x.Blocks = uint16(a.Mode), f.node(a.Ino), a.Size, a.Blocks
	x.Atime.Sec, x.Atime.Nsec = seconds(a.Atime)
	x.Mtime.Sec, x.Mtime.Nsec = seconds(a.Mtime)
	x.Ctime.Sec, x.Ctime.Nsec = seconds(a.Ctime)
	x.Btime.Sec, x.Btime.Nsec = seconds(a.Btime)
	// Both in the encoding of new_encode_dev, as in Attr.Rdev.
	x.RdevMajor, x.RdevMinor = a.Rdev>>8&0xfff, a.Rdev&0xff|a.Rdev>>12&0xfff00
	return raw.OK
}

// setAttr translates a request. What the kernel checked by itself (the right
// to truncate, for one) is not to be checked again by the owner, who does not
// know all the caller's groups. regular says that the inode is a regular file.
func setAttr(in *raw.SetAttrIn, ino tnv.Ino, regular bool) protocol.SetAttr {
	req := protocol.SetAttr{Ino: ino}
	has := func(bits uint32) bool { return in.Valid&bits != 0 }
	if has(raw.FATTR_MODE) {
		req.Mask |= protocol.SetMode
		req.Mode = in.Mode & 0o7777
	}
	if has(raw.FATTR_UID) {
		req.Mask |= protocol.SetUID
		req.UID = in.Owner.Uid
	}
	if has(raw.FATTR_GID) {
		req.Mask |= protocol.SetGID
		req.GID = in.Owner.Gid
	}
	if has(raw.FATTR_SIZE) {
		req.Mask |= protocol.SetSize | protocol.SetSizeWrite
		req.Size = in.Size
	}
	switch {
	case has(raw.FATTR_ATIME_NOW):
		req.Mask |= protocol.SetAtimeNow
	case has(raw.FATTR_ATIME):
		req.Mask |= protocol.SetAtime
		req.Atime = nanoseconds(in.Atime, in.Atimensec)
	}
	switch {
	case has(raw.FATTR_MTIME_NOW):
		req.Mask |= protocol.SetMtimeNow
	case has(raw.FATTR_MTIME):
		req.Mask |= protocol.SetMtime
		req.Mtime = nanoseconds(in.Mtime, in.Mtimensec)
	}
	// With HANDLE_KILLPRIV_V2 the kernel leaves it to us to take set-user-id and
	// set-group-id away: it says so for truncations, and means it for chown of
	// anything but a directory.
	if has(raw.FATTR_KILL_SUIDGID) || regular && has(raw.FATTR_UID|raw.FATTR_GID) && !has(raw.FATTR_MODE) {
		req.Mask |= protocol.SetKillSUID
	}
	return req
}

// SetAttr answers chmod, chown, truncate, utimensat.
func (f *FS) SetAttr(cancel <-chan struct{}, in *raw.SetAttrIn, out *raw.AttrOut) raw.Status {
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	ino := f.ino(in.NodeId)
	req := setAttr(in, ino, f.pages.regular(ino)) // of nothing, too: chown(2) to nobody else is a change
	if req.Mask&protocol.SetSize != 0 {
		defer f.pages.cutting(ino)()
	}
	a, err := f.b.SetAttr(ctx, cred(&in.InHeader), req)
	if err != nil {
		return status(err)
	}
	f.tells(&a)
	f.fillAttr(&out.Attr, &a) // the kernel adopts them: it is not to believe them
	return raw.OK
}

// Access leaves the question to default_permissions.
func (f *FS) Access(<-chan struct{}, *raw.AccessIn) raw.Status { return raw.ENOSYS }

// StatFs answers statfs(2). Inodes are not limited: as many are free as fit into
// the free space at 4 KiB each.
func (f *FS) StatFs(cancel <-chan struct{}, in *raw.InHeader, out *raw.StatfsOut) raw.Status {
	ctx := f.begin(cancel, in)
	defer ctx.end()
	s, err := f.b.StatFS(ctx)
	if err != nil {
		return status(err)
	}
	const unit = 4096
	out.Bsize, out.Frsize = unit, unit
	out.Blocks = s.Capacity / unit
	out.Bfree = min(s.Free, s.Capacity) / unit
	out.Bavail = out.Bfree
	out.Ffree = out.Bfree
	out.Files = s.Files + out.Ffree
	out.NameLen = tnv.MaxNameLen
	return raw.OK
}
