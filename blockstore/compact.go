package blockstore

import (
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	// A segment is copied when less than sparse of it is live, or below dense
	// when the store is nearly full.
	sparse, dense = 0.25, 0.75
	// Segments much smaller than they should be are copied together when there
	// are manySmall of them: each start begins one.
	manySmall = 16
	// A segment that still takes records is given up for compaction when it
	// is as thin as a sealed one that would be, and has at least 1/worthSealing
	// of its full size: small blocks leave little behind that could be punched.
	worthSealing = 64
	// compactBatch is how much is copied for one sync.
	compactBatch = 32 << 20
	// unfitFor is how long a segment is left alone that could not be compacted;
	// noRoomFor if all that was missing is room, which deletions make.
	unfitFor  = 10 * time.Minute
	noRoomFor = 2 * time.Second
)

// housekeeper frees space in the background.
func (s *Store) housekeeper() {
	t := time.NewTicker(s.opt.Housekeeping)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
		case <-s.keepWake:
		}
		s.keepHouse()
	}
}

func (s *Store) wakeKeeper() {
	if s.opt.PunchDelay == 0 {
		select {
		case s.keepWake <- struct{}{}:
		default:
		}
	}
}

// keepHouse does what there is to do now: seals what could not be sealed,
// punches, compacts, removes segments, forgets tombstones.
func (s *Store) keepHouse() {
	s.keepMu.Lock()
	defer s.keepMu.Unlock()
	s.drainThin()
	s.sealDrained()
	for s.punchDue() && !s.stopping() {
	}
	for !s.stopping() {
		seg := s.pickVictim()
		if seg == nil {
			break
		}
		if err := s.compact(seg); err != nil {
			s.opt.Log.WithError(err).WithField("segment", seg.name()).Warn("cannot compact a segment")
		}
	}
	if err := s.removeEmpty(); err != nil {
		s.opt.Log.WithError(err).Warn("cannot remove a segment")
	}
	if err := s.forget(); err != nil {
		s.opt.Log.WithError(err).Warn("cannot shorten the delete log")
	}
}

func (s *Store) stopping() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// drainThin lets the active segment take no more records if little in it is
// live: its space could not be freed before it was full.
func (s *Store) drainThin() {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	seg := s.active
	if seg == nil || seg.writers > 0 || seg.end < s.opt.SegmentSize/worthSealing {
		return
	}
	if dead := seg.end - seg.live - seg.punched; dead >= seg.end/4 && float64(seg.live) < sparse*float64(seg.end-sector) {
		s.drainLocked(seg)
	}
}

// pickVictim chooses a sealed segment to copy: the one with the least in it.
// Empty ones need no copying.
func (s *Store) pickVictim() *segment {
	capacity := s.capacity()
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := sparse
	if capacity > 0 && s.used > capacity/10*8 {
		limit = dense
	}
	var best *segment
	small := 0
	for _, seg := range s.segments {
		if seg.state == segSealed && seg.end < s.opt.SegmentSize/32 {
			small++
		}
	}
	for _, seg := range s.segments {
		if seg.state != segSealed || seg.live == 0 || time.Now().Before(seg.unfitUntil) {
			continue
		}
		thin := float64(seg.live) < limit*float64(seg.end-sector)
		if small >= manySmall && seg.end < s.opt.SegmentSize/32 {
			thin = true
		}
		if thin && (best == nil || seg.live < best.live) {
			best = seg
		}
	}
	return best
}

// move is a block that has a copy, which nobody knows of yet.
type move struct {
	w    *Writer
	from location
	seq  uint64 // of the sync that covers it
}

// compact copies what is live in a segment. Each copy is verified and synced
// before the index points to it, and only if it still pointed to the old one
// (P7). Then the segment is empty, and may be removed.
func (s *Store) compact(seg *segment) error {
	var live []uint32
	var keys []tnv.BlockKey
	err := s.readSealed(seg, func(n uint32, e entry) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		if s.index.get(e.key) == (location{seg: seg.ref, off: e.off, pos: n, len: e.len}) {
			live, keys = append(live, n), append(keys, e.key)
		}
	})
	if err == nil {
		err = s.moveAll(seg, keys)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case tnv.KindOf(err) == tnv.KindNoSpace:
		seg.unfitUntil = time.Now().Add(noRoomFor)
	case err != nil || seg.live > 0:
		seg.unfitUntil = time.Now().Add(unfitFor)
	}
	return err
}

// moveAll moves blocks out of a segment, in batches. A damaged one stays, and
// is the error.
func (s *Store) moveAll(seg *segment, keys []tnv.BlockKey) error {
	var moves []move
	var size int64
	var bad error
	buf := make([]byte, tnv.MaxBlockSize)
	for _, key := range keys {
		if s.stopping() {
			break
		}
		m, err := s.copyBlock(seg, key, buf)
		switch k := tnv.KindOf(err); {
		case err == nil:
			moves = append(moves, m)
			size += int64(m.w.meta.Len)
		case k == tnv.KindMissing: // it went meanwhile
		case k == tnv.KindCorrupt:
			bad = err
		default:
			return errors.Join(err, s.settle(moves))
		}
		if size >= compactBatch {
			if err := s.settle(moves); err != nil {
				return err
			}
			s.throttle(size)
			moves, size = nil, 0
		}
	}
	return errors.Join(s.settle(moves), bad)
}

// throttle keeps compaction within its rate.
func (s *Store) throttle(n int64) {
	if s.opt.CompactRate <= 0 {
		return
	}
	select {
	case <-s.stop:
	case <-time.After(time.Duration(float64(n) / float64(s.opt.CompactRate) * float64(time.Second))):
	}
}

// copyBlock writes a verified copy of a block, if it lies in seg. buf is
// MaxBlockSize long.
func (s *Store) copyBlock(seg *segment, key tnv.BlockKey, buf []byte) (move, error) {
	r, err := s.openBlock(key)
	if err != nil {
		return move{}, err
	}
	defer r.Close()
	if r.seg != seg {
		return move{}, tnv.E("compact block "+key.String(), tnv.KindMissing, "it moved")
	}
	p := buf[:r.meta.Len]
	if _, err := r.ReadAt(p, 0); err != nil {
		return move{}, err
	}
	if bad := protocol.Verify(key, r.meta.Unit, 0, p, r.meta.Sums); bad >= 0 {
		return move{}, s.corrupt(key, seg, r.base+int64(bad)*int64(r.meta.Unit), "checksum mismatch")
	}
	to, err := s.reserve(&r.meta)
	if err != nil {
		return move{}, err
	}
	w := s.newWriter(to, r.meta)
	if w.flush(p); w.err != nil {
		w.abort()
		return move{}, w.err
	}
	s.mu.Lock()
	from := s.index.get(key)
	to.seg.commits++
	seq := to.seg.commits
	s.mu.Unlock()
	if from.seg != seg.ref {
		w.abort()
		return move{}, tnv.E("compact block "+key.String(), tnv.KindMissing, "it went meanwhile")
	}
	return move{w: w, from: from, seq: seq}, nil
}

// settle puts copies on disk and lets the index point to them.
func (s *Store) settle(moves []move) error {
	var first error
	for _, m := range moves {
		seg := m.w.place.seg
		err := s.syncSegment(seg, m.seq)
		s.mu.Lock()
		if err == nil && s.index.get(m.w.meta.Key) == m.from {
			seg.records[m.w.place.pos].commit = m.seq
			s.removeLocked(m.w.meta.Key, m.from)
			s.insertLocked(m.w.meta.Key, m.w.place.location(m.w.meta.Len))
			m.w.endLocked(recLive)
			s.stat.compacted.Add(uint64(m.w.meta.Len))
		} else {
			m.w.endLocked(recVoid)
		}
		s.mu.Unlock()
		if err != nil && first == nil {
			first = err
		}
	}
	return first
}

// removeEmpty removes sealed segments to which nothing points and which nobody
// reads. Copies of what they held are on disk; the index needs no sync, since
// it is built from the segments.
func (s *Store) removeEmpty() error {
	s.mu.Lock()
	var gone []*segment
	for _, seg := range s.segments {
		if seg.state == segSealed && seg.blocks == 0 && seg.users == 0 {
			seg.state = segGone
			gone = append(gone, seg)
		}
	}
	s.mu.Unlock()
	var first error
	for _, seg := range gone {
		err := s.removeFiles(seg)
		s.mu.Lock()
		if err != nil {
			seg.state = segSealed // another time
			if first == nil {
				first = wrap("remove segment "+seg.name(), err)
			}
		} else {
			s.releaseSegmentLocked(seg)
		}
		s.mu.Unlock()
		s.files.forget(s.segmentPath(seg))
		s.files.forget(s.indexPath(seg))
	}
	return first
}

// removeFiles removes a segment's files, on disk too. The space comes back at
// once, even while clients on this host hold the file open: what they still look
// for in it they find missing, as after a punch, and ask.
func (s *Store) removeFiles(seg *segment) error {
	f, err := s.opt.FS.OpenReadWrite(s.segmentPath(seg), vfs.WriteCategoryUnspecified)
	if err == nil {
		defer f.Close()
		// The segment first: an index without a segment is nothing.
		err = s.opt.FS.Remove(s.segmentPath(seg))
	}
	if err == nil || tnv.KindOf(err) == tnv.KindNotExist {
		err = s.opt.FS.Remove(s.indexPath(seg))
	}
	if err == nil || tnv.KindOf(err) == tnv.KindNotExist {
		err = syncDir(s.opt.FS, s.dir) // only then may tombstones be forgotten
	}
	if err == nil && f != nil {
		releaseTail(f, 0) // not before its name is gone for good
	}
	return err
}

func (s *Store) releaseSegmentLocked(seg *segment) {
	delete(s.segments, seg.ref)
	s.used -= seg.end - seg.punched
	for v := range s.voids {
		if v.seg == seg.id {
			delete(s.voids, v)
		}
	}
}
