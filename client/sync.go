package client

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// unsyncedBlock is a block that its holders have taken and may not have on disk.
type unsyncedBlock struct {
	home    tnv.Home
	group   tnv.GroupID
	holders []tnv.Holder
}

func (in *inode) unsyncedLocked(p *piece) {
	if in.unsynced == nil {
		in.unsynced = map[tnv.BlockKey]unsyncedBlock{}
	}
	in.unsynced[p.put.meta.Key] = unsyncedBlock{p.put.meta.Home, p.put.group, p.put.holders}
	if len(in.unsynced) == 4*protocol.MaxBatch {
		in.c.flusher.backlog()
	}
}

// syncBlocks makes what is unsynced of the inode, and the put pieces of a batch,
// durable at their holders. A holder that restarted gets the pieces again (D5).
func (in *inode) syncBlocks(ctx context.Context, batch []*piece) error {
	in.mu.Lock()
	todo := make(map[tnv.BlockKey]unsyncedBlock, len(in.unsynced))
	for k, b := range in.unsynced {
		todo[k] = b
	}
	in.mu.Unlock()
	held := map[tnv.BlockKey]*piece{}
	for _, p := range batch {
		if !p.put.synced {
			todo[p.put.meta.Key] = unsyncedBlock{p.put.meta.Home, p.put.group, p.put.holders}
			held[p.put.meta.Key] = p
		}
	}
	if len(todo) == 0 {
		return nil
	}
	again, err := in.c.makeDurable(ctx, todo, held)
	if err != nil {
		return err
	}
	for _, p := range again {
		if err := in.putSynced(ctx, p); err != nil {
			return err
		}
	}
	for _, p := range held {
		p.put.synced = true
	}
	in.mu.Lock()
	for k := range todo {
		delete(in.unsynced, k)
	}
	in.mu.Unlock()
	return nil
}

// putSynced puts a piece once more, this time durably.
func (in *inode) putSynced(ctx context.Context, p *piece) error {
	m := in.c.cmap.get()
	g := m.Group(p.put.group)
	p.sync = true
	if g != nil {
		if err := in.storeIn(ctx, p, m, g, true); err == nil {
			return nil
		}
	}
	return in.store(ctx, p)
}

// makeDurable syncs the holders of blocks. again lists those of the blocks held
// here that must be put once more. Of the others a member that lacks one is told
// to mend it from its peers, until the deadline of ctx; a member that is gone
// does not count, as long as enough are left.
func (c *Client) makeDurable(ctx context.Context, todo map[tnv.BlockKey]unsyncedBlock, held map[tnv.BlockKey]*piece) (again []*piece, err error) {
	var short error
	todo = maps.Clone(todo) // the caller's says afterwards what is durable
	for try := 0; ; try++ {
		lost, moved, err := c.syncHolders(ctx, todo)
		if err != nil && short != nil && ctx.Err() != nil {
			err = short
		}
		if err != nil {
			return nil, err
		}
		if err := c.dropUnnamed(ctx, todo, held, lost); err != nil {
			return nil, err
		}
		rest := map[tnv.BlockKey]unsyncedBlock{}
		short = nil
		for key, b := range todo {
			switch p := held[key]; {
			case p != nil && (moved[key] || len(lost[key]) > 0):
				again = append(again, p)
			case p == nil && len(lost[key]) > 0:
				if e := c.enoughLeft(ctx, key, b, lost[key]); e != nil {
					short, rest[key] = e, b
				}
			}
		}
		if short == nil {
			return again, nil
		}
		if ctx.Err() != nil {
			return nil, short
		}
		for key, b := range rest {
			for _, id := range lost[key] {
				if n := c.cmap.get().Node(id); n != nil && n.State != tnv.NodeLost {
					c.report(*n, key, b.home)
				}
			}
		}
		todo = rest
		pause(ctx, try+4)
	}
}

// dropUnnamed takes blocks out of todo that a holder lacks because they were
// deleted: the owner says that nothing names them any more (D9). Nothing of them
// needs to be durable. What has moved within its file, or only a clone names, does.
func (c *Client) dropUnnamed(ctx context.Context, todo map[tnv.BlockKey]unsyncedBlock, held map[tnv.BlockKey]*piece, lost map[tnv.BlockKey][]tnv.NodeID) error {
	var ask []protocol.BlockHome
	for key, b := range todo {
		if held[key] == nil && len(lost[key]) > 0 {
			ask = append(ask, protocol.BlockHome{Block: key.ID, Home: b.home})
		}
	}
	vol := c.vol()
	for part := range slices.Chunk(ask, protocol.MaxBatch) {
		var rep protocol.AliveReply
		if err := c.plain(ctx, protocol.TypeAlive, &rep, &protocol.Alive{Vol: vol, Blocks: part}); err != nil {
			return err
		}
		for i, s := range rep.State[:min(len(rep.State), len(part))] {
			if s != protocol.LiveBlock {
				delete(todo, tnv.BlockKey{Vol: vol, ID: part[i].Block})
			}
		}
	}
	return nil
}

// enoughLeft tells whether a block is durable on enough members although some
// of its holders lack it or are gone.
func (c *Client) enoughLeft(ctx context.Context, key tnv.BlockKey, b unsyncedBlock, lost []tnv.NodeID) error {
	left := 0
	for _, h := range b.holders {
		if !slices.Contains(lost, h.Node) {
			left++
		}
	}
	need := 1
	if g := c.cmap.get().Group(b.group); g != nil {
		a, err := c.link.attach(ctx)
		if err != nil {
			return c.link.opError(c.life, "sync", err)
		}
		need = max(1, min(int(a.sess.info.MinReplicas), g.Awaiting()))
	}
	if left < need {
		return tnv.E("sync", tnv.KindTooFewHolders, "block %v of group %d is on disk of %d members, %d are needed", key, b.group, left, need)
	}
	return nil
}

// syncHolders syncs every holder of the blocks, in parallel. lost names, for
// blocks that a holder lacks or whose holder is gone by the map, those holders;
// moved names blocks of which a holder has restarted since it took them. A
// holder that is alive by the map and does not answer is asked until the deadline.
func (c *Client) syncHolders(ctx context.Context, blocks map[tnv.BlockKey]unsyncedBlock) (lost map[tnv.BlockKey][]tnv.NodeID, moved map[tnv.BlockKey]bool, err error) {
	shares := map[tnv.NodeID][]tnv.BlockKey{}
	boots := map[tnv.NodeID]map[tnv.BlockKey]tnv.BootID{}
	for k, b := range blocks {
		for _, h := range b.holders {
			if boots[h.Node] == nil {
				boots[h.Node] = map[tnv.BlockKey]tnv.BootID{}
			}
			boots[h.Node][k] = h.Boot
			shares[h.Node] = append(shares[h.Node], k)
		}
	}
	lost, moved = map[tnv.BlockKey][]tnv.NodeID{}, map[tnv.BlockKey]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for node, keys := range shares {
		wg.Add(1)
		go func() {
			defer wg.Done()
			boot, missing, serr := c.syncNode(ctx, node, keys)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case tnv.KindOf(serr) == tnv.KindMissing: // gone by the map
				missing = keys
			case serr != nil:
				err = serr
				return
			}
			for _, k := range missing {
				lost[k] = append(lost[k], node)
			}
			for k, b := range boots[node] {
				moved[k] = moved[k] || boot != 0 && b != boot
			}
		}()
	}
	wg.Wait()
	return lost, moved, err
}

// syncNode syncs one store. KindMissing: the map says not to wait for it.
func (c *Client) syncNode(ctx context.Context, id tnv.NodeID, keys []tnv.BlockKey) (boot tnv.BootID, missing []tnv.BlockKey, err error) {
	for try := 0; ; try++ {
		n := c.cmap.get().Awaited(id)
		if n == nil {
			return 0, nil, tnv.E("sync", tnv.KindMissing, "store %v is lost or slow", id)
		}
		boot, missing, err = c.syncCall(ctx, n, keys)
		if err == nil {
			return boot, missing, nil
		}
		if ctx.Err() != nil {
			return 0, nil, c.unavailable("sync at "+n.Addr, err)
		}
		if k := tnv.KindOf(err); !tnv.Retryable(err) && k != tnv.KindOther {
			return 0, nil, tnv.Wrap("sync at "+n.Addr, err)
		}
		c.nodes.failed(id)
		pause(ctx, try)
		c.refreshMap(ctx)
	}
}

func (c *Client) syncCall(ctx context.Context, n *tnv.Node, keys []tnv.BlockKey) (boot tnv.BootID, missing []tnv.BlockKey, err error) {
	for first := true; first || len(keys) > 0; first = false {
		k := min(len(keys), protocol.MaxBatch)
		var rep protocol.SyncReply
		tctx, cancel := context.WithTimeout(ctx, putSyncTimeout)
		tctx, stop := c.whileAlive(tctx, n.ID)
		err := stop(c.pool.Call(tctx, n.Addr, protocol.TypeSync, &rep, &protocol.Sync{Blocks: keys[:k]}))
		cancel()
		if err != nil {
			return 0, nil, err
		}
		if boot != 0 && rep.Boot != boot {
			return 0, nil, tnv.E("sync", tnv.KindUnavailable, "store %v restarted meanwhile", n.ID)
		}
		boot = rep.Boot
		missing = append(missing, rep.Missing...)
		keys = keys[k:]
	}
	return boot, missing, nil
}

// syncRest ends a sync: what was committed before, and not by a synced commit,
// becomes durable.
func (in *inode) syncRest(mode flushMode) error {
	ctx, cancel := in.c.opCtx()
	defer cancel()
	if err := in.syncBlocks(ctx, nil); err != nil {
		return err
	}
	owed := in.owed()
	if err := in.c.syncGroups(ctx, owed); err != nil {
		return err
	}
	in.paid(owed)
	in.mu.Lock()
	due := mode == flushSync && in.metaDirty
	in.metaDirty = in.metaDirty && !due
	in.mu.Unlock()
	if !due {
		return nil
	}
	return in.syncMeta(ctx)
}

// syncMeta makes every change of the inode that was acknowledged durable.
func (in *inode) syncMeta(ctx context.Context) error {
	rep, err := in.tellCommit(ctx, &protocol.Commit{Ino: in.ino, Sync: true}, nil)
	in.mu.Lock()
	defer in.mu.Unlock()
	if err != nil {
		in.metaDirty = true
		return err
	}
	in.noteLocked(rep.Attr)
	return nil
}

// syncForeign is fsync of an inode that this client has not written: what others
// wrote is synced at every store of the groups that its extents name.
func (in *inode) syncForeign(ctx context.Context) error {
	if in.c.cfg.ReadOnly {
		return nil
	}
	groups := map[tnv.GroupID]uint64{}
	for first := uint64(0); ; first += protocol.MaxChunks {
		at, there, err := in.seek(ctx, first*tnv.ChunkSize, false)
		if err != nil {
			return err
		}
		if !there {
			break
		}
		first = at / tnv.ChunkSize
		rep, err := in.askExtents(ctx, first, protocol.MaxChunks, 0)
		if err != nil {
			return err
		}
		for _, ch := range rep.Chunks {
			for _, e := range ch {
				groups[e.Group] = 0
			}
		}
	}
	octx, cancel := in.c.opCtx()
	defer cancel()
	if err := in.c.syncGroups(octx, groups); err != nil {
		return err
	}
	return in.syncMeta(octx)
}

// syncAll makes the unsynced blocks of many inodes, and all metadata, durable:
// one call per store, one to the owner.
func (c *Client) syncAll(ctx context.Context, l []*inode) error {
	todo := map[tnv.BlockKey]unsyncedBlock{}
	meta := map[*inode]bool{}
	owed, groups := map[*inode]map[tnv.GroupID]uint64{}, map[tnv.GroupID]uint64{}
	for _, in := range l {
		owed[in] = in.owed()
		maps.Copy(groups, owed[in])
		in.mu.Lock()
		maps.Copy(todo, in.unsynced)
		meta[in] = in.metaDirty
		in.metaDirty = false
		in.mu.Unlock()
	}
	_, err := c.makeDurable(ctx, todo, nil)
	if err == nil {
		err = c.syncGroups(ctx, groups)
	}
	if err == nil {
		_, err = c.mutate(ctx, tnv.Root, protocol.TypeSyncFS, nil, &protocol.SyncFS{}, nil)
	}
	for _, in := range l {
		if err == nil {
			in.paid(owed[in])
		}
		in.mu.Lock()
		if err != nil {
			in.metaDirty = in.metaDirty || meta[in]
		} else {
			for k := range in.unsynced {
				if _, done := todo[k]; done {
					delete(in.unsynced, k)
				}
			}
		}
		in.mu.Unlock()
	}
	return err
}
