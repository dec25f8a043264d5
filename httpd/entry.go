package httpd

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// entry is a file or directory as JSON tells it.
type entry struct {
	Path     string    `json:"path,omitempty"`
	Name     string    `json:"name"`
	Href     string    `json:"href"`
	Type     string    `json:"type"`
	Link     bool      `json:"link,omitempty"`
	Broken   bool      `json:"broken,omitempty"`
	Kind     string    `json:"kind"`
	Mime     string    `json:"mime,omitempty"`
	Size     uint64    `json:"size"`
	Modified time.Time `json:"modified"`
	ETag     string    `json:"etag"`
	Poster   string    `json:"poster,omitempty"`
}

// typeName is the type of an inode for people.
func typeName(at *tnv.Attr) string {
	switch at.Type() {
	case tnv.TypeDir:
		return "dir"
	case tnv.TypeRegular:
		return "file"
	}
	return "other"
}

// kindOf sorts files by what is done with them.
func kindOf(name string, at *tnv.Attr) string {
	if at.IsDir() {
		return "dir"
	}
	ext := extOf(name)
	switch {
	case ext == "m3u" || ext == "m3u8" || ext == "pls" || ext == "mpd":
		return "playlist"
	case ext == "vtt" || ext == "srt" || ext == "ass" || ext == "ssa" || ext == "sub" || ext == "ttml":
		return "subtitle"
	case ext == "pdf" || ext == "epub":
		return "document"
	case ext == "zip" || ext == "gz" || ext == "tgz" || ext == "tar" || ext == "7z":
		return "archive"
	case ext == "mxf" || videoType(ext) != "" || ext == "m4s" || ext == "cmfv":
		return "video"
	case audioType(ext) != "":
		return "audio"
	case pictureType(ext) != "":
		return "image"
	case strings.HasPrefix(typeByExt(ext), "text/") || ext == "json" || ext == "xml":
		return "text"
	}
	return "other"
}

func extOf(name string) string { return strings.ToLower(strings.TrimPrefix(path.Ext(name), ".")) }

// toEntry shows what is at a path; at is that of what a symbolic link leads to.
func toEntry(p string, at *tnv.Attr) entry {
	name := path.Base(p)
	e := entry{Name: valid(name), Href: link(p), Type: typeName(at), Kind: kindOf(name, at), Size: at.Size,
		Modified: tnv.Time(at.Mtime).UTC().Truncate(time.Millisecond), ETag: fmt.Sprintf("%x-%x", uint64(at.Ino), at.Data)}
	switch {
	case at.IsDir() && p != "/":
		e.Href += "/"
	case at.IsRegular():
		e.Mime = contentType(name)
	}
	return e
}

// valid replaces bytes that are no UTF-8: JSON has no other.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// foundEntry is toEntry with the path.
func (h *handler) foundEntry(p string, at *tnv.Attr) entry {
	e := toEntry(p, at)
	e.Path = valid(p)
	return e
}

// followed is toEntry of what may be a symbolic link: it shows what that leads to.
func (h *handler) followed(ctx context.Context, p string, at *tnv.Attr) entry {
	if at.Type() != tnv.TypeSymlink {
		return toEntry(p, at)
	}
	res, err := h.src.Resolve(ctx, h.cred, p, true)
	if err != nil {
		e := toEntry(p, at)
		e.Link, e.Broken = true, true
		return e
	}
	e := toEntry(p, &res.Attr)
	e.Link = true
	return e
}

// apiStat tells of one path.
func (h *handler) apiStat(w *recorder, r *http.Request) {
	p, at, ok := h.found(w, r)
	if !ok {
		return
	}
	e := h.foundEntry(p, &at)
	if at.IsDir() {
		e.Poster = h.poster(r.Context(), p, &at)
	}
	h.answer(w, http.StatusOK, e)
}

// posters are the names under which programs keep a directory's picture, the best first.
var posters = [...]string{"poster.jpg", "folder.jpg", "cover.jpg", "poster.png", "folder.png", "cover.png", "Folder.jpg", "Cover.jpg"}

// poster finds a directory's picture: the link to it, or "".
func (h *handler) poster(ctx context.Context, p string, dir *tnv.Attr) string {
	for _, n := range posters {
		at, err := h.src.Lookup(ctx, h.cred, dir.Ino, n)
		if err == nil && at.IsRegular() {
			return link(path.Join(p, n))
		}
	}
	return ""
}

// page reads a part of a directory. The daemon's own is not in it, by whatever link the
// root was reached. Callers go on behind its last entry, and end where it has none: one
// that had nothing else is followed by the next at once.
func (t *tree) page(ctx context.Context, req protocol.ReadDir) (protocol.ReadDirReply, error) {
	for {
		rep, err := t.checkedPage(ctx, req)
		if err != nil || req.Ino != tnv.RootIno {
			return rep, err
		}
		i := slices.IndexFunc(rep.Entries, func(e tnv.Dirent) bool { return e.Name == ownName })
		if i < 0 {
			return rep, nil
		}
		req.Cookie = rep.Entries[i].Cookie
		rep.Entries = slices.Delete(rep.Entries, i, i+1)
		if req.Attrs {
			rep.Attrs = slices.Delete(rep.Attrs, i, i+1)
		}
		if len(rep.Entries) > 0 || rep.End {
			return rep, nil
		}
	}
}

// checkedPage checks that what came is what was asked for.
func (t *tree) checkedPage(ctx context.Context, req protocol.ReadDir) (protocol.ReadDirReply, error) {
	rep, err := t.src.ReadDir(ctx, t.cred, req)
	if err == nil && !permits(t.cred, &rep.Dir, mayRead|maySeek) {
		return rep, tnv.E("list", tnv.KindPermission, "the directory is not readable for the daemon's user")
	}
	if err == nil && req.Attrs && len(rep.Attrs) != len(rep.Entries) {
		err = tnv.E("list", tnv.KindProtocol, "%d entries with %d attributes", len(rep.Entries), len(rep.Attrs))
	}
	return rep, err
}
