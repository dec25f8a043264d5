package httpd

import (
	"context"
	"os"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/protocol"
)

// source is what the handler needs of a volume. Any number of requests use it at once.
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
