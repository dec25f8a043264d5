package coherence

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Files of data, in a round's data directory. Those of overwritten have one size
// always; those of emptied are written behind O_TRUNC; those of replaced are
// renamed over.
var (
	overwritten = []string{"o0", "o1", "o2"}
	emptied     = []string{"e0", "e1", "e2"}
	replaced    = []string{"r0", "r1"}
)

const (
	recordSize = 32 // of a value that is written in place or appended
	appended   = "log"
)

// value is one that nobody else writes. Those of replaced files differ in size.
func (w *worker) value(extra int) string {
	w.serial++
	v := fmt.Sprintf("%d.%d.%d.", w.Seed%1000, w.id, w.serial)
	return v + strings.Repeat("=", recordSize+extra-len(v)-1) + "\n"
}

// data does one thing with data. Of a mount's workers only one writes to each file.
func (w *worker) data() {
	mine := func(l []string) string { return l[w.slot%len(l)] }
	switch w.rnd.IntN(9) {
	case 0:
		w.write(mine(overwritten), 0)
	case 1:
		w.writeMapped(mine(overwritten))
	case 2:
		w.write(mine(emptied), unix.O_TRUNC)
	case 3:
		w.replace(w.one(replaced...))
	case 4:
		w.append()
	case 5, 6:
		w.readKept(w.one(append(overwritten[:3:3], emptied...)...))
	default:
		w.read(w.one(append(append(overwritten[:3:3], emptied...), replaced...)...))
	}
}

// write overwrites a file, and has it published by close or fsync.
func (w *worker) write(file string, flags int) {
	path, fd := w.path(w.Data, file), -1
	open := func(*Op) (err error) {
		fd, err = unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|flags, 0)
		return err
	}
	if flags&unix.O_TRUNC != 0 {
		if w.call(Op{Kind: Empty, File: file}, open) != nil {
			return
		}
	} else if open(nil) != nil {
		return
	}
	o := Op{Kind: Write, File: file, Val: w.value(0)}
	bySync := w.chance(2)
	w.call(o, func(o *Op) error {
		_, err := unix.Pwrite(fd, []byte(o.Val), 0)
		if err == nil && bySync {
			return unix.Fsync(fd)
		}
		if e := unix.Close(fd); err == nil {
			err = e
		}
		return err
	})
	if bySync {
		unix.Close(fd)
	}
}

// writeMapped overwrites a file through a mapping, and has it published by msync.
func (w *worker) writeMapped(file string) {
	fd, err := unix.Open(w.path(w.Data, file), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	m, err := unix.Mmap(fd, 0, recordSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return
	}
	defer unix.Munmap(m)
	w.call(Op{Kind: Write, File: file, Val: w.value(0)}, func(o *Op) error {
		copy(m, o.Val)
		return unix.Msync(m, unix.MS_SYNC)
	})
}

// replace writes a new file and renames it over the old one. Nothing of it is
// seen before; the name is all that counts.
func (w *worker) replace(file string) {
	tmp := w.path(w.Data, fmt.Sprintf("tmp.%d.%d", w.id, w.serial))
	fd, err := unix.Open(tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return
	}
	val := w.value(w.rnd.IntN(40))
	_, err = unix.Write(fd, []byte(val))
	if e := unix.Close(fd); err != nil || e != nil {
		return
	}
	w.call(Op{Kind: Replace, File: file, Val: val}, func(*Op) error { return unix.Rename(tmp, w.path(w.Data, file)) })
}

func (w *worker) append() {
	fd, err := unix.Open(w.path(w.Data, appended), unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	w.call(Op{Kind: Append, File: appended, Val: w.value(0)}, func(o *Op) error {
		_, err := unix.Write(fd, []byte(o.Val))
		if err == nil {
			err = unix.Fsync(fd)
		}
		return err
	})
}

// read opens and reads a file.
func (w *worker) read(file string) {
	w.call(Op{Kind: Read, File: file}, func(o *Op) error {
		fd, err := unix.Open(w.path(w.Data, file), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		o.Val, err = pread(fd)
		return err
	})
}

// readKept reads by a descriptor that has been open for a while.
func (w *worker) readKept(file string) {
	fd, ok := w.readers[file]
	if !ok {
		var err error
		if fd, err = unix.Open(w.path(w.Data, file), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return
		}
		w.readers[file] = fd
	}
	w.call(Op{Kind: Read, File: file}, func(o *Op) (err error) {
		o.Val, err = pread(fd)
		return err
	})
}

func pread(fd int) (string, error) {
	b := make([]byte, 4*recordSize)
	n, err := unix.Pread(fd, b, 0)
	return string(b[:max(n, 0)]), err
}

// ask asks the HTTP daemon.
func (w *worker) ask() {
	file := w.one(append(append(overwritten[:3:3], emptied...), replaced...)...)
	switch w.rnd.IntN(4) {
	case 0:
		w.call(Op{Kind: Read, File: file}, func(o *Op) (err error) {
			o.Val, _, err = w.request(http.MethodGet, w.Data+"/"+file)
			return err
		})
	case 1:
		w.call(Op{Kind: Size, File: file}, func(o *Op) (err error) {
			_, o.Arg, err = w.request(http.MethodHead, w.Data+"/"+file)
			return err
		})
	default:
		i := w.rnd.IntN(len(w.Arenas))
		a := w.Arenas[i]
		name := w.one(append(fileNames[:3:3], dirNames...)...)
		w.call(Op{Kind: Exists, Arena: i, Dir: a.Q, Name: name}, func(*Op) error {
			_, _, err := w.request(http.MethodHead, a.Dir+"/q/"+name)
			return err
		})
	}
}

// request is one request. Missing is ENOENT; all that says nothing is EIO.
func (w *worker) request(method, path string) (body string, size int, err error) {
	req, err := http.NewRequest(method, w.Root+"/"+path, nil)
	if err != nil {
		return "", 0, err
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return "", 0, err
	case resp.StatusCode == http.StatusNotFound:
		return "", 0, syscall.ENOENT
	case resp.StatusCode >= 400:
		return "", 0, syscall.EIO
	}
	return string(b), int(resp.ContentLength), nil
}
