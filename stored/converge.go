package stored

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	digestTimeout = 30 * time.Second
	digestParts   = 64
	// listFrom is up to how many blocks of a peer a range is listed, not cut further.
	listFrom = 1024
	// batchSize is how many blocks that lack here are looked at together.
	batchSize = 4 * protocol.MaxBatch
	copiers   = 4
	// confirmEvery is after how many blocks, or bytes, copies are synced and told.
	confirmEvery = 512
	confirmBytes = 256 << 20
)

// converge compares this store with its peers and copies what it lacks: at the
// start, when a peer comes back, when a tracker says that something is lacking
// of which the last comparison knew nothing, and ever so often.
func (d *daemon) converge(ctx context.Context) {
	limit := &limiter{rate: float64(d.cfg.CopyRate)}
	retry := d.cfg.ConvergeGrace
	for {
		r := &round{d: d, ctx: ctx, limit: limit}
		wait := d.cfg.ConvergeEvery
		whole := r.run()
		d.met.rounds.inc()
		var told chan struct{}
		if whole {
			retry = d.cfg.ConvergeGrace
			told = d.told
		} else {
			wait = min(retry, wait)
			retry = min(2*retry, d.cfg.ConvergeEvery)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		case <-d.cluster.returned:
			t.Stop()
		case <-told: // a block that was put here may just not be synced and told yet
			t.Stop()
			if sleep(ctx, d.cfg.ConvergeGrace) != nil {
				return
			}
		}
	}
}

// round is one comparison with all peers.
type round struct {
	d     *daemon
	ctx   context.Context
	limit *limiter

	batch []lack // not looked at yet
	vol   tnv.VolumeID
	began time.Time // when the first of batch was found

	mu           sync.Mutex
	expected     uint64 // blocks that some peer has more, by the digests, and not looked at yet
	lackBlocks   uint64 // known to live, and still not here
	lackBytes    uint64
	copiedBlocks uint64
	copiedBytes  uint64
	fresh        []tnv.BlockID // copied, not synced yet
	freshBytes   int
	err          error // the last that went wrong
}

// lack is a block that a peer has, or the metadata says, and this store has not.
type lack struct {
	id   tnv.BlockID
	home tnv.Home
	len  uint32 // 0: not known
}

// run gives true if nothing is lacking as far as all peers and trackers say.
func (r *round) run() (whole bool) {
	d := r.d
	if !d.cluster.heard() { // who the peers are is not known yet
		return false
	}
	peers := d.cluster.peers()
	vols := d.store.Volumes()
	for _, p := range peers {
		reply, err := r.digest(p, &protocol.Digest{Vol: 1, From: 1, Parts: 1})
		if err != nil {
			r.failed(err)
			continue
		}
		vols = append(vols, reply.Vols...)
	}
	slices.Sort(vols)
	for _, vol := range slices.Compact(vols) {
		if vol != 0 && r.ctx.Err() == nil {
			r.volume(vol, peers)
		}
	}
	if r.ctx.Err() != nil {
		return false
	}
	if r.err == nil || r.lackBlocks > 0 {
		d.behind.set(r.lackBlocks, r.lackBytes)
	}
	if r.err == nil && !d.compared.Swap(true) {
		d.trackers.beat()
	}
	if r.copiedBlocks > 0 || r.lackBlocks > 0 {
		d.log.WithField("copied", r.copiedBlocks).WithField("bytes", r.copiedBytes).WithField("lacking", r.lackBlocks).
			Info("caught up with the peers")
		d.trackers.beat()
	}
	if r.err != nil {
		d.log.WithError(r.err).Debug("a comparison with the peers was not complete")
	}
	return r.err == nil && r.lackBlocks == 0
}

func (r *round) failed(err error) {
	r.mu.Lock()
	r.err = err
	r.mu.Unlock()
}

func (r *round) volume(vol tnv.VolumeID, peers []tnv.Node) {
	r.vol, r.expected = vol, 0
	for _, p := range peers {
		if err := r.compare(p, 1, 0); err != nil {
			r.failed(err)
		}
	}
	if err := r.recorded(); err != nil {
		r.failed(err)
	}
	r.flush()
}

func (r *round) digest(p tnv.Node, req *protocol.Digest) (protocol.DigestReply, error) {
	ctx, cancel := context.WithTimeout(r.ctx, digestTimeout)
	defer cancel()
	var reply protocol.DigestReply
	err := r.d.pool.Call(ctx, p.Addr, protocol.TypeDigest, &reply, req)
	if err == nil && (len(reply.Counts) != int(req.Parts) || len(reply.Sums) != int(req.Parts)) {
		err = tnv.E("compare with "+p.Addr, tnv.KindProtocol, "digests of %d parts, asked for %d", len(reply.Counts), req.Parts)
	}
	return reply, err
}

// compare finds what a peer has and this store has not in [from, to), to 0
// being no end: by digests of ever smaller parts, then by lists.
func (r *round) compare(p tnv.Node, from, to tnv.BlockID) error {
	req := protocol.Digest{Vol: r.vol, From: from, To: to, Parts: 1}
	if to != 0 {
		req.Parts = digestParts
	}
	theirs, err := r.digest(p, &req)
	if err != nil {
		return err
	}
	ours, err := r.d.localDigest(&req)
	if err != nil {
		return err
	}
	if to == 0 {
		if theirs.Counts[0] == 0 || theirs.Counts[0] == ours.Counts[0] && theirs.Sums[0] == ours.Sums[0] {
			return nil
		}
		if theirs.Counts[0] > ours.Counts[0] {
			r.expected = max(r.expected, theirs.Counts[0]-ours.Counts[0])
		}
		if last := theirs.Last + 1; last != 0 { // ids are nowhere near the end, but a peer may say so
			return r.compare(p, from, last)
		}
		return r.list(p, from, to)
	}
	for i := range req.Parts {
		n := theirs.Counts[i]
		if n == 0 || n == ours.Counts[i] && theirs.Sums[i] == ours.Sums[i] {
			continue
		}
		lo, hi := part(from, to, req.Parts, i)
		if n <= listFrom || hi-lo <= 1 || lo == from && hi == to {
			err = r.list(p, lo, hi)
		} else {
			err = r.compare(p, lo, hi)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// list goes through a peer's blocks of a range.
func (r *round) list(p tnv.Node, from, to tnv.BlockID) error {
	for {
		ctx, cancel := context.WithTimeout(r.ctx, digestTimeout)
		var reply protocol.ListReply
		err := r.d.pool.Call(ctx, p.Addr, protocol.TypeList, &reply, &protocol.List{Vol: r.vol, From: from, To: to, Limit: protocol.MaxBatch})
		cancel()
		if err != nil {
			return err
		}
		for _, b := range reply.Blocks {
			if b.Block < from {
				return tnv.E("list "+p.Addr, tnv.KindProtocol, "block %d in a list from %d", b.Block, from)
			}
			from = b.Block + 1
			if !r.d.store.Has(tnv.BlockKey{Vol: r.vol, ID: b.Block}) {
				r.found(lack{id: b.Block, home: b.Home, len: b.Len})
			}
		}
		if !reply.More || len(reply.Blocks) == 0 {
			return nil
		}
	}
}

// recorded goes through what the metadata records this store to lack. What is
// here in truth is synced and told, the rest is copied.
func (r *round) recorded() error {
	for from := tnv.BlockID(1); ; {
		reply, err := r.d.trackers.lacking(r.ctx, r.vol, from)
		if err != nil {
			return err
		}
		var here []tnv.BlockID
		for _, b := range reply.Blocks {
			if b.Block < from {
				return tnv.E("ask what is lacking", tnv.KindProtocol, "block %d in an answer from %d", b.Block, from)
			}
			from = b.Block + 1
			if r.d.store.Has(tnv.BlockKey{Vol: r.vol, ID: b.Block}) {
				here = append(here, b.Block)
			} else {
				r.found(lack{id: b.Block, home: b.Home})
			}
		}
		if err := r.confirm(here); err != nil {
			return err
		}
		if !reply.More || len(reply.Blocks) == 0 {
			return nil
		}
	}
}

// confirm syncs and tells the trackers which of the blocks are here.
func (r *round) confirm(blocks []tnv.BlockID) error {
	if len(blocks) == 0 {
		return nil
	}
	if err := r.d.syncStore(r.ctx); err != nil {
		return err
	}
	here := blocks[:0]
	for _, id := range blocks { // a failed sync, or a deletion, may have taken some away
		if r.d.store.Has(tnv.BlockKey{Vol: r.vol, ID: id}) {
			here = append(here, id)
		}
	}
	return r.d.trackers.held(r.ctx, r.vol, here)
}

func (r *round) found(l lack) {
	if len(r.batch) == 0 {
		r.began = time.Now()
	}
	r.batch = append(r.batch, l)
	if len(r.batch) >= batchSize {
		r.flush()
	}
}

// flush copies what lives of the batch.
func (r *round) flush() {
	batch := r.batch
	r.batch = nil
	if len(batch) == 0 || sleep(r.ctx, time.Until(r.began.Add(r.d.cfg.ConvergeGrace))) != nil {
		return
	}
	live, err := r.living(batch)
	if err != nil {
		r.failed(err)
		return
	}
	r.mu.Lock()
	r.expected -= min(r.expected, uint64(len(batch)))
	for _, l := range live {
		r.lackBlocks++
		r.lackBytes += uint64(l.len)
	}
	r.mu.Unlock()
	r.tellBehind()
	work := make(chan lack)
	var wg sync.WaitGroup
	for range copiers {
		wg.Go(func() {
			for l := range work {
				r.copyOne(l)
			}
		})
	}
	for _, l := range live {
		if r.ctx.Err() != nil {
			break
		}
		work <- l
	}
	close(work)
	wg.Wait()
	if err := r.settle(true); err != nil {
		r.failed(err)
	}
	r.tellBehind()
}

// living sorts a batch out: without what has come meanwhile, what another peer
// named too, and what the metadata does not name.
func (r *round) living(batch []lack) ([]lack, error) {
	slices.SortFunc(batch, func(a, b lack) int { // the one with a length first
		if a.id != b.id {
			return compareIDs(a.id, b.id)
		}
		return int(b.len) - int(a.len)
	})
	batch = slices.CompactFunc(batch, func(a, b lack) bool { return a.id == b.id })
	batch = slices.DeleteFunc(batch, func(l lack) bool { return r.d.store.Has(tnv.BlockKey{Vol: r.vol, ID: l.id}) })
	homes := make([]protocol.BlockHome, len(batch))
	for i, l := range batch {
		homes[i] = protocol.BlockHome{Block: l.id, Home: l.home}
	}
	states, err := r.d.trackers.alive(r.ctx, r.vol, homes)
	if err != nil {
		return nil, err
	}
	live := batch[:0]
	for i, l := range batch {
		if states[i] == protocol.LiveBlock {
			live = append(live, l)
		}
	}
	return live, nil
}

func compareIDs(a, b tnv.BlockID) int {
	if a < b {
		return -1
	}
	return 1
}

// copyOne copies a block from any peer that has it.
func (r *round) copyOne(l lack) {
	key := tnv.BlockKey{Vol: r.vol, ID: l.id}
	c, err := r.d.fetch(r.ctx, key, r.d.cluster.peers())
	if err == nil {
		defer c.release()
		if err = r.limit.wait(r.ctx, len(c.data)); err == nil {
			err = r.d.viewers.yield(r.ctx, len(c.data))
		}
		if err == nil {
			err = r.d.keep(c, false)
		}
	}
	switch {
	case err == nil:
		r.d.met.copied.Inc()
		r.d.behind.copied(len(c.data), time.Now())
	case tnv.KindOf(err) == tnv.KindStale: // deleted here: its deletion elsewhere is on the way
		r.unlack(l)
		return
	default:
		r.failed(err)
		return
	}
	r.mu.Lock()
	r.copiedBlocks++
	r.copiedBytes += uint64(len(c.data))
	r.fresh = append(r.fresh, l.id)
	r.freshBytes += len(c.data)
	r.mu.Unlock()
	r.unlack(l)
	if err := r.settle(false); err != nil {
		r.failed(err)
	}
}

// unlack takes a block off what is lacking.
func (r *round) unlack(l lack) {
	r.mu.Lock()
	r.lackBlocks--
	r.lackBytes -= min(r.lackBytes, uint64(l.len))
	r.mu.Unlock()
}

// settle syncs and tells what was copied, if it is much, or all is wanted.
func (r *round) settle(all bool) error {
	r.mu.Lock()
	if !all && len(r.fresh) < confirmEvery && r.freshBytes < confirmBytes {
		r.mu.Unlock()
		return nil
	}
	fresh := r.fresh
	r.fresh, r.freshBytes = nil, 0
	r.mu.Unlock()
	err := r.confirm(fresh)
	r.tellBehind()
	return err
}

// tellBehind shows what is known to lack. Once something was seen to, what the
// digests promise beyond it counts too: else a store that fills up would look
// whole between one batch and the next.
func (r *round) tellBehind() {
	r.mu.Lock()
	blocks, bytes := r.lackBlocks, r.lackBytes
	if seen := blocks + r.copiedBlocks; seen > 0 {
		blocks += r.expected
		bytes += (bytes + r.copiedBytes) / seen * r.expected
	}
	r.mu.Unlock()
	r.d.behind.set(blocks, bytes)
	r.d.trackers.beat()
}
