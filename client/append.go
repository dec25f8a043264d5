package client

import (
	"context"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Append adds p to the end of the file and tells where that was. The owner finds
// the place as it commits (K9), so what any clients append at one moment stands
// one behind the other, each p of up to tnv.MaxBlockSize bytes in one piece. It is
// committed, and seen by all, when Append returns. ctx may end the wait; whether p
// is appended is then not known.
func (h *Handle) Append(ctx context.Context, p []byte) (off int64, n int, err error) {
	if err := h.mayWrite(0, len(p)); err != nil {
		return 0, 0, err
	}
	if err := h.stuck(); err != nil {
		return 0, 0, err
	}
	for n < len(p) {
		b := p[n:min(len(p), n+window)]
		at, err := h.in.append(ctx, b)
		if err != nil {
			return off, n, err
		}
		if n == 0 {
			off = at
		}
		n += len(b)
	}
	return off, n, nil
}

// append appends one piece.
func (in *inode) append(ctx context.Context, b []byte) (off int64, err error) {
	buf, err := in.c.mem.wait(ctx, forWrite, len(b))
	if err != nil {
		return 0, err
	}
	copy(buf.b, b) // b is the caller's, who may be gone before it is sent
	done := make(chan struct{})
	in.c.wg.Add(1)
	go func() {
		defer in.c.wg.Done()
		defer close(done)
		defer in.c.mem.give(buf)
		off, err = in.appendNow(buf, len(b))
	}()
	select {
	case <-done:
		return off, err
	case <-ctx.Done():
		return 0, tnv.Wrap("write", ctx.Err())
	}
}

// appendNow puts the first n bytes of a buffer, and commits them at the end. What
// was written here before comes first.
func (in *inode) appendNow(buf *buffer, n int) (off int64, err error) {
	ctx, cancel := in.c.opCtx()
	defer cancel()
	in.everDirty.Store(true)
	if err := in.flush(ctx, flushCommit); err != nil {
		return 0, err
	}
	in.mu.Lock()
	guess, kill := in.attr, in.killSUID
	in.killSUID = false
	in.mu.Unlock()
	for try := 0; ; try++ {
		if guess.Version == 0 || try > 0 {
			if guess, err = in.c.GetAttr(ctx, tnv.Root, in.ino); err != nil {
				return 0, err
			}
		}
		pieces := cutAtChunks(buf, int64(guess.Size), n)
		pieces[0].kill = kill
		for _, p := range pieces {
			if err := in.store(ctx, p); err != nil {
				for _, p := range pieces {
					p.abandon()
				}
				return 0, err
			}
		}
		a, err := in.commitAppended(ctx, pieces)
		if err == nil {
			return int64(a.Size) - int64(n), nil
		}
		for _, p := range pieces {
			p.abandon()
		}
		// The file ends in another chunk by now: blocks belong to one chunk (D1).
		if tnv.KindOf(err) != tnv.KindWouldBlock || ctx.Err() != nil {
			return 0, err
		}
	}
}

func (in *inode) commitAppended(ctx context.Context, pieces []*piece) (tnv.Attr, error) {
	if err := in.lockCommit(ctx); err != nil {
		return tnv.Attr{}, err
	}
	defer in.unlockCommit()
	a, err := in.commitStored(ctx, pieces, protocol.Commit{Append: true})
	if err != nil {
		return a, err
	}
	in.c.m.commits.Inc()
	in.mu.Lock()
	defer in.mu.Unlock()
	in.noteLocked(a)
	in.metaDirty = true
	for _, p := range pieces {
		in.unsyncedLocked(p)
	}
	return a, nil
}

// cutAtChunks makes pieces of a buffer for a place in the file: two where a chunk
// ends in between. They share the buffer.
func cutAtChunks(buf *buffer, off int64, n int) (l []*piece) {
	now := time.Now().UnixNano()
	for at := 0; at < n; {
		k := int(min(int64(n-at), tnv.ChunkSize-(off+int64(at))%tnv.ChunkSize))
		l = append(l, &piece{off: off + int64(at), buf: buf, at: at, n: k, mtime: now})
		at += k
	}
	return l
}
