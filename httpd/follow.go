package httpd

import (
	"net/http"
	"strconv"
	"time"

	"github.com/tnvfs/tnv"
)

const (
	// followPoll is how often a file that is followed is looked at: writers make
	// visible what they wrote every second.
	followPoll = 400 * time.Millisecond
	// followIdle is how long it may not grow until it counts as whole.
	followIdle   = 2 * time.Minute
	maxFollowers = 256
)

// follow answers with what is in a file, from the parameter "from" on ("end": what
// is yet to come), and then with what is appended, until it has not grown for a while,
// was cut, or has no name any more. The length is not known: there is none.
func (h *handler) follow(w *recorder, r *http.Request, p string, at *tnv.Attr) {
	off := int64(0)
	switch s := r.URL.Query().Get("from"); s {
	case "":
	case "end":
		off = int64(at.Size)
	default:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			h.refuse(w, http.StatusBadRequest, `from is a number of bytes, or "end"`)
			return
		}
		off = n
	}
	hd := w.Header()
	hd.Set("Content-Type", contentType(p))
	hd.Set("Cache-Control", "no-store")
	hd.Set("Accept-Ranges", "none")
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return
	}
	if h.followers.Add(1) > maxFollowers {
		h.followers.Add(-1)
		hd.Set("Retry-After", "10")
		h.refuse(w, http.StatusServiceUnavailable, "too many files are followed")
		return
	}
	defer h.followers.Add(-1)
	f, err := h.files.take(r.Context(), at.Ino)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer h.files.give(f)
	t := h.newTransfer(w, r, p)
	defer t.end()
	w.WriteHeader(http.StatusOK)
	t.rc.Flush()
	if err := t.tail(r, f, off, int64(at.Size)); err != nil {
		h.m.cut.WithLabelValues("client").Inc()
		panic(http.ErrAbortHandler)
	}
}

// tail sends a file from off on, as it grows.
func (t *transfer) tail(r *http.Request, f file, off, size int64) error {
	buf := newPiece(t.h.active.Load(), mediumPiece)
	defer buf.release()
	grew := time.Now()
	for {
		for off < size {
			n, err := f.ReadAt(r.Context(), buf.b[:min(int64(len(buf.b)), size-off)], off)
			if n == 0 {
				return err
			}
			if _, err := t.write(buf.b[:n]); err != nil {
				return err
			}
			off += int64(n)
		}
		t.rc.Flush()
		select {
		case <-r.Context().Done():
			return r.Context().Err()
		case <-t.h.life.Done():
			return nil
		case <-time.After(followPoll):
		}
		at, err := f.Attr(r.Context())
		switch {
		case err != nil && time.Since(grew) > t.h.followIdle, err == nil && (at.Nlink == 0 || int64(at.Size) < off):
			return err
		case err == nil && int64(at.Size) > size:
			size, grew = int64(at.Size), time.Now()
		case time.Since(grew) > t.h.followIdle:
			return nil
		}
	}
}
