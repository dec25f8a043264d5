// Package trackerd is the tracker: it keeps the cluster map, executes the
// metadata operations of the volumes that it owns, and sees to it that freed
// blocks are deleted.
//
// The way of a request: the server (serve.go) hands a frame to the volume that
// its Head names (package meta) or, if it is about the cluster, to the members
// (members.go), which know every storage daemon by announcement and heartbeat.
// The sweeper (sweep.go) sends deletions and ends what is silent for too long.
package trackerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/admin"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/pebble"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

// Config says how a tracker runs. Listen, Dir and Key are needed.
type Config struct {
	Listen     string // host:port; port 0 takes a free one
	Advertise  string // what others connect to; empty: the listener's address
	Dir        string // of the embedded engine; made if it is not there
	Key        protocol.Key
	Durability string   // "os" (default): survives kill -9 at once, power loss within a second; "sync": both at once
	Volumes    []string // made if they are not there. Nil: "media"
	Memory     int64    // bytes; half of it for records and the engine's cache. 0: 512 MiB
	Admin      string   // address of the side door; empty: none
	// Quarantine is how long a block that nothing names is kept; 0: 24 hours.
	Quarantine   time.Duration
	CollectEvery time.Duration // how often the stores are looked through for such blocks; 0: 1 hour
	Log          *logrus.Entry
	Ready        func(addr string) // called once, when requests are answered
}

// Defaults of Config.
const (
	DefaultMemory = 512 << 20
	leaseTTL      = 3 * time.Second

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
	case c.Dir == "":
		return tnv.E(op, tnv.KindInvalid, "no directory is given")
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

// tracker is a running tracker. Its fields do not change after start, but for the barrier.
type tracker struct {
	cfg      Config
	addr     string // advertised
	log      *logrus.Entry
	engine   kv.Engine
	registry *meta.Registry
	volumes  map[tnv.VolumeID]*meta.Volume
	names    map[string]*meta.Volume
	members  *members
	pool     *protocol.Pool
	admin    *admin.Admin
	metrics  *metrics
	barrier  barrier

	collecting sync.Mutex // one comparison of stores with metadata at a time
	fscks      fscks
	jobs       jobs
	life       context.Context // of what runs in the background
	background sync.WaitGroup
}

// Run runs a tracker until ctx ends, then stops it cleanly. It returns earlier,
// with an error, if it cannot start or a volume cannot be executed any more.
func Run(ctx context.Context, cfg Config) (err error) {
	if err := cfg.check(); err != nil {
		return err
	}
	t := &tracker{cfg: cfg, log: cfg.Log, volumes: map[tnv.VolumeID]*meta.Volume{}, names: map[string]*meta.Volume{}, admin: admin.New()}
	if t.engine, err = openEngine(cfg); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.engine.Close()) }()
	if err := checkCluster(cfg); err != nil {
		return err
	}
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
	defer t.closeVolumes()
	if err := t.openVolumes(ctx); err != nil {
		return err
	}
	t.metrics = newMetrics(t)
	if err := t.admin.Serve(ctx, cfg.Admin); err != nil {
		return err
	}
	return t.serve(ctx, endpoint, ln)
}

func openEngine(cfg Config) (kv.Engine, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, &tnv.Error{Op: "trackerd", Kind: tnv.KindInvalid, Msg: "cannot make the data directory", Err: err}
	}
	opt := pebble.Options{Log: cfg.Log, CacheSize: cfg.Memory / 8, MemTableSize: min(64<<20, uint64(cfg.Memory)/16)}
	if cfg.Durability == "sync" {
		opt.Durability = pebble.Sync
	}
	return pebble.Open(filepath.Join(cfg.Dir, "meta"), opt)
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

// own takes a volume's lease. The embedded engine is open in one process at a
// time, so whoever held the lease is dead.
func (t *tracker) own(ctx context.Context, vol tnv.VolumeID) (kv.Lease, error) {
	seen, err := t.engine.Lease(ctx, vol)
	if err != nil {
		return kv.Lease{}, err
	}
	if !t.engine.Exclusive() {
		return kv.Lease{}, tnv.E("trackerd", tnv.KindNotSupported, "engine %s is not exclusive", t.engine.Name())
	}
	return t.engine.Acquire(ctx, seen, t.addr, leaseTTL)
}

func (t *tracker) openVolumes(ctx context.Context) error {
	lease, err := t.own(ctx, meta.ClusterVolume)
	if err != nil {
		return err
	}
	if t.registry, err = meta.OpenRegistry(ctx, t.engine, lease, t.log); err != nil {
		return err
	}
	known, err := t.registry.Known(ctx)
	if err != nil {
		return err
	}
	t.members = newMembers(t.registry.Epoch(), known, t.log)
	for _, name := range t.cfg.Volumes {
		id, err := t.registry.EnsureVolume(ctx, name)
		if err != nil {
			return err
		}
		if lease, err = t.own(ctx, id); err != nil {
			return err
		}
		v, err := meta.OpenVolume(ctx, t.engine, lease, name, meta.Config{Cluster: t.members,
			CacheBytes: t.cfg.Memory / 4 / int64(len(t.cfg.Volumes)), Log: t.log.WithField("volume", name)})
		if err != nil {
			return err
		}
		t.volumes[id], t.names[name] = v, v
	}
	return nil
}

func (t *tracker) closeVolumes() {
	for _, v := range t.volumes {
		v.Close()
	}
	if t.registry != nil {
		t.registry.Close()
	}
}

// serve answers requests until ctx ends or a volume fails.
func (t *tracker) serve(ctx context.Context, endpoint *protocol.Endpoint, ln net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t.life = ctx
	if err := t.resumeDrains(ctx); err != nil {
		return err
	}
	srv := &protocol.Server{Endpoint: endpoint, Log: t.log, Handle: t.handle, Closed: t.members.disconnected, Inline: meta.IsQuery, MaxOutstanding: 512}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		t.sweep(ctx)
	}()
	var watching sync.WaitGroup
	watch := func(what string, dead <-chan struct{}) {
		watching.Go(func() {
			select {
			case <-dead:
				cancel(fmt.Errorf("%s was given up: see the log", what))
			case <-ctx.Done():
			}
		})
	}
	watch("the cluster's registry", t.registry.Dead())
	for _, v := range t.volumes {
		watch("volume "+v.Name(), v.Dead())
	}
	t.log.WithFields(logrus.Fields{"addr": t.addr, "engine": t.engine.Name()}).Info("tracker is ready")
	if t.cfg.Ready != nil {
		t.cfg.Ready(t.addr)
	}
	<-ctx.Done()
	srv.Close()
	<-served
	<-swept
	t.background.Wait()
	watching.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	t.log.Info("tracker has stopped")
	return nil
}
