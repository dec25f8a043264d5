package httpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
)

const (
	// maxSegment is up to what size a file may be a segment of a stream, and not a recording.
	maxSegment = 64 << 20
	// maxRanges is how many ranges one request may ask for.
	maxRanges = 32
	// stallLimit is how long a client may take nothing before it is cut off. A
	// paused player takes nothing, so it is long.
	stallLimit = 10 * time.Minute
	// answerLimit bounds the writing of an answer that is no file.
	answerLimit = time.Minute
	// strongAfter is the age from which a modification time proves a version:
	// it is told in seconds only, and two changes may share one (RFC 9110, 8.8.2.2).
	strongAfter = time.Minute
	// recheck is how often a long transfer asks whether the file is still the same.
	recheck = time.Second
	// recheckLimit bounds that question: while the tracker is away, films go on.
	recheckLimit = 250 * time.Millisecond
	// ownHandle is from how many bytes on a range gets a handle, and so a
	// read-ahead, of its own.
	ownHandle = 1 << 20
)

// etag names a file's version. It is strong: equal tags, equal bytes.
func etag(at *tnv.Attr) string { return fmt.Sprintf(`"%x-%x"`, uint64(at.Ino), at.Data) }

// serve answers with a regular file's content. at is what the path led to.
func (h *handler) serve(w *recorder, r *http.Request, p string, at *tnv.Attr) {
	c := &content{ctx: r.Context(), src: h.src, ino: at.Ino, size: int64(at.Size), data: at.Data, grown: at.Size, checked: w.start}
	if r.Method != http.MethodHead {
		f, err := h.files.take(r.Context(), at.Ino)
		if err != nil {
			h.fail(w, r, err)
			return
		}
		defer h.files.give(f)
		defer c.close()
		c.f = f
	}
	hd := w.Header()
	hd.Set("Content-Type", contentType(p))
	hd.Set("ETag", etag(at))
	hd.Set("Cache-Control", cacheControl(p, at))
	if sandboxed(hd.Get("Content-Type")) {
		hd.Set("Content-Security-Policy", "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; media-src 'self'")
	}
	modified := tnv.Time(at.Mtime)
	if !h.checkRange(w, r, modified, c.size) {
		return
	}
	t := h.newTransfer(w, r, p)
	defer t.end()
	http.ServeContent(t, r, "", modified, c)
	h.m.file.Observe(w.first.Seconds())
	h.finish(r, p, c, t)
}

// cacheControl says how long an answer may be used without asking again. A segment
// of a stream is written once, and never again under its name; of all else one asks.
func cacheControl(p string, at *tnv.Attr) string {
	switch extOf(p) {
	case "m4s", "cmfv", "ts":
		if at.Size < maxSegment && time.Since(tnv.Time(at.Mtime)) > strongAfter {
			return "max-age=3600"
		}
	}
	return "no-cache"
}

// finish cuts the connection if the answer was not sent as its headers promise:
// the client then knows that what it has is not all.
func (h *handler) finish(r *http.Request, p string, c *content, t *transfer) {
	reason := ""
	switch err := c.failed(); {
	case err != nil && r.Context().Err() == nil:
		reason = "read"
		h.log.WithError(err).WithField("path", p).Warn("a transfer was cut: the file cannot be read on")
	case t.err != nil && isTimeout(t.err):
		reason = "stalled"
	case t.err != nil || err != nil:
		reason = "client"
	default:
		return
	}
	h.m.cut.WithLabelValues(reason).Inc()
	panic(http.ErrAbortHandler)
}

// content is a version of a file as http.ServeContent wants it: of a fixed size.
// Reading fails, for good, where the file fails or turns out to be another one.
type content struct {
	ctx  context.Context
	src  source
	ino  tnv.Ino
	size int64

	mu      sync.Mutex // ServeContent reads several ranges on a goroutine that it does not wait for
	f       file       // shared with other requests
	own     file       // of this one; may be nil
	off     int64
	data    uint64 // the version, and
	grown   uint64 // the size when it was last looked at
	checked time.Time
	err     error
	closed  bool
}

// Seek implements io.Seeker.
func (c *content) Seek(off int64, whence int) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		off += c.off
	case io.SeekEnd:
		off += c.size
	}
	if off < 0 {
		return 0, errors.New("seek before the start")
	}
	c.off = off
	return off, nil
}

// Read implements io.Reader: for a piece among several, and when memory is short.
func (c *content) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stateLocked(); err != nil {
		return 0, err
	}
	p = p[:min(int64(len(p)), c.size-c.off)]
	n, err := c.f.ReadAt(c.ctx, p, c.off)
	if n < len(p) {
		return n, c.failLocked(err)
	}
	c.off += int64(n)
	return n, nil
}

// view is Read without a copy. release must be called.
func (c *content) view(n int) (parts [][]byte, got int, release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stateLocked(); err != nil {
		return nil, 0, nil, err
	}
	f := c.f
	if c.own != nil {
		f = c.own
	}
	n = int(min(int64(n), c.size-c.off))
	parts, release, err = f.View(c.ctx, c.off, n)
	if err != nil {
		return nil, 0, nil, c.failLocked(err)
	}
	for i := range parts {
		parts[i] = parts[i][:min(len(parts[i]), n-got)]
		got += len(parts[i])
	}
	c.off += int64(got)
	return parts, got, release, nil
}

// stateLocked tells why there is nothing to read.
func (c *content) stateLocked() error {
	switch {
	case c.closed:
		return os.ErrClosed
	case c.err != nil:
		return c.err
	case c.off >= c.size:
		return io.EOF
	}
	return nil
}

func (c *content) failLocked(err error) error {
	if err == io.EOF || err == nil {
		err = tnv.E("read", tnv.KindStale, "the file was cut while it was sent")
	}
	c.err = err
	return err
}

// prepare gets a long transfer a handle of its own. Without one it goes on with
// the shared handle.
func (c *content) prepare() {
	own, err := c.src.Open(c.ctx, c.ino)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.own != nil {
		own.Close()
		return
	}
	c.own = own
}

// still asks whether the file is the one that was begun with. One that has
// grown is: a recording may be watched while it goes on. Any other change of
// the content is the end of this transfer. No answer is no change.
func (c *content) still(now time.Time) error {
	ctx, cancel := context.WithTimeout(c.ctx, recheckLimit)
	defer cancel()
	at, err := c.f.Attr(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked = now
	switch {
	case err != nil, at.Data == c.data:
	case at.Size > c.grown:
		c.data, c.grown = at.Data, at.Size
	default:
		c.err = tnv.E("read", tnv.KindStale, "the file was changed while it was sent")
		return c.err
	}
	return nil
}

// failed tells why reading ended early.
func (c *content) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *content) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.own != nil {
		c.own.Close()
	}
}
