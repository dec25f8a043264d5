package trackerd

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/clock"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

const (
	// lookEvery is how often this tracker shows that it lives, and looks at others.
	lookEvery = 250 * time.Millisecond
	// renewEvery is how old a renewal is at least when the next one is sent: with
	// thousands of volumes each is a row that is written.
	renewEvery = 700 * time.Millisecond
	// lookTimeout bounds one such exchange with the engine.
	lookTimeout = 2 * time.Second
	// handOverTimeout bounds the next owner's beginning.
	handOverTimeout = 10 * time.Second
	// retakePause keeps a volume that cannot be opened from being tried without end.
	retakePause = time.Second
)

// contender keeps what this tracker owns on a shared engine, takes what it is to
// own, and hands over what others are.
//
// Lock order: mu alone; nothing is asked of anybody under it.
type contender struct {
	t      *tracker
	engine kv.Shared

	mu    sync.Mutex
	me    kv.Tracker
	share *sharing
	busy  map[tnv.VolumeID]bool      // being taken or handed over
	meant map[tnv.VolumeID]uint64    // for whom the last look meant a volume that is owned here
	lost  map[tnv.VolumeID]tnv.Epoch // given up here without being given back: nobody else's
	later map[tnv.VolumeID]time.Time // not to be tried before
	told  []string                   // the trackers that clients were told of last

	work sync.WaitGroup // takings and handings over; begun by run and drain alone

	// taking and giving bound how many volumes are opened and handed over at once:
	// renewals must not wait behind thousands of them. They are apart, since whoever
	// gives waits for another tracker that takes.
	taking, giving chan struct{}
}

// movesAtOnce is how many volumes are taken, and how many given, at the same time.
const movesAtOnce = 16

// join makes this tracker one of those that share the engine.
func (t *tracker) join(ctx context.Context, engine kv.Shared) error {
	host, _, err := net.SplitHostPort(t.addr)
	if ip := net.ParseIP(host); err != nil || host == "" || ip != nil && ip.IsUnspecified() {
		return tnv.E("trackerd", tnv.KindInvalid, "others cannot reach this tracker at %s: say where they can with --advertise HOST:PORT", t.addr)
	}
	me, err := engine.Join(ctx, t.addr)
	if err != nil {
		return err
	}
	t.contender = &contender{t: t, engine: engine, me: me, share: newSharing(me.ID), busy: map[tnv.VolumeID]bool{},
		meant: map[tnv.VolumeID]uint64{}, lost: map[tnv.VolumeID]tnv.Epoch{}, later: map[tnv.VolumeID]time.Time{},
		taking: make(chan struct{}, movesAtOnce), giving: make(chan struct{}, movesAtOnce)}
	if err := t.directory.refresh(ctx); err != nil {
		return err
	}
	// Maps of different trackers are told apart by their epochs: see members.go.
	known, _ := t.directory.groups()
	t.members = newMembers(tnv.Epoch(me.ID), known, t.log)
	t.follow()
	return t.contender.look(ctx)
}

// run renews, looks and acts until ctx ends.
func (c *contender) run(ctx context.Context) {
	defer c.work.Wait()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for troubled, cached := false, 0; ; {
		if n := c.t.held.count(); n != cached {
			cached = n
			c.t.shareCache()
		}
		err := c.look(ctx)
		if err == nil {
			c.act(ctx)
		}
		if (err != nil) != troubled && ctx.Err() == nil {
			if troubled = err != nil; troubled {
				c.t.log.WithError(err).Warn("the database does not answer: what it cannot renew this tracker does not answer for")
			} else {
				c.t.log.Info("the database answers again")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look renews the leases held here, and reads what all trackers and leases are.
func (c *contender) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if err := c.renew(ctx); err != nil {
		return err
	}
	trackers, err := c.engine.Trackers(ctx)
	if err != nil {
		return err
	}
	leases, err := c.engine.Leases(ctx)
	if err != nil {
		return err
	}
	now := clock.Boot()
	c.mu.Lock()
	c.share.observe(now, trackers, leases)
	c.mu.Unlock()
	c.tell()
	if err := c.t.directory.refresh(ctx); err != nil {
		return err
	}
	c.t.follow()
	return nil
}

// tell tells clients which trackers live, if that has changed.
func (c *contender) tell() {
	addrs := c.addrs()
	c.mu.Lock()
	same := slices.Equal(addrs, c.told)
	c.told = addrs
	c.mu.Unlock()
	if same {
		return
	}
	for _, h := range c.t.held.list() {
		h.tell(protocol.TypeTrackers, &protocol.Trackers{Addrs: addrs})
	}
}

// renew writes this tracker's record and renews its leases. What is not ours any
// more is given up.
func (c *contender) renew(ctx context.Context) error {
	sent := clock.Boot()
	held := slices.DeleteFunc(c.t.held.owned(), func(h *holding) bool { return h.fresh(sent) })
	leases := make([]kv.Lease, len(held))
	for i, h := range held {
		leases[i] = h.lease
	}
	c.mu.Lock()
	me := c.me
	c.mu.Unlock()
	ours, err := c.engine.Beat(ctx, me, leases)
	if err != nil {
		return err
	}
	for _, h := range held {
		if slices.ContainsFunc(ours, func(l kv.Lease) bool { return l.Vol == h.lease.Vol && l.Epoch == h.lease.Epoch }) {
			h.renewed(sent)
			continue
		}
		h.end()
		if c.t.held.take(h) {
			c.t.log.WithFields(logrus.Fields{"volume": h.lease.Vol, "epoch": h.lease.Epoch}).Warn("the volume has another owner")
			c.drop(h)
		}
	}
	return nil
}

// drop ends what is not owned any more.
func (c *contender) drop(h *holding) {
	c.t.held.forget(h)
	h.end()
	if h.volume != nil {
		h.volume.Disconnect()
	}
	h.close()
}

// gaveUp drops a volume that failed by itself. Its lease is still this tracker's,
// so it need not be waited for. A volume whose database has lost what was
// acknowledged is stopped: this tracker keeps it from everybody, and answers nothing.
func (c *contender) gaveUp(h *holding) {
	if !c.t.held.take(h) {
		return
	}
	if err := h.failure(); tnv.KindOf(err) == tnv.KindCorrupt {
		c.t.log.WithError(err).WithField("volume", h.lease.Vol).Error("the volume is stopped: restart this tracker to go on with what the database has")
		h.end()
		h.close()
		return
	}
	c.drop(h)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost[h.lease.Vol] = h.lease.Epoch
	c.later[h.lease.Vol] = time.Now().Add(retakePause)
}

// act takes and hands over what is due, each on a goroutine of its own.
func (c *contender) act(ctx context.Context) {
	now := clock.Boot()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.me.Draining {
		return
	}
	for _, h := range c.t.held.list() { // volumes that were deleted
		vol := h.lease.Vol
		if _, there := c.t.directory.get().Settings[vol]; h.volume != nil && !there && !c.busy[vol] {
			c.goLocked(vol, func() {
				if c.t.held.take(h) {
					c.giveBack(h)
				}
			})
		}
	}
	vols := append(c.t.directory.volumes(), meta.ClusterVolume)
	living := c.share.living(now)
	for vol, id := range shares(vols, living) {
		h := c.t.held.get(vol)
		switch {
		case c.busy[vol]:
		case h == nil && (id == c.me.ID || c.share.abandoned(vol, now)):
			lease, free := c.share.free(vol, now)
			if c.lost[vol] != 0 && c.lost[vol] == lease.Epoch {
				free = true
			}
			if free && time.Now().After(c.later[vol]) {
				c.goLocked(vol, func() { c.take(ctx, lease) })
			}
		case h != nil && id != c.me.ID:
			if c.meant[vol] == id { // for the second time: it is no passing difference
				delete(c.meant, vol)
				to := addrOf(living, id)
				c.goLocked(vol, func() {
					if c.answers(ctx, to) {
						c.handOver(ctx, h, to)
					}
				})
				continue
			}
			c.meant[vol] = id
		default:
			delete(c.meant, vol)
		}
	}
}

func addrOf(trackers []kv.Tracker, id uint64) string {
	for _, t := range trackers {
		if t.ID == id {
			return t.Addr
		}
	}
	return ""
}

// goLocked runs fn on a goroutine, with the volume busy until it is done.
func (c *contender) goLocked(vol tnv.VolumeID, fn func()) {
	c.busy[vol] = true
	c.work.Go(func() {
		defer func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.busy, vol)
		}()
		fn()
	})
}

// take acquires a volume and begins to execute its operations.
func (c *contender) take(ctx context.Context, seen kv.Lease) error {
	select {
	case c.taking <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.taking }()
	began := clock.Boot()
	lease, err := c.engine.Acquire(ctx, seen, c.t.addr, leaseTTL)
	if err != nil {
		return err // another was faster, or the owner lives
	}
	h := newHolding(lease, began+lease.TTL)
	log := c.t.log.WithFields(logrus.Fields{"volume": lease.Vol, "epoch": lease.Epoch, "before": seen.Holder})
	if err := c.openFresh(ctx, h); err != nil {
		log.WithError(err).Error("the volume cannot be opened")
		h.end()
		c.mu.Lock()
		c.later[lease.Vol] = time.Now().Add(retakePause)
		c.mu.Unlock()
		return errors.Join(err, c.release(lease))
	}
	log.WithField("took", (clock.Boot() - began).Round(time.Millisecond)).Info("took the volume over")
	return nil
}

// openFresh opens a volume, knowing all that the cluster's own volume said when the
// owner before ended: it may have been told not to commit what names some group.
func (c *contender) openFresh(ctx context.Context, h *holding) error {
	if err := c.t.directory.refresh(ctx); err != nil {
		return err
	}
	c.t.followClosed()
	return c.t.open(ctx, h)
}

// answerTimeout is how long a tracker may take to answer a question that costs it nothing.
const answerTimeout = 500 * time.Millisecond

// answers tells whether a tracker does: that its record grew a moment ago is not enough.
func (c *contender) answers(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return c.t.pool.Call(ctx, addr, protocol.TypeOwner, nil, &protocol.Owner{}) == nil
}

// handOver gives a volume back and tells the next owner, who begins at once. Where
// that one does not answer the others see that it was given back.
func (c *contender) handOver(ctx context.Context, h *holding, to string) {
	select {
	case c.giving <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-c.giving }()
	if !c.t.held.take(h) {
		return
	}
	c.giveBack(h)
	call, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	err := c.t.pool.Call(call, to, protocol.TypeTakeOver, nil, &protocol.TakeOver{Vol: h.lease.Vol, Epoch: h.lease.Epoch})
	if err != nil {
		c.t.log.WithError(err).WithFields(logrus.Fields{"volume": h.lease.Vol, "to": to}).Info("the next owner did not answer")
	}
}

// reachable asks trackers whether they answer, all at once, and gives those that do.
func (c *contender) reachable(ctx context.Context, trackers []kv.Tracker) (out []kv.Tracker) {
	answered := make([]bool, len(trackers))
	var wg sync.WaitGroup
	for i, t := range trackers {
		wg.Go(func() { answered[i] = c.answers(ctx, t.Addr) })
	}
	wg.Wait()
	for i, t := range trackers {
		if answered[i] {
			out = append(out, t)
		}
	}
	return out
}

// giveBack ends a volume's operations here and releases its lease. Whoever has a
// question under way is told to look elsewhere.
func (c *contender) giveBack(h *holding) {
	if h.volume != nil {
		h.volume.Disconnect()
	}
	h.close() // what was published is applied: renewals go on until then
	h.end()
	c.t.held.forget(h)
	log := c.t.log.WithFields(logrus.Fields{"volume": h.lease.Vol, "epoch": h.lease.Epoch})
	if err := c.release(h.lease); err != nil {
		log.WithError(err).Info("the volume was not given back: its lease lapses")
		return
	}
	log.Info("gave the volume back")
}

// release gives a lease back, whoever is in a hurry: else others wait until it lapses.
func (c *contender) release(l kv.Lease) error {
	ctx, cancel := context.WithTimeout(context.Background(), handOverTimeout)
	defer cancel()
	return c.engine.Release(ctx, l)
}

// takeOver answers another tracker that has given a volume back.
func (c *contender) takeOver(ctx context.Context, rq *protocol.TakeOver) error {
	c.mu.Lock()
	if c.me.Draining || c.busy[rq.Vol] || c.t.held.get(rq.Vol) != nil {
		c.mu.Unlock()
		return nil // it is on its way already, or not for this tracker
	}
	c.busy[rq.Vol] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.busy, rq.Vol)
	}()
	lease, err := c.engine.Lease(ctx, rq.Vol)
	if err != nil || !lease.Released || lease.Epoch != rq.Epoch {
		return err
	}
	if c.t.directory.name(rq.Vol) == "" && rq.Vol != meta.ClusterVolume {
		if err := c.t.directory.refresh(ctx); err != nil {
			return err
		}
	}
	return c.take(context.WithoutCancel(ctx), lease)
}

// drain hands all volumes over, and takes none any more. KindUnavailable: there is
// no other tracker; everything stays.
func (c *contender) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*handOverTimeout)
	defer cancel()
	if err := c.look(ctx); err != nil {
		return err
	}
	now := clock.Boot()
	c.mu.Lock()
	others := slices.DeleteFunc(c.share.living(now), func(t kv.Tracker) bool { return t.ID == c.me.ID || t.Draining })
	c.mu.Unlock()
	if others = c.reachable(ctx, others); len(others) == 0 {
		return tnv.E("drain", tnv.KindUnavailable, "there is no other tracker")
	}
	c.mu.Lock()
	c.me.Draining = true
	c.mu.Unlock()
	if err := c.look(ctx); err != nil {
		return err
	}
	held := c.t.held.list()
	vols := make([]tnv.VolumeID, len(held))
	for i, h := range held {
		vols[i] = h.lease.Vol
	}
	to := shares(vols, others)
	var wg sync.WaitGroup
	for _, h := range held {
		wg.Go(func() { c.handOver(ctx, h, addrOf(others, to[h.lease.Vol])) })
	}
	wg.Wait()
	return ctx.Err()
}

// leave says that this tracker is no more.
func (c *contender) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	if err := c.engine.Leave(ctx, c.me.ID); err != nil {
		c.t.log.WithError(err).Debug("the tracker's record stays: it lapses")
	}
}

// owner is who owns a volume, as far as was seen.
func (c *contender) owner(vol tnv.VolumeID) (addr string, epoch tnv.Epoch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.share.leases[vol]
	if !ok || l.Released || l.Holder == c.t.addr { // ours it would be if it were held
		return "", l.Epoch
	}
	return l.Holder, l.Epoch
}

// addrs are those of the living trackers.
func (c *contender) addrs() (all []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.share.living(clock.Boot()) {
		if all = append(all, t.Addr); len(all) == protocol.MaxTrackers {
			break
		}
	}
	return all
}
