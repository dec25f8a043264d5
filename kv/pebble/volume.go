package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	crdb "github.com/cockroachdb/pebble/v2"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// volume is what the engine knows of a volume: nobody else writes the store, so
// epoch and sequence are checked in memory.
type volume struct {
	order sync.Mutex // held while a change is committed: changes of a volume follow each other
	state atomic.Pointer[volumeState]
}

// volumeState is as committed; it is replaced, never changed.
type volumeState struct {
	seq   tnv.BatchSeq
	lease kv.Lease
}

// volume finds a volume, and reads its state when it is used for the first time.
func (e *Engine) volume(id tnv.VolumeID) (*volume, error) {
	e.volumes.mu.Lock()
	v := e.volumes.m[id]
	if v == nil {
		v = &volume{}
		e.volumes.m[id] = v
	}
	e.volumes.mu.Unlock()
	if v.state.Load() != nil {
		return v, nil
	}
	v.order.Lock()
	defer v.order.Unlock()
	if v.state.Load() != nil {
		return v, nil
	}
	st, err := e.loadState(id)
	if err != nil {
		return nil, storeError(e.dir, id, err)
	}
	v.state.Store(st)
	return v, nil
}

func (e *Engine) loadState(id tnv.VolumeID) (*volumeState, error) {
	lease, err := e.get(leaseKey(id))
	if err != nil {
		return nil, err
	}
	seq, err := e.get(seqKey(id))
	if err != nil {
		return nil, err
	}
	st := &volumeState{}
	if st.lease, err = decodeLease(id, lease); err != nil {
		return nil, err
	}
	st.seq, err = decodeSeq(id, seq)
	return st, err
}

// get reads a key of the store, nil if there is none.
func (e *Engine) get(key []byte) ([]byte, error) { return getFrom(e.db, key) }

func getFrom(r crdb.Reader, key []byte) ([]byte, error) {
	b, closer, err := r.Get(key)
	if errors.Is(err, crdb.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, len(b)), b...)
	return out, closer.Close()
}

// Get implements kv.Engine. It may see a batch whose Apply has not returned yet.
func (e *Engine) Get(ctx context.Context, vol tnv.VolumeID, keys ...[]byte) ([][]byte, error) {
	if err := e.enter(ctx); err != nil {
		return nil, err
	}
	defer e.gate.leave()
	if err := kv.CheckKeys(keys...); err != nil {
		return nil, err
	}
	reader := crdb.Reader(e.db)
	if len(keys) > 1 { // as of one moment
		s := e.db.NewSnapshot()
		defer s.Close()
		reader = s
	}
	out := make([][]byte, len(keys))
	key := appendPrefix(make([]byte, 0, 64), vol, classData)
	for i, k := range keys {
		b, err := getFrom(reader, append(key[:prefixLen], k...))
		if err != nil {
			return nil, storeError(e.dir, vol, err)
		}
		out[i] = b
	}
	return out, nil
}

// checkEvery is how many keys a scan reads before it looks at its context.
const checkEvery = 256

// Scan implements kv.Engine. It may see a batch whose Apply has not returned yet.
func (e *Engine) Scan(ctx context.Context, vol tnv.VolumeID, from, to []byte, limit int, fn func(key, value []byte) bool) error {
	if err := e.enter(ctx); err != nil {
		return err
	}
	defer e.gate.leave()
	if to != nil && bytes.Compare(from, to) >= 0 {
		return nil
	}
	lower := append(appendPrefix(nil, vol, classData), from...)
	upper := appendPrefix(nil, vol, classData+1)
	if to != nil {
		upper = append(appendPrefix(nil, vol, classData), to...)
	}
	it, err := e.db.NewIter(&crdb.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return storeError(e.dir, vol, err)
	}
	err = scan(ctx, it, limit, fn)
	if cerr := it.Close(); err == nil {
		err = cerr
	}
	if err != nil && ctx.Err() == nil {
		return storeError(e.dir, vol, err)
	}
	return err
}

func scan(ctx context.Context, it *crdb.Iterator, limit int, fn func(key, value []byte) bool) error {
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if value == nil {
			value = []byte{}
		}
		if n++; !fn(it.Key()[prefixLen:], value) || n == limit {
			return nil
		}
		if n%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return it.Error()
}

// Apply implements kv.Engine.
func (e *Engine) Apply(ctx context.Context, fence kv.Fence, batches []kv.Batch) error {
	if err := e.enter(ctx); err != nil {
		return err
	}
	defer e.gate.leave()
	v, err := e.volume(fence.Vol)
	if err != nil {
		return err
	}
	v.order.Lock()
	defer v.order.Unlock()
	st := v.state.Load()
	if !st.lease.Owned(fence.Epoch) {
		return kv.ErrFenced
	}
	if err := kv.CheckBatches(st.seq, batches); err != nil || len(batches) == 0 {
		return err
	}
	next := &volumeState{lease: st.lease, seq: batches[len(batches)-1].Seq}
	b := e.db.NewBatch()
	for i := range batches {
		putWrites(b, fence.Vol, batches[i].Writes)
	}
	_ = b.Set(seqKey(fence.Vol), binary.BigEndian.AppendUint64(nil, uint64(next.seq)), nil)
	if err := e.commit(b); err != nil {
		return err
	}
	v.state.Store(next)
	return nil
}

// putWrites adds writes to a batch. The errors that it leaves aside are those of
// an indexed batch's index; this one has none.
func putWrites(b *crdb.Batch, vol tnv.VolumeID, writes []kv.Write) {
	for _, w := range writes {
		if w.Value == nil {
			op := b.DeleteDeferred(prefixLen + len(w.Key))
			appendKey(op.Key[:0], vol, w.Key)
			_ = op.Finish()
			continue
		}
		op := b.SetDeferred(prefixLen+len(w.Key), len(w.Value))
		appendKey(op.Key[:0], vol, w.Key)
		copy(op.Value, w.Value)
		_ = op.Finish()
	}
}

// commit writes a batch and waits for its acknowledgement. A commit can hang in a
// disk that fails (Pebble waits for room that never comes), hence the goroutine:
// the failure ends the wait. The commit is left behind then; the disk is frozen.
func (e *Engine) commit(b *crdb.Batch) error {
	done := make(chan error, 1)
	go func() {
		err := e.db.Apply(b, crdb.Sync)
		if err == nil {
			err = b.Close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		if failed := e.failure.get(); failed != nil {
			return failed // the disk may have swallowed it
		}
		return err
	case <-e.failure.done:
		return e.failure.get()
	}
}

// Seq implements kv.Engine.
func (e *Engine) Seq(ctx context.Context, vol tnv.VolumeID) (tnv.BatchSeq, error) {
	st, err := e.readState(ctx, vol)
	return st.seq, err
}

// Lease implements kv.Engine.
func (e *Engine) Lease(ctx context.Context, vol tnv.VolumeID) (kv.Lease, error) {
	st, err := e.readState(ctx, vol)
	return st.lease, err
}

func (e *Engine) readState(ctx context.Context, vol tnv.VolumeID) (volumeState, error) {
	if err := e.enter(ctx); err != nil {
		return volumeState{}, err
	}
	defer e.gate.leave()
	v, err := e.volume(vol)
	if err != nil {
		return volumeState{}, err
	}
	return *v.state.Load(), nil
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

// setLease changes a volume's lease, on disk if sync is set.
func (e *Engine) setLease(ctx context.Context, vol tnv.VolumeID, sync bool, change func(kv.Lease) (kv.Lease, error)) (kv.Lease, error) {
	if err := e.enter(ctx); err != nil {
		return kv.Lease{}, err
	}
	defer e.gate.leave()
	v, err := e.volume(vol)
	if err != nil {
		return kv.Lease{}, err
	}
	v.order.Lock()
	defer v.order.Unlock()
	st := v.state.Load()
	next, err := change(st.lease)
	if err != nil {
		return kv.Lease{}, err
	}
	b := e.db.NewBatch()
	_ = b.Set(leaseKey(vol), encodeLease(next), nil)
	if err := e.commit(b); err != nil {
		return kv.Lease{}, err
	}
	v.state.Store(&volumeState{seq: st.seq, lease: next})
	if sync {
		// A mutation that was sent is not cancelled.
		if err := e.syncLog(context.WithoutCancel(ctx)); err != nil {
			return kv.Lease{}, err
		}
	}
	return next, nil
}
