package blockstore

import (
	"sync"
	"time"

	"github.com/tnvfs/tnv"
)

// space remembers what the file system said about its room: asking for every
// block would cost too much.
type space struct {
	mu    sync.Mutex
	asked time.Time
	known bool
	avail int64
	used  int64 // Store.used when it was asked
}

const (
	// A figure of the file system's counts so long, and for so many bytes, or
	// for an eighth of what is left: other stores may live on the same disk.
	spaceAge   = time.Second
	spaceBytes = 64 << 20
	maxReserve = 2 << 30
	minReserve = 4 * tnv.MaxBlockSize // or an eighth of a very small disk
)

// available tells how many bytes the file system has left; false: it does not say.
func (s *Store) available(used int64) (int64, bool) {
	sp := &s.space
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if time.Since(sp.asked) > spaceAge || used-sp.used > min(spaceBytes, sp.avail/8) || used < sp.used {
		u, err := s.opt.FS.GetDiskUsage(s.dir)
		sp.known = err == nil
		sp.avail, sp.used, sp.asked = int64(u.AvailBytes), used, time.Now()
	}
	return sp.avail - (used - sp.used), sp.known
}

func (s *Store) usedBytes() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.used
}

// capacity is how many bytes the store may use in all; 0: nobody knows.
func (s *Store) capacity() int64 {
	used := s.usedBytes()
	avail, known := s.available(used)
	switch {
	case s.opt.Capacity > 0 && known:
		return min(s.opt.Capacity, used+max(avail, 0))
	case s.opt.Capacity > 0:
		return s.opt.Capacity
	case known:
		return used + max(avail, 0)
	}
	return 0
}

// reserved is what is kept back of a capacity.
func (s *Store) reserved(capacity int64) int64 {
	switch {
	case s.opt.Reserve < 0:
		return 0
	case s.opt.Reserve > 0:
		return s.opt.Reserve
	}
	return min(max(capacity/50, min(minReserve, capacity/8)), maxReserve)
}

// room tells whether a record of n bytes may be taken: KindNoSpace if not.
// Deletions, index files and compaction do not ask. The copy of the metadata may take
// half of what is kept back: deletions wait for it.
func (s *Store) room(vol tnv.VolumeID, n int64) error {
	capacity := s.capacity()
	kept := s.reserved(capacity)
	if vol == tnv.CopyVolume {
		kept /= 2
	}
	if capacity > 0 && s.usedBytes()+n > capacity-kept {
		return tnv.E("", tnv.KindNoSpace, "%d bytes, of which %d are kept back", capacity, kept)
	}
	return nil
}

// Stats are the store's figures.
type Stats struct {
	Used           int64 // bytes of the segments, without holes
	Capacity       int64 // bytes that may be used, Reserve included; 0: not known
	Reserve        int64 // of which so many are kept back
	Blocks         int   // held
	LiveBytes      int64 // of their data
	DeadBytes      int64 // of records that mean nothing any more, not punched yet; headers of all
	Tombstones     int   // remembered
	Segments       int
	PendingPunches int
	Receiving      int // blocks with a Writer
	LogBytes       int64
	// Since the start.
	Syncs         uint64 // of segments
	SyncFailures  uint64 // segments closed by a failed sync: what they lost is missing
	Damaged       uint64 // index entries, index files and log slots found bad
	CompactedData uint64 // bytes
}

// Full tells whether the store takes no more blocks of the largest size.
func (st *Stats) Full() bool {
	return st.Capacity > 0 && st.Used+tnv.MaxBlockSize+maxHeader > st.Capacity-st.Reserve
}

// Stats tells how the store is.
func (s *Store) Stats() Stats {
	capacity := s.capacity()
	s.log.mu.Lock()
	size := s.log.size
	s.log.mu.Unlock()
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := Stats{
		Used: s.used, Capacity: capacity, Reserve: s.reserved(capacity), Segments: len(s.segments),
		PendingPunches: len(s.punches), LogBytes: size,
		Syncs: s.stat.syncs.Load(), SyncFailures: s.stat.syncFailures.Load(),
		Damaged: s.stat.damaged.Load(), CompactedData: s.stat.compacted.Load(),
	}
	st.Blocks, st.Tombstones = s.index.totals()
	for _, ws := range s.receiving {
		st.Receiving += len(ws)
	}
	for _, seg := range s.segments {
		st.LiveBytes += seg.live
		st.DeadBytes += seg.end - seg.live - seg.punched
	}
	return st
}
