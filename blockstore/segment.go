package blockstore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// segState is a segment's age.
type segState uint8

const (
	segActive   segState = iota // takes records
	segDraining                 // takes none; writers are at work, or its index is not written yet
	segSealed                   // never changes, but for holes
	segGone                     // nothing of it is needed; its files go when nobody reads them
)

// segment is one file of records.
type segment struct {
	id  uint64
	ref uint32 // its number in memory; never used again
	// w is the file open for writing, until it is sealed.
	w *handle
	// sync numbers are commits.
	sync groupSync
	// dirty counts bytes since write-back was begun, up to kicked.
	dirty  atomic.Int64
	kicked int64 // of the write-back goroutine
	// zeroing says that small synced blocks arrive: see zeroAhead.
	zeroing atomic.Bool

	// Store.appendMu guards these.
	allocated int64
	zeroed    int64 // up to here the file was filled with zeros

	// Store.mu guards these; end, count and state change under Store.appendMu too.
	state   segState
	end     int64 // where the next record goes
	records []entry
	sums    []uint32 // of records
	count   uint32
	info    indexInfo // of a sealed segment
	live    int64     // bytes of records that the index points to
	blocks  int       // how many they are
	punched int64
	writers int
	users   int // readers: the files stay
	commits uint64
	failed  error
	// Compaction failed: it is left alone so long.
	unfitUntil time.Time
}

func segmentName(id uint64) string { return fmt.Sprintf("%016x.seg", id) }
func indexName(id uint64) string   { return fmt.Sprintf("%016x.idx", id) }

// parseName reads what segmentName or indexName wrote.
func parseName(name, suffix string) (uint64, bool) {
	s, ok := strings.CutSuffix(name, suffix)
	if !ok || len(s) != 16 {
		return 0, false
	}
	id, err := strconv.ParseUint(s, 16, 64)
	return id, err == nil
}

func (g *segment) name() string { return fmt.Sprintf("%016x", g.id) }

func (s *Store) segmentPath(g *segment) string { return s.opt.FS.PathJoin(s.dir, segmentName(g.id)) }
func (s *Store) indexPath(g *segment) string   { return s.opt.FS.PathJoin(s.dir, indexName(g.id)) }

// place is where a writer's record lies.
type place struct {
	seg *segment
	pos uint32
	off int64 // of the header
}

// reserve gives a block its place: its header is on its way to the file before
// any later record's is.
func (s *Store) reserve(meta *protocol.BlockMeta) (place, error) {
	op := "put block " + meta.Key.String()
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	for {
		p, err := s.appendHeaderAppendLocked(op, meta)
		if p.seg != nil || err != nil {
			return p, err
		}
	}
}

// appendHeaderAppendLocked is one try of reserve. No place and no error: the
// segment's sync failed meanwhile.
func (s *Store) appendHeaderAppendLocked(op string, meta *protocol.BlockMeta) (place, error) {
	size := recordSize(meta)
	seg, err := s.activeAppendLocked(size)
	if err != nil {
		return place{}, wrap(op, err)
	}
	defer seg.w.release()
	if err := s.allocateAppendLocked(seg, seg.end+size); err != nil {
		return place{}, wrap(op, err)
	}
	rec := record{segment: seg.id, number: seg.count, meta: *meta}
	if _, err := seg.w.w.WriteAt(rec.appendTo(nil), seg.end); err != nil {
		// Nobody knows what is there now: nothing more is appended.
		s.mu.Lock()
		s.drainLocked(seg)
		s.mu.Unlock()
		return place{}, wrap(op, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg.state != segActive {
		return place{}, nil
	}
	p := place{seg: seg, pos: seg.count, off: seg.end}
	seg.records = append(seg.records, entry{
		key: meta.Key, home: meta.Home, len: meta.Len, unit: meta.Unit,
		off: uint32(seg.end / sector), sumsAt: uint32(len(seg.sums)), state: recWriting,
	})
	seg.sums = append(seg.sums, meta.Sums...)
	seg.count++
	seg.end += size
	seg.writers++
	s.used += size
	return p, nil
}

// activeAppendLocked gives a segment with room for size bytes. The caller
// releases its w.
func (s *Store) activeAppendLocked(size int64) (*segment, error) {
	s.mu.Lock()
	seg := s.active
	if seg != nil {
		if seg.state == segActive && seg.failed == nil && seg.count < maxRecords &&
			(seg.end+size <= s.opt.SegmentSize || seg.count == 0) {
			seg.w.retain() // a failed sync may end the segment at any time
			s.mu.Unlock()
			return seg, nil
		}
		s.drainLocked(seg)
	}
	s.mu.Unlock()
	return s.newSegmentAppendLocked()
}

// newSegmentAppendLocked begins a segment, on disk with its name before it is used.
func (s *Store) newSegmentAppendLocked() (*segment, error) {
	s.nextSegment++
	seg := &segment{id: uint64(s.super.Boot)<<32 | uint64(s.nextSegment), end: sector, records: []entry{}}
	path := s.segmentPath(seg)
	f, err := s.opt.FS.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, wrap("begin segment "+seg.name(), err)
	}
	seg.w = newHandle(f, f)
	seg.w.w = f
	err = s.allocateAppendLocked(seg, sector)
	if err == nil {
		_, err = f.WriteAt(encodeSegmentHeader(seg.id, s.super), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncDir(s.opt.FS, s.dir)
	}
	if err != nil {
		seg.w.release()
		s.opt.FS.Remove(path) // what is left is removed at the next start
		return nil, wrap("begin segment "+seg.name(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addSegmentLocked(seg)
	s.unsealed[seg.ref] = seg
	s.active = seg
	s.used += seg.end
	seg.w.retain()
	return seg, nil
}

func (s *Store) addSegmentLocked(seg *segment) {
	s.lastRef++
	seg.ref = s.lastRef
	s.segments[seg.ref] = seg
}

// allocateAppendLocked has the file's space allocated up to upTo, and some more.
// Only a full disk is an error: not every file system can allocate ahead.
func (s *Store) allocateAppendLocked(seg *segment, upTo int64) error {
	if upTo > seg.allocated {
		n := alignUp(max(upTo-seg.allocated, s.allocateAhead()), 4096)
		err := seg.w.w.Preallocate(seg.allocated, n)
		if tnv.KindOf(err) == tnv.KindNoSpace {
			n = upTo - seg.allocated // what is missing, without more
			err = seg.w.w.Preallocate(seg.allocated, n)
		}
		if tnv.KindOf(err) == tnv.KindNoSpace {
			return err
		}
		seg.allocated += n
	}
	s.zeroAhead(seg, upTo)
	return nil
}

// allocateAhead is how much a segment may take beyond what it needs now: on a
// disk that is nearly full nothing, since that would come out of what is kept
// back, for this store and for others on the disk.
func (s *Store) allocateAhead() int64 {
	n := min(step, s.opt.SegmentSize/16)
	capacity := s.capacity()
	if capacity > 0 && capacity-s.reserved(capacity)-s.usedBytes() < 2*n {
		return 0
	}
	return n
}

// zeroSpan is how far zeroAhead works.
const zeroSpan = 1 << 20

// zeroAhead fills the file with zeros where small synced blocks will come. A
// sync then finds the file long enough and its blocks written before, and the
// file system's journal has nothing to do: that is half the time of a sync.
func (s *Store) zeroAhead(seg *segment, upTo int64) {
	if !seg.zeroing.Load() || upTo <= seg.zeroed || seg.w.w.Fd() == vfs.InvalidFd {
		return
	}
	from := max(seg.zeroed, upTo)
	seg.zeroing.Store(false) // until the next small synced block
	if _, err := seg.w.w.WriteAt(make([]byte, zeroSpan), from); err == nil {
		seg.zeroed = from + zeroSpan
	}
}

// drainLocked lets a segment take no more records. It is sealed when its
// writers are done.
func (s *Store) drainLocked(seg *segment) {
	if seg.state != segActive {
		return
	}
	seg.state = segDraining
	if s.active == seg {
		s.active = nil
	}
	if seg.writers == 0 {
		s.wakeLocked(&s.sealing, seg)
	}
}

// doneWritingLocked takes a writer off its segment.
func (s *Store) doneWritingLocked(seg *segment) {
	seg.writers--
	if seg.writers == 0 && seg.state == segDraining {
		s.wakeLocked(&s.sealing, seg)
	}
}

func (s *Store) wakeLocked(queue *[]*segment, seg *segment) {
	*queue = append(*queue, seg)
	select {
	case s.sealWake <- struct{}{}:
	default:
	}
}

// sealer seals what has drained.
func (s *Store) sealer() {
	for {
		select {
		case <-s.stop:
			return
		case <-s.sealWake:
		}
		s.sealDrained()
	}
}

// sealDrained seals all segments in the queue. What fails is tried again by
// the housekeeper.
func (s *Store) sealDrained() error {
	s.sealMu.Lock()
	defer s.sealMu.Unlock()
	var first error
	s.mu.Lock()
	queue := s.sealing
	s.sealing = nil
	s.mu.Unlock()
	for _, seg := range queue {
		if err := s.seal(seg); err != nil {
			s.opt.Log.WithError(err).WithField("segment", seg.name()).Error("cannot write a segment's index")
			s.mu.Lock()
			s.sealing = append(s.sealing, seg)
			s.mu.Unlock()
			if first == nil {
				first = err
			}
		}
	}
	return first
}

// seal writes the index of a segment that has no writers any more. A segment
// whose sync failed keeps what was on disk before.
func (s *Store) seal(seg *segment) error {
	s.mu.RLock()
	want, failed := seg.commits, seg.failed
	s.mu.RUnlock()
	if failed == nil {
		s.syncSegment(seg, want) // a failure is dealt with: the records are void
	}
	s.mu.RLock()
	entries, sums, end := slices.Clone(seg.records), seg.sums, seg.end
	s.mu.RUnlock()
	for i := range entries {
		if entries[i].state != recLive {
			entries[i].state = recVoid
		}
	}
	info, err := s.writeIndexFile(seg, end, entries, sums)
	if err != nil {
		return err
	}
	releaseTail(seg.w.w, end)
	s.mu.Lock()
	defer s.mu.Unlock()
	seg.state, seg.info = segSealed, info
	seg.records, seg.sums = nil, nil
	delete(s.unsealed, seg.ref)
	seg.w.release()
	return nil
}
