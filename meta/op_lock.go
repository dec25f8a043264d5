package meta

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// checkLock tells what a request means: whose lock it is, and its range.
func checkLock(c *call, k *protocol.Lock) (lockOwner, lockRange, error) {
	who := lockOwner{c.head.Session, k.Owner, k.Kind}
	r := lockRange{k.Start, k.End, k.Mode}
	switch {
	case k.Mode > protocol.LockExclusive:
		return who, r, tnv.E("lock", tnv.KindInvalid, "mode %d", k.Mode)
	case k.Kind == protocol.LockFlock:
		r.start, r.end = 0, protocol.LockEOF
	case k.Kind != protocol.LockPosix:
		return who, r, tnv.E("lock", tnv.KindInvalid, "kind %d", k.Kind)
	case r.start > r.end || r.end > protocol.LockEOF:
		return who, r, tnv.E("lock", tnv.KindInvalid, "bytes %d to %d", r.start, r.end)
	}
	return who, r, nil
}

// silentHolders says that a lock is held by sessions that were silent for so
// long that they end if somebody wants what they have.
type silentHolders struct{ ids []tnv.SessionID }

func (e silentHolders) Error() string { return fmt.Sprintf("sessions %v are silent", e.ids) }

func (e silentHolders) finish(ctx context.Context, v *Volume) error {
	return v.endSilent(ctx, e.ids)
}

// setLock sets, removes or queues a lock.
func setLock(tx *Tx, c *call, rq *protocol.SetLock) (*protocol.SetLockReply, error) {
	who, r, err := checkLock(c, &rq.Lock)
	if err != nil {
		return nil, err
	}
	t := &c.v.locks
	tx.seen = max(tx.seen, t.seen(rq.Ino))
	if r.mode == protocol.LockNone {
		return c.lock(tx, rq, who, r)
	}
	if _, err := tx.inode(rq.Ino); err != nil {
		return nil, err
	}
	inTheWay := t.blockers(rq.Ino, who, r)
	if len(inTheWay) == 0 {
		return c.lock(tx, rq, who, r)
	}
	if ids := c.v.silent(inTheWay, time.Now()); len(ids) > 0 {
		return nil, silentHolders{ids}
	}
	if who.kind == protocol.LockFlock && t.has(rq.Ino, who) != nil {
		// flock(2): a lock is converted by removing it first, and it is lost if the
		// other cannot be had. Two that share, and both want all, would else wait for each other.
		c.v.hold(tx, rq.Ino, who, nil)
	}
	if rq.Wait == 0 {
		return &protocol.SetLockReply{State: protocol.LockRefused}, nil
	}
	return c.wait(tx, rq, who, r, inTheWay)
}

// lock gives an owner the mode that it asked for.
func (c *call) lock(tx *Tx, rq *protocol.SetLock, who lockOwner, r lockRange) (*protocol.SetLockReply, error) {
	t := &c.v.locks
	has := t.has(rq.Ino, who)
	is := setRange(has, r)
	if grows := len(is) - len(has); grows > 0 {
		s := t.sessions[who.session]
		if len(is) > maxOwnerRanges || t.ranges+grows > maxLockRanges || s != nil && s.ranges+grows > maxSessionRanges {
			return nil, tnv.E("lock", tnv.KindNoLock, "more ranges are locked than may be: %d by this owner", len(is))
		}
	}
	if !slices.Equal(has, is) {
		var h *held
		if len(is) > 0 {
			h = &held{Pid: rq.Lock.Pid, Ranges: is}
			if r.mode == protocol.LockNone {
				h.Pid = t.inodes[rq.Ino].held[who].Pid
			}
		}
		c.v.hold(tx, rq.Ino, who, h)
	}
	tx.then(func() {
		if s := t.sessions[who.session]; rq.Wait != 0 && s != nil && s.waits[rq.Wait] != nil {
			c.v.dropWait(s.waits[rq.Wait])
		}
	})
	return &protocol.SetLockReply{State: protocol.LockGranted}, nil
}

// wait queues a request that somebody is in the way of.
func (c *call) wait(tx *Tx, rq *protocol.SetLock, who lockOwner, r lockRange, inTheWay []lockOwner) (*protocol.SetLockReply, error) {
	t := &c.v.locks
	if who.kind == protocol.LockPosix && t.deadlock(who, inTheWay) {
		return nil, tnv.E("lock", tnv.KindDeadlock, "inode %d", rq.Ino)
	}
	if s := t.sessions[who.session]; s != nil && len(s.waits) >= maxSessionWaits {
		return nil, tnv.E("lock", tnv.KindNoLock, "%d requests of this session wait already", len(s.waits))
	}
	tx.then(func() { t.enqueue(&lockWait{id: rq.Wait, ino: rq.Ino, who: who, r: r}) })
	return &protocol.SetLockReply{State: protocol.LockQueued}, nil
}

// getLock names what stands in the way of a lock: the first such byte's.
func getLock(tx *Tx, c *call, rq *protocol.GetLock) (*protocol.GetLockReply, error) {
	who, r, err := checkLock(c, &rq.Lock)
	if err != nil {
		return nil, err
	}
	if _, err := tx.inode(rq.Ino); err != nil {
		return nil, err
	}
	t := &c.v.locks
	tx.seen = max(tx.seen, t.seen(rq.Ino))
	rep := &protocol.GetLockReply{}
	if r.mode == protocol.LockNone {
		return rep, nil
	}
	t.against(rq.Ino, who, r, func(w lockOwner, x lockRange) bool {
		is := protocol.Lock{Kind: w.kind, Mode: x.mode, Owner: w.owner, Start: x.start, End: x.end}
		if h := t.inodes[rq.Ino].held[w]; h != nil {
			is.Pid = h.Pid
		}
		if rep.Session == 0 || cmp.Or(cmp.Compare(is.Start, rep.Lock.Start), cmp.Compare(w.session, rep.Session), cmp.Compare(is.Owner, rep.Lock.Owner)) < 0 {
			rep.Lock, rep.Session = is, w.session
		}
		return true
	})
	return rep, nil
}

// maxLockWait is how long LockWait waits: below the time after which a client
// asks whether this tracker is alive.
const maxLockWait = 2 * time.Second

// lockWaits tells a session which of its waits are due, as soon as some are.
func lockWaits(ctx context.Context, c *call, rq *protocol.LockWait) (*protocol.LockWaitReply, error) {
	if n := max(len(rq.Waits), len(rq.Claiming)); n > protocol.MaxBatch {
		return nil, tnv.E("lock", tnv.KindInvalid, "%d waits, at most %d", n, protocol.MaxBatch)
	}
	told := c.v.dueOf(c.head.Session, rq.Claiming)
	over := time.NewTimer(min(time.Duration(rq.Ms)*time.Millisecond, maxLockWait))
	defer over.Stop()
	for {
		due, more, err := c.v.dueWaits(c.head.Session, rq.Waits, told)
		if err != nil || len(due) > 0 {
			return &protocol.LockWaitReply{Due: due}, err
		}
		select {
		case <-more:
		case <-over.C:
			return &protocol.LockWaitReply{}, nil
		case <-ctx.Done():
			return nil, tnv.Wrap("lock", ctx.Err())
		case <-c.v.dead:
			return nil, tnv.E("lock", tnv.KindNotOwner, "the tracker has given the volume up")
		}
	}
}

// dropWaits takes waits out of the queues. It changes no record, and may be repeated.
func dropWaits(_ context.Context, c *call, rq *protocol.DropWaits) (*empty, error) {
	if len(rq.Waits) > protocol.MaxBatch {
		return nil, tnv.E("lock", tnv.KindInvalid, "%d waits, at most %d", len(rq.Waits), protocol.MaxBatch)
	}
	v := c.v
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, id := range rq.Waits {
		if s := v.locks.sessions[c.head.Session]; s != nil && s.waits[id] != nil {
			v.dropWait(s.waits[id])
		}
	}
	return &empty{}, nil
}
