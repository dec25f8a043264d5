package trackerd

import (
	"hash/fnv"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

const (
	// leaseTTL is how long a volume is owned behind the sending of the last renewal.
	leaseTTL = 3 * time.Second
	// leaseMargin is how much longer a contender waits: clocks of machines that are
	// in order differ by far less in so short a time.
	leaseMargin = 500 * time.Millisecond
	// blindAfter is how long a contender may not have looked before what it has
	// watched so far does not count: while the database is away nobody can renew.
	blindAfter = time.Second
)

// sharing decides which volumes this tracker is to own. It does no I/O and reads
// no clock: it is told what stands in the engine, and when that was read.
//
// Safety: a lease is taken over only if it was given back, never was, or its
// (epoch, renewals) have been seen to stand still for its length and a margin, by
// this machine's clock, without a gap in the watching. The owner counts from before
// it sent the renewal, the contender from after it has seen it: so the owner has
// stopped. The engine refuses the takeover if the lease moved after all.
//
// Who is to own what follows from the list of volumes and of living trackers
// alone, so all trackers come to the same result without talking: see shares. Where
// they differ for a moment, a volume may move once too often; no promise rests on it.
type sharing struct {
	me       uint64
	looked   time.Duration // when something was observed last; 0: never
	trackers map[uint64]watchedTracker
	leases   map[tnv.VolumeID]watchedLease
}

type watchedTracker struct {
	kv.Tracker
	since time.Duration // its Beats have not changed since
}

type watchedLease struct {
	kv.Lease
	since time.Duration // it has not changed since
}

func newSharing(me uint64) *sharing {
	return &sharing{me: me, trackers: map[uint64]watchedTracker{}, leases: map[tnv.VolumeID]watchedLease{}}
}

// observe takes in what was read from the engine; now is a time after the reading.
func (s *sharing) observe(now time.Duration, trackers []kv.Tracker, leases []kv.Lease) {
	blind := now-s.looked > blindAfter
	s.looked = now
	seen := make(map[uint64]watchedTracker, len(trackers))
	for _, t := range trackers {
		w := watchedTracker{t, now}
		if old, ok := s.trackers[t.ID]; ok && !blind && old.Beats == t.Beats {
			w.since = old.since
		}
		seen[t.ID] = w
	}
	s.trackers = seen
	held := make(map[tnv.VolumeID]watchedLease, len(leases))
	for _, l := range leases {
		w := watchedLease{l, now}
		if old, ok := s.leases[l.Vol]; ok && !blind && old.Epoch == l.Epoch && old.Renewals == l.Renewals && old.Released == l.Released {
			w.since = old.since
		}
		held[l.Vol] = w
	}
	s.leases = held
}

// patienceWithHeir is how long a volume that was given back is left to the tracker
// that is to own it: it may have died just now.
const patienceWithHeir = 3 * lookEvery

// abandoned tells whether a volume was given back, and its heir does not come.
func (s *sharing) abandoned(vol tnv.VolumeID, now time.Duration) bool {
	l, ok := s.leases[vol]
	return ok && l.Released && now-l.since > patienceWithHeir
}

// living are the trackers whose records grow, by id. Of two at one address the
// elder is dead, whatever its record says.
func (s *sharing) living(now time.Duration) (all []kv.Tracker) {
	newest := make(map[string]uint64, len(s.trackers))
	for _, t := range s.trackers {
		newest[t.Addr] = max(newest[t.Addr], t.ID)
	}
	for _, t := range s.trackers {
		if (now-t.since < leaseTTL+leaseMargin || t.ID == s.me) && newest[t.Addr] == t.ID {
			all = append(all, t.Tracker)
		}
	}
	slices.SortFunc(all, func(a, b kv.Tracker) int { return compare(a.ID, b.ID) })
	return all
}

// free tells whether a volume may be acquired, and the lease that must still be
// current then.
func (s *sharing) free(vol tnv.VolumeID, now time.Duration) (kv.Lease, bool) {
	l, ok := s.leases[vol]
	if !ok {
		return kv.Lease{Vol: vol}, s.looked != 0 // nobody ever had it
	}
	return l.Lease, l.Released || now-l.since >= l.TTL+leaseMargin
}

// shares says which tracker is to own each volume: each the one that a hash ranks
// first for it, among those that do not have their share yet. So shares differ by
// one at the most, and when a tracker comes or goes most volumes stay. Trackers
// that are draining get nothing, if there are others.
func shares(vols []tnv.VolumeID, trackers []kv.Tracker) map[tnv.VolumeID]uint64 {
	var takers []uint64
	for _, t := range trackers {
		if !t.Draining {
			takers = append(takers, t.ID)
		}
	}
	out := make(map[tnv.VolumeID]uint64, len(vols))
	if len(takers) == 0 {
		return out
	}
	share := (len(vols) + len(takers) - 1) / len(takers)
	has := make(map[uint64]int, len(takers))
	for _, vol := range slices.Sorted(slices.Values(vols)) {
		best, rank := uint64(0), uint64(0)
		for _, id := range takers {
			if r := rankOf(vol, id); has[id] < share && (best == 0 || r > rank) {
				best, rank = id, r
			}
		}
		out[vol] = best
		has[best]++
	}
	return out
}

func rankOf(vol tnv.VolumeID, tracker uint64) uint64 {
	h := fnv.New64a()
	h.Write([]byte{byte(vol >> 24), byte(vol >> 16), byte(vol >> 8), byte(vol)})
	for i := range 8 {
		h.Write([]byte{byte(tracker >> (8 * i))})
	}
	r := h.Sum64()
	r ^= r >> 32
	r *= 0xd6e8feb86659fd93
	return r ^ r>>32
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
