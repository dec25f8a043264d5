package fuse_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/fuse"
	"github.com/tnvfs/tnv/fuse/fusetest"
)

// TestContentTwins: the kernel's pages are right after whatever changed the content.
func TestContentTwins(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d %d", twinsEnv, m.dir, t.TempDir(), time.Now().UnixNano(), 700))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, op := range []string{"fallocate", "copyrange", "seek"} {
		if m.vol.Calls(op) == 0 {
			t.Errorf("the kernel never asked for %s", op)
		}
	}
}

// twinsEnv makes this test binary a child that compares files: see compareTwins.
const twinsEnv = "TNV_TEST_TWINS"

// compareTwins ends the process; args are two directories, a seed, a number of steps.
func compareTwins(args string) {
	var dir, local string
	var seed uint64
	var steps int
	_, err := fmt.Sscan(args, &dir, &local, &seed, &steps)
	if err == nil {
		err = fusetest.Compare(dir, local, seed, steps)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func openFile(t *testing.T, name string, content []byte) *os.File {
	t.Helper()
	f, err := os.Create(name)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	_, err = f.Write(content)
	must(t, err)
	return f
}

// TestContentErrors: each call gives what it gives on a local disk, again and
// again; what the kernel does not hand on is not supported.
func TestContentErrors(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	f := openFile(t, m.dir+"/f", make([]byte, 100000))
	fd := int(f.Fd())
	r, err := os.Open(m.dir + "/f")
	must(t, err)
	defer r.Close()
	app, err := os.OpenFile(m.dir+"/f", os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer app.Close()
	copyTo := func(to *os.File, off, n int) error {
		from, at := int64(0), int64(off)
		_, err := unix.CopyFileRange(int(r.Fd()), &from, int(to.Fd()), &at, n, 0)
		return err
	}
	for range 2 {
		for _, c := range []struct {
			what string
			mode uint32
			off  int64
			n    int64
			want error
		}{
			{"collapse", unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096, syscall.EOPNOTSUPP},
			{"insert", unix.FALLOC_FL_INSERT_RANGE, 0, 4096, syscall.EOPNOTSUPP},
			{"unshare", unix.FALLOC_FL_UNSHARE_RANGE, 0, 4096, syscall.EOPNOTSUPP},
			{"punch that may grow", unix.FALLOC_FL_PUNCH_HOLE, 0, 4096, syscall.EOPNOTSUPP},
			{"punch", unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, 0, 4096, nil},
			{"nothing", 0, 0, 0, syscall.EINVAL},
			{"too large", 0, 1<<63 - 1, 1, syscall.EFBIG},
		} {
			err := unix.Fallocate(fd, c.mode, c.off, c.n)
			if c.what == "too large" && err == syscall.EINVAL {
				continue
			}
			if err != c.want && (c.want == nil || err == nil || err.(syscall.Errno) != c.want.(syscall.Errno)) {
				t.Errorf("%s: %v, want %v", c.what, err, c.want)
			}
		}
		wantErr(t, "fallocate of a file open for reading", unix.Fallocate(int(r.Fd()), 0, 0, 4096), syscall.EBADF)
		wantErr(t, "copy to a file open for appending", copyTo(app, 0, 10), syscall.EBADF)
		wantErr(t, "copy to a file open for reading", copyTo(r, 200000, 10), syscall.EBADF)
		wantErr(t, "overlapping copy", copyTo(f, 5, 10), syscall.EINVAL)
		for _, whence := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
			for _, off := range []int64{100000, 1 << 62, -1} {
				_, err := unix.Seek(fd, off, whence)
				wantErr(t, "seek", err, syscall.ENXIO)
			}
		}
		wantErr(t, "FICLONE", unix.IoctlFileClone(fd, int(r.Fd())), syscall.EOPNOTSUPP)
	}
}

// TestContentFailure: an error of the volume arrives, and the next call is asked again.
func TestContentFailure(t *testing.T) {
	v := fusetest.New()
	fail := make(chan error, 3)
	v.Hook = func(_ context.Context, op string) error {
		if op == "fallocate" || op == "copyrange" || op == "seek" {
			select {
			case err := <-fail:
				return err
			default:
			}
		}
		return nil
	}
	m := mountBackend(t, v, fuse.Options{})
	f := openFile(t, m.dir+"/f", []byte("content"))
	fd := int(f.Fd())
	fail <- tnv.E("fallocate", tnv.KindNoSpace, "on purpose")
	wantErr(t, "fallocate", unix.Fallocate(fd, 0, 0, 1<<40), syscall.ENOSPC)
	must(t, unix.Fallocate(fd, 0, 0, 4096))
	fail <- tnv.E("fallocate", tnv.KindNotSupported, "on purpose")
	wantErr(t, "zero", unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 0, 1), syscall.EOPNOTSUPP)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 0, 1))
	fail <- tnv.E("seek", tnv.KindUnavailable, "on purpose")
	_, err := unix.Seek(fd, 0, unix.SEEK_DATA)
	wantErr(t, "seek", err, syscall.EIO)
	if at, err := unix.Seek(fd, 0, unix.SEEK_HOLE); err != nil || at != 4096 {
		t.Errorf("seek: %d, %v", at, err)
	}
	fail <- tnv.E("copy range", tnv.KindUnavailable, "on purpose")
	g := openFile(t, m.dir+"/g", nil)
	var from, to int64
	_, err = unix.CopyFileRange(fd, &from, int(g.Fd()), &to, 100, 0)
	wantErr(t, "copy", err, syscall.EIO)
	if n, err := unix.CopyFileRange(fd, &from, int(g.Fd()), &to, 100, 0); err != nil || n != 100 {
		t.Errorf("copy: %d, %v", n, err)
	}
}

// TestContentSetUserID: what someone unprivileged does to the content takes
// set-user-id away, and leaves it if root does it.
func TestContentSetUserID(t *testing.T) {
	dirs := []string{mountBackend(t, fusetest.New(), fuse.Options{}).dir, t.TempDir()}
	must(t, os.Chmod(dirs[1], 0o777))
	must(t, os.Chmod(filepath.Dir(dirs[1]), 0o777))
	for _, dir := range dirs {
		p := dir + "/prog"
		for _, op := range []func(f *os.File) error{
			func(f *os.File) error { return unix.Fallocate(int(f.Fd()), 0, 0, 10000) },
			func(f *os.File) error {
				return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 1)
			},
			func(f *os.File) error {
				from, to := int64(0), int64(100)
				_, err := unix.CopyFileRange(int(f.Fd()), &from, int(f.Fd()), &to, 10, 0)
				return err
			}} {
			for _, uid := range []int{0, 1234} {
				must(t, os.WriteFile(p, bytes.Repeat([]byte("x"), 1000), 0o777))
				must(t, unix.Chmod(p, 0o6777))
				as(t, uid, uid, func() {
					f, err := os.OpenFile(p, os.O_RDWR, 0)
					must(t, err)
					defer f.Close()
					must(t, op(f))
				})
				var st unix.Stat_t
				must(t, unix.Stat(p, &st))
				want := uint32(0o6777)
				if uid != 0 {
					want = 0o777
				}
				if st.Mode&0o7777 != want {
					t.Errorf("%s, user %d: mode %o, want %o", dir, uid, st.Mode&0o7777, want)
				}
			}
		}
	}
}
