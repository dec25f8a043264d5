package httpd

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
	"github.com/tnvfs/tnv/httpd/subs"
	"github.com/tnvfs/tnv/protocol"
)

const (
	maxPlaylist   = 5000 // titles
	playlistDepth = 8
	playlistNames = 200_000
	playlistLife  = 24 * time.Hour // of the links in it
)

// playlist answers with an m3u of a file, or of all that can be played beneath a
// directory. Players know nothing of the browser's login: who has one, or came by a
// link, gets links that let the player in.
func (h *handler) playlist(w *recorder, r *http.Request, p string, at *tnv.Attr) {
	var list []string
	if at.IsDir() {
		b := &playlistBuilder{h: h, who: &w.who}
		if err := b.add(r.Context(), p, at.Ino, 0); err != nil {
			h.fail(w, r, err)
			return
		}
		list = b.list
	} else {
		list = []string{p}
	}
	host, ok := hostOf(r)
	if !ok {
		h.refuse(w, http.StatusBadRequest, "the Host is no host")
		return
	}
	proof := h.proofFor(w, r, p)
	var out strings.Builder
	out.WriteString("#EXTM3U\n")
	for _, x := range list {
		title := strings.Map(func(c rune) rune {
			if c < ' ' {
				return ' '
			}
			return c
		}, valid(strings.TrimSuffix(path.Base(x), path.Ext(x))))
		fmt.Fprintf(&out, "#EXTINF:-1,%s\n%s%s%s\n", title, host, link(x), proof)
	}
	hd := w.Header()
	hd.Set("Content-Type", "audio/x-mpegurl; charset=utf-8")
	hd.Set("Content-Disposition", attachment(p+".m3u"))
	hd.Set("Cache-Control", "no-cache")
	hd.Set("Content-Length", strconv.Itoa(out.Len()))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write([]byte(out.String()))
	}
}

// hostOf is the beginning of links back to this daemon.
func hostOf(r *http.Request) (string, bool) {
	for i := range len(r.Host) {
		c := r.Host[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`/\?#@"<>`, c) >= 0 {
			return "", false
		}
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	return scheme + r.Host, r.Host != ""
}

// proofFor is the query that lets a player in, "" where everybody may.
func (h *handler) proofFor(w *recorder, r *http.Request, p string) string {
	anybody := h.access.As("")
	if anybody.Own(p) >= access.Read {
		return ""
	}
	if w.who.User != "" && w.who.Own(p) >= access.Read {
		return "?" + access.LinkParam + "=" + h.access.Signer().Link(p, w.who.User, time.Now().Add(playlistLife))
	}
	if proof := w.who.ProofFor(p); proof != "" {
		return "?" + access.LinkParam + "=" + proof
	}
	return ""
}

// playlistBuilder collects what can be played: of each directory its files in
// order, then its directories.
type playlistBuilder struct {
	h     *handler
	who   *access.Who
	list  []string
	names int
}

func (b *playlistBuilder) add(ctx context.Context, p string, ino tnv.Ino, depth int) error {
	type sub struct {
		name string
		ino  tnv.Ino
	}
	var files []string
	var dirs []sub
	for req := (protocol.ReadDir{Ino: ino, Limit: pageEntries, Attrs: true}); b.names < playlistNames; {
		rep, err := b.h.tree.page(ctx, req)
		if err != nil {
			return err
		}
		b.names += len(rep.Entries)
		for i, e := range rep.Entries {
			req.Cookie = e.Cookie
			k := kindOf(e.Name, &rep.Attrs[i])
			switch {
			case !b.h.sees(b.who, path.Join(p, e.Name)):
			case k == "dir":
				dirs = append(dirs, sub{e.Name, e.Ino})
			case k == "video" || k == "audio":
				files = append(files, e.Name)
			}
		}
		if rep.End || len(rep.Entries) == 0 {
			break
		}
	}
	slices.SortFunc(files, func(x, y string) int { return naturally(fold(x), fold(y)) })
	slices.SortFunc(dirs, func(x, y sub) int { return naturally(fold(x.name), fold(y.name)) })
	for _, f := range files {
		if len(b.list) < maxPlaylist {
			b.list = append(b.list, path.Join(p, f))
		}
	}
	for _, d := range dirs {
		if depth+1 >= playlistDepth || len(b.list) >= maxPlaylist {
			break
		}
		if err := b.add(ctx, path.Join(p, d.name), d.ino, depth+1); err != nil && tnv.KindOf(err) != tnv.KindPermission {
			return err
		}
	}
	return nil
}

// webVTT answers with a file of subtitles as WebVTT.
func (h *handler) webVTT(w *recorder, r *http.Request, p string, at *tnv.Attr) {
	if at.Size > subs.MaxSize {
		h.refuse(w, http.StatusRequestEntityTooLarge, "too large for subtitles")
		return
	}
	tag := strings.TrimSuffix(etag(at), `"`) + `-vtt"`
	hd := w.Header()
	hd.Set("ETag", tag)
	hd.Set("Cache-Control", "no-cache")
	if m := r.Header.Get("If-None-Match"); m != "" && matches(m, tag, false) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	b, err := h.turn(r.Context(), p)
	if tnv.KindOf(err) == tnv.KindNotSupported && err != nil {
		hd.Del("ETag")
		h.refuse(w, http.StatusUnsupportedMediaType, "there are no subtitles in it that could be turned")
		return
	}
	if err != nil {
		hd.Del("ETag")
		h.fail(w, r, err)
		return
	}
	h.sendVTT(w, r, b)
}

// turn makes a file of subtitles WebVTT.
func (h *handler) turn(ctx context.Context, p string) ([]byte, error) {
	if err := h.turned.take(ctx); err != nil {
		return nil, err
	}
	defer h.turned.give()
	b, err := h.tree.read(ctx, p, subs.MaxSize)
	if err != nil {
		return nil, err
	}
	return subs.ToVTT(extOf(p), b)
}

func (h *handler) sendVTT(w *recorder, r *http.Request, b []byte) {
	w.Header().Set("Content-Type", "text/vtt; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(b)
	}
}
