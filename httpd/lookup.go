package httpd

import (
	"context"
	"sync"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// lookups resolves paths, one question at a time for each path. Who comes while
// one is on its way waits for the next, which all that came share: an answer is
// never older than the request that it serves, and many readers of one film cost
// the tracker no more than a few.
type lookups struct {
	src  source
	cred tnv.Cred
	life context.Context // ends when the daemon does

	mu    sync.Mutex
	paths map[string]*lookup
	wg    sync.WaitGroup
}

// lookup is what is asked about one path.
type lookup struct {
	running *answer
	next    *answer // nil: nobody waits for one
}

type answer struct {
	done chan struct{}
	rep  protocol.ResolveReply
	err  error
}

func newLookups(life context.Context, src source, cred tnv.Cred) *lookups {
	return &lookups{src: src, cred: cred, life: life, paths: map[string]*lookup{}}
}

// resolve finds what a path leads to.
func (l *lookups) resolve(ctx context.Context, path string) (protocol.ResolveReply, error) {
	l.mu.Lock()
	k := l.paths[path]
	var a *answer
	switch {
	case k == nil:
		a = &answer{done: make(chan struct{})}
		k = &lookup{running: a}
		l.paths[path] = k
		l.wg.Add(1)
		go l.run(path, k)
	case k.next == nil:
		k.next = &answer{done: make(chan struct{})}
		a = k.next
	default:
		a = k.next
	}
	l.mu.Unlock()
	select {
	case <-a.done:
		return a.rep, a.err
	case <-ctx.Done():
		return protocol.ResolveReply{}, tnv.Wrap("resolve", ctx.Err())
	}
}

// run asks until nobody waits any more.
func (l *lookups) run(path string, k *lookup) {
	defer l.wg.Done()
	for {
		a := k.running
		a.rep, a.err = l.src.Resolve(l.life, l.cred, path, true)
		close(a.done)
		l.mu.Lock()
		k.running, k.next = k.next, nil
		if k.running == nil {
			delete(l.paths, path)
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
	}
}
