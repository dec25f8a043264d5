package kvtest

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

func testFence(t *testing.T, s *Store) {
	e := s.Engine
	wantIs(t, e.Apply(ctx, kv.Fence{Vol: 1}, []kv.Batch{batch(1, set("a", "nobody"))}), kv.ErrFenced)
	first := own(t, e, 1)
	put(t, e, first, set("a", "first"))
	second := own(t, e, 1)
	if second.Epoch <= first.Epoch {
		t.Fatalf("epoch %d follows %d", second.Epoch, first.Epoch)
	}
	for _, epoch := range []tnv.Epoch{0, first.Epoch, second.Epoch + 1} {
		wantIs(t, e.Apply(ctx, kv.Fence{Vol: 1, Epoch: epoch}, []kv.Batch{batch(2, set("a", "late"), set("b", "late"))}), kv.ErrFenced)
		wantIs(t, e.Apply(ctx, kv.Fence{Vol: 1, Epoch: epoch}, nil), kv.ErrFenced)
	}
	wantIs(t, e.Apply(ctx, kv.Fence{Vol: 2, Epoch: second.Epoch}, []kv.Batch{batch(1)}), kv.ErrFenced)
	wantSeq(t, e, 1, 1)
	wantSame(t, "volume", dump(t, e, 1), map[string]string{"a": "first"})
	put(t, e, second, set("a", "second"))
	wantSame(t, "volume", dump(t, e, 1), map[string]string{"a": "second"})
}

// testFenceRace takes the volume from an owner that never stops writing: once
// Acquire has returned nothing of the old epoch may be added.
func testFenceRace(t *testing.T, s *Store) {
	for round := range 5 {
		f := own(t, s.Engine, 1)
		seq, err := s.Engine.Seq(ctx, 1)
		must(t, err)
		var applied atomic.Uint64
		applied.Store(uint64(seq))
		ended := make(chan error)
		go func() {
			for next := seq + 1; next < seq+20000; next++ {
				if err := s.Engine.Apply(ctx, f, []kv.Batch{batch(next, set("k", fmt.Sprint(next)))}); err != nil {
					ended <- err
					return
				}
				applied.Store(uint64(next))
			}
			ended <- nil // it was never refused
		}()
		for applied.Load() < uint64(seq)+5 {
			time.Sleep(100 * time.Microsecond)
		}
		own(t, s.Engine, 1)
		at, err := s.Engine.Seq(ctx, 1)
		must(t, err)
		wantIs(t, <-ended, kv.ErrFenced)
		wantSeq(t, s.Engine, 1, at)
		if got := tnv.BatchSeq(applied.Load()); got != at {
			t.Fatalf("round %d: %d batches were acknowledged, %d are stored", round, got, at)
		}
		if got := get(t, s.Engine, 1, "k"); string(got) != fmt.Sprint(at) {
			t.Fatalf("round %d: %q is stored at batch %d", round, got, at)
		}
	}
}

func testSequence(t *testing.T, s *Store) {
	f := own(t, s.Engine, 1)
	must(t, s.Engine.Apply(ctx, f, nil))
	must(t, s.Engine.Apply(ctx, f, []kv.Batch{batch(1, set("a", "1")), batch(2), batch(3, set("a", "3"))}))
	for _, c := range []struct {
		seqs        []tnv.BatchSeq
		stored, got tnv.BatchSeq
	}{
		{[]tnv.BatchSeq{0}, 3, 0}, {[]tnv.BatchSeq{1}, 3, 1}, {[]tnv.BatchSeq{3}, 3, 3}, {[]tnv.BatchSeq{5}, 3, 5},
		{[]tnv.BatchSeq{4, 4}, 4, 4}, {[]tnv.BatchSeq{4, 6}, 4, 6}, {[]tnv.BatchSeq{4, 5, 3}, 5, 3},
	} {
		var bs []kv.Batch
		for _, q := range c.seqs {
			bs = append(bs, batch(q, set("a", "wrong"), set("b", "wrong")))
		}
		err := s.Engine.Apply(ctx, f, bs)
		var se *kv.SeqError
		if !errors.As(err, &se) || *se != (kv.SeqError{Stored: c.stored, Got: c.got}) {
			t.Errorf("batches %v after 3: error is %v", c.seqs, err)
		}
	}
	wantSeq(t, s.Engine, 1, 3)
	wantSame(t, "volume", dump(t, s.Engine, 1), map[string]string{"a": "3"})
	must(t, s.Engine.Apply(ctx, f, []kv.Batch{batch(4), batch(5, set("b", "5"))}))
	wantSeq(t, s.Engine, 1, 5)
	own(t, s.Engine, 1)
	wantSeq(t, s.Engine, 1, 5) // a new owner goes on where the old one stopped
}

func testLease(t *testing.T, s *Store) {
	e := s.Engine
	a, err := e.Acquire(ctx, kv.Lease{Vol: 3}, "host:1", 3*time.Second)
	must(t, err)
	if a.Vol != 3 || a.Epoch != 1 || a.Holder != "host:1" || a.TTL != 3*time.Second || a.Released {
		t.Fatalf("first lease: %+v", a)
	}
	b, err := e.Renew(ctx, a)
	must(t, err)
	if b.Renewals <= a.Renewals || b.Epoch != a.Epoch || b.Holder != a.Holder || b.TTL != a.TTL {
		t.Fatalf("renewed: %+v after %+v", b, a)
	}
	c, err := e.Renew(ctx, a) // what is renewed is ours by its epoch
	must(t, err)
	if c.Renewals <= b.Renewals {
		t.Fatalf("renewed: %+v after %+v", c, b)
	}
	if l, err := e.Lease(ctx, 3); err != nil || l != c {
		t.Fatalf("stored: %+v, %v, want %+v", l, err, c)
	}
	d, err := e.Acquire(ctx, c, "host:2", time.Second)
	must(t, err)
	if d.Epoch != 2 || d.Holder != "host:2" || d.TTL != time.Second {
		t.Fatalf("taken over: %+v", d)
	}
	_, err = e.Renew(ctx, c)
	wantIs(t, err, kv.ErrFenced)
	wantIs(t, e.Release(ctx, c), kv.ErrFenced)
	_, err = e.Renew(ctx, kv.Lease{Vol: 4})
	wantIs(t, err, kv.ErrFenced)
	if l, err := e.Lease(ctx, 3); err != nil || l != d {
		t.Fatalf("stored: %+v, %v, want %+v", l, err, d)
	}
}

func testLeaseCAS(t *testing.T, s *Store) {
	const contenders = 8
	type result struct {
		lease kv.Lease
		err   error
	}
	seen := kv.Lease{Vol: 1}
	for round := range 4 {
		last := seen
		results := make(chan result)
		for i := range contenders {
			go func() {
				l, err := s.Engine.Acquire(ctx, last, fmt.Sprint(i), time.Second)
				results <- result{l, err}
			}()
		}
		won := 0
		for range contenders {
			r := <-results
			if r.err == nil {
				won++
				seen = r.lease
			} else {
				wantIs(t, r.err, kv.ErrLeaseMoved)
			}
		}
		if won != 1 || seen.Epoch != tnv.Epoch(round+1) {
			t.Fatalf("round %d: %d contenders won, epoch %d", round, won, seen.Epoch)
		}
	}
	renewed, err := s.Engine.Renew(ctx, seen)
	must(t, err)
	_, err = s.Engine.Acquire(ctx, seen, "slow", time.Second) // the holder is alive
	wantIs(t, err, kv.ErrLeaseMoved)
	_, err = s.Engine.Acquire(ctx, renewed, "patient", time.Second)
	must(t, err)
}

func testRelease(t *testing.T, s *Store) {
	e := s.Engine
	f := own(t, e, 1)
	put(t, e, f, set("a", "1"))
	l, err := e.Lease(ctx, 1)
	must(t, err)
	must(t, e.Release(ctx, l))
	got, err := e.Lease(ctx, 1)
	must(t, err)
	if !got.Released || got.Epoch != l.Epoch {
		t.Fatalf("released: %+v", got)
	}
	wantIs(t, e.Release(ctx, l), kv.ErrFenced)
	_, err = e.Renew(ctx, l)
	wantIs(t, err, kv.ErrFenced)
	wantIs(t, e.Apply(ctx, f, []kv.Batch{batch(2, set("a", "2"))}), kv.ErrFenced)
	wantSame(t, "volume", dump(t, e, 1), map[string]string{"a": "1"})
	next, err := e.Acquire(ctx, got, "next", time.Second)
	must(t, err)
	if next.Epoch != l.Epoch+1 || next.Released {
		t.Fatalf("taken after release: %+v", next)
	}
	put(t, e, kv.Fence{Vol: 1, Epoch: next.Epoch}, set("a", "2"))
}

// testRaise takes a volume over at a higher epoch, as one that comes from elsewhere.
func testRaise(t *testing.T, s *Store) {
	e := s.Engine
	r, can := e.(kv.Raiser)
	if !can {
		t.Fatalf("engine %s cannot", e.Name())
	}
	old := own(t, e, 1)
	f := own(t, e, 1)
	l, err := e.Lease(ctx, 1)
	must(t, err)
	_, err = r.Raise(ctx, kv.Lease{Vol: 1, Epoch: old.Epoch}, 50)
	wantIs(t, err, kv.ErrFenced)
	for _, to := range []tnv.Epoch{100, 7} {
		l, err = r.Raise(ctx, l, to)
		must(t, err)
		if l.Epoch != 100 {
			t.Fatalf("raised to %d the epoch is %d", to, l.Epoch)
		}
	}
	wantIs(t, e.Apply(ctx, f, []kv.Batch{batch(1, set("a", "1"))}), kv.ErrFenced)
	put(t, e, kv.Fence{Vol: 1, Epoch: 100}, set("a", "2"))
	if next := own(t, e, 1); next.Epoch != 101 {
		t.Fatalf("the next epoch is %d", next.Epoch)
	}
}
