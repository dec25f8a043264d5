package client

import (
	"context"
	"io"
	"os"
	"sync/atomic"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Handle is an open file. Any number of goroutines may use it at once. Handles
// of one inode share what is written: it is read back at once through each.
type Handle struct {
	c      *Client
	in     *inode
	flags  int
	ahead  readAhead
	closed atomic.Bool
	err    error // sticky, under in.mu
}

// OpenFile opens an inode that exists; flags are those of open(2): the access
// mode and os.O_TRUNC count. Permissions are the caller's to check. It returns
// the attributes as of now. KindStale: the inode is gone.
func (c *Client) OpenFile(ctx context.Context, ino tnv.Ino, flags int) (*Handle, tnv.Attr, error) {
	if c.cfg.ReadOnly && flags&(os.O_WRONLY|os.O_RDWR|os.O_TRUNC) != 0 {
		return nil, tnv.Attr{}, tnv.E("open", tnv.KindReadOnly, "this client was opened read-only")
	}
	in, others := c.inodes.register(ino)
	a, err := c.validate(ctx, ino, others)
	if err == nil && flags&os.O_TRUNC != 0 {
		a, err = c.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: ino, Mask: protocol.SetSize | protocol.SetSizeWrite})
	}
	if err != nil {
		c.inodes.unregister(in, false)
		return nil, tnv.Attr{}, tnv.Wrap("open", err)
	}
	return c.handle(in, flags), a, nil
}

// validate asks for an inode that is being opened. One that lost its last name a
// moment ago, between the caller's look at the name and now, can be opened as long
// as the owner was not told that nobody here has it open.
func (c *Client) validate(ctx context.Context, ino tnv.Ino, others bool) (tnv.Attr, error) {
	if !others && !c.releases.mayOpen(ino) {
		return tnv.Attr{}, tnv.E("open", tnv.KindStale, "inode %d has no name any more", ino)
	}
	a, err := c.GetAttr(ctx, tnv.Root, ino)
	switch {
	case err != nil:
		return a, err
	case a.IsDir():
		return a, tnv.E("open", tnv.KindIsDir, "inode %d", ino)
	case !a.IsRegular():
		return a, tnv.E("open", tnv.KindInvalid, "inode %d is no regular file", ino)
	}
	return a, nil
}

func (c *Client) handle(in *inode, flags int) *Handle {
	c.inodes.confirm(in)
	h := &Handle{c: c, in: in, flags: flags}
	if h.writable() {
		in.mu.Lock()
		in.writers[h] = struct{}{}
		in.mu.Unlock()
	}
	return h
}

// CreateFile makes a regular file, or finds it unless req.Excl, and opens it, in
// one round trip.
func (c *Client) CreateFile(ctx context.Context, cred tnv.Cred, req protocol.Create, flags int) (*Handle, protocol.CreateReply, error) {
	end := c.releases.create()
	defer end()
	rep, err := c.Create(ctx, cred, req)
	if err != nil {
		return nil, rep, err
	}
	if !rep.Attr.IsRegular() {
		return nil, rep, tnv.E("open", tnv.KindInvalid, "%s is no regular file", req.Name)
	}
	in, _ := c.inodes.register(rep.Attr.Ino)
	rep.Attr = c.inodes.merge(rep.Attr)
	if rep.Created {
		in.markUnsynced()
		in.mu.Lock()
		if in.ext.ver == 0 && rep.Attr.Size == 0 {
			in.ext.put(rep.Attr.Data, 0, [][]tnv.Extent{nil}) // a new file has no extents
		}
		in.mu.Unlock()
	} else if flags&os.O_TRUNC != 0 {
		a, err := c.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: rep.Attr.Ino, Mask: protocol.SetSize | protocol.SetSizeWrite})
		if err != nil {
			c.inodes.unregister(in, false)
			return nil, rep, err
		}
		rep.Attr = a
	}
	return c.handle(in, flags), rep, nil
}

func (h *Handle) writable() bool { return h.flags&(os.O_WRONLY|os.O_RDWR) != 0 }

// Ino is the inode's number.
func (h *Handle) Ino() tnv.Ino { return h.in.ino }

// ReadAt reads the file as it is now: the owner is asked whether the version
// known is the newest, while the data is on its way. n < len(p) only at the end
// of the file, with io.EOF.
func (h *Handle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return h.in.readAt(ctx, h, p, off, true)
}

// ReadAtVersion is ReadAt at the newest version that any answer has told of, be
// it a moment or longer ago: for who has just asked, as the kernel does with
// GETATTR before it fills its page cache.
func (h *Handle) ReadAtVersion(ctx context.Context, p []byte, off int64) (int, error) {
	return h.in.readAt(ctx, h, p, off, false)
}

// View is ReadAt without a copy: the slices in order are the bytes from off on,
// n or fewer, at least one; io.EOF at the end of the file. They are part of the
// memory budget: release must be called, soon, and they must not be changed.
func (h *Handle) View(ctx context.Context, off int64, n int) (parts [][]byte, release func(), err error) {
	return h.viewed(h.in.view(ctx, h, off, n, true))
}

// ViewVersion is View at the newest version known, as ReadAtVersion.
func (h *Handle) ViewVersion(ctx context.Context, off int64, n int) (parts [][]byte, release func(), err error) {
	return h.viewed(h.in.view(ctx, h, off, n, false))
}

func (h *Handle) viewed(v *view, err error) ([][]byte, func(), error) {
	if err != nil {
		return nil, func() {}, err
	}
	return v.list, v.release, nil
}

// WriteAt takes p into memory, to be written behind; it blocks while the budget
// is used up. An error of an earlier write of this handle comes back here, and
// at Flush, Sync and Close, for good: nothing later is written either.
func (h *Handle) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := h.mayWrite(off, len(p)); err != nil {
		return 0, err
	}
	return h.in.write(ctx, h, p, off)
}

// mayWrite refuses a write that cannot be.
func (h *Handle) mayWrite(off int64, n int) error {
	switch {
	case !h.writable():
		return tnv.E("write", tnv.KindInvalid, "the file is not open for writing")
	case off < 0:
		return tnv.E("write", tnv.KindInvalid, "negative offset")
	case off > tnv.MaxFileSize-int64(n):
		return tnv.E("write", tnv.KindTooBig, "%d bytes at %d", n, off)
	case h.closed.Load():
		return tnv.E("write", tnv.KindInvalid, "the handle is closed")
	}
	return nil
}

// KillSUID makes the next write clear set-user-id and set-group-id, as one by
// someone who is not root does.
func (h *Handle) KillSUID() {
	h.in.mu.Lock()
	h.in.killSUID = true
	h.in.mu.Unlock()
}

// Flush is close(2): what was written is visible to all and on every live
// member of its groups when it returns nil.
func (h *Handle) Flush(ctx context.Context) error {
	return h.settle(h.in.flush(ctx, flushCommit))
}

// Sync is fsync(2): what was written is on disk at all holders, and so is the
// metadata, also with dataOnly, since data can not be found without it.
func (h *Handle) Sync(ctx context.Context, dataOnly bool) error {
	return h.settle(h.in.flush(ctx, flushSync))
}

// settle prefers the handle's own error to that of a flush.
func (h *Handle) settle(err error) error {
	if sticky := h.stuck(); sticky != nil {
		return sticky
	}
	return err
}

func (h *Handle) stuck() error {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	return h.err
}

// Attr reads the attributes, with what is not yet committed here.
func (h *Handle) Attr(ctx context.Context) (tnv.Attr, error) {
	return h.c.GetAttr(ctx, tnv.Root, h.in.ino)
}

// Size is the file's length in bytes now.
func (h *Handle) Size(ctx context.Context) (int64, error) {
	a, err := h.Attr(ctx)
	return int64(a.Size), err
}

// Close releases the handle. What it wrote and did not flush is committed first;
// an error is returned, and logged as well, since few look.
func (h *Handle) Close() error {
	if !h.closed.CompareAndSwap(false, true) {
		return tnv.E("close", tnv.KindInvalid, "the handle is closed already")
	}
	h.ahead.stop(h.c)
	var err error
	if h.writable() {
		err = h.settle(h.in.flush(context.Background(), flushCommit))
		h.in.mu.Lock()
		delete(h.in.writers, h)
		h.in.mu.Unlock()
	}
	h.c.locks.closed(h)
	h.c.inodes.unregister(h.in, true)
	if err != nil {
		h.c.cfg.Log.WithError(err).WithField("inode", h.in.ino).Error("a file was closed with data that could not be written")
	}
	return err
}

// File is the handle as the io interfaces want it, with an offset of its own;
// every call is bound by ctx.
func (h *Handle) File(ctx context.Context) *File { return &File{ctx: ctx, h: h} }

// File reads and writes a handle at an offset that moves: io.Reader, io.Writer,
// io.Seeker, io.ReaderAt, io.WriterAt. One goroutine at a time may use the offset.
type File struct {
	ctx context.Context
	h   *Handle
	off int64
}

func (f *File) Read(p []byte) (int, error) {
	n, err := f.h.ReadAt(f.ctx, p, f.off)
	f.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *File) Write(p []byte) (int, error) {
	n, err := f.h.WriteAt(f.ctx, p, f.off)
	f.off += int64(n)
	return n, err
}

func (f *File) ReadAt(p []byte, off int64) (int, error)  { return f.h.ReadAt(f.ctx, p, off) }
func (f *File) WriteAt(p []byte, off int64) (int, error) { return f.h.WriteAt(f.ctx, p, off) }

// Seek as in io.Seeker; io.SeekEnd asks the owner for the size.
func (f *File) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		off += f.off
	case io.SeekEnd:
		size, err := f.h.Size(f.ctx)
		if err != nil {
			return 0, err
		}
		off += size
	default:
		return 0, tnv.E("seek", tnv.KindInvalid, "whence %d", whence)
	}
	if off < 0 {
		return 0, tnv.E("seek", tnv.KindInvalid, "to %d", off)
	}
	f.off = off
	return off, nil
}
