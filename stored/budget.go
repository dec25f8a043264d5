package stored

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
)

// budget is a number of bytes (or places) that many share: a weighted
// semaphore, first come first served.
type budget struct {
	name string
	size int64

	mu      sync.Mutex
	free    int64
	waiting []*claim
}

type claim struct {
	n  int64
	ok chan struct{} // closed once granted
}

func newBudget(name string, size int64) *budget { return &budget{name: name, size: size, free: size} }

// acquire takes n, waiting at most so long: KindBusy then, or when ctx ends.
func (b *budget) acquire(ctx context.Context, n int64, wait time.Duration) error {
	n = min(n, b.size)
	b.mu.Lock()
	if len(b.waiting) == 0 && b.free >= n {
		b.free -= n
		b.mu.Unlock()
		return nil
	}
	c := &claim{n: n, ok: make(chan struct{})}
	b.waiting = append(b.waiting, c)
	b.mu.Unlock()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-c.ok:
		return nil
	case <-t.C:
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.waiting, c)
	if i < 0 { // granted at the last moment
		return nil
	}
	b.waiting = slices.Delete(b.waiting, i, i+1)
	b.grantLocked() // a small claim may have stood behind this large one
	return tnv.E("wait for "+b.name, tnv.KindBusy, "none free within %v", wait)
}

func (b *budget) release(n int64) {
	n = min(n, b.size)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.grantLocked()
}

func (b *budget) grantLocked() {
	for len(b.waiting) > 0 && b.waiting[0].n <= b.free {
		b.free -= b.waiting[0].n
		close(b.waiting[0].ok)
		b.waiting = b.waiting[1:]
	}
}

func (b *budget) used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size - b.free
}

// memory is the daemon's memory for blocks, set aside by what it is for. Puts
// take from the part of their position in the chain: see the package's page.
type memory struct {
	puts [4]*budget // by how many members are behind this one; the last: 3 and more
	gets *budget    // small reads
	copy *budget    // blocks copied from peers, and verified
	bufs buffers
}

func newMemory(n int64) *memory {
	m := &memory{gets: newBudget("memory for reads", n/16), copy: newBudget("memory for copies", n/8)}
	for i, part := range []int64{n * 3 / 16, n * 3 / 8, n / 8, n / 8} {
		m.puts[i] = newBudget("memory for puts", part)
	}
	return m
}

func (m *memory) forPut(behind int) *budget { return m.puts[min(behind, len(m.puts)-1)] }

func (m *memory) used() int64 {
	n := m.gets.used() + m.copy.used()
	for _, b := range m.puts {
		n += b.used()
	}
	return n
}

// buffers are byte slices of a few fixed sizes, used again and again.
type buffers struct {
	pools [len(bufferSizes)]sync.Pool
}

var bufferSizes = [...]int{16 << 10, 80 << 10, 256 << 10, 1 << 20, tnv.MaxBlockSize}

func bufferClass(n int) int {
	for i, s := range bufferSizes {
		if n <= s {
			return i
		}
	}
	panic("stored: a buffer longer than a block")
}

// bufferSize is what a buffer of n bytes takes of a budget.
func bufferSize(n int) int64 { return int64(bufferSizes[bufferClass(n)]) }

// get gives a buffer of n bytes, at most tnv.MaxBlockSize, with any content.
func (b *buffers) get(n int) []byte {
	c := bufferClass(n)
	if p, ok := b.pools[c].Get().(*[]byte); ok {
		return (*p)[:n]
	}
	return make([]byte, n, bufferSizes[c])
}

// put takes a buffer from get back.
func (b *buffers) put(p []byte) {
	p = p[:cap(p)]
	b.pools[bufferClass(len(p))].Put(&p)
}
