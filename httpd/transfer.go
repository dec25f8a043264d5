package httpd

import (
	"context"
	"io"
	"net/http"
	"time"
)

// viewSize is how much of a file is looked at, and written, at a time.
const viewSize = 1 << 20

// holdFrom is from how many bytes on the header waits for the first bytes: so
// many that net/http does not keep all of them in a buffer of its own.
const holdFrom = 16 << 10

// transfer writes a file's bytes to the client: straight from the client
// library's memory where that allows it, else through a buffer; each piece with
// a deadline of its own.
type transfer struct {
	*recorder
	h      *handler
	ctx    context.Context
	rc     *http.ResponseController
	conn   *limitedConn // may be nil
	sent   int64
	err    error // of writing
	flow   *flow
	name   string  // of the viewer
	viewer *viewer // may be nil
}

// newTransfer begins one; end ends it.
func (h *handler) newTransfer(w *recorder, r *http.Request, p string) *transfer {
	t := &transfer{recorder: w, h: h, ctx: r.Context(), rc: http.NewResponseController(w.ResponseWriter), conn: connOf(r.Context()), name: viewerOf(w, r)}
	h.m.transfers.Inc()
	h.active.Add(1)
	t.flow = h.traffic.begin(t, w, r, p)
	t.viewer = h.limits.enter(t.name)
	return t
}

func (t *transfer) end() {
	t.h.limits.leave(t.name, t.viewer)
	t.h.traffic.finish(t)
	t.h.active.Add(-1)
	t.h.m.transfers.Dec()
	t.h.m.sent.Add(float64(t.sent))
}

// ReadFrom implements io.ReaderFrom: io.CopyN of http.ServeContent ends up here.
func (t *transfer) ReadFrom(src io.Reader) (n int64, err error) {
	limit := &io.LimitedReader{R: src, N: 1<<63 - 1}
	if l, ok := src.(*io.LimitedReader); ok {
		limit = l
	}
	c, ok := limit.R.(*content)
	if !ok { // several ranges: they come through a pipe
		return t.copy(limit)
	}
	if t.conn != nil && limit.N >= holdFrom {
		t.conn.hold = true
		defer func() {
			if ferr := t.conn.flush(); err == nil && ferr != nil {
				t.err, err = ferr, ferr
			}
		}()
	}
	long := limit.N > ownHandle
	if long {
		c.prepare()
	}
	for limit.N > 0 {
		now := time.Now()
		if long && (limit.N <= viewSize || now.Sub(c.checked) > recheck) {
			if err := c.still(now); err != nil {
				return n, err
			}
		}
		var m int64
		if t.h.active.Load() <= t.h.views && !t.h.limits.any() {
			m, err = t.viewed(c, int(min(limit.N, viewSize)))
		} else {
			m, err = t.copy(&io.LimitedReader{R: c, N: min(limit.N, viewSize)})
		}
		n += m
		limit.N -= m
		if err == io.EOF || err == nil && m == 0 {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// viewed writes at most n bytes from where they lie.
func (t *transfer) viewed(c *content, n int) (done int64, err error) {
	parts, _, release, err := c.view(n)
	if err != nil {
		return 0, err
	}
	defer release()
	for _, p := range parts {
		m, err := t.write(p)
		done += int64(m)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// copy writes all of src, through a buffer.
func (t *transfer) copy(src *io.LimitedReader) (n int64, err error) {
	buf := newPiece(t.h.active.Load(), src.N)
	defer buf.release()
	for {
		got, rerr := src.Read(buf.b)
		if got > 0 {
			put, werr := t.write(buf.b[:got])
			n += int64(put)
			if werr != nil {
				return n, werr
			}
		}
		if rerr == io.EOF {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

func (t *transfer) write(p []byte) (done int, err error) {
	if !t.h.limits.any() {
		return t.put(p)
	}
	for len(p) > 0 && err == nil {
		n := min(len(p), burst)
		if err = t.h.limits.wait(t.ctx, t.viewer, n); err == nil {
			n, err = t.put(p[:n])
			done += n
			p = p[n:]
		}
	}
	return done, err
}

// put writes a piece, within the time that a client may take.
func (t *transfer) put(p []byte) (int, error) {
	t.rc.SetWriteDeadline(time.Now().Add(t.h.stall))
	n, err := t.recorder.Write(p)
	t.sent += int64(n)
	t.flow.sent.Add(int64(n))
	t.h.traffic.send(n)
	t.err = err
	return n, err
}
