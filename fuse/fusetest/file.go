package fusetest

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/fuse"
	"github.com/tnvfs/tnv/protocol"
)

var _ fuse.Backend = (*Volume)(nil)

// file is an open file.
type file struct {
	v        *Volume
	n        *node
	killSUID bool // under v.mu
}

// OpenFile opens a file.
func (v *Volume) OpenFile(ctx context.Context, ino tnv.Ino, _ int) (fuse.File, tnv.Attr, error) {
	if err := v.begin(ctx, "open"); err != nil {
		return nil, tnv.Attr{}, err
	}
	defer v.mu.Unlock()
	n, err := v.getLocked(ino)
	if err != nil {
		return nil, tnv.Attr{}, err
	}
	n.opens++
	return &file{v: v, n: n}, n.attr, nil
}

// CreateFile makes a file and opens it.
func (v *Volume) CreateFile(ctx context.Context, cred tnv.Cred, rq protocol.Create, flags int) (fuse.File, protocol.CreateReply, error) {
	rep, err := v.Create(ctx, cred, rq)
	if err != nil {
		return nil, rep, err
	}
	f, a, err := v.OpenFile(ctx, rep.Attr.Ino, flags)
	rep.Attr = a
	return f, rep, err
}

// zeros are what holes read as.
var zeros [chunkSize]byte

func (n *node) resize(size uint64) {
	for i, c := range n.chunks {
		switch at := uint64(i) * chunkSize; {
		case at >= size:
			delete(n.chunks, i)
		case size-at < chunkSize:
			c = n.writable(i)
			clear(c.data[size-at:])
		}
	}
	n.attr.Size = size
}

// writable is a chunk that no reader has seen.
func (n *node) writable(i int64) *chunk {
	c := n.chunks[i]
	switch {
	case c == nil:
		c = &chunk{data: make([]byte, chunkSize)}
	case c.shown:
		c = &chunk{data: slices.Clone(c.data)}
	}
	n.chunks[i] = c
	return c
}

func (f *file) View(ctx context.Context, off int64, n int) ([][]byte, func(), error) {
	return f.view(ctx, "view", off, n)
}

// ViewBefore knows nothing: a file is cut in no time.
func (f *file) ViewBefore(context.Context, int64, int, time.Time) ([][]byte, func(), error) {
	return nil, func() {}, io.EOF
}

// ViewVersion is View: there is no older version.
func (f *file) ViewVersion(ctx context.Context, off int64, n int) ([][]byte, func(), error) {
	return f.view(ctx, "viewversion", off, n)
}

func (f *file) view(ctx context.Context, op string, off int64, n int) ([][]byte, func(), error) {
	if err := f.v.begin(ctx, op); err != nil {
		return nil, nil, err
	}
	defer f.v.mu.Unlock()
	end := min(off+int64(n), int64(f.n.attr.Size))
	if off >= end {
		return nil, nil, io.EOF
	}
	in := off % chunkSize
	data := zeros[:]
	if c := f.n.chunks[off/chunkSize]; c != nil {
		c.shown = true
		data = c.data
	}
	data = data[in:min(chunkSize, in+end-off)]
	half := len(data) / 2
	f.v.views++
	return [][]byte{data[:half], data[half:]}, f.release, nil
}

func (f *file) release() {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	f.v.views--
}

func (f *file) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := f.v.begin(ctx, "write"); err != nil {
		return 0, err
	}
	defer f.v.mu.Unlock()
	return f.writeLocked(p, off), nil
}

func (f *file) Append(ctx context.Context, p []byte) (int64, int, error) {
	if err := f.v.begin(ctx, "append"); err != nil {
		return 0, 0, err
	}
	defer f.v.mu.Unlock()
	off := int64(f.n.attr.Size)
	return off, f.writeLocked(p, off), nil
}

func (f *file) writeLocked(p []byte, off int64) int {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		done += copy(f.n.writable(at / chunkSize).data[at%chunkSize:], p[done:])
	}
	if f.killSUID {
		f.n.killSUID()
		f.killSUID = false
	}
	f.n.attr.Size = max(f.n.attr.Size, uint64(off)+uint64(done))
	f.n.attr.Blocks = uint64(len(f.n.chunks)) * chunkSize / 512
	f.v.changedLocked(f.n, true)
	return done
}

func (f *file) KillSUID() {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	f.killSUID = true
}

func (f *file) Flush(ctx context.Context) error { return f.nothing(ctx, "flush") }

func (f *file) Sync(ctx context.Context, dataOnly bool) error {
	if dataOnly {
		return f.nothing(ctx, "datasync")
	}
	return f.nothing(ctx, "sync")
}

func (f *file) nothing(ctx context.Context, op string) error {
	if err := f.v.begin(ctx, op); err != nil {
		return err
	}
	f.v.mu.Unlock()
	return nil
}

func (f *file) Close() error {
	if err := f.v.begin(context.Background(), "close"); err != nil {
		return err
	}
	defer f.v.mu.Unlock()
	f.unlockLocked()
	f.n.opens--
	return nil
}
