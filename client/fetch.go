package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	getTimeout    = 5 * time.Second // one member's answer
	reportTimeout = 2 * time.Second
)

// answer is one member's, or why there is none. buf is the asker's to free.
type answer struct {
	node tnv.Node
	buf  *buffer
	err  error
	took time.Duration
}

// fetch reads a part of a block, whole units, from any member of its group, into
// buf or another buffer that comes back in its place, verified. If a member
// stays silent a second one is asked as well, and the first answer wins. Errors:
// KindMissing or KindCorrupt if every member has answered and none has it whole;
// KindUnavailable if some did not answer.
func (c *Client) fetch(ctx context.Context, blk blockRef, buf *buffer) (*buffer, error) {
	if c.disk != nil && c.disk.read(blk, buf.b[:blk.hi-blk.lo]) {
		c.m.diskHits.Inc()
		return buf, nil
	}
	g := c.cmap.get().Group(blk.group)
	if g == nil || len(g.Nodes) == 0 {
		c.refreshMap(ctx)
		if g = c.cmap.get().Group(blk.group); g == nil || len(g.Nodes) == 0 {
			return buf, tnv.E("read "+blk.String(), tnv.KindUnavailable, "the group has no storage daemon")
		}
	}
	r := race{c: c, blk: blk, left: c.nodes.order(g.Nodes, blk.key.ID), answers: make(chan answer, len(g.Nodes)), own: buf}
	r.probe = c.nodes.probe(r.left)
	r.ctx, r.cancel = context.WithCancel(ctx)
	out, err := r.run()
	if err == nil && c.disk != nil {
		c.disk.write(blk, out.b[:blk.hi-blk.lo])
	}
	return out, err
}

// race asks members for one part until one has it.
type race struct {
	c       *Client
	ctx     context.Context
	cancel  context.CancelFunc
	blk     blockRef
	probe   bool       // the first is asked to see whether it works again
	left    []tnv.Node // not yet asked
	asked   []asked
	out     int // asked, and not yet answered
	answers chan answer
	own     *buffer // what the first one reads into; nil while it does
	bad     []answer
}

// asked is a member that was asked, and when.
type asked struct {
	id   tnv.NodeID
	at   time.Time
	over bool // it has answered, or counts as failed
}

// run returns the winner's buffer, or own with an error. Those that lose are
// cancelled and free what they read into.
func (r *race) run() (*buffer, error) {
	defer r.cancel()
	r.ask(0)
	soft := r.c.nodes.patience()
	if r.probe {
		soft = minHedge
	}
	timer := time.NewTimer(soft)
	defer timer.Stop()
	for start, hard := time.Now(), false; ; {
		select {
		case a := <-r.answers:
			r.out--
			if a.err == nil {
				r.won(a)
				return a.buf, nil
			}
			r.lost(a)
			if len(r.left) > 0 && r.ctx.Err() == nil {
				r.ask(0)
				continue
			}
			if r.out == 0 {
				return r.giveUp()
			}
		case <-timer.C:
			r.late(hard)
			timer.Reset(hardHedge)
			if !hard {
				hard = true
				timer.Reset(max(hardHedge-time.Since(start), time.Millisecond))
			}
		}
	}
}

// late asks one more member, if there is one that did not say BUSY. The first
// time that is within hedging's share of the reads, unless the silent one was
// only tried; when nothing has come for hardHedge (hard) the silent ones count as
// failed, and it is no hedge any more.
func (r *race) late(hard bool) {
	if hard {
		for i := range r.asked {
			if a := &r.asked[i]; !a.over && time.Since(a.at) >= hardHedge-minHedge {
				a.over = true
				r.c.nodes.failed(a.id)
			}
		}
	}
	i := slices.IndexFunc(r.left, func(n tnv.Node) bool { return !r.c.nodes.isBusy(n.ID) })
	if i < 0 || !hard && !r.probe && !r.c.nodes.mayHedge() {
		return
	}
	r.c.m.hedges.Inc()
	r.ask(i)
}

// ask puts the question to a member of those left.
func (r *race) ask(i int) {
	n := r.left[i]
	r.left = slices.Delete(r.left, i, i+1)
	r.asked = append(r.asked, asked{id: n.ID, at: time.Now()})
	r.out++
	buf := r.own
	r.own = nil
	size := int(r.blk.hi - r.blk.lo)
	ctx, cancel := r.ctx, context.CancelFunc(func() {})
	if r.probe && len(r.asked) == 1 { // the answer is of use when another has won, too
		ctx, cancel = context.WithTimeout(r.c.life, probeLife)
	}
	r.c.wg.Add(1)
	go func() {
		defer r.c.wg.Done()
		defer cancel()
		start := time.Now()
		if buf == nil {
			var err error
			if buf, err = r.c.mem.wait(ctx, forRead, size); err != nil {
				r.answers <- answer{node: n, err: err}
				return
			}
		}
		err := r.c.readFrom(ctx, n, r.blk, buf.b[:size])
		r.answers <- answer{n, buf, err, time.Since(start)}
	}()
}

// won takes the first good answer; the rest are waited for in the background.
func (r *race) won(a answer) {
	r.c.nodes.answered(a.node.ID, a.took)
	r.c.nodes.worked(a.node.ID)
	for _, o := range r.asked {
		if o.id == a.node.ID {
			break
		}
		if !o.over {
			r.c.nodes.outran(o.id, time.Since(o.at))
		}
	}
	r.c.m.gets.Inc()
	r.c.m.getBytes.Add(float64(r.blk.hi - r.blk.lo))
	for _, b := range r.bad {
		if k := tnv.KindOf(b.err); k == tnv.KindMissing { // this one has it: so it is really lacking there
			r.c.report(b.node, r.blk.key, r.blk.home)
		}
	}
	if r.own != nil {
		r.c.mem.give(r.own)
		r.own = nil
	}
	r.drain()
}

// drain frees what the losers read into, when they are done. One that was asked
// to see whether it works again is not cancelled: its answer tells.
func (r *race) drain() {
	if r.out == 0 {
		return
	}
	r.cancel()
	n := r.out
	r.c.wg.Add(1)
	go func() {
		defer r.c.wg.Done()
		for range n {
			a := <-r.answers
			if a.buf != nil {
				r.c.mem.give(a.buf)
			}
			switch {
			case !r.probe || a.node.ID != r.asked[0].id:
			case a.err == nil:
				r.c.nodes.worked(a.node.ID)
			case tnv.KindOf(a.err) != tnv.KindBusy:
				r.c.nodes.failed(a.node.ID)
			}
		}
	}()
}

// lost notes a bad answer; its buffer serves the next.
func (r *race) lost(a answer) {
	r.bad = append(r.bad, a)
	for i := range r.asked {
		r.asked[i].over = r.asked[i].over || r.asked[i].id == a.node.ID
	}
	switch {
	case r.own == nil:
		r.own = a.buf
	case a.buf != nil:
		r.c.mem.give(a.buf)
	}
	switch tnv.KindOf(a.err) {
	case tnv.KindCorrupt:
		r.c.m.badBlocks.Inc()
		r.c.cfg.Log.WithError(a.err).Error("a storage daemon gave out a damaged block")
		r.c.report(a.node, r.blk.key, r.blk.home)
	case tnv.KindMissing:
		r.c.m.badBlocks.Inc()
	case tnv.KindBusy:
		r.c.nodes.refused(a.node.ID)
	case tnv.KindCanceled:
	default:
		if r.ctx.Err() == nil {
			r.c.nodes.failed(a.node.ID)
		}
	}
}

// giveUp makes one error of all answers.
func (r *race) giveUp() (*buffer, error) {
	kind, err := tnv.KindMissing, error(nil)
	for _, a := range r.bad {
		switch k := tnv.KindOf(a.err); k {
		case tnv.KindMissing:
			if err == nil {
				err = a.err
			}
		case tnv.KindCorrupt:
			if kind == tnv.KindMissing {
				kind, err = k, a.err
			}
		default:
			kind, err = tnv.KindUnavailable, a.err
		}
	}
	if r.ctx.Err() != nil {
		kind = tnv.KindUnavailable
	}
	return r.own, &tnv.Error{Op: "read " + r.blk.String(), Kind: kind, Err: err,
		Msg: "no member of the group has answered with it"}
}

// String names a part in errors: volume, inode, block, group.
func (b blockRef) String() string {
	return fmt.Sprintf("bytes %d to %d of block %d of volume %d, inode %d, group %d",
		b.lo, b.hi, b.key.ID, b.key.Vol, b.home.Ino, b.group)
}

// readFrom reads a part from one member into dst and verifies it: from its
// segment file if it is on this host, else over the network.
func (c *Client) readFrom(ctx context.Context, n tnv.Node, blk blockRef, dst []byte) error {
	defer c.nodes.begin(n.ID)()
	if !c.cfg.NoLocal && c.host != "" && n.Host == c.host && n.Local != "" {
		if c.nodes.localStore(n.Local, c.ep).read(ctx, blk, dst) {
			c.m.localReads.Inc()
			return nil
		}
		if ctx.Err() != nil {
			return tnv.Wrap("read", ctx.Err())
		}
	}
	return c.get(ctx, n, blk, dst)
}

// get is one Get.
func (c *Client) get(ctx context.Context, n tnv.Node, blk blockRef, dst []byte) error {
	tctx, cancel := context.WithTimeout(ctx, getTimeout)
	defer cancel()
	req := protocol.Get{Key: blk.key, Off: blk.lo, Len: blk.hi - blk.lo}
	err := c.pool.Do(tctx, n.Addr, func(w *protocol.Wire) (bool, error) {
		if err := w.WriteFrame(protocol.TypeGet, 0, 0, []any{&req}); err != nil {
			return false, err
		}
		f, err := w.ReadFrame()
		if err != nil {
			return false, err
		}
		var rep protocol.GetReply
		if err := f.Decode(&rep); err != nil {
			return true, err
		}
		return takePayload(w, int(f.Payload), &rep, blk, dst)
	})
	return tnv.Wrap("read "+blk.String()+" from "+n.Addr, err)
}

// takePayload reads the units that came and verifies them. They are those that
// were asked for, or more, if the block's unit is larger than assumed.
func takePayload(w *protocol.Wire, n int, rep *protocol.GetReply, blk blockRef, dst []byte) (keep bool, err error) {
	unit := rep.Block.Unit
	bad := func(why string) (bool, error) { return false, tnv.E("get", tnv.KindCorrupt, "%s", why) }
	switch {
	case unit < protocol.MinUnit || unit > protocol.MaxUnit || unit&(unit-1) != 0 || rep.Off%unit != 0:
		return bad("the answer's checksum unit makes no sense")
	case rep.Block.Key != blk.key || rep.Block.Len != blk.len:
		return bad("the answer is about another block")
	case rep.Off > blk.lo || int64(rep.Off)+int64(n) < int64(blk.hi) || int64(rep.Off)+int64(n) > int64(blk.len):
		return bad("the answer does not cover what was asked for")
	case len(rep.Block.Sums) != protocol.Units(uint32(n), unit):
		return bad("the answer has not one checksum per unit")
	}
	into := dst
	if rep.Off != blk.lo || n != len(dst) {
		into = make([]byte, n)
	}
	if err := w.ReadPayload(into); err != nil {
		return false, err
	}
	if u := protocol.Verify(blk.key, unit, int(rep.Off/unit), into, rep.Block.Sums); u >= 0 {
		return true, tnv.E("get", tnv.KindCorrupt, "unit %d does not match its checksum", u)
	}
	if n != len(dst) {
		copy(dst, into[blk.lo-rep.Off:])
	}
	return true, nil
}

// report tells a member that its copy of a block is bad or missing. It does not
// wait for the answer.
func (c *Client) report(n tnv.Node, key tnv.BlockKey, home tnv.Home) {
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		ctx, cancel := context.WithTimeout(c.life, reportTimeout)
		defer cancel()
		if err := c.pool.Call(ctx, n.Addr, protocol.TypeRepair, nil, &protocol.Repair{Key: key, Home: home}); err != nil {
			c.cfg.Log.WithError(err).WithField("block", key).Debug("repair not told")
		}
	}()
}
