package stored

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	maxRepairs    = 4096
	repairTries   = 8                      // after the first
	repairPause   = 250 * time.Millisecond // before the second try; doubled with each
	repairWorkers = 2
)

// repairs looks after single blocks that someone found bad or missing here.
type repairs struct {
	d    *daemon
	jobs chan repair
	wg   sync.WaitGroup

	mu     sync.Mutex
	queued map[tnv.BlockKey]bool // waiting, or being looked after
	bad    map[tnv.BlockKey]bool // found damaged, counted, and not mended yet
	list   []protocol.BadBlock   // the newest that were found
}

// repair is a block to be looked after.
type repair struct {
	protocol.Repair
	tries int // failed so far
}

func startRepairs(ctx context.Context, d *daemon) *repairs {
	r := &repairs{d: d, jobs: make(chan repair, maxRepairs), queued: map[tnv.BlockKey]bool{}, bad: map[tnv.BlockKey]bool{}}
	for range repairWorkers {
		r.wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case job := <-r.jobs:
					if r.mend(ctx, job.Repair) || !r.later(ctx, job) {
						r.mu.Lock()
						delete(r.queued, job.Key)
						r.mu.Unlock()
					}
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
	case r.jobs <- repair{Repair: protocol.Repair{Key: key, Home: home}}:
		r.queued[key] = true
		return nil
	default:
		return tnv.E("repair", tnv.KindBusy, "%d blocks wait for theirs", maxRepairs)
	}
}

// later queues a block once more after a while, longer each time: the peer that
// has a good copy may be starting, or be mending its own. It is false if it has
// been tried often enough, or too many wait: then the scrubber, or a reader, asks.
func (r *repairs) later(ctx context.Context, job repair) bool {
	if job.tries++; job.tries > repairTries {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queued) > maxRepairs {
		return false
	}
	r.wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-time.After(repairPause << (job.tries - 1)):
			select {
			case r.jobs <- job:
			case <-ctx.Done():
			}
		}
	})
	return true
}

// waiting is how many blocks are to be looked after.
func (r *repairs) waiting() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return uint64(len(r.queued))
}

// found notes a damaged block, and tells whether it was not known yet.
func (r *repairs) found(key tnv.BlockKey, home tnv.Home, why error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bad[key] {
		return false
	}
	if len(r.bad) >= 16*maxRepairs { // rather count some twice
		clear(r.bad)
	}
	r.bad[key] = true
	if len(r.list) >= protocol.MaxBadBlocks {
		r.list = slices.Delete(r.list, 0, 1)
	}
	r.list = append(r.list, protocol.BadBlock{Key: key, Home: home, Why: why.Error()})
	return true
}

// mended notes that a block is whole again.
func (r *repairs) mended(key tnv.BlockKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.bad, key)
	for i := range r.list {
		r.list[i].Mended = r.list[i].Mended || r.list[i].Key == key
	}
}

func (r *repairs) badBlocks() []protocol.BadBlock {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

// mend looks at a block, and replaces it by a peer's copy if it is bad and
// lives. The bad one stays until a good one is in hand (promise P7). It is false
// if trying again may help.
func (r *repairs) mend(ctx context.Context, job protocol.Repair) (done bool) {
	d, key := r.d, job.Key
	log := d.log.WithFields(logrus.Fields{"vol": uint32(key.Vol), "block": uint64(key.ID)})
	bad := d.store.Verify(key)
	if bad == nil || tnv.KindOf(bad) == tnv.KindUnavailable { // well, or the store is closed
		return true
	}
	missing := tnv.KindOf(bad) == tnv.KindMissing
	if !missing {
		if home, ok := d.store.Home(key); ok {
			job.Home = home
		}
		if r.found(key, job.Home, bad) {
			d.met.corrupt.inc()
			d.trackers.beat()
			log.WithError(bad).WithField("inode", uint64(job.Home.Ino)).Error("a block is damaged")
		}
	}
	states, err := d.trackers.alive(ctx, key.Vol, []protocol.BlockHome{{Block: key.ID, Home: job.Home}})
	if err == nil && states[0] != protocol.LiveBlock {
		if !missing {
			log.Info("the damaged block is not in use any more: its deletion is left to the tracker")
		}
		return true
	}
	c, err := d.fetch(ctx, key, d.cluster.peers())
	if err != nil {
		if ctx.Err() == nil {
			log.WithError(err).Error("a block is bad or missing here, and no peer has a good copy now: it will be tried again")
		}
		return false
	}
	defer c.release()
	if !missing {
		if err := d.store.Drop(key, bad.Error()); err != nil {
			log.WithError(err).Error("the damaged copy of a block cannot be removed")
			return false
		}
	}
	if err := d.keep(c, true); err != nil {
		log.WithError(err).Error("a block cannot be mended")
		return false
	}
	r.mended(key)
	d.met.mended.inc()
	d.met.copied.Inc()
	log.Warn("a block was mended from a peer's copy")
	if err := d.trackers.held(ctx, key.Vol, []tnv.BlockID{key.ID}); err != nil {
		log.WithError(err).Debug("no tracker could be told of a mended block; it will be")
	}
	d.trackers.beat()
	return true
}
