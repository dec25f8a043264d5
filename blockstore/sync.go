package blockstore

import (
	"context"
	"sync"

	"github.com/tnvfs/tnv"
)

// groupSync lets many wait for one sync of a file. What is to be synced has
// numbers that grow: whoever waits for a number is served by any sync that
// began after the number was given out. The first error is final (D5).
type groupSync struct {
	mu      sync.Mutex
	done    uint64 // all up to this number is on disk
	err     error
	running chan struct{} // closed when the sync under way ends; nil: there is none
}

// wait returns when number want is on disk, or can no longer get there.
// newest is asked before flush; failed is called before anyone learns of an
// error, with the number up to which all is on disk. first: this call synced.
func (g *groupSync) wait(want uint64, newest func() uint64, flush func() error, failed func(good uint64, err error)) (first bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.done < want {
		if g.err != nil {
			return first, g.err
		}
		if g.running != nil {
			ch := g.running
			g.mu.Unlock()
			<-ch
			g.mu.Lock()
			continue
		}
		ch := make(chan struct{})
		g.running, first = ch, true
		good := g.done
		g.mu.Unlock()
		target := newest()
		err := flush()
		if err != nil {
			failed(good, err)
		}
		g.mu.Lock()
		if err != nil {
			g.err = err
		} else {
			g.done = target
		}
		g.running = nil
		close(ch)
	}
	return first, nil
}

// syncSegment returns when commit number want of the segment is on disk.
func (s *Store) syncSegment(seg *segment, want uint64) error {
	_, err := seg.sync.wait(want, func() uint64 {
		s.mu.RLock()
		defer s.mu.RUnlock()
		return seg.commits
	}, func() error {
		s.stat.syncs.Add(1)
		return seg.w.w.SyncData()
	}, func(good uint64, err error) { s.failSegment(seg, good, err) })
	if err != nil {
		return &tnv.Error{Op: "sync segment " + seg.name(), Kind: tnv.KindUnavailable, Err: err}
	}
	return nil
}

// failSegment takes out what the segment got since its last good sync: the
// kernel may have thrown it away, and a second fdatasync would not tell (D5).
func (s *Store) failSegment(seg *segment, good uint64, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg.failed != nil {
		return
	}
	seg.failed = cause
	lost := 0
	for i := range seg.records {
		e := &seg.records[i]
		if e.state != recLive || e.commit <= good {
			continue
		}
		e.state = recVoid
		at := location{seg: seg.ref, off: e.off, pos: uint32(i), len: e.len}
		if s.index.get(e.key) == at {
			s.removeLocked(e.key, at)
			lost++
		}
	}
	s.stat.syncFailures.Add(1)
	s.opt.Log.WithError(cause).WithField("segment", seg.name()).WithField("lost", lost).
		Error("a sync failed: the segment is closed, what it got since its last sync is missing")
	s.drainLocked(seg)
}

// Sync returns when every block committed before is on disk. An error says
// that some may have been lost: ask Has. What a failed sync lost earlier is
// missing, and no concern of a later Sync.
func (s *Store) Sync(ctx context.Context) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	type job struct {
		seg  *segment
		want uint64
	}
	var jobs []job
	s.mu.RLock()
	for _, seg := range s.unsealed {
		if seg.failed == nil && seg.commits > 0 {
			jobs = append(jobs, job{seg, seg.commits})
		}
	}
	s.mu.RUnlock()
	errs := make(chan error, len(jobs))
	for _, j := range jobs {
		s.wg.Go(func() { errs <- s.syncSegment(j.seg, j.want) })
	}
	var first error
	for range jobs {
		select {
		case err := <-errs:
			if first == nil {
				first = err
			}
		case <-ctx.Done():
			return wrap("sync", ctx.Err())
		}
	}
	return first
}

// SyncBlock returns when this block, if it is held, is on disk. KindMissing: it is not held.
func (s *Store) SyncBlock(key tnv.BlockKey) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return s.syncBlock(key)
}

func (s *Store) syncBlock(key tnv.BlockKey) error {
	s.mu.RLock()
	at := s.index.get(key)
	var seg *segment
	var want uint64
	if at.live() {
		seg = s.segments[at.seg]
		if seg.records != nil {
			want = seg.records[at.pos].commit
		}
	}
	s.mu.RUnlock()
	switch {
	case seg == nil:
		return tnv.E("sync block "+key.String(), tnv.KindMissing, "this store does not have it")
	case want == 0: // sealed
		return nil
	}
	return s.syncSegment(seg, want)
}
