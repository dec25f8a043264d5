package blockstore

import (
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tnvfs/tnv/protocol"
)

const (
	page = 4096 // what file systems free
	// maxPunches bounds the memory of the queue. What finds no place in it is
	// freed by compaction, or punched after the next start.
	maxPunches = 1 << 19
	// punchBatch is how many holes are punched between two looks at the queue.
	punchBatch = 1024
)

// punch is a dead record, whose data may be freed from due on.
type punch struct {
	at  location
	due time.Time
}

// hole is the part of a dead record's data that can be freed. The unit, and so
// the header's length, is not known: what is data in any case is taken.
func hole(at location) (off, n int64) {
	head := int64(at.off) * sector
	lo := alignUp(head+headerLen(protocol.Units(at.len, protocol.MinUnit)), page)
	hi := (head + headerLen(protocol.Units(at.len, protocol.MaxUnit)) + int64(at.len)) / page * page
	return lo, hi - lo
}

func (s *Store) punchLaterLocked(at location, delay time.Duration) {
	if _, n := hole(at); n > 0 && len(s.punches) < maxPunches {
		s.punches = append(s.punches, punch{at, time.Now().Add(delay)})
	}
}

// duePunches takes what may be punched now out of the queue: dead for long
// enough, in a segment that stays, and held open by no Reader. Nobody can open
// a dead record, so none of these comes into use again.
func (s *Store) duePunches(now time.Time) map[*segment][]location {
	s.mu.Lock()
	defer s.mu.Unlock()
	due := map[*segment][]location{}
	rest := s.punches[:0]
	n := 0
	for _, p := range s.punches {
		seg := s.segments[p.at.seg]
		switch {
		case seg == nil || seg.state == segGone:
		case n >= punchBatch || p.due.After(now) || s.pins[pin{p.at.seg, p.at.off}] > 0:
			rest = append(rest, p)
		default:
			due[seg] = append(due[seg], p.at)
			seg.users++
			n++
		}
	}
	s.punches = rest
	return due
}

// punchDue frees the space of dead records. It returns whether there was any.
func (s *Store) punchDue() bool {
	due := s.duePunches(time.Now())
	for seg, at := range due {
		freed, err := s.punchSegment(seg, at)
		if err != nil {
			s.opt.Log.WithError(err).WithField("segment", seg.name()).Warn("cannot punch holes")
		}
		s.mu.Lock()
		seg.users -= len(at)
		seg.punched += freed
		s.used -= freed
		s.mu.Unlock()
	}
	return len(due) > 0
}

func (s *Store) punchSegment(seg *segment, at []location) (freed int64, err error) {
	f, err := s.opt.FS.OpenReadWrite(s.segmentPath(seg), vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for _, l := range at {
		off, n := hole(l)
		ok, err := punchHole(f, off, n)
		if !ok || err != nil {
			return freed, err
		}
		freed += n
	}
	return freed, nil
}
