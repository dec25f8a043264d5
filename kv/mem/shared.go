package mem

import (
	"context"
	"errors"
	"slices"

	"github.com/tnvfs/tnv/kv"
)

// trackers are the records of those that share the engine, guarded by Engine.mu.
type trackers struct {
	last uint64 // id
	list []kv.Tracker
}

var _ kv.Shared = (*Engine)(nil)

// Join implements kv.Shared.
func (e *Engine) Join(ctx context.Context, addr string) (kv.Tracker, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.enterLocked(ctx); err != nil {
		return kv.Tracker{}, err
	}
	e.trackers.last++
	t := kv.Tracker{ID: e.trackers.last, Addr: addr}
	e.trackers.list = append(e.trackers.list, t)
	return t, nil
}

// Beat implements kv.Shared.
func (e *Engine) Beat(ctx context.Context, me kv.Tracker, leases []kv.Lease) ([]kv.Lease, error) {
	if err := e.beat(ctx, me); err != nil {
		return nil, err
	}
	var ours []kv.Lease
	for _, l := range leases {
		l, err := e.Renew(ctx, l)
		if err == nil {
			ours = append(ours, l)
		} else if !errors.Is(err, kv.ErrFenced) {
			return nil, err
		}
	}
	return ours, nil
}

func (e *Engine) beat(ctx context.Context, me kv.Tracker) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.enterLocked(ctx); err != nil {
		return err
	}
	for i := range e.trackers.list {
		if t := &e.trackers.list[i]; t.ID == me.ID {
			t.Addr, t.Draining, t.Beats = me.Addr, me.Draining, t.Beats+1
			return nil
		}
	}
	e.trackers.list = append(e.trackers.list, kv.Tracker{ID: me.ID, Addr: me.Addr, Draining: me.Draining})
	return nil
}

// Leave implements kv.Shared.
func (e *Engine) Leave(ctx context.Context, id uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.trackers.list = slices.DeleteFunc(e.trackers.list, func(t kv.Tracker) bool { return t.ID == id })
	return e.enterLocked(ctx)
}

// Trackers implements kv.Shared.
func (e *Engine) Trackers(ctx context.Context) ([]kv.Tracker, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.trackers.list), e.enterLocked(ctx)
}

// Leases implements kv.Shared.
func (e *Engine) Leases(ctx context.Context) (all []kv.Lease, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, v := range e.volumes {
		if v.lease.Epoch != 0 {
			all = append(all, v.lease)
		}
	}
	return all, e.enterLocked(ctx)
}
