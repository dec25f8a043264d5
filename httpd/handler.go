package httpd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
)

// handler answers requests on one volume.
type handler struct {
	src    source
	cred   tnv.Cred
	volume string
	log    *logrus.Entry
	m      *metrics

	stall    time.Duration  // a client that takes no byte for so long is cut off
	listings chan struct{}  // one place per listing that is being made
	active   atomic.Int64   // transfers of files
	under    sync.WaitGroup // requests
	views    int64          // so many transfers at once may hold on to the client's memory
	lookups  *lookups
	files    *openFiles
	end      context.CancelFunc // of lookups
}

// close waits until no request is under way any more, and closes the files.
func (h *handler) close() {
	h.end()
	h.under.Wait()
	h.lookups.wg.Wait()
	h.files.close()
}

const (
	// maxListings bounds the listings that are made at once, and so their memory.
	maxListings = 4
	// healthLimit bounds the question behind healthz and status.
	healthLimit = 3 * time.Second
	// retryAfter is what a client is told to wait while the cluster does not answer, in seconds.
	retryAfter = "2"
	allowed    = "GET, HEAD, OPTIONS"
)

// viewBytes is what one transfer may hold of the client's memory at a time, and
// viewShare the part of that memory that all may.
const (
	viewBytes = 2 * viewSize
	viewShare = 2
)

// newHandler makes a handler; memory is what the client may use for blocks.
func newHandler(src source, cred tnv.Cred, volume string, memory int64, log *logrus.Entry, m *metrics) *handler {
	life, end := context.WithCancel(context.Background())
	return &handler{src: src, cred: cred, volume: volume, log: log, m: m, stall: stallLimit,
		listings: make(chan struct{}, maxListings), views: memory / viewShare / viewBytes,
		lookups: newLookups(life, src, cred), files: newOpenFiles(src), end: end}
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.under.Add(1)
	defer h.under.Done()
	rec := &recorder{ResponseWriter: w, start: time.Now()}
	http.NewResponseController(w).SetWriteDeadline(rec.start.Add(answerLimit))
	defer func() {
		if rec.status == 0 {
			rec.status = http.StatusOK
		}
		h.m.request(r.Method, rec.status)
	}()
	rec.Header().Set("X-Content-Type-Options", "nosniff")
	if r.ContentLength != 0 { // nobody reads what it carries
		rec.Header().Set("Connection", "close")
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		rec.Header().Set("Allow", allowed)
		rec.WriteHeader(http.StatusNoContent)
		return
	default:
		rec.Header().Set("Allow", allowed)
		h.refuse(rec, http.StatusMethodNotAllowed, "this address is for reading")
		return
	}
	h.get(rec, r)
}

func (h *handler) get(w *recorder, r *http.Request) {
	p, dir, err := volumePath(r.URL)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if own(p) {
		h.own(w, r, p)
		return
	}
	res, err := h.lookups.resolve(r.Context(), p)
	switch {
	case err != nil:
		h.fail(w, r, err)
	case res.Attr.IsDir() && !dir:
		target := link(p) + "/"
		if r.URL.RawQuery != "" {
			target += "?" + r.URL.RawQuery
		}
		w.Header().Set("Location", target)
		h.refuse(w, http.StatusMovedPermanently, "the directory is at "+target)
	case res.Attr.IsDir():
		h.list(w, r, p)
	case dir:
		h.fail(w, r, tnv.E(p, tnv.KindNotDir, ""))
	case !res.Attr.IsRegular():
		h.refuse(w, http.StatusForbidden, "neither file nor directory")
	case !readable(h.cred, &res.Attr):
		h.refuse(w, http.StatusForbidden, "the file is not readable for this daemon's user")
	default:
		h.serve(w, r, p, &res.Attr)
	}
}

// readable checks the permission bits as open(2) does.
func readable(c tnv.Cred, at *tnv.Attr) bool {
	switch {
	case c.UID == 0:
		return true
	case c.UID == at.UID:
		return at.Mode&0o400 != 0
	case c.GID == at.GID:
		return at.Mode&0o040 != 0
	}
	return at.Mode&0o004 != 0
}

// fail answers with what an error means to a browser.
func (h *handler) fail(w *recorder, r *http.Request, err error) {
	if r.Context().Err() != nil { // nobody is there to read an answer
		w.status = tnv.HTTPStatus(tnv.KindCanceled)
		h.m.cut.WithLabelValues("client").Inc()
		panic(http.ErrAbortHandler)
	}
	status := tnv.HTTPStatus(err)
	switch {
	case status == http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", retryAfter)
		h.log.WithError(err).WithField("path", r.URL.Path).Debug("the cluster does not answer")
	case status >= 500:
		h.log.WithError(err).WithField("path", r.URL.Path).Warn("request failed")
	}
	h.refuse(w, status, tnv.KindOf(err).String())
}

// refuse answers with a status and a line of text.
func (h *handler) refuse(w *recorder, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

// own answers the daemon's own pages.
func (h *handler) own(w *recorder, r *http.Request, p string) {
	ctx, cancel := context.WithTimeout(r.Context(), healthLimit)
	defer cancel()
	w.Header().Set("Cache-Control", "no-store")
	switch p {
	case ownPrefix + "/healthz":
		if _, err := h.src.StatFS(ctx); err != nil {
			h.unwell(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	case ownPrefix + "/status":
		st, err := h.src.StatFS(ctx)
		if err != nil {
			h.unwell(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"volume": h.volume, "files": st.Files, "bytes": st.Bytes,
			"capacity_bytes": st.Capacity, "free_bytes": st.Free, "transfers": h.active.Load()})
	default:
		h.refuse(w, http.StatusNotFound, "no such page")
	}
}

// unwell answers a question after health: whatever is wrong, 503.
func (h *handler) unwell(w *recorder, r *http.Request, err error) {
	h.fail(w, r, tnv.E("health", tnv.KindUnavailable, "%v", err))
}

// recorder remembers the status of an answer and when it began.
type recorder struct {
	http.ResponseWriter
	start  time.Time
	status int
	first  time.Duration // until the header was written
}

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status, w.first = status, time.Since(w.start)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status, w.first = http.StatusOK, time.Since(w.start)
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController find the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// isTimeout tells whether a write failed because the client took nothing.
func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
