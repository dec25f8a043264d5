package stored

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/admin"
	"github.com/tnvfs/tnv/protocol"
)

const (
	// idleConnection is how long a connection on which nothing is asked stays.
	idleConnection = 2 * time.Minute
	// stopGrace is how long requests under way may take when the daemon stops.
	stopGrace  = 2 * time.Second
	socketName = "stored.sock"
	// maxSocketPath is below what sun_path holds: see unix(7).
	maxSocketPath = 99
)

// daemon is a storage daemon that runs. Its fields are set before the first
// request and do not change.
type daemon struct {
	cfg   Config
	log   *logrus.Entry
	store store
	node  tnv.NodeID
	boot  tnv.BootID
	addr  string // that others are told
	local string // unix socket for clients on this host; may be empty

	mem      *memory
	disk     *budget // reads at the disk at once
	writes   *budget // writes and syncs at once
	watch    diskWatch
	slow     atomic.Bool    // what watch last said
	probes   sync.WaitGroup // of the disk
	pool     *protocol.Pool
	hops     hops
	cluster  *cluster
	trackers *trackers
	repairs  *repairs
	behind   behind
	compared atomic.Bool // with all peers, since the start
	viewers  viewers
	scrubs   scrubber
	told     chan struct{} // a tracker says that blocks are lacking here
	met      *metrics
	requests requests
	unwell   unwell
	locators locators
}

// Run opens the store in cfg.Dir, or makes one in an empty directory, and
// serves it until ctx ends; then it tells the trackers, finishes the requests
// under way and closes the store. It returns nil after a clean stop, and an
// error that says what to do if the store, the address or every tracker refuses.
func Run(ctx context.Context, cfg Config) error {
	return runWith(ctx, cfg, func(*daemon) {})
}

// runWith is Run; opened is called with the daemon before anyone else sees it.
func runWith(ctx context.Context, cfg Config, opened func(*daemon)) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	d := &daemon{cfg: cfg, log: cfg.Log, told: make(chan struct{}, 1), mem: newMemory(cfg.Memory), disk: newBudget("the disk", diskOps), writes: newBudget("the disk", diskWrites)}
	d.viewers.slow.rate = float64(max(cfg.CopyRate/yieldShare, 1))
	d.scrubs.wake = make(chan struct{}, 1)
	if err := d.openStore(); err != nil {
		return err
	}
	opened(d)
	err = d.run(ctx)
	if cerr := d.store.Close(); cerr != nil {
		err = errors.Join(err, tnv.Wrap("close the store in "+cfg.Dir, cerr))
	}
	return err
}

func (d *daemon) run(ctx context.Context) error {
	lns, err := d.listen()
	if err != nil {
		return err
	}
	d.pool = &protocol.Pool{Endpoint: d.endpoint(), MaxIdle: 32}
	defer d.pool.Close()
	d.cluster = newCluster(d.node)
	srv := &protocol.Server{Endpoint: d.endpoint(), Log: d.log, Block: d.handle, Closed: d.locators.closed, Idle: idleConnection}
	adm := admin.New()
	d.met = newMetrics(d, adm.Registry)

	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	announcing, stopAnnouncing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAnnouncing()
	if err := d.health(announcing, adm); err != nil {
		closeAll(lns)
		return err
	}
	d.repairs = startRepairs(background, d)
	d.trackers = startTrackers(announcing, d)
	var serving, work sync.WaitGroup
	for _, ln := range lns {
		serving.Go(func() { srv.Serve(ln) })
	}
	work.Go(func() { d.converge(background) })
	work.Go(func() { d.scrub(background) })
	work.Go(func() { d.watchDisk(background) })
	d.log.WithFields(logrus.Fields{"addr": d.addr, "node": d.node.String(), "boot": uint64(d.boot), "dir": d.cfg.Dir, "group": d.cfg.Group}).Info("serving blocks")
	if d.cfg.Ready != nil {
		d.cfg.Ready(lns[0].Addr().String())
	}

	select {
	case <-ctx.Done():
	case err = <-d.trackers.fatal:
	}
	d.log.Info("stopping")
	stopBackground()
	stopAnnouncing()
	d.trackers.wait()
	closeAll(lns)
	d.requests.drain(stopGrace)
	srv.Close()
	serving.Wait()
	work.Wait()
	d.probes.Wait()
	d.repairs.wg.Wait()
	return err
}

func (d *daemon) endpoint() *protocol.Endpoint {
	return &protocol.Endpoint{Key: d.cfg.Key, Role: protocol.RoleStore}
}

func closeAll(lns []net.Listener) {
	for _, ln := range lns {
		ln.Close()
	}
}

// listen takes the address, and a unix socket in the data directory.
func (d *daemon) listen() ([]net.Listener, error) {
	ln, err := net.Listen("tcp", d.cfg.Listen)
	if err != nil {
		return nil, tnv.Wrap("listen on "+d.cfg.Listen, err)
	}
	d.addr = d.cfg.Advertise
	if d.addr == "" {
		a := ln.Addr().(*net.TCPAddr)
		if a.IP.IsUnspecified() {
			ln.Close()
			return nil, tnv.E("listen on "+d.cfg.Listen, tnv.KindInvalid, "others cannot connect to %v: say with --advertise which address they shall use", a)
		}
		d.addr = a.String()
	}
	lns := []net.Listener{ln}
	path, err := filepath.Abs(filepath.Join(d.cfg.Dir, socketName))
	if err != nil || len(path) > maxSocketPath {
		d.log.WithField("path", path).Info("no unix socket: the data directory's path is too long for one")
		return lns, nil
	}
	os.Remove(path) // of a daemon that was killed: the store is locked, so none lives
	u, err := net.Listen("unix", path)
	if err != nil {
		d.log.WithError(err).Warn("no unix socket: clients on this host read over TCP")
		return lns, nil
	}
	d.local = path
	return append(lns, u), nil
}

// self is this store as it announces itself.
func (d *daemon) self() tnv.Node {
	u := d.usage()
	return tnv.Node{ID: d.node, Boot: d.boot, Addr: d.addr, Host: d.cfg.Host, Local: d.local, Used: u.Used, Capacity: u.Capacity}
}

func (d *daemon) health(ctx context.Context, adm *admin.Admin) error {
	adm.Check("store", d.unwell.get)
	adm.Check("trackers", func() error {
		if len(d.trackers.connected()) == 0 {
			return tnv.E("trackers", tnv.KindUnavailable, "none of %v is connected", d.cfg.Trackers)
		}
		return nil
	})
	return adm.Serve(ctx, d.cfg.Admin)
}

// unwell is the last failure of the disk, until it works again.
type unwell struct {
	mu  sync.Mutex
	err error
}

func (u *unwell) set(err error) {
	u.mu.Lock()
	u.err = err
	u.mu.Unlock()
}

func (u *unwell) get() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// requests counts those under way, and lets none begin once the daemon stops.
type requests struct {
	mu       sync.Mutex
	n        int
	stopping bool
	none     chan struct{} // closed when stopping and none is under way
}

func (r *requests) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		return false
	}
	r.n++
	return true
}

func (r *requests) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n--; r.stopping && r.n == 0 {
		close(r.none)
	}
}

// drain lets none begin and waits for those under way, at most so long.
func (r *requests) drain(grace time.Duration) {
	r.mu.Lock()
	r.stopping, r.none = true, make(chan struct{})
	if r.n == 0 {
		close(r.none)
	}
	r.mu.Unlock()
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-r.none:
	case <-t.C:
	}
}
