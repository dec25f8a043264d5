package fuse

import (
	"context"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/protocol"
)

// Backend is what the adapter needs of a volume: a part of client.Client, whose
// methods say what each promises. It is called by many goroutines at once. The
// context of a call ends when the process behind it is being killed; a backend
// may then return tnv.KindCanceled, never for a mutation half done.
type Backend interface {
	Lookup(ctx context.Context, cred tnv.Cred, parent tnv.Ino, name string) (tnv.Attr, error)
	GetAttr(ctx context.Context, cred tnv.Cred, ino tnv.Ino) (tnv.Attr, error)
	SetAttr(ctx context.Context, cred tnv.Cred, req protocol.SetAttr) (tnv.Attr, error)
	Create(ctx context.Context, cred tnv.Cred, req protocol.Create) (protocol.CreateReply, error)
	Mkdir(ctx context.Context, cred tnv.Cred, req protocol.Mkdir) (tnv.Attr, error)
	Symlink(ctx context.Context, cred tnv.Cred, req protocol.Symlink) (tnv.Attr, error)
	Link(ctx context.Context, cred tnv.Cred, req protocol.Link) (tnv.Attr, error)
	Unlink(ctx context.Context, cred tnv.Cred, req protocol.Unlink) (protocol.UnlinkReply, error)
	Rmdir(ctx context.Context, cred tnv.Cred, req protocol.Rmdir) error
	Rename(ctx context.Context, cred tnv.Cred, req protocol.Rename) (protocol.UnlinkReply, error)
	ReadDir(ctx context.Context, cred tnv.Cred, req protocol.ReadDir) (protocol.ReadDirReply, error)
	ReadLink(ctx context.Context, cred tnv.Cred, ino tnv.Ino) (string, error)
	GetXattr(ctx context.Context, cred tnv.Cred, ino tnv.Ino, name string) ([]byte, error)
	ListXattr(ctx context.Context, cred tnv.Cred, ino tnv.Ino) ([]string, error)
	SetXattr(ctx context.Context, cred tnv.Cred, req protocol.SetXattr) error
	RemoveXattr(ctx context.Context, cred tnv.Cred, req protocol.RemoveXattr) error
	StatFS(ctx context.Context) (tnv.StatFS, error)
	SyncFS(ctx context.Context) error
	// AttrLease is how long attributes of an Attr.Version, as returned by a method
	// here, need not be asked for again.
	AttrLease(ino tnv.Ino, version uint64) time.Duration
	// Contested tells whether others have changed an inode a moment ago, or are about to.
	Contested(ino tnv.Ino) bool
	// NamesLease is how long names in a directory, those that are not there
	// included, need not be asked for again.
	NamesLease(dir tnv.Ino) time.Duration
	// OpenFile opens a regular file: flags are os.O_RDONLY, O_WRONLY or O_RDWR, and O_APPEND.
	OpenFile(ctx context.Context, ino tnv.Ino, flags int) (File, tnv.Attr, error)
	// CreateFile is Create and OpenFile in one.
	CreateFile(ctx context.Context, cred tnv.Cred, req protocol.Create, flags int) (File, protocol.CreateReply, error)
}

// File is an open file of a Backend: a part of client.Handle. What it reads is
// never older than any attributes of the inode that the backend has returned.
type File interface {
	// View reads at off: n bytes or fewer, at least one; io.EOF at the end of the
	// file. The parts are the backend's own memory, to be read only, until
	// release is called, which happens once, when the kernel has copied them.
	View(ctx context.Context, off int64, n int) (parts [][]byte, release func(), err error)
	// ViewVersion is View at the newest version of the file known here,
	// without asking the owner for a newer one.
	ViewVersion(ctx context.Context, off int64, n int) (parts [][]byte, release func(), err error)
	// ViewBefore is View of what was there before the backend cut the file, for a read
	// that arrived before it was cut. io.EOF: it was not, or there was nothing, or it is not known.
	ViewBefore(ctx context.Context, off int64, n int, arrived time.Time) (parts [][]byte, release func(), err error)
	// WriteAt writes all of p or fails. It keeps nothing of p.
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
	// Append is WriteAt at the end of the file, wherever that is by then.
	Append(ctx context.Context, p []byte) (off int64, n int, err error)
	// KillSUID makes what is written next clear set-user-id and set-group-id.
	KillSUID()
	// Flush makes what was written visible and held by every live member; it returns earlier failures.
	Flush(ctx context.Context) error
	// Sync makes it durable, too.
	Sync(ctx context.Context, dataOnly bool) error
	// Lock sets or removes a lock; KindWouldBlock: somebody has one that excludes it.
	Lock(ctx context.Context, k protocol.Lock) error
	// LockWait is Lock, and waits for it until ctx ends or interrupt is closed:
	// KindCanceled, KindInterrupted, and it is not locked.
	LockWait(ctx context.Context, k protocol.Lock, interrupt <-chan struct{}) error
	// GetLock tells of a lock that is in the way of k; Mode is protocol.LockNone if none is.
	GetLock(ctx context.Context, k protocol.Lock) (protocol.Lock, error)
	// Unlock removes all locks of a kind that an owner has on the file.
	Unlock(ctx context.Context, kind protocol.LockKind, owner uint64) error
	// Close releases the handle, and what was locked by it.
	Close() error
	contents
}

// volume makes a Backend of a client: its handles are Files.
type volume struct{ *client.Client }

func (v volume) OpenFile(ctx context.Context, ino tnv.Ino, flags int) (File, tnv.Attr, error) {
	h, a, err := v.Client.OpenFile(ctx, ino, flags)
	if err != nil {
		return nil, a, err
	}
	return handleFile{h}, a, nil
}

func (v volume) CreateFile(ctx context.Context, cred tnv.Cred, req protocol.Create, flags int) (File, protocol.CreateReply, error) {
	h, rep, err := v.Client.CreateFile(ctx, cred, req, flags)
	if err != nil {
		return nil, rep, err
	}
	return handleFile{h}, rep, nil
}
