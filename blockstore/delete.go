package blockstore

import (
	"context"

	"github.com/tnvfs/tnv"
)

// Delete removes blocks for good, held or not: when it returns nil the
// tombstones are on disk, receptions of the blocks have ended, and none comes
// back (D6). An error: some may be deleted; ask again.
func (s *Store) Delete(ctx context.Context, vol tnv.VolumeID, ids []tnv.BlockID) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if err := ctx.Err(); err != nil {
		return wrap("delete blocks", err)
	}
	if vol == 0 {
		return tnv.E("delete blocks", tnv.KindInvalid, "volume 0 has none")
	}
	if err := s.mendLog(); err != nil {
		return wrap("delete blocks", err)
	}
	s.log.gate.RLock()
	defer s.log.gate.RUnlock()
	var slots []slot
	s.mu.Lock()
	for _, id := range ids {
		key := tnv.BlockKey{Vol: vol, ID: id}
		if id == 0 {
			continue
		}
		if s.index.get(key).tombstone() {
			s.index.set(key, s.tombstone()) // on disk already; young again
			continue
		}
		slots = append(slots, slot{kind: slotDelete, key: key})
	}
	s.mu.Unlock()
	if len(slots) == 0 {
		return nil
	}
	if err := s.log.append(slots); err != nil {
		return wrap("delete blocks", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range slots {
		s.buryLocked(l.key)
	}
	s.wakeKeeper()
	return nil
}

// buryLocked puts a tombstone where a block was, or was not.
func (s *Store) buryLocked(key tnv.BlockKey) {
	at := s.index.get(key)
	s.index.set(key, s.tombstone())
	for _, w := range s.receiving[key] {
		w.canceled.Store(true)
	}
	if at.live() {
		s.deadLocked(at)
	}
}

// deadLocked accounts for a record that nothing points to any more.
func (s *Store) deadLocked(at location) {
	s.unrefLocked(at)
	s.punchLaterLocked(at, s.opt.PunchDelay)
}

// mendLog writes the log anew if it is broken.
func (s *Store) mendLog() error {
	if !s.log.isBroken() {
		return nil
	}
	return s.rewriteLog()
}

// Drop forgets a copy that is bad, so that the block can be taken again from a
// peer. reason is for the log. KindMissing: it is not held.
func (s *Store) Drop(key tnv.BlockKey, reason string) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	op := "drop block " + key.String()
	if err := s.mendLog(); err != nil {
		return wrap(op, err)
	}
	s.log.gate.RLock()
	defer s.log.gate.RUnlock()
	s.mu.RLock()
	at := s.index.get(key)
	seg := s.segments[at.seg]
	s.mu.RUnlock()
	if !at.live() {
		return tnv.E(op, tnv.KindMissing, "this store does not have it")
	}
	v := void{seg.id, at.off}
	if err := s.log.append([]slot{{kind: slotDrop, key: key, seg: v.seg, off: v.off}}); err != nil {
		return wrap(op, err)
	}
	s.opt.Log.WithField("block", key.String()).WithField("segment", seg.name()).WithField("reason", reason).
		Warn("a bad copy is dropped")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index.get(key) != at {
		return nil // deleted meanwhile, or moved: then the copy was good
	}
	s.voids[v] = struct{}{}
	s.index.set(key, location{})
	s.deadLocked(at)
	if seg.records != nil {
		seg.records[at.pos].state = recVoid
	}
	return nil
}
