package httpd

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/net/webdav"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/protocol"
)

// davInfo shows attributes as package webdav wants them.
type davInfo struct {
	name string
	at   tnv.Attr
}

func (i davInfo) Name() string       { return i.name }
func (i davInfo) Size() int64        { return int64(i.at.Size) }
func (i davInfo) ModTime() time.Time { return tnv.Time(i.at.Mtime) }
func (i davInfo) IsDir() bool        { return i.at.IsDir() }
func (i davInfo) Sys() any           { return i.at }
func (i davInfo) Mode() fs.FileMode  { return client.FileMode(i.at.Mode) }

// ETag implements webdav.ETager.
func (i davInfo) ETag(context.Context) (string, error) { return etag(&i.at), nil }

// ContentType implements webdav.ContentTyper: the content is not looked at.
func (i davInfo) ContentType(context.Context) (string, error) { return contentType(i.name), nil }

// davFile is a file or directory for reading, or a draft.
type davFile struct {
	d     *davFS
	ctx   context.Context
	path  string
	at    tnv.Attr
	f     file // opened when it is first read
	off   int64
	draft *draft
	like  *tnv.Attr // what the draft replaces; nil: nothing
	err   error     // of writing
}

// Read implements io.Reader.
func (f *davFile) Read(p []byte) (int, error) {
	if f.f == nil {
		if !f.at.IsRegular() || !permits(f.d.h.cred, &f.at, mayRead) {
			return 0, f.d.fail("read", f.path, tnv.E(f.path, tnv.KindPermission, "it cannot be read"))
		}
		var err error
		if f.f, err = f.d.h.src.Open(f.ctx, f.at.Ino); err != nil {
			return 0, f.d.fail("read", f.path, err)
		}
	}
	n, err := f.f.ReadAt(f.ctx, p, f.off)
	f.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// Seek implements io.Seeker.
func (f *davFile) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += f.off
	case io.SeekEnd:
		off += int64(f.at.Size)
	}
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	f.off = off
	return off, nil
}

// Write implements io.Writer.
func (f *davFile) Write(p []byte) (int, error) {
	if f.draft == nil {
		return 0, fs.ErrPermission
	}
	n, err := f.draft.w.WriteAt(f.ctx, p, f.draft.size)
	f.draft.size += int64(n)
	if err != nil {
		f.err = f.d.fail("write", f.path, err)
		err = f.err
	}
	return n, err
}

// ReadFrom implements io.ReaderFrom: a PUT's body, or the file that is copied,
// whose blocks are named anew instead of being moved.
func (f *davFile) ReadFrom(src io.Reader) (n int64, err error) {
	if f.draft == nil {
		return 0, fs.ErrPermission
	}
	before := f.draft.size
	if from, ok := src.(*davFile); ok && from.off == 0 && before == 0 && permits(f.d.h.cred, &from.at, mayRead) {
		f.draft.size, err = f.draft.w.CopyFrom(f.ctx, from.at.Ino, int64(from.at.Size))
	} else {
		err = f.draft.fill(f.ctx, src)
	}
	if err != nil {
		f.err = f.d.fail("write", f.path, err)
	}
	return f.draft.size - before, err
}

// Stat implements http.File. Of a draft it tells what it will be.
func (f *davFile) Stat() (os.FileInfo, error) {
	if f.draft != nil {
		if err := f.draft.w.Flush(f.ctx); err != nil {
			return nil, f.d.fail("stat", f.path, err)
		}
		at, err := f.draft.w.Attr(f.ctx)
		if err != nil {
			return nil, f.d.fail("stat", f.path, err)
		}
		return davInfo{path.Base(f.path), at}, nil
	}
	return davInfo{path.Base(f.path), f.at}, nil
}

// Close implements io.Closer: a draft that is whole gets its name.
func (f *davFile) Close() error {
	if f.draft == nil {
		if f.f != nil {
			return f.f.Close()
		}
		return nil
	}
	err := f.err
	if err == nil && (f.d.body == nil || f.d.body.err == nil && f.whole()) {
		err = f.d.h.dav.moveLock(f.ctx, f.path, f.draft)
		if err == nil {
			err = f.publish()
		}
	}
	cerr := f.draft.close()
	if err == nil {
		err = cerr
	}
	return f.d.fail("close", f.path, err)
}

// publish gives a draft its name, if the conditions of the request still hold. What
// has come to be there meanwhile is replaced then.
func (f *davFile) publish() error {
	d := f.d
	if d.body == nil {
		return f.draft.publish(f.ctx, f.path, f.like)
	}
	d.setModified(f)
	for tries := 0; ; tries++ {
		f.like = nil
		if res, err := d.h.src.Resolve(f.ctx, d.h.cred, f.path, true); err == nil {
			f.like = &res.Attr
		}
		if !holds(d.r, f.like) {
			d.raced = true
			return tnv.E(f.path, tnv.KindConflict, "it was changed meanwhile")
		}
		err := f.draft.publish(f.ctx, f.path, f.like)
		if errors.Is(err, tnv.KindExist) && tries < publishTries {
			continue
		}
		d.replaced = err == nil && f.like != nil
		return err
	}
}

// publishTries is how often a PUT tries again when others were faster with a new name.
const publishTries = 10

// whole tells whether as much came as was announced.
func (f *davFile) whole() bool {
	return f.d.r.ContentLength < 0 || f.draft.size == f.d.r.ContentLength
}

// setModified takes the time of modification that rclone and ownCloud's clients send.
func (d *davFS) setModified(f *davFile) {
	s := d.r.Header.Get("X-OC-Mtime")
	if s == "" {
		return
	}
	secs, err := time.ParseDuration(strings.TrimSpace(s) + "s")
	at, aerr := f.draft.w.Attr(f.ctx)
	if err != nil || aerr != nil {
		return
	}
	if err = f.draft.w.Flush(f.ctx); err != nil {
		return
	}
	if _, err := d.h.src.SetAttr(f.ctx, d.h.cred, protocol.SetAttr{Ino: at.Ino, Mask: protocol.SetMtime, Mtime: int64(secs)}); err == nil {
		d.w.Header().Set("X-OC-Mtime", "accepted")
	}
}

// Readdir implements http.File. What it tells is remembered for the request: the
// package asks for each again.
func (f *davFile) Readdir(int) ([]os.FileInfo, error) {
	h := f.d.h
	if !f.at.IsDir() || !permits(h.cred, &f.at, mayRead) {
		return nil, f.d.fail("readdir", f.path, tnv.E(f.path, tnv.KindPermission, "it cannot be read"))
	}
	var out []os.FileInfo
	for req := (protocol.ReadDir{Ino: f.at.Ino, Limit: pageEntries, Attrs: true}); ; {
		rep, err := h.tree.page(f.ctx, req)
		if err != nil {
			return nil, f.d.fail("readdir", f.path, err)
		}
		for i, e := range rep.Entries {
			req.Cookie = e.Cookie
			p, at := path.Join(f.path, e.Name), rep.Attrs[i]
			if !h.sees(&f.d.w.who, p) {
				continue
			}
			if at.Type() == tnv.TypeSymlink {
				res, err := h.src.Resolve(f.ctx, h.cred, p, true)
				if err != nil {
					continue // it leads nowhere
				}
				if at = res.Attr; at.IsDir() && f.d.r.Method == "COPY" {
					continue // it may lead to where this came from
				}
			}
			if !at.IsDir() && !at.IsRegular() {
				continue
			}
			if len(out) == maxEntries/10 {
				return nil, f.d.fail("readdir", f.path, tnv.E(f.path, tnv.KindTooBig, "more entries than WebDAV can show"))
			}
			f.d.attrs[p] = at
			out = append(out, davInfo{e.Name, at})
		}
		if rep.End || len(rep.Entries) == 0 {
			return out, nil
		}
	}
}

// Properties that clients set are kept with the file, in one extended attribute.
const (
	deadXattr = "user.tnv.dav"
	maxDead   = 48 << 10
)

// deadProp is one of them as it is kept.
type deadProp struct {
	Space, Local, Lang string
	Inner              []byte
}

// DeadProps implements webdav.DeadPropsHolder.
func (f *davFile) DeadProps() (map[xml.Name]webdav.Property, error) {
	out := map[xml.Name]webdav.Property{}
	if f.d.locks {
		f.d.lockProps(f.path, out)
	}
	if !f.d.dead || f.draft != nil {
		return out, nil
	}
	b, err := f.d.h.src.GetXattr(f.ctx, f.d.h.cred, f.at.Ino, deadXattr)
	if err != nil || b == nil {
		return out, f.d.fail("read properties", f.path, err)
	}
	var list []deadProp
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, f.d.fail("read properties", f.path, tnv.E(f.path, tnv.KindCorrupt, "attribute %s", deadXattr))
	}
	for _, p := range list {
		n := xml.Name{Space: p.Space, Local: p.Local}
		out[n] = webdav.Property{XMLName: n, Lang: p.Lang, InnerXML: p.Inner}
	}
	return out, nil
}

// Patch implements webdav.DeadPropsHolder: all of it or nothing.
func (f *davFile) Patch(patches []webdav.Proppatch) ([]webdav.Propstat, error) {
	have, err := f.DeadProps()
	if err != nil {
		return nil, err
	}
	before := len(have)
	stat := webdav.Propstat{Status: http.StatusOK}
	for _, patch := range patches {
		for _, p := range patch.Props {
			stat.Props = append(stat.Props, webdav.Property{XMLName: p.XMLName})
			if patch.Remove {
				delete(have, p.XMLName)
			} else {
				have[p.XMLName] = p
			}
		}
	}
	if before == 0 && len(have) == 0 {
		return []webdav.Propstat{stat}, nil
	}
	ino := f.at.Ino
	if f.draft != nil {
		at, err := f.draft.w.Attr(f.ctx)
		if err != nil {
			return nil, f.d.fail("set properties", f.path, err)
		}
		ino = at.Ino
	}
	list := []deadProp{}
	for _, p := range have {
		list = append(list, deadProp{p.XMLName.Space, p.XMLName.Local, p.Lang, p.InnerXML})
	}
	b, err := json.Marshal(list)
	if err == nil && len(b) > maxDead {
		stat.Status = http.StatusInsufficientStorage
		return []webdav.Propstat{stat}, nil
	}
	if err == nil {
		err = f.d.h.src.SetXattr(f.ctx, f.d.h.cred, protocol.SetXattr{Ino: ino, Name: deadXattr, Value: b})
	}
	if err != nil {
		return nil, f.d.fail("set properties", f.path, err)
	}
	return []webdav.Propstat{stat}, nil
}
