package httpd

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// The fake volume as something that can be changed.

// dirLocked finds the path of a directory's inode.
func (f *fake) dirLocked(ino tnv.Ino) (string, error) {
	for p, n := range f.nodes {
		if n.attr.Ino == ino && n.attr.IsDir() {
			return p, nil
		}
	}
	return "", tnv.E("dir", tnv.KindStale, "")
}

func (f *fake) at(parent tnv.Ino, name string) (string, *node, error) {
	if f.down != nil {
		return "", nil, f.down
	}
	dir, err := f.dirLocked(parent)
	if err != nil {
		return "", nil, err
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", nil, tnv.E("name", tnv.KindInvalid, "%q", name)
	}
	p := path.Join(dir, name)
	return p, f.nodes[p], nil
}

func (f *fake) Lookup(_ context.Context, _ tnv.Cred, parent tnv.Ino, name string) (tnv.Attr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, n, err := f.at(parent, name)
	if err == nil && n == nil {
		err = tnv.E("lookup", tnv.KindNotExist, "")
	}
	if err != nil {
		return tnv.Attr{}, err
	}
	return n.attr, nil
}

func (f *fake) GetAttr(_ context.Context, _ tnv.Cred, ino tnv.Ino) (tnv.Attr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.inos[ino]
	if n == nil || f.down != nil {
		return tnv.Attr{}, tnv.E("getattr", tnv.KindStale, "")
	}
	return n.attr, nil
}

// touchLocked notes that a directory's entries have changed.
func (f *fake) touchLocked(p string) {
	if d := f.nodes[path.Dir(p)]; d != nil {
		d.attr.Data++
	}
}

func (f *fake) makeLocked(parent tnv.Ino, name string, mode uint32) (*node, error) {
	p, n, err := f.at(parent, name)
	if err != nil {
		return nil, err
	}
	if n != nil {
		return nil, tnv.E("make", tnv.KindExist, "")
	}
	n = f.addLocked(p, mode, nil)
	n.attr.Mtime = time.Now().UnixNano()
	return n, nil
}

func (f *fake) Make(_ context.Context, _ tnv.Cred, parent tnv.Ino, name string, mode uint32) (writer, tnv.Attr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.makeLocked(parent, name, tnv.TypeRegular.Mode()|mode)
	if err != nil {
		return nil, tnv.Attr{}, err
	}
	f.opened++
	return &fakeWriter{fakeFile{f, n}}, n.attr, nil
}

func (f *fake) OpenWrite(_ context.Context, ino tnv.Ino) (writer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.inos[ino]
	if f.down != nil || n == nil {
		return nil, tnv.E("open", tnv.KindStale, "")
	}
	f.opened++
	return &fakeWriter{fakeFile{f, n}}, nil
}

func (f *fake) Mkdir(_ context.Context, _ tnv.Cred, req protocol.Mkdir) (tnv.Attr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.makeLocked(req.Parent, req.Name, tnv.TypeDir.Mode()|req.Mode)
	if err != nil {
		return tnv.Attr{}, err
	}
	return n.attr, nil
}

func (f *fake) Move(ctx context.Context, _ tnv.Cred, req protocol.Rename) error {
	if f.onMove != nil {
		f.onMove()
	}
	if ctx.Err() != nil {
		return tnv.Wrap("rename", ctx.Err())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	from, n, err := f.at(req.Parent, req.Name)
	if err != nil {
		return err
	}
	to, old, err := f.at(req.NewParent, req.NewName)
	switch {
	case err != nil:
		return err
	case n == nil:
		return tnv.E("rename", tnv.KindNotExist, "")
	case old != nil && req.Flags&protocol.RenameNoReplace != 0:
		return tnv.E("rename", tnv.KindExist, "")
	}
	if old != nil {
		old.attr.Nlink = 0
	}
	f.touchLocked(from)
	f.touchLocked(to)
	for p, x := range f.nodes {
		if p == from || strings.HasPrefix(p, from+"/") {
			delete(f.nodes, p)
			q := to + strings.TrimPrefix(p, from)
			f.nodes[q] = x
			x.name = path.Base(q)
		}
	}
	return nil
}

func (f *fake) Remove(_ context.Context, _ tnv.Cred, parent tnv.Ino, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, n, err := f.at(parent, name)
	if err != nil {
		return err
	}
	if n == nil {
		return tnv.E("remove", tnv.KindNotExist, "")
	}
	for q := range f.nodes {
		if strings.HasPrefix(q, p+"/") {
			return tnv.E("remove", tnv.KindNotEmpty, "")
		}
	}
	delete(f.nodes, p)
	f.touchLocked(p)
	n.attr.Nlink = 0
	return nil
}

func (f *fake) SetAttr(_ context.Context, _ tnv.Cred, req protocol.SetAttr) (tnv.Attr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.inos[req.Ino]
	if req.Mask&protocol.SetMode != 0 {
		n.attr.Mode = n.attr.Mode&^0o7777 | req.Mode
	}
	if req.Mask&protocol.SetMtime != 0 {
		n.attr.Mtime = req.Mtime
	}
	return n.attr, f.down
}

func (f *fake) GetXattr(_ context.Context, _ tnv.Cred, ino tnv.Ino, name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inos[ino].xattrs[name], f.down
}

func (f *fake) SetXattr(_ context.Context, _ tnv.Cred, req protocol.SetXattr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.inos[req.Ino]
	if n.xattrs == nil {
		n.xattrs = map[string][]byte{}
	}
	n.xattrs[req.Name] = req.Value
	return f.down
}

func (f *fake) Status(context.Context) (protocol.Status, error) {
	return protocol.Status{Trackers: []protocol.TrackerStatus{{Addr: "a:1", Alive: true, Engine: "mem"}}, Groups: []protocol.GroupStatus{{Name: "g1", State: "whole"}}}, nil
}

type fakeWriter struct{ fakeFile }

func (w *fakeWriter) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if ctx.Err() != nil || w.f.down != nil {
		return 0, tnv.E("write", tnv.KindUnavailable, "")
	}
	if w.f.full {
		return 0, tnv.E("write", tnv.KindNoSpace, "")
	}
	if need := int(off) + len(p); need > len(w.n.data) {
		w.n.data = append(w.n.data, make([]byte, need-len(w.n.data))...)
	}
	copy(w.n.data[off:], p)
	w.n.attr.Size, w.n.attr.Data, w.n.attr.Mtime = uint64(len(w.n.data)), w.n.attr.Data+1, time.Now().UnixNano()
	return len(p), nil
}

func (w *fakeWriter) Flush(context.Context) error      { return nil }
func (w *fakeWriter) Sync(context.Context, bool) error { return nil }

func (w *fakeWriter) Lock(_ context.Context, k protocol.Lock) error {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if by := w.f.locks[w.n.attr.Ino]; by != nil && by != w {
		return tnv.E("lock", tnv.KindWouldBlock, "")
	}
	w.f.locks[w.n.attr.Ino] = w
	return nil
}

func (w *fakeWriter) GetLock(_ context.Context, k protocol.Lock) (protocol.Lock, error) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if by := w.f.locks[w.n.attr.Ino]; by != nil && by != w {
		return protocol.Lock{Mode: protocol.LockExclusive}, nil
	}
	return protocol.Lock{}, nil
}

func (w *fakeWriter) CopyFrom(ctx context.Context, from tnv.Ino, n int64) (int64, error) {
	w.f.mu.Lock()
	data := w.f.inos[from].data
	w.f.mu.Unlock()
	m, err := w.WriteAt(ctx, data[:min(n, int64(len(data)))], 0)
	return int64(m), err
}

func (w *fakeWriter) Close() error {
	w.f.mu.Lock()
	if w.f.locks[w.n.attr.Ino] == w {
		delete(w.f.locks, w.n.attr.Ino)
	}
	w.f.mu.Unlock()
	return w.fakeFile.Close()
}
