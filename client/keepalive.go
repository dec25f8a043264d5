package client

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/clock"
	"github.com/tnvfs/tnv/protocol"
)

// keepAlive tells the owner that the session lives, takes the cluster map and
// the inodes that lost their names. It runs until the client's life ends.
func (c *Client) keepAlive() {
	defer c.wg.Done()
	for {
		every := time.Second
		if a, err := c.link.attach(c.life); err == nil {
			if ms := a.sess.info.KeepAliveMs; ms > 0 {
				every = time.Duration(ms) * time.Millisecond
			}
			c.beat(a)
		}
		select {
		case <-time.After(every):
		case <-c.life.Done():
			return
		}
	}
}

func (c *Client) beat(a *attachment) {
	req := protocol.KeepAlive{Vol: a.sess.info.Vol, Session: a.sess.info.Session, MapVersion: c.cmap.version()}
	sent := clock.Boot()
	f, err := c.link.attempt(c.life, a, protocol.TypeKeepAlive, &req)
	var rep protocol.KeepAliveReply
	if err == nil {
		err = f.Decode(&rep)
	}
	if err != nil {
		if c.life.Err() == nil {
			c.cfg.Log.WithError(err).Debug("keep-alive failed")
			c.link.drop(a)
		}
		return
	}
	c.renewLeases(a.conn, &rep, sent)
	c.cmap.offer(rep.Map)
	c.releases.add(rep.Unlinked...)
	c.giveBack(a.sess)
}

// releases tells the owner of inodes that have no name, once no handle of them
// is open here. An inode that has one is told of when the last one closes.
//
// A file that is being created and opened in one go has no handle yet that could
// hold it back: such creations are counted by generation, and an inode is told
// of only when those that began before it was named here are over.
type releases struct {
	c    *Client
	kick chan struct{}

	mu       sync.Mutex
	due      []dueRelease
	held     map[tnv.Ino]bool // open here: due when closed
	named    map[tnv.Ino]bool // in due
	sending  map[tnv.Ino]bool // the owner is being told: no handle may be opened any more
	gen      uint64
	creating map[uint64]int // creations under way, by the generation they began in
}

type dueRelease struct {
	ino tnv.Ino
	gen uint64
}

// The kernel may be between its lookup of a name and its open: the inode stays so long.
const releaseDelay = 300 * time.Millisecond

func newReleases(c *Client) *releases {
	return &releases{c: c, kick: make(chan struct{}, 1), held: map[tnv.Ino]bool{}, named: map[tnv.Ino]bool{}, sending: map[tnv.Ino]bool{}, creating: map[uint64]int{}}
}

// add names inodes that have lost their last name.
func (r *releases) add(inos ...tnv.Ino) {
	if len(inos) == 0 {
		return
	}
	r.mu.Lock()
	for _, ino := range inos {
		if ino != 0 && !r.named[ino] && !r.sending[ino] && !r.held[ino] {
			r.named[ino] = true
			r.due = append(r.due, dueRelease{ino, r.gen})
		}
	}
	r.gen++
	r.mu.Unlock()
	r.wake()
}

func (r *releases) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// mayOpen registers nothing; it tells whether an inode may still be opened, by
// who has registered a handle.
func (r *releases) mayOpen(ino tnv.Ino) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.sending[ino]
}

// create begins a creation that opens; the function returned ends it.
func (r *releases) create() func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.gen
	r.creating[g]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.creating[g]--; r.creating[g] == 0 {
			delete(r.creating, g)
		}
	}
}

// closed says that the last handle of an inode is gone.
func (r *releases) closed(ino tnv.Ino) {
	r.mu.Lock()
	held := r.held[ino]
	delete(r.held, ino)
	r.mu.Unlock()
	if held {
		r.add(ino)
	}
}

// regained says that an inode has a name again (it was made without one): it is not
// to be released, and may be opened.
func (r *releases) regained(ino tnv.Ino) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, ino)
	delete(r.named, ino)
	delete(r.sending, ino)
	r.due = slices.DeleteFunc(r.due, func(d dueRelease) bool { return d.ino == ino })
}

// forget drops everything: the session it was for is over.
func (r *releases) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due, r.held, r.named, r.sending = nil, map[tnv.Ino]bool{}, map[tnv.Ino]bool{}, map[tnv.Ino]bool{}
}

// ready takes the inodes that can be told of now; those open here are put aside.
func (r *releases) ready() (inos []tnv.Ino, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := r.gen + 1
	for g := range r.creating {
		oldest = min(oldest, g)
	}
	var rest []dueRelease
	for _, d := range r.due {
		switch {
		case d.gen >= oldest || len(inos) == protocol.MaxBatch:
			rest = append(rest, d)
		case r.c.inodes.open(d.ino):
			r.held[d.ino] = true
			delete(r.named, d.ino)
		default:
			delete(r.named, d.ino)
			r.sending[d.ino] = true
			inos = append(inos, d.ino)
		}
	}
	r.due = rest
	return inos, len(rest) > 0
}

// run sends what is due, in batches, until the client's life ends.
func (r *releases) run() {
	defer r.c.wg.Done()
	for {
		select {
		case <-r.kick:
		case <-r.c.life.Done():
			return
		}
		select {
		case <-time.After(releaseDelay):
		case <-r.c.life.Done():
			return
		}
		inos, more := r.ready()
		if len(inos) > 0 {
			r.send(inos)
		}
		if more {
			r.wake()
		}
	}
}

func (r *releases) send(inos []tnv.Ino) {
	keys := make([]protocol.LeaseKey, len(inos))
	for i, ino := range inos {
		keys[i] = attrKey(ino)
	}
	r.c.leases.forget(keys) // they are gone as soon as the owner has heard
	_, err := r.c.read(r.c.life, tnv.Root, protocol.TypeReleased, &nothing{}, &protocol.Released{Inos: inos})
	if err != nil && r.c.life.Err() == nil {
		// The owner names them again with the next keep-alive.
		r.c.cfg.Log.WithError(err).Debug("released inodes not told")
	}
	if err == nil {
		r.c.inodes.gone(inos)
	}
	r.mu.Lock()
	for _, ino := range inos {
		delete(r.sending, ino)
	}
	r.mu.Unlock()
}

// refreshMap asks for the cluster map at once.
func (c *Client) refreshMap(ctx context.Context) error {
	var rep protocol.GetMapReply
	m := c.cmap.get()
	req := protocol.GetMap{}
	if m != nil {
		req.IfVersion, req.Epoch = m.Version, m.Epoch
	}
	if err := c.plain(ctx, protocol.TypeGetMap, &rep, &req); err != nil {
		return err
	}
	c.cmap.offer(rep.Map)
	return nil
}

// clusterMap keeps the newest map of the tracker that owns the volume: each makes its
// own, in an epoch of its own, and what another one measured does not count any more.
type clusterMap struct {
	mu sync.RWMutex
	m  *tnv.Map
}

func (k *clusterMap) get() *tnv.Map {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.m
}

func (k *clusterMap) version() uint64 {
	if m := k.get(); m != nil {
		return m.Version
	}
	return 0
}

func (k *clusterMap) offer(m *tnv.Map) {
	if m == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.m == nil || m.Epoch != k.m.Epoch || m.Version > k.m.Version {
		k.m = m
	}
}
