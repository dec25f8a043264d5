package stored

import (
	"context"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	maxRepairs    = 4096
	repairWorkers = 2
)

// repairs looks after single blocks that someone found bad or missing here.
type repairs struct {
	d    *daemon
	jobs chan protocol.Repair
	wg   sync.WaitGroup

	mu     sync.Mutex
	queued map[tnv.BlockKey]bool // waiting, or being looked after
	bad    map[tnv.BlockKey]bool // found damaged, counted, and not mended yet
}

func startRepairs(ctx context.Context, d *daemon) *repairs {
	r := &repairs{d: d, jobs: make(chan protocol.Repair, maxRepairs), queued: map[tnv.BlockKey]bool{}, bad: map[tnv.BlockKey]bool{}}
	for range repairWorkers {
		r.wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case job := <-r.jobs:
					r.mend(ctx, job)
					r.mu.Lock()
					delete(r.queued, job.Key)
					r.mu.Unlock()
				}
			}
		})
	}
	return r
}

// ask queues a block. It is KindBusy if too many wait already.
func (r *repairs) ask(key tnv.BlockKey, home tnv.Home) error {
	if key.Vol == 0 || key.ID == 0 {
		return tnv.E("repair", tnv.KindInvalid, "no block %v can be", key)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queued[key] {
		return nil
	}
	select {
	case r.jobs <- protocol.Repair{Key: key, Home: home}:
		r.queued[key] = true
		return nil
	default:
		return tnv.E("repair", tnv.KindBusy, "%d blocks wait for theirs", maxRepairs)
	}
}

// found notes a damaged block, and tells whether it was not known yet.
func (r *repairs) found(key tnv.BlockKey) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bad[key] {
		return false
	}
	if len(r.bad) >= 16*maxRepairs { // rather count some twice
		clear(r.bad)
	}
	r.bad[key] = true
	return true
}

// mend looks at a block, and replaces it by a peer's copy if it is bad and
// lives. The bad one stays until a good one is in hand (promise P7).
func (r *repairs) mend(ctx context.Context, job protocol.Repair) {
	d, key := r.d, job.Key
	log := d.log.WithFields(logrus.Fields{"vol": uint32(key.Vol), "block": uint64(key.ID)})
	bad := d.store.Verify(key)
	if bad == nil || tnv.KindOf(bad) == tnv.KindUnavailable { // well, or the store is closed
		return
	}
	missing := tnv.KindOf(bad) == tnv.KindMissing
	if !missing {
		if r.found(key) {
			d.met.corrupt.inc()
			d.trackers.beat()
			log.WithError(bad).Error("a block is damaged")
		}
		if home, ok := d.store.Home(key); ok {
			job.Home = home
		}
	}
	states, err := d.trackers.alive(ctx, key.Vol, []protocol.BlockHome{{Block: key.ID, Home: job.Home}})
	if err == nil && states[0] != protocol.LiveBlock {
		if !missing {
			log.Info("the damaged block is not in use any more: its deletion is left to the tracker")
		}
		return
	}
	c, err := d.fetch(ctx, key, d.cluster.peers())
	if err != nil {
		if ctx.Err() == nil {
			log.WithError(err).Error("a block is bad or missing here, and no peer has a good copy now: it will be tried again when it is read or scrubbed")
		}
		return
	}
	defer c.release()
	if !missing {
		if err := d.store.Drop(key, bad.Error()); err != nil {
			log.WithError(err).Error("the damaged copy of a block cannot be removed")
			return
		}
	}
	if err := d.keep(c, true); err != nil {
		log.WithError(err).Error("a block cannot be mended")
		return
	}
	r.mu.Lock()
	delete(r.bad, key)
	r.mu.Unlock()
	d.met.mended.inc()
	d.met.copied.Inc()
	log.Warn("a block was mended from a peer's copy")
	if err := d.trackers.held(ctx, key.Vol, []tnv.BlockID{key.ID}); err != nil {
		log.WithError(err).Debug("no tracker could be told of a mended block; it will be")
	}
	d.trackers.beat()
}
