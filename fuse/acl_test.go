package fuse_test

import (
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/fuse"
	"github.com/tnvfs/tnv/fuse/fusetest"
)

// readers is an ACL: rw- for the owner, r-- for user 1234 and the mask, --- else.
var readers = []byte{2, 0, 0, 0,
	1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
	2, 0, 4, 0, 0xd2, 4, 0, 0,
	4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
	16, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
	32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}

// The kernel checks by ACLs, and sees a new one at once.
func TestACLs(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	p := m.dir + "/f"
	must(t, os.WriteFile(p, []byte("x"), 0o640))
	read := func(uid int) (err error) {
		as(t, uid, uid, func() {
			var fd int
			if fd, err = unix.Open(p, unix.O_RDONLY, 0); err == nil {
				unix.Close(fd)
			}
		})
		return err
	}
	wantErr(t, "read without an ACL", read(1234), syscall.EACCES)
	must(t, unix.Setxattr(p, tnv.XattrAccessACL, readers, 0))
	wantErr(t, "read by the user named", read(1234), nil)
	wantErr(t, "read by another", read(1235), syscall.EACCES)
	must(t, unix.Removexattr(p, tnv.XattrAccessACL))
	wantErr(t, "read when it is gone", read(1234), syscall.EACCES)
}

// That there is no ACL is known from the attributes, without asking, until one is
// set, by a descriptor too.
func TestNoACLIsKnown(t *testing.T) {
	runtime.LockOSThread() // what is known, a thread knows
	defer runtime.UnlockOSThread()
	vol := fusetest.New()
	m := mountBackend(t, vol, fuse.Options{})
	p := m.dir + "/f"
	must(t, os.WriteFile(p, []byte("x"), 0o640))
	before := vol.Calls("getxattr")
	b := make([]byte, 100)
	for range 10 {
		_, err := unix.Getxattr(p, tnv.XattrAccessACL, b)
		wantErr(t, "getxattr", err, syscall.ENODATA)
	}
	if n := vol.Calls("getxattr") - before; n > 2 { // a thread may be slow now and then
		t.Errorf("the owner was asked %d times in 10 for what is not there", n)
	}
	fd, err := unix.Open(p, unix.O_RDWR, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Fsetxattr(fd, tnv.XattrAccessACL, readers, 0))
	n, err := unix.Fgetxattr(fd, tnv.XattrAccessACL, b)
	if err != nil || string(b[:n]) != string(readers) {
		t.Errorf("fgetxattr: %x, %v", b[:max(n, 0)], err)
	}
}

// The umask is the owner's to apply: it does not count under a default ACL.
func TestUmask(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	defer syscall.Umask(syscall.Umask(0o077))
	make := func(dir string, want uint32) {
		t.Helper()
		fd, err := unix.Open(dir+"/file", unix.O_CREAT|unix.O_WRONLY, 0o664)
		must(t, err)
		must(t, unix.Close(fd))
		must(t, unix.Mkdir(dir+"/dir", 0o664))
		must(t, unix.Mknod(dir+"/fifo", unix.S_IFIFO|0o664, 0))
		for _, name := range []string{"/file", "/dir", "/fifo"} {
			var st unix.Stat_t
			must(t, unix.Stat(dir+name, &st))
			if st.Mode&0o777 != want {
				t.Errorf("%s: mode %o, want %o", name, st.Mode&0o777, want)
			}
		}
	}
	make(m.dir, 0o600)
	must(t, unix.Mkdir(m.dir+"/d", 0o755))
	must(t, unix.Setxattr(m.dir+"/d", tnv.XattrDefaultACL, readers, 0))
	make(m.dir+"/d", 0o664)
}

// A file made without a name gets one by linkat(2).
func TestTmpfileIsLinked(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	fd, err := unix.Open(m.dir, unix.O_TMPFILE|unix.O_RDWR, 0o640)
	must(t, err)
	_, err = unix.Write(fd, []byte("made"))
	must(t, err)
	must(t, unix.Linkat(fd, "", unix.AT_FDCWD, m.dir+"/named", unix.AT_EMPTY_PATH))
	must(t, unix.Close(fd))
	if b, err := os.ReadFile(m.dir + "/named"); err != nil || string(b) != "made" {
		t.Errorf("%q, %v", b, err)
	}
	fd, err = unix.Open(m.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL, 0o640)
	must(t, err)
	wantErr(t, "linkat after O_EXCL", unix.Linkat(fd, "", unix.AT_FDCWD, m.dir+"/never", unix.AT_EMPTY_PATH), syscall.ENOENT)
	must(t, unix.Close(fd))
}
