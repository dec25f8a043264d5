package fuse

import (
	"sort"
	"sync"

	raw "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Offsets of a directory are cookies: 0 is the start, 1 is behind ".", 2 behind
// "..", then each entry's own.
const (
	cookieDot    = 1
	cookieDotDot = 2
)

// listAtOnce is how many entries are asked for at a time.
const listAtOnce = 1024

// dirStream is an open directory. It reads ahead of the kernel, whose buffer may
// hold a hundred entries only; what it holds is dropped at rewinddir(3).
type dirStream struct {
	ino tnv.Ino

	mu      sync.Mutex
	loaded  bool
	parent  tnv.Ino
	entries []tnv.Dirent // those behind base, in the order of cookies
	base    uint64
	end     bool // none is behind them
}

// OpenDir opens a directory, without asking anybody: the kernel just did.
func (f *FS) OpenDir(_ <-chan struct{}, in *raw.OpenIn, out *raw.OpenOut) raw.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	out.Fh = f.next
	f.dirs[out.Fh] = &dirStream{ino: f.ino(in.NodeId)}
	return raw.OK
}

// ReleaseDir closes it.
func (f *FS) ReleaseDir(in *raw.ReleaseIn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.dirs, in.Fh)
}

// FsyncDir puts the whole volume's metadata on disk: that has one log.
func (f *FS) FsyncDir(cancel <-chan struct{}, in *raw.FsyncIn) raw.Status {
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	return status(f.b.SyncFS(ctx))
}

// ReadDir lists entries behind an offset.
func (f *FS) ReadDir(cancel <-chan struct{}, in *raw.ReadIn, out *raw.DirEntryList) raw.Status {
	f.mu.RLock()
	d := f.dirs[in.Fh]
	f.mu.RUnlock()
	if d == nil {
		return raw.EBADF
	}
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	d.mu.Lock()
	defer d.mu.Unlock()
	cookie := max(in.Offset, cookieDotDot)
	load := func() error {
		rep, err := f.b.ReadDir(ctx, cred(&in.InHeader), protocol.ReadDir{Ino: d.ino, Cookie: cookie, Limit: listAtOnce})
		if err != nil {
			return err
		}
		if f.atimes.due(&rep.Dir) && cookie == cookieDotDot {
			f.atimes.note(d.ino)
		}
		d.loaded, d.parent, d.entries, d.base, d.end = true, rep.Dir.Parent, rep.Entries, cookie, rep.End
		return nil
	}
	if in.Offset == 0 || !d.loaded || !d.covers(cookie) {
		if err := load(); err != nil {
			return status(err)
		}
	}
	if in.Offset < cookieDot && !out.AddDirEntry(raw.DirEntry{Name: ".", Mode: raw.S_IFDIR, Ino: f.node(d.ino), Off: cookieDot}) {
		return raw.OK
	}
	if in.Offset < cookieDotDot && !out.AddDirEntry(raw.DirEntry{Name: "..", Mode: raw.S_IFDIR, Ino: f.parentNode(d), Off: cookieDotDot}) {
		return raw.OK
	}
	return f.list(d, cookie, int(in.Size), out)
}

// covers tells whether what follows a cookie is in the stream.
func (d *dirStream) covers(cookie uint64) bool {
	if cookie < d.base {
		return false
	}
	return d.end || len(d.entries) > 0 && cookie < d.entries[len(d.entries)-1].Cookie
}

func (f *FS) parentNode(d *dirStream) uint64 {
	if d.ino == f.root || d.parent == 0 {
		return f.node(d.ino)
	}
	return f.node(d.parent)
}

// list adds the entries behind a cookie, as many as fit. Entries of one cookie
// go together: the kernel cannot go on between them.
func (f *FS) list(d *dirStream, cookie uint64, size int, out *raw.DirEntryList) raw.Status {
	e := d.entries
	for i := sort.Search(len(e), func(i int) bool { return e[i].Cookie > cookie }); i < len(e); {
		next, need := i, 0
		for ; next < len(e) && e[next].Cookie == e[i].Cookie; next++ {
			need += direntSize(e[next].Name)
		}
		if len(out.Bytes())+need > size {
			if len(out.Bytes()) == 0 {
				return raw.EINVAL // getdents(2): the result buffer is too small
			}
			return raw.OK
		}
		for ; i < next; i++ {
			// Whoever stops reading between them sees some twice, rather than never.
			off := cookie
			if i == next-1 {
				off = e[i].Cookie
			}
			out.AddDirEntry(raw.DirEntry{Name: e[i].Name, Mode: e[i].Type.Mode(), Ino: f.node(e[i].Ino), Off: off})
		}
		cookie = e[next-1].Cookie
	}
	return raw.OK
}

// direntSize is the length of struct fuse_dirent with a name, padded.
func direntSize(name string) int { return (24 + len(name) + 7) &^ 7 }
