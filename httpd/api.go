package httpd

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
	"github.com/tnvfs/tnv/protocol"
)

// The JSON interface, as docs/openapi.yaml describes it.

// maxJSON bounds the body of a request. One that is longer than shortJSON needs a place:
// a body is kept whole until it has come.
const (
	maxJSON   = 1 << 20
	shortJSON = 16 << 10
	jsonLimit = 30 * time.Second
)

// api answers a request of a program; name is what follows the prefix.
func (h *handler) api(w *recorder, r *http.Request, name string) {
	if id, ok := strings.CutPrefix(name, "uploads"); ok && (id == "" || id[0] == '/') {
		h.upload(w, r, strings.TrimPrefix(id, "/"))
		return
	}
	do := map[string]func(*recorder, *http.Request){
		"GET me": h.me, "POST login": h.login, "POST logout": h.logout,
		"GET list": h.apiList, "GET stat": h.apiStat, "GET search": h.apiSearch,
		"POST mkdir": h.apiMkdir, "POST move": h.apiMove, "POST delete": h.apiDelete, "POST undo": h.apiUndo,
		"GET trash": h.apiTrash, "DELETE trash": h.apiTrashDrop, "GET events": h.events, "GET status": h.status,
		"GET media": h.apiMedia, "POST media": h.apiMediaMany, "GET thumb": h.apiThumb, "GET subtitles": h.apiSubtitles,
		"POST hls": h.apiHLS, "POST links": h.apiLinks,
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if method != http.MethodPost {
		h.closeUnread(w, r)
	}
	if f := do[method+" "+name]; f != nil {
		f(w, r)
		return
	}
	h.closeUnread(w, r)
	var allow []string
	for k := range do {
		if m, ok := strings.CutSuffix(k, " "+name); ok {
			allow = append(allow, m)
		}
	}
	if len(allow) == 0 {
		h.refuse(w, http.StatusNotFound, "there is no such request; see docs/openapi.yaml")
		return
	}
	w.Header().Set("Allow", strings.Join(append(allow, "OPTIONS"), ", "))
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h.refuse(w, http.StatusMethodNotAllowed, "this address does not take "+r.Method)
}

// answer sends a value as JSON.
func (h *handler) answer(w *recorder, status int, v any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		h.log.WithError(err).Error("an answer cannot be written as JSON")
		status = http.StatusInternalServerError
		b.Reset()
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

// apiError is an error as JSON has it.
type apiError struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
}

func toAPIError(err error) *apiError {
	e := &apiError{Kind: tnv.KindOf(err).String()}
	var t *tnv.Error
	if errors.As(err, &t) {
		e.Message = t.Msg
	}
	return e
}

func (h *handler) refuseJSON(w *recorder, status int, kind, text string) {
	h.answer(w, status, map[string]any{"error": apiError{kind, text}})
}

// read takes a request's body as JSON; it answers and returns false where that fails.
func (h *handler) read(w *recorder, r *http.Request, v any) bool {
	b := h.body(w, r)
	b.until = time.Now().Add(h.jsonTime)
	src := http.MaxBytesReader(w, b, maxJSON)
	head, err := io.ReadAll(io.LimitReader(src, shortJSON+1))
	if len(head) > shortJSON {
		if !h.long.try() {
			h.closeUnread(w, r)
			w.Header().Set("Retry-After", retryAfter)
			h.refuse(w, http.StatusServiceUnavailable, "as many long requests are being read as may be at once")
			return false
		}
		defer h.long.give()
	}
	d := json.NewDecoder(io.MultiReader(bytes.NewReader(head), src))
	if err == nil {
		err = d.Decode(v)
	}
	if err == nil {
		_, err = d.Token()
		if err == io.EOF {
			return true
		}
	}
	h.closeUnread(w, r)
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		h.refuse(w, http.StatusRequestEntityTooLarge, "a request has at most 1 MiB")
		return false
	}
	h.refuse(w, http.StatusBadRequest, "the body is not the JSON that is wanted; see docs/openapi.yaml")
	return false
}

// pathOf reads a path from a request, which the caller must be allowed to see.
func (h *handler) pathOf(w *recorder, r *http.Request, raw string) (string, bool) {
	p, _, err := cleanPath(raw)
	if err != nil {
		h.fail(w, r, err)
		return "", false
	}
	return p, h.admit(w, r, p)
}

// queryPath is pathOf of the parameter "path", which may be left out.
func (h *handler) queryPath(w *recorder, r *http.Request) (string, bool) {
	raw := r.URL.Query().Get("path")
	if raw == "" {
		raw = "/"
	}
	return h.pathOf(w, r, raw)
}

// found looks at a path that the caller may read.
func (h *handler) found(w *recorder, r *http.Request) (p string, at tnv.Attr, ok bool) {
	p, ok = h.queryPath(w, r)
	if !ok {
		return p, at, false
	}
	res, err := h.lookups.resolve(r.Context(), p)
	if err == nil && !permits(h.cred, &res.Attr, mayRead) {
		err = tnv.E(p, tnv.KindPermission, "it is not readable for this daemon's user")
	}
	if err != nil {
		h.fail(w, r, err)
		return p, at, false
	}
	return p, res.Attr, true
}

// me tells who asks, and what he may.
func (h *handler) me(w *recorder, r *http.Request) {
	raw := r.URL.Query().Get("path")
	if raw == "" {
		raw = "/"
	}
	p, _, err := cleanPath(raw)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.keepLink(w, r, p)
	h.answerMe(w, p)
}

func (h *handler) answerMe(w *recorder, p string) {
	role := w.who.Role(p)
	out := map[string]any{"user": w.who.User, "path": p, "role": role.String(), "can_write": h.mayWrite(w, p),
		"can_share": w.who.User != "" && role >= access.Read, "can_login": h.access.HasUsers(), "trash_life_seconds": int64(max(0, h.trashLife) / time.Second),
		"features": map[string]bool{"thumbnails": h.media.makes(), "hls": h.hls.can(), "trash": h.trashLife >= 0 && !h.readOnly, "uploads": !h.readOnly, "webdav": true}}
	if end := w.who.LinkEnd(p); !end.IsZero() {
		out["link_expires"] = end.UTC()
	}
	h.answer(w, http.StatusOK, out)
}

// sessionLife is how long a login lasts.
const sessionLife = 30 * 24 * time.Hour

func (h *handler) login(w *recorder, r *http.Request) {
	var in struct{ User, Password string }
	if !h.read(w, r, &in) {
		return
	}
	err := h.access.CheckPassword(r, in.User, in.Password)
	cookie, known := h.access.NewSession(in.User, sessionLife)
	switch {
	case errors.Is(err, access.ErrTooMany):
		w.Header().Set("Retry-After", "60")
		h.refuse(w, http.StatusTooManyRequests, "too many wrong passwords from this address")
		return
	case err != nil && tnv.KindOf(err) != tnv.KindAuth:
		h.fail(w, r, err)
		return
	case err != nil || !known:
		h.refuse(w, http.StatusUnauthorized, "wrong name or password")
		return
	}
	http.SetCookie(w, &http.Cookie{Name: access.SessionCookie, Value: cookie, Path: "/", MaxAge: int(sessionLife / time.Second),
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode})
	w.who = h.access.As(in.User)
	h.answerMe(w, "/")
}

func (h *handler) logout(w *recorder, r *http.Request) {
	http.SetCookie(w, &http.Cookie{Name: access.SessionCookie, Path: "/", MaxAge: -1, HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode})
	w.WriteHeader(http.StatusNoContent)
}

const maxLinkLife = 365 * 24 * time.Hour

func (h *handler) apiLinks(w *recorder, r *http.Request) {
	var in struct {
		Path    string
		Seconds int64
	}
	if !h.read(w, r, &in) {
		return
	}
	p, ok := h.pathOf(w, r, in.Path)
	if !ok {
		return
	}
	if w.who.User == "" || w.who.Own(p) < access.Read {
		h.denied(w, r)
		return
	}
	if in.Seconds == 0 {
		in.Seconds = 7200
	}
	if in.Seconds < 1 || time.Duration(in.Seconds) > maxLinkLife/time.Second {
		h.refuse(w, http.StatusBadRequest, "a link lives for at most a year")
		return
	}
	res, err := h.lookups.resolve(r.Context(), p)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	end := time.Now().Add(time.Duration(in.Seconds) * time.Second).Truncate(time.Second)
	h.answer(w, http.StatusOK, map[string]any{"url": SignedPath(h.access.Signer(), p, w.who.User, res.Attr.IsDir(), end), "expires": end.UTC()})
}

// SignedPath is the path and query of a signed link; maker is the user on whose
// account it is, "" the operator.
func SignedPath(s *access.Signer, p, maker string, dir bool, end time.Time) string {
	out := link(p)
	if dir && p != "/" {
		out += "/"
	}
	return out + "?" + access.LinkParam + "=" + s.Link(p, maker, end)
}

func (h *handler) apiMkdir(w *recorder, r *http.Request) {
	var in struct {
		Path    string
		Parents bool
	}
	if !h.read(w, r, &in) {
		return
	}
	p, ok := h.pathOf(w, r, in.Path)
	if !ok {
		return
	}
	if !h.mayWrite(w, p) {
		h.denied(w, r)
		return
	}
	mk := h.tree.mkdir
	if in.Parents {
		mk = h.tree.mkdirs
	}
	at, err := mk(r.Context(), p, dirMode)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.tell(change{Op: opCreate, Path: p, Dir: true})
	h.answer(w, http.StatusCreated, h.foundEntry(p, &at))
}

func (h *handler) apiMove(w *recorder, r *http.Request) {
	var in struct {
		From, To  string
		Overwrite bool
	}
	if !h.read(w, r, &in) {
		return
	}
	from, ok := h.pathOf(w, r, in.From)
	if !ok {
		return
	}
	to, ok := h.pathOf(w, r, in.To)
	if !ok {
		return
	}
	if !h.mayTake(w, from) || !h.mayTake(w, to) {
		h.denied(w, r)
		return
	}
	err := h.dav.free(r.Context(), from, to)
	if err == nil {
		err = h.tree.move(r.Context(), from, to, protocol.RenameNoReplace)
	}
	if in.Overwrite && errors.Is(err, tnv.KindExist) {
		err = h.replace(r.Context(), &w.who, from, to)
	}
	var at tnv.Attr
	if err == nil {
		_, _, at, err = h.tree.entry(r.Context(), to)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.tell(change{Op: opMove, Path: to, From: from, Dir: at.IsDir()})
	h.answer(w, http.StatusOK, h.foundEntry(to, &at))
}

// maxItems bounds what one request deletes or puts back.
const maxItems = 1000

// outcome is that of one of several.
type outcome struct {
	Path  string    `json:"path"`
	Trash string    `json:"trash,omitempty"`
	Error *apiError `json:"error,omitempty"`
}

func (h *handler) apiDelete(w *recorder, r *http.Request) {
	var in struct{ Paths []string }
	if !h.read(w, r, &in) {
		return
	}
	if len(in.Paths) > maxItems {
		h.refuse(w, http.StatusRequestEntityTooLarge, "at most 1000 at a time")
		return
	}
	out := []outcome{}
	for _, raw := range in.Paths {
		o := outcome{Path: raw}
		p, _, err := cleanPath(raw)
		switch {
		case err != nil:
		case !h.sees(&w.who, p):
			err = tnv.E(p, tnv.KindNotExist, "")
		case !h.mayTake(w, p):
			err = tnv.E(p, tnv.KindPermission, "you may not change this")
		default:
			if err = h.dav.free(r.Context(), p); err == nil {
				o.Trash, err = h.discard(r.Context(), p, w.who.User)
			}
		}
		if err != nil {
			o.Error = toAPIError(err)
		}
		out = append(out, o)
	}
	h.answer(w, http.StatusOK, map[string]any{"items": out})
}

func (h *handler) apiUndo(w *recorder, r *http.Request) {
	var in struct{ Trash []string }
	if !h.read(w, r, &in) {
		return
	}
	if len(in.Trash) > maxItems {
		h.refuse(w, http.StatusRequestEntityTooLarge, "at most 1000 at a time")
		return
	}
	if h.readOnly {
		h.denied(w, r)
		return
	}
	out := []outcome{}
	for _, id := range in.Trash {
		p, err := h.restore(r.Context(), &w.who, id)
		o := outcome{Path: p, Trash: id}
		if err != nil {
			o.Error = toAPIError(err)
		}
		out = append(out, o)
	}
	h.answer(w, http.StatusOK, map[string]any{"items": out})
}

func (h *handler) apiTrash(w *recorder, r *http.Request) {
	l, err := h.listTrash(r.Context(), &w.who)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.answer(w, http.StatusOK, map[string]any{"life_seconds": int64(max(0, h.trashLife) / time.Second), "items": l})
}

func (h *handler) apiTrashDrop(w *recorder, r *http.Request) {
	id := r.URL.Query().Get("id")
	rec, err := h.record(r.Context(), id)
	if err == nil && !h.mayTake(w, rec.Path) {
		err = tnv.E("trash", tnv.KindNotExist, "")
	}
	if err == nil {
		err = h.drop(r.Context(), id)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
