package syscalls

import (
	"bytes"
	"io"
	"os"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Long because it is a list of cases.
func content() []Case {
	return []Case{
		{"holes read as zeros", func(t *testing.T, dir string) {
			f := open(t, dir+"/f", os.O_CREATE|os.O_RDWR)
			for _, at := range []int64{10 << 20, 1 << 20, 70 << 20} {
				_, err := f.WriteAt([]byte("data"), at)
				ok(t, err)
			}
			same(t, "size", stat(t, dir+"/f").Size, 70<<20+4)
			b := make([]byte, 8)
			for at, s := range map[int64]string{0: "", 1<<20 - 4: "\x00\x00\x00\x00data", 1 << 20: "data", 5 << 20: "", 64<<20 - 4: "", 70<<20 - 4: "\x00\x00\x00\x00data"} {
				_, err := f.ReadAt(b, at)
				ok(t, err)
				same(t, "bytes", string(b), s+string(make([]byte, 8-len(s))))
			}
			ok(t, f.Sync())
			if n := stat(t, dir+"/f").Blocks * 512; n > 8<<20 || n < 12 {
				t.Errorf("12 bytes of data take %d", n)
			}
		}},
		{"truncation", func(t *testing.T, dir string) {
			write(t, dir+"/f", "0123456789")
			ok(t, unix.Truncate(dir+"/f", 4))
			ok(t, unix.Truncate(dir+"/f", 8))
			holds(t, dir+"/f", "0123\x00\x00\x00\x00")
			f := open(t, dir+"/f", os.O_RDWR)
			ok(t, f.Truncate(0))
			_, err := f.WriteAt([]byte("x"), 3)
			ok(t, err)
			holds(t, dir+"/f", "\x00\x00\x00x")
			r := open(t, dir+"/f", os.O_RDONLY)
			want(t, "of a file open to read", unix.Ftruncate(int(r.Fd()), 0), unix.EINVAL, unix.EBADF)
			want(t, "to less than nothing", unix.Truncate(dir+"/f", -1), unix.EINVAL)
			want(t, "of a directory", unix.Truncate(dir, 0), unix.EISDIR)
		}},
		{"the cut bytes do not come back", func(t *testing.T, dir string) {
			data := bytes.Repeat([]byte("x"), 300000)
			for _, at := range []int64{0, 1, 4095, 4096, 131072, 299999} {
				ok(t, os.WriteFile(dir+"/f", data, 0o644))
				ok(t, unix.Truncate(dir+"/f", at))
				ok(t, unix.Truncate(dir+"/f", 300000))
				got, err := os.ReadFile(dir + "/f")
				ok(t, err)
				same(t, "bytes left", bytes.Equal(got, append(bytes.Repeat([]byte("x"), int(at)), make([]byte, 300000-at)...)), true)
			}
		}},
		{"very large files", func(t *testing.T, dir string) {
			f := open(t, dir+"/f", os.O_CREATE|os.O_RDWR)
			const at = 8 << 40 // of 16 TiB that ext4 allows
			_, err := f.WriteAt([]byte("end"), at)
			ok(t, err)
			same(t, "size", stat(t, dir+"/f").Size, at+3)
			b := make([]byte, 3)
			_, err = f.ReadAt(b, at)
			ok(t, err)
			same(t, "data", string(b), "end")
			_, err = unix.Pwrite(int(f.Fd()), []byte("x"), 1<<63-1)
			want(t, "beyond all", err, unix.EFBIG, unix.EINVAL)
		}},
		{"reading at and behind the end", func(t *testing.T, dir string) {
			write(t, dir+"/f", "0123456789")
			f := open(t, dir+"/f", os.O_RDONLY)
			b := make([]byte, 20)
			n, err := f.ReadAt(b, 5)
			same(t, "short", n, 5)
			want(t, "its end", err, io.EOF)
			n, _ = f.ReadAt(b, 100)
			same(t, "behind", n, 0)
		}},
		{"O_APPEND", func(t *testing.T, dir string) {
			write(t, dir+"/f", "0123")
			f := open(t, dir+"/f", os.O_APPEND|os.O_RDWR)
			n, err := unix.Pwrite(int(f.Fd()), []byte("45"), 0) // Linux appends all the same
			ok(t, err)
			same(t, "written", n, 2)
			_, err = f.Write([]byte("67"))
			ok(t, err)
			pos, err := f.Seek(0, io.SeekCurrent)
			ok(t, err)
			same(t, "offset", pos, 8)
			holds(t, dir+"/f", "01234567")
		}},
		{"appends do not overwrite each other", func(t *testing.T, dir string) {
			var wg sync.WaitGroup
			for c := range 4 {
				f := open(t, dir+"/f", os.O_CREATE|os.O_APPEND|os.O_WRONLY)
				wg.Go(func() {
					for range 50 {
						if _, err := f.Write(bytes.Repeat([]byte{byte('a' + c)}, 100)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b, err := os.ReadFile(dir + "/f")
			ok(t, err)
			same(t, "size", len(b), 4*50*100)
			for at := 0; at < len(b); at += 100 {
				if len(bytes.Trim(b[at:at+100], string(b[at:at+1]))) != 0 {
					t.Fatalf("the record at %d is torn", at)
				}
			}
		}},
		{"O_DIRECT", func(t *testing.T, dir string) {
			f := open(t, dir+"/f", os.O_CREATE|os.O_RDWR|unix.O_DIRECT)
			buf := aligned(8192)
			copy(buf, bytes.Repeat([]byte("direct__"), 1024))
			n, err := f.WriteAt(buf, 4096)
			ok(t, err)
			same(t, "written", n, 8192)
			holds(t, dir+"/f", string(make([]byte, 4096))+string(buf))
			got := aligned(8192)
			n, err = f.ReadAt(got, 4096)
			ok(t, err)
			same(t, "read", n == 8192 && bytes.Equal(got, buf), true)
			// What is written past the cache shows through it, and the other way.
			g := open(t, dir+"/f", os.O_RDWR)
			_, err = g.WriteAt([]byte("CACHED__"), 4096)
			ok(t, err)
			n, err = f.ReadAt(got, 4096)
			ok(t, err)
			same(t, "read", n == 8192 && string(got[:16]) == "CACHED__direct__", true)
		}},
		{"two descriptors see one content", func(t *testing.T, dir string) {
			a, b := open(t, dir+"/f", os.O_CREATE|os.O_RDWR), open(t, dir+"/f", os.O_RDWR)
			got := make([]byte, 1)
			for i := range 200 {
				_, err := a.WriteAt([]byte{byte(i)}, int64(i%7))
				ok(t, err)
				_, err = b.ReadAt(got, int64(i%7))
				ok(t, err)
				same(t, "byte", got[0], byte(i))
			}
		}},
		{"copy_file_range and sendfile", func(t *testing.T, dir string) {
			write(t, dir+"/f", "0123456789")
			f, g := open(t, dir+"/f", os.O_RDONLY), open(t, dir+"/g", os.O_CREATE|os.O_RDWR)
			off := int64(2)
			n, err := unix.CopyFileRange(int(f.Fd()), &off, int(g.Fd()), nil, 5, 0)
			ok(t, err)
			same(t, "copied", n, 5)
			same(t, "offset", off, 7)
			n, err = unix.Sendfile(int(g.Fd()), int(f.Fd()), nil, 3)
			ok(t, err)
			same(t, "sent", n, 3)
			holds(t, dir+"/g", "23456012")
		}},
	}
}

// aligned is memory as O_DIRECT wants it.
func aligned(n int) []byte {
	b := make([]byte, n+4096)
	skip := 4096 - int(uintptr(unsafe.Pointer(&b[0]))%4096)
	return b[skip : skip+n]
}
