package httpd

import (
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
)

// secure sets the headers that browsers want to be safe.
func (h *handler) secure(w *recorder, r *http.Request) {
	hd := w.Header()
	hd.Set("X-Content-Type-Options", "nosniff")
	hd.Set("Referrer-Policy", "same-origin")
	hd.Set("X-Frame-Options", "SAMEORIGIN")
	hd.Set("Cross-Origin-Opener-Policy", "same-origin")
	if r.TLS != nil {
		hd.Set("Strict-Transport-Security", "max-age=31536000")
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		h.allowOrigin(w, r, origin)
	}
}

// allowOrigin lets pages of other origins read, where that is wanted: never with
// the visitor's own cookies or password, so that they get what anybody may have, or
// what a link's proof in the address gives.
func (h *handler) allowOrigin(w *recorder, r *http.Request, origin string) bool {
	if len(h.cors) > 0 {
		w.Header().Add("Vary", "Origin")
	}
	switch {
	case slices.Contains(h.cors, "*") || h.linked(r):
		w.Header().Set("Access-Control-Allow-Origin", "*")
	case slices.Contains(h.cors, origin):
		w.Header().Set("Access-Control-Allow-Origin", origin)
	default:
		return false
	}
	w.Header().Set("Access-Control-Expose-Headers", "Accept-Ranges, Content-Length, Content-Range, ETag, Last-Modified")
	return true
}

// linked tells whether a request's address holds a link's proof that is good for it.
func (h *handler) linked(r *http.Request) bool {
	if r.URL.RawQuery == "" {
		return false
	}
	l, err := access.ParseLink(r.URL.Query().Get(access.LinkParam))
	p, _, perr := volumePath(r.URL)
	if err != nil || perr != nil || own(p) {
		return false
	}
	who := h.access.As("")
	who.Links = []access.Link{l}
	return !who.LinkEnd(p).IsZero()
}

// rightHost tells whether a request is for a name that this daemon has. On loopback it
// has those of loopback, and what it was told: a page of elsewhere whose name leads
// here by now is of the same origin for its browser, which would let it read the answer.
func (h *handler) rightHost(r *http.Request) bool {
	if !h.local || r.Host == "" { // browsers send one
		return true
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(r.Host, "["), "]")
	}
	return loopback(strings.ToLower(host)) || slices.ContainsFunc(h.hosts, func(s string) bool { return strings.EqualFold(s, host) })
}

// preflight answers a browser that asks whether a page of another origin may ask.
func (h *handler) preflight(w *recorder, r *http.Request) bool {
	origin, method := r.Header.Get("Origin"), r.Header.Get("Access-Control-Request-Method")
	if origin == "" || method == "" {
		return false
	}
	h.closeUnread(w, r)
	if h.allowOrigin(w, r, origin) {
		w.Header().Set("Access-Control-Allow-Methods", forReading)
		w.Header().Set("Access-Control-Allow-Headers", "Range, If-Range, If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, Cache-Control")
		w.Header().Set("Access-Control-Max-Age", "86400")
	}
	w.WriteHeader(http.StatusNoContent)
	return true
}

// identify finds out who sends a request; a wrong proof is refused: false.
func (h *handler) identify(w *recorder, r *http.Request) bool {
	who, err := h.access.Identify(r)
	w.who = who
	switch {
	case err == nil:
		return true
	case errors.Is(err, access.ErrTooMany):
		w.Header().Set("Retry-After", "60")
		h.closeUnread(w, r)
		h.refuse(w, http.StatusTooManyRequests, "too many wrong passwords from this address")
	case tnv.KindOf(err) == tnv.KindAuth:
		h.closeUnread(w, r)
		h.challenge(w, "wrong name, password or token")
	default:
		h.fail(w, r, err)
	}
	return false
}

// challenge asks who it is. A script that shows a login of its own is not made to
// bring up the browser's.
func (h *handler) challenge(w *recorder, text string) {
	if !w.json {
		w.Header().Set("WWW-Authenticate", `Basic realm="TNV", charset="UTF-8"`)
	}
	h.refuse(w, http.StatusUnauthorized, text)
}

// admit tells whether somebody may know of a path, and answers if not: as if it
// were not there, or with a challenge if he could prove to be somebody else.
func (h *handler) admit(w *recorder, r *http.Request, p string) bool {
	if h.sees(&w.who, p) {
		h.keepLink(w, r, p)
		return true
	}
	h.closeUnread(w, r)
	if w.who.User == "" && h.access.HasUsers() {
		h.challenge(w, "this is for those who may see it")
		return false
	}
	h.fail(w, r, tnv.E(p, tnv.KindNotExist, ""))
	return false
}

// sees tells whether somebody may know of a path, if it is there.
func (h *handler) sees(who *access.Who, p string) bool {
	if own(p) {
		return false
	}
	role := who.Role(p)
	switch {
	case role >= access.Write:
		return true
	case hiddenPath(p):
		return false
	}
	return role >= access.Read || who.Leads(p)
}

// keepLink has the browser send a link's proof with what the page at it asks for.
func (h *handler) keepLink(w *recorder, r *http.Request, p string) {
	if r.URL.RawQuery == "" {
		return
	}
	proof := r.URL.Query().Get(access.LinkParam)
	end := w.who.LinkEnd(p)
	if proof == "" || end.IsZero() {
		return
	}
	http.SetCookie(w, &http.Cookie{Name: access.LinkCookie + proof[max(0, len(proof)-8):], Value: proof, Path: "/", Expires: end,
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteLaxMode})
}

// denied refuses a change: whoever could be somebody else is asked.
func (h *handler) denied(w *recorder, r *http.Request) {
	h.closeUnread(w, r)
	switch {
	case h.readOnly:
		h.refuse(w, http.StatusForbidden, "this daemon is for reading")
	case w.who.User == "" && h.access.HasUsers():
		h.challenge(w, "changes are for those who may")
	default:
		h.refuse(w, http.StatusForbidden, "you may not change this")
	}
}

// acceptsHTML tells whether a client asks for a page by name, as browsers do.
func acceptsHTML(r *http.Request) bool {
	for v := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		t, params, err := mime.ParseMediaType(strings.TrimSpace(v))
		if err == nil && t == "text/html" && params["q"] != "0" {
			return true
		}
	}
	return false
}

// attachment is a Content-Disposition that has a browser save a file (RFC 6266).
func attachment(p string) string {
	return "attachment; filename*=UTF-8''" + strings.ReplaceAll(url.PathEscape(path.Base(p)), "'", "%27")
}

// sandboxed types could run in the page's name: a browser that shows them is told
// to let them do nothing.
func sandboxed(contentType string) bool {
	t, _, _ := strings.Cut(contentType, ";")
	switch t {
	case "text/html", "image/svg+xml", "application/xml", "application/xhtml+xml", "text/xml", "application/ttml+xml", "application/dash+xml":
		return true
	}
	return false
}

// bodyLimit is how long a client that sends may send nothing.
const bodyLimit = time.Minute

// body is a request's body, each piece of which has a deadline.
type body struct {
	until time.Time // and all of it, unless zero
	src   io.ReadCloser
	rc    *http.ResponseController
	h     *handler
	n     int64
	err   error // of reading; io.EOF is none
}

func (h *handler) body(w *recorder, r *http.Request) *body {
	return &body{src: r.Body, rc: http.NewResponseController(w.ResponseWriter), h: h}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	now := time.Now()
	end := now.Add(b.h.patience)
	if !b.until.IsZero() && b.until.Before(end) {
		end = b.until
	}
	b.rc.SetReadDeadline(end)
	b.rc.SetWriteDeadline(now.Add(bodyLimit + answerLimit))
	n, err := b.src.Read(p)
	if err == io.EOF { // what follows may take its time: a deadline that passes ends the request's context
		b.rc.SetReadDeadline(time.Time{})
	}
	b.n += int64(n)
	b.h.traffic.received(n)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error { return b.src.Close() }
