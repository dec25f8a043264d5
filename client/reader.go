package client

import (
	"context"
	"io"
	"strconv"

	"github.com/tnvfs/tnv"
)

const (
	maxStep  = 4 << 20  // bytes of blocks that one read holds at once
	maxRange = 32 << 20 // bytes that are read on one confirmation of the version
	// slowRetry is the try whose pause is taken where too much is tried again.
	slowRetry = 6
)

// view is the content of a range of a file: pieces of blocks, zeros, and copies
// of what is dirty, in order.
type view struct {
	c     *Client
	parts []*part
	list  [][]byte
}

func (v *view) release() {
	for _, p := range v.parts {
		v.c.cache.unref(p)
	}
	v.parts = nil
}

// sink takes what is read, in order.
type sink interface {
	put(off int64, b []byte, p *part) // p: the part that b is of, nil if it is nobody's
	zero(off int64, n int)
}

// toSlice copies into the caller's buffer.
type toSlice struct {
	p    []byte
	base int64
}

func (s toSlice) put(off int64, b []byte, _ *part) { copy(s.p[off-s.base:], b) }
func (s toSlice) zero(off int64, n int)            { clear(s.p[off-s.base:][:n]) }

// readAt reads into p. fresh: the owner is asked whether the version known is
// the newest; else what was last heard is believed.
func (in *inode) readAt(ctx context.Context, h *Handle, p []byte, off int64, fresh bool) (int, error) {
	switch {
	case off < 0:
		return 0, tnv.E("read", tnv.KindInvalid, "negative offset")
	case len(p) == 0:
		return 0, nil
	}
	if err := in.told(ctx); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		n, err := in.readRange(ctx, h, p[done:min(len(p), done+maxRange)], off+int64(done), fresh)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// readRange is readAt for a range short enough to be of one version.
func (in *inode) readRange(ctx context.Context, h *Handle, p []byte, off int64, fresh bool) (int, error) {
	in.mu.Lock()
	over, whole := in.dirty.overlay(off, len(p))
	dirtyEnd := in.dirty.end()
	in.mu.Unlock()
	if whole {
		for _, o := range over {
			copy(p[o.off-off:], o.b)
		}
		return len(p), nil
	}
	attr, err := in.readClean(ctx, h, p, off, fresh)
	if err != nil {
		return 0, err
	}
	n := len(p)
	if size := max(attr.Size, dirtyEnd); size > tnv.MaxFileSize || off+int64(n) > int64(size) {
		n = int(max(0, int64(size)-off))
	}
	if int64(attr.Size) < off+int64(n) {
		clear(p[max(0, int64(attr.Size)-off):n])
	}
	for _, o := range over {
		copy(p[o.off-off:], o.b)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readClean reads what is committed. What lies beyond the size that the
// attributes returned tell is undefined. While blocks can not be had, the owner
// is asked whether they are still the file's (D9), until the deadline.
func (in *inode) readClean(caller context.Context, h *Handle, p []byte, off int64, fresh bool) (tnv.Attr, error) {
	ctx, cancel := context.WithTimeout(caller, in.c.cfg.Timeout)
	defer cancel()
	first, count := chunksOf(off, len(p))
	l, known := in.latest(first, count)
	if known && fresh && in.leased(&l) {
		fresh = false
	}
	var last error
	for try := 0; ; try++ {
		attr, err := in.readOnce(ctx, h, p, off, first, count, &l, known, fresh || try > 0)
		if err == nil {
			return attr, nil
		}
		k := tnv.KindOf(err)
		switch {
		case caller.Err() != nil:
			return attr, tnv.Wrap("read", caller.Err())
		case ctx.Err() != nil:
			if last == nil || k != tnv.KindTimeout && k != tnv.KindCanceled {
				last = err
			}
			if k := tnv.KindOf(last); k == tnv.KindCorrupt || k == tnv.KindMissing {
				return attr, last
			}
			return attr, in.c.unavailable("read of inode "+strconv.FormatUint(uint64(in.ino), 10), last)
		case k == tnv.KindMissing || k == tnv.KindCorrupt:
			if try >= 2 { // the owner has named the same extents meanwhile
				return attr, err
			}
			in.forgetExtents()
			known = false
		case !tnv.Retryable(err) && k != tnv.KindCanceled:
			return attr, err
		}
		last = err
		in.c.m.retries.Inc()
		in.c.refreshMap(ctx)
		if !in.c.nodes.mayRetry() {
			pause(ctx, slowRetry)
		}
		pause(ctx, try)
	}
}

// forgetExtents has the owner asked for the extents anew, whatever the content's
// version: blocks move without a change of the content.
func (in *inode) forgetExtents() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ext.reset(0)
}

// readOnce reads by the layout l, if one is known, and asks the owner for it
// while the blocks are on their way. l becomes what the owner said.
func (in *inode) readOnce(ctx context.Context, h *Handle, p []byte, off int64, first uint64, count uint32, l *layout, known, fresh bool) (tnv.Attr, error) {
	if known && !fresh {
		return l.attr, in.fill(ctx, h, p, off, l)
	}
	if !known {
		now, _, err := in.current(ctx, first, count, *l, false)
		if err != nil {
			return tnv.Attr{}, err
		}
		*l = now
		return l.attr, in.fill(ctx, h, p, off, l)
	}
	type confirmed struct {
		l    layout
		same bool
		err  error
	}
	ch := make(chan confirmed, 1)
	guess := *l
	actx, cancel := context.WithCancel(ctx)
	defer cancel()
	in.c.wg.Add(1)
	go func() {
		defer in.c.wg.Done()
		now, same, err := in.current(actx, first, count, guess, true)
		ch <- confirmed{now, same, err}
	}()
	ferr := in.fill(ctx, h, p, off, l)
	a := <-ch
	if a.err != nil {
		return tnv.Attr{}, a.err
	}
	*l = a.l
	if a.same {
		return l.attr, ferr
	}
	return l.attr, in.fill(ctx, h, p, off, l)
}

// fill reads the committed part of [off, off+len(p)) by a layout.
func (in *inode) fill(ctx context.Context, h *Handle, p []byte, off int64, l *layout) error {
	n := len(p)
	if size := int64(l.attr.Size); off+int64(n) > size {
		n = int(max(0, size-off))
	}
	to := toSlice{p, off}
	for pos, end := off, off+int64(n); pos < end; {
		m, err := in.step(ctx, h, l, pos, int(min(end-pos, maxStep)), to)
		if err != nil {
			return err
		}
		pos += int64(m)
	}
	return nil
}

// wanted is a part that a step waits for, and what it wants of it.
type wanted struct {
	p      *part // nil: a hole of n bytes
	off    int64 // in the file
	lo, hi uint32
	n      int
}

// step reads some bytes, as many as memory allows at once but at least one. It
// waits for memory only while it holds none: so whoever holds some goes on.
func (in *inode) step(ctx context.Context, h *Handle, l *layout, off int64, n int, to sink) (int, error) {
	want, got, err := in.gather(ctx, l, off, n)
	defer func() {
		for _, w := range want {
			if w.p != nil {
				in.c.cache.unref(w.p)
			}
		}
	}()
	if err != nil {
		return 0, err
	}
	if h != nil {
		h.ahead.moved(in, l, off, got)
	}
	for _, w := range want { // in the order of the file, holes included: sinks append
		if w.p == nil {
			to.zero(w.off, w.n)
			continue
		}
		if err := w.p.await(ctx); err != nil {
			return 0, err
		}
		to.put(w.off, w.p.bytes()[w.lo-w.p.blk.lo:w.hi-w.p.blk.lo], w.p)
	}
	return got, nil
}

// gather begins to fetch [off, off+n), as much as there is memory for, and
// returns how much that is.
func (in *inode) gather(ctx context.Context, l *layout, off int64, n int) (want []wanted, got int, err error) {
	vol, holds := in.c.vol(), false
	for _, r := range l.runs(vol, in.ino, off, n) {
		if r.blk.key.ID == 0 {
			want = append(want, wanted{off: r.off, n: r.n})
			got += r.n
			continue
		}
		for at, pos := r.blk, r.off; at.lo < at.hi; {
			p, err := in.c.cache.get(ctx, at, false, !holds)
			if err != nil {
				return want, got, err
			}
			if p == nil {
				return want, got, nil
			}
			hi := min(at.hi, p.blk.hi)
			holds = true
			want = append(want, wanted{p: p, off: pos, lo: at.lo, hi: hi})
			got += int(hi - at.lo)
			pos += int64(hi - at.lo)
			at.lo = hi
		}
	}
	return want, got, nil
}

// view is readAt without a copy where nothing is dirty: it returns the parts of
// blocks themselves. It may return less than n bytes.
func (in *inode) view(ctx context.Context, h *Handle, off int64, n int, fresh bool) (*view, error) {
	n = min(n, maxStep)
	in.mu.Lock()
	dirty := !in.dirty.empty()
	in.mu.Unlock()
	first, count := chunksOf(off, max(n, 1))
	l, known := in.latest(first, count)
	if !dirty && off >= 0 && n > 0 && known && fresh {
		now, same, err := in.current(ctx, first, count, l, true)
		if err != nil {
			return nil, err
		}
		l = now
		known = same || len(now.chunks) > 0
	}
	if dirty || !known || off < 0 || n == 0 {
		return in.viewCopy(ctx, h, off, n, fresh)
	}
	if size := int64(l.attr.Size); off+int64(n) > size {
		if n = int(max(0, size-off)); n == 0 {
			return &view{c: in.c}, io.EOF
		}
	}
	v := &view{c: in.c}
	if _, err := in.step(ctx, h, &l, off, n, v); err != nil {
		v.release()
		if ctx.Err() != nil {
			return nil, tnv.Wrap("read", ctx.Err())
		}
		return in.viewCopy(ctx, h, off, n, true) // it tries again
	}
	return v, nil
}

// viewCopy reads into memory of its own.
func (in *inode) viewCopy(ctx context.Context, h *Handle, off int64, n int, fresh bool) (*view, error) {
	p := make([]byte, min(n, partSize))
	n, err := in.readAt(ctx, h, p, off, fresh)
	if err != nil && (err != io.EOF || n == 0) {
		return &view{c: in.c}, err
	}
	return &view{c: in.c, list: [][]byte{p[:n]}}, nil
}

func (v *view) put(_ int64, b []byte, p *part) {
	v.c.cache.mu.Lock()
	p.refs++
	v.c.cache.mu.Unlock()
	v.parts = append(v.parts, p)
	v.list = append(v.list, b)
}

func (v *view) zero(_ int64, n int) { v.list = append(v.list, make([]byte, n)) }
