package trackerd

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

const (
	sweepEvery    = 200 * time.Millisecond
	expireEvery   = time.Second
	deleteEvery   = time.Second
	forgetEvery   = 2 * time.Second
	deleteTimeout = 10 * time.Second
	deleteBatch   = 2048
	// deleteBackoff is how long a store that failed to delete is left alone.
	deleteBackoff = 2 * time.Second
	// syncsAtOnce is how many stores are asked to sync at the same time.
	syncsAtOnce = 32
)

// sweep does what is due from time to time, until ctx ends: it notices lost
// storage daemons, ends silent sessions, and sends the deletions that are due,
// to each store on a goroutine of its own.
func (t *tracker) sweep(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { t.expireSessions(ctx) })
	wg.Go(func() { t.forgetGone(ctx) })
	wg.Go(func() { t.collectLoop(ctx) })
	wg.Go(func() { t.purgeLoop(ctx) })
	wg.Go(func() { t.drainLoop(ctx) })
	var mu sync.Mutex
	busy := map[tnv.NodeID]bool{}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		t.members.expire(time.Now())
		for _, g := range t.members.Map().Groups {
			for _, n := range g.Nodes {
				mu.Lock()
				start := n.State != tnv.NodeLost && !busy[n.ID]
				if start {
					busy[n.ID] = true
				}
				mu.Unlock()
				if !start {
					continue
				}
				wg.Go(func() {
					t.deleteAt(ctx, n)
					pause(ctx, deleteEvery)
					mu.Lock()
					delete(busy, n.ID)
					mu.Unlock()
				})
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// expireSessions ends silent sessions. That may take long, and nothing waits for it.
func (t *tracker) expireSessions(ctx context.Context) {
	for ctx.Err() == nil {
		t.applySettings()
		for _, v := range t.held.volumes() {
			if err := v.Expire(ctx, time.Now()); err != nil && ctx.Err() == nil {
				t.log.WithError(err).Warn("ending silent sessions failed; it is tried again")
			}
		}
		pause(ctx, expireEvery)
	}
}

// forgetGone has removed, ever so often, what volumes say of stores that are gone.
func (t *tracker) forgetGone(ctx context.Context) {
	for ; ctx.Err() == nil; pause(ctx, forgetEvery) {
		if err := t.forgetOnce(ctx); err != nil && ctx.Err() == nil {
			t.log.WithError(err).Warn("what is known of stores that are gone is not forgotten yet")
		}
	}
}

// forgetOnce removes what the volumes here say of stores that are no members any
// more: nothing of them will be confirmed. Who is a member the registry says, as it
// is read *behind* what the volumes say: a store is in it before any tracker names
// it. This tracker's own list may lack stores that were admitted at another one, and
// that a volume's last owner knew. A volume that goes on from a copy is left alone
// until the operator has approved of it: the registry that came with it may be empty,
// and its stores have yet to announce themselves.
func (t *tracker) forgetOnce(ctx context.Context) error {
	vols, some := t.held.volumes(), false
	named := make([][]tnv.NodeID, len(vols))
	for i, v := range vols {
		named[i] = v.Named()
		some = some || len(named[i]) > 0
	}
	if !some {
		return nil
	}
	if err := t.directory.refresh(ctx); err != nil {
		return err
	}
	groups, _ := t.directory.groups()
	known := tnv.Map{Groups: groups}
	var all []error
	for i, v := range vols {
		if len(named[i]) == 0 {
			continue
		}
		if restored, err := v.Restored(ctx); err != nil || restored {
			all = append(all, err)
			continue
		}
		for _, n := range named[i] {
			for more := known.Node(n) == nil; more && ctx.Err() == nil; {
				var err error
				if more, err = v.Forget(ctx, n); err != nil {
					all = append(all, tnv.Wrap("forget store "+n.String(), err))
				}
			}
		}
	}
	return errors.Join(all...)
}

// deleteAt sends a store the deletions that it has not confirmed.
func (t *tracker) deleteAt(ctx context.Context, n tnv.Node) {
	for _, v := range t.held.volumes() {
		if err := t.deleteIn(ctx, n, v); err != nil && ctx.Err() == nil {
			t.log.WithError(err).WithField("node", n.ID).Warn("deleting blocks failed; it is tried again")
			pause(ctx, deleteBackoff)
		}
	}
}

func (t *tracker) deleteIn(ctx context.Context, n tnv.Node, v *meta.Volume) error {
	for {
		ids, err := v.Deletions(ctx, n.ID, 0, deleteBatch)
		if err != nil || len(ids) == 0 {
			return err
		}
		if !t.copied(ctx) {
			return nil // the shipper says why
		}
		if err := t.settle(ctx); err != nil {
			return err
		}
		call, cancel := context.WithTimeout(ctx, deleteTimeout)
		err = t.pool.Call(call, n.Addr, protocol.TypeDelete, nil, &protocol.Delete{Node: n.ID, Vol: v.ID(), Blocks: ids})
		cancel()
		if err != nil {
			return err
		}
		if err := v.Deleted(ctx, n.ID, ids); err != nil {
			return err
		}
	}
}

// barrier lets those that wait for the stores to sync share rounds of it.
type barrier struct {
	run sync.Mutex // held while a round runs

	mu    sync.Mutex
	begun uint64 // rounds
	err   error  // of the last round; under run
}

// settle returns when what every store that is worth waiting for took before the call
// is on disk: the blocks that replace those to be deleted are among it (D2). A slow
// one's word let no commit through: its disk must not hold all deletions up.
func (t *tracker) settle(ctx context.Context) error {
	b := &t.barrier
	b.mu.Lock()
	want := b.begun + 1
	b.mu.Unlock()
	b.run.Lock()
	defer b.run.Unlock()
	if b.begun >= want { // a round that began after the call
		return b.err
	}
	b.mu.Lock()
	b.begun++
	b.mu.Unlock()
	b.err = t.syncStores(ctx)
	return b.err
}

func (t *tracker) syncStores(ctx context.Context) error {
	if t.members.hides() {
		return tnv.E("sync before deleting", tnv.KindBusy, "a store is being taken out, and may stay")
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []error
	limit := make(chan struct{}, syncsAtOnce)
	for _, g := range t.members.Map().Groups {
		for _, n := range g.Nodes {
			if !g.Awaited(n.ID) {
				continue // what it holds is on disk elsewhere, or was lost with it
			}
			limit <- struct{}{}
			wg.Go(func() {
				defer func() { <-limit }()
				call, cancel := context.WithTimeout(ctx, deleteTimeout)
				defer cancel()
				err := t.pool.Call(call, n.Addr, protocol.TypeSync, nil, &protocol.Sync{})
				if err != nil && t.members.Map().Awaited(n.ID) != nil {
					mu.Lock()
					defer mu.Unlock()
					all = append(all, tnv.Wrap("sync before deleting", err))
				}
			})
		}
	}
	wg.Wait()
	return errors.Join(all...)
}
