package httpd

import (
	"context"
	"errors"
	"path"
	"strings"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// tree changes the volume by path, with the rights of the daemon's user: the
// owner of the volume leaves the checking of permission bits to its clients. Paths
// are clean and absolute; none leads into the daemon's own directory, but those of its own.
type tree struct {
	src  source
	cred tnv.Cred
}

// Permissions, as access(2) has them.
const (
	mayRead  = 4
	mayWrite = 2
	maySeek  = 1
)

// permits checks the permission bits, as the kernel does. An access control list
// counts by its mask, which the group's bits then are: who is not the owner gets no
// more than all of its entries may give.
func permits(c tnv.Cred, at *tnv.Attr, want uint32) bool {
	have := at.Mode & 7
	switch {
	case c.UID == 0:
		return true
	case c.UID == at.UID:
		have = at.Mode >> 6 & 7
	case c.GID == at.GID:
		have = at.Mode >> 3 & 7
	case at.Flags&tnv.HasAccessACL != 0:
		have &= at.Mode >> 3 & 7
	}
	return have&want == want
}

// dir finds a directory.
func (t *tree) dir(ctx context.Context, p string) (tnv.Attr, error) {
	r, err := t.src.Resolve(ctx, t.cred, p, true)
	if err == nil && !r.Attr.IsDir() {
		err = tnv.E(p, tnv.KindNotDir, "")
	}
	return r.Attr, err
}

// parent finds the directory of a path, in which something is to be changed.
func (t *tree) parent(ctx context.Context, p string) (tnv.Attr, string, error) {
	if p == "/" {
		return tnv.Attr{}, "", tnv.E(p, tnv.KindNotPermitted, "the root stays")
	}
	dir, err := t.dir(ctx, path.Dir(p))
	if err == nil && dir.Ino == tnv.RootIno && path.Base(p) == ownName && p != ownPrefix { // by a link to the root
		err = tnv.E(p, tnv.KindNotExist, "")
	}
	if err == nil && !permits(t.cred, &dir, mayWrite|maySeek) {
		err = tnv.E(path.Dir(p), tnv.KindPermission, "the daemon's user may not write there")
	}
	return dir, path.Base(p), err
}

// entry is parent, and what is there under the name.
func (t *tree) entry(ctx context.Context, p string) (dir tnv.Attr, name string, at tnv.Attr, err error) {
	if dir, name, err = t.parent(ctx, p); err != nil {
		return dir, name, at, err
	}
	if at, err = t.src.Lookup(ctx, t.cred, dir.Ino, name); err != nil {
		return dir, name, at, err
	}
	if dir.Mode&0o1000 != 0 && t.cred.UID != 0 && t.cred.UID != dir.UID && t.cred.UID != at.UID {
		err = tnv.E(p, tnv.KindNotPermitted, "the directory is sticky")
	}
	return dir, name, at, err
}

// mkdir makes a directory.
func (t *tree) mkdir(ctx context.Context, p string, mode uint32) (tnv.Attr, error) {
	dir, name, err := t.parent(ctx, p)
	if err != nil {
		return tnv.Attr{}, err
	}
	return t.src.Mkdir(ctx, t.cred, protocol.Mkdir{Parent: dir.Ino, Name: name, Mode: mode})
}

// mkdirs makes a directory and those above it that are missing.
func (t *tree) mkdirs(ctx context.Context, p string, mode uint32) (tnv.Attr, error) {
	at, err := t.dir(ctx, p)
	if !errors.Is(err, tnv.KindNotExist) {
		return at, err
	}
	if _, err := t.mkdirs(ctx, path.Dir(p), mode); err != nil {
		return tnv.Attr{}, err
	}
	at, err = t.mkdir(ctx, p, mode)
	if errors.Is(err, tnv.KindExist) {
		return t.dir(ctx, p)
	}
	return at, err
}

// move renames what is at from to to. With protocol.RenameNoReplace, KindExist if
// to is taken; else a file there is replaced.
func (t *tree) move(ctx context.Context, from, to string, flags uint32) error {
	if to == from || strings.HasPrefix(to, from+"/") {
		return tnv.E(to, tnv.KindInvalid, "it cannot be moved there: it would lie within itself")
	}
	if strings.HasPrefix(from, to+"/") {
		return tnv.E(to, tnv.KindInvalid, "it cannot replace what it lies in")
	}
	dir, name, err := t.leaving(ctx, from)
	if err != nil {
		return err
	}
	toDir, toName, err := t.parent(ctx, to)
	if err != nil {
		return err
	}
	return t.src.Move(ctx, t.cred, protocol.Rename{Parent: dir.Ino, Name: name, NewParent: toDir.Ino, NewName: toName, Flags: flags})
}

// leaving is entry of what is to get another name, if it may.
func (t *tree) leaving(ctx context.Context, p string) (dir tnv.Attr, name string, err error) {
	dir, name, at, err := t.entry(ctx, p)
	if err == nil && at.IsDir() && !permits(t.cred, &at, mayWrite) {
		err = tnv.E(p, tnv.KindPermission, "the daemon's user may not write there")
	}
	return dir, name, err
}

// purge removes what is at a path and all beneath, without a way back. It goes on
// until ctx ends; what was removed by then is gone.
func (t *tree) purge(ctx context.Context, p string) error {
	dir, name, at, err := t.entry(ctx, p)
	if errors.Is(err, tnv.KindNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return t.purgeIn(ctx, dir.Ino, name, at)
}

func (t *tree) purgeIn(ctx context.Context, dir tnv.Ino, name string, at tnv.Attr) error {
	for at.IsDir() {
		rep, err := t.src.ReadDir(ctx, t.cred, protocol.ReadDir{Ino: at.Ino, Limit: pageEntries, Attrs: true})
		if err != nil {
			return err
		}
		for i, e := range rep.Entries {
			if err := t.purgeIn(ctx, at.Ino, e.Name, rep.Attrs[i]); err != nil && !errors.Is(err, tnv.KindNotExist) {
				return err
			}
		}
		if rep.End {
			break
		}
	}
	return t.src.Remove(ctx, t.cred, dir, name)
}

// read reads a whole small file.
func (t *tree) read(ctx context.Context, p string, limit int64) ([]byte, error) {
	r, err := t.src.Resolve(ctx, t.cred, p, true)
	if err != nil {
		return nil, err
	}
	if !r.Attr.IsRegular() || int64(r.Attr.Size) > limit {
		return nil, tnv.E(p, tnv.KindTooBig, "%d bytes", r.Attr.Size)
	}
	f, err := t.src.Open(ctx, r.Attr.Ino)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, r.Attr.Size)
	n, err := f.ReadAt(ctx, b, 0)
	if n == len(b) {
		err = nil
	}
	return b[:n], err
}

// write makes a small file of a name that is not taken.
func (t *tree) write(ctx context.Context, p string, b []byte, mode uint32) error {
	dir, name, err := t.parent(ctx, p)
	if err != nil {
		return err
	}
	w, _, err := t.src.Make(ctx, t.cred, dir.Ino, name, mode)
	if err != nil {
		return err
	}
	if _, err = w.WriteAt(ctx, b, 0); err == nil {
		err = w.Flush(ctx)
	}
	return errors.Join(err, w.Close())
}
