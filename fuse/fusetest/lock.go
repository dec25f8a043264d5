package fusetest

import (
	"context"
	"slices"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// lock is a lock that an owner has, and by which handle.
type lock struct {
	protocol.Lock
	by *file
}

func (n *node) inTheWay(k protocol.Lock) *lock {
	for i, l := range n.locks {
		if l.Kind == k.Kind && l.Owner != k.Owner && l.Start <= k.End && k.Start <= l.End &&
			(l.Mode == protocol.LockExclusive || k.Mode == protocol.LockExclusive) {
			return &n.locks[i]
		}
	}
	return nil
}

// relock gives an owner's range another mode, and wakes whoever waits.
func (n *node) relock(k lock) {
	var is []lock
	for _, l := range n.locks {
		if l.Kind != k.Kind || l.Owner != k.Owner || l.Start > k.End || k.Start > l.End {
			is = append(is, l)
			continue
		}
		if l.Start < k.Start {
			left := l
			left.End = k.Start - 1
			is = append(is, left)
		}
		if l.End > k.End {
			l.Start = k.End + 1
			is = append(is, l)
		}
	}
	if k.Mode != protocol.LockNone {
		is = append(is, k)
	}
	n.locks = is
	if n.unlocked != nil {
		close(n.unlocked)
		n.unlocked = nil
	}
}

// Lock sets or removes a lock.
func (f *file) Lock(ctx context.Context, k protocol.Lock) error {
	if err := f.v.begin(ctx, "lock"); err != nil {
		return err
	}
	defer f.v.mu.Unlock()
	if k.Mode != protocol.LockNone && f.n.inTheWay(k) != nil {
		return tnv.E("lock", tnv.KindWouldBlock, "inode %d", f.n.attr.Ino)
	}
	f.n.relock(lock{k, f})
	return nil
}

// LockWait waits for it.
func (f *file) LockWait(ctx context.Context, k protocol.Lock, interrupt <-chan struct{}) error {
	for {
		err := f.Lock(ctx, k)
		if tnv.KindOf(err) != tnv.KindWouldBlock {
			return err
		}
		f.v.mu.Lock()
		if f.n.unlocked == nil {
			f.n.unlocked = make(chan struct{})
		}
		again := f.n.unlocked
		free := f.n.inTheWay(k) == nil
		f.v.mu.Unlock()
		if free {
			continue
		}
		select {
		case <-again:
		case <-interrupt:
			return tnv.E("lock", tnv.KindInterrupted, "")
		case <-ctx.Done():
			return tnv.Wrap("lock", ctx.Err())
		}
	}
}

// GetLock tells of a lock in the way.
func (f *file) GetLock(ctx context.Context, k protocol.Lock) (protocol.Lock, error) {
	if err := f.v.begin(ctx, "getlock"); err != nil {
		return protocol.Lock{}, err
	}
	defer f.v.mu.Unlock()
	if l := f.n.inTheWay(k); l != nil {
		return l.Lock, nil
	}
	return protocol.Lock{}, nil
}

// Unlock removes an owner's locks of a kind.
func (f *file) Unlock(_ context.Context, kind protocol.LockKind, owner uint64) error {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	f.n.relock(lock{protocol.Lock{Kind: kind, Owner: owner, End: protocol.LockEOF}, f})
	return nil
}

// unlockLocked removes what was locked by a handle.
func (f *file) unlockLocked() {
	for _, l := range slices.Clone(f.n.locks) {
		if l.by == f {
			l.Mode = protocol.LockNone
			f.n.relock(l)
		}
	}
}
