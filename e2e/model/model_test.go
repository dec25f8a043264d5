package model

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/tnvfs/tnv/e2e"
)

func TestMain(m *testing.M) {
	flag.Set("rapid.nofailfile", "true")
	syscall.Umask(0)
	os.Exit(e2e.Main(m, nil))
}

// paths is what sequences are about: few enough to meet often.
var paths = []string{"a", "b", "c", "d", "d/a", "d/b", "e", "e/a", "e/d", "e/d/a"}

// handle is a file that is open on the mount, on the disk and in the model.
type handle struct {
	fd     [2]int
	n      *node
	append bool
}

// world is the three of them.
type world struct {
	roots [2]string // the mount's, the disk's
	model *node
	open  []*handle
	seed  uint64
}

var worldNames = [2]string{"mount", "disk"}

// both does a thing on the mount and on the disk, and wants the error of the model.
func (w *world) both(t *rapid.T, what string, want syscall.Errno, do func(i int) error) {
	t.Helper()
	for i := range w.roots {
		err, _ := do(i).(syscall.Errno)
		if err != want && !(want == unix.ENOTEMPTY && err == unix.EEXIST) {
			t.Fatalf("%s on the %s: %v, want %v", what, worldNames[i], err, want)
		}
	}
}

func (w *world) at(i int, p string) string { return filepath.Join(w.roots[i], p) }

func somePath(t *rapid.T, label string) string { return rapid.SampledFrom(paths).Draw(t, label) }

// someHandle is an open file; nil: none is.
func (w *world) someHandle(t *rapid.T) *handle {
	if len(w.open) == 0 {
		t.Skip("nothing is open")
	}
	return w.open[rapid.IntRange(0, len(w.open)-1).Draw(t, "handle")]
}

// someSize prefers the neighbourhood of pages and blocks.
func someSize(t *rapid.T, label string) int {
	base := rapid.SampledFrom([]int{0, 0, 4096, 8192, 65536, 131072, 262144, 1 << 20}).Draw(t, label+" base")
	return max(0, base+rapid.IntRange(-3, 300).Draw(t, label))
}

// bytes are different ones for each write.
func (w *world) bytes(n int) []byte {
	w.seed++
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(w.seed), byte(w.seed >> 8), byte(w.seed >> 16), 1}).Read(b)
	return b
}

func (w *world) doOpen(t *rapid.T) {
	p := somePath(t, "path")
	flags := rapid.SampledFrom([]int{0, unix.O_CREAT, unix.O_CREAT, unix.O_CREAT | unix.O_EXCL, unix.O_TRUNC,
		unix.O_APPEND, unix.O_APPEND | unix.O_CREAT, unix.O_CREAT | unix.O_TRUNC}).Draw(t, "flags")
	h := &handle{append: flags&unix.O_APPEND != 0}
	var err syscall.Errno
	h.n, err = w.model.open(p, flags, 0o640)
	w.both(t, "open", err, func(i int) (err error) {
		h.fd[i], err = unix.Open(w.at(i, p), flags|unix.O_RDWR|unix.O_CLOEXEC, 0o640)
		return err
	})
	if err == 0 {
		w.open = append(w.open, h)
	}
	if len(w.open) > 6 {
		w.close(t, w.open[0])
	}
}

func (w *world) close(t *rapid.T, h *handle) {
	w.both(t, "close", 0, func(i int) error { return unix.Close(h.fd[i]) })
	w.open = slices.DeleteFunc(w.open, func(o *handle) bool { return o == h })
}

func (w *world) doWrite(t *rapid.T) {
	h, off, p := w.someHandle(t), someSize(t, "offset"), w.bytes(someSize(t, "size"))
	if h.append {
		off = len(h.n.data)
	}
	h.n.write(p, off)
	w.both(t, "write", 0, func(i int) error {
		n, err := unix.Pwrite(h.fd[i], p, int64(off))
		if err == nil && n != len(p) {
			err = fmt.Errorf("short write of %d", n)
			t.Fatal(err)
		}
		return err
	})
}

func (w *world) doRead(t *rapid.T) {
	h, off, n := w.someHandle(t), someSize(t, "offset"), someSize(t, "size")
	w.both(t, "read", 0, func(i int) error { return w.compare(t, h, i, off, n) })
}

// compare reads from one of the two and compares with the model.
func (w *world) compare(t *rapid.T, h *handle, i, off, n int) error {
	b := make([]byte, n)
	got, err := unix.Pread(h.fd[i], b, int64(off))
	if want := h.n.read(off, n); err == nil && !bytes.Equal(b[:got], want) {
		t.Fatalf("%d bytes at %d of the %s: %s", n, off, worldNames[i], differ(b[:got], want))
	}
	return err
}

func differ(got, want []byte) string {
	if len(got) != len(want) {
		return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Sprintf("byte %d is %d, want %d", i, got[i], want[i])
		}
	}
	return "no difference"
}

// doMap writes and reads by a mapping.
func (w *world) doMap(t *rapid.T) {
	h := w.someHandle(t)
	size := len(h.n.data)
	if size == 0 {
		t.Skip("the file is empty")
	}
	off := rapid.IntRange(0, size-1).Draw(t, "offset")
	p := w.bytes(min(size-off, someSize(t, "size")))
	sync := rapid.Bool().Draw(t, "msync")
	was := slices.Clone(h.n.data)
	h.n.write(p, off)
	w.both(t, "mmap", 0, func(i int) error {
		m, err := unix.Mmap(h.fd[i], 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		defer unix.Munmap(m)
		if !bytes.Equal(m, was) {
			t.Fatalf("the mapping on the %s: %s", worldNames[i], differ(m, was))
		}
		copy(m[off:], p)
		if sync {
			return unix.Msync(m, unix.MS_SYNC)
		}
		return nil
	})
}

func (w *world) doTruncateOpen(t *rapid.T) {
	h, n := w.someHandle(t), someSize(t, "size")
	h.n.truncate(n)
	w.both(t, "ftruncate", 0, func(i int) error { return unix.Ftruncate(h.fd[i], int64(n)) })
}

func (w *world) doTruncate(t *rapid.T) {
	p, size := somePath(t, "path"), someSize(t, "size")
	n, err := w.model.find(p)
	if err == 0 && n.dir {
		err = unix.EISDIR
	}
	if err == 0 {
		n.truncate(size)
	}
	w.both(t, "truncate", err, func(i int) error { return unix.Truncate(w.at(i, p), int64(size)) })
}

func (w *world) doChmod(t *rapid.T) {
	p, mode := somePath(t, "path"), uint32(rapid.IntRange(0, 0o777).Draw(t, "mode"))
	n, err := w.model.find(p)
	if err == 0 {
		n.mode = mode
	}
	w.both(t, "chmod", err, func(i int) error { return unix.Chmod(w.at(i, p), mode) })
}

// doForget drops the kernel's pages, so that what comes is read anew.
func (w *world) doForget(t *rapid.T) {
	h := w.someHandle(t)
	w.both(t, "fsync", 0, func(i int) error {
		if err := unix.Fsync(h.fd[i]); err != nil {
			return err
		}
		return unix.Fadvise(h.fd[i], 0, 0, unix.FADV_DONTNEED)
	})
}

func (w *world) doStat(t *rapid.T) {
	p := somePath(t, "path")
	n, err := w.model.find(p)
	w.both(t, "stat", err, func(i int) error {
		var st unix.Stat_t
		err := unix.Lstat(w.at(i, p), &st)
		if err == nil {
			w.attributes(t, p, i, n, &st)
		}
		return err
	})
}

func (w *world) attributes(t *rapid.T, p string, i int, n *node, st *unix.Stat_t) {
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if isDir != n.dir || st.Mode&0o7777 != n.mode || int(st.Nlink) != n.nlink || !isDir && int(st.Size) != len(n.data) {
		t.Fatalf("%s on the %s: mode %o, %d links, %d bytes; want directory %v, mode %o, %d links, %d bytes",
			p, worldNames[i], st.Mode, st.Nlink, st.Size, n.dir, n.mode, n.nlink, len(n.data))
	}
}

func (w *world) doFstat(t *rapid.T) {
	h := w.someHandle(t)
	w.both(t, "fstat", 0, func(i int) error {
		var st unix.Stat_t
		err := unix.Fstat(h.fd[i], &st)
		if err == nil {
			w.attributes(t, "an open file", i, h.n, &st)
		}
		return err
	})
}

// all compares everything, beneath a directory and in open files.
func (w *world) all(t *rapid.T, p string, n *node) {
	for i := range w.roots {
		var st unix.Stat_t
		if err := unix.Lstat(w.at(i, p), &st); err != nil {
			t.Fatalf("%s on the %s: %v", p, worldNames[i], err)
		}
		w.attributes(t, p, i, n, &st)
		if !n.dir {
			got, err := os.ReadFile(w.at(i, p))
			if err != nil || !bytes.Equal(got, n.data) {
				t.Fatalf("%s on the %s: %v, %s", p, worldNames[i], err, differ(got, n.data))
			}
			continue
		}
		l, err := os.ReadDir(w.at(i, p))
		if err != nil || len(l) != len(n.ents) {
			t.Fatalf("%s on the %s has %d entries, want %d: %v", p, worldNames[i], len(l), len(n.ents), err)
		}
	}
	for name, c := range n.ents {
		w.all(t, filepath.Join(p, name), c)
	}
}

func (w *world) actions() map[string]func(*rapid.T) {
	two := func(what string, model func(p, q string) syscall.Errno, do func(p, q string) error) func(*rapid.T) {
		return func(t *rapid.T) {
			p, q := somePath(t, "from"), somePath(t, "to")
			w.both(t, what, model(p, q), func(i int) error { return do(w.at(i, p), w.at(i, q)) })
		}
	}
	one := func(what string, model func(p string) syscall.Errno, do func(p string) error) func(*rapid.T) {
		return func(t *rapid.T) {
			p := somePath(t, "path")
			w.both(t, what, model(p), func(i int) error { return do(w.at(i, p)) })
		}
	}
	return map[string]func(*rapid.T){
		"open": w.doOpen, "write": w.doWrite, "write more": w.doWrite, "read": w.doRead, "map": w.doMap, "ftruncate": w.doTruncateOpen,
		"truncate": w.doTruncate, "chmod": w.doChmod, "forget": w.doForget, "stat": w.doStat, "fstat": w.doFstat,
		"close":  func(t *rapid.T) { w.close(t, w.someHandle(t)) },
		"rename": two("rename", w.model.rename, unix.Rename),
		"link":   two("link", w.model.link, unix.Link),
		"unlink": one("unlink", w.model.unlink, unix.Unlink),
		"rmdir":  one("rmdir", w.model.rmdir, unix.Rmdir),
		"mkdir": one("mkdir", func(p string) syscall.Errno { return w.model.mkdir(p, 0o755) },
			func(p string) error { return unix.Mkdir(p, 0o755) }),
	}
}

// TestModel: make it long with -rapid.checks=10000 -rapid.steps=100.
func TestModel(t *testing.T) {
	c := e2e.Start(t, e2e.Options{NoHTTP: true, Limit: 2 * 60 * 60e9})
	disk := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		w := &world{model: newDir(0o755)}
		for i, root := range []string{c.Mount, disk} {
			w.roots[i] = filepath.Join(root, fmt.Sprint(n))
			if err := os.Mkdir(w.roots[i], 0o755); err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(w.roots[i])
		}
		defer func() {
			for _, h := range w.open {
				unix.Close(h.fd[0])
				unix.Close(h.fd[1])
			}
		}()
		t.Repeat(w.actions())
		w.all(t, ".", w.model)
		for _, h := range w.open {
			for i := range w.roots {
				w.compare(t, h, i, 0, len(h.n.data)+10)
			}
		}
	})
}
