package fuse

import (
	"syscall"
	"time"

	raw "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// The kernel hands on every flock and fcntl lock on regular files, and keeps no
// table of its own. Locks end with FLUSH (fcntl, by owner) and RELEASE: the
// client knows by which handle a lock was got. flock on a directory is the
// kernel's own, and holds within this mount.

// releaseTime is how long a flock that was refused is tried again after: the
// kernel tells of the last close of a file (RELEASE) without waiting for the
// answer, so the lock of a file that is closed may seem to be there yet.
const releaseTime = 5 * time.Millisecond

// lockOf is what the kernel asks for.
func lockOf(in *raw.LkIn) (k protocol.Lock, ok bool) {
	k = protocol.Lock{Kind: protocol.LockPosix, Owner: in.Owner, Pid: in.Lk.Pid, Start: in.Lk.Start, End: in.Lk.End}
	if in.LkFlags&raw.FUSE_LK_FLOCK != 0 {
		k.Kind, k.Start, k.End = protocol.LockFlock, 0, protocol.LockEOF
	}
	switch in.Lk.Typ {
	case syscall.F_UNLCK:
	case syscall.F_RDLCK:
		k.Mode = protocol.LockShared
	case syscall.F_WRLCK:
		k.Mode = protocol.LockExclusive
	default:
		return k, false
	}
	return k, k.Start <= k.End && k.End <= protocol.LockEOF
}

// GetLk tells of a lock that is in the way: F_GETLK.
func (f *FS) GetLk(cancel <-chan struct{}, in *raw.LkIn, out *raw.LkOut) raw.Status {
	h := f.handle(in.Fh)
	if h == nil {
		return raw.EBADF
	}
	k, ok := lockOf(in)
	if !ok {
		return raw.EINVAL
	}
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	is, err := h.file.GetLock(ctx, k)
	if err != nil {
		return status(err)
	}
	out.Lk = raw.FileLock{Start: is.Start, End: is.End, Pid: is.Pid}
	switch is.Mode {
	case protocol.LockShared:
		out.Lk.Typ = syscall.F_RDLCK
	case protocol.LockExclusive:
		out.Lk.Typ = syscall.F_WRLCK
	default:
		out.Lk = in.Lk
		out.Lk.Typ = syscall.F_UNLCK
	}
	return raw.OK
}

// SetLk sets or removes a lock, or is refused: F_SETLK, flock with LOCK_NB, and every unlock.
func (f *FS) SetLk(cancel <-chan struct{}, in *raw.LkIn) raw.Status {
	h := f.handle(in.Fh)
	if h == nil {
		return raw.EBADF
	}
	k, ok := lockOf(in)
	if !ok {
		return raw.EINVAL
	}
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	err := h.file.Lock(ctx, k)
	if k.Kind == protocol.LockFlock && tnv.KindOf(err) == tnv.KindWouldBlock {
		time.Sleep(releaseTime)
		err = h.file.Lock(ctx, k)
	}
	return status(err)
}

// SetLkw waits for a lock: F_SETLKW, flock. Any signal ends it.
func (f *FS) SetLkw(cancel <-chan struct{}, in *raw.LkIn) raw.Status {
	h := f.handle(in.Fh)
	if h == nil {
		return raw.EBADF
	}
	k, ok := lockOf(in)
	if !ok {
		return raw.EINVAL
	}
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	return status(h.file.LockWait(ctx, k, cancel))
}
