package httpd

import (
	"cmp"
	"context"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
	"github.com/tnvfs/tnv/protocol"
)

const (
	maxEntries   = 1_000_000
	defaultPage  = 200
	maxPage      = 5000
	snapshotLife = 3 * time.Minute
	// maxSnapshots bounds the entries of all snapshots together: some 250 bytes each.
	maxSnapshots = 400_000
)

// row is an entry of a snapshot.
type row struct {
	name string
	fold string
	kind string
	attr tnv.Attr
}

// snapshot is a directory as it was at a moment, for somebody, in an order. It
// does not change once it is made.
type snapshot struct {
	id        string
	path      string
	viewer    string // what it depends on besides
	rows      []row
	truncated bool
	used      time.Time
}

// snapshots keeps the latest, within a bound.
type snapshots struct {
	mu  sync.Mutex
	all []*snapshot // the latest used is the last
}

func newSnapshots() *snapshots { return &snapshots{} }

// find gives a snapshot that is still there and is of this question.
func (s *snapshots) find(id, path, viewer string, now time.Time) *snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, x := range s.all {
		if x.id == id && x.path == path && x.viewer == viewer && now.Sub(x.used) < snapshotLife {
			x.used = now
			s.all = append(slices.Delete(s.all, i, i+1), x)
			return x
		}
	}
	return nil
}

// keep takes a snapshot in, and drops what is too old or too much.
func (s *snapshots) keep(x *snapshot, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.used = now
	s.all = append(s.all, x)
	total, first := 0, len(s.all)
	for first > 0 && now.Sub(s.all[first-1].used) < snapshotLife {
		if total += len(s.all[first-1].rows) + 100; total > maxSnapshots {
			break
		}
		first--
	}
	s.all = slices.Delete(s.all, 0, first)
}

// listing is what somebody asks of a directory.
type listing struct {
	sort, dirs, q string
	desc          bool
	kinds         []string
	offset, limit int
}

// whole reads a number within bounds.
func whole(s string, def, most int) (int, bool) {
	if s == "" {
		return def, true
	}
	n, err := strconv.Atoi(s)
	return min(n, most), err == nil && n >= 0
}

func parseListing(r *http.Request) (l listing, ok bool) {
	q := r.URL.Query()
	l = listing{sort: cmp.Or(q.Get("sort"), "name"), dirs: cmp.Or(q.Get("dirs"), "first"), q: q.Get("q"), desc: q.Get("order") == "desc"}
	if k := q.Get("kind"); k != "" {
		l.kinds = strings.Split(k, ",")
	}
	var ok1, ok2 bool
	l.offset, ok1 = whole(q.Get("offset"), 0, maxEntries)
	l.limit, ok2 = whole(q.Get("limit"), defaultPage, maxPage)
	return l, ok1 && ok2 && slices.Contains([]string{"name", "size", "modified", "type"}, l.sort) &&
		(l.dirs == "first" || l.dirs == "mixed") && slices.Contains([]string{"", "asc", "desc"}, q.Get("order"))
}

// apiList answers with a part of a directory.
func (h *handler) apiList(w *recorder, r *http.Request) {
	l, ok := parseListing(r)
	if !ok {
		h.refuse(w, http.StatusBadRequest, "offset and limit are numbers; sort is name, size, modified or type")
		return
	}
	p, at, ok := h.found(w, r)
	if !ok {
		return
	}
	if !at.IsDir() {
		h.fail(w, r, tnv.E(p, tnv.KindNotDir, ""))
		return
	}
	snap, err := h.snapshot(w, r, p, at.Ino, &l)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	from := min(l.offset, len(snap.rows))
	entries := []entry{}
	for i := range snap.rows[from:min(from+l.limit, len(snap.rows))] {
		x := &snap.rows[from+i]
		entries = append(entries, h.followed(r.Context(), path.Join(p, x.name), &x.attr))
	}
	out := map[string]any{"path": valid(p), "snapshot": snap.id, "total": len(snap.rows), "offset": from, "entries": entries,
		"truncated": snap.truncated, "can_write": h.mayWrite(w, p)}
	if from == 0 {
		if poster := h.poster(r.Context(), p, &at); poster != "" {
			out["poster"] = poster
		}
	}
	h.answer(w, http.StatusOK, out)
}

// snapshot finds the one that is asked for, or makes one.
func (h *handler) snapshot(w *recorder, r *http.Request, p string, ino tnv.Ino, l *listing) (*snapshot, error) {
	viewer := strings.Join([]string{w.who.User, l.sort, l.dirs, strconv.FormatBool(l.desc), l.q, strings.Join(l.kinds, ","), strconv.Itoa(int(w.who.Role(p)))}, "\x00")
	if id := r.URL.Query().Get("snapshot"); id != "" {
		if s := h.snapshots.find(id, p, viewer, time.Now()); s != nil {
			return s, nil
		}
	}
	select {
	case h.listings <- struct{}{}:
		defer func() { <-h.listings }()
	case <-r.Context().Done():
		return nil, tnv.Wrap("list", r.Context().Err())
	}
	s := &snapshot{id: newID(time.Now()), path: p, viewer: viewer}
	if err := h.fill(r.Context(), &w.who, s, ino, l); err != nil {
		return nil, err
	}
	slices.SortFunc(s.rows, l.compare)
	h.snapshots.keep(s, time.Now())
	return s, nil
}

// fill reads a directory.
func (h *handler) fill(ctx context.Context, who *access.Who, s *snapshot, ino tnv.Ino, l *listing) error {
	want := words(l.q)
	for req := (protocol.ReadDir{Ino: ino, Limit: pageEntries, Attrs: true}); ; {
		rep, err := h.tree.page(ctx, req)
		if err != nil {
			return err
		}
		for i, d := range rep.Entries {
			req.Cookie = d.Cookie
			x := row{name: d.Name, fold: fold(d.Name), kind: kindOf(d.Name, &rep.Attrs[i]), attr: rep.Attrs[i]}
			if !h.sees(who, path.Join(s.path, d.Name)) || !holdsAll(x.fold, want) || len(l.kinds) > 0 && !slices.Contains(l.kinds, x.kind) {
				continue
			}
			if len(s.rows) == maxEntries {
				s.truncated = true
				return nil
			}
			s.rows = append(s.rows, x)
		}
		if rep.End || len(rep.Entries) == 0 {
			return nil
		}
	}
}

// compare orders two entries. Equal ones are ordered by name, always ascending.
func (l *listing) compare(a, b row) int {
	if l.dirs == "first" && a.attr.IsDir() != b.attr.IsDir() {
		if a.attr.IsDir() {
			return -1
		}
		return 1
	}
	c := 0
	switch l.sort {
	case "size":
		c = cmp.Compare(a.attr.Size, b.attr.Size)
	case "modified":
		c = cmp.Compare(a.attr.Mtime, b.attr.Mtime)
	case "type":
		c = cmp.Or(strings.Compare(a.kind, b.kind), strings.Compare(extOf(a.name), extOf(b.name)))
	case "name":
		c = cmp.Or(naturally(a.fold, b.fold), strings.Compare(a.name, b.name))
	}
	if l.desc {
		c = -c
	}
	return cmp.Or(c, naturally(a.fold, b.fold), strings.Compare(a.name, b.name))
}
