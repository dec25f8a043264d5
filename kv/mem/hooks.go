package mem

import (
	"context"
	"sync"
)

// hooks are what a test has set up, guarded by Engine.mu.
type hooks struct {
	failApply *failApply
	pause     *Pause
}

type failApply struct {
	err     error
	applied bool
}

// FailApply makes the next Apply that is otherwise in order return err. With
// applied it takes effect all the same: an outcome that is left open.
func (e *Engine) FailApply(err error, applied bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hooks.failApply = &failApply{err: err, applied: applied}
}

// Pause holds calls of Apply before they take effect.
type Pause struct {
	reached chan struct{}
	resumed chan struct{}
	arrive  sync.Once
	resume  sync.Once
}

// PauseApply holds every Apply from now on until the Pause is resumed.
func (e *Engine) PauseApply() *Pause {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hooks.pause = &Pause{reached: make(chan struct{}), resumed: make(chan struct{})}
	return e.hooks.pause
}

// Reached is closed when the first Apply is held.
func (p *Pause) Reached() <-chan struct{} { return p.reached }

// Resume lets the held calls go on, and later ones through.
func (p *Pause) Resume() { p.resume.Do(func() { close(p.resumed) }) }

func (e *Engine) waitPaused(ctx context.Context) error {
	e.mu.Lock()
	p := e.hooks.pause
	e.mu.Unlock()
	if p == nil {
		return nil
	}
	p.arrive.Do(func() { close(p.reached) })
	select {
	case <-p.resumed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kill ends the engine as kill -9 ends its process: calls under way and later
// ones fail, and the engine returned has all that was acknowledged.
func (e *Engine) Kill() *Engine { return e.restart(-1) }

// Unsynced is the number of steps (calls of Apply, changes of a lease) since the last Sync.
func (e *Engine) Unsynced() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.unsynced)
}

// PowerLoss ends the engine as a power loss does: the engine returned has what
// was synced, and the first keep of the steps since.
func (e *Engine) PowerLoss(keep int) *Engine { return e.restart(keep) }

// Reopen is the engine as the next process finds it after Close.
func (e *Engine) Reopen() *Engine { return e.restart(-1) }

func (e *Engine) restart(keep int) *Engine {
	e.mu.Lock()
	defer e.mu.Unlock()
	if keep < 0 || keep > len(e.unsynced) {
		keep = len(e.unsynced)
	}
	e.foldLocked(keep)
	e.closed = true
	next := New(e.opt)
	for id, v := range e.synced {
		next.synced[id] = v.copy()
		next.volumes[id] = v.copy()
	}
	return next
}

func (v *volume) copy() *volume {
	return &volume{data: *v.data.Copy(), seq: v.seq, lease: v.lease}
}
