package httpd

import (
	"context"
	"io"
	"path"
	"strings"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// draft is a file that is being received. It lies in the daemon's own directory
// and gets its name when it is whole: so nobody ever sees a part of it, and who
// reads what it replaces reads that to its end.
type draft struct {
	h    *handler
	w    writer
	path string
	size int64
	done bool
}

const draftPrefix = "put-"

// newDraft begins one.
func (h *handler) newDraft(ctx context.Context) (*draft, error) {
	dir, err := h.store(ctx, uploadDir)
	if err != nil {
		return nil, err
	}
	name := draftPrefix + newID(time.Now())
	w, _, err := h.src.Make(ctx, h.cred, dir.Ino, name, fileMode)
	if err != nil {
		return nil, err
	}
	return &draft{h: h, w: w, path: uploadDir + "/" + name}, nil
}

// fill appends what src gives, up to the size that an upload may have: a body in
// chunks does not say how long it is. An error of src comes back as it is.
func (d *draft) fill(ctx context.Context, src io.Reader) error {
	n, err := fillAt(ctx, d.w, src, d.size, d.h.maxUpload+1-d.size)
	d.size += n
	if err == nil && d.size > d.h.maxUpload {
		err = tnv.E("upload", tnv.KindTooBig, "more than %d bytes came", d.h.maxUpload)
	}
	return err
}

// fillAt writes what src gives, n bytes at most, at an offset.
func fillAt(ctx context.Context, w writer, src io.Reader, off, n int64) (done int64, err error) {
	buf := newPiece(0, n)
	defer buf.release()
	for done < n {
		got, rerr := io.ReadFull(src, buf.b[:min(int64(len(buf.b)), n-done)])
		if got > 0 {
			if _, err := w.WriteAt(ctx, buf.b[:got], off+done); err != nil {
				return done, err
			}
			done += int64(got)
		}
		if rerr == io.EOF || rerr == io.ErrUnexpectedEOF && got < len(buf.b) && ended(src) {
			return done, nil
		}
		if rerr != nil {
			return done, rerr
		}
	}
	return done, nil
}

// ended tells whether a body ended as it should: io.ReadFull makes one error of
// the end and of a connection that broke.
func ended(src io.Reader) bool {
	b, ok := src.(*body)
	return !ok || b.err == nil
}

// publish gives it its name. like, if not nil, is what it replaces: its mode and
// owner are kept. KindExist if the name is taken and like is nil.
func (d *draft) publish(ctx context.Context, p string, like *tnv.Attr) error {
	if err := d.w.Flush(ctx); err != nil {
		return err
	}
	flags := uint32(protocol.RenameNoReplace)
	if like != nil {
		flags = 0
		at, err := d.w.Attr(ctx)
		if err == nil && (at.Mode&0o7777 != like.Mode&0o777 || at.UID != like.UID || at.GID != like.GID) {
			req := protocol.SetAttr{Ino: at.Ino, Mask: protocol.SetMode, Mode: like.Mode & 0o777, UID: like.UID, GID: like.GID}
			if d.h.cred.UID == 0 {
				req.Mask |= protocol.SetUID | protocol.SetGID
			}
			_, err = d.h.src.SetAttr(ctx, d.h.cred, req)
		}
		if err != nil {
			return err
		}
	}
	if err := d.h.tree.move(ctx, d.path, p, flags); err != nil {
		return err
	}
	d.done = true
	op := opCreate
	if like != nil {
		op = opChange
	}
	d.h.tell(change{Op: op, Path: p})
	return nil
}

// close ends it; what has no name by then is removed.
func (d *draft) close() error {
	err := d.w.Close()
	if !d.done {
		ctx, cancel := context.WithTimeout(context.Background(), healthLimit)
		defer cancel()
		d.h.tree.purge(ctx, d.path) // the sweep finds what is left
	}
	return err
}

// unused tells whether something in the directory of uploads is left over: made,
// and last written, longer ago than an upload lives.
func unused(name string, at *tnv.Attr, now time.Time) bool {
	made, ok := idTime(strings.TrimPrefix(path.Base(name), draftPrefix))
	return ok && now.Sub(made) > uploadLife && now.Sub(tnv.Time(at.Mtime)) > uploadLife
}
