package client

import (
	"sync"
	"sync/atomic"
)

// readAhead watches how one handle is read. A sequential reader has a window of
// bytes fetched before it asks, doubled as it goes on, up to a cap. A far seek
// costs only what was asked and begins anew. What is fetched ahead is held until
// the reader has passed it, within a share of the memory.
type readAhead struct {
	mu     sync.Mutex
	next   int64 // where a sequential reader goes on
	streak int   // sequential reads in a row
	window int64
	end    int64 // fetched or on its way up to here
	held   []aheadPart
	asked  atomic.Bool // the extents of the following chunk are being read
}

type aheadPart struct {
	p   *part
	end int64 // in the file
}

// raAccount bounds what all handles hold ahead.
type raAccount struct {
	limit int64
	used  atomic.Int64
}

const (
	firstWindow = 256 << 10
	maxWindow   = 16 << 20
	near        = 512 << 10 // the kernel's own read-ahead comes a little out of order
)

// moved says that [off, off+n) is being read now.
func (r *readAhead) moved(in *inode, l *layout, off int64, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := off + int64(n)
	if d := off - r.next; d > near || d < -near {
		r.dropLocked(in.c, 1<<62)
		r.streak, r.window, r.end = 0, 0, end
		r.next = end
		return
	}
	r.streak++
	r.next = max(r.next, end)
	r.end = max(r.end, r.next)
	r.dropLocked(in.c, r.next-near)
	if r.streak < 2 {
		return
	}
	most := min(maxWindow, in.c.cfg.Memory/16)
	r.window = min(max(2*r.window, firstWindow, 2*int64(n)), most)
	if r.end-r.next <= r.window/2 {
		r.fetchLocked(in, l, r.next+r.window)
	}
}

// fetchLocked begins to fetch up to file offset to, without waiting for anything.
func (r *readAhead) fetchLocked(in *inode, l *layout, to int64) {
	c := in.c
	to = min(to, int64(l.attr.Size))
	vol := c.vol()
	for r.end < to {
		first, count := chunksOf(r.end, int(to-r.end))
		here, ok := in.ahead(l, first, count)
		if !ok {
			r.askLocked(in, l, first, count)
		}
		runs := here.runs(vol, in.ino, r.end, int(to-r.end))
		if len(runs) == 0 {
			return
		}
		for _, u := range runs {
			if u.blk.key.ID == 0 {
				r.end = u.off + int64(u.n)
				continue
			}
			for at := u.blk; at.lo < at.hi; {
				if c.raBytes.used.Load() > c.raBytes.limit {
					return
				}
				p, err := c.cache.get(c.life, at, true, false)
				if err != nil || p == nil {
					return
				}
				c.raBytes.used.Add(int64(p.blk.hi - p.blk.lo))
				hi := min(at.hi, p.blk.hi)
				r.end = u.off + int64(hi-u.blk.lo)
				r.held = append(r.held, aheadPart{p, r.end})
				at.lo = hi
			}
		}
	}
}

// ahead is the layout for reading ahead: of the version that is being read.
func (in *inode) ahead(l *layout, first uint64, count uint32) (layout, bool) {
	if first >= l.first && first+uint64(count) <= l.first+uint64(len(l.chunks)) {
		return *l, true
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ext.ver != l.attr.Data {
		return *l, true // another version has come: nothing to fetch beyond l
	}
	here, ok := in.cachedLocked(first, count)
	if !ok {
		if here, _ = in.cachedLocked(first, 1); len(here.chunks) == 0 {
			return *l, false
		}
	}
	return here, ok
}

// askLocked reads the extents of chunks that come next, in the background.
func (r *readAhead) askLocked(in *inode, l *layout, first uint64, count uint32) {
	if !r.asked.CompareAndSwap(false, true) {
		return
	}
	c := in.c
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		defer r.asked.Store(false)
		if _, err := in.askExtents(c.life, first, count, 0); err != nil {
			c.cfg.Log.WithError(err).Debug("extents not read ahead")
		}
	}()
}

// dropLocked lets go of what lies before file offset upTo.
func (r *readAhead) dropLocked(c *Client, upTo int64) {
	keep := r.held[:0]
	for _, a := range r.held {
		if a.end > upTo {
			keep = append(keep, a)
			continue
		}
		c.raBytes.used.Add(-int64(a.p.blk.hi - a.p.blk.lo))
		c.cache.unref(a.p)
	}
	clear(r.held[len(keep):])
	r.held = keep
}

// stop lets go of everything.
func (r *readAhead) stop(c *Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropLocked(c, 1<<62)
	r.streak, r.window = 0, 0
}
