package httpd

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
	"github.com/tnvfs/tnv/protocol"
)

// Resumable uploads, as the tus protocol 1.0.0 says (https://tus.io/protocols/resumable-upload).
//
//	/.tnv/uploads/ID/record   what it will be, written first
//	/.tnv/uploads/ID/data     what has come so far
//
// Invariant: the offset of an upload is the committed size of data: what it says
// has come is on every live member of its group, whoever is asked, whatever crashed.
// One request at a time writes: it has the file's lock, in the whole cluster.
const (
	uploadLife = 24 * time.Hour
	dataName   = "data"
	tusVersion = "1.0.0"
	// DefaultMaxUpload bounds the size of one upload.
	DefaultMaxUpload int64 = 1 << 42
	uploadEnd              = 30 * time.Second // to commit what came before the client went
)

// uploads knows which are being written by this daemon.
type uploads struct {
	mu   sync.Mutex
	busy map[string]bool
	last uint64 // owner of a lock
}

func newUploads() *uploads { return &uploads{busy: map[string]bool{}} }

func (u *uploads) take(id string) (owner uint64, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.busy[id] {
		return 0, false
	}
	u.busy[id] = true
	u.last++
	return u.last, true
}

func (u *uploads) give(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.busy, id)
}

// taken tells whether an upload is being written.
func (u *uploads) taken(id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.busy[id]
}

// uploadRecord says what an upload will be.
type uploadRecord struct {
	Path      string    `json:"path"`
	By        string    `json:"by"`
	Length    int64     `json:"length"`
	Overwrite bool      `json:"overwrite,omitempty"`
	Modified  time.Time `json:"modified,omitzero"`
}

// upload answers requests below /.tnv/api/uploads.
func (h *handler) upload(w *recorder, r *http.Request, id string) {
	hd := w.Header()
	hd.Set("Tus-Resumable", tusVersion)
	if r.Method == http.MethodPost && r.Header.Get("X-HTTP-Method-Override") == http.MethodPatch {
		r.Method = http.MethodPatch // for clients that cannot send one
	}
	if r.Method != http.MethodPost && r.Method != http.MethodPatch {
		h.closeUnread(w, r)
	}
	switch v := r.Header.Get("Tus-Resumable"); {
	case r.Method == http.MethodOptions:
		hd.Set("Tus-Version", tusVersion)
		hd.Set("Tus-Extension", "creation,creation-with-upload,termination,expiration")
		hd.Set("Tus-Max-Size", strconv.FormatInt(h.maxUpload, 10))
		w.WriteHeader(http.StatusNoContent)
	case v != "" && v != tusVersion:
		hd.Set("Tus-Version", tusVersion)
		h.closeUnread(w, r)
		h.refuse(w, http.StatusPreconditionFailed, "only version 1.0.0 of tus is spoken")
	case h.readOnly:
		h.denied(w, r)
	case id == "" && r.Method == http.MethodPost:
		h.uploadNew(w, r)
	case id != "" && r.Method == http.MethodHead:
		h.uploadHead(w, r, id)
	case id != "" && r.Method == http.MethodPatch:
		h.uploadPatch(w, r, id)
	case id != "" && r.Method == http.MethodDelete:
		h.uploadDrop(w, r, id)
	default:
		h.closeUnread(w, r)
		hd.Set("Allow", "OPTIONS, POST, HEAD, PATCH, DELETE")
		h.refuse(w, http.StatusMethodNotAllowed, "uploads take POST, HEAD, PATCH and DELETE")
	}
}

// metadata reads an Upload-Metadata header: "key base64, key base64".
func metadata(s string) (map[string]string, bool) {
	out := map[string]string{}
	for pair := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(pair), " ")
		b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
		if key == "" || err != nil {
			return nil, false
		}
		out[key] = string(b)
	}
	return out, true
}

// plan reads what is to be uploaded.
func (h *handler) plan(w *recorder, r *http.Request) (rec uploadRecord, ok bool) {
	meta, ok := metadata(r.Header.Get("Upload-Metadata"))
	length, err := strconv.ParseInt(r.Header.Get("Upload-Length"), 10, 64)
	if !ok || err != nil || length < 0 {
		h.refuse(w, http.StatusBadRequest, "Upload-Length and Upload-Metadata with a path are needed")
		return rec, false
	}
	if length > h.maxUpload {
		h.refuse(w, http.StatusRequestEntityTooLarge, "larger than Tus-Max-Size")
		return rec, false
	}
	raw := meta["path"]
	if raw == "" {
		raw = path.Join("/", meta["dir"]) + "/" + meta["filename"]
		if strings.Contains(meta["filename"], "/") {
			raw = ""
		}
	}
	p, dir, err := cleanPath(raw)
	if err == nil && dir {
		err = tnv.E("upload", tnv.KindInvalid, "the path names a directory")
	}
	if err != nil {
		h.fail(w, r, err)
		return rec, false
	}
	if !h.admit(w, r, p) {
		return rec, false
	}
	if !h.mayWrite(w, p) {
		h.denied(w, r)
		return rec, false
	}
	rec = uploadRecord{Path: p, By: w.who.User, Length: length, Overwrite: meta["overwrite"] == "true"}
	rec.Modified, _ = time.Parse(time.RFC3339, meta["modified"])
	return rec, true
}

func (h *handler) uploadNew(w *recorder, r *http.Request) {
	rec, ok := h.plan(w, r)
	if !ok {
		h.closeUnread(w, r)
		return
	}
	id, err := h.beginUpload(r.Context(), &rec)
	if err != nil {
		h.closeUnread(w, r)
		h.fail(w, r, err)
		return
	}
	hd := w.Header()
	hd.Set("Location", apiPrefix+"uploads/"+id)
	hd.Set("Upload-Expires", time.Now().Add(uploadLife).UTC().Format(http.TimeFormat))
	if rec.Length > 0 && r.ContentLength == 0 {
		hd.Set("Upload-Offset", "0")
		w.WriteHeader(http.StatusCreated)
		return
	}
	h.receive(w, r, id, &rec, 0, http.StatusCreated)
}

// beginUpload makes the record and the empty file.
func (h *handler) beginUpload(ctx context.Context, rec *uploadRecord) (string, error) {
	st, err := h.src.StatFS(ctx)
	if err == nil && st.Capacity > 0 && uint64(rec.Length) > st.Free {
		err = tnv.E("upload", tnv.KindNoSpace, "%d bytes are free", st.Free)
	}
	if err != nil {
		return "", err
	}
	if !rec.Overwrite {
		if _, err := h.src.Resolve(ctx, h.cred, rec.Path, false); err == nil {
			return "", tnv.E("upload", tnv.KindExist, "there is something of that name")
		}
	}
	if _, err := h.store(ctx, uploadDir); err != nil {
		return "", err
	}
	id := newID(time.Now())
	dir := uploadDir + "/" + id
	if _, err := h.tree.mkdir(ctx, dir, storeMode); err != nil {
		return "", err
	}
	b, _ := json.Marshal(rec)
	if err = h.tree.write(ctx, dir+"/"+recordName, b, 0o600); err == nil {
		err = h.tree.write(ctx, dir+"/"+dataName, nil, fileMode)
	}
	return id, err
}

// found reads an upload's record; only who began it may go on with it.
func (h *handler) uploadRecord(w *recorder, r *http.Request, id string) (rec uploadRecord, ok bool) {
	err := tnv.E("upload", tnv.KindNotExist, "no such upload")
	if validID(id) {
		var b []byte
		if b, err = h.tree.read(r.Context(), uploadDir+"/"+id+"/"+recordName, maxRecord); err == nil {
			err = json.Unmarshal(b, &rec)
		}
	}
	if err == nil && (rec.By != w.who.User || w.who.Role(rec.Path) < access.Write) {
		err = tnv.E("upload", tnv.KindNotExist, "no such upload")
	}
	if err != nil {
		h.closeUnread(w, r)
		h.fail(w, r, err)
		return rec, false
	}
	return rec, true
}

func (h *handler) uploadHead(w *recorder, r *http.Request, id string) {
	rec, ok := h.uploadRecord(w, r, id)
	if !ok {
		return
	}
	if h.uploads.taken(id) { // whose connection may have broken: an offset would be past before it is used
		h.refuse(w, http.StatusLocked, "another request is sending bytes of this upload")
		return
	}
	res, err := h.src.Resolve(r.Context(), h.cred, uploadDir+"/"+id+"/"+dataName, false)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	hd := w.Header()
	hd.Set("Upload-Offset", strconv.FormatUint(res.Attr.Size, 10))
	hd.Set("Upload-Length", strconv.FormatInt(rec.Length, 10))
	hd.Set("Upload-Expires", tnv.Time(res.Attr.Mtime).Add(uploadLife).UTC().Format(http.TimeFormat))
	w.WriteHeader(http.StatusOK)
}

func (h *handler) uploadPatch(w *recorder, r *http.Request, id string) {
	rec, ok := h.uploadRecord(w, r, id)
	if !ok {
		return
	}
	off, err := strconv.ParseInt(r.Header.Get("Upload-Offset"), 10, 64)
	if err != nil || off < 0 {
		h.closeUnread(w, r)
		h.refuse(w, http.StatusBadRequest, "Upload-Offset is needed")
		return
	}
	if t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); t != "application/offset+octet-stream" {
		h.closeUnread(w, r)
		h.refuse(w, http.StatusUnsupportedMediaType, "want application/offset+octet-stream")
		return
	}
	h.receive(w, r, id, &rec, off, http.StatusNoContent)
}

// receive takes bytes at an offset, and gives the file its name with the last.
// What came before a client went away is kept.
func (h *handler) receive(w *recorder, r *http.Request, id string, rec *uploadRecord, off int64, status int) {
	owner, ok := h.uploads.take(id)
	if !ok {
		h.closeUnread(w, r)
		h.refuse(w, http.StatusLocked, "another request is sending bytes of this upload")
		return
	}
	defer h.uploads.give(id)
	ctx := context.WithoutCancel(r.Context())
	data := uploadDir + "/" + id + "/" + dataName
	res, err := h.src.Resolve(ctx, h.cred, data, false)
	var f writer
	if err == nil {
		f, err = h.src.OpenWrite(ctx, res.Attr.Ino)
	}
	if err != nil {
		h.closeUnread(w, r)
		h.fail(w, r, err)
		return
	}
	err = f.Lock(ctx, protocol.Lock{Kind: protocol.LockFlock, Mode: protocol.LockExclusive, Owner: owner})
	var n int64
	if err == nil {
		n, err = h.append(ctx, w, r, f, off, rec.Length)
	}
	err = errors.Join(err, f.Close())
	if errors.Is(err, tnv.KindWouldBlock) {
		h.closeUnread(w, r)
		h.refuse(w, http.StatusLocked, "another request is sending bytes of this upload")
		return
	}
	if err == nil && off+n == rec.Length {
		err = h.finishUpload(ctx, w, id, rec)
	}
	if err != nil {
		h.closeUnread(w, r)
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Upload-Offset", strconv.FormatInt(off+n, 10))
	w.Header().Set("Upload-Expires", time.Now().Add(uploadLife).UTC().Format(http.TimeFormat))
	w.WriteHeader(status)
}

// append writes a request's body at an offset, which must be where the file ends.
func (h *handler) append(ctx context.Context, w *recorder, r *http.Request, f writer, off, length int64) (int64, error) {
	at, err := f.Attr(ctx)
	if err != nil {
		return 0, err
	}
	if off != int64(at.Size) {
		return 0, tnv.E("upload", tnv.KindExist, "it stands at %d", at.Size)
	}
	if r.ContentLength > length-off {
		return 0, tnv.E("upload", tnv.KindTooBig, "%d bytes are left", length-off)
	}
	src := h.body(w, r)
	n, err := fillAt(ctx, f, src, off, length-off)
	if err != nil && src.err == nil {
		return n, err
	}
	fctx, cancel := context.WithTimeout(ctx, uploadEnd)
	defer cancel()
	if ferr := f.Flush(fctx); ferr != nil {
		return n, ferr
	}
	if err != nil {
		return n, err
	}
	var more [1]byte
	if m, _ := io.ReadFull(src, more[:]); m > 0 {
		return n, tnv.E("upload", tnv.KindTooBig, "more came than was left")
	}
	return n, nil
}

// finishUpload gives a whole file its name.
func (h *handler) finishUpload(ctx context.Context, w *recorder, id string, rec *uploadRecord) error {
	data := uploadDir + "/" + id + "/" + dataName
	res, err := h.src.Resolve(ctx, h.cred, data, false)
	if err != nil {
		return err
	}
	if !rec.Modified.IsZero() {
		if res.Attr, err = h.src.SetAttr(ctx, h.cred, protocol.SetAttr{Ino: res.Attr.Ino, Mask: protocol.SetMtime, Mtime: rec.Modified.UnixNano()}); err != nil {
			return err
		}
	}
	if _, err := h.tree.mkdirs(ctx, path.Dir(rec.Path), dirMode); err != nil {
		return err
	}
	if err := h.dav.free(ctx, rec.Path); err != nil {
		return err
	}
	op := opCreate
	err = h.tree.move(ctx, data, rec.Path, protocol.RenameNoReplace)
	if rec.Overwrite && errors.Is(err, tnv.KindExist) {
		op = opChange
		if err = h.discardFile(ctx, rec.Path, rec.By); err == nil {
			err = h.tree.move(ctx, data, rec.Path, protocol.RenameNoReplace)
		}
	}
	if err != nil {
		return err
	}
	h.tell(change{Op: op, Path: rec.Path})
	w.Header().Set("ETag", etag(&res.Attr))
	if w.Header().Get("Location") == "" {
		w.Header().Set("Location", link(rec.Path))
	}
	return h.tree.purge(ctx, uploadDir+"/"+id)
}

// discardFile is discard of what is no directory.
func (h *handler) discardFile(ctx context.Context, p, by string) error {
	_, _, at, err := h.tree.entry(ctx, p)
	if err == nil && at.IsDir() {
		err = tnv.E(p, tnv.KindIsDir, "a file does not replace it")
	}
	if err == nil {
		_, err = h.discard(ctx, p, by)
	}
	return err
}

func (h *handler) uploadDrop(w *recorder, r *http.Request, id string) {
	if _, ok := h.uploadRecord(w, r, id); !ok {
		return
	}
	if _, ok := h.uploads.take(id); !ok {
		h.refuse(w, http.StatusLocked, "a request is sending bytes of this upload")
		return
	}
	defer h.uploads.give(id)
	if err := h.tree.purge(r.Context(), uploadDir+"/"+id); err != nil {
		h.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// sweepUploads removes what nobody went on with.
func (h *handler) sweepUploads(ctx context.Context, now time.Time) error {
	return h.tree.each(ctx, uploadDir, func(name string, at *tnv.Attr) error {
		if at.IsDir() {
			if res, err := h.src.Resolve(ctx, h.cred, uploadDir+"/"+name+"/"+dataName, false); err == nil {
				at = &res.Attr
			}
		}
		if !unused(name, at, now) {
			return nil
		}
		return h.tree.purge(ctx, uploadDir+"/"+name)
	})
}
