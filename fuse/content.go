package fuse

import (
	"context"
	"math"
	"syscall"

	raw "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
)

// Operations on content. Before FALLOCATE and COPY_FILE_RANGE the kernel writes
// out mapped pages of the ranges, and behind them it drops the target's; so its
// pages are as after a write by this mount, and pages (caching.go) is told so.
// An answer ENOSYS would switch an operation off for good: none is given.

// contents is what a File can do with its content besides reading and writing.
type contents interface {
	// Fallocate is fallocate(2) with any of its modes.
	Fallocate(ctx context.Context, mode uint32, off, n int64) error
	// SeekData and SeekHole are lseek(2) with SEEK_DATA and SEEK_HOLE.
	SeekData(ctx context.Context, off int64) (int64, error)
	SeekHole(ctx context.Context, off int64) (int64, error)
	// CopyRange is copy_file_range(2) to a File of the same Backend.
	CopyRange(ctx context.Context, to File, off, toOff, n int64) (int64, error)
}

// handleFile is a client's handle as a File.
type handleFile struct{ *client.Handle }

func (f handleFile) CopyRange(ctx context.Context, to File, off, toOff, n int64) (int64, error) {
	t, ok := to.(handleFile)
	if !ok {
		return 0, tnv.E("copy range", tnv.KindInvalid, "the target is another client's")
	}
	return f.Handle.CopyRange(ctx, t.Handle, off, toOff, n)
}

// Fallocate answers fallocate(2), of which this kernel hands on allocation,
// punching and zeroing. Set-user-id goes as with a write: the kernel does not ask
// for it here, but leaves it to us (HANDLE_KILLPRIV_V2).
func (f *FS) Fallocate(cancel <-chan struct{}, in *raw.FallocateIn) raw.Status {
	h := f.handle(in.Fh)
	if h == nil {
		return raw.EBADF
	}
	if in.Offset > math.MaxInt64 || in.Length > math.MaxInt64 {
		return raw.Status(syscall.EFBIG)
	}
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	if in.Uid != 0 {
		h.file.KillSUID()
	}
	return status(h.file.Fallocate(ctx, in.Mode, int64(in.Offset), int64(in.Length)))
}

// Lseek answers lseek(2) with SEEK_DATA and SEEK_HOLE; the kernel keeps the rest
// to itself. What is in mapped pages and was not written out is not known here.
func (f *FS) Lseek(cancel <-chan struct{}, in *raw.LseekIn, out *raw.LseekOut) raw.Status {
	h := f.handle(in.Fh)
	if h == nil {
		return raw.EBADF
	}
	if in.Offset > math.MaxInt64 {
		return raw.Status(syscall.ENXIO)
	}
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	var off int64
	var err error
	switch in.Whence {
	case seekData:
		off, err = h.file.SeekData(ctx, int64(in.Offset))
	case seekHole:
		off, err = h.file.SeekHole(ctx, int64(in.Offset))
	default:
		return raw.EINVAL
	}
	out.Offset = uint64(off)
	return status(err)
}

// The values of SEEK_DATA and SEEK_HOLE, see lseek(2).
const (
	seekData = 3
	seekHole = 4
)

// CopyFileRange answers copy_file_range(2). cp asks for it where the file system
// has no ioctl FICLONE, as none has behind FUSE.
func (f *FS) CopyFileRange(cancel <-chan struct{}, in *raw.CopyFileRangeIn) (uint32, raw.Status) {
	from, to := f.handle(in.FhIn), f.handle(in.FhOut)
	if from == nil || to == nil {
		return 0, raw.EBADF
	}
	if in.OffIn > math.MaxInt64 || in.OffOut > math.MaxInt64 {
		return 0, raw.Status(syscall.EFBIG)
	}
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	if in.Uid != 0 {
		to.file.KillSUID()
	}
	n, err := from.file.CopyRange(ctx, to.file, int64(in.OffIn), int64(in.OffOut), int64(min(in.Len, maxCopy)))
	return uint32(n), status(err)
}

// maxCopy is how much one COPY_FILE_RANGE copies: its answer has 32 bits.
const maxCopy = 1 << 31
