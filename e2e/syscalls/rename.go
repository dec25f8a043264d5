package syscalls

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func rename2(a, b string, flags uint) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, flags)
}

func renames() []Case {
	return []Case{
		{"over a file", func(t *testing.T, dir string) {
			write(t, dir+"/a", "a")
			write(t, dir+"/b", "b")
			f := open(t, dir+"/b", os.O_RDONLY)
			ino := stat(t, dir+"/a").Ino
			ok(t, unix.Rename(dir+"/a", dir+"/b"))
			gone(t, dir+"/a")
			same(t, "inode", stat(t, dir+"/b").Ino, ino)
			b := make([]byte, 1)
			_, err := f.ReadAt(b, 0)
			ok(t, err)
			same(t, "the file that lost its name", string(b), "b")
			var st unix.Stat_t
			ok(t, unix.Fstat(int(f.Fd()), &st))
			same(t, "its links", st.Nlink, 0)
		}},
		{"to another name of the same file", func(t *testing.T, dir string) {
			write(t, dir+"/a", "a")
			ok(t, unix.Link(dir+"/a", dir+"/b"))
			ok(t, unix.Rename(dir+"/a", dir+"/b"))
			same(t, "links", stat(t, dir+"/a").Nlink, 2)
			ok(t, unix.Rename(dir+"/a", dir+"/a"))
		}},
		{"of directories", func(t *testing.T, dir string) {
			for _, d := range []string{"/a", "/a/in", "/b", "/c", "/c/full"} {
				ok(t, os.Mkdir(dir+d, 0o755))
			}
			write(t, dir+"/f", "x")
			want(t, "into itself", unix.Rename(dir+"/a", dir+"/a/in/x"), unix.EINVAL)
			want(t, "over one above", unix.Rename(dir+"/a/in", dir+"/a"), unix.ENOTEMPTY, unix.EEXIST)
			want(t, "over a full one", unix.Rename(dir+"/a", dir+"/c"), unix.ENOTEMPTY, unix.EEXIST)
			want(t, "over a file", unix.Rename(dir+"/a", dir+"/f"), unix.ENOTDIR)
			want(t, "a file over it", unix.Rename(dir+"/f", dir+"/b"), unix.EISDIR)
			ok(t, unix.Rename(dir+"/a", dir+"/b"))
			stat(t, dir+"/b/in")
			gone(t, dir+"/a")
		}},
		{"counts of links", func(t *testing.T, dir string) {
			for _, d := range []string{"/a", "/b", "/a/d"} {
				ok(t, os.Mkdir(dir+d, 0o755))
			}
			same(t, "before", stat(t, dir+"/a").Nlink, 3)
			ok(t, unix.Rename(dir+"/a/d", dir+"/b/d"))
			same(t, "the old parent", stat(t, dir+"/a").Nlink, 2)
			same(t, "the new parent", stat(t, dir+"/b").Nlink, 3)
			same(t, "its ..", stat(t, dir+"/b/d/..").Ino, stat(t, dir+"/b").Ino)
			ok(t, os.Mkdir(dir+"/b/e", 0o755))
			ok(t, unix.Rename(dir+"/b/d", dir+"/b/e"))
			same(t, "over an empty one", stat(t, dir+"/b").Nlink, 3)
		}},
		{"not replacing", func(t *testing.T, dir string) {
			write(t, dir+"/a", "a")
			write(t, dir+"/b", "b")
			want(t, "what is there", rename2(dir+"/a", dir+"/b", unix.RENAME_NOREPLACE), unix.EEXIST)
			want(t, "itself", rename2(dir+"/a", dir+"/a", unix.RENAME_NOREPLACE), unix.EEXIST)
			ok(t, rename2(dir+"/a", dir+"/c", unix.RENAME_NOREPLACE))
			holds(t, dir+"/c", "a")
		}},
		{"exchanging", func(t *testing.T, dir string) {
			write(t, dir+"/a", "a")
			ok(t, os.MkdirAll(dir+"/p/d/in", 0o755))
			want(t, "with nothing", rename2(dir+"/a", dir+"/n", unix.RENAME_EXCHANGE), unix.ENOENT)
			ok(t, rename2(dir+"/a", dir+"/p/d", unix.RENAME_EXCHANGE))
			holds(t, dir+"/p/d", "a")
			stat(t, dir+"/a/in")
			same(t, "links", stat(t, dir+"/p").Nlink, 2)
			same(t, "..", stat(t, dir+"/a/..").Ino, stat(t, dir).Ino)
			want(t, "with one beneath", rename2(dir+"/a", dir+"/a/in", unix.RENAME_EXCHANGE), unix.EINVAL)
			want(t, "both flags", rename2(dir+"/a", dir+"/p", unix.RENAME_EXCHANGE|unix.RENAME_NOREPLACE), unix.EINVAL)
		}},
		{"of open files and directories in use", func(t *testing.T, dir string) {
			f := open(t, dir+"/a", os.O_CREATE|os.O_RDWR)
			_, err := f.WriteString("one")
			ok(t, err)
			ok(t, unix.Rename(dir+"/a", dir+"/b"))
			_, err = f.WriteString(" two")
			ok(t, err)
			ok(t, f.Close())
			holds(t, dir+"/b", "one two")
			ok(t, os.Mkdir(dir+"/d", 0o755))
			d := open(t, dir+"/d", os.O_RDONLY)
			ok(t, unix.Rename(dir+"/d", dir+"/e"))
			ok(t, unix.Mkdirat(int(d.Fd()), "in", 0o755))
			stat(t, dir+"/e/in")
		}},
		{"what changes times", func(t *testing.T, dir string) {
			write(t, dir+"/a", "a")
			ok(t, os.Mkdir(dir+"/p", 0o755))
			for _, n := range []string{"", "/p", "/a"} {
				ok(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+n, []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0))
			}
			ok(t, unix.Rename(dir+"/a", dir+"/p/a"))
			same(t, "mtime of the file", stat(t, dir+"/p/a").Mtim.Sec, 1)
			for _, n := range []string{"", "/p"} {
				if stat(t, dir+n).Mtim.Sec == 1 {
					t.Errorf("the mtime of the directory %q did not change", n)
				}
			}
		}},
	}
}
