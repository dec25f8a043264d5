package client

import (
	"container/list"
	"context"
	"slices"
	"sync"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// cache holds parts of blocks: those being fetched, those in use, and those that
// may be asked for again, the longest unused of which make room. Blocks never
// change, so whatever is in it is right. A part is fetched once however many
// ask for it, and its fetch is cancelled when nobody does any more.
type cache struct {
	c *Client

	mu     sync.Mutex // before budget.mu
	blocks map[tnv.BlockKey][]*part
	lru    *list.List // of *part that are ready, the longest unused first
}

// part is whole checksum units of a block. Parts of a block never overlap.
type part struct {
	blk  blockRef // [lo, hi) is the part
	done chan struct{}
	stop context.CancelFunc // of the fetch

	// Under cache.mu. buf and err are set before done is closed.
	buf     *buffer
	err     error
	refs    int // readers, and read-ahead
	running bool
	listed  bool // in cache.blocks
	elem    *list.Element
}

// partSize is the most that is fetched in one go.
const partSize = 1 << 20

func newCache(c *Client) *cache {
	return &cache{c: c, blocks: map[tnv.BlockKey][]*part{}, lru: list.New()}
}

// bytes are the part's, once it is ready.
func (p *part) bytes() []byte { return p.buf.b[:p.blk.hi-p.blk.lo] }

// lookup finds the part that holds a byte of a block, and the room around it if
// there is none.
func (k *cache) lookupLocked(key tnv.BlockKey, at uint32, blockLen uint32) (p *part, lo, hi uint32) {
	hi = blockLen
	for _, q := range k.blocks[key] {
		if at < q.blk.lo {
			return nil, lo, q.blk.lo
		}
		if at < q.blk.hi {
			return q, 0, 0
		}
		lo = q.blk.hi
	}
	return nil, lo, hi
}

// get returns the part with the byte at blk.lo; the caller unrefs it. If it is
// not there its fetch begins: of as much of [blk.lo, blk.hi) as one part may be,
// and with ahead up to the end of what a part may be. With wait false nil comes
// back if there is no memory at once; only a caller that holds no part may wait.
func (k *cache) get(ctx context.Context, blk blockRef, ahead, wait bool) (*part, error) {
	var spare *buffer
	defer func() {
		if spare != nil {
			k.c.mem.give(spare)
		}
	}()
	for {
		k.mu.Lock()
		p, lo, hi := k.lookupLocked(blk.key, blk.lo, blk.len)
		if p != nil {
			p.refs++
			if p.elem != nil {
				k.lru.MoveToBack(p.elem)
			}
			k.mu.Unlock()
			if !ahead {
				k.c.m.cacheHits.Inc()
			}
			return p, nil
		}
		want := fetchRange(blk, lo, hi, ahead)
		if spare != nil && len(spare.b) >= int(want.hi-want.lo) {
			p = k.startLocked(want, spare)
			spare = nil
			k.mu.Unlock()
			k.c.m.misses.Inc()
			return p, nil
		}
		k.mu.Unlock()
		if spare != nil {
			k.c.mem.give(spare)
			spare = nil
		}
		n := int(want.hi - want.lo)
		if spare = k.c.mem.take(forRead, n); spare == nil {
			if !wait {
				return nil, nil
			}
			var err error
			if spare, err = k.c.mem.wait(ctx, forRead, n); err != nil {
				return nil, err
			}
		}
	}
}

// fetchRange widens what is wanted to whole units, within the room [lo, hi).
func fetchRange(blk blockRef, lo, hi uint32, ahead bool) blockRef {
	unit := protocol.UnitFor(int(blk.len))
	from := max(lo, blk.lo/unit*unit)
	to := (blk.hi + unit - 1) / unit * unit
	edge := (blk.lo/partSize + 1) * partSize
	if ahead {
		to = edge
	}
	blk.lo, blk.hi = from, min(to, edge, hi)
	return blk
}

func (k *cache) startLocked(blk blockRef, buf *buffer) *part {
	ctx, stop := k.c.opCtx()
	p := &part{blk: blk, buf: buf, done: make(chan struct{}), stop: stop, refs: 1, running: true, listed: true}
	l := k.blocks[blk.key]
	i := slices.IndexFunc(l, func(q *part) bool { return q.blk.lo > blk.lo })
	if i < 0 {
		i = len(l)
	}
	k.blocks[blk.key] = slices.Insert(l, i, p)
	k.c.wg.Add(1)
	go k.fetch(ctx, p)
	return p
}

func (k *cache) fetch(ctx context.Context, p *part) {
	defer k.c.wg.Done()
	buf, err := k.c.fetch(ctx, p.blk, p.buf)
	p.stop()
	k.mu.Lock()
	p.buf, p.err, p.running = buf, err, false
	if err != nil {
		k.unlistLocked(p)
	} else if p.listed {
		p.elem = k.lru.PushBack(p)
	}
	free := p.freeLocked()
	idle := p.refs == 0
	k.mu.Unlock()
	close(p.done)
	k.settle(free, idle)
}

// freeLocked takes the buffer of a part that nobody can reach any more.
func (p *part) freeLocked() *buffer {
	if p.refs > 0 || p.running || p.listed {
		return nil
	}
	b := p.buf
	p.buf = nil
	return b
}

// settle gives a buffer back, or says that one could be made free.
func (k *cache) settle(free *buffer, idle bool) {
	if free != nil {
		k.c.mem.give(free)
	} else if idle {
		k.c.mem.kick()
	}
}

func (k *cache) unlistLocked(p *part) {
	if !p.listed {
		return
	}
	p.listed = false
	if p.elem != nil {
		k.lru.Remove(p.elem)
		p.elem = nil
	}
	l := k.blocks[p.blk.key]
	l = slices.Delete(l, slices.Index(l, p), slices.Index(l, p)+1)
	if len(l) == 0 {
		delete(k.blocks, p.blk.key)
	} else {
		k.blocks[p.blk.key] = l
	}
}

// unref lets go of a part. A fetch that nobody waits for is cancelled.
func (k *cache) unref(p *part) {
	k.mu.Lock()
	p.refs--
	idle := p.refs == 0
	if idle && p.running {
		k.unlistLocked(p)
		p.stop()
	}
	free := p.freeLocked()
	k.mu.Unlock()
	k.settle(free, idle)
}

// await waits until a part is fetched.
func (p *part) await(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return tnv.Wrap("read", ctx.Err())
	}
}

// evict frees at least n bytes of parts that nobody uses; false: there is none.
func (k *cache) evict(n int64) bool {
	var free []*buffer
	k.mu.Lock()
	for e := k.lru.Front(); e != nil && n > 0; {
		next := e.Next()
		if p := e.Value.(*part); p.refs == 0 {
			n -= int64(len(p.buf.b))
			k.unlistLocked(p)
			free = append(free, p.freeLocked())
		}
		e = next
	}
	k.mu.Unlock()
	for _, b := range free {
		k.c.mem.give(b)
	}
	return len(free) > 0
}
