package syscalls

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	user, other = 4001, 4002
	group       = 4101
)

// Long because it is a list of cases.
func permissions() []Case {
	return []Case{
		{"read, write, search", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			ok(t, os.Mkdir(dir+"/d", 0o755))
			write(t, dir+"/d/f", "x")
			open := func(path string, flags int) error {
				fd, err := unix.Open(path, flags, 0)
				if err == nil {
					unix.Close(fd)
				}
				return err
			}
			ok(t, os.Chmod(dir+"/f", 0o640))
			ok(t, os.Chown(dir+"/f", user, group))
			ok(t, os.Chmod(dir+"/d", 0o700))
			as(t, user, []uint32{user}, func() {
				same(t, "the owner reads", open(dir+"/f", os.O_RDWR), nil)
				want(t, "search", open(dir+"/d/f", os.O_RDONLY), unix.EACCES)
				want(t, "list", open(dir+"/d", os.O_RDONLY), unix.EACCES)
			})
			as(t, other, []uint32{other, group}, func() {
				same(t, "one of the group reads", open(dir+"/f", os.O_RDONLY), nil)
				want(t, "one of the group writes", open(dir+"/f", os.O_WRONLY), unix.EACCES)
				want(t, "truncate", unix.Truncate(dir+"/f", 0), unix.EACCES)
				same(t, "access to read", unix.Access(dir+"/f", unix.R_OK), nil)
				want(t, "access to write", unix.Access(dir+"/f", unix.W_OK), unix.EACCES)
			})
			as(t, other, []uint32{other}, func() { want(t, "others", open(dir+"/f", os.O_RDONLY), unix.EACCES) })
		}},
		{"execution", func(t *testing.T, dir string) {
			write(t, dir+"/f", "#!/bin/sh\n")
			want(t, "even root", unix.Access(dir+"/f", unix.X_OK), unix.EACCES)
			ok(t, os.Chmod(dir+"/f", 0o001))
			same(t, "root", unix.Access(dir+"/f", unix.X_OK), nil)
		}},
		{"who may change what", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			ok(t, os.Chown(dir+"/f", user, user))
			as(t, other, []uint32{other}, func() {
				want(t, "chmod", unix.Chmod(dir+"/f", 0o777), unix.EPERM)
				want(t, "chown", unix.Chown(dir+"/f", other, -1), unix.EPERM)
				want(t, "utimes", unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/f", []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0), unix.EPERM)
				now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
				want(t, "utimes to now", unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/f", now, 0), unix.EACCES)
			})
			as(t, user, []uint32{user, group}, func() {
				want(t, "giving away", unix.Chown(dir+"/f", other, -1), unix.EPERM)
				want(t, "to a strange group", unix.Chown(dir+"/f", -1, other), unix.EPERM)
				same(t, "to a group of one's own", unix.Chown(dir+"/f", -1, group), nil)
				same(t, "chmod", unix.Chmod(dir+"/f", 0o2755), nil)
				same(t, "chown to itself", unix.Chown(dir+"/f", user, group), nil)
			})
			same(t, "group", stat(t, dir+"/f").Gid, group)
			same(t, "set-group-id is gone by chown", mode(t, dir+"/f"), 0o755)
		}},
		{"set-group-id needs the group", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			ok(t, os.Chown(dir+"/f", user, group))
			as(t, user, []uint32{user}, func() { same(t, "chmod", unix.Chmod(dir+"/f", 0o2755), nil) })
			same(t, "mode", mode(t, dir+"/f"), 0o755)
		}},
		{"set-group-id is inherited", func(t *testing.T, dir string) {
			ok(t, os.Mkdir(dir+"/d", 0o777))
			ok(t, os.Chown(dir+"/d", 0, group))
			ok(t, unix.Chmod(dir+"/d", 0o2777))
			as(t, user, []uint32{user}, func() {
				same(t, "mkdir", unix.Mkdir(dir+"/d/d", 0o755), nil)
				same(t, "mknod", unix.Mknod(dir+"/d/f", unix.S_IFREG|0o644, 0), nil)
			})
			d, f := stat(t, dir+"/d/d"), stat(t, dir+"/d/f")
			same(t, "group of a directory", d.Gid, group)
			same(t, "mode of a directory", d.Mode&0o7777, 0o2755)
			same(t, "group of a file", f.Gid, group)
			same(t, "mode of a file", f.Mode&0o7777, 0o644)
		}},
		{"sticky directories", func(t *testing.T, dir string) {
			ok(t, unix.Chmod(dir, 0o1777))
			write(t, dir+"/f", "x")
			ok(t, os.Chown(dir+"/f", user, user))
			as(t, other, []uint32{other}, func() {
				want(t, "unlink", unix.Unlink(dir+"/f"), unix.EPERM)
				want(t, "rename", unix.Rename(dir+"/f", dir+"/g"), unix.EPERM)
				same(t, "create", unix.Mknod(dir+"/mine", unix.S_IFREG|0o644, 0), nil)
				want(t, "rename over", unix.Rename(dir+"/mine", dir+"/f"), unix.EPERM)
			})
			as(t, user, []uint32{user}, func() { same(t, "the owner", unix.Unlink(dir+"/f"), nil) })
		}},
		{"set-user-id is lost by writing", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			for what, do := range map[string]func() error{
				"write": func() error {
					fd, err := unix.Open(dir+"/f", unix.O_WRONLY, 0)
					if err == nil {
						_, err = unix.Write(fd, []byte("y"))
						unix.Close(fd)
					}
					return err
				},
				"truncate": func() error { return unix.Truncate(dir+"/f", 0) },
			} {
				ok(t, unix.Chmod(dir+"/f", 0o6777))
				as(t, other, []uint32{other}, func() { same(t, what, do(), nil) })
				same(t, "mode after "+what, mode(t, dir+"/f"), 0o777)
			}
		}},
		{"the umask", func(t *testing.T, dir string) {
			old := unix.Umask(0o027)
			defer unix.Umask(old)
			ok(t, unix.Mkdir(dir+"/d", 0o777))
			ok(t, unix.Mknod(dir+"/f", unix.S_IFREG|0o666, 0))
			same(t, "directory", mode(t, dir+"/d"), 0o750)
			same(t, "file", mode(t, dir+"/f"), 0o640)
		}},
		{"a new file that its maker may not open", func(t *testing.T, dir string) {
			as(t, user, []uint32{user}, func() {
				fd, err := unix.Open(dir+"/f", unix.O_CREAT|unix.O_RDWR, 0o000)
				same(t, "create", err, nil)
				_, err = unix.Write(fd, []byte("x"))
				same(t, "write", err, nil)
				unix.Close(fd)
				_, err = unix.Open(dir+"/f", unix.O_RDONLY, 0)
				want(t, "open", err, unix.EACCES)
			})
			st := stat(t, dir+"/f")
			same(t, "owner", st.Uid, user)
			same(t, "group", st.Gid, user)
		}},
	}
}
