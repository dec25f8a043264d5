package stored

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	fetchTimeout = 15 * time.Second       // of one block from one peer
	copyWait     = 30 * time.Second       // for memory
	repairTell   = 500 * time.Millisecond // to tell a peer that its copy is bad
)

// copied is a block from a peer, its bytes verified. release it.
type copied struct {
	meta    protocol.BlockMeta
	data    []byte
	release func()
}

// fetch gets a block from the first of the peers that has it whole.
// KindMissing: none of those that answered has it.
func (d *daemon) fetch(ctx context.Context, key tnv.BlockKey, peers []tnv.Node) (*copied, error) {
	if err := d.mem.copy.acquire(ctx, tnv.MaxBlockSize, copyWait); err != nil {
		return nil, err
	}
	buf := d.mem.bufs.get(tnv.MaxBlockSize)
	release := func() {
		d.mem.bufs.put(buf)
		d.mem.copy.release(tnv.MaxBlockSize)
	}
	errs := []error{tnv.E("copy block "+key.String(), tnv.KindMissing, "no living peer has it")}
	for _, p := range peers {
		meta, err := d.fetchFrom(ctx, key, p, buf)
		if err == nil {
			return &copied{meta: meta, data: buf[:meta.Len], release: release}, nil
		}
		if tnv.KindOf(err) == tnv.KindCorrupt {
			d.tellBad(ctx, p, key)
		}
		if tnv.KindOf(err) != tnv.KindMissing {
			errs = []error{err} // tells more than that others lack it
		}
		if ctx.Err() != nil {
			break
		}
	}
	release()
	return nil, errors.Join(errs...)
}

// fetchFrom gets a block from one peer into buf, and verifies it.
func (d *daemon) fetchFrom(ctx context.Context, key tnv.BlockKey, p tnv.Node, buf []byte) (protocol.BlockMeta, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	op := "copy block " + key.String() + " from " + p.Addr
	var reply protocol.GetReply
	err := d.pool.Do(ctx, p.Addr, func(w *protocol.Wire) (bool, error) {
		reply = protocol.GetReply{}
		if err := w.WriteFrame(protocol.TypeGet, 0, 0, []any{&protocol.Get{Key: key, Meta: true}}); err != nil {
			return false, err
		}
		f, err := w.ReadFrame()
		if err != nil {
			return false, err
		}
		if err := f.Decode(&reply); err != nil {
			return f.Flags&protocol.FlagError != 0, err
		}
		m := &reply.Block
		if m.Check() != nil || m.Key != key || reply.Off != 0 || f.Payload != m.Len {
			return false, tnv.E(op, tnv.KindProtocol, "the answer is not the block that was asked for")
		}
		return true, w.ReadPayload(buf[:m.Len])
	})
	if err != nil {
		return reply.Block, err
	}
	m := reply.Block
	if unit := protocol.Verify(key, m.Unit, 0, buf[:m.Len], m.Sums); unit >= 0 {
		return m, tnv.E(op, tnv.KindCorrupt, "unit %d of the peer's copy does not match its checksum", unit)
	}
	return m, nil
}

// tellBad asks a peer to look at its copy, and mend it.
func (d *daemon) tellBad(ctx context.Context, p tnv.Node, key tnv.BlockKey) {
	d.log.WithField("block", key.String()).WithField("peer", p.Addr).Warn("a peer's copy of a block is bad")
	ctx, cancel := context.WithTimeout(ctx, repairTell)
	defer cancel()
	home, _ := d.store.Home(key)
	if err := d.pool.Call(ctx, p.Addr, protocol.TypeRepair, nil, &protocol.Repair{Key: key, Home: home}); err != nil {
		d.log.WithError(err).WithField("peer", p.Addr).Debug("the peer could not be told")
	}
}

// keep writes a block that was copied. A block that is here already is fine.
func (d *daemon) keep(c *copied, sync bool) error {
	w, err := d.beginPut(&c.meta)
	if err != nil || w == nil {
		return err
	}
	if _, err := w.Write(c.data); err != nil {
		w.Abort()
		return err
	}
	return d.commitPut(w, sync)
}

// limiter spreads bytes over time: at most rate per second, a second's worth at once.
type limiter struct {
	rate float64

	mu    sync.Mutex
	until time.Time // the time up to which bytes were given out
}

// wait returns when n more bytes may go, or ctx ends.
func (l *limiter) wait(ctx context.Context, n int) error { return sleep(ctx, time.Until(l.charge(n))) }

// charge gives n bytes out, and the time at which they may go.
func (l *limiter) charge(n int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if past := time.Now().Add(-time.Second); l.until.Before(past) {
		l.until = past
	}
	l.until = l.until.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	return l.until
}

// sleep waits, or returns ctx's error when that ends first.
func sleep(ctx context.Context, delay time.Duration) error {
	if delay <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// count is a number that many increase.
type count struct {
	mu sync.Mutex
	n  uint64
}

func (c *count) inc() {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
}

func (c *count) get() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}
