package httpd

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/net/webdav"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
	"github.com/tnvfs/tnv/protocol"
)

// WebDAV (RFC 4918) on the volume's own paths. golang.org/x/net/webdav knows the
// protocol; here is the file system on which it works, one for each request, so that
// it knows who asks, and what an error was: the statuses of that package are made more exact by it.

// maxXML bounds the body of a request that describes something.
const maxXML = 64 << 10

// treeLimit bounds what is done to a tree in one request.
const treeLimit = 15 * time.Minute

// propfindLimit bounds a listing, the whole of which package webdav has in memory until it is sent.
const propfindLimit = 2 * time.Minute

// serveDAV answers a request that changes the volume, or asks for properties.
func (h *handler) serveDAV(w *recorder, r *http.Request, p string, dir bool) {
	if r.Method != "PROPFIND" && !h.mayWrite(w, p) {
		h.denied(w, r)
		return
	}
	d := &davFS{h: h, w: w, r: r, path: p, attrs: map[string]tnv.Attr{}, tokens: namedTokens(r)}
	if !h.davRequest(w, r, d, dir) {
		h.closeUnread(w, r)
		return
	}
	src := h.body(w, r)
	if r.Method == http.MethodPut {
		d.body, r.Body = src, src
	} else {
		b, err := io.ReadAll(io.LimitReader(src, maxXML+1))
		if err != nil || len(b) > maxXML {
			h.closeUnread(w, r)
			h.refuse(w, http.StatusRequestEntityTooLarge, "a description has at most 64 KiB")
			return
		}
		if !d.describe(b) {
			h.refuse(w, http.StatusBadRequest, "the description is no XML with namespaces")
			return
		}
		switch r.Method {
		case "LOCK":
			d.lock(b)
			return
		case "UNLOCK":
			d.unlock()
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(b))
	}
	if r.Method == http.MethodPut {
		d.serve(r)
		return
	}
	limit := treeLimit
	if r.Method == "PROPFIND" {
		limit = propfindLimit
	}
	http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(limit))
	ctx, cancel := context.WithTimeout(r.Context(), limit)
	defer cancel()
	if r.Method == "PROPFIND" {
		if err := h.propfinds.take(ctx); err != nil {
			h.fail(w, r, err)
			return
		}
		defer h.propfinds.give()
	}
	d.serve(r.WithContext(ctx))
}

// serve lets package webdav answer.
func (d *davFS) serve(r *http.Request) {
	inner := &webdav.Handler{FileSystem: d, LockSystem: &davView{d.h.dav, d}}
	inner.ServeHTTP(&davWriter{recorder: d.w, d: d}, r)
}

// davRequest checks what is not left to the package; it answers where it returns false.
func (h *handler) davRequest(w *recorder, r *http.Request, d *davFS, dir bool) bool {
	res, err := h.src.Resolve(r.Context(), h.cred, d.path, r.Method != "DELETE" && r.Method != "MOVE")
	if err == nil {
		d.was = &res.Attr
	} else if k := tnv.KindOf(err); k != tnv.KindNotExist && k != tnv.KindNotDir {
		h.fail(w, r, err)
		return false
	}
	if r.Method != "PROPFIND" && !holds(r, d.was) {
		h.refuse(w, http.StatusPreconditionFailed, "the condition does not hold")
		return false
	}
	switch r.Method {
	case http.MethodPut:
		switch {
		case r.Header.Get("Content-Range") != "": // RFC 9110, 14.5
			h.refuse(w, http.StatusBadRequest, "a part cannot be put; uploads that resume are at /.tnv/api/uploads")
			return false
		case dir || d.was != nil && d.was.IsDir():
			w.Header().Set("Allow", strings.Replace(forWriting, "PUT, ", "", 1))
			h.refuse(w, http.StatusMethodNotAllowed, "this is a directory")
			return false
		case r.ContentLength > h.maxUpload:
			h.refuse(w, http.StatusRequestEntityTooLarge, "too large")
			return false
		}
	case "PROPFIND":
		if depth := r.Header.Get("Depth"); depth != "0" && depth != "1" {
			w.Header().Set("Content-Type", "application/xml; charset=utf-8")
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `<?xml version="1.0" encoding="utf-8"?>`+"\n"+`<D:error xmlns:D="DAV:"><D:propfind-finite-depth/></D:error>`+"\n")
			return false
		}
	case "MOVE", "COPY":
		return h.davDestination(w, r, d)
	}
	return true
}

// davDestination checks where something is to go.
func (h *handler) davDestination(w *recorder, r *http.Request, d *davFS) bool {
	if d.was == nil {
		h.fail(w, r, tnv.E(d.path, tnv.KindNotExist, ""))
		return false
	}
	u, err := url.Parse(r.Header.Get("Destination"))
	if err != nil || r.Header.Get("Destination") == "" {
		h.refuse(w, http.StatusBadRequest, "Destination is needed")
		return false
	}
	to, _, err := volumePath(u)
	if err != nil {
		h.fail(w, r, err)
		return false
	}
	if own(to) || !h.mayWrite(w, to) {
		h.denied(w, r)
		return false
	}
	if access.Beneath(to, d.path) || access.Beneath(d.path, to) {
		h.refuse(w, http.StatusForbidden, "neither may lie within the other")
		return false
	}
	if res, err := h.src.Resolve(r.Context(), h.cred, to, r.Method == "COPY"); err == nil && res.Attr.Ino == d.was.Ino {
		h.refuse(w, http.StatusForbidden, "both are the same")
		return false
	}
	if r.Method == "MOVE" && r.Header.Get("Overwrite") == "" {
		r.Header.Set("Overwrite", "T") // the default (RFC 4918, 10.6)
	}
	return true
}

// describe looks at what is described. Properties that clients set are looked up only
// where some are named that are not the protocol's own, or it is not said which are
// wanted; likewise locks. False: it is not well-formed (that includes a prefix for no
// namespace, which package xml lets pass).
func (d *davFS) describe(b []byte) bool {
	if len(bytes.TrimSpace(b)) == 0 {
		d.dead, d.locks = true, d.r.Method == "PROPFIND"
		return true
	}
	x := xml.NewDecoder(bytes.NewReader(b))
	for {
		t, err := x.Token()
		if err != nil {
			return err == io.EOF
		}
		e, ok := t.(xml.StartElement)
		if !ok {
			continue
		}
		for _, a := range e.Attr {
			if a.Name.Space == "xmlns" && a.Value == "" {
				return false
			}
		}
		switch {
		case e.Name.Space != "DAV:" || e.Name.Local == "propertyupdate":
			d.dead = true
		case e.Name.Local == "allprop" || e.Name.Local == "propname":
			d.dead, d.locks = true, true
		case e.Name.Local == "lockdiscovery" || e.Name.Local == "supportedlock":
			d.locks = true
		}
	}
}

// davWriter corrects statuses by what really went wrong.
type davWriter struct {
	*recorder
	d *davFS
}

// WriteHeader implements http.ResponseWriter.
func (w *davWriter) WriteHeader(status int) {
	d := w.d
	switch {
	case status == http.StatusCreated && d.replaced:
		status = http.StatusNoContent
	case status == http.StatusPreconditionFailed && d.locked:
		status = http.StatusLocked
	case status >= 400 && d.raced:
		status = http.StatusPreconditionFailed
	case status >= 400 && d.body != nil && d.body.err != nil:
		status = http.StatusBadRequest
	case status >= 400 && d.err != nil:
		status = davStatus(status, tnv.KindOf(d.err))
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", retryAfter)
		}
	}
	if w.Header().Get("Content-Type") == "" && status != http.StatusNoContent {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	if status >= 400 {
		w.d.h.closeUnread(w.recorder, w.d.r)
	}
	w.recorder.WriteHeader(status)
}

// davStatus is the status that an error means, where the package's own is a guess.
func davStatus(status int, k tnv.Kind) int {
	switch k {
	case tnv.KindNotExist, tnv.KindNotDir, tnv.KindStale, tnv.KindExist, tnv.KindOther:
		return status
	case tnv.KindWouldBlock:
		return http.StatusLocked
	case tnv.KindIsDir:
		return http.StatusMethodNotAllowed
	}
	return tnv.HTTPStatus(k)
}

// davFS implements webdav.FileSystem for one request.
type davFS struct {
	h        *handler
	w        *recorder
	r        *http.Request
	path     string
	was      *tnv.Attr // what is at path; nil: nothing
	body     *body     // of PUT
	over     string    // what a MOVE is to replace
	tokens   []string  // locks that the client names
	locked   bool      // one that it does not name is in the way
	dead     bool      // properties that clients set are of interest
	locks    bool      // those that tell of locks are
	raced    bool      // a condition held when the request came, and not at its end
	replaced bool      // PUT replaced a file
	err      error     // the last that went wrong
	attrs    map[string]tnv.Attr
}

// fail notes an error, and gives one that package os knows.
func (d *davFS) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	d.err = err
	for _, known := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrPermission} {
		if errors.Is(err, known) {
			return &fs.PathError{Op: op, Path: name, Err: known}
		}
	}
	if tnv.KindOf(err) == tnv.KindNotDir {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// clean checks a name that the package gives, for reading or writing.
func (d *davFS) clean(name string, write bool) (string, error) {
	p, _, err := cleanPath(name)
	switch {
	case err != nil:
		return "", err
	case !d.h.sees(&d.w.who, p):
		return "", tnv.E(p, tnv.KindNotExist, "")
	case write && !d.h.mayWrite(d.w, p):
		return "", tnv.E(p, tnv.KindPermission, "you may not change this")
	}
	return p, nil
}

// whole is clean of what is taken away, or put there, with all beneath.
func (d *davFS) whole(name string) (string, error) {
	p, err := d.clean(name, true)
	if err == nil && !d.w.who.Whole(p) {
		err = tnv.E(p, tnv.KindPermission, "you may not change all that is in it")
	}
	return p, err
}

// stat looks at a path; a symbolic link is followed.
func (d *davFS) stat(ctx context.Context, p string) (tnv.Attr, error) {
	if at, ok := d.attrs[p]; ok {
		return at, nil
	}
	res, err := d.h.src.Resolve(ctx, d.h.cred, p, true)
	return res.Attr, err
}

// Stat implements webdav.FileSystem.
func (d *davFS) Stat(ctx context.Context, name string) (os.FileInfo, error) {
	p, err := d.clean(name, false)
	if err != nil {
		return nil, d.fail("stat", name, err)
	}
	at, err := d.stat(ctx, p)
	if err != nil {
		return nil, d.fail("stat", name, err)
	}
	return davInfo{path.Base(p), at}, nil
}

// Mkdir implements webdav.FileSystem.
func (d *davFS) Mkdir(ctx context.Context, name string, _ os.FileMode) error {
	p, err := d.clean(name, true)
	if err == nil {
		_, err = d.h.tree.mkdir(ctx, p, dirMode)
	}
	if err == nil {
		d.h.tell(change{Op: opCreate, Path: p, Dir: true})
	}
	return d.fail("mkdir", name, err)
}

// RemoveAll implements webdav.FileSystem: what is removed goes to the trash.
func (d *davFS) RemoveAll(ctx context.Context, name string) error {
	p, err := d.whole(name)
	if err == nil {
		err = d.mayGo(ctx, p)
	}
	if err == nil && d.r.Method == "MOVE" { // Rename does it, when it is clear that the other can come
		d.over = p
		return nil
	}
	if err == nil {
		_, err = d.h.discard(ctx, p, d.w.who.User)
	}
	if err == nil && d.r.Method == "DELETE" {
		d.h.dav.removed(p)
	}
	return d.fail("remove", name, err)
}

// mayGo checks that nothing in a tree that is to go is locked by others.
func (d *davFS) mayGo(ctx context.Context, p string) error {
	if !d.h.dav.open(p, true, d.tokens) {
		return tnv.E(p, tnv.KindWouldBlock, "something in it is locked")
	}
	if list, _ := d.h.dav.of(p); len(list) > 0 {
		return nil // its own
	}
	return d.h.dav.foreign(ctx, p)
}

// tag is the entity tag of what is at a path, "" if nothing is.
func (d *davFS) tag(p string) string {
	at, err := d.stat(d.r.Context(), p)
	if err != nil || p == "" {
		return ""
	}
	return etag(&at)
}

// Rename implements webdav.FileSystem. The package has asked to remove what was there.
func (d *davFS) Rename(ctx context.Context, from, to string) error {
	p, err := d.whole(from)
	if err != nil {
		return d.fail("rename", from, err)
	}
	q, err := d.whole(to)
	if err == nil {
		err = d.mayGo(ctx, p)
	}
	switch {
	case err != nil:
	case d.over == q:
		err = d.h.replace(ctx, &d.w.who, p, q)
	default:
		err = d.h.tree.move(ctx, p, q, protocol.RenameNoReplace)
	}
	if err == nil {
		d.h.dav.removed(p)
		d.h.tell(change{Op: opMove, Path: q, From: p, Dir: d.was != nil && d.was.IsDir()})
	}
	return d.fail("rename", to, err)
}

// OpenFile implements webdav.FileSystem. A file that is opened for writing is a
// draft, which gets its name when it is closed.
func (d *davFS) OpenFile(ctx context.Context, name string, flag int, _ os.FileMode) (webdav.File, error) {
	write := flag&(os.O_WRONLY|os.O_RDWR) != 0 && d.r.Method != "PROPPATCH"
	p, err := d.clean(name, write || d.r.Method == "PROPPATCH")
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	at, err := d.stat(ctx, p)
	if !write {
		if err != nil {
			return nil, d.fail("open", name, err)
		}
		return &davFile{d: d, ctx: ctx, path: p, at: at}, nil
	}
	f := &davFile{d: d, ctx: context.WithoutCancel(ctx), path: p}
	switch {
	case err == nil && at.IsDir():
		return nil, d.fail("open", name, tnv.E(p, tnv.KindIsDir, ""))
	case err == nil && !permits(d.h.cred, &at, mayWrite):
		return nil, d.fail("open", name, tnv.E(p, tnv.KindPermission, ""))
	case err == nil:
		f.like = &at
	case !errors.Is(err, tnv.KindNotExist):
		return nil, d.fail("open", name, err)
	default:
		if _, _, err := d.h.tree.parent(ctx, p); err != nil { // before anything is sent in vain
			return nil, d.fail("open", name, err)
		}
	}
	if f.draft, err = d.h.newDraft(ctx); err != nil {
		d.fail("open", name, err)
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return f, nil
}
