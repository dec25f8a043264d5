package httpd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
)

// handler answers requests on one volume.
type handler struct {
	src    source
	cred   tnv.Cred
	tree   *tree
	volume string
	log    *logrus.Entry
	m      *metrics
	options

	followIdle time.Duration // a file that does not grow for so long is followed no more
	stall      time.Duration // a client that takes no byte for so long is cut off
	patience   time.Duration // a client that sends may send nothing for so long
	listings   chan struct{} // one place per listing that is being made
	searches   chan struct{} // one place per search
	jsonTime   time.Duration // a body of JSON takes so long at most
	long       places        // bodies of JSON that are long
	propfinds  places
	probes     places
	turned     places         // subtitles that are being turned
	active     atomic.Int64   // transfers of files
	under      sync.WaitGroup // requests, and goroutines of the handler
	views      int64          // so many transfers at once may hold on to the client's memory
	lookups    *lookups
	files      *openFiles
	snapshots  *snapshots
	uploads    *uploads
	dav        *davLocks
	feed       *feed
	limits     *limits
	watcher    *watcher
	media      *media
	hls        *hls
	followers  atomic.Int64
	traffic    *traffic
	cross      *http.CrossOriginProtection
	life       context.Context
	end        context.CancelFunc // of life
}

// options are what a Config chooses; the zero value serves for reading by anybody.
type options struct {
	access    *access.Policy
	trashLife time.Duration // below zero: no trash
	maxUpload int64
	cors      []string     // origins that may read; "*": all
	page      http.Handler // may be nil
	readOnly  bool
	local     bool     // listens on loopback: requests must be for it
	hosts     []string // or for these
	perViewer int64    // bytes per second; 0: no limit
	inAll     int64
}

// withDefaults fills in what was left open.
func (o options) withDefaults() options {
	if o.access == nil {
		var err error
		if o.access, err = access.New(access.Config{Anonymous: access.Read}, access.NewSigner(nil, "", "")); err != nil {
			panic(err) // no file is named that could be unreadable
		}
	}
	if o.trashLife == 0 {
		o.trashLife = DefaultTrashLife
	}
	if o.maxUpload == 0 {
		o.maxUpload = DefaultMaxUpload
	}
	return o
}

// begin starts what goes on in the background; close ends it.
func (h *handler) begin() error {
	if err := h.media.begin(); err != nil {
		return err
	}
	if h.readOnly {
		return nil
	}
	h.under.Add(1)
	go h.sweep(h.life)
	return nil
}

// close waits until no request is under way any more, and closes the files.
func (h *handler) close() {
	h.end()
	h.media.close()
	h.under.Wait()
	h.lookups.wg.Wait()
	h.files.close()
	h.dav.close()
}

const (
	// maxListings bounds the listings that are made at once, and so their memory.
	maxListings = 4
	// lingerLimit is how long the rest of a request that was refused is waited for.
	lingerLimit = 2 * time.Second
	// healthLimit bounds the question behind healthz and status.
	healthLimit = 3 * time.Second
	// retryAfter is what a client is told to wait while the cluster does not answer, in seconds.
	retryAfter = "2"
	forReading = "GET, HEAD, OPTIONS"
	forWriting = forReading + ", PUT, DELETE, MKCOL, COPY, MOVE, PROPFIND, PROPPATCH, LOCK, UNLOCK"
)

// viewBytes is what one transfer may hold of the client's memory at a time, and
// viewShare the part of that memory that all may.
const (
	viewBytes = 2 * viewSize
	viewShare = 2
)

// newHandler makes a handler; memory is what the client may use for blocks.
func newHandler(src source, cred tnv.Cred, volume string, memory int64, log *logrus.Entry, m *metrics, o options) *handler {
	life, end := context.WithCancel(context.Background())
	h := &handler{src: src, cred: cred, tree: &tree{src, cred}, volume: volume, log: log, m: m, options: o.withDefaults(), stall: stallLimit, followIdle: followIdle, patience: bodyLimit,
		listings: make(chan struct{}, maxListings), searches: make(chan struct{}, maxSearches),
		jsonTime: jsonLimit, long: make(places, maxLong), propfinds: make(places, maxPropfinds), probes: make(places, maxProbes), turned: make(places, maxTurned), views: memory / viewShare / viewBytes,
		lookups: newLookups(life, src, cred), files: newOpenFiles(src), snapshots: newSnapshots(), uploads: newUploads(),
		feed: newFeed(), traffic: newTraffic(), cross: http.NewCrossOriginProtection(), life: life, end: end}
	h.watcher = newWatcher(h)
	h.limits = newLimits(h.perViewer, h.inAll)
	h.dav, h.media, h.hls = newDAVLocks(h), newMedia(h), newHLS(h)
	return h
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
		if r.ContentLength != 0 { // what was not read of it is now, within a short time
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(lingerLimit))
		}
		h.m.request(r.Method, rec.status)
		h.traffic.request()
	}()
	if !h.rightHost(r) {
		h.closeUnread(rec, r)
		h.refuse(rec, http.StatusMisdirectedRequest, "this daemon has no such name; --host gives it one")
		return
	}
	h.secure(rec, r)
	if r.Method == http.MethodOptions && h.preflight(rec, r) {
		return
	}
	if err := h.cross.Check(r); err != nil {
		h.closeUnread(rec, r)
		h.refuse(rec, http.StatusForbidden, "changes are not taken from pages of other origins")
		return
	}
	if !h.identify(rec, r) {
		return
	}
	p, dir, err := volumePath(r.URL)
	if err != nil {
		h.closeUnread(rec, r)
		h.fail(rec, r, err)
		return
	}
	if own(p) {
		h.own(rec, r, p)
		return
	}
	h.serveVolume(rec, r, p, dir)
}

// serveVolume answers a request for a path of the volume.
func (h *handler) serveVolume(w *recorder, r *http.Request, p string, dir bool) {
	if !h.admit(w, r, p) {
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		h.closeUnread(w, r)
		h.get(w, r, p, dir)
	case http.MethodOptions:
		h.closeUnread(w, r)
		w.Header().Set("Allow", h.allowed(w, p))
		w.Header().Set("DAV", "1, 2")
		w.Header().Set("MS-Author-Via", "DAV")
		w.WriteHeader(http.StatusNoContent)
	case "PUT", "DELETE", "MKCOL", "COPY", "MOVE", "PROPFIND", "PROPPATCH", "LOCK", "UNLOCK":
		h.serveDAV(w, r, p, dir)
	default:
		h.closeUnread(w, r)
		w.Header().Set("Allow", h.allowed(w, p))
		h.refuse(w, http.StatusMethodNotAllowed, "there is no such method here")
	}
}

// allowed lists the methods that somebody may use at a path.
func (h *handler) allowed(w *recorder, p string) string {
	if h.mayWrite(w, p) {
		return forWriting
	}
	return forReading + ", PROPFIND"
}

// mayWrite tells whether somebody may change what is at a path.
func (h *handler) mayWrite(w *recorder, p string) bool {
	return !h.readOnly && w.who.Role(p) >= access.Write
}

// mayTake tells whether somebody may take away what is at a path, with all beneath.
func (h *handler) mayTake(w *recorder, p string) bool { return h.mayWrite(w, p) && w.who.Whole(p) }

// closeUnread ends the connection after the answer if the request carries what
// nobody is going to read.
func (h *handler) closeUnread(w *recorder, r *http.Request) {
	if r.ContentLength != 0 && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
}

func (h *handler) get(w *recorder, r *http.Request, p string, dir bool) {
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
		h.directory(w, r, p, &res.Attr)
	case dir:
		h.fail(w, r, tnv.E(p, tnv.KindNotDir, ""))
	case !res.Attr.IsRegular():
		h.refuse(w, http.StatusForbidden, "neither file nor directory")
	case !permits(h.cred, &res.Attr, mayRead):
		h.refuse(w, http.StatusForbidden, "the file is not readable for this daemon's user")
	default:
		h.file(w, r, p, &res.Attr)
	}
}

// directory answers with a directory in one of its forms.
func (h *handler) directory(w *recorder, r *http.Request, p string, at *tnv.Attr) {
	if !permits(h.cred, at, mayRead) {
		h.refuse(w, http.StatusForbidden, "the directory is not readable for this daemon's user")
		return
	}
	w.Header().Add("Vary", "Accept")
	q := r.URL.Query()
	switch {
	case q.Has("m3u"):
		h.playlist(w, r, p, at)
	case h.page != nil && !q.Has("plain") && acceptsHTML(r):
		h.page.ServeHTTP(w, r)
	default:
		h.list(w, r, p)
	}
}

// file answers with a file in one of its forms.
func (h *handler) file(w *recorder, r *http.Request, p string, at *tnv.Attr) {
	q := r.URL.Query()
	switch {
	case q.Has("vtt"):
		h.webVTT(w, r, p, at)
	case q.Has("m3u"):
		h.playlist(w, r, p, at)
	case q.Get("follow") == "1":
		h.follow(w, r, p, at)
	default:
		if q.Has("download") {
			w.Header().Set("Content-Disposition", attachment(p))
		}
		h.serve(w, r, p, at)
	}
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
	if w.json {
		h.refuseJSON(w, status, http.StatusText(status), text)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

// recorder remembers who asks, the status of an answer and when it began.
type recorder struct {
	http.ResponseWriter
	who    access.Who
	start  time.Time
	status int
	first  time.Duration // until the header was written
	json   bool          // errors are told in JSON
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
