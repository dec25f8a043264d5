package stored

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	callTimeout  = 5 * time.Second // of a question to a tracker
	leaveTimeout = time.Second     // of the last heartbeat
	defaultBeat  = time.Second     // where a tracker names none
	// mostJitter is how much later than asked for a heartbeat may be answered
	// before it counts as an absence.
	mostJitter = 400 * time.Millisecond
	minBackoff = 100 * time.Millisecond
	maxBackoff = 3 * time.Second
	logEvery   = 30 * time.Second
	// trackersEvery is how often a tracker is asked which trackers there are.
	trackersEvery = 5 * time.Second
)

// trackers keeps the daemon announced to each of its trackers: those that it was
// told of at its start, and those that trackers tell of since. Each has a goroutine,
// which owns the connection.
type trackers struct {
	d   *daemon
	ctx context.Context // of the goroutines
	// fatal takes the refusal that no retry can cure, if none was ever accepted.
	fatal chan error
	wg    sync.WaitGroup

	mu       sync.Mutex
	list     []*tracker
	accepted bool // some tracker took this store in, in this run
}

// tracker is one of them.
type tracker struct {
	t    *trackers
	addr string
	kick chan struct{} // a heartbeat is due at once
	log  *logrus.Entry
	// logged is when a failure was logged last: the goroutine's own.
	logged time.Time

	mu     sync.Mutex
	client *protocol.Client // nil while it does not know this store
}

func startTrackers(ctx context.Context, d *daemon) *trackers {
	t := &trackers{d: d, ctx: ctx, fatal: make(chan error, 1)}
	t.add(d.cfg.Trackers)
	return t
}

// add announces the store to trackers that are new.
func (t *trackers) add(addrs []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, addr := range addrs {
		known := slices.ContainsFunc(t.list, func(k *tracker) bool { return k.addr == addr })
		if _, _, err := net.SplitHostPort(addr); known || err != nil || len(t.list) >= protocol.MaxTrackers {
			continue
		}
		k := &tracker{t: t, addr: addr, kick: make(chan struct{}, 1), log: t.d.log.WithField("tracker", addr)}
		t.list = append(t.list, k)
		t.wg.Go(func() { k.run(t.ctx) })
	}
}

// all is the list as it is now.
func (t *trackers) all() []*tracker {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.list)
}

// wait returns when the trackers have been told that this store leaves; the
// context of startTrackers must have ended.
func (t *trackers) wait() { t.wg.Wait() }

// beat sends heartbeats at once: the figures changed.
func (t *trackers) beat() {
	for _, k := range t.all() {
		signal(k.kick)
	}
}

// connected are the trackers that know this store at present.
func (t *trackers) connected() []*protocol.Client {
	var cs []*protocol.Client
	for _, k := range t.all() {
		k.mu.Lock()
		if k.client != nil && k.client.Err() == nil {
			cs = append(cs, k.client)
		}
		k.mu.Unlock()
	}
	return cs
}

// hopeless tells of refusals that only an operator can cure.
func hopeless(err error) bool {
	switch tnv.KindOf(err) {
	case tnv.KindWrongCluster, tnv.KindConflict, tnv.KindAuth, tnv.KindVersion:
		return true
	}
	return false
}

func (k *tracker) run(ctx context.Context) {
	backoff := minBackoff
	for ctx.Err() == nil {
		began := time.Now()
		err := k.session(ctx)
		if ctx.Err() != nil {
			return
		}
		k.failed(err)
		if time.Since(began) > maxBackoff {
			backoff = minBackoff
		}
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// failed logs, once in a while, why there is no contact. The first refusal that
// no retry can cure ends the daemon, unless some tracker took this store in.
func (k *tracker) failed(err error) {
	k.t.mu.Lock()
	accepted := k.t.accepted
	k.t.mu.Unlock()
	if hopeless(err) && !accepted {
		select {
		case k.t.fatal <- tnv.Wrap("announce to tracker "+k.addr, err):
		default:
		}
	}
	if time.Since(k.logged) < logEvery {
		return
	}
	k.logged = time.Now()
	if hopeless(err) {
		k.log.WithError(err).Error("a tracker refuses this store: look at the configuration of both")
	} else {
		k.log.WithError(err).Warn("no contact with a tracker, trying on")
	}
}

// session connects, announces, and sends heartbeats until something fails.
func (k *tracker) session(ctx context.Context) error {
	c, err := protocol.DialClient(ctx, k.t.d.endpoint(), k.addr, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	defer k.publish(nil)
	if c.Role != protocol.RoleTracker {
		return tnv.E("connect to "+k.addr, tnv.KindInvalid, "a %.20q answers there, no tracker", c.Role)
	}
	every, err := k.announce(ctx, c)
	if err != nil {
		return err
	}
	k.publish(c)
	defer k.t.d.cluster.gone(k.addr)
	k.askTrackers(ctx, c)
	asked := time.Now()
	timer := time.NewTimer(every)
	defer timer.Stop()
	heard := time.Now()
	for {
		select {
		case <-ctx.Done():
			return k.leave(c)
		case <-timer.C:
		case <-k.kick:
		}
		if err := k.sendBeat(ctx, c, tnv.NodeAlive, max(3*every, 2*time.Second)); err != nil {
			if !errors.Is(err, tnv.KindNotExist) {
				return err
			}
			k.log.Info("the tracker does not know this store (any more): announcing again")
			if every, err = k.announce(ctx, c); err != nil {
				return err
			}
		}
		// A daemon that froze or was cut off may have been passed over, and sees
		// nothing of it in a map in which it is alive again.
		if time.Since(heard) > 2*every+mostJitter {
			signal(k.t.d.cluster.returned)
		}
		heard = time.Now()
		if heard.Sub(asked) > trackersEvery {
			k.askTrackers(ctx, c)
			asked = heard
		}
		timer.Reset(every)
	}
}

// askTrackers asks which trackers there are. One that does not know is no harm.
func (k *tracker) askTrackers(ctx context.Context, c *protocol.Client) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	var reply protocol.OwnerReply
	if err := c.Call(ctx, protocol.TypeOwner, &reply, &protocol.Owner{}); err == nil {
		k.t.add(reply.Trackers)
	}
}

func (k *tracker) publish(c *protocol.Client) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.client = c
}

func (k *tracker) announce(ctx context.Context, c *protocol.Client) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	d := k.t.d
	req := protocol.Announce{Node: d.self(), Group: d.cfg.Group, New: d.isNew(), SameHost: d.cfg.AllowSameHost}
	var reply protocol.AnnounceReply
	if err := c.Call(ctx, protocol.TypeAnnounce, &reply, &req); err != nil {
		return 0, err
	}
	k.t.mu.Lock()
	k.t.accepted = true
	k.t.mu.Unlock()
	if err := d.markAnnounced(); err != nil {
		return 0, err
	}
	d.cluster.joined(reply.Group)
	d.cluster.update(k.addr, &reply.Map)
	k.log.WithFields(logrus.Fields{"node": d.node.String(), "boot": uint64(d.boot), "group": d.cfg.Group}).Info("announced")
	every := time.Duration(reply.BeatMs) * time.Millisecond
	if every <= 0 {
		every = defaultBeat
	}
	return min(max(every, 10*time.Millisecond), 30*time.Second), nil
}

func (k *tracker) sendBeat(ctx context.Context, c *protocol.Client, state tnv.NodeState, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	d := k.t.d
	u := d.usage()
	if state == tnv.NodeAlive && u.Full {
		state = tnv.NodeFull
	}
	req := protocol.NodeBeat{Node: d.node, Boot: d.boot, State: state, Used: u.Used, Capacity: u.Capacity, Blocks: u.Blocks,
		CorruptBlocks: d.met.corrupt.get(), MendedBlocks: d.met.mended.get()}
	req.BehindBlocks, req.BehindBytes = d.behind.get()
	req.MapEpoch, req.MapVersion = d.cluster.version(k.addr)
	var reply protocol.NodeBeatReply
	if err := c.Call(ctx, protocol.TypeNodeBeat, &reply, &req); err != nil {
		return err
	}
	d.cluster.update(k.addr, reply.Map)
	if reply.Lacking > 0 {
		signal(d.told)
	}
	return nil
}

// leave sends the last heartbeat, after the daemon's context has ended.
func (k *tracker) leave(c *protocol.Client) error {
	return k.sendBeat(context.Background(), c, tnv.NodeLeaving, leaveTimeout)
}

// announcedFile marks, in the data directory, a store that a tracker knows.
const announcedFile = "announced"

// isNew tells whether this store never was part of a cluster.
func (d *daemon) isNew() bool {
	_, err := os.Stat(filepath.Join(d.cfg.Dir, announcedFile))
	return errors.Is(err, os.ErrNotExist) && d.usage().Blocks == 0
}

func (d *daemon) markAnnounced() error {
	path := filepath.Join(d.cfg.Dir, announcedFile)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return tnv.Wrap("mark the store as announced", os.WriteFile(path, []byte(d.node.String()+"\n"), 0o644))
}
