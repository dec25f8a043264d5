package syscalls

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func mmap(t testing.TB, f *os.File, n, prot, flags int) []byte {
	t.Helper()
	m, err := unix.Mmap(int(f.Fd()), 0, n, prot, flags)
	ok(t, err)
	t.Cleanup(func() { unix.Munmap(m) })
	return m
}

func mapped() []Case {
	const rw = unix.PROT_READ | unix.PROT_WRITE
	return []Case{
		{"shared", func(t *testing.T, dir string) {
			ok(t, os.WriteFile(dir+"/f", bytes.Repeat([]byte("."), 10000), 0o644))
			f := open(t, dir+"/f", os.O_RDWR)
			m := mmap(t, f, 10000, rw, unix.MAP_SHARED)
			copy(m[5000:], "mapped")
			b := make([]byte, 6)
			_, err := f.ReadAt(b, 5000)
			ok(t, err)
			same(t, "what read sees", string(b), "mapped")
			_, err = f.WriteAt([]byte("written"), 9000)
			ok(t, err)
			same(t, "what the mapping sees", string(m[9000:9007]), "written")
			ok(t, unix.Msync(m, unix.MS_SYNC))
			got, err := os.ReadFile(dir + "/f")
			ok(t, err)
			same(t, "the file", string(got[4999:5007])+string(got[8999:9008]), ".mapped."+".written.")
		}},
		{"private", func(t *testing.T, dir string) {
			write(t, dir+"/f", "original")
			f := open(t, dir+"/f", os.O_RDONLY)
			m := mmap(t, f, 8, rw, unix.MAP_PRIVATE)
			copy(m, "CHANGED!")
			holds(t, dir+"/f", "original")
		}},
		{"outlives its descriptor and its name", func(t *testing.T, dir string) {
			write(t, dir+"/f", "content")
			f := open(t, dir+"/f", os.O_RDWR)
			m := mmap(t, f, 7, rw, unix.MAP_SHARED)
			ok(t, f.Close())
			copy(m, "CONTENT")
			ok(t, unix.Msync(m, unix.MS_SYNC))
			holds(t, dir+"/f", "CONTENT")
			ok(t, unix.Unlink(dir+"/f"))
			copy(m, "unnamed")
			ok(t, unix.Msync(m, unix.MS_SYNC))
			same(t, "mapping", string(m), "unnamed")
		}},
		{"is written without msync", func(t *testing.T, dir string) {
			write(t, dir+"/f", "content")
			f := open(t, dir+"/f", os.O_RDWR)
			m, err := unix.Mmap(int(f.Fd()), 0, 7, rw, unix.MAP_SHARED)
			ok(t, err)
			copy(m, "CONTENT")
			ok(t, unix.Munmap(m))
			ok(t, f.Close())
			holds(t, dir+"/f", "CONTENT")
		}},
		{"does not lengthen the file", func(t *testing.T, dir string) {
			write(t, dir+"/f", "content")
			f := open(t, dir+"/f", os.O_RDWR)
			m := mmap(t, f, 4096, rw, unix.MAP_SHARED)
			copy(m[7:], "beyond")
			ok(t, unix.Msync(m, unix.MS_SYNC))
			holds(t, dir+"/f", "content")
			ok(t, f.Truncate(20))
			same(t, "size", stat(t, dir+"/f").Size, 20)
		}},
		{"needs the right to write", func(t *testing.T, dir string) {
			write(t, dir+"/f", "content")
			f := open(t, dir+"/f", os.O_RDONLY)
			_, err := unix.Mmap(int(f.Fd()), 0, 7, rw, unix.MAP_SHARED)
			want(t, "a shared one", err, unix.EACCES)
			d := open(t, dir, os.O_RDONLY)
			_, err = unix.Mmap(int(d.Fd()), 0, 7, unix.PROT_READ, unix.MAP_PRIVATE)
			want(t, "of a directory", err, unix.ENODEV)
		}},
	}
}

func unlinked() []Case {
	return []Case{
		{"an open file without a name", func(t *testing.T, dir string) {
			f := open(t, dir+"/f", os.O_CREATE|os.O_RDWR)
			_, err := f.WriteString("content")
			ok(t, err)
			ok(t, unix.Unlink(dir+"/f"))
			gone(t, dir+"/f")
			_, err = f.WriteString(" and more")
			ok(t, err)
			ok(t, f.Sync())
			b := make([]byte, 16)
			_, err = f.ReadAt(b, 0)
			ok(t, err)
			same(t, "content", string(b), "content and more")
			ok(t, f.Truncate(3))
			ok(t, f.Chmod(0o600))
			ok(t, f.Chown(5, 6))
			ok(t, unix.Fsetxattr(int(f.Fd()), "user.a", []byte("x"), 0))
			var st unix.Stat_t
			ok(t, unix.Fstat(int(f.Fd()), &st))
			same(t, "links", st.Nlink, 0)
			same(t, "size", st.Size, 3)
			same(t, "mode", st.Mode&0o7777, 0o600)
			same(t, "owner", st.Uid, 5)
			write(t, dir+"/f", "another")
			_, err = f.ReadAt(b[:3], 0)
			ok(t, err)
			same(t, "content", string(b[:3]), "con")
		}},
		{"it can be opened again by its descriptor", func(t *testing.T, dir string) {
			f := open(t, dir+"/f", os.O_CREATE|os.O_RDWR)
			_, err := f.WriteString("content")
			ok(t, err)
			ok(t, unix.Unlink(dir+"/f"))
			fd, err := unix.Open("/proc/self/fd/"+itoa(int(f.Fd())), unix.O_RDONLY, 0)
			ok(t, err)
			defer unix.Close(fd)
			b := make([]byte, 7)
			_, err = unix.Pread(fd, b, 0)
			ok(t, err)
			same(t, "content", string(b), "content")
		}},
		{"a directory in use", func(t *testing.T, dir string) {
			ok(t, os.Mkdir(dir+"/d", 0o755))
			d := open(t, dir+"/d", os.O_RDONLY)
			ok(t, unix.Rmdir(dir+"/d"))
			_, err := unix.Openat(int(d.Fd()), "f", unix.O_CREAT|unix.O_WRONLY, 0o644)
			want(t, "create in it", err, unix.ENOENT)
			want(t, "mkdir in it", unix.Mkdirat(int(d.Fd()), "d", 0o755), unix.ENOENT)
			_, err = unix.Getdents(int(d.Fd()), make([]byte, 1000))
			want(t, "list it", err, unix.ENOENT)
			ok(t, os.Mkdir(dir+"/d", 0o755))
			write(t, dir+"/d/f", "x")
			_, err = unix.Openat(int(d.Fd()), "f", unix.O_RDONLY, 0)
			want(t, "the new one is another", err, unix.ENOENT)
		}},
	}
}
