package stored

import (
	"context"
	"sync"
	"time"
)

// behind is what this store is known to lack, and how fast it copies that.
type behind struct {
	mu            sync.Mutex
	blocks, bytes uint64
	// speed is bytes per second, of the time up to at; since then came fresh.
	speed float64
	at    time.Time
	fresh uint64
}

// speedOver is the time over which the speed is taken.
const speedOver = 2 * time.Second

func (b *behind) set(blocks, bytes uint64) {
	b.mu.Lock()
	b.blocks, b.bytes = blocks, bytes
	b.mu.Unlock()
}

func (b *behind) get() (blocks, bytes uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.blocks, b.bytes
}

// copied counts bytes that came from a peer.
func (b *behind) copied(n int, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at.IsZero() || now.Sub(b.at) > 5*speedOver { // it stood still
		b.at, b.speed, b.fresh = now, 0, 0
	}
	b.fresh += uint64(n)
	if d := now.Sub(b.at); d >= speedOver {
		b.speed, b.at, b.fresh = float64(b.fresh)/d.Seconds(), now, 0
	}
}

// rate is how many bytes per second are copied at present.
func (b *behind) rate(now time.Time) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := now.Sub(b.at)
	switch {
	case b.blocks == 0 || b.at.IsZero() || d > 5*speedOver:
		return 0
	case b.speed == 0 && d > speedOver/4: // the first seconds
		return uint64(float64(b.fresh) / d.Seconds())
	}
	return uint64(b.speed)
}

// viewers notes that clients read here: what this store does of its own accord,
// and what its peers copy from it, then goes at a small part of its rate, so that
// nobody who watches a film notices.
type viewers struct {
	mu   sync.Mutex
	last time.Time
	slow limiter
}

const (
	viewersFor = 500 * time.Millisecond // a reader counts so long
	yieldShare = 8
)

// seen notes a reader.
func (v *viewers) seen() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last = time.Now()
}

func (v *viewers) there() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return time.Since(v.last) < viewersFor
}

// yield waits for the turn of n bytes that no reader asked for, if there are readers.
func (v *viewers) yield(ctx context.Context, n int) error {
	if !v.there() {
		return nil
	}
	return v.slow.wait(ctx, n)
}
