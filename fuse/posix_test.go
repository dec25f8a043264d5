package fuse_test

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv/fuse"
	"github.com/tnvfs/tnv/fuse/fusetest"
)

func TestPosix(t *testing.T) {
	for name, run := range posixtest.All {
		switch name {
		case "FcntlFlockLocksFile":
			continue // wants a process's fcntl lock to conflict with itself: no POSIX system does that
		}
		t.Run(name, func(t *testing.T) {
			run(t, mountBackend(t, fusetest.New(), fuse.Options{}).dir)
		})
	}
}

// TestRefused: what is not there says so in the way that programs know.
func TestRefused(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	f, err := os.Create(m.dir + "/f")
	must(t, err)
	defer f.Close()
	_, err = f.WriteString("hello")
	must(t, err)
	for range 2 { // the second time the kernel answers itself
		_, err = unix.Getxattr(m.dir+"/f", "system.nfs4_acl", make([]byte, 100))
		wantErr(t, "getxattr of another system's ACL", err, syscall.EOPNOTSUPP)
	}
	wantErr(t, "whiteout", unix.Renameat2(unix.AT_FDCWD, m.dir+"/f", unix.AT_FDCWD, m.dir+"/g", unix.RENAME_WHITEOUT), syscall.EINVAL)
}

func TestRenameFlags(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	a, b := m.dir+"/a", m.dir+"/b"
	must(t, os.WriteFile(a, []byte("a"), 0o644))
	must(t, os.Mkdir(b, 0o755))
	wantErr(t, "noreplace", unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE), syscall.EEXIST)
	must(t, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE))
	if got, err := os.ReadFile(b); err != nil || string(got) != "a" {
		t.Errorf("after the exchange: %q, %v", got, err)
	}
	if fi, err := os.Stat(a); err != nil || !fi.IsDir() {
		t.Errorf("after the exchange: %v, %v", fi, err)
	}
}

// TestPermissions: the kernel checks them, and new inodes are the caller's.
func TestPermissions(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	must(t, os.Chmod(m.dir, 0o777))
	must(t, os.WriteFile(m.dir+"/secret", []byte("x"), 0o600))
	must(t, os.Mkdir(m.dir+"/closed", 0o700))
	as(t, 1234, 4321, func() {
		_, err := os.ReadFile(m.dir + "/secret")
		wantErr(t, "read", errors.Unwrap(err), syscall.EACCES)
		_, err = os.Stat(m.dir + "/closed/x")
		wantErr(t, "search", errors.Unwrap(err), syscall.EACCES)
		wantErr(t, "chmod", syscall.Chmod(m.dir+"/secret", 0o777), syscall.EPERM)
		syscall.Umask(0o027)
		must(t, os.WriteFile(m.dir+"/mine", nil, 0o666))
		syscall.Umask(0o022)
	})
	var st unix.Stat_t
	must(t, unix.Stat(m.dir+"/mine", &st))
	if st.Uid != 1234 || st.Gid != 4321 || st.Mode&0o7777 != 0o640 {
		t.Errorf("made as %d:%d, mode %o", st.Uid, st.Gid, st.Mode)
	}
}

// TestSetUserID: a write by someone unprivileged, a truncation and a chown
// take set-user-id away; a chown leaves a directory's set-group-id alone.
func TestSetUserID(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	p := m.dir + "/prog"
	mode := func(path string) uint32 {
		var st unix.Stat_t
		must(t, unix.Stat(path, &st))
		return st.Mode & 0o7777
	}
	fresh := func() {
		must(t, os.WriteFile(p, []byte("prog"), 0o777))
		must(t, unix.Chmod(p, 0o6777))
		if got := mode(p); got != 0o6777 {
			t.Fatalf("mode %o after chmod", got)
		}
	}
	fresh()
	as(t, 1234, 4321, func() {
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.Write([]byte("x"))
		must(t, err)
		must(t, f.Close())
	})
	if got := mode(p); got != 0o777 {
		t.Errorf("mode %o after a write", got)
	}
	fresh()
	as(t, 1234, 4321, func() { must(t, os.Truncate(p, 1)) })
	if got := mode(p); got != 0o777 {
		t.Errorf("mode %o after a truncation", got)
	}
	fresh()
	must(t, os.Chown(p, 5, 6))
	if got := mode(p); got != 0o777 {
		t.Errorf("mode %o after chown", got)
	}
	must(t, os.Mkdir(m.dir+"/d", 0o777))
	must(t, unix.Chmod(m.dir+"/d", 0o2777))
	must(t, os.Chown(m.dir+"/d", 5, 6))
	if got := mode(m.dir + "/d"); got != 0o2777 {
		t.Errorf("mode %o of the directory after chown", got)
	}
}

func TestTimes(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	p := m.dir + "/f"
	must(t, os.WriteFile(p, nil, 0o644))
	for _, sec := range []int64{-5, 0, 1, 1 << 31, 1 << 33, 9223372036} {
		want := unix.Timespec{Sec: sec, Nsec: 123456789}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{want, want}, 0))
		var st unix.Stat_t
		must(t, unix.Stat(p, &st))
		if st.Mtim != want || st.Atim != want {
			t.Errorf("set %v, got mtime %v atime %v", want, st.Mtim, st.Atim)
		}
	}
	var sx unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, p, 0, unix.STATX_BTIME|unix.STATX_BASIC_STATS, &sx))
	if sx.Mask&unix.STATX_BTIME == 0 || sx.Btime.Sec == 0 {
		t.Errorf("no time of birth: mask %x, %v", sx.Mask, sx.Btime)
	}
}

func TestSpecialFilesAndStatfs(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	dev := unix.Mkdev(259, 70000)
	must(t, unix.Mknod(m.dir+"/dev", unix.S_IFBLK|0o600, int(dev)))
	must(t, unix.Mkfifo(m.dir+"/fifo", 0o600))
	var st unix.Stat_t
	must(t, unix.Stat(m.dir+"/dev", &st))
	if st.Rdev != dev || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		t.Errorf("device %x mode %o, want %x", st.Rdev, st.Mode, dev)
	}
	var sx unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, m.dir+"/dev", 0, unix.STATX_BTIME|unix.STATX_BASIC_STATS, &sx))
	if sx.Rdev_major != 259 || sx.Rdev_minor != 70000 {
		t.Errorf("statx: device %d:%d", sx.Rdev_major, sx.Rdev_minor)
	}
	var fs unix.Statfs_t
	must(t, unix.Statfs(m.dir, &fs))
	if fs.Blocks*uint64(fs.Bsize) != 1<<40 || fs.Bavail*uint64(fs.Bsize) != 1<<39 || fs.Namelen != 255 {
		t.Errorf("statfs: %+v", fs)
	}
}
