package coherence

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv/e2e"
)

// twoMounts are two mounts of one cluster.
func twoMounts(t *testing.T) (one, two string) {
	t.Helper()
	c := e2e.Start(t, e2e.Options{NoMount: true, Limit: 2 * time.Minute})
	return c.MountMore("one", "").Point, c.MountMore("two", "").Point
}

// TestHeldFile: who has a file open sees by the next read(2) that it has grown or
// been cut elsewhere, and never zeros that nobody wrote; with sendfile(2), too, where
// the kernel asks for nothing.
func TestHeldFile(t *testing.T) {
	one, two := twoMounts(t)
	path := filepath.Join(one, "f")
	must(t, os.WriteFile(path, nil, 0o644))
	held, err := os.Open(filepath.Join(two, "f"))
	must(t, err)
	defer held.Close()
	want := []byte{}
	b := make([]byte, 1<<16)
	look := func(what string) {
		t.Helper()
		n, err := held.ReadAt(b, 0)
		if err != io.EOF || !bytes.Equal(b[:n], want) {
			t.Fatalf("%s: %d bytes are read (%v), %d were written: %.40q", what, n, err, len(want), b[:n])
		}
		if fi, err := held.Stat(); err != nil || fi.Size() != int64(len(want)) {
			t.Fatalf("%s: size %d (%v), want %d", what, fi.Size(), err, len(want))
		}
	}
	for i := range 200 {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		rec := fmt.Appendf(nil, "record %06d\n", i)
		_, err = f.WriteAt(rec, int64(len(want)))
		must(t, err)
		must(t, f.Close())
		want = append(want, rec...)
		look("grown")
		if i%7 == 3 {
			n := len(want) / 3
			must(t, os.Truncate(path, int64(n)))
			want = want[:n]
			look("cut")
		}
	}
}

// TestRenameIntoShared: a name that the kernel may believe, since its directory is
// looked at by nobody else, is moved into one that others look at, and removed there
// by another.
func TestRenameIntoShared(t *testing.T) {
	one, two := twoMounts(t)
	for _, d := range []string{"own", "shared"} {
		must(t, os.Mkdir(filepath.Join(one, d), 0o755))
	}
	var st unix.Stat_t
	for i := range 60 {
		name := fmt.Sprint("n", i)
		from, to := filepath.Join(one, "own", name), filepath.Join(one, "shared", name)
		must(t, os.WriteFile(from, nil, 0o644))
		must(t, unix.Stat(from, &st))
		for _, root := range []string{one, two, one, two} { // nobody has the shared one alone
			_, err := os.ReadDir(filepath.Join(root, "shared"))
			must(t, err)
			unix.Stat(filepath.Join(root, "shared", "none"), &st)
		}
		must(t, unix.Rename(from, to))
		must(t, unix.Unlink(filepath.Join(two, "shared", name)))
		if err := unix.Stat(to, &st); err != unix.ENOENT {
			t.Fatalf("%d: a name that was removed is there: %v", i, err)
		}
	}
}

// TestCutUnderRead: whoever reads a file that is cut and written anew, by this mount and
// by another, finds it empty or whole, and no zeros.
func TestCutUnderRead(t *testing.T) {
	one, two := twoMounts(t)
	const name, size = "f", 32
	must(t, os.WriteFile(filepath.Join(one, name), nil, 0o644))
	over := time.Now().Add(4 * time.Second)
	var wg sync.WaitGroup
	for i, root := range []string{one, two} {
		path := filepath.Join(root, name)
		wg.Go(func() {
			for n := 0; time.Now().Before(over); n++ {
				if err := os.WriteFile(path, bytes.Repeat([]byte{byte('a' + i)}, size), 0o644); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Duration(n%7) * time.Millisecond)
			}
		})
		for range 2 {
			wg.Go(func() {
				for time.Now().Before(over) {
					b, err := os.ReadFile(path)
					if err != nil || len(b) != 0 && !bytes.Equal(b, bytes.Repeat(b[:1], size)) || bytes.IndexByte(b, 0) >= 0 {
						t.Errorf("read %q (%v)", b, err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
}
