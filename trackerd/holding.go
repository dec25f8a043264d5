package trackerd

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/clock"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

// holding is a volume that this tracker owns. Just one of volume and registry is set.
type holding struct {
	lease    kv.Lease
	volume   *meta.Volume
	registry *meta.Registry // of the cluster's own volume
	// until is the time, by clock.Boot, up to which the volume is certainly owned
	// here: the lease's length behind the sending of the last renewal. Once over is
	// set, until is 0 and stays so.
	until   atomic.Int64
	mu      sync.Mutex
	over    bool          // under mu: given back, or lost
	closing bool          // under mu
	ended   chan struct{} // closed with over
}

func newHolding(lease kv.Lease, until time.Duration) *holding {
	h := &holding{lease: lease, ended: make(chan struct{})}
	h.until.Store(int64(until))
	return h
}

// renewed notes that the lease was, by a message sent at sent.
func (h *holding) renewed(sent time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.until.Store(int64(sent + h.lease.TTL))
	}
}

// fresh tells whether the lease was renewed a moment ago.
func (h *holding) fresh(now time.Duration) bool {
	return time.Duration(h.until.Load()) > now+h.lease.TTL-renewEvery
}

// end has nothing be answered any more.
func (h *holding) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.over = true
		h.until.Store(0)
		close(h.ended)
	}
}

// forever is the until of what nobody else can own: the engine is exclusive.
const forever = time.Duration(math.MaxInt64)

// sure tells whether the volume is owned here now. It is asked before an operation
// begins, and again when its answer is about to leave: what the answer tells was
// true at that moment, which lies behind the sending of the question. If the answer
// is late on its way it is still right.
func (h *holding) sure() error {
	if int64(clock.Boot()) < h.until.Load() {
		return nil
	}
	return tnv.E("volume", tnv.KindNotOwner, "volume %d is not owned here any more, or that is in doubt", h.lease.Vol)
}

func (h *holding) dead() <-chan struct{} {
	if h.registry != nil {
		return h.registry.Dead()
	}
	return h.volume.Dead()
}

// failure is why the volume was given up; nil while it was not.
func (h *holding) failure() error {
	if h.registry != nil {
		return h.registry.Failure()
	}
	return h.volume.Failure()
}

// tell has the volume tell its sessions something, unless it is being closed.
func (h *holding) tell(t protocol.Type, values ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closing && h.volume != nil {
		h.volume.Tell(t, values...)
	}
}

// close ends the volume's operations; what was published is applied, if it can be.
func (h *holding) close() {
	h.mu.Lock()
	h.closing = true
	h.mu.Unlock()
	if h.registry != nil {
		h.registry.Close()
		return
	}
	h.volume.Close()
}

// holdings are the volumes owned here.
type holdings struct {
	mu     sync.RWMutex
	all    map[tnv.VolumeID]*holding // these answer
	silent map[tnv.VolumeID]*holding // being opened or closed, or stopped: renewed, and nothing else
}

func newHoldings() *holdings {
	return &holdings{all: map[tnv.VolumeID]*holding{}, silent: map[tnv.VolumeID]*holding{}}
}

// open notes a holding that is being opened.
func (hs *holdings) open(h *holding) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.silent[h.lease.Vol] = h
}

// opened says that it is ready.
func (hs *holdings) opened(h *holding) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	delete(hs.silent, h.lease.Vol)
	hs.all[h.lease.Vol] = h
}

// forget ends the renewing of a holding that was taken, or is not to be opened.
func (hs *holdings) forget(h *holding) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.silent[h.lease.Vol] == h {
		delete(hs.silent, h.lease.Vol)
	}
}

// owned is all whose leases are to be renewed.
func (hs *holdings) owned() []*holding {
	hs.mu.RLock()
	defer hs.mu.RUnlock()
	out := make([]*holding, 0, len(hs.all)+len(hs.silent))
	for _, h := range hs.all {
		out = append(out, h)
	}
	for _, h := range hs.silent {
		out = append(out, h)
	}
	return out
}

func (hs *holdings) get(id tnv.VolumeID) *holding {
	hs.mu.RLock()
	defer hs.mu.RUnlock()
	return hs.all[id]
}

// take has a holding answer no more; false if somebody else did. Whoever took it
// closes and forgets it; until then its lease is renewed.
func (hs *holdings) take(h *holding) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.all[h.lease.Vol] != h {
		return false
	}
	delete(hs.all, h.lease.Vol)
	hs.silent[h.lease.Vol] = h
	return true
}

// count is how many volumes answer.
func (hs *holdings) count() int {
	hs.mu.RLock()
	defer hs.mu.RUnlock()
	return len(hs.all)
}

// list is all holdings, by volume.
func (hs *holdings) list() []*holding {
	hs.mu.RLock()
	defer hs.mu.RUnlock()
	out := make([]*holding, 0, len(hs.all))
	for _, h := range hs.all {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b *holding) int { return compare(uint64(a.lease.Vol), uint64(b.lease.Vol)) })
	return out
}

// volumes are those of them that are owned for certain, without the cluster's own.
func (hs *holdings) volumes() (out []*meta.Volume) {
	for _, h := range hs.list() {
		if h.volume != nil && h.sure() == nil {
			out = append(out, h.volume)
		}
	}
	return out
}

// on runs an operation on a volume that is owned here, and gives its answer, errors
// too, only if the volume is still owned when it is there.
func on[T any](t *tracker, id tnv.VolumeID, fn func(v *meta.Volume) (T, error)) (T, error) {
	var none T
	h := t.held.get(id)
	if h == nil || h.volume == nil {
		return none, tnv.E("volume", tnv.KindNotOwner, "volume %d is not owned by tracker %s", id, t.addr)
	}
	if err := h.sure(); err != nil {
		return none, err
	}
	rep, err := fn(h.volume)
	if lost := h.sure(); lost != nil {
		return none, lost
	}
	return rep, err
}

// onRegistry is on for the cluster's own volume.
func onRegistry[T any](t *tracker, fn func(r *meta.Registry) (T, error)) (T, error) {
	var none T
	h := t.held.get(meta.ClusterVolume)
	if h == nil {
		return none, tnv.E("registry", tnv.KindNotOwner, "the cluster's registry is not at tracker %s", t.addr)
	}
	if err := h.sure(); err != nil {
		return none, err
	}
	rep, err := fn(h.registry)
	if lost := h.sure(); lost != nil {
		return none, lost
	}
	return rep, err
}
