package meta

import (
	"context"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// slotCount is how many mutations a session may have under way at once.
const slotCount = 128

// liveSession is what the owner knows of a session beyond its record.
type liveSession struct {
	rec      *session
	seen     time.Time // last contact
	unlinked map[tnv.Ino]bool
	// The newest sequence number that each slot has executed, and its answer if
	// that was an error: an error changes nothing, so nothing is stored for it,
	// but a late copy of the request must not be executed after all.
	slots [slotCount]struct {
		seq uint64
		err error
	}
}

func (v *Volume) loadSessions(ctx context.Context) error {
	now := time.Now()
	return v.each(ctx, keySession, func(_ string, val any) error {
		s := val.(*session)
		v.sessions[s.ID] = &liveSession{rec: s, seen: now, unlinked: map[tnv.Ino]bool{}}
		return nil
	})
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

// OpenSession begins a session, or finds the one to resume. A session of the
// same identity is ended first.
func (v *Volume) OpenSession(ctx context.Context, rq *protocol.OpenSession) (protocol.SessionInfo, error) {
	info := protocol.SessionInfo{Vol: v.vol, Epoch: v.lease.Epoch, Slots: slotCount,
		KeepAliveMs: uint32(v.cfg.KeepAlive.Milliseconds()), ExpiryMs: uint32(v.cfg.SessionExpiry.Milliseconds()),
		MinReplicas: v.cfg.MinReplicas}
	if rq.Resume != 0 && v.touch(rq.Resume) {
		info.Session, info.Resumed = rq.Resume, true
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
			v.sessions[rec.ID] = &liveSession{rec: rec, seen: time.Now(), unlinked: map[tnv.Ino]bool{}}
		})
		return nil
	})
	if err != nil {
		return info, err
	}
	info.Session, info.Seq = rec.ID, v.newest()
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
		if s.rec.Identity == identity {
			ids = append(ids, id)
		}
	}
	return ids
}

// touch notes a session's contact; false if there is no such session.
func (v *Volume) touch(id tnv.SessionID) bool {
	v.smu.Lock()
	defer v.smu.Unlock()
	s := v.sessions[id]
	if s == nil || s.rec.Ended {
		return false
	}
	s.seen = time.Now()
	return true
}

func (v *Volume) live(id tnv.SessionID) (*liveSession, error) {
	v.smu.Lock()
	defer v.smu.Unlock()
	s := v.sessions[id]
	if s == nil {
		return nil, tnv.E("session", tnv.KindSessionEnded, "session %d is over or never was", id)
	}
	s.seen = time.Now()
	return s, nil
}

// maxAsk is how many unlinked inodes one KeepAliveReply names.
const maxAsk = 4096

// KeepAlive notes the contact, and asks about inodes that lost their names.
func (v *Volume) KeepAlive(rq *protocol.KeepAlive) (protocol.KeepAliveReply, error) {
	rep := protocol.KeepAliveReply{Epoch: v.lease.Epoch}
	if _, err := v.live(rq.Session); err != nil {
		return rep, err
	}
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

// EndSession ends a session: its slots and unused block ids go, and it is not
// waited for where an unlinked inode is kept for it. What it had not committed
// is refused from then on. If it is interrupted the next owner goes on with it.
func (v *Volume) EndSession(ctx context.Context, id tnv.SessionID) error {
	there := false
	err := v.mutate(ctx, func(tx *Tx) error {
		s, err := getAs[session](tx, sessionKey(id))
		if there = s != nil; err != nil || !there {
			return err
		}
		ended := *s
		ended.Ended = true // from here on nothing is done in its name
		tx.set(sessionKey(id), &ended)
		return nil
	})
	if err != nil || !there {
		return err
	}
	firsts, inos := v.forgetSession(id)
	for part := range slices.Chunk(inos, 500) {
		if err := v.Released(ctx, id, part); err != nil {
			return err
		}
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
			delete(v.grants, id)
			v.smu.Unlock()
		})
		return nil
	})
}

// forgetSession takes a session out of memory; what it held is returned.
func (v *Volume) forgetSession(id tnv.SessionID) (firsts []tnv.BlockID, inos []tnv.Ino) {
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
	delete(v.sessions, id)
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

// Expire ends the sessions that were silent for too long.
func (v *Volume) Expire(ctx context.Context, now time.Time) error {
	v.smu.Lock()
	var over []tnv.SessionID
	for id, s := range v.sessions {
		if now.Sub(s.seen) > v.cfg.SessionExpiry {
			over = append(over, id)
		}
	}
	v.smu.Unlock()
	for _, id := range over {
		v.log.WithField("session", id).Info("session expired")
		if err := v.EndSession(ctx, id); err != nil {
			return err
		}
	}
	return nil
}
