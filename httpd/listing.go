package httpd

import (
	"bufio"
	"context"
	"fmt"
	"html"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
	"github.com/tnvfs/tnv/protocol"
)

const (
	// pageEntries is how many entries are asked for at a time.
	pageEntries = 1000
	// sortedEntries is up to how many entries a listing is sorted as a whole.
	// Behind them each page is sorted by itself: memory stays bounded.
	sortedEntries = 200_000
)

// item is an entry of a listing.
type item struct {
	name string
	attr tnv.Attr
}

// list answers with a directory's page, written as it is read.
func (h *handler) list(w *recorder, r *http.Request, p string) {
	select {
	case h.listings <- struct{}{}:
		defer func() { <-h.listings }()
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	}
	l := &lister{h: h, ctx: r.Context(), path: p, who: &w.who, req: protocol.ReadDir{Limit: pageEntries, Attrs: true}}
	res, err := h.lookups.resolve(r.Context(), p) // again: it may have waited
	if err != nil {
		h.fail(w, r, err)
		return
	}
	l.req.Ino = res.Attr.Ino
	first, err := l.upTo(sortedEntries)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'")
	w.WriteHeader(http.StatusOK)
	h.m.listing.Observe(w.first.Seconds())
	if r.Method == http.MethodHead {
		return
	}
	if err := h.writeListing(w, p, first, l); err != nil {
		h.m.cut.WithLabelValues("listing").Inc()
		panic(http.ErrAbortHandler) // half a page must not look like a whole one
	}
}

func (h *handler) writeListing(w *recorder, p string, items []item, l *lister) error {
	rc := http.NewResponseController(w.ResponseWriter)
	b := bufio.NewWriterSize(w, mediumPiece)
	title := html.EscapeString(p)
	fmt.Fprintf(b, "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>%s</title>\n"+
		"<style>body{font-family:sans-serif}td{padding:0 1em 0 0}td.n{text-align:right}</style></head>\n<body><h1>%s</h1>\n<table>\n", title, title)
	if p != "/" {
		b.WriteString("<tr><td><a href=\"../\">../</a></td><td></td><td></td></tr>\n")
	}
	for {
		for i := range items {
			if i%pageEntries == 0 {
				rc.SetWriteDeadline(time.Now().Add(answerLimit))
			}
			writeItem(b, &items[i])
		}
		if l.end {
			break
		}
		var err error
		if items, err = l.upTo(pageEntries); err != nil {
			return err
		}
	}
	b.WriteString("</table></body></html>\n")
	return b.Flush()
}

// writeItem writes one row. The link begins with "./", so that a name with a
// colon is no scheme.
func writeItem(b *bufio.Writer, it *item) {
	slash, size := "", ""
	switch it.attr.Type() {
	case tnv.TypeDir:
		slash = "/"
	case tnv.TypeRegular:
		size = fmt.Sprint(it.attr.Size)
	}
	href := html.EscapeString("./" + strings.TrimPrefix(link("/"+it.name), "/") + slash)
	fmt.Fprintf(b, "<tr><td><a href=\"%s\">%s%s</a></td><td class=\"n\">%s</td><td>%s</td></tr>\n",
		href, html.EscapeString(it.name), slash, size, tnv.Time(it.attr.Mtime).UTC().Format("2006-01-02 15:04:05"))
}

// lister reads a directory page by page.
type lister struct {
	h    *handler
	ctx  context.Context
	req  protocol.ReadDir
	path string
	who  *access.Who // sees only what he may
	end  bool
}

// upTo reads on until it has so many entries or all, and sorts them by name.
func (l *lister) upTo(n int) ([]item, error) {
	var out []item
	for len(out) < n && !l.end {
		page, err := l.h.tree.page(l.ctx, l.req)
		if err != nil {
			return nil, err
		}
		for i, d := range page.Entries {
			l.req.Cookie = d.Cookie
			if l.h.sees(l.who, path.Join(l.path, d.Name)) {
				out = append(out, item{d.Name, page.Attrs[i]})
			}
		}
		l.end = page.End || len(page.Entries) == 0
	}
	slices.SortFunc(out, func(a, b item) int { return strings.Compare(a.name, b.name) })
	return out, nil
}
