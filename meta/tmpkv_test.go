package meta

import (
	"context"
	"sync"
	"time"

	"github.com/tidwall/btree"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

type tmpKV struct {
	mu   sync.Mutex
	m    map[tnv.VolumeID]*btree.Map[string, []byte]
	seqs map[tnv.VolumeID]tnv.BatchSeq
	l    map[tnv.VolumeID]kv.Lease
}

func newTmp() *tmpKV {
	return &tmpKV{m: map[tnv.VolumeID]*btree.Map[string, []byte]{}, seqs: map[tnv.VolumeID]tnv.BatchSeq{}, l: map[tnv.VolumeID]kv.Lease{}}
}
func (e *tmpKV) vol(v tnv.VolumeID) *btree.Map[string, []byte] {
	if e.m[v] == nil {
		e.m[v] = &btree.Map[string, []byte]{}
	}
	return e.m[v]
}
func (e *tmpKV) Get(ctx context.Context, v tnv.VolumeID, keys ...[]byte) ([][]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([][]byte, len(keys))
	for i, k := range keys {
		if b, ok := e.vol(v).Get(string(k)); ok {
			out[i] = append([]byte{}, b...)
		}
	}
	return out, nil
}
func (e *tmpKV) Scan(ctx context.Context, v tnv.VolumeID, from, to []byte, limit int, fn func(k, v []byte) bool) error {
	e.mu.Lock()
	c := e.vol(v).Copy()
	e.mu.Unlock()
	n := 0
	c.Ascend(string(from), func(k string, b []byte) bool {
		if to != nil && k >= string(to) {
			return false
		}
		n++
		return fn([]byte(k), b) && n != limit
	})
	return nil
}
func (e *tmpKV) Apply(ctx context.Context, f kv.Fence, bs []kv.Batch) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.l[f.Vol].Epoch != f.Epoch {
		return kv.ErrFenced
	}
	for _, b := range bs {
		if b.Seq != e.seqs[f.Vol]+1 {
			return &kv.SeqError{Stored: e.seqs[f.Vol], Got: b.Seq}
		}
		e.seqs[f.Vol] = b.Seq
		for _, w := range b.Writes {
			if w.Value == nil {
				e.vol(f.Vol).Delete(string(w.Key))
			} else {
				e.vol(f.Vol).Set(string(w.Key), w.Value)
			}
		}
	}
	return nil
}
func (e *tmpKV) Sync(context.Context) error { return nil }
func (e *tmpKV) Seq(_ context.Context, v tnv.VolumeID) (tnv.BatchSeq, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seqs[v], nil
}
func (e *tmpKV) Lease(_ context.Context, v tnv.VolumeID) (kv.Lease, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.l[v]
	l.Vol = v
	return l, nil
}
func (e *tmpKV) Acquire(_ context.Context, seen kv.Lease, h string, ttl time.Duration) (kv.Lease, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := kv.Lease{Vol: seen.Vol, Epoch: seen.Epoch + 1, Holder: h, TTL: ttl}
	e.l[seen.Vol] = l
	return l, nil
}
func (e *tmpKV) Renew(_ context.Context, l kv.Lease) (kv.Lease, error) { return l, nil }
func (e *tmpKV) Release(_ context.Context, l kv.Lease) error           { return nil }
func (e *tmpKV) Exclusive() bool                                       { return true }
func (e *tmpKV) Name() string                                          { return "mem" }
func (e *tmpKV) Close() error                                          { return nil }

// gate is an engine whose Apply can be held back.
type gate struct {
	*tmpKV
	closed sync.RWMutex
}

func (g *gate) shut()   { g.closed.Lock() }
func (g *gate) opened() { g.closed.Unlock() }
func (g *gate) Apply(ctx context.Context, f kv.Fence, bs []kv.Batch) error {
	g.closed.RLock()
	defer g.closed.RUnlock()
	return g.tmpKV.Apply(ctx, f, bs)
}
