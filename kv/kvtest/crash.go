package kvtest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// history is what was applied to a volume: the content after each batch.
type history struct {
	vol    tnv.VolumeID
	fence  kv.Fence
	states []map[string]string // states[n]: after batch n
	synced tnv.BatchSeq        // so many survive a power loss at least
	acked  tnv.BatchSeq        // so many survive a kill at least
}

func newHistory(vol tnv.VolumeID) *history {
	return &history{vol: vol, states: []map[string]string{{}}}
}

// apply applies one or a few random batches.
func (h *history) apply(t testing.TB, e kv.Engine, r *rand.Rand) {
	t.Helper()
	var bs []kv.Batch
	for range 1 + r.IntN(3) {
		state := maps.Clone(h.states[len(h.states)-1])
		b := kv.Batch{Seq: tnv.BatchSeq(len(h.states))}
		for range 1 + r.IntN(4) {
			key := fmt.Sprintf("key%d", r.IntN(30))
			if r.IntN(5) == 0 {
				delete(state, key)
				b.Writes = append(b.Writes, del(key))
				continue
			}
			state[key] = fmt.Sprintf("%d.%d:", h.vol, b.Seq) + strings.Repeat("x", size(r))
			b.Writes = append(b.Writes, set(key, state[key]))
		}
		h.states = append(h.states, state)
		bs = append(bs, b)
	}
	must(t, e.Apply(ctx, h.fence, bs))
	h.acked = tnv.BatchSeq(len(h.states) - 1)
}

// size is mostly small, sometimes longer than a log's block, seldom than a memtable.
func size(r *rand.Rand) int {
	switch n := r.IntN(100); {
	case n < 80:
		return r.IntN(100)
	case n < 99:
		return r.IntN(20 << 10)
	default:
		return 200<<10 + r.IntN(200<<10)
	}
}

// check compares what a crash has left with the history: it must be the state
// after some batch, and that no earlier than atLeast. The rest is forgotten.
func (h *history) check(t testing.TB, e kv.Engine, what string, atLeast tnv.BatchSeq) {
	t.Helper()
	seq, err := e.Seq(ctx, h.vol)
	must(t, err)
	if seq < atLeast || int(seq) >= len(h.states) {
		t.Fatalf("%s, volume %d: batch %d is the last one, must be %d to %d", what, h.vol, seq, atLeast, len(h.states)-1)
	}
	wantSame(t, fmt.Sprintf("%s, volume %d at batch %d of %d", what, h.vol, seq, len(h.states)-1), dump(t, e, h.vol), h.states[seq])
	h.states = h.states[:seq+1]
	h.acked, h.synced = min(h.acked, seq), seq
}

// rng prints its seed when the test fails.
func rng(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

func absent(t *testing.T, hook string) { t.Logf("the engine's test has no %s: nothing to check", hook) }

func testReopen(t *testing.T, s *Store) {
	if s.Reopen == nil {
		absent(t, "Reopen")
		return
	}
	r := rng(t)
	h := newHistory(1)
	for range 4 {
		h.fence = own(t, s.Engine, h.vol)
		before, err := s.Engine.Lease(ctx, h.vol)
		must(t, err)
		for range 10 {
			h.apply(t, s.Engine, r)
		}
		must(t, s.Engine.Close())
		s.Engine = s.Reopen(t)
		h.check(t, s.Engine, "reopened", h.acked)
		after, err := s.Engine.Lease(ctx, h.vol)
		must(t, err)
		if after != before {
			t.Fatalf("lease is %+v, was %+v", after, before)
		}
	}
}

func testKill(t *testing.T, s *Store) {
	if s.Kill == nil {
		absent(t, "Kill")
		return
	}
	r := rng(t)
	h := newHistory(1)
	for range 4 {
		h.fence = own(t, s.Engine, h.vol)
		for range 1 + r.IntN(10) {
			h.apply(t, s.Engine, r)
		}
		old := s.Engine
		s.Engine = s.Kill(t)
		h.check(t, s.Engine, "killed", h.acked)
		_ = old.Apply(ctx, h.fence, []kv.Batch{batch(h.acked+1, set("late", ""))}) // a dead process writes nothing
		h.check(t, s.Engine, "killed", h.acked)
	}
}

func testPowerLoss(t *testing.T, s *Store) {
	if s.PowerLoss == nil {
		absent(t, "PowerLoss")
		return
	}
	r := rng(t)
	for round := range 3 {
		hs := []*history{newHistory(tnv.VolumeID(10 * round)), newHistory(tnv.VolumeID(10*round + 1))}
		for _, h := range hs {
			h.fence = own(t, s.Engine, h.vol)
		}
		for range 40 {
			h := hs[r.IntN(len(hs))]
			h.apply(t, s.Engine, r)
			if r.IntN(20) == 0 {
				must(t, s.Engine.Sync(ctx))
				for _, h := range hs {
					h.synced = h.acked
				}
			}
		}
		s.Engine = s.PowerLoss(t, r)
		for _, h := range hs {
			h.check(t, s.Engine, "power lost", h.synced)
		}
	}
}

// testSyncedSurvives loses power right after Sync, with concurrent callers of it.
func testSyncedSurvives(t *testing.T, s *Store) {
	if s.PowerLoss == nil {
		absent(t, "PowerLoss")
		return
	}
	r := rng(t)
	h := newHistory(1)
	for range 5 {
		h.fence = own(t, s.Engine, h.vol)
		for range 1 + r.IntN(8) {
			h.apply(t, s.Engine, r)
		}
		errs := make(chan error)
		for range 4 {
			go func() { errs <- s.Engine.Sync(ctx) }()
		}
		for range 4 {
			must(t, <-errs)
		}
		s.Engine = s.PowerLoss(t, r)
		h.check(t, s.Engine, "power lost after sync", h.acked)
	}
}

// testLeaseSurvives loses power right after Acquire and Release.
func testLeaseSurvives(t *testing.T, s *Store) {
	if s.PowerLoss == nil {
		absent(t, "PowerLoss")
		return
	}
	r := rng(t)
	h := newHistory(1)
	for i := range tnv.Epoch(4) {
		h.fence = own(t, s.Engine, h.vol)
		s.Engine = s.PowerLoss(t, r)
		l, err := s.Engine.Lease(ctx, h.vol)
		must(t, err)
		if l.Epoch != 2*i+1 {
			t.Fatalf("epoch is %d after %d was acquired", l.Epoch, 2*i+1)
		}
		h.fence = own(t, s.Engine, h.vol)
		h.apply(t, s.Engine, r)
		if l, err = s.Engine.Lease(ctx, h.vol); err != nil {
			t.Fatal(err)
		}
		must(t, s.Engine.Release(ctx, l))
		s.Engine = s.PowerLoss(t, r)
		if l, err = s.Engine.Lease(ctx, h.vol); err != nil || !l.Released || l.Epoch != 2*i+2 {
			t.Fatalf("lease is %+v, %v after release", l, err)
		}
		h.check(t, s.Engine, "power lost after release", h.acked)
	}
}

// testCrashes mixes all ends in random order: what one leaves half done the next
// must not make worse. Above all: a kill, a few batches of the next process, and
// a power loss that takes what the killed one never synced.
func testCrashes(t *testing.T, s *Store) {
	if s.Kill == nil || s.PowerLoss == nil || s.Reopen == nil {
		absent(t, "full set of crashes")
		return
	}
	r := rng(t)
	h := newHistory(1)
	for range 12 {
		h.fence = own(t, s.Engine, h.vol)
		h.synced = h.acked // acquiring syncs
		for range r.IntN(15) {
			h.apply(t, s.Engine, r)
		}
		switch r.IntN(5) {
		case 0:
			must(t, s.Engine.Close())
			s.Engine = s.Reopen(t)
			h.check(t, s.Engine, "reopened", h.acked)
		case 1, 2:
			synced := h.synced
			s.Engine = s.Kill(t)
			h.check(t, s.Engine, "killed", h.acked)
			h.synced = synced
		default:
			s.Engine = s.PowerLoss(t, r)
			h.check(t, s.Engine, "power lost", h.synced)
		}
	}
}
