package httpd

import (
	"context"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
	"github.com/tnvfs/tnv/protocol"
)

// Bounds of a search.
const (
	maxSearches   = 4
	searchTime    = 8 * time.Second
	searchNames   = 2_000_000
	searchPending = 200_000 // directories yet to be looked at
	searchDepth   = 128
	defaultFound  = 100
	maxFound      = 1000
)

// search looks for names beneath a directory, the nearest first.
type search struct {
	h       *handler
	who     *access.Who
	words   []string
	kinds   []string
	limit   int
	scanned int
	whole   bool // nothing was left out
	found   []entry
	queue   []searchDir
}

type searchDir struct {
	path string
	fold string // of the path beneath the top
	ino  tnv.Ino
}

func (h *handler) apiSearch(w *recorder, r *http.Request) {
	q := r.URL.Query()
	s := &search{h: h, who: &w.who, words: words(q.Get("q")), whole: true}
	var ok bool
	if s.limit, ok = whole(q.Get("limit"), defaultFound, maxFound); !ok || len(s.words) == 0 {
		h.refuse(w, http.StatusBadRequest, "q must hold a word, and limit be a number")
		return
	}
	if k := q.Get("kind"); k != "" {
		s.kinds = strings.Split(k, ",")
	}
	p, at, ok := h.found(w, r)
	if !ok {
		return
	}
	if !at.IsDir() {
		h.fail(w, r, tnv.E(p, tnv.KindNotDir, ""))
		return
	}
	select {
	case h.searches <- struct{}{}:
		defer func() { <-h.searches }()
	default:
		w.Header().Set("Retry-After", "1")
		h.refuse(w, http.StatusTooManyRequests, "too many searches at once")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), searchTime)
	defer cancel()
	s.found, s.queue = []entry{}, []searchDir{{p, "", at.Ino}}
	if err := s.run(ctx); err != nil && ctx.Err() == nil {
		h.fail(w, r, err)
		return
	}
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler)
	}
	h.answer(w, http.StatusOK, map[string]any{"results": s.found, "complete": s.whole, "scanned": s.scanned})
}

// run looks until there is nothing left, or a bound is met: then whole is false.
func (s *search) run(ctx context.Context) error {
	for len(s.queue) > 0 {
		d := s.queue[0]
		s.queue = s.queue[1:]
		for req := (protocol.ReadDir{Ino: d.ino, Limit: pageEntries}); ; {
			rep, err := s.h.tree.page(ctx, req)
			if k := tnv.KindOf(err); err != nil && k != tnv.KindNotExist && k != tnv.KindStale && k != tnv.KindNotDir {
				s.whole = false
				return err
			}
			for i := range rep.Entries {
				if !s.look(ctx, &d, &rep.Entries[i]) {
					s.whole = false
					return nil
				}
				req.Cookie = rep.Entries[i].Cookie
			}
			if rep.End || len(rep.Entries) == 0 {
				break
			}
		}
	}
	return nil
}

// look looks at one name; false: enough.
func (s *search) look(ctx context.Context, d *searchDir, e *tnv.Dirent) bool {
	if s.scanned++; s.scanned > searchNames {
		return false
	}
	p := path.Join(d.path, e.Name)
	if !s.h.sees(s.who, p) {
		return true
	}
	name := fold(e.Name)
	if slices.ContainsFunc(s.words, func(w string) bool { return strings.Contains(name, w) }) && holdsAll(d.fold+"/"+name, s.words) {
		at, err := s.h.src.Lookup(ctx, s.h.cred, d.ino, e.Name)
		if err == nil && (len(s.kinds) == 0 || slices.Contains(s.kinds, kindOf(e.Name, &at))) {
			x := s.h.followed(ctx, p, &at)
			x.Path = valid(p)
			if s.found = append(s.found, x); len(s.found) >= s.limit {
				return false
			}
		}
	}
	if e.Type == tnv.TypeDir {
		if len(s.queue) >= searchPending || strings.Count(p, "/") > searchDepth {
			s.whole = false
			return true
		}
		s.queue = append(s.queue, searchDir{p, d.fold + "/" + name, e.Ino})
	}
	return true
}
