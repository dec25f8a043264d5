package client

import (
	"context"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// flushMode says how far a flush goes.
type flushMode int

const (
	flushCommit   flushMode = iota // visible to others
	flushSyncData                  // the data on disk at every holder as well
	flushSync                      // and the metadata
)

// flush seals what is dirty and returns when all of it is committed. ctx may
// end the wait; the work goes on.
func (in *inode) flush(ctx context.Context, mode flushMode) error {
	in.mu.Lock()
	pieces := in.sealAllLocked(mode != flushCommit)
	target := in.dirty.seq
	clean := len(in.dirty.sealed) == 0
	if mode != flushCommit {
		clean = clean && len(in.unsynced) == 0 && len(in.foreign) == 0 && (mode == flushSyncData || !in.metaDirty)
	}
	in.mu.Unlock()
	if clean {
		if mode == flushSync && !in.everDirty.Load() {
			return in.syncForeign(ctx)
		}
		return nil
	}
	var last *piece // put by the committing goroutine itself
	for i, p := range pieces {
		if i == len(pieces)-1 {
			last = p
		} else {
			in.c.puts.add(in, p)
		}
	}
	done := make(chan error, 1)
	in.c.wg.Add(1)
	go func() {
		defer in.c.wg.Done()
		done <- in.commitTo(in.c.life, target, mode, last)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return tnv.Wrap("flush", ctx.Err())
	}
}

// commitTo commits every piece sealed up to target, in order. own, if not nil,
// is a piece that nobody puts yet.
func (in *inode) commitTo(ctx context.Context, target uint64, mode flushMode, own *piece) error {
	if own != nil {
		in.put(own)
	}
	in.mu.Lock()
	fails := in.dirty.fails
	in.mu.Unlock()
	if err := in.lockCommit(ctx); err != nil {
		return err
	}
	defer in.unlockCommit()
	for {
		in.mu.Lock()
		batch, more := in.batchLocked(target)
		failed, err := in.dirty.fails != fails, in.dirty.err
		in.mu.Unlock()
		if failed {
			in.untake(batch)
			return err
		}
		if len(batch) == 0 {
			break
		}
		last := mode == flushSync && !more
		err = in.commitBatch(ctx, batch, mode, last)
		in.untake(batch)
		if err != nil {
			if in.c.life.Err() == nil {
				in.fail(err)
			}
			return err
		}
	}
	if mode == flushCommit {
		return nil
	}
	return in.syncRest(mode)
}

// batchLocked is the longest run of sealed pieces up to target that one Commit takes.
func (in *inode) batchLocked(target uint64) (batch []*piece, more bool) {
	const maxPieces = 1024
	chunks := map[int64]bool{}
	for _, p := range in.dirty.sealed {
		if p.seq > target {
			break
		}
		chunk := p.off / tnv.ChunkSize
		if len(batch) == maxPieces || !chunks[chunk] && len(chunks) == protocol.MaxChunks {
			return batch, true
		}
		chunks[chunk] = true
		p.put.taken = true
		batch = append(batch, p)
	}
	return batch, false
}

// untake lets go of the pieces of a batch; those that were dropped or are
// committed are freed.
func (in *inode) untake(batch []*piece) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, p := range batch {
		p.put.taken = false
		in.freeLocked(p)
	}
}

// commitBatch waits until the pieces are put, makes them durable if asked, and
// commits them. sync says that the commit itself must be on disk.
func (in *inode) commitBatch(ctx context.Context, batch []*piece, mode flushMode, sync bool) error {
	for _, p := range batch {
		in.put(p)
		<-p.put.done // within Config.Timeout
		if p.put.err != nil {
			return p.put.err
		}
	}
	octx, cancel := in.c.opCtx()
	defer cancel()
	if mode != flushCommit {
		if err := in.syncBlocks(octx, batch); err != nil {
			return err
		}
	}
	fl := in.c.leases.fly([]tnv.Ino{in.ino}) // first: it may wait for READs, which wait for what tell begins
	fl.failed()                              // the commit has a flight of its own, which takes the answer in
	defer fl.land()
	defer in.tell()()
	a, err := in.commitStored(octx, batch, protocol.Commit{Sync: sync})
	if err == nil {
		in.committed(batch, a, sync)
	}
	return err
}

// commitStored commits pieces that are put, and puts them again where the owner
// finds that too few hold them. req says how.
func (in *inode) commitStored(ctx context.Context, batch []*piece, req protocol.Commit) (tnv.Attr, error) {
	for try := 0; ; try++ {
		rep, err := in.sendCommit(ctx, batch, req)
		if err == nil || tnv.KindOf(err) != tnv.KindTooFewHolders || ctx.Err() != nil {
			return rep.Attr, err
		}
		pause(ctx, try)
		if perr := in.putAgain(ctx, batch, try > 0); perr != nil {
			return rep.Attr, tnv.Wrap(err.Error(), perr)
		}
	}
}

// sendCommit tells the owner of a batch. Its error is the owner's, or that no
// owner answered in time.
func (in *inode) sendCommit(ctx context.Context, batch []*piece, req protocol.Commit) (protocol.AttrReply, error) {
	req.Ino = in.ino
	at := map[uint64]int{}
	s := batch[0].put.sess
	for _, p := range batch {
		if p.put.sess != s {
			return protocol.AttrReply{}, errSessionEnded(protocol.TypeCommit)
		}
		chunk := uint64(p.off / tnv.ChunkSize)
		i, ok := at[chunk]
		if !ok {
			i = len(req.Chunks)
			at[chunk] = i
			req.Chunks = append(req.Chunks, protocol.ChunkExtents{Chunk: chunk})
		}
		req.Chunks[i].Extents = append(req.Chunks[i].Extents, tnv.Extent{
			Off: uint32(p.off % tnv.ChunkSize), Len: uint32(p.n),
			Block: p.put.meta.Key.ID, BlockLen: uint32(p.n), Group: p.put.group})
		req.Holders = append(req.Holders, protocol.BlockHolders{Block: p.put.meta.Key.ID, Holders: p.put.holders})
		req.Size = max(req.Size, uint64(p.end()))
		req.Mtime = max(req.Mtime, p.mtime)
		req.KillSUID = req.KillSUID || p.kill
		if req.MapEpoch == 0 || p.put.epoch < req.MapEpoch {
			req.MapEpoch = p.put.epoch
		}
	}
	return in.tellCommit(ctx, &req, s)
}

// tellCommit sends a commit, within one session if that is not nil.
func (in *inode) tellCommit(ctx context.Context, req *protocol.Commit, s *sess) (protocol.AttrReply, error) {
	fl := in.c.leases.fly([]tnv.Ino{in.ino})
	defer fl.land()
	var rep protocol.AttrReply
	with, err := in.c.mutateIn(ctx, tnv.Root, protocol.TypeCommit, &rep, req, fl, s)
	if err == nil {
		fl.take(with)
	}
	return rep, err
}

// committed takes the pieces of an acknowledged commit out of what is dirty.
func (in *inode) committed(batch []*piece, a tnv.Attr, synced bool) {
	in.c.m.commits.Inc()
	in.mu.Lock()
	defer in.mu.Unlock()
	in.noteLocked(a)
	in.metaDirty = !synced
	d := &in.dirty
	for _, p := range batch {
		p.put.named = true
		if p.put.dropped {
			continue // the session was lost meanwhile; the handles know
		}
		d.sealed = d.sealed[1:]
		d.putBytes -= int64(p.n)
		if !p.put.synced {
			in.unsyncedLocked(p)
		}
		p.put.dropped = true
	}
	if !d.empty() {
		d.since = time.Now()
	}
}

// putAgain brings the blocks of a batch that the owner found too few holders of
// to the members as they are now: the same bytes under the same ids, or, where
// that did not help and a better group exists, under new ids there.
func (in *inode) putAgain(ctx context.Context, batch []*piece, elsewhere bool) error {
	if err := in.c.refreshMap(ctx); err != nil {
		return err
	}
	m := in.c.cmap.get()
	for _, p := range batch {
		g := m.Group(p.put.group)
		if g == nil || elsewhere && in.otherWhole(m, g, nil) {
			if err := in.store(ctx, p); err != nil {
				return err
			}
			continue
		}
		if current(p.put.holders, g) >= g.Awaiting() && !elsewhere {
			continue
		}
		in.c.m.putRetries.Inc()
		had := p.put.holders
		if err := in.storeIn(ctx, p, m, g, true); err != nil {
			p.put.holders = had
			in.c.cfg.Log.WithError(err).WithField("block", p.put.meta.Key).Debug("put again failed")
		}
		if err := in.lacksSpace(p, g); err != nil {
			return err
		}
	}
	return nil
}

// lacksSpace is KindNoSpace if too few members hold a piece, and one that does
// not is full: waiting would not help.
func (in *inode) lacksSpace(p *piece, g *tnv.Group) error {
	if in.wellHeld(p, g) {
		return nil
	}
	for _, n := range g.Nodes {
		if n.State == tnv.NodeFull && !holds(p.put.holders, n.ID) {
			return tnv.E("write", tnv.KindNoSpace, "storage daemon %s of group %s is full: remove files, or add a group", n.Addr, g.Name)
		}
	}
	return p.put.full
}

// current counts the holders that are members of the group in their present boot,
// and whose word counts: a slow one's only while every member is slow (as meta's whoLacks).
func current(l []tnv.Holder, g *tnv.Group) (n int) {
	for _, h := range l {
		for i := range g.Nodes {
			is := &g.Nodes[i]
			if is.ID == h.Node && is.Boot == h.Boot && (is.State != tnv.NodeSlow || g.Awaited(is.ID)) {
				n++
			}
		}
	}
	return n
}
