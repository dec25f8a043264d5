package coherence

import (
	"encoding/binary"

	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// dirHandle is an open directory: a process that works in it, whatever becomes
// of its name.
type dirHandle struct {
	fd   int
	ino  uint64
	path string // "": it may be moved
}

// fileHandle is an open file.
type fileHandle struct {
	fd  int
	ino uint64
}

// enter opens the arena at hand.
func (w *worker) enter() bool {
	a := w.Arenas[w.arena]
	for _, d := range []struct {
		name string
		ino  uint64
	}{{"p", a.P}, {"q", a.Q}} {
		path := w.path(a.Dir, d.name)
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			w.leave()
			return false
		}
		w.dirs = append(w.dirs, dirHandle{fd, d.ino, path})
	}
	return true
}

// leave closes what is open there.
func (w *worker) leave() {
	for _, d := range w.dirs {
		unix.Close(d.fd)
	}
	for _, f := range w.files {
		unix.Close(f.fd)
	}
	w.dirs, w.files = nil, nil
}

// somewhere picks a directory that is open and a name in it. With dirs, the name
// may be a directory's: these are in the roots only.
func (w *worker) somewhere(dirs bool) (d dirHandle, name string) {
	if dirs {
		return w.dirs[w.rnd.IntN(2)], w.one(dirNames...)
	}
	return w.dirs[w.rnd.IntN(len(w.dirs))], w.one(fileNames...)
}

// at is how a name is given to a system call: by the open directory, or by its path.
func (w *worker) at(d dirHandle, name string) (fd int, path string) {
	if d.path != "" && w.chance(2) {
		return unix.AT_FDCWD, filepath.Join(d.path, name)
	}
	return d.fd, name
}

func (w *worker) op(k Kind, d dirHandle, name string) Op {
	return Op{Kind: k, Arena: w.arena, Dir: d.ino, Name: name}
}

// change does one thing that changes names or attributes.
func (w *worker) change() {
	dirs := w.chance(3)
	d, name := w.somewhere(dirs)
	mode := 0o600 + w.rnd.IntN(0o100)
	switch w.rnd.IntN(14) {
	case 0, 1, 2:
		if dirs && !w.chance(6) {
			w.call(w.with(w.op(Mkdir, d, name), mode), func(*Op) error {
				fd, path := w.at(d, name)
				return unix.Mkdirat(fd, path, uint32(mode))
			})
			return
		}
		k, flags := Create, unix.O_CREAT|unix.O_EXCL
		if w.chance(3) {
			k, flags = Ensure, unix.O_CREAT
		}
		w.open(w.with(w.op(k, d, name), mode), d, name, flags|unix.O_RDWR, uint32(mode))
	case 3, 4, 5:
		k, flags := Unlink, 0
		if dirs && !w.chance(6) {
			k, flags = Rmdir, unix.AT_REMOVEDIR
		}
		w.call(w.op(k, d, name), func(*Op) error {
			fd, path := w.at(d, name)
			return unix.Unlinkat(fd, path, flags)
		})
	case 6, 7, 8, 9:
		w.rename(d, name, dirs)
	case 10, 11:
		w.link()
	case 12:
		w.setAttr(Chmod, mode)
	case 13:
		w.setAttr(Truncate, w.rnd.IntN(9))
	}
}

func (w *worker) with(o Op, arg int) Op {
	o.Arg = arg
	return o
}

// open opens a file and keeps it. The inode's number never changes, so that it
// is asked for behind the open makes no difference.
func (w *worker) open(o Op, d dirHandle, name string, flags int, mode uint32) {
	fd := -1
	err := w.call(o, func(o *Op) (err error) {
		at, path := w.at(d, name)
		if fd, err = unix.Openat(at, path, flags|unix.O_CLOEXEC, mode); err != nil {
			return err
		}
		o.Attr, err = fstat(fd)
		if err != nil && o.Kind != Lookup { // it is open, whatever its number is
			o.Attr, err = &Attr{}, nil
		}
		return err
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		unix.Close(fd)
		return
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if len(w.dirs) == 4 {
			unix.Close(w.dirs[2].fd)
			w.dirs = append(w.dirs[:2], w.dirs[3])
		}
		w.dirs = append(w.dirs, dirHandle{fd: fd, ino: st.Ino})
		return
	}
	if flags&unix.O_RDWR == 0 { // it is not what was looked for
		unix.Close(fd)
		return
	}
	if len(w.files) == 3 {
		unix.Close(w.files[0].fd)
		w.files = w.files[1:]
	}
	w.files = append(w.files, fileHandle{fd: fd, ino: st.Ino})
}

func fstat(fd int) (*Attr, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	return attrOf(&st), nil
}

func attrOf(st *unix.Stat_t) *Attr {
	return &Attr{Ino: st.Ino, Dir: st.Mode&unix.S_IFMT == unix.S_IFDIR, Mode: int(st.Mode & 0o7777), Size: int(st.Size), Nlink: int(st.Nlink)}
}

func (w *worker) rename(d dirHandle, name string, dirs bool) {
	e, name2 := w.somewhere(dirs)
	o := w.op(Rename, d, name)
	o.Dir2, o.Name2 = e.ino, name2
	switch w.rnd.IntN(6) {
	case 0:
		o.Arg = unix.RENAME_NOREPLACE
	case 1:
		o.Arg = unix.RENAME_EXCHANGE
	}
	w.call(o, func(o *Op) error {
		fd, path := w.at(d, name)
		fd2, path2 := w.at(e, name2)
		return unix.Renameat2(fd, path, fd2, path2, uint(o.Arg))
	})
}

// link gives a new name to an open file, or to the one that is always there by
// its path.
func (w *worker) link() {
	e, name := w.somewhere(false)
	o := Op{Kind: Link, Arena: w.arena, Dir2: e.ino, Name2: name}
	fd2, path2 := w.at(e, name)
	if len(w.files) == 0 || w.chance(2) {
		o.Ino = w.Arenas[w.arena].Fixed
		w.call(o, func(*Op) error {
			fd, path := w.at(w.dirs[0], fixedName)
			return unix.Linkat(fd, path, fd2, path2, 0)
		})
		return
	}
	f := w.files[w.rnd.IntN(len(w.files))]
	o.Ino = f.ino
	w.call(o, func(*Op) error { return unix.Linkat(f.fd, "", fd2, path2, unix.AT_EMPTY_PATH) })
}

// setAttr changes an open file, or the one that is always there by its path.
func (w *worker) setAttr(k Kind, arg int) {
	o := Op{Kind: k, Arena: w.arena, Arg: arg}
	if len(w.files) == 0 || w.chance(3) {
		o.Ino = w.Arenas[w.arena].Fixed
		w.call(o, func(*Op) error {
			fd, path := w.at(w.dirs[0], fixedName)
			if k == Chmod {
				return unix.Fchmodat(fd, path, uint32(arg), 0)
			}
			return unix.Truncate(filepath.Join(w.dirs[0].path, fixedName), int64(arg))
		})
		return
	}
	f := w.files[w.rnd.IntN(len(w.files))]
	o.Ino = f.ino
	w.call(o, func(*Op) error {
		if k == Chmod {
			return unix.Fchmod(f.fd, uint32(arg))
		}
		return unix.Ftruncate(f.fd, int64(arg))
	})
}

// watch looks at one thing.
func (w *worker) watch() {
	dirs := w.chance(3)
	d, name := w.somewhere(dirs)
	switch w.rnd.IntN(10) {
	case 0:
		name = fixedName
		d = w.dirs[0]
		fallthrough
	case 1, 2, 3:
		w.call(w.op(Stat, d, name), func(o *Op) error {
			var st unix.Stat_t
			fd, path := w.at(d, name)
			err := unix.Fstatat(fd, path, &st, unix.AT_SYMLINK_NOFOLLOW)
			o.Attr = attrOf(&st)
			return err
		})
	case 4, 5:
		flags := unix.O_RDWR
		if dirs {
			flags = unix.O_RDONLY
		}
		w.open(w.op(Lookup, d, name), d, name, flags, 0)
	case 6, 7:
		if len(w.files) > 0 {
			f := w.files[w.rnd.IntN(len(w.files))]
			w.getAttr(f.fd, f.ino)
		}
	case 8:
		w.getAttr(d.fd, d.ino)
	case 9:
		w.call(w.op(List, d, ""), func(o *Op) (err error) {
			o.Ents, err = list(d.fd)
			return err
		})
	}
}

func (w *worker) getAttr(fd int, ino uint64) {
	w.call(Op{Kind: GetAttr, Arena: w.arena, Ino: ino}, func(o *Op) (err error) {
		o.Attr, err = fstat(fd)
		return err
	})
}

// list reads a directory by one getdents64(2), which is one request.
func list(dir int) (out []Entry, err error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 32<<10)
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		return nil, err
	}
	for b := buf[:n]; len(b) >= 19; {
		size := binary.NativeEndian.Uint16(b[16:])
		name, _, _ := strings.Cut(string(b[19:size]), "\x00")
		if name != "." && name != ".." {
			out = append(out, Entry{Name: name, Ino: binary.NativeEndian.Uint64(b), Dir: b[18] == unix.DT_DIR})
		}
		b = b[size:]
	}
	return out, nil
}
