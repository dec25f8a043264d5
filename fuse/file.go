package fuse

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	raw "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// openFlags are the flags of open(2) that matter to a Backend.
const openFlags = syscall.O_ACCMODE | syscall.O_APPEND

// fsyncDataOnly is the flag of FSYNC that means fdatasync(2).
const fsyncDataOnly = 1

// now is the time on this FS's own clock, for handle.validated.
func (f *FS) now() int64 { return int64(time.Since(f.start)) }

// Open opens a regular file.
func (f *FS) Open(cancel <-chan struct{}, in *raw.OpenIn, out *raw.OpenOut) raw.Status {
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	file, a, err := f.b.OpenFile(ctx, f.ino(in.NodeId), int(in.Flags)&openFlags)
	if err != nil {
		return status(err)
	}
	f.opened(ctx, out, file, &a, in.Flags)
	return raw.OK
}

// opened gives an open file its number and the kernel its instructions.
func (f *FS) opened(ctx context.Context, out *raw.OpenOut, file File, a *tnv.Attr, flags uint32) {
	h := &handle{file: file, ino: a.Ino,
		writable: flags&syscall.O_ACCMODE != syscall.O_RDONLY}
	h.appends = h.writable && flags&syscall.O_APPEND != 0
	h.direct = h.appends || f.b.Contested(a.Ino)
	h.validated.Store(-int64(trustFor))
	h.access.never = flags&unix.O_NOATIME != 0
	h.access.judge(&f.atimes, a)
	h.kept = f.pages.open(ctx, a, h.writable, h.direct)
	if h.kept {
		out.OpenFlags |= raw.FOPEN_KEEP_CACHE
	}
	if h.direct {
		out.OpenFlags |= raw.FOPEN_DIRECT_IO
	}
	out.Fh = f.addHandle(h)
}

// Read reads from a file: see the package's page for which version. Fewer bytes
// than asked for would mean the end of the file to the kernel.
func (f *FS) Read(cancel <-chan struct{}, in *raw.ReadIn, _ []byte) (raw.ReadResult, raw.Status) {
	h := f.handle(in.Fh)
	if h == nil {
		return nil, raw.EBADF
	}
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	view := h.file.View
	if f.now()-h.validated.Load() < int64(trustFor) {
		view = h.file.ViewVersion
	}
	f.accessed(h)
	arrived := time.Now()
	if !h.direct {
		f.pages.asked(h.ino, arrived)
	}
	v := &viewed{}
	v.releases = append(v.one[:0], f.pages.reading(h.ino))
	for want := int(in.Size); v.size < want; view = h.file.ViewVersion {
		parts, release, err := view(ctx, int64(in.Offset)+int64(v.size), want-v.size)
		if errors.Is(err, io.EOF) && f.pages.under(h.ino, arrived) { // a cut
			parts, release, err = h.file.ViewBefore(ctx, int64(in.Offset)+int64(v.size), want-v.size, arrived)
		}
		if errors.Is(err, io.EOF) {
			f.pages.short(ctx, h.ino, in.Offset+uint64(v.size), arrived)
			break
		}
		if err != nil {
			v.Done()
			return nil, status(err)
		}
		if !v.add(parts, release, want) {
			v.Done()
			f.log.WithField("ino", h.ino).Error("a read gave nothing")
			return nil, raw.EIO
		}
	}
	return v.result(), raw.OK
}

// viewed is the answer to a READ: parts of the backend's memory.
type viewed struct {
	parts    [][]byte
	size     int
	releases []func()
	one      [4]func() // room for the usual
}

// maxParts is how many parts one writev(2) takes, less go-fuse's own.
const maxParts = 1000

// add takes parts in, up to a size in all. It tells whether there were any bytes.
func (v *viewed) add(parts [][]byte, release func(), limit int) bool {
	if release != nil {
		v.releases = append(v.releases, release)
	}
	was := v.size
	for _, p := range parts {
		if p = p[:min(len(p), limit-v.size)]; len(p) > 0 {
			v.parts = append(v.parts, p)
			v.size += len(p)
		}
	}
	return v.size > was
}

// replying is how long go-fuse takes at most to write an empty answer, of which it
// does not say when it is written.
const replying = 2 * time.Millisecond

// result is what go-fuse gets, which calls Done on answers that are not empty.
func (v *viewed) result() raw.ReadResult {
	switch {
	case v.size == 0:
		time.AfterFunc(replying, v.Done)
		return raw.ReadResultData(nil)
	case len(v.parts) > maxParts:
		defer v.Done()
		b, _ := v.Bytes(make([]byte, 0, v.size))
		return raw.ReadResultData(b)
	}
	return v
}

// Size is the answer's length in bytes.
func (v *viewed) Size() int { return v.size }

// Done is called when the kernel has the bytes.
func (v *viewed) Done() {
	for _, release := range v.releases {
		release()
	}
	v.releases = nil
}

// Slices are what go-fuse hands to writev(2).
func (v *viewed) Slices() ([][]byte, raw.Status) { return v.parts, raw.OK }

// Bytes copies the answer into one piece.
func (v *viewed) Bytes(buf []byte) ([]byte, raw.Status) {
	buf = buf[:0]
	for _, p := range v.parts {
		buf = append(buf, p...)
	}
	return buf, raw.OK
}

// Writev writes to a file. The data comes in one piece from /dev/fuse.
func (f *FS) Writev(cancel <-chan struct{}, in *raw.WriteIn, data [][]byte) (uint32, raw.Status) {
	h := f.handle(in.Fh)
	if h == nil {
		return 0, raw.EBADF
	}
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	if in.WriteFlags&raw.WRITE_KILL_SUIDGID != 0 {
		h.file.KillSUID()
	}
	// What comes from mapped pages has its place, O_APPEND or not.
	appends := h.appends && in.WriteFlags&raw.WRITE_CACHE == 0
	f.pages.writing(ctx, h.ino, in.Offset+uint64(in.Size))
	var done int
	for _, p := range data {
		var n int
		var err error
		if appends {
			_, n, err = h.file.Append(ctx, p)
		} else {
			n, err = h.file.WriteAt(ctx, p, int64(in.Offset)+int64(done))
		}
		done += n
		if err != nil {
			return uint32(done), status(err)
		}
	}
	return uint32(done), raw.OK
}

// Write is Writev with one piece.
func (f *FS) Write(cancel <-chan struct{}, in *raw.WriteIn, data []byte) (uint32, raw.Status) {
	return f.Writev(cancel, in, [][]byte{data})
}

// Flush answers close(2), which also ends the fcntl locks that the process has
// on the file, by whatever handle it got them. (So files that are open for reading
// only are flushed, too: without locks that costs no more than the request.)
func (f *FS) Flush(cancel <-chan struct{}, in *raw.FlushIn) raw.Status {
	h := f.handle(in.Fh)
	if h == nil {
		return raw.EBADF
	}
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	var err error
	if h.writable {
		err = h.file.Flush(ctx)
	}
	if un := h.file.Unlock(ctx, protocol.LockPosix, in.LockOwner); err == nil {
		err = un
	}
	return status(err)
}

// Fsync answers fsync(2) and fdatasync(2).
func (f *FS) Fsync(cancel <-chan struct{}, in *raw.FsyncIn) raw.Status {
	h := f.handle(in.Fh)
	if h == nil {
		return raw.EBADF
	}
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	return status(h.file.Sync(ctx, in.FsyncFlags&fsyncDataOnly != 0))
}

// Release ends a handle: nobody waits for the answer.
func (f *FS) Release(_ <-chan struct{}, in *raw.ReleaseIn) {
	f.mu.Lock()
	h := f.handles[in.Fh]
	delete(f.handles, in.Fh)
	f.mu.Unlock()
	if h == nil {
		return
	}
	if err := h.file.Close(); err != nil {
		f.log.WithError(err).WithField("ino", h.ino).Warn("a file that nobody has open any more failed to close")
	}
	if f.pages.closed(h.ino, h.writable) {
		f.notify.send(f.node(h.ino), h.ino)
	}
}
