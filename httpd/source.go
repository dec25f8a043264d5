package httpd

import (
	"context"
	"errors"
	"os"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/protocol"
)

// source is what the handler needs of a volume. Any number of requests use it at
// once. Permissions of what it changes are the caller's to check (see permits).
type source interface {
	// Resolve walks a path from the volume's root. What it tells of an open
	// file, reads of that file go by from then on.
	Resolve(ctx context.Context, cred tnv.Cred, path string, follow bool) (protocol.ResolveReply, error)
	// ReadDir lists a directory behind a cookie.
	ReadDir(ctx context.Context, cred tnv.Cred, req protocol.ReadDir) (protocol.ReadDirReply, error)
	// StatFS reads the volume's figures.
	StatFS(ctx context.Context) (tnv.StatFS, error)
	// Open opens a regular file for reading.
	Open(ctx context.Context, ino tnv.Ino) (file, error)

	// Lookup finds a name in a directory; a symbolic link is not followed.
	Lookup(ctx context.Context, cred tnv.Cred, parent tnv.Ino, name string) (tnv.Attr, error)
	// GetAttr reads an inode's attributes; where they are leased, without a round trip.
	GetAttr(ctx context.Context, cred tnv.Cred, ino tnv.Ino) (tnv.Attr, error)
	// Make makes a regular file and opens it for writing; KindExist if the name is taken.
	Make(ctx context.Context, cred tnv.Cred, parent tnv.Ino, name string, mode uint32) (writer, tnv.Attr, error)
	// OpenWrite opens a regular file for writing.
	OpenWrite(ctx context.Context, ino tnv.Ino) (writer, error)
	Mkdir(ctx context.Context, cred tnv.Cred, req protocol.Mkdir) (tnv.Attr, error)
	Move(ctx context.Context, cred tnv.Cred, req protocol.Rename) error
	Remove(ctx context.Context, cred tnv.Cred, parent tnv.Ino, name string) error
	SetAttr(ctx context.Context, cred tnv.Cred, req protocol.SetAttr) (tnv.Attr, error)
	// GetXattr gives nil where there is no such attribute.
	GetXattr(ctx context.Context, cred tnv.Cred, ino tnv.Ino, name string) ([]byte, error)
	SetXattr(ctx context.Context, cred tnv.Cred, req protocol.SetXattr) error
	// Status is the tracker's view of the cluster.
	Status(ctx context.Context) (protocol.Status, error)
}

// file is an open file. Several requests may use it at once.
type file interface {
	// ReadAt fills p from off on; fewer bytes only with an error, io.EOF at the file's end.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	// View gives the bytes from off on, n or fewer but at least one, without a
	// copy; io.EOF at the file's end. They take room in the client's memory until release.
	View(ctx context.Context, off int64, n int) (parts [][]byte, release func(), err error)
	// Attr asks for the attributes as they are now.
	Attr(ctx context.Context) (tnv.Attr, error)
	Close() error
}

// writer is a file that is open for writing, by one request at a time.
type writer interface {
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
	// Flush makes visible what was written, as close(2) does.
	Flush(ctx context.Context) error
	// Sync is fsync(2).
	Sync(ctx context.Context, dataOnly bool) error
	Attr(ctx context.Context) (tnv.Attr, error)
	// Lock takes a lock of the whole file, or gives it back; KindWouldBlock if
	// somebody has one that excludes it. It ends with Close.
	Lock(ctx context.Context, k protocol.Lock) error
	// GetLock tells of a lock that is in the way of k.
	GetLock(ctx context.Context, k protocol.Lock) (protocol.Lock, error)
	// CopyFrom makes n bytes at the start those of another file, without moving
	// them: fewer where the other is shorter.
	CopyFrom(ctx context.Context, from tnv.Ino, n int64) (int64, error)
	Close() error
}

// clientSource is a volume through the client.
type clientSource struct{ *client.Client }

// Open implements source.
func (s clientSource) Open(ctx context.Context, ino tnv.Ino) (file, error) {
	h, _, err := s.OpenFile(ctx, ino, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return handleFile{h}, nil
}

// Make implements source.
func (s clientSource) Make(ctx context.Context, cred tnv.Cred, parent tnv.Ino, name string, mode uint32) (writer, tnv.Attr, error) {
	h, rep, err := s.CreateFile(ctx, cred, protocol.Create{Parent: parent, Name: name, Mode: mode, Excl: true}, os.O_RDWR)
	if err != nil {
		return nil, rep.Attr, err
	}
	return handleWriter{h, s.Client}, rep.Attr, nil
}

// OpenWrite implements source.
func (s clientSource) OpenWrite(ctx context.Context, ino tnv.Ino) (writer, error) {
	h, _, err := s.OpenFile(ctx, ino, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	return handleWriter{h, s.Client}, nil
}

// Move implements source.
func (s clientSource) Move(ctx context.Context, cred tnv.Cred, req protocol.Rename) error {
	_, err := s.Rename(ctx, cred, req)
	return err
}

// Remove implements source.
func (s clientSource) Remove(ctx context.Context, cred tnv.Cred, parent tnv.Ino, name string) error {
	_, err := s.Unlink(ctx, cred, protocol.Unlink{Parent: parent, Name: name})
	if k := tnv.KindOf(err); k == tnv.KindIsDir || k == tnv.KindNotPermitted {
		return s.Rmdir(ctx, cred, protocol.Rmdir{Parent: parent, Name: name})
	}
	return err
}

// GetXattr implements source.
func (s clientSource) GetXattr(ctx context.Context, cred tnv.Cred, ino tnv.Ino, name string) ([]byte, error) {
	v, err := s.Client.GetXattr(ctx, cred, ino, name)
	if errors.Is(err, tnv.KindNoData) {
		return nil, nil
	}
	return v, err
}

// handleFile reads the newest version that the client has heard of: the handler
// has just resolved the path, and asks again in the course of a long transfer.
type handleFile struct{ *client.Handle }

// ReadAt implements file.
func (f handleFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return f.ReadAtVersion(ctx, p, off)
}

// View implements file.
func (f handleFile) View(ctx context.Context, off int64, n int) ([][]byte, func(), error) {
	return f.ViewVersion(ctx, off, n)
}

// handleWriter writes a file.
type handleWriter struct {
	*client.Handle
	c *client.Client
}

// CopyFrom implements writer.
func (w handleWriter) CopyFrom(ctx context.Context, from tnv.Ino, n int64) (int64, error) {
	h, _, err := w.c.OpenFile(ctx, from, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer h.Close()
	var done int64
	for done < n {
		m, err := h.CopyRange(ctx, w.Handle, done, done, n-done)
		if err != nil || m == 0 {
			return done, err
		}
		done += m
	}
	return done, nil
}
