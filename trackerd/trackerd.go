// Package trackerd is the tracker: it keeps the cluster map, executes the
// metadata operations of the volumes that it owns, and sees to it that freed
// blocks are deleted.
//
// The way of a request: the server (serve) hands a frame to the volume that
// its Head names (package meta) or, if it is about the cluster, to the members
// (members.go), which know every storage daemon by announcement and heartbeat.
// The sweeper (sweep.go) sends deletions and ends what is silent for too long.
//
// On a shared engine several trackers run. Each volume has one owner, and so has
// the cluster's own, volume 0, in which stores are admitted. Who is to own what
// sharing.go decides, contend.go carries out; what is owned here is a holding, and
// nothing is answered unless it is owned for certain as the answer leaves
// (holding.go). Membership is common: it stands in volume 0, which every tracker
// reads (directory.go). Who of the stores is alive each tracker measures for itself,
// by their heartbeats to it: a store announces itself to every tracker.
package trackerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/admin"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/pebble"
	"github.com/tnvfs/tnv/kv/postgres"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
	"github.com/tnvfs/tnv/ship"
)

// Config says how a tracker runs. Listen, Dir and Key are needed.
type Config struct {
	Listen     string // host:port; port 0 takes a free one
	Advertise  string // what others connect to; empty: the listener's address
	Meta       string // database of a cluster of trackers: postgres://…; empty: the embedded engine
	Dir        string // of the embedded engine; made if it is not there
	Key        protocol.Key
	Durability string   // "os" (default): survives kill -9 at once, power loss within a second; "sync": both at once
	Volumes    []string // made if they are not there. Nil: "media"
	Memory     int64    // bytes; half of it for records and the engine's cache. 0: 512 MiB
	Admin      string   // address of the side door; empty: none
	// Quarantine is how long a block that nothing names is kept; 0: 24 hours.
	Quarantine   time.Duration
	CollectEvery time.Duration // how often the stores are looked through for such blocks; 0: 1 hour
	// NoCopies has the embedded engine not shipped to the storage groups: the loss of
	// its disk is the loss of the library.
	NoCopies bool
	Log      *logrus.Entry
	Ready    func(addr string) // called once, when requests are answered

	openEngine func(ctx context.Context, cfg Config) (kv.Engine, error) // for tests; nil: by Meta and Dir
}

// Defaults of Config.
const (
	DefaultMemory       = 512 << 20
	DefaultQuarantine   = 24 * time.Hour
	DefaultCollectEvery = time.Hour
)

func (c *Config) check() error {
	const op = "trackerd"
	if c.Durability == "" {
		c.Durability = "os"
	}
	if len(c.Volumes) == 0 {
		c.Volumes = []string{"media"}
	}
	if c.Memory == 0 {
		c.Memory = DefaultMemory
	}
	if c.Log == nil {
		c.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	if c.Quarantine == 0 {
		c.Quarantine = DefaultQuarantine
	}
	if c.CollectEvery == 0 {
		c.CollectEvery = DefaultCollectEvery
	}
	switch {
	case c.Quarantine < 0 || c.CollectEvery < 0:
		return tnv.E(op, tnv.KindInvalid, "a quarantine or period below zero")
	case c.Dir == "" && c.Meta == "" && c.openEngine == nil:
		return tnv.E(op, tnv.KindInvalid, "neither a directory nor a database is given")
	case c.Meta != "" && !strings.HasPrefix(c.Meta, "postgres://") && !strings.HasPrefix(c.Meta, "postgresql://"):
		return tnv.E(op, tnv.KindInvalid, "metadata in %q: want postgres://…, or a directory alone", c.Meta)
	case c.Listen == "":
		return tnv.E(op, tnv.KindInvalid, "no address to listen on is given")
	case len(c.Key.Secret) == 0:
		return tnv.E(op, tnv.KindInvalid, "no cluster key is given")
	case c.Durability != "os" && c.Durability != "sync":
		return tnv.E(op, tnv.KindInvalid, `durability %q: want "os" or "sync"`, c.Durability)
	case len(slices.Compact(slices.Sorted(slices.Values(c.Volumes)))) < len(c.Volumes):
		return tnv.E(op, tnv.KindInvalid, "a volume is named twice: %q", c.Volumes)
	case c.Memory < 64<<20:
		return tnv.E(op, tnv.KindInvalid, "%d bytes of memory: at least 64 MiB", c.Memory)
	}
	return nil
}

// tracker is a running tracker. Its fields do not change after start.
type tracker struct {
	cfg       Config
	addr      string // advertised
	log       *logrus.Entry
	engine    kv.Engine
	held      *holdings
	directory *directory
	contender *contender // nil: the engine is exclusive
	members   *members
	watchers  *watchers
	pool      *protocol.Pool
	admin     *admin.Admin
	metrics   *metrics
	barrier   barrier
	watching  sync.WaitGroup // of holdings
	failed    chan error     // takes why the tracker cannot go on

	journal *ship.Journal // nil: the engine is not shipped
	shipper *ship.Shipper // as above, and before it is started

	changing   sync.Mutex // held while volumes are opened and closed as the registry says
	collecting sync.Mutex // one comparison of stores with metadata at a time
	fscks      fscks
	jobs       jobs
	life       context.Context // of what runs in the background; set by serve
	background sync.WaitGroup
}

// closeLimit is how long the database may be away while the tracker stops.
const closeLimit = 5 * time.Second

// Run runs a tracker until ctx ends, then stops it cleanly: what it owns it hands
// over to other trackers. It returns earlier, with an error, if it cannot start, or
// if a volume of the embedded engine cannot be executed any more.
func Run(ctx context.Context, cfg Config) (err error) {
	if err := cfg.check(); err != nil {
		return err
	}
	t := &tracker{cfg: cfg, log: cfg.Log, held: newHoldings(), admin: admin.New(), failed: make(chan error, 1)}
	t.watchers = newWatchers(func() *protocol.MapChanged { return &protocol.MapChanged{Map: *t.members.Map()} })
	if t.engine, err = openEngine(ctx, cfg); err != nil {
		return err
	}
	defer func() {
		if e := t.engine.Close(); !errors.Is(e, kv.ErrClosed) {
			err = errors.Join(err, e)
		}
	}()
	t.engine = t.journalled(t.engine)
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return &tnv.Error{Op: "trackerd", Kind: tnv.KindInvalid, Msg: "cannot listen on " + cfg.Listen, Err: err}
	}
	defer ln.Close()
	t.addr = cfg.Advertise
	if t.addr == "" {
		t.addr = ln.Addr().String()
	}
	endpoint := &protocol.Endpoint{Key: cfg.Key, Role: protocol.RoleTracker}
	t.pool = &protocol.Pool{Endpoint: endpoint}
	defer t.pool.Close()
	defer t.stopShipping() // when the volumes are closed
	defer t.closeVolumes()
	if err := t.start(ctx); err != nil {
		return err
	}
	if err := t.startShipping(ctx); err != nil {
		return err
	}
	t.metrics = newMetrics(t)
	if err := t.admin.Serve(ctx, cfg.Admin); err != nil {
		return err
	}
	return t.serve(ctx, endpoint, ln)
}

func openEngine(ctx context.Context, cfg Config) (kv.Engine, error) {
	switch {
	case cfg.openEngine != nil:
		return cfg.openEngine(ctx, cfg)
	case cfg.Meta != "":
		return postgres.Open(ctx, cfg.Meta, postgres.Options{Cluster: cfg.Key.Cluster, Log: cfg.Log})
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, &tnv.Error{Op: "trackerd", Kind: tnv.KindInvalid, Msg: "cannot make the data directory", Err: err}
	}
	return openPebble(cfg)
}

// openPebble opens the embedded engine in the tracker's directory.
func openPebble(cfg Config) (kv.Engine, error) {
	opt := pebble.Options{Log: cfg.Log, CacheSize: cfg.Memory / 8, MemTableSize: min(64<<20, uint64(cfg.Memory)/16)}
	if cfg.Durability == "sync" {
		opt.Durability = pebble.Sync
	}
	e, err := pebble.Open(filepath.Join(cfg.Dir, "meta"), opt)
	if err != nil {
		return nil, err
	}
	if err := checkCluster(cfg); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// checkCluster ties the data directory to a cluster: another cluster's key must
// not open it. The engine is open, so no other tracker is at work here.
func checkCluster(cfg Config) error {
	path := filepath.Join(cfg.Dir, "cluster")
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return writeDurably(path, cfg.Key.Cluster)
	}
	if err != nil {
		return err
	}
	if string(b) != cfg.Key.Cluster {
		return tnv.E("trackerd", tnv.KindWrongCluster, "%s belongs to cluster %.40q, the key to %s: give the key of that cluster, or another directory", cfg.Dir, b, cfg.Key.Cluster)
	}
	return nil
}

// writeDurably makes a file that is on disk, whole, when this returns; a crash
// leaves it whole or not there.
func writeDurably(path, content string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// start takes all volumes, where nobody else can have them, or joins the trackers
// among which they are shared out.
func (t *tracker) start(ctx context.Context) error {
	t.directory = newDirectory(t.engine)
	shared, ok := t.engine.(kv.Shared)
	if !t.engine.Exclusive() && ok {
		return t.join(ctx, shared)
	}
	h, err := t.own(ctx, meta.ClusterVolume)
	if err != nil {
		return err
	}
	if err := t.directory.refresh(ctx); err != nil {
		return err
	}
	known, _ := t.directory.groups()
	t.members = newMembers(h.lease.Epoch, known, t.log)
	return t.ownAll(ctx, t.directory.volumes())
}

// ownAtOnce is how many volumes are taken at the same time: their leases share syncs.
const ownAtOnce = 64

// ownAll takes volumes of the embedded engine, unless they are held.
func (t *tracker) ownAll(ctx context.Context, ids []tnv.VolumeID) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []error
	limit := make(chan struct{}, ownAtOnce)
	for _, id := range ids {
		if t.held.get(id) != nil {
			continue
		}
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			_, err := t.own(ctx, id)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, err)
		})
	}
	wg.Wait()
	t.shareCache()
	return errors.Join(all...)
}

// own takes a volume of the embedded engine, which is open in one process at a
// time: whoever held the lease is dead.
func (t *tracker) own(ctx context.Context, vol tnv.VolumeID) (*holding, error) {
	seen, err := t.engine.Lease(ctx, vol)
	if err != nil {
		return nil, err
	}
	lease, err := t.engine.Acquire(ctx, seen, t.addr, leaseTTL)
	if err != nil {
		return nil, err
	}
	h := newHolding(lease, forever)
	return h, t.open(ctx, h)
}

// open begins to execute the operations of a volume whose lease is held.
func (t *tracker) open(ctx context.Context, h *holding) (err error) {
	t.held.open(h)
	defer func() {
		if err != nil {
			t.held.forget(h)
			return
		}
		t.held.opened(h)
	}()
	if h.lease.Vol == meta.ClusterVolume {
		if h.registry, err = meta.OpenRegistry(ctx, t.engine, h.lease, t.log); err != nil {
			return err
		}
		for _, name := range t.cfg.Volumes {
			if _, err = h.registry.EnsureVolume(ctx, name); err != nil {
				h.registry.Close()
				return err
			}
		}
		t.watch(h, "the cluster's registry")
		return nil
	}
	name := t.directory.name(h.lease.Vol)
	h.volume, err = meta.OpenVolume(ctx, t.engine, h.lease, name, meta.Config{Cluster: t.members,
		CacheBytes: t.cacheShare(t.held.count() + 1), Log: t.log.WithField("volume", name)})
	if err != nil {
		return err
	}
	if set, there := t.directory.get().Settings[h.lease.Vol]; there {
		h.volume.SetSettings(set)
	}
	t.watch(h, "volume "+name)
	return nil
}

// minCache is what a volume's records may take in memory at least, in bytes.
const minCache = 1 << 20

// cacheShare is what the records of one of so many volumes may take.
func (t *tracker) cacheShare(volumes int) int64 {
	return max(t.cfg.Memory/4/int64(max(volumes, 1)), minCache)
}

// shareCache divides the memory for records among the volumes that are owned.
func (t *tracker) shareCache() {
	all := t.held.volumes()
	for _, v := range all {
		v.SetCache(t.cacheShare(len(all)))
	}
}

// watch sees to a volume that fails: another tracker may take it, or this one
// again; the embedded engine's tracker ends.
func (t *tracker) watch(h *holding, what string) {
	t.watching.Go(func() {
		select {
		case <-h.ended:
		case <-h.dead():
			if t.contender != nil {
				t.contender.gaveUp(h)
				return
			}
			if t.held.get(h.lease.Vol) != h { // it was closed because the volume was deleted
				return
			}
			select {
			case t.failed <- fmt.Errorf("%s was given up: see the log", what):
			default:
			}
		}
	})
}

// closeVolumes ends what is owned, and gives it back if somebody else may have it.
func (t *tracker) closeVolumes() {
	if t.contender != nil {
		impatient := time.AfterFunc(closeLimit, func() { t.engine.Close() })
		defer impatient.Stop()
	}
	for _, h := range slices.Backward(t.held.list()) { // the cluster's own is the last
		if !t.held.take(h) {
			continue
		}
		if t.contender != nil {
			t.contender.giveBack(h)
			continue
		}
		h.close()
		h.end()
		t.held.forget(h)
	}
	if t.contender != nil {
		t.contender.leave()
	}
	t.watching.Wait()
}

// serve answers requests until ctx ends or a volume fails.
func (t *tracker) serve(ctx context.Context, endpoint *protocol.Endpoint, ln net.Listener) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	t.life = work
	if err := t.resumeDrains(work); err != nil {
		cancel()
		t.background.Wait()
		return err
	}
	srv := &protocol.Server{Endpoint: endpoint, Log: t.log, Handle: t.handle, Closed: t.disconnected, Inline: meta.IsQuery, MaxOutstanding: 512}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	var working sync.WaitGroup
	working.Go(func() { t.sweep(work) })
	working.Go(func() { t.pushMaps(work) })
	if t.contender != nil {
		working.Go(func() { t.contender.run(work) })
	}
	t.log.WithFields(logrus.Fields{"addr": t.addr, "engine": t.engine.Name()}).Info("tracker is ready")
	if t.cfg.Ready != nil {
		t.cfg.Ready(t.addr)
	}
	var err error
	select {
	case <-ctx.Done():
		if t.contender != nil { // while it still answers
			if err := t.contender.drain(work); err != nil {
				t.log.WithError(err).Info("no other tracker takes the volumes")
			}
		}
	case err = <-t.failed:
	}
	cancel()
	srv.Close()
	<-served
	working.Wait()
	t.background.Wait()
	if err == nil {
		t.log.Info("tracker has stopped")
	}
	return err
}
