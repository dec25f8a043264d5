package trackerd

import (
	"context"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

const (
	sweepEvery    = 200 * time.Millisecond
	deleteTimeout = 10 * time.Second
	deleteBatch   = 2048
	// deleteBackoff is how long a store that failed to delete is left alone.
	deleteBackoff = 2 * time.Second
)

// sweep does what is due from time to time, until ctx ends: it notices lost
// storage daemons, ends silent sessions, and sends the deletions that are due,
// to each store on a goroutine of its own.
func (t *tracker) sweep(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
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
		for _, v := range t.volumes {
			if err := v.Expire(ctx, time.Now()); err != nil && ctx.Err() == nil {
				t.log.WithError(err).Warn("ending silent sessions failed")
			}
		}
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
				wg.Add(1)
				go func() {
					defer wg.Done()
					t.deleteAt(ctx, n)
					mu.Lock()
					delete(busy, n.ID)
					mu.Unlock()
				}()
			}
		}
	}
}

// deleteAt sends a store the deletions that it has not confirmed.
func (t *tracker) deleteAt(ctx context.Context, n tnv.Node) {
	for _, v := range t.volumes {
		if err := t.deleteIn(ctx, n, v); err != nil && ctx.Err() == nil {
			t.log.WithError(err).WithField("node", n.ID).Warn("deleting blocks failed; it is tried again")
			select {
			case <-ctx.Done():
			case <-time.After(deleteBackoff):
			}
		}
	}
}

func (t *tracker) deleteIn(ctx context.Context, n tnv.Node, v *meta.Volume) error {
	for {
		ids, err := v.Deletions(ctx, n.ID, 0, deleteBatch)
		if err != nil || len(ids) == 0 {
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
