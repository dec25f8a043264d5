package kvtest

import (
	"testing"
	"time"

	"github.com/tnvfs/tnv/kv"
)

// testShared is for engines that several trackers share; others have no such records.
func testShared(t *testing.T, s *Store) {
	e, ok := s.Engine.(kv.Shared)
	if !ok {
		absent(t, "kv.Shared")
		return
	}
	a, err := e.Join(ctx, "host:1")
	must(t, err)
	b, err := e.Join(ctx, "host:2")
	must(t, err)
	if a.ID == 0 || b.ID <= a.ID || a.Addr != "host:1" {
		t.Fatalf("joined as %+v, then %+v", a, b)
	}
	mine, err := e.Acquire(ctx, kv.Lease{Vol: 1}, "host:1", 3*time.Second)
	must(t, err)
	theirs, err := e.Acquire(ctx, kv.Lease{Vol: 2}, "host:2", 3*time.Second)
	must(t, err)
	lost, err := e.Acquire(ctx, kv.Lease{Vol: 3}, "host:1", 3*time.Second)
	must(t, err)
	must(t, e.Release(ctx, lost))
	old := theirs
	old.Epoch = 0

	a.Draining = true
	got, err := e.Beat(ctx, a, []kv.Lease{mine, old, lost, {Vol: 9, Epoch: 1}})
	must(t, err)
	if len(got) != 1 || got[0].Vol != 1 || got[0].Epoch != mine.Epoch || got[0].Renewals != mine.Renewals+1 || got[0].TTL != mine.TTL {
		t.Errorf("renewed: %+v", got)
	}
	trackers, err := e.Trackers(ctx)
	must(t, err)
	if len(trackers) != 2 || trackers[0].Beats <= a.Beats || !trackers[0].Draining || trackers[1] != b {
		t.Errorf("trackers: %+v", trackers)
	}
	leases, err := e.Leases(ctx)
	must(t, err)
	found := map[kv.Lease]bool{}
	for _, l := range leases {
		found[l] = true
	}
	lost.Released = true
	if len(leases) != 3 || !found[got[0]] || !found[theirs] || !found[lost] {
		t.Errorf("leases: %+v", leases)
	}
	must(t, e.Leave(ctx, a.ID))
	must(t, e.Leave(ctx, a.ID))
	if trackers, err = e.Trackers(ctx); err != nil || len(trackers) != 1 || trackers[0].ID != b.ID {
		t.Errorf("after leaving: %+v, %v", trackers, err)
	}
	if _, err := e.Beat(ctx, a, nil); err != nil { // its row was removed while it was away
		t.Error(err)
	}
	c, err := e.Join(ctx, "host:3")
	must(t, err)
	if c.ID <= b.ID {
		t.Errorf("id %d was given after %d", c.ID, b.ID)
	}
}
