package fusetest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// twins are two files in each of two directories, one on the file system under
// test, one on a local disk: what is done to the one is done to the other, and
// must give the same.
type twins struct {
	r     *rand.Rand
	files [2]twin
	last  string // what was done last
	errs  []error
}

// twin is a file in both directories, open and mapped.
type twin struct {
	f    [2]*os.File
	m    [2][]byte
	size int
}

// mapSize is the length of the mappings, and about that of the files.
const mapSize = 3 << 20

// Compare runs random system calls that change and read the content of files,
// through descriptors and mappings, in dir and in local, and compares what they
// return and what is read. The process that serves dir must be another one: a
// fault in a mapping holds up a goroutine in a way that the Go runtime does not know of.
func Compare(dir, local string, seed uint64, steps int) error {
	w := &twins{r: rand.New(rand.NewPCG(seed, 9))}
	for i := range w.files {
		for k, d := range []string{dir, local} {
			f, err := os.OpenFile(filepath.Join(d, fmt.Sprintf("twin%d", i)), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
			if err != nil {
				return err
			}
			defer f.Close()
			w.files[i].f[k] = f
			w.files[i].m[k], err = unix.Mmap(int(f.Fd()), 0, mapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			defer unix.Munmap(w.files[i].m[k])
		}
	}
	for step := range steps {
		w.step()
		w.check()
		if len(w.errs) > 0 {
			return fmt.Errorf("seed %d, step %d: %s: %w", seed, step, w.last, errors.Join(w.errs...))
		}
	}
	return nil
}

func (w *twins) errorf(format string, args ...any) {
	w.errs = append(w.errs, fmt.Errorf(format, args...))
}

// both runs fn on both sides and compares what it returns.
func (w *twins) both(fn func(side int) (int, error)) (int, error) {
	n, err := fn(0)
	if n2, err2 := fn(1); n != n2 || err != err2 {
		w.errorf("%d, %v; on the local disk %d, %v", n, err, n2, err2)
	}
	return n, err
}

func (w *twins) step() {
	i := w.r.IntN(2)
	f := &w.files[i]
	off, n := w.r.IntN(mapSize*3/4), 1+w.r.IntN(1<<(1+w.r.IntN(19)))
	if w.r.IntN(3) == 0 {
		off, n = off/4096*4096, (n+4095)/4096*4096
	}
	switch k := w.r.IntN(20); {
	case k < 5:
		w.last = fmt.Sprintf("write %d bytes at %d of %d", n, off, i)
		b := w.noise(n)
		w.both(func(s int) (int, error) { return unix.Pwrite(int(f.f[s].Fd()), b, int64(off)) })
		f.size = max(f.size, off+n)
	case k < 8:
		n = min(n, f.size-off)
		if n <= 0 {
			return
		}
		w.last = fmt.Sprintf("store %d bytes at %d of the mapping of %d", n, off, i)
		b := w.noise(n)
		for s := range 2 {
			copy(f.m[s][off:], b)
		}
		if w.r.IntN(4) == 0 {
			w.both(func(s int) (int, error) { return 0, unix.Msync(f.m[s], unix.MS_SYNC) })
		}
	case k < 9:
		w.last = fmt.Sprintf("truncate %d to %d", i, off)
		w.both(func(s int) (int, error) { return 0, unix.Ftruncate(int(f.f[s].Fd()), int64(off)) })
		f.size = off
	case k < 15:
		w.fallocate(i, off, n)
	case k < 19:
		w.copy(i, w.r.IntN(2), off, w.r.IntN(mapSize*3/4), n)
	default:
		w.last = fmt.Sprintf("fsync %d", i)
		w.both(func(s int) (int, error) { return 0, unix.Fsync(int(f.f[s].Fd())) })
	}
}

func (w *twins) fallocate(i, off, n int) {
	f := &w.files[i]
	mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}[w.r.IntN(6)]
	w.last = fmt.Sprintf("fallocate, mode %#x, %d bytes at %d of %d", mode, n, off, i)
	w.both(func(s int) (int, error) { return 0, unix.Fallocate(int(f.f[s].Fd()), mode, int64(off), int64(n)) })
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		f.size = max(f.size, off+n)
	}
}

func (w *twins) copy(i, j, off, to, n int) {
	w.last = fmt.Sprintf("copy %d bytes at %d of %d to %d of %d", n, off, i, to, j)
	done, err := w.both(func(s int) (done int, err error) {
		for done < n {
			from, at := int64(off+done), int64(to+done)
			k, err := unix.CopyFileRange(int(w.files[i].f[s].Fd()), &from, int(w.files[j].f[s].Fd()), &at, n-done, 0)
			if err != nil || k == 0 {
				return done, err
			}
			done += k
		}
		return done, nil
	})
	if err == nil && done > 0 {
		w.files[j].size = max(w.files[j].size, to+done)
	}
}

// check compares some bytes of both files, read in both ways, their sizes, and
// that what is said to be a hole has no data.
func (w *twins) check() {
	for i := range w.files {
		f := &w.files[i]
		lo := w.r.IntN(mapSize)
		n := 1 + w.r.IntN(1<<(1+w.r.IntN(21)))
		var got [2][]byte
		_, err := w.both(func(s int) (int, error) {
			got[s] = make([]byte, n)
			return unix.Pread(int(f.f[s].Fd()), got[s], int64(lo))
		})
		if err == nil && !bytes.Equal(got[0], got[1]) {
			w.errorf("file %d differs from %d on", i, lo+differ(got[0], got[1]))
		}
		size, _ := w.both(func(s int) (int, error) {
			var st unix.Stat_t
			err := unix.Fstat(int(f.f[s].Fd()), &st)
			return int(st.Size), err
		})
		if size != f.size {
			w.errorf("file %d has %d bytes, want %d", i, size, f.size)
			return
		}
		if hi := min(lo+n, size, mapSize); lo < hi && !bytes.Equal(f.m[0][lo:hi], f.m[1][lo:hi]) {
			w.errorf("the mapping of file %d differs from %d on", i, lo+differ(f.m[0][lo:hi], f.m[1][lo:hi]))
		}
	}
	w.holes(w.r.IntN(2), w.r.IntN(mapSize))
}

// holes looks for data from a place on: before it all is zero.
func (w *twins) holes(i, off int) {
	f := &w.files[i]
	fd := int(f.f[0].Fd())
	w.both(func(s int) (int, error) { return 0, unix.Fsync(int(f.f[s].Fd())) }) // what is in mapped pages only is not looked at
	at, err := unix.Seek(fd, int64(off), unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		at = int64(f.size)
	case err != nil || at < int64(off) || at >= int64(f.size):
		w.errorf("SEEK_DATA from %d of file %d: %d, %v", off, i, at, err)
		return
	}
	if at > int64(off) {
		b := make([]byte, at-int64(off))
		if _, err := f.f[1].ReadAt(b, int64(off)); err != nil || len(bytes.Trim(b, "\x00")) > 0 {
			w.errorf("SEEK_DATA from %d of file %d: %d, but there is data before it (%v)", off, i, at, err)
		}
	}
	hole, err := unix.Seek(fd, int64(off), unix.SEEK_HOLE)
	if off >= f.size {
		if err != unix.ENXIO {
			w.errorf("SEEK_HOLE from %d behind the end of file %d: %d, %v", off, i, hole, err)
		}
		return
	}
	if err != nil || hole < int64(off) || hole > int64(f.size) || (hole == int64(off)) != (at > int64(off)) {
		w.errorf("SEEK_HOLE from %d of file %d: %d, %v; data is at %d", off, i, hole, err, at)
	}
}

func differ(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

func (w *twins) noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(1 + w.r.IntN(255))
	}
	return b
}
