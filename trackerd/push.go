package trackerd

import (
	"context"
	"sync"
	"time"

	"github.com/tnvfs/tnv/protocol"
)

// pushTimeout ends a connection that takes no map for so long.
const pushTimeout = 5 * time.Second

// watchers are the connections to which new maps are pushed: of clients with a
// session, and of storage daemons. Each gets one at a time, and then the newest:
// a slow one delays no other, and holds no more than one map.
type watchers struct {
	current func() *protocol.MapChanged

	mu sync.Mutex
	m  map[*protocol.Peer]*watcher
	wg sync.WaitGroup
}

type watcher struct {
	pushing bool
	again   bool // the map changed while one was on its way
}

func newWatchers(current func() *protocol.MapChanged) *watchers {
	return &watchers{current: current, m: map[*protocol.Peer]*watcher{}}
}

// add has maps pushed on a connection from now on.
func (w *watchers) add(p *protocol.Peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m[p] == nil {
		w.m[p] = &watcher{}
	}
}

// drop forgets a connection that has ended.
func (w *watchers) drop(p *protocol.Peer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.m, p)
}

// changed pushes the newest map to all. It does not block.
func (w *watchers) changed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p, is := range w.m {
		if is.pushing {
			is.again = true
			continue
		}
		is.pushing = true
		w.wg.Go(func() { w.push(p, is) })
	}
}

func (w *watchers) push(p *protocol.Peer, is *watcher) {
	for {
		guard := time.AfterFunc(pushTimeout, p.Close)
		err := p.Push(protocol.TypeMapChanged, w.current())
		guard.Stop()
		w.mu.Lock()
		if is.pushing = err == nil && is.again && w.m[p] == is; !is.pushing {
			w.mu.Unlock()
			return
		}
		is.again = false
		w.mu.Unlock()
	}
}

// pushMaps pushes each new map that members make, until ctx ends.
func (t *tracker) pushMaps(ctx context.Context) {
	defer t.watchers.wg.Wait() // at most pushTimeout; connections that have ended fail at once
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.members.changed:
			t.watchers.changed()
		}
	}
}
