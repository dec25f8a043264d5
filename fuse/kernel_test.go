package fuse_test

import (
	"bufio"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	raw "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv/fuse"
	"github.com/tnvfs/tnv/fuse/fusetest"
)

// mounted is a kernel mount of a backend for one test.
type mounted struct {
	dir string
	fs  *fuse.FS
	vol *fusetest.Volume
}

// mountBackend mounts a volume with the kernel; the test needs root. It is
// unmounted when the test ends, however that ends.
func mountBackend(t testing.TB, vol *fusetest.Volume, opt fuse.Options) *mounted {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts with the kernel: run it as root")
	}
	dir, err := os.MkdirTemp("", "tnv-fuse-test-")
	if err != nil {
		t.Fatal(err)
	}
	fs := fuse.NewBackend(vol, opt)
	o := fs.MountOptions("tnv:test")
	o.DirectMountStrict, o.AllowOther = true, true
	srv, err := raw.NewServer(fs, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() { srv.Serve(); close(over) }()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Logf("unmount: %v; forced", err)
			unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH)
		}
		select {
		case <-over:
		case <-time.After(20 * time.Second):
			t.Error("the server did not end after the unmount")
			return
		}
		if err := fs.Drain(context.Background()); err != nil {
			t.Error(err)
		}
		if n := vol.Opens(); n != 0 {
			t.Errorf("%d handles are open after the unmount", n)
		}
		if n := vol.Views(); n != 0 {
			t.Errorf("%d views were never released", n)
		}
		os.Remove(dir) // not recursive: nothing may be in it
	})
	if err := srv.WaitMount(); err != nil {
		t.Fatal(err)
	}
	return &mounted{dir: dir, fs: fs, vol: vol}
}

func TestMountShowsType(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.Contains(s.Text(), " "+m.dir+" ") {
			if !strings.Contains(s.Text(), " - fuse.tnv tnv:test ") || !strings.Contains(s.Text(), "default_permissions") {
				t.Errorf("mounted as %s", s.Text())
			}
			return
		}
	}
	t.Error("not in mountinfo")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// eventually waits for a condition that comes true without being waited for.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for range 500 {
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("never: %s", what)
}
