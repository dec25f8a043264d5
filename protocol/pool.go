package protocol

import (
	"context"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
)

// Pool keeps block connections to many daemons. One of them carries one request at a time.
type Pool struct {
	Endpoint *Endpoint
	// MaxIdle is how many unused connections are kept per address. 0: 16.
	MaxIdle int

	mu     sync.Mutex
	idle   map[string][]idleWire
	closed bool
}

type idleWire struct {
	w     *Wire
	since time.Time
}

// idleLife is how long an unused connection is trusted. Servers keep theirs longer.
const idleLife = 30 * time.Second

// Do runs fn with a connection to addr. The connection is used again if fn
// returns nil or an error that came in a proper reply (keep is true), and closed
// else, or when ctx ends meanwhile: then fn's reads and writes fail at once. A
// connection from the pool that turns out dead before anything was answered is
// replaced once: fn may run twice.
func (p *Pool) Do(ctx context.Context, addr string, fn func(w *Wire) (keep bool, err error)) error {
	w, fresh, err := p.get(ctx, addr)
	if err != nil {
		return err
	}
	keep, err := p.run(ctx, w, fn)
	if err != nil && !keep && !fresh && ctx.Err() == nil && tnv.KindOf(err) != tnv.KindTimeout {
		if w, _, err = Dial(ctx, p.Endpoint, addr); err != nil { // the daemon was restarted, most likely
			return err
		}
		w.addr = addr
		keep, err = p.run(ctx, w, fn)
	}
	if err == nil || keep {
		return err
	}
	if ctx.Err() != nil {
		return tnv.Wrap("call "+addr, ctx.Err())
	}
	if k := tnv.KindOf(err); k == tnv.KindOther {
		return &tnv.Error{Op: "call " + addr, Kind: tnv.KindUnavailable, Err: err}
	}
	return tnv.Wrap("call "+addr, err)
}

// Call is Do for one request without payload; rep may be nil.
func (p *Pool) Call(ctx context.Context, addr string, t Type, rep any, values ...any) error {
	return p.Do(ctx, addr, func(w *Wire) (bool, error) {
		if err := w.WriteFrame(t, 0, 0, values); err != nil {
			return false, err
		}
		f, err := w.ReadFrame()
		if err != nil {
			return false, err
		}
		if rep == nil {
			return true, f.Decode()
		}
		return true, f.Decode(rep)
	})
}

func (p *Pool) run(ctx context.Context, w *Wire, fn func(w *Wire) (bool, error)) (bool, error) {
	stop := context.AfterFunc(ctx, func() { w.Close() })
	keep, err := fn(w)
	if !stop() || !keep {
		w.Close()
		return keep && err == nil, err
	}
	p.put(w)
	return keep, err
}

func (p *Pool) get(ctx context.Context, addr string) (w *Wire, fresh bool, err error) {
	p.mu.Lock()
	for l := p.idle[addr]; len(l) > 0; l = p.idle[addr] {
		last := l[len(l)-1]
		p.idle[addr] = l[:len(l)-1]
		if time.Since(last.since) < idleLife {
			p.mu.Unlock()
			return last.w, false, nil
		}
		last.w.Close()
	}
	p.mu.Unlock()
	w, _, err = Dial(ctx, p.Endpoint, addr)
	if err == nil {
		w.addr = addr
	}
	return w, true, err
}

func (p *Pool) put(w *Wire) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle == nil {
		p.idle = map[string][]idleWire{}
	}
	if p.closed || w.addr == "" || len(p.idle[w.addr]) >= orDefault(p.MaxIdle, 16) {
		w.Close()
		return
	}
	p.idle[w.addr] = append(p.idle[w.addr], idleWire{w, time.Now()})
}

// Close closes the unused connections; those in use close when they are done.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for addr, l := range p.idle {
		for _, i := range l {
			i.w.Close()
		}
		delete(p.idle, addr)
	}
	return nil
}
