package client

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// putState is where a sealed piece stands on its way to the group's members.
// Flags are under the inode's mutex; the rest belongs to whoever puts it until
// done is closed, then to whoever commits it.
type putState struct {
	started  bool
	finished bool
	taken    bool // by whoever commits it
	dropped  bool // nobody wants it any more
	named    bool // a commit that names its block was acknowledged
	done     chan struct{}
	err      error

	sess    *sess // to which the id was granted
	meta    protocol.BlockMeta
	group   tnv.GroupID
	holders []tnv.Holder
	full    error     // a member lacks the block because it has no space
	epoch   tnv.Epoch // of the map by which the members were chosen
	synced  bool
}

func (s *putState) init() { s.done = make(chan struct{}) }

// idleLocked tells whether nobody reads the piece's buffer in order to put it.
func (s *putState) idleLocked() bool { return (!s.started || s.finished) && !s.taken }

const (
	putWorkers     = 8
	putTimeout     = 5 * time.Second // one member's answer, per attempt
	putSyncTimeout = 15 * time.Second
	putDial        = time.Second // to connect to a member
	// A member that takes no byte, or says nothing when it has all, for so long is
	// given up; while it works it says so (protocol.FlagLife).
	putStall      = time.Second
	putSilence    = time.Second
	refillTimeout = time.Second // a member that the chain left out
)

// putQueue puts sealed pieces with a few workers, in order of arrival. A worker
// lives while there is something to do.
type putQueue struct {
	c *Client

	mu      sync.Mutex
	queue   []queued
	workers int
}

type queued struct {
	in *inode
	p  *piece
}

func newPutQueue(c *Client) *putQueue { return &putQueue{c: c} }

// add takes a piece to be put. It never blocks.
func (q *putQueue) add(in *inode, p *piece) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = append(q.queue, queued{in, p})
	if q.workers < putWorkers {
		q.workers++
		q.c.wg.Add(1)
		go q.work()
	}
}

func (q *putQueue) work() {
	defer q.c.wg.Done()
	for {
		q.mu.Lock()
		if len(q.queue) == 0 {
			q.workers--
			q.queue = nil
			q.mu.Unlock()
			return
		}
		t := q.queue[0]
		q.queue[0] = queued{}
		q.queue = q.queue[1:]
		q.mu.Unlock()
		t.in.put(t.p)
	}
}

// put stores a sealed piece, unless somebody does or has already.
func (in *inode) put(p *piece) {
	in.mu.Lock()
	if p.put.started || p.put.dropped {
		in.mu.Unlock()
		return
	}
	p.put.started = true
	in.mu.Unlock()
	ctx, cancel := in.c.opCtx()
	err := in.store(ctx, p)
	cancel()
	in.mu.Lock()
	p.put.finished, p.put.err = true, err
	if p.put.dropped {
		in.freeLocked(p)
	} else {
		in.dirty.putBytes += int64(p.n)
	}
	much := in.dirty.putBytes >= in.c.commitBytes() && !in.dirty.flushing
	if much {
		in.dirty.flushing = true
	}
	target := in.dirty.seq
	in.mu.Unlock()
	close(p.put.done)
	if much {
		in.commitSoon(target)
	}
}

// commitBytes is how much may be put and uncommitted before a commit is due.
func (c *Client) commitBytes() int64 { return min(32<<20, c.cfg.Memory/8) }

// commitSoon commits in the background what was sealed up to target.
func (in *inode) commitSoon(target uint64) {
	in.c.wg.Add(1)
	go func() {
		defer in.c.wg.Done()
		if err := in.commitTo(in.c.life, target, flushCommit, nil); err != nil && in.c.life.Err() == nil {
			in.c.cfg.Log.WithError(err).WithField("inode", in.ino).Error("writing in the background failed")
		}
		in.mu.Lock()
		in.dirty.flushing = false
		in.mu.Unlock()
	}()
}

// name gives a piece a fresh id and the checksums that go with it.
func (in *inode) name(ctx context.Context, p *piece) error {
	p.abandon()
	if p.put.sess == nil {
		a, err := in.c.link.attach(ctx)
		if err != nil {
			return in.c.link.opError(in.c.life, "write", err)
		}
		p.put.sess = a.sess
	}
	id, err := p.put.sess.ids.take(ctx, in.c.link, p.put.sess)
	if err != nil {
		return err
	}
	key := tnv.BlockKey{Vol: p.put.sess.info.Vol, ID: id}
	unit := protocol.UnitFor(p.n)
	p.put.meta = protocol.BlockMeta{
		Key:  key,
		Home: tnv.Home{Ino: in.ino, Chunk: uint64(p.off / tnv.ChunkSize)},
		Len:  uint32(p.n), Unit: unit, Sums: protocol.BlockSums(key, unit, p.bytes()),
	}
	return nil
}

// store brings a piece to the members of a group: another member, then another
// group, is tried until it is held well enough or the deadline has passed.
func (in *inode) store(ctx context.Context, p *piece) error {
	var last error
	avoid := map[tnv.GroupID]bool{}
	for try := 0; ; try++ {
		m := in.c.cmap.get()
		g, _ := in.c.nodes.place(m, avoid)
		if g == nil {
			why, now := last, tnv.KindOf(last) == tnv.KindNoSpace
			if why == nil {
				why, now = noTaker(m)
				now = now && try > 0 // the map is no older than this write
			}
			if now || ctx.Err() != nil {
				return in.storeError(p, why)
			}
			clear(avoid)
			pause(ctx, try)
			in.c.refreshMap(ctx)
			if ctx.Err() != nil {
				return in.storeError(p, why)
			}
			continue
		}
		if err := in.name(ctx, p); err != nil {
			return err
		}
		err := in.storeIn(ctx, p, m, g, false)
		if err == nil {
			if in.wellHeld(p, g) || !in.otherWhole(m, g, avoid) {
				in.c.m.puts.Inc()
				in.c.m.putBytes.Add(float64(p.n))
				return nil
			}
		} else if ctx.Err() == nil {
			last = err
		}
		in.c.m.putRetries.Inc()
		avoid[g.ID] = true
	}
}

// noTaker says why no group takes blocks. final: waiting does not help, for all
// members answer, and are full.
func noTaker(m *tnv.Map) (err error, final bool) {
	full, lost := 0, 0
	for i := range m.Groups {
		for _, n := range m.Groups[i].Nodes {
			switch n.State {
			case tnv.NodeFull:
				full++
			case tnv.NodeLost, tnv.NodeLeaving:
				lost++
			}
		}
	}
	if full > 0 {
		return tnv.E("write", tnv.KindNoSpace, "all storage daemons that answer are full: remove files, or add a group"), lost == 0
	}
	return tnv.E("write", tnv.KindUnavailable, "no group has a storage daemon that takes blocks"), false
}

func (in *inode) storeError(p *piece, last error) error {
	if k := tnv.KindOf(last); k == tnv.KindNoSpace || k == tnv.KindQuota {
		return last
	}
	return in.c.unavailable(fmt.Sprintf("write of %d bytes at %d of inode %d", p.n, p.off, in.ino), last)
}

// wellHeld tells whether as many members hold a piece as a commit needs.
func (in *inode) wellHeld(p *piece, g *tnv.Group) bool {
	return current(p.put.holders, g) >= max(1, min(int(p.put.sess.info.MinReplicas), g.Awaiting()))
}

// otherWhole tells whether a group without any fault could take a block instead.
func (in *inode) otherWhole(m *tnv.Map, g *tnv.Group, avoid map[tnv.GroupID]bool) bool {
	no := map[tnv.GroupID]bool{g.ID: true}
	for id := range avoid {
		no[id] = true
	}
	_, whole := in.c.nodes.place(m, no)
	return whole
}

// storeIn puts a named piece to one group: each member in turn is the first of
// the chain until one takes it. Members that failed a short while ago are left
// out of the chain, unless all must have it. Where all members are slow each is
// waited for, one after the other: none would be passed over for a better one.
func (in *inode) storeIn(ctx context.Context, p *piece, m *tnv.Map, g *tnv.Group, all bool) error {
	members := in.c.nodes.takers(g, p.put.meta.Key.ID)
	p.put.group, p.put.epoch = g.ID, m.Epoch
	how := putMode{timeout: putTimeout}
	if takes(g) == tnv.NodeSlow {
		how = putMode{timeout: putSyncTimeout, patient: true}
	}
	var last error
	for i := range members {
		rest := slices.Delete(slices.Clone(members), i, i+1)
		var chain []protocol.ChainLink
		for _, n := range rest {
			if !how.patient && (all || !in.c.nodes.bad(n.ID)) {
				chain = append(chain, protocol.ChainLink{Node: n.ID, Addr: n.Addr})
			}
		}
		holders, err := in.c.putTo(ctx, members[i], p, chain, how)
		if err != nil {
			last = err
			if k := tnv.KindOf(err); ctx.Err() != nil || k == tnv.KindConflict {
				return err
			}
			continue
		}
		p.put.holders, p.put.synced = holders, p.sync
		if !how.patient {
			how.timeout = refillTimeout
		}
		p.put.full = in.refill(ctx, p, rest, all || how.patient, how)
		return nil
	}
	if last == nil {
		last = tnv.E("write", tnv.KindUnavailable, "group %s has no storage daemon that takes blocks", g.Name)
	}
	return last
}

// refill puts a piece to the members that the chain left out, unless they failed
// a short while ago and not all must have it. It is no error if they can not be reached: the owner
// records who lacks the block. full is what one says that has no space.
func (in *inode) refill(ctx context.Context, p *piece, members []tnv.Node, all bool, how putMode) (full error) {
	for _, n := range members {
		if holds(p.put.holders, n.ID) || !all && in.c.nodes.bad(n.ID) {
			continue
		}
		more, err := in.c.putTo(ctx, n, p, nil, how)
		if err != nil {
			in.c.cfg.Log.WithError(err).WithField("block", p.put.meta.Key).Debug("a member lacks a block")
			if tnv.KindOf(err) == tnv.KindNoSpace {
				full = err
			}
			continue
		}
		for _, h := range more {
			if !holds(p.put.holders, h.Node) {
				p.put.holders = append(p.put.holders, h)
			}
		}
	}
	return full
}

func holds(l []tnv.Holder, id tnv.NodeID) bool {
	return slices.ContainsFunc(l, func(h tnv.Holder) bool { return h.Node == id })
}

// putMode is how long a member is waited for. patient: for as long as the timeout
// is, whether it shows signs of life or not.
type putMode struct {
	timeout time.Duration
	patient bool
}

// putTo sends a piece to one member, which hands it on along the chain. A member
// that fails is asked last for a while; so is one that the chain had to leave out.
func (c *Client) putTo(ctx context.Context, n tnv.Node, p *piece, chain []protocol.ChainLink, how putMode) ([]tnv.Holder, error) {
	timeout, stall, silence, flags := how.timeout, putStall, putSilence, protocol.FlagLife
	if how.patient {
		stall, silence, flags = timeout, timeout, 0
	}
	if p.sync {
		timeout = max(timeout, putSyncTimeout)
	}
	tctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tctx, stop := c.whileAlive(tctx, n.ID)
	defer c.nodes.begin(n.ID)()
	req := protocol.Put{Block: p.put.meta, Sync: p.sync, Chain: chain}
	var rep protocol.PutReply
	dctx, undial := context.WithCancel(tctx)
	defer undial()
	dialling := time.AfterFunc(putDial, undial)
	defer dialling.Stop()
	err := c.pool.Do(dctx, n.Addr, func(w *protocol.Wire) (keep bool, err error) {
		dialling.Stop()
		defer func() {
			if err != nil && !keep { // another connection may be tried
				dialling.Reset(putDial)
			}
		}()
		if err := sendPut(w, &req, flags, p.bytes(), stall); err != nil {
			return false, protocol.Stalled(err)
		}
		f, err := w.ReadAnswer(silence, timeout)
		if err != nil {
			return false, err
		}
		return true, f.Decode(&rep)
	})
	if err != nil && dctx.Err() != nil && tctx.Err() == nil {
		err = tnv.E("connect to "+n.Addr, tnv.KindTimeout, "no answer within %v", putDial)
	}
	err = stop(err)
	if err == nil && len(rep.Holders) == 0 {
		err = tnv.E("put block "+p.put.meta.Key.String()+" to "+n.Addr, tnv.KindProtocol, "the storage daemon names no holder")
	}
	if err != nil {
		switch tnv.KindOf(err) {
		case tnv.KindUnavailable, tnv.KindTimeout, tnv.KindBusy, tnv.KindOther:
			if ctx.Err() == nil {
				c.nodes.failed(n.ID)
			}
		}
		return nil, tnv.Wrap("put block "+p.put.meta.Key.String(), err)
	}
	c.nodes.worked(n.ID)
	for _, l := range chain {
		if !holds(rep.Holders, l.Node) {
			c.nodes.failed(l.Node)
		}
	}
	return rep.Holders, nil
}

// sendPut sends a put with its payload, as long as bytes are taken.
func sendPut(w *protocol.Wire, req *protocol.Put, flags protocol.Flags, data []byte, stall time.Duration) error {
	w.Conn().SetWriteDeadline(time.Now().Add(stall))
	defer w.Conn().SetWriteDeadline(time.Time{})
	if len(data) <= smallPut {
		return w.WriteFrame(protocol.TypePut, flags, 0, []any{req}, data)
	}
	return w.WriteFrameFrom(protocol.TypePut, flags, 0, []any{req}, len(data), func(c net.Conn) error {
		_, err := protocol.WriteMoving(c, data, stall)
		return err
	})
}

// smallPut is up to where one write is better than two.
const smallPut = 64 << 10
