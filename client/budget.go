package client

import (
	"context"
	"math/bits"
	"sync"

	"github.com/tnvfs/tnv/protocol"

	"github.com/tnvfs/tnv"
)

// use says what memory is for. Each use has a share that the other cannot take,
// so that neither writers nor readers can starve the other.
type use int

const (
	forWrite use = iota // dirty pieces, until they are committed
	forRead             // pieces of blocks: on their way, in use, and cached
	uses
)

// Buffers come in powers of two from 4 KiB to 4 MiB.
const (
	minClass   = 12
	maxClass   = 22
	numClasses = maxClass - minClass + 1
)

// buffer is a piece of memory from the budget. Its owner frees it exactly once.
type buffer struct {
	b   []byte // its length is the class's
	use use
}

// budget is the one account of memory: what is in use and what is kept idle for
// the next user never exceed limit. Whoever asks waits, in order, until others
// give back; cached pieces make room first.
type budget struct {
	limit   int64
	reserve int64                // of limit, for each use
	evict   func(n int64) bool   // drops cached pieces; false: none can go. Called without mu.
	press   func()               // writers wait: whatever is dirty should be written now
	m       *metrics             // may be nil
	mu      sync.Mutex           // below the cache's: see cache
	used    [uses]int64          //
	idle    int64                // bytes in free
	free    [numClasses][][]byte //
	queue   [uses][]chan struct{}
	peak    int64 // of used and idle together
}

func newBudget(limit int64) *budget {
	return &budget{limit: limit, reserve: limit / 4, evict: func(int64) bool { return false }, press: func() {}}
}

func classOf(n int) int {
	if n <= 1<<minClass {
		return 0
	}
	return bits.Len(uint(n-1)) - minClass
}

func classSize(c int) int64 { return 1 << (c + minClass) }

// take returns a buffer of at least n bytes at once, or nil if there is no room
// or others were waiting before.
func (g *budget) take(u use, n int) *buffer {
	g.mu.Lock()
	busy := len(g.queue[u]) > 0
	g.mu.Unlock()
	if busy {
		return nil
	}
	return g.grab(u, n)
}

// grab tries until there is nothing left to evict.
func (g *budget) grab(u use, n int) *buffer {
	for {
		b, short := g.try(u, n)
		if b != nil || short <= 0 || !g.evict(short) {
			return b
		}
	}
}

// try is one look at the account; short is what cached pieces would have to make room for.
func (g *budget) try(u use, n int) (b *buffer, short int64) {
	c := classOf(n)
	size := classSize(c)
	g.mu.Lock()
	defer g.mu.Unlock()
	if over := g.used[u] + size - (g.limit - g.reserve); over > 0 {
		if u == forRead {
			return nil, over
		}
		return nil, 0 // evicting does not help: writers have their share
	}
	total := g.used[forWrite] + g.used[forRead]
	if over := total + size - g.limit; over > 0 {
		return nil, over
	}
	var mem []byte
	if l := g.free[c]; len(l) > 0 {
		mem, g.free[c] = l[len(l)-1], l[:len(l)-1]
		g.idle -= size
	} else {
		g.trimLocked(g.limit - total - size)
		mem = make([]byte, size)
	}
	g.used[u] += size
	g.peak = max(g.peak, total+size+g.idle)
	return &buffer{b: mem, use: u}, 0
}

// trimLocked drops idle memory until at most keep bytes are left of it.
func (g *budget) trimLocked(keep int64) {
	for c := numClasses - 1; c >= 0 && g.idle > keep; c-- {
		for len(g.free[c]) > 0 && g.idle > keep {
			last := len(g.free[c]) - 1
			g.free[c][last] = nil
			g.free[c] = g.free[c][:last]
			g.idle -= classSize(c)
		}
	}
}

// wait returns a buffer of at least n bytes, as soon as there is room. The
// caller must hold no other buffer that only it can free.
func (g *budget) wait(ctx context.Context, u use, n int) (*buffer, error) {
	if b := g.take(u, n); b != nil {
		return b, nil
	}
	if g.m != nil {
		g.m.budgetWaits.Inc()
	}
	ch := make(chan struct{}, 1)
	g.mu.Lock()
	g.queue[u] = append(g.queue[u], ch)
	first := len(g.queue[u]) == 1
	g.mu.Unlock()
	defer g.leave(u, ch)
	for {
		if first {
			if b := g.grab(u, n); b != nil {
				return b, nil
			}
		}
		if u == forWrite {
			g.press()
		}
		select {
		case <-ch:
			first = true
		case <-ctx.Done():
			return nil, tnv.Wrap("wait for memory", ctx.Err())
		}
	}
}

// leave takes a waiter out of the queue and lets the next one look.
func (g *budget) leave(u use, ch chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := g.queue[u]
	for i := range q {
		if q[i] == ch {
			g.queue[u] = append(q[:i:i], q[i+1:]...)
			break
		}
	}
	g.kickLocked()
}

// kickLocked lets the first waiter of each use look again.
func (g *budget) kickLocked() {
	for u := range g.queue {
		if len(g.queue[u]) > 0 {
			select {
			case g.queue[u][0] <- struct{}{}:
			default:
			}
		}
	}
}

// kick says that something became evictable.
func (g *budget) kick() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.kickLocked()
}

// give takes a buffer back.
func (g *budget) give(b *buffer) {
	c := classOf(len(b.b))
	g.mu.Lock()
	defer g.mu.Unlock()
	g.used[b.use] -= classSize(c)
	g.free[c] = append(g.free[c], b.b)
	g.idle += classSize(c)
	b.b = nil
	g.kickLocked()
}

// trim halves what is kept idle; it is called every few seconds.
func (g *budget) trim() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.trimLocked(g.idle / 2 &^ (1<<minClass - 1))
}

// figures are what the metrics show.
func (g *budget) figures() (write, read, idle, peak int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.used[forWrite], g.used[forRead], g.idle, g.peak
}

// The largest class holds any block.
var _ [1<<maxClass - protocol.MaxPayload]struct{}
