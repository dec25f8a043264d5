// Package mem is an engine in memory, for tests. It promises what package kv
// does, except that nothing outlives the process; instead it plays the process's
// death and the machine's: Kill hands over all that was acknowledged, PowerLoss
// what was synced and a part of the rest that is in order.
//
// Each volume is a copy-on-write map. A scan takes a copy (that is O(1)) and
// walks it without the lock. What was applied since the last Sync is kept as a
// list of steps on top of the synced state; the oldest of them count as synced
// once the list is long, as an operating system, too, writes back on its own.
package mem

import (
	"context"
	"sync"
	"time"

	"github.com/tidwall/btree"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// maxUnsynced bounds the steps kept since the last Sync.
const maxUnsynced = 1024

// Options of an engine. The zero value works.
type Options struct {
	Shared bool // Exclusive answers false: several owners contend for the volumes
}

// Engine is an engine in memory. Make it with New.
type Engine struct {
	opt Options

	mu       sync.Mutex
	closed   bool
	volumes  map[tnv.VolumeID]*volume // as applied
	synced   map[tnv.VolumeID]*volume // as a power loss leaves it at least
	unsynced []step                   // leads from synced to volumes
	trackers trackers
	hooks    hooks
}

type volume struct {
	data  btree.Map[string, []byte]
	seq   tnv.BatchSeq
	lease kv.Lease
}

// step is one acknowledged change: batches applied, or a new lease.
type step struct {
	vol     tnv.VolumeID
	batches []kv.Batch
	lease   *kv.Lease
}

var _ kv.Engine = (*Engine)(nil)

// New makes an empty engine.
func New(opt Options) *Engine {
	return &Engine{opt: opt, volumes: map[tnv.VolumeID]*volume{}, synced: map[tnv.VolumeID]*volume{}}
}

// enterLocked is how each call begins.
func (e *Engine) enterLocked(ctx context.Context) error {
	if e.closed {
		return kv.ErrClosed
	}
	return ctx.Err()
}

func volumeOf(m map[tnv.VolumeID]*volume, id tnv.VolumeID) *volume {
	v := m[id]
	if v == nil {
		v = &volume{lease: kv.Lease{Vol: id}}
		m[id] = v
	}
	return v
}

func (s step) run(m map[tnv.VolumeID]*volume) {
	v := volumeOf(m, s.vol)
	if s.lease != nil {
		v.lease = *s.lease
	}
	for _, b := range s.batches {
		v.seq = b.Seq
		for _, w := range b.Writes {
			if w.Value == nil {
				v.data.Delete(string(w.Key))
			} else {
				v.data.Set(string(w.Key), w.Value)
			}
		}
	}
}

func (e *Engine) runLocked(s step) {
	s.run(e.volumes)
	e.unsynced = append(e.unsynced, s)
	if len(e.unsynced) > maxUnsynced {
		e.foldLocked(maxUnsynced / 2)
	}
}

// foldLocked makes the oldest n steps part of the synced state.
func (e *Engine) foldLocked(n int) {
	for _, s := range e.unsynced[:n] {
		s.run(e.synced)
	}
	e.unsynced = append([]step(nil), e.unsynced[n:]...)
}

func clone(b []byte) []byte { return append(make([]byte, 0, len(b)), b...) }

// Get implements kv.Engine.
func (e *Engine) Get(ctx context.Context, vol tnv.VolumeID, keys ...[]byte) ([][]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.enterLocked(ctx); err != nil {
		return nil, err
	}
	if err := kv.CheckKeys(keys...); err != nil {
		return nil, err
	}
	out := make([][]byte, len(keys))
	v := volumeOf(e.volumes, vol)
	for i, k := range keys {
		if b, ok := v.data.Get(string(k)); ok {
			out[i] = clone(b)
		}
	}
	return out, nil
}

// Scan implements kv.Engine.
func (e *Engine) Scan(ctx context.Context, vol tnv.VolumeID, from, to []byte, limit int, fn func(key, value []byte) bool) error {
	e.mu.Lock()
	if err := e.enterLocked(ctx); err != nil {
		e.mu.Unlock()
		return err
	}
	data := volumeOf(e.volumes, vol).data.Copy()
	e.mu.Unlock()
	n := 0
	data.Ascend(string(from), func(k string, b []byte) bool {
		if to != nil && k >= string(to) {
			return false
		}
		n++
		return fn([]byte(k), clone(b)) && n != limit
	})
	return nil
}

// Apply implements kv.Engine.
func (e *Engine) Apply(ctx context.Context, fence kv.Fence, batches []kv.Batch) error {
	if err := e.waitPaused(ctx); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.enterLocked(ctx); err != nil {
		return err
	}
	v := volumeOf(e.volumes, fence.Vol)
	if !v.lease.Owned(fence.Epoch) {
		return kv.ErrFenced
	}
	if err := kv.CheckBatches(v.seq, batches); err != nil {
		return err
	}
	f := e.hooks.failApply
	e.hooks.failApply = nil
	if f == nil || f.applied {
		e.runLocked(step{vol: fence.Vol, batches: cloneBatches(batches)})
	}
	if f != nil {
		return f.err
	}
	return nil
}

func cloneBatches(batches []kv.Batch) []kv.Batch {
	out := make([]kv.Batch, len(batches))
	for i, b := range batches {
		out[i] = kv.Batch{Seq: b.Seq, Writes: make([]kv.Write, len(b.Writes))}
		for j, w := range b.Writes {
			out[i].Writes[j].Key = clone(w.Key)
			if w.Value != nil {
				out[i].Writes[j].Value = clone(w.Value)
			}
		}
	}
	return out
}

// Sync implements kv.Engine.
func (e *Engine) Sync(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.enterLocked(ctx); err != nil {
		return err
	}
	e.foldLocked(len(e.unsynced))
	return nil
}

// Seq implements kv.Engine.
func (e *Engine) Seq(ctx context.Context, vol tnv.VolumeID) (tnv.BatchSeq, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.enterLocked(ctx); err != nil {
		return 0, err
	}
	return volumeOf(e.volumes, vol).seq, nil
}

// Lease implements kv.Engine.
func (e *Engine) Lease(ctx context.Context, vol tnv.VolumeID) (kv.Lease, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.enterLocked(ctx); err != nil {
		return kv.Lease{}, err
	}
	return volumeOf(e.volumes, vol).lease, nil
}

// Acquire implements kv.Engine.
func (e *Engine) Acquire(ctx context.Context, seen kv.Lease, holder string, ttl time.Duration) (kv.Lease, error) {
	return e.setLease(ctx, seen.Vol, true, func(cur kv.Lease) (kv.Lease, error) {
		if cur.Epoch != seen.Epoch || cur.Renewals != seen.Renewals {
			return kv.Lease{}, kv.ErrLeaseMoved
		}
		return cur.Next(holder, ttl), nil
	})
}

// Renew implements kv.Engine.
func (e *Engine) Renew(ctx context.Context, l kv.Lease) (kv.Lease, error) {
	return e.setLease(ctx, l.Vol, false, func(cur kv.Lease) (kv.Lease, error) {
		if !cur.Owned(l.Epoch) {
			return kv.Lease{}, kv.ErrFenced
		}
		cur.Renewals++
		return cur, nil
	})
}

// Raise implements kv.Raiser.
func (e *Engine) Raise(ctx context.Context, l kv.Lease, to tnv.Epoch) (kv.Lease, error) {
	return e.setLease(ctx, l.Vol, true, func(cur kv.Lease) (kv.Lease, error) {
		if !cur.Owned(l.Epoch) {
			return kv.Lease{}, kv.ErrFenced
		}
		cur.Epoch = max(cur.Epoch, to)
		return cur, nil
	})
}

// Release implements kv.Engine.
func (e *Engine) Release(ctx context.Context, l kv.Lease) error {
	_, err := e.setLease(ctx, l.Vol, true, func(cur kv.Lease) (kv.Lease, error) {
		if !cur.Owned(l.Epoch) {
			return kv.Lease{}, kv.ErrFenced
		}
		cur.Released = true
		return cur, nil
	})
	return err
}

func (e *Engine) setLease(ctx context.Context, vol tnv.VolumeID, sync bool, change func(kv.Lease) (kv.Lease, error)) (kv.Lease, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.enterLocked(ctx); err != nil {
		return kv.Lease{}, err
	}
	next, err := change(volumeOf(e.volumes, vol).lease)
	if err != nil {
		return kv.Lease{}, err
	}
	e.runLocked(step{vol: vol, lease: &next})
	if sync {
		e.foldLocked(len(e.unsynced))
	}
	return next, nil
}

// Exclusive implements kv.Engine.
func (e *Engine) Exclusive() bool { return !e.opt.Shared }

// Name implements kv.Engine.
func (e *Engine) Name() string { return "mem" }

// Close implements kv.Engine. What was stored can be had again by Reopen.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return kv.ErrClosed
	}
	e.foldLocked(len(e.unsynced))
	e.closed = true
	return nil
}
