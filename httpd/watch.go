package httpd

import (
	"context"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
	"github.com/tnvfs/tnv/protocol"
)

// watcher finds out what others change: mounts, and other daemons. While somebody
// listens to events, it knows the directories beneath what is listened to, and asks
// again and again for the version of each: where that is leased, it costs no round trip.
// A directory that has changed is listed and compared with what was known. A file's
// content changes without its directory, so a part of the directories is listed each
// time, too.
//
// Invariant: known has what the last listing of a directory said; what is in it was
// told, or was there when the watching began.
type watcher struct {
	h     *handler
	every time.Duration

	mu   sync.Mutex
	tops map[string]int       // how many listen beneath
	own  map[string]time.Time // what this daemon told of itself, not to be told again
	on   bool

	// Of the goroutine that looks.
	known map[string]*knownDir // by path
	queue []string             // whose files are looked at next
}

type knownDir struct {
	ino   tnv.Ino
	data  uint64
	names map[string]knownName
}

type knownName struct {
	ino  tnv.Ino
	data uint64
	dir  bool
}

const (
	watchEvery = 2 * time.Second
	// watchDirs and watchNames bound what is known; of what is beyond, only this
	// daemon's own changes are told.
	watchDirs  = 20_000
	watchNames = 500_000
	watchFiles = 64 // directories whose files are looked at in each round
	ownFor     = 15 * time.Second
)

func newWatcher(h *handler) *watcher {
	return &watcher{h: h, every: watchEvery, tops: map[string]int{}, own: map[string]time.Time{}, known: map[string]*knownDir{}}
}

// listen begins to watch beneath a path; the function that it returns ends it.
func (x *watcher) listen(p string) func() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.tops[p]++
	if !x.on {
		x.on = true
		x.h.under.Add(1)
		go x.run()
	}
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.tops[p]--; x.tops[p] == 0 {
			delete(x.tops, p)
		}
	}
}

// told notes what this daemon tells by itself.
func (x *watcher) told(c *change) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.on {
		return
	}
	now := time.Now()
	for k, t := range x.own {
		if now.Sub(t) > ownFor {
			delete(x.own, k)
		}
	}
	x.own[c.Path] = now
	if c.From != "" {
		x.own[c.From] = now
	}
}

// tell tells of what somebody else did.
func (x *watcher) tell(c change) {
	x.mu.Lock()
	t, mine := x.own[c.Path]
	x.mu.Unlock()
	if !mine || time.Since(t) > ownFor {
		x.h.feed.add(c)
	}
}

// run looks until nobody listens any more.
func (x *watcher) run() {
	defer x.h.under.Done()
	for {
		x.mu.Lock()
		tops := make([]string, 0, len(x.tops))
		for p := range x.tops {
			tops = append(tops, p)
		}
		if len(tops) == 0 || x.h.life.Err() != nil {
			x.on = false
			x.known, x.queue = map[string]*knownDir{}, nil
			x.mu.Unlock()
			return
		}
		x.mu.Unlock()
		x.round(x.h.life, tops)
		select {
		case <-x.h.life.Done():
		case <-time.After(x.every):
		}
	}
}

// round looks at all once. A question that fails is asked again in the next.
func (x *watcher) round(ctx context.Context, tops []string) {
	for p := range x.known {
		if !beneathAny(p, tops) {
			delete(x.known, p)
		}
	}
	for _, p := range tops {
		if x.known[p] == nil {
			if at, err := x.h.tree.dir(ctx, p); err == nil {
				x.look(ctx, p, at.Ino, false)
			}
		}
	}
	for _, p := range slices.Collect(maps.Keys(x.known)) {
		d := x.known[p]
		if d == nil || ctx.Err() != nil {
			continue // it went with the one above it
		}
		at, err := x.h.src.GetAttr(ctx, x.h.cred, d.ino)
		switch k := tnv.KindOf(err); {
		case err == nil && at.Nlink == 0, err != nil && (k == tnv.KindStale || k == tnv.KindNotExist):
			delete(x.known, p)
		case err == nil && at.Data != d.data:
			x.compare(ctx, p, d)
		}
	}
	if len(x.queue) == 0 {
		x.queue = slices.Collect(maps.Keys(x.known))
	}
	n := min(watchFiles, len(x.queue))
	for _, p := range x.queue[:n] {
		if d := x.known[p]; d != nil && ctx.Err() == nil {
			x.compare(ctx, p, d)
		}
	}
	x.queue = x.queue[n:]
}

func beneathAny(p string, tops []string) bool {
	for _, t := range tops {
		if access.Beneath(p, t) {
			return true
		}
	}
	return false
}

// list reads what is in a directory.
func (x *watcher) list(ctx context.Context, ino tnv.Ino) (*knownDir, error) {
	d := &knownDir{ino: ino, names: map[string]knownName{}}
	for req := (protocol.ReadDir{Ino: ino, Limit: pageEntries, Attrs: true}); ; {
		rep, err := x.h.tree.page(ctx, req)
		if err != nil {
			return nil, err
		}
		if d.data == 0 {
			d.data = rep.Dir.Data // what changes from now on is seen in the next round
		}
		for i, e := range rep.Entries {
			req.Cookie = e.Cookie
			d.names[e.Name] = knownName{e.Ino, rep.Attrs[i].Data, rep.Attrs[i].IsDir()}
		}
		if rep.End || len(rep.Entries) == 0 || len(d.names) > watchNames {
			delete(d.names, strings.TrimPrefix(ownPrefix, "/")) // at the root: the daemon's own
			return d, nil
		}
	}
}

// compare lists a directory anew and tells of the difference. What was moved is
// told of where it is gone, and where it has come.
func (x *watcher) compare(ctx context.Context, p string, old *knownDir) {
	d, err := x.list(ctx, old.ino)
	if err != nil {
		return
	}
	x.known[p] = d
	for n, was := range old.names {
		is, there := d.names[n]
		full := path.Join(p, n)
		switch {
		case !there || was.dir != is.dir || was.dir && was.ino != is.ino:
			x.tell(change{Op: opRemove, Path: full, Dir: was.dir})
			delete(old.names, n)
			for q := range x.known {
				if access.Beneath(q, full) {
					delete(x.known, q)
				}
			}
		case !was.dir && was != is:
			x.tell(change{Op: opChange, Path: full})
		}
	}
	for n, is := range d.names {
		if _, there := old.names[n]; there {
			continue
		}
		full := path.Join(p, n)
		x.tell(change{Op: opCreate, Path: full, Dir: is.dir})
		if is.dir {
			x.look(ctx, full, is.ino, true)
		}
	}
}

// look takes a directory in, and those beneath it; with news, all that is in it is told of.
func (x *watcher) look(ctx context.Context, p string, ino tnv.Ino, news bool) {
	if len(x.known) >= watchDirs || own(p) {
		return
	}
	d, err := x.list(ctx, ino)
	if err != nil {
		return
	}
	x.known[p] = d
	for n, e := range d.names {
		full := path.Join(p, n)
		if news {
			x.tell(change{Op: opCreate, Path: full, Dir: e.dir})
		}
		if e.dir {
			x.look(ctx, full, e.ino, news)
		}
	}
}
