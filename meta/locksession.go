package meta

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Locks and the sessions that have them: a session that is silent keeps its
// locks until somebody wants one of them.
const (
	// silentAfter is how long a session without a connection, whose client was
	// killed or looks for the next tracker, keeps what others want.
	silentAfter = 5 * time.Second
	// frozenAfter is the same with a connection that nothing comes from: of a
	// client that is stopped, or on the far side of a broken network.
	frozenAfter = 20 * time.Second
)

// loadLocks reads what is held. A lock of a session that is not is nobody's.
func (v *Volume) loadLocks(ctx context.Context) error {
	var stray []string
	err := v.each(ctx, keyLock, func(key string, val any) error {
		k, ok := splitLockKey(key)
		if !ok {
			return v.damaged(key, tnv.E("decode key", tnv.KindCorrupt, "not of a lock"))
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.sessions[k.who.session] == nil {
			stray = append(stray, key)
			return nil
		}
		v.locks.put(k.ino, k.who, val.(*held), 0)
		return nil
	})
	if err != nil {
		return err
	}
	for part := range slices.Chunk(stray, 500) {
		err := v.mutate(ctx, func(tx *Tx) error {
			for _, key := range part {
				tx.del(key)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// hold writes what an owner has from now on; nil: nothing.
func (v *Volume) hold(tx *Tx, ino tnv.Ino, who lockOwner, h *held) {
	if h == nil {
		tx.del(lockKey(ino, who))
	} else {
		tx.set(lockKey(ino, who), h)
	}
	seq := tx.seq
	tx.then(func() {
		v.locks.put(ino, who, h, seq)
		v.pump(ino)
		v.locks.tidy(ino, who.session)
	})
}

// pump tells those whose turn has come; v.mu is held.
func (v *Volume) pump(ino tnv.Ino) {
	whose := v.locks.pump(ino, time.Now())
	if len(whose) == 0 {
		return
	}
	v.smu.Lock()
	defer v.smu.Unlock()
	for _, id := range whose {
		if s := v.sessions[id]; s != nil {
			close(s.notice)
			s.notice = make(chan struct{})
		}
	}
}

// dropWait forgets a wait; v.mu is held. Only what was due was in somebody's way.
func (v *Volume) dropWait(w *lockWait) {
	v.locks.drop(w)
	if !w.due.IsZero() {
		v.pump(w.ino)
	}
}

// dueOf is which of a session's waits are due, among those that it knows are.
func (v *Volume) dueOf(id tnv.SessionID, waits []uint64) map[uint64]bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	due := map[uint64]bool{}
	if s := v.locks.sessions[id]; s != nil {
		for _, n := range waits {
			if w := s.waits[n]; w != nil && !w.due.IsZero() {
				due[n] = true
			}
		}
	}
	return due
}

// dueWaits lists the session's waits that are due and not among told, and those
// of asked that are not queued; more is closed when there may be others.
func (v *Volume) dueWaits(id tnv.SessionID, asked []uint64, told map[uint64]bool) (due []uint64, more <-chan struct{}, err error) {
	live, err := v.live(id)
	if err != nil {
		return nil, nil, err
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	v.smu.Lock()
	more = live.notice
	v.smu.Unlock()
	s := v.locks.sessions[id]
	if s != nil {
		for n, w := range s.waits {
			if !w.due.IsZero() && !told[n] && len(due) < protocol.MaxBatch {
				due = append(due, n)
			}
		}
	}
	for _, n := range asked {
		if s == nil || s.waits[n] == nil {
			due = append(due, n)
		}
	}
	return due, more, nil
}

// endLocks takes from an ended session what it has locked, and what it waits for.
func (v *Volume) endLocks(ctx context.Context, id tnv.SessionID) error {
	v.mu.Lock()
	var keys []heldKey
	if s := v.locks.sessions[id]; s != nil {
		keys = slices.Collect(maps.Keys(s.held))
		for _, ino := range v.locks.dropAll(id) {
			v.pump(ino)
		}
	}
	v.mu.Unlock()
	for part := range slices.Chunk(keys, 500) {
		err := v.mutate(ctx, func(tx *Tx) error {
			for _, k := range part {
				v.hold(tx, k.ino, k.who, nil)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// silent lists the sessions among those in somebody's way that end because of
// that. v.mu is held, for reading at least.
func (v *Volume) silent(inTheWay []lockOwner, now time.Time) (ids []tnv.SessionID) {
	v.smu.Lock()
	defer v.smu.Unlock()
	if now.Sub(v.expired) > maxPause { // it is this tracker that was silent
		return nil
	}
	for _, w := range inTheWay {
		s := v.sessions[w.session]
		if s == nil || slices.Contains(ids, w.session) {
			continue
		}
		quiet := now.Sub(s.seen)
		if s.rec.Ended || quiet > frozenAfter || quiet > silentAfter && s.conns == 0 {
			ids = append(ids, w.session)
		}
	}
	return ids
}

func (v *Volume) endSilent(ctx context.Context, ids []tnv.SessionID) error {
	var all []error
	for _, id := range ids {
		v.log.WithField("session", id).Info("a silent session has locks that others want: it is ended")
		all = append(all, v.EndSession(ctx, id))
	}
	return errors.Join(all...)
}

// sweepLocks ends the silent sessions that somebody waits for, and takes the
// turn from waits that nobody claims.
func (v *Volume) sweepLocks(ctx context.Context, now time.Time) error {
	v.mu.Lock()
	var inTheWay []lockOwner
	var late []*lockWait
	for ino, l := range v.locks.inodes {
		for _, w := range l.queue {
			inTheWay = append(inTheWay, v.locks.blockers(ino, w.who, w.r)...)
		}
		for _, w := range l.due {
			if now.Sub(w.due) > claimTime {
				late = append(late, w)
			}
		}
	}
	for _, w := range late {
		v.dropWait(w)
	}
	silent := v.silent(inTheWay, now)
	v.mu.Unlock()
	return v.endSilent(ctx, silent)
}
