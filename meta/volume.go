// Package meta is the file system: the records of a volume, the executor that
// changes them, and one operation per file (op_*.go).
//
// It promises what the design asks of an owner: operations are executed one
// after another, each as a whole or not at all, and answered only when they and
// all that they have seen are as durable as the engine promises; a repeated one
// is answered as the first time; no id is given twice; a block is named dead
// only when nothing can ever name it again, and its deletion leaves only when
// the metadata that freed it is on disk.
//
// The way of an operation: Volume.Do finds its entry in the table of operations,
// the store runs it over the records (store.go, tx.go), the committer applies
// the batch (commit.go), the reply leaves.
package meta

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/protocol"
)

// Config says how a volume is run. The zero values work, Cluster excepted.
type Config struct {
	Cluster       Cluster
	CacheBytes    int64         // of records in memory. 0: 64 MiB
	SessionExpiry time.Duration // without contact. 0: 2 minutes
	KeepAlive     time.Duration // asked of clients. 0: 1 second
	LeaseTTL      time.Duration // how long leases last without a renewal. 0: 3 seconds
	MinReplicas   uint32        // live holders that a commit needs, capped by the group's live members. 0: 2
	Log           *logrus.Entry
}

// Cluster is what a volume must know of the storage groups.
type Cluster interface {
	// Map is the current cluster map. Called under the volume's lock: it must
	// return at once. The map is not changed afterwards.
	Map() *tnv.Map
}

// Volume executes the operations of one volume that is owned here. Methods are
// called from any goroutine.
type Volume struct {
	*store
	set     atomic.Pointer[Settings]
	cluster Cluster
	cfg     Config
	leases  *leases
	locks   lockTable // guarded by mu

	smu      sync.Mutex // guards what follows; taken inside mu, never around it
	sessions map[tnv.SessionID]*liveSession
	grants   map[tnv.SessionID]map[tnv.BlockID]bool // first ids of their grants
	counts   counts
	expired  time.Time // when Expire was called last

	reclaim   map[tnv.Ino]bool // inodes to reclaim (no name, no holder) or to trim
	reclaimer chan struct{}    // kicked when there are some
	cancel    context.CancelFunc
	bg        sync.WaitGroup
}

// counts are kept in memory: of records that `tnv status` tells the number of.
type counts struct {
	deletions map[tnv.NodeID]int64
	lacking   map[tnv.NodeID]int64
	lackBytes map[tnv.NodeID]int64
	unlinked  int64
}

// OpenVolume begins to execute operations on a volume whose lease is held. The
// volume is made if it is empty.
func OpenVolume(ctx context.Context, engine kv.Engine, lease kv.Lease, name string, cfg Config) (*Volume, error) {
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 64 << 20
	}
	if cfg.SessionExpiry == 0 {
		cfg.SessionExpiry = 2 * time.Minute
	}
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = time.Second
	}
	if cfg.LeaseTTL == 0 {
		cfg.LeaseTTL = leaseTTL
	}
	if cfg.MinReplicas == 0 {
		cfg.MinReplicas = 2
	}
	if cfg.Log == nil {
		cfg.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	s, err := openStore(ctx, engine, lease, cfg.CacheBytes, cfg.Log)
	if err != nil {
		return nil, err
	}
	v := &Volume{store: s, cluster: cfg.Cluster, cfg: cfg, leases: newLeases(cfg.LeaseTTL, cfg.CacheBytes), locks: newLockTable(),
		expired: time.Now(), sessions: map[tnv.SessionID]*liveSession{}, grants: map[tnv.SessionID]map[tnv.BlockID]bool{},
		counts:  counts{map[tnv.NodeID]int64{}, map[tnv.NodeID]int64{}, map[tnv.NodeID]int64{}, 0},
		reclaim: map[tnv.Ino]bool{}, reclaimer: make(chan struct{}, 1)}
	s.owner = v
	v.SetSettings(Settings{Name: name})
	if err := v.load(ctx); err != nil {
		s.close()
		return nil, tnv.Wrap("open volume "+name, err)
	}
	bg, cancel := context.WithCancel(context.Background())
	v.cancel = cancel
	v.bg.Add(1)
	go v.reclaimLoop(bg)
	v.kickReclaim()
	return v, nil
}

// Close stops executing; what was acknowledged is applied. Background work is
// taken up by the next owner.
func (v *Volume) Close() {
	v.cancel()
	v.bg.Wait()
	v.store.close()
}

// SetCache changes how many bytes of records are kept in memory.
func (v *Volume) SetCache(bytes int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.budget = bytes
	v.evictLocked(0)
}

// connections are those of the sessions, as far as they have one.
func (v *Volume) connections() (all []Pusher) {
	v.smu.Lock()
	defer v.smu.Unlock()
	for _, s := range v.sessions {
		if s.to != nil {
			all = append(all, s.to)
		}
	}
	return all
}

// Disconnect ends the connections of all sessions: they will find the next owner.
func (v *Volume) Disconnect() {
	for _, to := range v.connections() {
		if c, ok := to.(interface{ Close() }); ok {
			c.Close()
		}
	}
}

// Tell sends all sessions what they did not ask for, each on a goroutine of its
// own. Not to be called once Close was.
func (v *Volume) Tell(t protocol.Type, values ...any) {
	for _, to := range v.connections() {
		v.bg.Go(func() { to.Push(t, values...) }) // who does not get it asks
	}
}

// Dead is closed when the volume was given up because a batch could not be applied.
func (v *Volume) Dead() <-chan struct{} { return v.dead }

// Name is the volume's name.
func (v *Volume) Name() string { return v.set.Load().Name }

// SetSettings changes the settings by which operations are executed from now on.
func (v *Volume) SetSettings(s Settings) {
	if s.MinReplicas == 0 {
		s.MinReplicas = v.cfg.MinReplicas
	}
	if was := v.set.Load(); was == nil || *was != s {
		v.set.Store(&s)
	}
}

// ID is the volume's id.
func (v *Volume) ID() tnv.VolumeID { return v.vol }

// Epoch is the epoch in which the volume is owned here.
func (v *Volume) Epoch() tnv.Epoch { return v.lease.Epoch }

// load makes the volume if there is none, and reads what is kept in memory.
func (v *Volume) load(ctx context.Context) error {
	if err := v.loadIDs(ctx); err != nil {
		return err
	}
	if err := v.makeRoot(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{v.loadSessions, v.loadGrants, v.loadLocks, v.loadUnlinked, v.loadCounts, v.endHalfEnded, v.endMoves} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (v *Volume) makeRoot(ctx context.Context) error {
	return v.mutate(ctx, func(tx *Tx) error {
		root, err := getAs[inode](tx, inodeKey(tnv.RootIno))
		if err != nil || root != nil {
			return err
		}
		tx.set(inodeKey(tnv.RootIno), &inode{Attr: tnv.Attr{Ino: tnv.RootIno, Mode: tnv.TypeDir.Mode() | 0o755, Nlink: 2,
			Atime: tx.now, Mtime: tx.now, Ctime: tx.now, Btime: tx.now,
			Parent: tnv.RootIno, Version: uint64(tx.seq), Data: uint64(tx.seq)}})
		tx.set(usageKey(), &usage{Files: 1})
		return nil
	})
}

// each calls fn for all stored records of a class, in steps of bounded size.
func (v *Volume) each(ctx context.Context, class byte, fn func(key string, val any) error) error {
	from, end := string([]byte{class}), prefixEnd(string([]byte{class}))
	for {
		pairs, _, err := v.scan(ctx, from, end, 1000, nil)
		if err != nil {
			return err
		}
		for _, p := range pairs {
			val, err := decoders[class](p.value)
			if err != nil {
				return v.damaged(p.key, err)
			}
			if err := fn(p.key, val); err != nil {
				return err
			}
		}
		if len(pairs) < 1000 {
			return nil
		}
		from = pairs[len(pairs)-1].key + "\x00"
	}
}

func (v *Volume) loadCounts(ctx context.Context) error {
	err := v.each(ctx, keyDeletion, func(key string, _ any) error {
		n, _ := split2(key)
		v.counts.deletions[tnv.NodeID(n)]++
		return nil
	})
	if err != nil {
		return err
	}
	return v.each(ctx, keyLacking, func(key string, val any) error {
		n, _ := split2(key)
		v.counts.lacking[tnv.NodeID(n)]++
		v.counts.lackBytes[tnv.NodeID(n)] += int64(val.(*lacking).Bytes)
		return nil
	})
}

// Status is what `tnv status` shows of the volume.
func (v *Volume) Status(ctx context.Context) (protocol.VolumeStatus, error) {
	st := protocol.VolumeStatus{ID: v.vol, Name: v.Name(), Epoch: v.lease.Epoch}
	err := v.read(ctx, func(tx *Tx) error {
		u, err := getAs[usage](tx, usageKey())
		if err == nil && u != nil {
			st.Files, st.Bytes = u.Files, u.Bytes
		}
		return err
	})
	v.smu.Lock()
	defer v.smu.Unlock()
	st.Sessions = uint32(len(v.sessions))
	for _, n := range v.counts.deletions {
		st.PendingDeletions += uint64(n)
	}
	st.Unlinked = uint64(v.counts.unlinked)
	return st, err
}

// Leases is how many leases the sessions hold.
func (v *Volume) Leases() int { return v.leases.held() }

// Lacks is how many blocks and bytes the metadata knows a store to lack.
func (v *Volume) Lacks(n tnv.NodeID) (blocks, bytes uint64) {
	v.smu.Lock()
	defer v.smu.Unlock()
	return uint64(v.counts.lacking[n]), uint64(v.counts.lackBytes[n])
}
