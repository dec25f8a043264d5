package httpd

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/tnvfs/tnv"
)

// mediaAnswer is what the JSON interface tells of a film.
type mediaAnswer struct {
	Path  string `json:"path"`
	State string `json:"state"`
	*probe
	Picture   string     `json:"thumb,omitempty"`
	Subtitles []subtitle `json:"subtitles,omitempty"`
}

// subtitle is a track that a browser can show.
type subtitle struct {
	URL      string `json:"url"`
	Label    string `json:"label"`
	Language string `json:"language,omitempty"`
}

const maxMedia = 500

func (h *handler) apiMedia(w *recorder, r *http.Request) {
	p, at, ok := h.found(w, r)
	if !ok {
		return
	}
	a, err := h.mediaOf(r.Context(), w, p, &at)
	if err == nil && a.State != "none" && kindOf(p, &at) == "video" {
		err = h.addSubtitles(r.Context(), w, p, a)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.answer(w, http.StatusOK, a)
}

func (h *handler) apiMediaMany(w *recorder, r *http.Request) {
	var in struct{ Paths []string }
	if !h.read(w, r, &in) {
		return
	}
	if len(in.Paths) > maxMedia {
		h.refuse(w, http.StatusRequestEntityTooLarge, "at most 500 at a time")
		return
	}
	out := make([]*mediaAnswer, len(in.Paths))
	for i, raw := range in.Paths {
		p, _, err := cleanPath(raw)
		if err != nil || !h.sees(&w.who, p) {
			continue
		}
		res, err := h.src.Resolve(r.Context(), h.cred, p, true)
		if err != nil || !permits(h.cred, &res.Attr, mayRead) {
			continue
		}
		if out[i], err = h.mediaOf(r.Context(), w, p, &res.Attr); err != nil {
			h.fail(w, r, err)
			return
		}
	}
	h.answer(w, http.StatusOK, map[string]any{"items": out})
}

// mediaOf tells what is known of a file.
func (h *handler) mediaOf(ctx context.Context, w *recorder, p string, at *tnv.Attr) (*mediaAnswer, error) {
	a := &mediaAnswer{Path: valid(p), State: "none"}
	kind := kindOf(p, at)
	if kind != "video" && kind != "audio" && kind != "image" {
		return a, nil
	}
	found, err := h.media.ask(ctx, path.Base(p), kind, at)
	switch {
	case err != nil:
		return nil, err
	case found == nil && h.media.makes():
		a.State = "pending"
	case found == nil:
	case found.Failed:
		a.State = "failed"
	default:
		a.State, a.probe = "ready", found
		if found.Thumb {
			a.Picture = fmt.Sprintf("%sthumb?path=%s&v=%s", apiPrefix, url.QueryEscape(p), strings.Trim(etag(at), `"`))
		}
	}
	return a, nil
}

// addSubtitles names the tracks that can be had: files beside it, then tracks within.
func (h *handler) addSubtitles(ctx context.Context, w *recorder, p string, a *mediaAnswer) error {
	dir, err := h.tree.dir(ctx, path.Dir(p))
	if err != nil {
		return err
	}
	stem := strings.TrimSuffix(path.Base(p), path.Ext(p))
	names, err := h.beside(ctx, dir.Ino, stem)
	if err != nil && tnv.KindOf(err) != tnv.KindPermission {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		full := path.Join(path.Dir(p), n)
		if !h.sees(&w.who, full) {
			continue
		}
		tag := strings.Trim(strings.TrimSuffix(strings.TrimPrefix(n, stem), path.Ext(n)), ".")
		s := subtitle{URL: link(full), Label: tag}
		if tag == "" {
			s.Label = "Subtitles"
		} else if lang, _, _ := strings.Cut(tag, "."); len(lang) == 2 || len(lang) == 3 {
			s.Language = lang
		}
		if extOf(n) != "vtt" {
			s.URL += "?vtt"
		}
		a.Subtitles = append(a.Subtitles, s)
	}
	if a.probe == nil || h.media.ffmpeg == "" {
		return nil
	}
	for i := range a.Streams {
		if t := &a.Streams[i]; t.Text {
			label := strings.TrimSpace(t.Title + " " + t.Language)
			if label == "" {
				label = fmt.Sprintf("Track %d", t.Index)
			}
			a.Subtitles = append(a.Subtitles, subtitle{fmt.Sprintf("%ssubtitles?path=%s&stream=%d", apiPrefix, url.QueryEscape(p), t.Index), label, t.Language})
		}
	}
	return nil
}

// stored answers with what was made of a file; 202 while it is being made.
func (h *handler) stored(w *recorder, r *http.Request, p string, at *tnv.Attr, suffix, contentType string) {
	res, err := h.src.Resolve(r.Context(), h.cred, versionOf(at).path(suffix), false)
	if errors.Is(err, tnv.KindNotExist) {
		h.pending(w)
		return
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	b, err := h.tree.read(r.Context(), versionOf(at).path(suffix), maxText)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	hd := w.Header()
	hd.Set("Content-Type", contentType)
	hd.Set("Cache-Control", "private, no-cache")
	if r.URL.Query().Get("v") == strings.Trim(etag(at), `"`) {
		hd.Set("Cache-Control", "private, max-age=31536000, immutable")
	}
	tag := etag(&res.Attr)
	hd.Set("ETag", tag)
	if m := r.Header.Get("If-None-Match"); m != "" && matches(m, tag, false) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	hd.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(b)
	}
}

// pending tells that something is being made.
func (h *handler) pending(w *recorder) {
	w.Header().Set("Retry-After", "3")
	w.WriteHeader(http.StatusAccepted)
}

func (h *handler) apiThumb(w *recorder, r *http.Request) {
	p, at, ok := h.found(w, r)
	if !ok {
		return
	}
	a, err := h.mediaOf(r.Context(), w, p, &at)
	switch {
	case err != nil:
		h.fail(w, r, err)
	case a.State == "pending":
		h.pending(w)
	case a.State == "ready" && a.Picture != "":
		h.stored(w, r, p, &at, ".jpg", "image/jpeg")
	default:
		h.refuse(w, http.StatusNotFound, "there is no picture of it")
	}
}

func (h *handler) apiSubtitles(w *recorder, r *http.Request) {
	p, at, ok := h.found(w, r)
	if !ok {
		return
	}
	n, err := strconv.Atoi(r.URL.Query().Get("stream"))
	if err != nil || n < 0 || n > 1000 {
		h.refuse(w, http.StatusBadRequest, "stream is the number of one")
		return
	}
	a, err := h.mediaOf(r.Context(), w, p, &at)
	switch {
	case err != nil:
		h.fail(w, r, err)
		return
	case a.State == "pending":
		h.pending(w)
		return
	case a.probe == nil || !slices.ContainsFunc(a.Streams, func(s probeStream) bool { return s.Index == n && s.Text }):
		h.refuse(w, http.StatusNotFound, "there are no such subtitles")
		return
	}
	if _, err := h.src.Resolve(r.Context(), h.cred, versionOf(&at).path(fmt.Sprintf("-%d.vtt", n)), false); errors.Is(err, tnv.KindNotExist) {
		h.media.order(mediaJob{versionOf(&at), path.Base(p), "video", n})
	}
	h.stored(w, r, p, &at, fmt.Sprintf("-%d.vtt", n), "text/vtt; charset=utf-8")
}
