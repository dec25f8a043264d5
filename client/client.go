package client

import (
	"context"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Client is a session on one volume, and everything that reads and writes
// through it. Any number of goroutines may use it at once.
//
// Lock order: inodes.mu, inode.mu, cache.mu, budget.mu; link.mu, releases.mu,
// idPool.mu, nodes.mu and locks.mu are leaves. No I/O happens under any of them.
type Client struct {
	cfg      Config
	host     string       // of this machine, as tnv.HostID
	volume   tnv.VolumeID // set by Connect
	ep       *protocol.Endpoint
	pool     *protocol.Pool
	life     context.Context // ends when Close has written everything
	end      context.CancelFunc
	wg       sync.WaitGroup // every goroutine of the client
	link     *link
	leases   *leaseCache
	cmap     clusterMap
	releases *releases
	inodes   *inodes
	mem      *budget
	m        *metrics
	nodes    *nodes
	cache    *cache
	disk     *diskCache // nil: none
	puts     *putQueue
	flusher  *flusher
	raBytes  raAccount
	locks    *locks
	closing  sync.Once
}

// Connect opens a session on the volume at the first tracker that takes it. It
// fails with tnv.KindUnavailable if none does within Config.Timeout, and at once
// if the key is wrong, or there is no such cluster, volume or protocol version.
func Connect(ctx context.Context, cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, host: tnv.HostID(), ep: &protocol.Endpoint{Key: cfg.Key, Role: protocol.RoleClient}}
	c.pool = &protocol.Pool{Endpoint: c.ep}
	c.mem = newBudget(cfg.Memory)
	if c.m, err = newMetrics(cfg.Registry, c.mem); err != nil {
		return nil, err
	}
	c.life, c.end = context.WithCancel(context.Background())
	c.inodes = newInodes(c)
	c.releases = newReleases(c)
	c.nodes = newNodes(c.host)
	c.cache = newCache(c)
	c.mem.evict = c.cache.evict
	c.puts = newPutQueue(c)
	c.flusher = newFlusher(c)
	c.mem.press = c.flusher.press
	c.raBytes.limit = cfg.Memory / 3
	c.leases = newLeaseCache(cfg.Memory)
	c.locks = newLocks(c)
	c.link = &link{cfg: &c.cfg, ep: c.ep, life: c.life, wg: &c.wg, m: c.m,
		lost: c.sessionLost, moved: c.inodes.forget, dropped: c.dropLeases, began: c.leases.began, pushed: c.pushed}
	if err := c.start(ctx); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

func (c *Client) start(ctx context.Context) error {
	if c.cfg.CacheDir != "" {
		d, err := openDiskCache(c.cfg.CacheDir, c.cfg.CacheSize, c.cfg.Log)
		if err != nil {
			return err
		}
		c.disk = d
	}
	if err := c.link.first(ctx); err != nil {
		return err
	}
	c.volume = c.Info().Vol
	if err := c.refreshMap(ctx); err != nil {
		return err
	}
	c.wg.Add(3)
	go c.keepAlive()
	go c.releases.run()
	go c.flusher.run()
	return nil
}

// sessionLost makes everything that was written in a session and not committed
// fail for good (K8), and all that is written by handles of inodes that were
// locked. New writes belong to the next session.
func (c *Client) sessionLost(old *sess) {
	c.releases.forget()
	c.inodes.sessionLost(old, c.locks.forget())
}

// Close commits everything that was written, ends the session and frees all
// resources. The error is that of a commit that failed; what handles are still
// open must not be used any more.
func (c *Client) Close(ctx context.Context) error {
	err := c.flushAll(ctx)
	c.closing.Do(func() {
		if ctx.Err() != nil {
			ctx = context.Background()
		}
		c.link.close(ctx)
		c.stop()
	})
	return err
}

func (c *Client) stop() {
	c.end()
	c.link.mu.Lock()
	a := c.link.cur
	c.link.cur = nil
	c.link.mu.Unlock()
	if a != nil {
		a.conn.Close()
	}
	c.wg.Wait()
	c.pool.Close()
	c.nodes.close()
	if c.disk != nil {
		c.disk.close()
	}
}

// Map is the newest cluster map known. It is shared: do not change it.
func (c *Client) Map() *tnv.Map { return c.cmap.get() }

// Info tells of the session.
type Info struct {
	Vol     tnv.VolumeID
	Volume  string
	Session tnv.SessionID
	Tracker string // address that it is connected to; "" while it is not
}

// Info tells of the session as it is now.
func (c *Client) Info() Info {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	i := Info{Volume: c.cfg.Volume}
	if s := c.link.sess; s != nil {
		i.Vol, i.Session = s.info.Vol, s.info.Session
	}
	if a := c.link.cur; a != nil && a.conn.Err() == nil {
		i.Tracker = a.addr
	}
	return i
}

// vol is the volume's id: the same for every session.
func (c *Client) vol() tnv.VolumeID { return c.volume }

// SyncFS returns when everything that was written through this client, and
// every change of the namespace that it made, is on disk.
func (c *Client) SyncFS(ctx context.Context) error {
	if c.cfg.ReadOnly {
		return nil
	}
	if err := c.flushAll(ctx); err != nil {
		return err
	}
	l := c.inodes.all()
	defer func() {
		for _, in := range l {
			c.inodes.release(in)
		}
	}()
	octx, cancel := context.WithTimeout(ctx, 2*c.cfg.Timeout)
	defer cancel()
	return c.syncAll(octx, l)
}

// flushAll commits what every inode has.
func (c *Client) flushAll(ctx context.Context) error {
	return c.inodes.each(ctx, func(in *inode) error { return in.flush(ctx, flushCommit) })
}

// opCtx is a context for work that nobody's interrupt may stop, with an
// operation's deadline.
func (c *Client) opCtx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.life, c.cfg.Timeout)
}

// unavailable is the error of work that went on until its deadline.
func (c *Client) unavailable(op string, last error) error {
	return &tnv.Error{Op: op, Kind: tnv.KindUnavailable, Err: last, Msg: "not done within " + c.cfg.Timeout.Round(time.Millisecond).String()}
}
