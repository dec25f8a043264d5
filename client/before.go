package client

import (
	"context"
	"io"
	"time"

	"github.com/tnvfs/tnv"
)

// A kernel that reads a file while this client cuts it has to be given what was there
// before: of a READ that ends short it makes zeros, until it has taken in that the
// file was cut. So where others have the file open, its layout is remembered before it
// is cut, and can be read by for a while: blocks never change, and outlive that (D9).
// Where other clients change the file, too, what was there before this cut may be older
// than what they have made of it meanwhile, and is not read.

const (
	beforeChunks = 4                      // that are remembered, from where the file is cut
	beforeFor    = 500 * time.Millisecond // and how long, once it is cut
)

// before is the layout that an inode had before it was cut.
type before struct {
	layout
	cut time.Time // when it was; zero: it is being cut
}

// remember keeps the layout behind a size that is being set, if somebody else may be
// reading. done says that it is set.
func (in *inode) remember(ctx context.Context, size uint64) (done func()) {
	in.c.inodes.mu.Lock()
	alone := in.handles < 2
	in.c.inodes.mu.Unlock()
	in.mu.Lock()
	was := in.attr.Size
	in.mu.Unlock()
	if alone || was <= size || in.c.Contested(in.ino) {
		return func() {}
	}
	first, count := chunksOf(int64(size), int(min(was-size, (beforeChunks-1)*tnv.ChunkSize)))
	l, known := in.latest(first, count)
	l, _, err := in.current(ctx, first, count, l, known)
	if err != nil {
		return func() {} // the cut will fail, or they are told of it as late as may be
	}
	b := &before{layout: l}
	in.mu.Lock()
	in.before = b
	in.mu.Unlock()
	return func() {
		in.mu.Lock()
		b.cut = time.Now()
		in.mu.Unlock()
		time.AfterFunc(beforeFor, func() {
			in.mu.Lock()
			defer in.mu.Unlock()
			if in.before == b {
				in.before = nil
			}
		})
	}
}

// ViewBefore is View of what was there before this client cut the file, for a read that
// arrived before it was cut. io.EOF: it was not, or there was nothing, or it is not known.
func (h *Handle) ViewBefore(ctx context.Context, off int64, n int, arrived time.Time) (parts [][]byte, release func(), err error) {
	in := h.in
	in.mu.Lock()
	b := in.before
	if b == nil || !b.cut.IsZero() && (arrived.After(b.cut) || time.Since(b.cut) > beforeFor) || in.c.Contested(in.ino) {
		in.mu.Unlock()
		return nil, func() {}, io.EOF
	}
	l := b.layout
	in.mu.Unlock()
	end := min(l.attr.Size, (l.first+uint64(len(l.chunks)))*tnv.ChunkSize)
	if off < int64(l.first)*tnv.ChunkSize || off >= int64(end) {
		return nil, func() {}, io.EOF
	}
	v := &view{c: in.c}
	if _, err := in.step(ctx, nil, &l, off, int(min(int64(end)-off, int64(n), maxStep)), v); err != nil {
		v.release()
		return nil, func() {}, tnv.Wrap("read", err)
	}
	return v.list, v.release, nil
}
