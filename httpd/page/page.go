// Package page is what people see of a volume in a browser: the library with its
// player, and the status page.
//
// It promises: the page needs nothing but this daemon (no request goes elsewhere),
// runs no script that is not its own (the Content-Security-Policy says so to the
// browser), and asks for all that it shows by the JSON interface of
// docs/openapi.yaml, so that it may do and see only what its user may. One page
// serves every directory: it looks at its own address.
//
// Sources are in web, what is built from them in dist, which is committed and
// embedded: building the daemon needs Go alone. `make page` builds dist anew,
// `make page-check` and a test prove that it is what the sources give.
package page

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed dist
var built embed.FS

// Assets is below which address the page's files are.
const Assets = "/.tnv/page/"

// Status is the address of the status page.
const Status = "/.tnv/"

// policy is what the browser lets the page do. Media and the player's worker may
// come from memory (HLS); styles are set by scripts, which needs no exception.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; " +
	"connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// asset is one file, as it is sent.
type asset struct {
	kind   string // Content-Type
	etag   string
	cache  string // Cache-Control
	data   []byte
	packed []byte // compressed; nil: not worth it
}

// pages answers with the page and its files. It holds nothing but them.
type pages struct {
	dir, status *asset
	assets      map[string]*asset // by name below Assets
}

// Handler makes the handler. Directories, and Status, get the page; what is below
// Assets one of its files.
func Handler() http.Handler {
	p := &pages{assets: map[string]*asset{}}
	files, err := fs.ReadDir(built, "dist")
	if err != nil {
		panic(err) // it is embedded
	}
	for _, f := range files {
		data, err := built.ReadFile("dist/" + f.Name())
		if err != nil {
			panic(err)
		}
		p.assets[f.Name()] = newAsset(f.Name(), data)
	}
	p.dir, p.status = p.assets["index.html"], p.assets["status.html"]
	delete(p.assets, "index.html")
	delete(p.assets, "status.html")
	return p
}

// newAsset prepares a file: its name tells its type, and whether it ever changes.
func newAsset(name string, data []byte) *asset {
	sum := sha256.Sum256(data)
	a := &asset{data: data, etag: `"` + hex.EncodeToString(sum[:12]) + `"`, cache: "no-cache", kind: "text/plain; charset=utf-8"}
	switch path.Ext(name) {
	case ".html":
		a.kind = "text/html; charset=utf-8"
	case ".js":
		a.kind = "text/javascript; charset=utf-8"
	case ".css":
		a.kind = "text/css; charset=utf-8"
	case ".svg":
		a.kind = "image/svg+xml"
	}
	if strings.Contains(name, "-") { // the name has the content's hash
		a.cache = "public, max-age=31536000, immutable"
	}
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	z.Write(data)
	z.Close()
	if b.Len() < len(data)*9/10 {
		a.packed = b.Bytes()
	}
	return a
}

// ServeHTTP implements http.Handler.
func (p *pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, isAsset := strings.CutPrefix(r.URL.Path, Assets)
	switch {
	case r.URL.Path == strings.TrimSuffix(Status, "/"): // the page's own address ends in a slash
		http.Redirect(w, r, Status, http.StatusMovedPermanently)
		return
	case !isAsset:
		w.Header().Set("Content-Security-Policy", policy)
		if r.URL.Path == Status {
			p.status.serve(w, r)
		} else {
			p.dir.serve(w, r)
		}
		return
	}
	a := p.assets[name]
	if a == nil {
		http.Error(w, "no such page", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'")
	a.serve(w, r)
}

// serve sends a file, compressed if the browser takes that (RFC 9110, 12.5.3).
func (a *asset) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("Cache-Control", a.cache)
	h.Add("Vary", "Accept-Encoding")
	data, etag := a.data, a.etag
	if a.packed != nil && takesGzip(r.Header.Get("Accept-Encoding")) {
		h.Set("Content-Encoding", "gzip")
		data, etag = a.packed, strings.TrimSuffix(a.etag, `"`)+`-gzip"`
	}
	h.Set("ETag", etag)
	if match(r.Header.Get("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(data)
	}
}

// takesGzip reads Accept-Encoding: gzip by name, and not with weight 0.
func takesGzip(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		coding, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			continue
		}
		q, weighted := strings.CutPrefix(strings.ReplaceAll(strings.ToLower(params), " ", ""), "q=")
		weight, err := strconv.ParseFloat(q, 64)
		return !weighted || err == nil && weight > 0
	}
	return false
}

// match compares an If-None-Match weakly (RFC 9110, 13.1.2).
func match(header, etag string) bool {
	for part := range strings.SplitSeq(header, ",") {
		if part = strings.TrimSpace(part); part == "*" || strings.TrimPrefix(part, "W/") == etag {
			return true
		}
	}
	return false
}
