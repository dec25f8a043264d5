package syscalls

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func names() []Case {
	return []Case{
		{"255 bytes are a name, 256 are not", func(t *testing.T, dir string) {
			long := strings.Repeat("n", 255)
			write(t, dir+"/"+long, "x")
			holds(t, dir+"/"+long, "x")
			_, err := os.Create(dir + "/" + long + "n")
			want(t, "create", err, unix.ENAMETOOLONG)
			want(t, "mkdir", unix.Mkdir(dir+"/"+long+"n", 0o755), unix.ENAMETOOLONG)
			_, err = os.ReadDir(dir) // all that is there is known now
			want(t, "list", err, nil)
			var st unix.Stat_t
			want(t, "stat", unix.Stat(dir+"/"+long+"n", &st), unix.ENAMETOOLONG)
			want(t, "unlink", unix.Unlink(dir+"/"+long+"n"), unix.ENAMETOOLONG)
			want(t, "truncate", unix.Truncate(dir+"/"+long+"n", 0), unix.ENAMETOOLONG)
			want(t, "rename", unix.Rename(dir+"/"+long, dir+"/"+long+"n"), unix.ENAMETOOLONG)
			want(t, "link", unix.Link(dir+"/"+long, dir+"/"+long+"n"), unix.ENAMETOOLONG)
			want(t, "symlink", unix.Symlink("x", dir+"/"+long+"n"), unix.ENAMETOOLONG)
		}},
		{"any byte but zero and slash", func(t *testing.T, dir string) {
			all := map[string]bool{}
			for b := 1; b < 256; b++ {
				if b == '/' {
					continue
				}
				name := string([]byte{'x', byte(b)})
				write(t, dir+"/"+name, name)
				all[name] = true
			}
			l, err := os.ReadDir(dir)
			ok(t, err)
			for _, e := range l {
				if !all[e.Name()] {
					t.Errorf("a name that nobody gave: %q", e.Name())
				}
				delete(all, e.Name())
			}
			same(t, "names that are missing", len(all), 0)
		}},
		{"names differ by case and by composition", func(t *testing.T, dir string) {
			for _, n := range []string{"a", "A", "\u00e9", "e\u0301", " ", "...", "\xff\xfe"} {
				ok(t, os.Mkdir(dir+"/"+n, 0o755))
			}
		}},
		{"dot and dot-dot", func(t *testing.T, dir string) {
			ok(t, os.Mkdir(dir+"/d", 0o755))
			same(t, "d/.", stat(t, dir+"/d/.").Ino, stat(t, dir+"/d").Ino)
			same(t, "d/..", stat(t, dir+"/d/..").Ino, stat(t, dir).Ino)
			want(t, "mkdir .", unix.Mkdir(dir+"/d/.", 0o755), unix.EEXIST)
			want(t, "rmdir .", unix.Rmdir(dir+"/d/."), unix.EINVAL)
			want(t, "rmdir ..", unix.Rmdir(dir+"/d/.."), unix.ENOTEMPTY)
			want(t, "unlink .", unix.Unlink(dir+"/d/."), unix.EISDIR)
		}},
		{"a slash behind a name asks for a directory", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			var st unix.Stat_t
			want(t, "stat", unix.Stat(dir+"/f/", &st), unix.ENOTDIR)
			want(t, "unlink", unix.Unlink(dir+"/f/"), unix.ENOTDIR)
			want(t, "rename", unix.Rename(dir+"/f", dir+"/g/"), unix.ENOTDIR)
			_, err := unix.Open(dir+"/n/", unix.O_CREAT|unix.O_WRONLY, 0o644)
			want(t, "create", err, unix.EISDIR)
			ok(t, unix.Mkdir(dir+"/d/", 0o755))
		}},
		{"create exclusively", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			ok(t, unix.Symlink("nowhere", dir+"/l"))
			for _, n := range []string{"/f", "/l"} {
				_, err := unix.Open(dir+n, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
				want(t, "create "+n, err, unix.EEXIST)
			}
			gone(t, dir+"/nowhere")
		}},
		{"nodes of all kinds", func(t *testing.T, dir string) {
			for name, m := range map[string]uint32{"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK, "file": unix.S_IFREG, "char": unix.S_IFCHR, "block": unix.S_IFBLK} {
				dev := 0
				if m == unix.S_IFCHR || m == unix.S_IFBLK {
					dev = int(unix.Mkdev(8, 300))
				}
				ok(t, unix.Mknod(dir+"/"+name, m|0o640, dev))
				st := stat(t, dir+"/"+name)
				same(t, name+" mode", st.Mode, m|0o640)
				same(t, name+" device", st.Rdev, uint64(dev))
			}
		}},
	}
}

func links() []Case {
	return []Case{
		{"a file with two names", func(t *testing.T, dir string) {
			write(t, dir+"/a", "x")
			ok(t, os.Mkdir(dir+"/d", 0o755))
			ok(t, unix.Link(dir+"/a", dir+"/d/b"))
			a, b := stat(t, dir+"/a"), stat(t, dir+"/d/b")
			same(t, "inode", b.Ino, a.Ino)
			same(t, "links", a.Nlink, 2)
			ok(t, unix.Chmod(dir+"/d/b", 0o600))
			same(t, "mode", mode(t, dir+"/a"), 0o600)
			ok(t, unix.Unlink(dir+"/a"))
			holds(t, dir+"/d/b", "x")
			same(t, "links", stat(t, dir+"/d/b").Nlink, 1)
		}},
		{"what cannot be linked", func(t *testing.T, dir string) {
			write(t, dir+"/a", "x")
			ok(t, os.Mkdir(dir+"/d", 0o755))
			want(t, "a directory", unix.Link(dir+"/d", dir+"/e"), unix.EPERM)
			want(t, "what is missing", unix.Link(dir+"/n", dir+"/e"), unix.ENOENT)
			want(t, "to what is there", unix.Link(dir+"/a", dir+"/d"), unix.EEXIST)
			want(t, "through a file", unix.Link(dir+"/a", dir+"/a/b"), unix.ENOTDIR)
		}},
		{"a link to a symbolic link", func(t *testing.T, dir string) {
			ok(t, unix.Symlink("nowhere", dir+"/l"))
			ok(t, unix.Link(dir+"/l", dir+"/m"))
			same(t, "inode", stat(t, dir+"/m").Ino, stat(t, dir+"/l").Ino)
		}},
		{"symbolic links", func(t *testing.T, dir string) {
			long := strings.Repeat("../", 1300) // of 4095 bytes at most
			for _, target := range []string{"f", "/", "a/b", " ", "\xff", long} {
				ok(t, unix.Symlink(target, dir+"/l"))
				got, err := os.Readlink(dir + "/l")
				ok(t, err)
				same(t, "target", got, target)
				same(t, "size", stat(t, dir+"/l").Size, int64(len(target)))
				ok(t, unix.Unlink(dir+"/l"))
			}
			same(t, "mode", func() uint32 { ok(t, unix.Symlink("f", dir+"/l")); return mode(t, dir+"/l") }(), 0o777)
			want(t, "empty target", unix.Symlink("", dir+"/e"), unix.ENOENT)
			want(t, "to what is there", unix.Symlink("f", dir+"/l"), unix.EEXIST)
			_, err := unix.Readlink(dir, make([]byte, 10))
			want(t, "readlink of a directory", err, unix.EINVAL)
		}},
		{"a circle of symbolic links", func(t *testing.T, dir string) {
			ok(t, unix.Symlink("b", dir+"/a"))
			ok(t, unix.Symlink("a", dir+"/b"))
			var st unix.Stat_t
			want(t, "stat", unix.Stat(dir+"/a", &st), unix.ELOOP)
			_, err := unix.Open(dir+"/a", unix.O_RDONLY|unix.O_NOFOLLOW, 0)
			want(t, "O_NOFOLLOW", err, unix.ELOOP)
		}},
		{"create through a dangling link", func(t *testing.T, dir string) {
			ok(t, unix.Symlink("target", dir+"/l"))
			write(t, dir+"/l", "x")
			holds(t, dir+"/target", "x")
		}},
		{"an open file gets a name", func(t *testing.T, dir string) {
			f := open(t, dir+"/a", unix.O_CREAT|unix.O_RDWR)
			ok(t, unix.Linkat(int(f.Fd()), "", unix.AT_FDCWD, dir+"/b", unix.AT_EMPTY_PATH))
			same(t, "links", stat(t, dir+"/b").Nlink, 2)
			ok(t, unix.Unlink(dir+"/a"))
			ok(t, unix.Unlink(dir+"/b"))
			want(t, "link without a name", unix.Linkat(int(f.Fd()), "", unix.AT_FDCWD, dir+"/c", unix.AT_EMPTY_PATH), unix.ENOENT)
		}},
	}
}
