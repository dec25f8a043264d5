package client

import (
	"context"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// FS is the volume as an io/fs file system, read-only, with the rights of root.
// It is an fs.StatFS, fs.ReadDirFS, fs.ReadFileFS and fs.ReadLinkFS; its files
// are io.ReaderAt and io.Seeker.
func (c *Client) FS() fs.FS { return volumeFS{c} }

type volumeFS struct{ c *Client }

func (v volumeFS) resolve(op, name string, follow bool) (tnv.Attr, error) {
	if !fs.ValidPath(name) {
		return tnv.Attr{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	r, err := v.c.Resolve(context.Background(), tnv.Root, name, follow)
	return r.Attr, pathError(op, name, err)
}

func (v volumeFS) Open(name string) (fs.File, error) {
	a, err := v.resolve("open", name, true)
	if err != nil {
		return nil, err
	}
	info := fileInfo{path.Base(name), a}
	if a.IsDir() {
		return &dirFile{c: v.c, info: info}, nil
	}
	h, a, err := v.c.OpenFile(context.Background(), a.Ino, 0)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	info.a = a
	return &fsFile{File: h.File(context.Background()), h: h, name: info.name}, nil
}

func (v volumeFS) Stat(name string) (fs.FileInfo, error) {
	a, err := v.resolve("stat", name, true)
	if err != nil {
		return nil, err
	}
	return fileInfo{path.Base(name), a}, nil
}

func (v volumeFS) Lstat(name string) (fs.FileInfo, error) {
	a, err := v.resolve("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return fileInfo{path.Base(name), a}, nil
}

func (v volumeFS) ReadLink(name string) (string, error) {
	a, err := v.resolve("readlink", name, false)
	if err != nil {
		return "", err
	}
	t, err := v.c.ReadLink(context.Background(), tnv.Root, a.Ino)
	return t, pathError("readlink", name, err)
}

func (v volumeFS) ReadFile(name string) ([]byte, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	}
	return v.c.ReadFile(context.Background(), name)
}

func (v volumeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	a, err := v.resolve("readdir", name, true)
	if err != nil {
		return nil, err
	}
	l, err := v.c.entries(context.Background(), a.Ino)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	des := dirEntries(l)
	slices.SortFunc(des, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return des, nil
}

func dirEntries(l []Entry) []fs.DirEntry {
	des := make([]fs.DirEntry, len(l))
	for i, e := range l {
		des[i] = fs.FileInfoToDirEntry(fileInfo{e.Name, e.Attr})
	}
	return des
}

// fileInfo shows attributes; Sys gives the tnv.Attr.
type fileInfo struct {
	name string
	a    tnv.Attr
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return int64(i.a.Size) }
func (i fileInfo) ModTime() time.Time { return tnv.Time(i.a.Mtime) }
func (i fileInfo) IsDir() bool        { return i.a.IsDir() }
func (i fileInfo) Sys() any           { return i.a }
func (i fileInfo) Mode() fs.FileMode  { return FileMode(i.a.Mode) }

// FileMode is st_mode as io/fs has it.
func FileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch tnv.FileType(mode >> 12 & 0o17) {
	case tnv.TypeDir:
		m |= fs.ModeDir
	case tnv.TypeSymlink:
		m |= fs.ModeSymlink
	case tnv.TypeFIFO:
		m |= fs.ModeNamedPipe
	case tnv.TypeSocket:
		m |= fs.ModeSocket
	case tnv.TypeBlock:
		m |= fs.ModeDevice
	case tnv.TypeChar:
		m |= fs.ModeDevice | fs.ModeCharDevice
	}
	for bit, fm := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= fm
		}
	}
	return m
}

type fsFile struct {
	*File
	h    *Handle
	name string
}

func (f *fsFile) Close() error { return f.h.Close() }

func (f *fsFile) Stat() (fs.FileInfo, error) {
	a, err := f.h.Attr(context.Background())
	if err != nil {
		return nil, pathError("stat", f.name, err)
	}
	return fileInfo{f.name, a}, nil
}

type dirFile struct {
	c      *Client
	info   fileInfo
	cookie uint64
	rest   []fs.DirEntry
	end    bool
}

func (d *dirFile) Close() error               { return nil }
func (d *dirFile) Stat() (fs.FileInfo, error) { return d.info, nil }

func (d *dirFile) Read([]byte) (int, error) {
	return 0, pathError("read", d.info.name, tnv.E("read", tnv.KindIsDir, "%s", d.info.name))
}

// ReadDir as in fs.ReadDirFile.
func (d *dirFile) ReadDir(n int) ([]fs.DirEntry, error) {
	var out []fs.DirEntry
	for n <= 0 || len(out) < n {
		if len(d.rest) == 0 {
			if d.end {
				break
			}
			if err := d.more(); err != nil {
				return out, err
			}
			continue
		}
		k := len(d.rest)
		if n > 0 {
			k = min(k, n-len(out))
		}
		out = append(out, d.rest[:k]...)
		d.rest = d.rest[k:]
	}
	if n > 0 && len(out) == 0 {
		return nil, io.EOF
	}
	return out, nil
}

func (d *dirFile) more() error {
	rep, err := d.c.ReadDir(context.Background(), tnv.Root, protocol.ReadDir{Ino: d.info.a.Ino, Cookie: d.cookie, Limit: readDirBatch, Attrs: true})
	if err != nil {
		return pathError("readdir", d.info.name, err)
	}
	if len(rep.Attrs) != len(rep.Entries) {
		return tnv.E("readdir", tnv.KindProtocol, "%d entries with %d attributes", len(rep.Entries), len(rep.Attrs))
	}
	l := make([]Entry, len(rep.Entries))
	for i, e := range rep.Entries {
		l[i] = Entry{e.Name, rep.Attrs[i]}
		d.cookie = e.Cookie
	}
	d.rest = dirEntries(l)
	d.end = rep.End || len(l) == 0
	return nil
}
