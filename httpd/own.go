package httpd

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/tnvfs/tnv"
)

// apiPrefix is where programs ask.
const apiPrefix = ownPrefix + "/api/"

// own answers the daemon's own pages.
func (h *handler) own(w *recorder, r *http.Request, p string) {
	reading := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case strings.HasPrefix(p, apiPrefix):
		w.json = true
		w.Header().Set("Cache-Control", "no-store")
		h.api(w, r, strings.TrimPrefix(p, apiPrefix))
		return
	case strings.HasPrefix(p, hlsPrefix) && reading:
		h.closeUnread(w, r)
		h.hlsFile(w, r, strings.TrimPrefix(p, hlsPrefix))
		return
	case !reading:
		h.closeUnread(w, r)
		w.Header().Set("Allow", forReading)
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h.refuse(w, http.StatusMethodNotAllowed, "this address is for reading")
		return
	}
	h.closeUnread(w, r)
	switch {
	case p == ownPrefix+"/healthz":
		h.healthz(w, r)
	case p == ownPrefix+"/status": // as /.tnv/api/status; the name that it had first
		w.json = true
		w.Header().Set("Cache-Control", "no-store")
		h.status(w, r)
	case h.page != nil && (p == ownPrefix || strings.HasPrefix(p, ownPrefix+"/page/")):
		h.page.ServeHTTP(w, r)
	default:
		h.refuse(w, http.StatusNotFound, "no such page")
	}
}

func (h *handler) healthz(w *recorder, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthLimit)
	defer cancel()
	w.Header().Set("Cache-Control", "no-store")
	if _, err := h.src.StatFS(ctx); err != nil {
		h.unwell(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, "ok")
}

// unwell answers a question after health: whatever is wrong, 503.
func (h *handler) unwell(w *recorder, r *http.Request, err error) {
	h.fail(w, r, tnv.E("health", tnv.KindUnavailable, "%v", err))
}
