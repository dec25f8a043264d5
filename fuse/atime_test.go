package fuse_test

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv/fuse"
	"github.com/tnvfs/tnv/fuse/fusetest"
)

// TestAtime: reading sets the time of access as on a disk mounted with the option
// of the same name; a stat(2) behind it sees that, and ctime stays.
func TestAtime(t *testing.T) {
	old := unix.Timespec{Sec: 1}
	read := func(flags int) func(string) error {
		return func(p string) error {
			fd, err := unix.Open(p, unix.O_RDONLY|flags, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			_, err = unix.Read(fd, make([]byte, 10))
			return err
		}
	}
	list := func(p string) error { _, err := os.ReadDir(p); return err }
	touch := func(p string) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{old, {Nsec: unix.UTIME_NOW}}, 0)
	}
	never, first, always := []bool{false, false}, []bool{true, false}, []bool{true, true}
	for _, c := range []struct {
		name string
		opt  fuse.Options
		dir  bool
		read func(string) error
		want []bool // does it change, by the first read, by the second?
	}{
		{"relatime", fuse.Options{}, false, read(0), first},
		{"relatime, directory", fuse.Options{}, true, list, first},
		{"nodiratime", fuse.Options{NoDirAtime: true}, true, list, never},
		{"O_NOATIME", fuse.Options{}, false, read(unix.O_NOATIME), never},
		{"noatime", fuse.Options{Atime: fuse.NoAtime}, false, read(0), never},
		{"noatime, directory", fuse.Options{Atime: fuse.NoAtime}, true, list, never},
		{"strictatime", fuse.Options{Atime: fuse.StrictAtime}, false, read(0), always},
		{"strictatime, directory", fuse.Options{Atime: fuse.StrictAtime}, true, list, always},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := mountBackend(t, fusetest.New(), c.opt)
			p := m.dir + "/x"
			if c.dir {
				must(t, os.Mkdir(p, 0o755))
			} else {
				must(t, os.WriteFile(p, make([]byte, 8192), 0o644))
			}
			must(t, touch(p))
			for i, want := range c.want {
				var was, is unix.Stat_t
				must(t, unix.Stat(p, &was))
				time.Sleep(2 * time.Millisecond)
				must(t, c.read(p))
				must(t, unix.Stat(p, &is))
				if changed := is.Atim != was.Atim; changed != want {
					t.Errorf("read %d: changed %v, want %v", i+1, changed, want)
				}
				if is.Ctim != was.Ctim || is.Mtim != was.Mtim {
					t.Errorf("read %d changed ctime or mtime", i+1)
				}
			}
		})
	}
}
