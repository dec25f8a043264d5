package meta

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/clock"
	"github.com/tnvfs/tnv/protocol"
)

// slotCount is how many mutations a session may have under way at once.
const slotCount = 128

// liveSession is what the owner knows of a session beyond its record.
type liveSession struct {
	rec      *session
	to       Pusher        // its connection; nil: none yet
	seen     time.Time     // last contact
	conns    int           // connections that it was opened or resumed on, and that are not over
	notice   chan struct{} // closed, and another put in its place, when a wait for a lock is due
	unlinked map[tnv.Ino]bool
	// The newest sequence number that each slot has executed, and its answer if
	// that was an error: an error changes nothing, so nothing is stored for it,
	// but a late copy of the request must not be executed after all.
	slots [slotCount]struct {
		seq  uint64
		err  error
		seen tnv.BatchSeq // what the error was made of: its copies wait for it, too
	}
}

func (v *Volume) loadSessions(ctx context.Context) error {
	now := time.Now()
	return v.each(ctx, keySession, func(_ string, val any) error {
		s := val.(*session)
		v.sessions[s.ID] = newLiveSession(s, now)
		v.leases.inherit(s.ID, clock.Boot())
		return nil
	})
}

func newLiveSession(rec *session, now time.Time) *liveSession {
	return &liveSession{rec: rec, seen: now, notice: make(chan struct{}), unlinked: map[tnv.Ino]bool{}}
}

func (v *Volume) loadGrants(ctx context.Context) error {
	return v.each(ctx, keyGrant, func(key string, val any) error {
		g := val.(*grant)
		v.noteGrant(g.Session, tnv.BlockID(split1(key)), true)
		return nil
	})
}

// noteGrant keeps the list of a session's grants.
func (v *Volume) noteGrant(s tnv.SessionID, first tnv.BlockID, there bool) {
	v.smu.Lock()
	defer v.smu.Unlock()
	if !there {
		delete(v.grants[s], first)
		return
	}
	if v.grants[s] == nil {
		v.grants[s] = map[tnv.BlockID]bool{}
	}
	v.grants[s][first] = true
}

// maxIdentity is the length of the longest identity or name of a client in bytes.
const maxIdentity = 4096

// OpenSession begins a session, or finds the one to resume. A session of the
// same identity is ended first. ctx ends with the connection that asks, which is
// to, as far as recalls go.
func (v *Volume) OpenSession(ctx context.Context, rq *protocol.OpenSession, to Pusher) (protocol.SessionInfo, error) {
	info := protocol.SessionInfo{Vol: v.vol, Epoch: v.lease.Epoch, Slots: slotCount,
		KeepAliveMs: uint32(v.cfg.KeepAlive.Milliseconds()), ExpiryMs: uint32(v.cfg.SessionExpiry.Milliseconds()),
		MinReplicas: v.set.Load().MinReplicas, LeaseMs: uint32(v.leases.ttl.Milliseconds())}
	if len(rq.Identity) > maxIdentity || len(rq.Client) > maxIdentity {
		return info, tnv.E("open session", tnv.KindInvalid, "identity or name of the client longer than %d bytes", maxIdentity)
	}
	if rq.Resume != 0 && v.attached(ctx, rq.Resume, to) {
		info.Session, info.Resumed = rq.Resume, true
		info.LeaseGen = v.leases.attach(rq.Resume, rq.Dropped, clock.Boot())
		info.Seq = v.newest()
		return info, nil
	}
	for _, id := range v.predecessors(rq.Identity) {
		if err := v.EndSession(ctx, id); err != nil {
			return info, err
		}
	}
	var rec *session
	err := v.mutate(ctx, func(tx *Tx) error {
		id, err := tx.newIDs(idSession, 1)
		if err != nil {
			return err
		}
		rec = &session{ID: tnv.SessionID(id), Identity: rq.Identity, Client: rq.Client, ReadOnly: rq.ReadOnly, Begun: tx.now}
		tx.set(sessionKey(rec.ID), rec)
		tx.then(func() {
			v.smu.Lock()
			defer v.smu.Unlock()
			v.sessions[rec.ID] = newLiveSession(rec, time.Now())
		})
		return nil
	})
	if err != nil {
		return info, err
	}
	v.attached(ctx, rec.ID, to)
	info.Session, info.Seq = rec.ID, v.newest()
	info.LeaseGen = v.leases.attach(rec.ID, true, clock.Boot())
	return info, nil
}

func (v *Volume) newest() tnv.BatchSeq {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.seq
}

func (v *Volume) predecessors(identity string) (ids []tnv.SessionID) {
	if identity == "" {
		return nil
	}
	v.smu.Lock()
	defer v.smu.Unlock()
	for id, s := range v.sessions {
		if s.rec.Identity == identity && !s.rec.Ended {
			ids = append(ids, id)
		}
	}
	return ids
}

// attached notes a session's contact by a connection, which lasts until ctx
// ends; false if there is no such session.
func (v *Volume) attached(ctx context.Context, id tnv.SessionID, to Pusher) bool {
	v.smu.Lock()
	defer v.smu.Unlock()
	s := v.sessions[id]
	if s == nil || s.rec.Ended {
		return false
	}
	s.seen, s.to = time.Now(), to
	s.conns++
	context.AfterFunc(ctx, func() {
		v.smu.Lock()
		defer v.smu.Unlock()
		s.conns--
	})
	return true
}

func (v *Volume) live(id tnv.SessionID) (*liveSession, error) {
	v.smu.Lock()
	defer v.smu.Unlock()
	s := v.sessions[id]
	if s == nil || s.rec.Ended {
		return nil, tnv.E("session", tnv.KindSessionEnded, "session %d is over or never was", id)
	}
	s.seen = time.Now()
	return s, nil
}

// maxAsk is how many unlinked inodes one KeepAliveReply names.
const maxAsk = 4096

// KeepAlive notes the contact, renews the leases, and asks about inodes that lost their names.
func (v *Volume) KeepAlive(rq *protocol.KeepAlive) (protocol.KeepAliveReply, error) {
	rep := protocol.KeepAliveReply{Epoch: v.lease.Epoch}
	if _, err := v.live(rq.Session); err != nil {
		return rep, err
	}
	rep.LeaseGen, rep.Renewed = v.leases.renew(rq.Session, clock.Boot())
	v.smu.Lock()
	defer v.smu.Unlock()
	if s := v.sessions[rq.Session]; s != nil {
		for ino := range s.unlinked {
			if rep.Unlinked = append(rep.Unlinked, ino); len(rep.Unlinked) == maxAsk {
				break
			}
		}
	}
	return rep, nil
}

// CloseSession is EndSession at the session's own wish: it believes in no lease any more.
func (v *Volume) CloseSession(ctx context.Context, id tnv.SessionID) error {
	v.leases.forget(id, true, clock.Boot())
	return v.EndSession(ctx, id)
}

// EndSession ends a session: its locks, slots and unused block ids go, and it is not
// waited for where an unlinked inode is kept for it. What it had not committed
// is refused from then on. It goes on when the caller goes away; where it fails
// half-way, Expire or the next owner goes on with it.
func (v *Volume) EndSession(ctx context.Context, id tnv.SessionID) error {
	ctx = context.WithoutCancel(ctx)
	there := false
	err := v.mutate(ctx, func(tx *Tx) error {
		s, err := getAs[session](tx, sessionKey(id))
		if there = s != nil; err != nil || !there {
			return err
		}
		ended := *s
		ended.Ended = true // from here on nothing is done in its name
		tx.set(sessionKey(id), &ended)
		tx.then(func() { v.noteEnded(&ended) })
		return nil
	})
	if err != nil || !there {
		return err
	}
	if err := v.endLocks(ctx, id); err != nil { // first: others wait for them
		return err
	}
	firsts, inos := v.heldBy(id)
	if err := v.Released(ctx, id, inos); err != nil {
		return err
	}
	for part := range slices.Chunk(firsts, 500) {
		err := v.mutate(ctx, func(tx *Tx) error {
			for _, b := range part {
				tx.del(grantKey(b))
				tx.then(func() { v.noteGrant(id, b, false) })
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	prefix := key1(keySlot, uint64(id))
	slots, _, err := v.scan(ctx, prefix, prefixEnd(prefix), 0, nil)
	if err != nil {
		return err
	}
	return v.mutate(ctx, func(tx *Tx) error {
		for _, p := range slots {
			tx.del(p.key)
		}
		tx.del(sessionKey(id))
		tx.then(func() {
			v.smu.Lock()
			defer v.smu.Unlock()
			delete(v.sessions, id)
			delete(v.grants, id)
		})
		return nil
	})
}

// noteEnded marks a session in memory as ended. It stays there, and is found by
// Expire, until its end is complete.
func (v *Volume) noteEnded(rec *session) {
	v.smu.Lock()
	defer v.smu.Unlock()
	if s := v.sessions[rec.ID]; s != nil {
		s.rec = rec
	}
	v.leases.forget(rec.ID, false, clock.Boot())
}

// heldBy lists what a session holds.
func (v *Volume) heldBy(id tnv.SessionID) (firsts []tnv.BlockID, inos []tnv.Ino) {
	v.smu.Lock()
	defer v.smu.Unlock()
	for b := range v.grants[id] {
		firsts = append(firsts, b)
	}
	if s := v.sessions[id]; s != nil {
		for ino := range s.unlinked {
			inos = append(inos, ino)
		}
	}
	return firsts, inos
}

// endHalfEnded goes on with sessions whose end was interrupted.
func (v *Volume) endHalfEnded(ctx context.Context) error {
	v.smu.Lock()
	var ids []tnv.SessionID
	for id, s := range v.sessions {
		if s.rec.Ended {
			ids = append(ids, id)
		}
	}
	v.smu.Unlock()
	for _, id := range ids {
		if err := v.EndSession(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// maxPause is how long Expire may not have been called without the tracker
// itself counting as silent.
const maxPause = 3 * time.Second

// deadAfter is how long a session may be silent whose connection has ended, as it
// does at once when a process is killed, while files without a name are kept for it.
const deadAfter = 7 * time.Second

// Expire ends the sessions that were silent for too long, or for some seconds
// where others wait for what they hold, and takes leases back from those that
// have too many. It is called every second or so. Time in which it was not does
// not count: who was silent then is
// this tracker, which was stopped or overloaded.
func (v *Volume) Expire(ctx context.Context, now time.Time) error {
	v.push(v.leases.trim(clock.Boot()))
	v.smu.Lock()
	if pause := now.Sub(v.expired); pause > maxPause {
		for _, s := range v.sessions {
			s.seen = s.seen.Add(pause)
		}
	}
	v.expired = now
	var over []tnv.SessionID
	for id, s := range v.sessions {
		quiet := now.Sub(s.seen)
		if quiet > v.cfg.SessionExpiry || quiet > deadAfter && s.conns == 0 && len(s.unlinked) > 0 {
			over = append(over, id)
		}
	}
	v.smu.Unlock()
	all := []error{v.sweepLocks(ctx, now)}
	for _, id := range over {
		v.log.WithField("session", id).Info("session expired")
		all = append(all, v.EndSession(ctx, id))
	}
	return errors.Join(all...)
}
