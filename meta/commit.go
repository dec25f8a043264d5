package meta

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// publishLocked makes what tx wrote the newest state and queues it to be applied.
func (s *store) publishLocked(tx *Tx) {
	b := kv.Batch{Seq: tx.seq, Writes: tx.encode()}
	s.seq = tx.seq
	s.lastNow = tx.now
	for _, key := range tx.order {
		s.putLocked(key, tx.local[key], tx.seq)
	}
	for name, next := range tx.ids {
		s.ids[name].next = next
	}
	for _, w := range b.Writes {
		s.pending.Set(string(w.Key), pendingWrite{tx.seq, w.Value})
	}
	tx.runAfter()
	s.open.batches = append(s.open.batches, b)
	s.open.last = b.Seq
	s.evictLocked(len(tx.order))
}

// lead applies what is queued, up to batch seq at least, unless somebody is at it
// already. So a lone mutation is applied on its own goroutine, and many at once
// are applied together by the one that came first; what is queued behind its own
// batch it leaves to the commit loop.
func (s *store) lead(seq tnv.BatchSeq) {
	s.mu.Lock()
	if s.leading || len(s.open.batches) == 0 {
		s.mu.Unlock()
		return
	}
	s.leading = true
	s.mu.Unlock()
	if s.commitAll(seq) {
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
}

// commitLoop applies what leaders have left, until the store is closed.
func (s *store) commitLoop() {
	defer close(s.done)
	for {
		select {
		case <-s.kick:
			s.lead(maxSeq)
			continue
		case <-s.stop:
		}
		for !s.idle() { // nothing new comes: the store is closed
			s.lead(maxSeq)
			time.Sleep(time.Millisecond) // a leader may be at the last group
		}
		return
	}
}

// idle tells that nothing is being applied or queued.
func (s *store) idle() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return !s.leading && len(s.open.batches) == 0
}

const maxSeq = ^tnv.BatchSeq(0)

// commitAll applies groups of batches in order until batch seq is applied or
// none is left. It tells whether some are left. The caller leads.
func (s *store) commitAll(seq tnv.BatchSeq) (left bool) {
	for {
		s.mu.Lock()
		g := s.open
		if left = len(g.batches) > 0; !left || g.batches[0].Seq > seq {
			s.leading = false
			s.mu.Unlock()
			return left
		}
		s.busy, s.open = g, newGroup()
		fence := kv.Fence{Vol: s.vol, Epoch: s.lease.Epoch}
		s.mu.Unlock()
		// A commit is never cancelled: its outcome would be open.
		err := s.engine.Apply(context.Background(), fence, s.numbered(g.batches))
		s.mu.Lock()
		if err != nil {
			g.err = s.failLocked(err)
		} else {
			s.settleLocked(g)
		}
		s.busy = nil
		s.mu.Unlock()
		close(g.done)
		if err != nil {
			s.drain(g.err)
			return false
		}
	}
}

// numbered gives batches the numbers that the engine counts by.
func (s *store) numbered(batches []kv.Batch) []kv.Batch {
	if s.base == 0 {
		return batches
	}
	out := slices.Clone(batches)
	for i := range out {
		out[i].Seq -= s.base
	}
	return out
}

// settleLocked forgets that g's writes were pending.
func (s *store) settleLocked(g *commitGroup) {
	records := 0
	for _, b := range g.batches {
		records += len(b.Writes)
		for _, w := range b.Writes {
			if p, ok := s.pending.Get(string(w.Key)); ok && p.seq <= g.last {
				s.pending.Delete(string(w.Key))
			}
		}
	}
	s.busy = nil // applied: what it wrote may be evicted
	s.evictLocked(records)
}

// failLocked gives the volume up: memory holds what may never be applied.
func (s *store) failLocked(err error) error {
	e := &tnv.Error{Op: "commit", Kind: tnv.KindUnavailable, Err: err}
	var behind *kv.SeqError
	switch {
	case errors.Is(err, kv.ErrFenced), tnv.KindOf(err) == tnv.KindFenced:
		e.Kind = tnv.KindFenced
	case errors.As(err, &behind) && behind.Stored+1 < behind.Got:
		e.Kind, e.Msg = tnv.KindCorrupt, "the engine has lost batches that were acknowledged"
	}
	err = e
	if s.failed == nil {
		s.failed = err
		close(s.dead)
		s.log.WithError(err).Error("giving up the volume: a batch could not be applied")
	} else if tnv.KindOf(s.failed) == tnv.KindNotOwner { // it was being closed
		s.failed = err
	}
	return err
}

// Failure is why the volume was given up; nil while it was not.
func (s *store) Failure() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.failed
}

// drain fails the batches behind a failed one.
func (s *store) drain(err error) {
	s.mu.Lock()
	g := s.open
	s.open = newGroup()
	s.leading = false
	s.mu.Unlock()
	g.err = err
	close(g.done)
}

// appliedLocked is the newest batch that was applied.
func (s *store) appliedLocked() tnv.BatchSeq {
	switch {
	case s.busy != nil:
		return s.busy.batches[0].Seq - 1
	case len(s.open.batches) > 0:
		return s.open.batches[0].Seq - 1
	}
	return s.seq
}

// wait returns when batch seq is applied.
func (s *store) wait(ctx context.Context, seq tnv.BatchSeq) error {
	s.mu.RLock()
	var g *commitGroup
	switch {
	case seq <= s.appliedLocked():
		err := s.failed
		s.mu.RUnlock()
		if err != nil && tnv.KindOf(err) != tnv.KindNotOwner {
			return err
		}
		return nil
	case s.busy != nil && seq <= s.busy.last:
		g = s.busy
	case seq <= s.open.last:
		g = s.open
	default: // its group failed and is forgotten
		err := s.failed
		s.mu.RUnlock()
		return err
	}
	s.mu.RUnlock()
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return tnv.Wrap("commit", ctx.Err())
	}
}

// sync returns when everything published before the call is on disk.
func (s *store) sync(ctx context.Context) error {
	s.mu.RLock()
	seq := s.seq
	s.mu.RUnlock()
	if err := s.wait(ctx, seq); err != nil {
		return err
	}
	return s.engine.Sync(ctx)
}
