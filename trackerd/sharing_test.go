package trackerd

import (
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

func vols(n int) (out []tnv.VolumeID) {
	for i := range n {
		out = append(out, tnv.VolumeID(i))
	}
	return out
}

func trackersOf(ids ...uint64) (out []kv.Tracker) {
	for _, id := range ids {
		out = append(out, kv.Tracker{ID: id})
	}
	return out
}

func TestShares(t *testing.T) {
	const n = 1000
	before := shares(vols(n), trackersOf(1, 2, 3))
	has := map[uint64]int{}
	for _, id := range before {
		has[id]++
	}
	for id, k := range has {
		if k < n/3-3 || k > n/3+1 {
			t.Errorf("tracker %d has %d of %d volumes", id, k, n)
		}
	}
	after := shares(vols(n), trackersOf(1, 3))
	moved := 0
	for v, id := range after {
		if id == 2 {
			t.Fatalf("volume %d stays with a tracker that is gone", v)
		}
		if before[v] != 2 && before[v] != id {
			moved++
		}
	}
	if moved > n/10 {
		t.Errorf("%d volumes of trackers that stay have moved", moved)
	}
	for _, c := range []struct{ n, most int }{{1, 1}, {2, 1}, {3, 1}, {4, 2}, {7, 3}} {
		has := map[uint64]int{}
		for _, id := range shares(vols(c.n), trackersOf(5, 6, 7)) {
			if has[id]++; has[id] > c.most || id == 0 {
				t.Errorf("of %d volumes one tracker of three (%d) has %d", c.n, id, has[id])
			}
		}
	}
	drained := trackersOf(1, 2)
	drained[0].Draining = true
	for v, id := range shares(vols(9), drained) {
		if id != 2 {
			t.Errorf("volume %d is for %d, which drains", v, id)
		}
	}
	drained[1].Draining = true
	if len(shares(vols(9), drained)) != 0 {
		t.Error("volumes are for trackers that drain")
	}
}

// The schedules on which a lease may be taken over, and those on which it may not.
func TestTakeOverSchedules(t *testing.T) {
	const step = 250 * time.Millisecond
	ours := kv.Lease{Vol: 1, Epoch: 4, Renewals: 10, TTL: leaseTTL}
	renewed := ours
	renewed.Renewals++
	released := ours
	released.Released = true
	for _, c := range []struct {
		name string
		see  func(at time.Duration) (kv.Lease, bool) // what is there; false: the engine cannot be read
		free time.Duration                           // when it is free at the earliest; 0: never
	}{
		{"it stands still", func(time.Duration) (kv.Lease, bool) { return ours, true }, leaseTTL + leaseMargin},
		{"it is renewed", func(at time.Duration) (kv.Lease, bool) {
			l := ours
			l.Renewals += uint64(at / time.Second)
			return l, true
		}, 0},
		{"it was given back", func(time.Duration) (kv.Lease, bool) { return released, true }, step},
		{"it is renewed once, late", func(at time.Duration) (kv.Lease, bool) {
			if at < 3*time.Second {
				return ours, true
			}
			return renewed, true
		}, 3*time.Second + leaseTTL + leaseMargin},
		{"nobody could renew for a while", func(at time.Duration) (kv.Lease, bool) {
			return ours, at < time.Second || at >= 3*time.Second
		}, 3*time.Second + leaseTTL + leaseMargin},
		{"one look is missed", func(at time.Duration) (kv.Lease, bool) { return ours, at != time.Second }, leaseTTL + leaseMargin},
		{"another takes it", func(at time.Duration) (kv.Lease, bool) {
			if at < 3*time.Second {
				return ours, true
			}
			return kv.Lease{Vol: 1, Epoch: 5, TTL: leaseTTL}, true
		}, 3*time.Second + leaseTTL + leaseMargin},
	} {
		s := newSharing(1)
		if _, free := s.free(1, step); free {
			t.Errorf("%s: free before anything was seen", c.name)
		}
		var first time.Duration
		start := time.Hour // of a machine that runs for a while
		for at := time.Duration(0); at < 15*time.Second && first == 0; at += step {
			if l, ok := c.see(at); ok {
				s.observe(start+at, nil, []kv.Lease{l})
				if _, free := s.free(1, start+at); free {
					first = max(at, step)
				}
			}
		}
		if first != c.free {
			t.Errorf("%s: free at %v, want %v", c.name, first, c.free)
		}
	}
}

func TestLiving(t *testing.T) {
	s := newSharing(1)
	for at := time.Duration(0); at < 10*time.Second; at += 500 * time.Millisecond {
		beats := uint64(at / time.Second)
		s.observe(at+1, []kv.Tracker{{ID: 1, Addr: "a"}, {ID: 2, Addr: "b", Beats: beats}, {ID: 3, Addr: "c"}}, nil)
		want := 3
		if at >= leaseTTL+leaseMargin {
			want = 2
		}
		if got := s.living(at + 1); len(got) != want || got[1].ID != 2 {
			t.Fatalf("at %v: %+v", at, got)
		}
	}
}

// A tracker that was started again at its address is not taken for two, and a volume
// that was given back to one that does not come is not left alone for long.
func TestDeadHeirs(t *testing.T) {
	s := newSharing(1)
	given := kv.Lease{Vol: 1, Epoch: 3, TTL: leaseTTL, Released: true}
	for at := time.Duration(1); at < 3*time.Second; at += 100 * time.Millisecond {
		s.observe(at, []kv.Tracker{{ID: 1, Addr: "a"}, {ID: 2, Addr: "b"}, {ID: 7, Addr: "b", Beats: uint64(at)}}, []kv.Lease{given})
		if got := s.living(at); len(got) != 2 || got[1].ID != 7 {
			t.Fatalf("living: %+v", got)
		}
		if _, free := s.free(1, at); !free {
			t.Error("a volume that was given back is not free")
		}
		if got := s.abandoned(1, at); got != (at-1 > patienceWithHeir) {
			t.Errorf("after %v: abandoned %v", at, got)
		}
	}
	s.observe(time.Hour, nil, []kv.Lease{{Vol: 1, Epoch: 4, TTL: leaseTTL}})
	if s.abandoned(1, 2*time.Hour) {
		t.Error("a volume that is owned is abandoned")
	}
}
