package syscalls

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// later does something and tells which times of a path it moved: of "amc" those
// that did. All were set to one second of long ago before, but ctime.
func later(t testing.TB, path string, do func()) string {
	t.Helper()
	old := []unix.Timespec{{Sec: 1000}, {Sec: 2000}}
	ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, old, unix.AT_SYMLINK_NOFOLLOW))
	was := stat(t, path)
	time.Sleep(20 * time.Millisecond) // a disk's clock ticks every few milliseconds
	do()
	is := stat(t, path)
	var moved strings.Builder
	for _, c := range []struct {
		name    string
		was, is unix.Timespec
	}{{"a", was.Atim, is.Atim}, {"m", was.Mtim, is.Mtim}, {"c", was.Ctim, is.Ctim}} {
		if c.was != c.is {
			moved.WriteString(c.name)
		}
		if c.is.Nano() < c.was.Nano() {
			t.Errorf("%stime went back", c.name)
		}
	}
	return moved.String()
}

func times() []Case {
	return []Case{
		{"set to the nanosecond", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			for _, sec := range []int64{-1<<31 + 1, -1, 0, 1 << 31, 1 << 32} {
				want := []unix.Timespec{{Sec: sec, Nsec: 1}, {Sec: sec, Nsec: 999999999}}
				ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/f", want, 0))
				st := stat(t, dir+"/f")
				same(t, "atime", st.Atim, want[0])
				same(t, "mtime", st.Mtim, want[1])
			}
		}},
		{"one alone, and now", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			set := func(a, m unix.Timespec) unix.Stat_t {
				ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/f", []unix.Timespec{a, m}, 0))
				return stat(t, dir+"/f")
			}
			omit, now := unix.Timespec{Nsec: unix.UTIME_OMIT}, unix.Timespec{Nsec: unix.UTIME_NOW}
			set(unix.Timespec{Sec: 5}, unix.Timespec{Sec: 6})
			st := set(unix.Timespec{Sec: 7}, omit)
			same(t, "atime", st.Atim.Sec, 7)
			same(t, "mtime", st.Mtim.Sec, 6)
			st = set(omit, now)
			same(t, "atime", st.Atim.Sec, 7)
			if d := time.Since(time.Unix(st.Mtim.Unix())); d < -time.Minute || d > time.Minute {
				t.Errorf("now is %v away", d)
			}
		}},
		{"what changes which times of a file", func(t *testing.T, dir string) {
			p := dir + "/f"
			write(t, p, "content")
			for _, c := range []struct {
				what, moved string
				do          func()
			}{
				{"write", "mc", func() {
					f := open(t, p, os.O_WRONLY)
					_, err := f.WriteString("x")
					ok(t, err)
					ok(t, f.Close())
				}},
				{"truncate", "mc", func() { ok(t, unix.Truncate(p, 3)) }},
				{"chmod", "c", func() { ok(t, unix.Chmod(p, 0o600)) }},
				{"chown", "c", func() { ok(t, unix.Chown(p, 7, 7)) }},
				{"link", "c", func() { ok(t, unix.Link(p, dir+"/g")) }},
				{"unlink of another name", "c", func() { ok(t, unix.Unlink(dir+"/g")) }},
				{"setxattr", "c", func() { ok(t, unix.Setxattr(p, "user.x", []byte("x"), 0)) }},
				{"stat", "", func() { stat(t, p) }},
				{"open to write", "", func() { ok(t, open(t, p, os.O_WRONLY).Close()) }},
				{"truncating open", "mc", func() { ok(t, open(t, p, os.O_WRONLY|os.O_TRUNC).Close()) }},
			} {
				same(t, c.what+" moves", later(t, p, c.do), c.moved)
			}
		}},
		{"what changes which times of a directory", func(t *testing.T, dir string) {
			d := dir + "/d"
			ok(t, os.Mkdir(d, 0o755))
			write(t, dir+"/f", "x")
			for _, c := range []struct {
				what, moved string
				do          func()
			}{
				{"create", "mc", func() { write(t, d+"/f", "x") }},
				{"write to a file in it", "", func() { write(t, d+"/f", "xy") }},
				{"mkdir", "mc", func() { ok(t, os.Mkdir(d+"/d", 0o755)) }},
				{"symlink", "mc", func() { ok(t, unix.Symlink("x", d+"/l")) }},
				{"link", "mc", func() { ok(t, unix.Link(dir+"/f", d+"/g")) }},
				{"rename in it", "mc", func() { ok(t, unix.Rename(d+"/f", d+"/h")) }},
				{"rename out of it", "mc", func() { ok(t, unix.Rename(d+"/g", dir+"/g")) }},
				{"unlink", "mc", func() { ok(t, unix.Unlink(d+"/h")) }},
				{"rmdir", "mc", func() { ok(t, unix.Rmdir(d+"/d")) }},
				{"what fails", "", func() { want(t, "mkdir", unix.Mkdir(d+"/l", 0o755), unix.EEXIST) }},
			} {
				same(t, c.what+" moves", later(t, d, c.do), c.moved)
			}
		}},
		{"a time that was set outlives the close", func(t *testing.T, dir string) {
			f := open(t, dir+"/f", os.O_CREATE|os.O_WRONLY)
			_, err := f.WriteString("content")
			ok(t, err)
			old := []unix.Timespec{{Sec: 11}, {Sec: 12, Nsec: 13}}
			ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/f", old, 0))
			ok(t, f.Close())
			same(t, "mtime", stat(t, dir+"/f").Mtim, old[1])
			holds(t, dir+"/f", "content")
			same(t, "mtime after reading", stat(t, dir+"/f").Mtim, old[1])
		}},
		{"of symbolic links themselves", func(t *testing.T, dir string) {
			ok(t, unix.Symlink("nowhere", dir+"/l"))
			old := []unix.Timespec{{Sec: 11}, {Sec: 12}}
			ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/l", old, unix.AT_SYMLINK_NOFOLLOW))
			same(t, "mtime", stat(t, dir+"/l").Mtim, old[1])
		}},
		{"birth", func(t *testing.T, dir string) {
			before := time.Now().Add(-time.Second)
			write(t, dir+"/f", "x")
			birth := func() unix.StatxTimestamp {
				var sx unix.Statx_t
				ok(t, unix.Statx(unix.AT_FDCWD, dir+"/f", 0, unix.STATX_BTIME, &sx))
				if sx.Mask&unix.STATX_BTIME == 0 {
					t.Error("no time of birth")
				}
				return sx.Btime
			}
			b := birth()
			if at := time.Unix(b.Sec, int64(b.Nsec)); at.Before(before) || at.After(time.Now().Add(time.Second)) {
				t.Errorf("born at %v", at)
			}
			ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/f", []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0))
			same(t, "after a change", birth(), b)
		}},
	}
}
