package fuse_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	raw "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/fuse"
	"github.com/tnvfs/tnv/fuse/fusetest"
	"github.com/tnvfs/tnv/protocol"
)

// TestListCollisions: no entry is lost where many names share a cookie, whatever
// the size of the reader's buffer.
func TestListCollisions(t *testing.T) {
	for _, classes := range []uint64{0, 500, 150} {
		vol := fusetest.New()
		vol.Collide = classes
		m := mountBackend(t, vol, fuse.Options{})
		const n = 1500
		for i := range n {
			_, err := vol.Create(context.Background(), tnv.Root, protocol.Create{Parent: tnv.RootIno, Name: fmt.Sprintf("name%04d", i), Mode: unix.S_IFREG})
			must(t, err)
		}
		for _, size := range []int{1024, 4096, 1 << 20} {
			seen := map[string]int{}
			fd, err := unix.Open(m.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
			must(t, err)
			buf := make([]byte, size)
			for range 2 * n {
				k, err := unix.ReadDirent(fd, buf)
				must(t, err)
				if k == 0 {
					break
				}
				_, _, names := unix.ParseDirent(buf[:k], -1, nil)
				for _, name := range names {
					// Whoever has room for all sees none twice.
					if seen[name]++; seen[name] > 1 && size == 1<<20 {
						t.Errorf("%d classes: %s is listed twice", classes, name)
					}
				}
			}
			unix.Close(fd)
			if len(seen) != n {
				t.Errorf("%d classes, buffer %d: %d names of %d", classes, size, len(seen), n)
			}
		}
	}
}

// TestSubdir: a mount of a subdirectory shows nothing above it.
func TestSubdir(t *testing.T) {
	vol := fusetest.New()
	ctx := context.Background()
	sub, err := vol.Mkdir(ctx, tnv.Root, protocol.Mkdir{Parent: tnv.RootIno, Name: "sub", Mode: 0o755})
	must(t, err)
	m := mountBackend(t, vol, fuse.Options{Root: sub.Ino})
	must(t, os.MkdirAll(m.dir+"/a/b", 0o755))
	must(t, os.WriteFile(m.dir+"/a/b/f", []byte("x"), 0o644))
	got, err := vol.Lookup(ctx, tnv.Root, sub.Ino, "a")
	must(t, err)
	var root, a, up unix.Stat_t
	must(t, unix.Stat(m.dir, &root))
	must(t, unix.Stat(m.dir+"/a", &a))
	must(t, unix.Stat(m.dir+"/a/..", &up))
	if root.Ino != 1 || up.Ino != 1 || a.Ino != uint64(got.Ino) {
		t.Errorf("inodes: root %d, a/.. %d, a %d (want %d)", root.Ino, up.Ino, a.Ino, got.Ino)
	}
	for _, dir := range []string{"", "/a"} { // ".." of both is the mount's root, as readdir tells it
		fd, err := unix.Open(m.dir+dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		buf := make([]byte, 4096)
		n, err := unix.ReadDirent(fd, buf)
		unix.Close(fd)
		must(t, err)
		if ino, ok := direntIno(buf[:n], ".."); !ok || ino != 1 {
			t.Errorf("..  of %q is inode %d (%v)", dir, ino, ok)
		}
	}
}

func direntIno(buf []byte, name string) (uint64, bool) {
	for len(buf) > 0 {
		ino := *(*uint64)(ptr(buf))
		reclen := int(buf[16]) | int(buf[17])<<8
		if string(buf[19:19+len(name)]) == name && buf[19+len(name)] == 0 {
			return ino, true
		}
		buf = buf[reclen:]
	}
	return 0, false
}

// TestCheap: what costs no round trip.
func TestCheap(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	p := m.dir + "/f"
	f, err := os.Create(p)
	must(t, err)
	for range 50 {
		_, err := f.Write(make([]byte, 100))
		must(t, err)
	}
	if n := m.vol.Calls("getxattr"); n != 0 {
		t.Errorf("%d questions for %s of a new file", n, "security.capability")
	}
	must(t, f.Close())
	if n := m.vol.Calls("flush"); n != 1 {
		t.Errorf("%d flushes of a written file", n)
	}
	_, err = os.ReadFile(p)
	must(t, err)
	if n := m.vol.Calls("flush"); n != 1 {
		t.Errorf("%d flushes after a handle for reading", n)
	}
	f, err = os.OpenFile(p, os.O_WRONLY, 0)
	must(t, err)
	for range 50 {
		_, err := f.Write(make([]byte, 100))
		must(t, err)
	}
	must(t, f.Close())
	if n := m.vol.Calls("getxattr"); n > 1 {
		t.Errorf("%d questions for security.capability of one open file", n)
	}
	if n := m.vol.Calls("view"); n != 0 {
		t.Errorf("%d reads asked the owner although the kernel had just asked", n)
	}
}

// TestCapabilityRemoved: a capability set elsewhere is seen and is gone after a write.
func TestCapability(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	p := m.dir + "/f"
	must(t, os.WriteFile(p, []byte("x"), 0o755))
	a, err := m.vol.Lookup(context.Background(), tnv.Root, tnv.RootIno, "f")
	must(t, err)
	// VFS_CAP_REVISION_2, cap_net_raw
	value := []byte{0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	must(t, m.vol.SetXattr(context.Background(), tnv.Root, protocol.SetXattr{Ino: a.Ino, Name: "security.capability", Value: value}))
	buf := make([]byte, 100)
	if n, err := unix.Getxattr(p, "security.capability", buf); err != nil || n != len(value) {
		t.Errorf("getxattr: %d, %v", n, err)
	}
	f, err := os.OpenFile(p, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.Write([]byte("y"))
	must(t, err)
	must(t, f.Close())
	_, err = unix.Getxattr(p, "security.capability", buf)
	wantErr(t, "getxattr after a write", err, syscall.ENODATA)
}

// TestAppend: two appenders lose nothing, and mapped writes have their place.
func TestAppend(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	p := m.dir + "/log"
	f, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	must(t, err)
	defer f.Close()
	g, _, err := m.vol.OpenFile(context.Background(), elsewhere{t, m.vol}.attr("log").Ino, os.O_WRONLY|os.O_APPEND)
	must(t, err)
	defer g.Close()
	for range 10 {
		_, err = f.Write([]byte("here "))
		must(t, err)
		_, _, err = g.Append(context.Background(), []byte("there "))
		must(t, err)
	}
	got, err := os.ReadFile(p)
	must(t, err)
	if len(got) != 110 || string(got[:11]) != "here there " {
		t.Errorf("%d bytes: %q", len(got), got)
	}
	mapFile(t, p).ask("write 0 HERE")
	if got, err = os.ReadFile(p); err != nil || len(got) != 110 || string(got[:5]) != "HERE " {
		t.Errorf("after a mapped write: %d bytes %q, %v", len(got), got, err)
	}
}

// TestCreateRace: whoever finds the name taken behind LOOKUP gets the file that
// is there, with its permissions checked and truncated if asked for.
func TestCreateRace(t *testing.T) {
	vol := fusetest.New()
	var race atomic.Bool
	vol.Hook = func(ctx context.Context, op string) error {
		if op == "create" && race.CompareAndSwap(true, false) {
			rep, err := vol.Create(ctx, tnv.Cred{UID: 77}, protocol.Create{Parent: tnv.RootIno, Name: "f", Mode: unix.S_IFREG | 0o600})
			if err != nil {
				return err
			}
			f, _, err := vol.OpenFile(ctx, rep.Attr.Ino, os.O_WRONLY)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt(ctx, []byte("theirs"), 0)
			return err
		}
		return nil
	}
	m := mountBackend(t, vol, fuse.Options{})
	must(t, os.Chmod(m.dir, 0o777))
	p := m.dir + "/f"
	race.Store(true)
	f, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR, 0o644)
	must(t, err)
	wantRead(t, f, "theirs")
	f.Close()
	must(t, os.Remove(p))
	race.Store(true)
	must(t, os.WriteFile(p, []byte("ok"), 0o644))
	if got, err := os.ReadFile(p); err != nil || string(got) != "ok" {
		t.Errorf("not truncated: %q, %v", got, err)
	}
	must(t, os.Remove(p))
	race.Store(true)
	as(t, 1234, 4321, func() {
		_, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR, 0o644)
		wantErr(t, "open of another's file", errors.Unwrap(err), syscall.EACCES)
	})
	must(t, os.Remove(p))
	race.Store(true)
	_, err = os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	wantErr(t, "exclusive create", errors.Unwrap(err), syscall.EEXIST)
}

// TestPanic: a panic in a request is EIO for that request.
func TestPanic(t *testing.T) {
	vol := fusetest.New()
	vol.Hook = func(_ context.Context, op string) error {
		if op == "symlink" {
			panic("made for the test")
		}
		return nil
	}
	m := mountBackend(t, vol, fuse.Options{})
	for range 3 {
		wantErr(t, "symlink", syscall.Symlink("x", m.dir+"/l"), syscall.EIO)
	}
	must(t, os.Mkdir(m.dir+"/d", 0o755))
}

// TestKill: a process that waits for the file system can be killed; one that
// merely gets signals goes on, and sees no EINTR.
func TestKill(t *testing.T) {
	vol := fusetest.New()
	block := make(chan struct{})
	entered := make(chan struct{}, 10)
	var ended atomic.Int32
	vol.Hook = func(ctx context.Context, op string) error {
		if op == "rmdir" {
			entered <- struct{}{}
			select {
			case <-ctx.Done():
				ended.Add(1)
				return tnv.Wrap(op, ctx.Err())
			case <-block:
			}
		}
		return nil
	}
	m := mountBackend(t, vol, fuse.Options{})
	must(t, os.Mkdir(m.dir+"/d", 0o755))
	rmdir, err := exec.LookPath("rmdir")
	must(t, err)
	cmd := exec.Command(rmdir, m.dir+"/d")
	must(t, cmd.Start())
	<-entered
	must(t, cmd.Process.Signal(syscall.SIGCONT)) // harmless, and the kernel tells of it
	time.Sleep(200 * time.Millisecond)
	if ended.Load() != 0 {
		t.Error("a harmless signal ended the request")
	}
	must(t, cmd.Process.Signal(syscall.SIGINT)) // rmdir has no handler: it is to die
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("the process does not die")
		close(block)
		<-done
		return
	}
	if ended.Load() == 0 {
		t.Error("the request was not ended")
	}
	// Our own signals (SIGURG, from the Go runtime) leave a request alone.
	result := make(chan error, 1)
	tid := make(chan int, 1)
	go as(t, 0, 0, func() { tid <- unix.Gettid(); result <- syscall.Rmdir(m.dir + "/d") })
	<-entered
	id := <-tid
	for range 5 {
		must(t, unix.Tgkill(os.Getpid(), id, syscall.SIGURG))
		time.Sleep(50 * time.Millisecond)
	}
	close(block)
	if err := <-result; err != nil {
		t.Errorf("rmdir: %v", err)
	}
}

// TestBackendErrors: kinds reach the process as the table says.
func TestBackendErrors(t *testing.T) {
	vol := fusetest.New()
	var kind atomic.Int32
	vol.Hook = func(_ context.Context, op string) error {
		if k := tnv.Kind(kind.Load()); k != 0 && op == "mkdir" {
			return tnv.E(op, k, "made for the test")
		}
		return nil
	}
	m := mountBackend(t, vol, fuse.Options{})
	for k, want := range map[tnv.Kind]syscall.Errno{tnv.KindNoSpace: syscall.ENOSPC, tnv.KindUnavailable: syscall.EIO,
		tnv.KindQuota: syscall.EDQUOT, tnv.KindReadOnly: syscall.EROFS, tnv.KindCanceled: syscall.EINTR} {
		kind.Store(int32(k))
		wantErr(t, k.String(), syscall.Mkdir(filepath.Join(m.dir, "d"), 0o755), want)
	}
}

// TestListWholeGroups: a reply never ends between entries of one cookie, so that
// a reader who takes all of each reply sees each name once.
func TestListWholeGroups(t *testing.T) {
	vol := fusetest.New()
	vol.Collide = 40
	for i := range 100 {
		_, err := vol.Create(context.Background(), tnv.Root, protocol.Create{Parent: tnv.RootIno, Name: fmt.Sprintf("name%04d", i), Mode: unix.S_IFREG})
		must(t, err)
	}
	fs := fuse.NewBackend(vol, fuse.Options{})
	var open raw.OpenOut
	in := raw.OpenIn{InHeader: raw.InHeader{NodeId: 1}}
	if st := fs.OpenDir(nil, &in, &open); st != raw.OK {
		t.Fatal(st)
	}
	for _, size := range []int{320, 400, 1000, 4096} {
		seen := map[string]int{}
		var off uint64
		for range 200 {
			list := raw.NewDirEntryList(make([]byte, size), off)
			rd := raw.ReadIn{InHeader: in.InHeader, Fh: open.Fh, Offset: off, Size: uint32(size)}
			if st := fs.ReadDir(nil, &rd, list); st != raw.OK {
				t.Fatalf("buffer %d: %v", size, st)
			}
			entries, err := raw.ParseDirEntries(list.Bytes())
			must(t, err)
			if len(entries) == 0 {
				break
			}
			for _, e := range entries {
				seen[e.Name]++
				off = e.Off
			}
		}
		if len(seen) != 102 {
			t.Errorf("buffer %d: %d names", size, len(seen))
		}
		for name, n := range seen {
			if n != 1 {
				t.Errorf("buffer %d: %s is listed %d times", size, name, n)
			}
		}
	}
	tiny := raw.NewDirEntryList(make([]byte, 32), 2)
	rd := raw.ReadIn{InHeader: in.InHeader, Fh: open.Fh, Offset: 2, Size: 32}
	if st := fs.ReadDir(nil, &rd, tiny); st != raw.EINVAL {
		t.Errorf("a buffer that no group fits into: %v", st)
	}
}
