package fuse

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"sync"
	"time"

	raw "github.com/hanwen/go-fuse/v2/fuse"
)

// The kernel tells of an interrupt once per request, at the first signal of any
// kind, and then goes on waiting for the answer; also when the signal is SIGKILL
// or comes behind another. So an interrupted request watches its caller: as soon
// as a SIGKILL is pending there (which is also what a signal that kills by
// default becomes) its context ends. See request_wait_answer in fs/fuse/dev.c.
const (
	watchEvery = 50 * time.Millisecond
	// patience is how long a request goes on after an interrupt whose sender's
	// state cannot be read (another pid namespace).
	patience = time.Second
)

// opContext is the context of one request. It costs nothing until somebody
// waits on it.
type opContext struct {
	interrupt <-chan struct{}
	tid       uint32
	wg        *sync.WaitGroup

	mu    sync.Mutex
	inner context.Context
	stop  context.CancelFunc
	ended bool
}

// begin gives a request its context; end must be called when it is answered.
func (f *FS) begin(cancel <-chan struct{}, h *raw.InHeader) *opContext {
	return &opContext{interrupt: cancel, tid: h.Pid, wg: &f.watchers}
}

// end ends the context.
func (c *opContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.stop != nil {
		c.stop()
	}
}

// real is the context proper, made when first asked for.
func (c *opContext) real() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.stop = context.WithCancel(context.Background())
		if c.ended {
			c.stop()
		} else if c.interrupt != nil {
			c.wg.Add(1)
			go c.watch(c.inner, c.stop)
		}
	}
	return c.inner
}

func (c *opContext) watch(ctx context.Context, stop context.CancelFunc) {
	defer c.wg.Done()
	select {
	case <-ctx.Done():
		return
	case <-c.interrupt:
	}
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	for since := time.Now(); ; {
		dying, known := beingKilled(c.tid)
		if dying || !known && time.Since(since) > patience {
			stop()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (c *opContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c *opContext) Done() <-chan struct{}       { return c.real().Done() }
func (c *opContext) Value(key any) any           { return c.real().Value(key) }
func (c *opContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.inner != nil:
		return c.inner.Err()
	case c.ended:
		return context.Canceled
	}
	return nil
}

// beingKilled tells whether SIGKILL is pending for a thread: proc(5), SigPnd and ShdPnd.
func beingKilled(tid uint32) (dying, known bool) {
	if tid == 0 {
		return false, false
	}
	b, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(tid), 10) + "/status")
	if err != nil {
		return false, false
	}
	return killPending(b)
}

func killPending(status []byte) (dying, known bool) {
	const sigkill = 1 << (9 - 1)
	for line := range bytes.Lines(status) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if string(name) != "SigPnd" && string(name) != "ShdPnd" {
			continue
		}
		mask, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
		if err != nil {
			return false, false
		}
		known = true
		dying = dying || mask&sigkill != 0
	}
	return dying, known
}
