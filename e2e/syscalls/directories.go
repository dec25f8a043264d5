package syscalls

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func itoa(n int) string { return strconv.Itoa(n) }

// dirent is an entry as getdents64(2) gives it; next is the cookie of what follows.
type dirent struct {
	ino  uint64
	next int64
	typ  byte
	name string
}

// getdents reads one buffer of entries.
func getdents(t testing.TB, fd, size int) (out []dirent) {
	t.Helper()
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	ok(t, err)
	for b := buf[:n]; len(b) > 0; {
		l := binary.NativeEndian.Uint16(b[16:])
		name, _, _ := strings.Cut(string(b[19:l]), "\x00")
		out = append(out, dirent{binary.NativeEndian.Uint64(b), int64(binary.NativeEndian.Uint64(b[8:])), b[18], name})
		b = b[l:]
	}
	return out
}

func all(t testing.TB, fd int) (out []dirent) {
	t.Helper()
	for {
		l := getdents(t, fd, 1000)
		if len(l) == 0 {
			return out
		}
		out = append(out, l...)
	}
}

func fill(t testing.TB, dir string, n int) {
	t.Helper()
	for i := range n {
		ok(t, unix.Mknod(fmt.Sprintf("%s/file-%03d", dir, i), unix.S_IFREG|0o644, 0))
	}
}

// Long because it is a list of cases.
func directories() []Case {
	return []Case{
		{"a listing is complete, with types and inodes", func(t *testing.T, dir string) {
			fill(t, dir, 200)
			ok(t, os.Mkdir(dir+"/d", 0o755))
			ok(t, unix.Symlink("x", dir+"/l"))
			ok(t, unix.Mkfifo(dir+"/p", 0o644))
			seen := map[string]dirent{}
			for _, e := range all(t, int(open(t, dir, os.O_RDONLY).Fd())) {
				if _, twice := seen[e.name]; twice {
					t.Errorf("%s is there twice", e.name)
				}
				seen[e.name] = e
			}
			same(t, "entries", len(seen), 205)
			for name, typ := range map[string]byte{"file-000": unix.DT_REG, "d": unix.DT_DIR, "l": unix.DT_LNK, "p": unix.DT_FIFO, ".": unix.DT_DIR, "..": unix.DT_DIR} {
				same(t, "type of "+name, seen[name].typ, typ)
				same(t, "inode of "+name, seen[name].ino, stat(t, dir+"/"+name).Ino)
			}
		}},
		{"telldir and seekdir", func(t *testing.T, dir string) {
			fill(t, dir, 150)
			fd := int(open(t, dir, os.O_RDONLY).Fd())
			whole := all(t, fd)
			for _, i := range []int{0, 1, 77, len(whole) - 2, len(whole) - 1, 3} {
				_, err := unix.Seek(fd, whole[i].next, 0)
				ok(t, err)
				rest := all(t, fd)
				same(t, "entries behind", len(rest), len(whole)-i-1)
				for j := range rest {
					same(t, "entry", rest[j].name, whole[i+1+j].name)
				}
			}
		}},
		{"cookies outlive removal", func(t *testing.T, dir string) {
			fill(t, dir, 150)
			fd := int(open(t, dir, os.O_RDONLY).Fd())
			whole := all(t, fd)
			for _, e := range whole[:100] {
				if e.name[0] != '.' {
					ok(t, unix.Unlink(dir+"/"+e.name))
				}
			}
			_, err := unix.Seek(fd, whole[99].next, 0)
			ok(t, err)
			rest := map[string]bool{}
			for _, e := range all(t, fd) {
				rest[e.name] = true
			}
			for _, e := range whole[100:] {
				if e.name[0] != '.' && !rest[e.name] {
					t.Errorf("%s is missing", e.name)
				}
			}
		}},
		{"rewinding shows what is new", func(t *testing.T, dir string) {
			fill(t, dir, 5)
			fd := int(open(t, dir, os.O_RDONLY).Fd())
			same(t, "entries", len(all(t, fd)), 7)
			ok(t, unix.Unlink(dir+"/file-000"))
			write(t, dir+"/new1", "")
			write(t, dir+"/new2", "")
			_, err := unix.Seek(fd, 0, 0)
			ok(t, err)
			same(t, "entries after rewinding", len(all(t, fd)), 8)
		}},
		{"removing while listing", func(t *testing.T, dir string) {
			fill(t, dir, 300)
			fd := int(open(t, dir, os.O_RDONLY).Fd())
			for {
				l := getdents(t, fd, 500)
				if len(l) == 0 {
					break
				}
				for _, e := range l {
					if e.name[0] != '.' {
						ok(t, unix.Unlink(dir+"/"+e.name))
					}
				}
			}
			l, err := os.ReadDir(dir)
			ok(t, err)
			same(t, "left over", len(l), 0)
		}},
		{"too small a buffer", func(t *testing.T, dir string) {
			write(t, dir+"/"+strings.Repeat("n", 200), "")
			fd := int(open(t, dir, os.O_RDONLY).Fd())
			buf := make([]byte, 100)
			for {
				n, err := unix.Getdents(fd, buf)
				if err != nil {
					want(t, "getdents", err, unix.EINVAL)
					return
				}
				if n == 0 {
					t.Fatal("the long name was left out")
				}
			}
		}},
		{"counts of links", func(t *testing.T, dir string) {
			ok(t, os.Mkdir(dir+"/d", 0o755))
			same(t, "an empty one", stat(t, dir+"/d").Nlink, 2)
			for i := range 3 {
				ok(t, os.Mkdir(fmt.Sprint(dir, "/d/", i), 0o755))
			}
			write(t, dir+"/d/f", "")
			same(t, "with three in it", stat(t, dir+"/d").Nlink, 5)
			ok(t, unix.Rmdir(dir+"/d/0"))
			same(t, "with two in it", stat(t, dir+"/d").Nlink, 4)
		}},
		{"statfs", func(t *testing.T, dir string) {
			var fs, sub unix.Statfs_t
			ok(t, unix.Statfs(dir, &fs))
			same(t, "longest name", fs.Namelen, 255)
			if fs.Bsize <= 0 || fs.Blocks == 0 || fs.Bfree > fs.Blocks || fs.Bavail > fs.Bfree || fs.Ffree > fs.Files || fs.Files == 0 {
				t.Errorf("statfs: %+v", fs)
			}
			f := open(t, dir+"/f", os.O_CREATE|os.O_RDWR)
			ok(t, unix.Fstatfs(int(f.Fd()), &sub))
			same(t, "type", sub.Type, fs.Type)
			same(t, "blocks", sub.Blocks, fs.Blocks)
		}},
		{"fsync of a directory, syncfs", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			d := open(t, dir, os.O_RDONLY)
			ok(t, unix.Fsync(int(d.Fd())))
			ok(t, unix.Fdatasync(int(d.Fd())))
			ok(t, unix.Syncfs(int(d.Fd())))
		}},
	}
}

func mistakes() []Case {
	return []Case{
		{"of paths", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			var st unix.Stat_t
			want(t, "through a file", unix.Stat(dir+"/f/x", &st), unix.ENOTDIR)
			want(t, "through nothing", unix.Stat(dir+"/n/x", &st), unix.ENOENT)
			want(t, "mkdir in nothing", unix.Mkdir(dir+"/n/x", 0o755), unix.ENOENT)
			want(t, "too long a path", unix.Stat(dir+strings.Repeat("/x", 2048), &st), unix.ENAMETOOLONG)
			want(t, "no path", unix.Stat("", &st), unix.ENOENT)
		}},
		{"of directories", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			ok(t, os.MkdirAll(dir+"/d/in", 0o755))
			want(t, "rmdir of a full one", unix.Rmdir(dir+"/d"), unix.ENOTEMPTY)
			want(t, "rmdir of a file", unix.Rmdir(dir+"/f"), unix.ENOTDIR)
			want(t, "unlink of a directory", unix.Unlink(dir+"/d"), unix.EISDIR)
			_, err := unix.Open(dir+"/d", unix.O_WRONLY, 0)
			want(t, "open to write", err, unix.EISDIR)
			_, err = unix.Open(dir+"/f", unix.O_RDONLY|unix.O_DIRECTORY, 0)
			want(t, "a file as a directory", err, unix.ENOTDIR)
			fd := int(open(t, dir+"/d", os.O_RDONLY).Fd())
			_, err = unix.Read(fd, make([]byte, 10))
			want(t, "read", err, unix.EISDIR)
		}},
		{"of descriptors", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			r, w := open(t, dir+"/f", os.O_RDONLY), open(t, dir+"/f", os.O_WRONLY)
			_, err := unix.Write(int(r.Fd()), []byte("x"))
			want(t, "write", err, unix.EBADF)
			_, err = unix.Read(int(w.Fd()), make([]byte, 1))
			want(t, "read", err, unix.EBADF)
			_, err = unix.Seek(int(r.Fd()), -1, 0)
			want(t, "seek before the beginning", err, unix.EINVAL)
			_, err = unix.Pread(int(r.Fd()), make([]byte, 1), -1)
			want(t, "read before the beginning", err, unix.EINVAL)
			_, err = unix.Getdents(int(r.Fd()), make([]byte, 100))
			want(t, "list a file", err, unix.ENOTDIR)
		}},
		{"a program in use is not written to", func(t *testing.T, dir string) {
			b, err := os.ReadFile("/bin/sleep")
			ok(t, err)
			ok(t, os.WriteFile(dir+"/sleep", b, 0o755))
			p, err := os.StartProcess(dir+"/sleep", []string{"sleep", "60"}, &os.ProcAttr{})
			ok(t, err)
			defer p.Wait()
			defer p.Kill()
			_, err = unix.Open(dir+"/sleep", unix.O_WRONLY, 0)
			want(t, "open to write", err, unix.ETXTBSY)
		}},
	}
}
