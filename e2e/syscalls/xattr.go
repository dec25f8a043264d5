package syscalls

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func getxattr(t testing.TB, path, name string) string {
	t.Helper()
	b := make([]byte, 70000)
	n, err := unix.Lgetxattr(path, name, b)
	ok(t, err)
	return string(b[:n])
}

func listxattr(t testing.TB, path string) []string {
	t.Helper()
	b := make([]byte, 70000)
	n, err := unix.Llistxattr(path, b)
	ok(t, err)
	l := strings.Split(strings.TrimSuffix(string(b[:n]), "\x00"), "\x00")
	l = slices.DeleteFunc(l, func(s string) bool { return s == "" || strings.HasPrefix(s, "security.selinux") })
	slices.Sort(l)
	return l
}

func xattrs() []Case {
	return []Case{
		{"set, get, list, remove", func(t *testing.T, dir string) {
			ok(t, os.Mkdir(dir+"/d", 0o755))
			write(t, dir+"/f", "x")
			for _, p := range []string{dir + "/f", dir + "/d"} {
				ok(t, unix.Setxattr(p, "user.a", []byte("one"), 0))
				ok(t, unix.Setxattr(p, "user.b", nil, 0))
				ok(t, unix.Setxattr(p, "trusted.c", []byte("\x00\xff"), 0))
				same(t, "value", getxattr(t, p, "user.a"), "one")
				same(t, "empty value", getxattr(t, p, "user.b"), "")
				same(t, "binary value", getxattr(t, p, "trusted.c"), "\x00\xff")
				same(t, "list", fmt.Sprint(listxattr(t, p)), "[trusted.c user.a user.b]")
				ok(t, unix.Removexattr(p, "user.a"))
				_, err := unix.Getxattr(p, "user.a", make([]byte, 10))
				want(t, "get what is gone", err, unix.ENODATA)
				want(t, "remove what is gone", unix.Removexattr(p, "user.a"), unix.ENODATA)
			}
		}},
		{"make new, replace", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			want(t, "replace nothing", unix.Setxattr(dir+"/f", "user.a", []byte("1"), unix.XATTR_REPLACE), unix.ENODATA)
			ok(t, unix.Setxattr(dir+"/f", "user.a", []byte("1"), unix.XATTR_CREATE))
			want(t, "make it twice", unix.Setxattr(dir+"/f", "user.a", []byte("2"), unix.XATTR_CREATE), unix.EEXIST)
			ok(t, unix.Setxattr(dir+"/f", "user.a", []byte("3"), unix.XATTR_REPLACE))
			same(t, "value", getxattr(t, dir+"/f", "user.a"), "3")
		}},
		{"sizes", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			ok(t, unix.Setxattr(dir+"/f", "user.a", []byte("value"), 0))
			n, err := unix.Getxattr(dir+"/f", "user.a", nil)
			ok(t, err)
			same(t, "asked size", n, 5)
			_, err = unix.Getxattr(dir+"/f", "user.a", make([]byte, 4))
			want(t, "too small a buffer", err, unix.ERANGE)
			_, err = unix.Listxattr(dir+"/f", make([]byte, 1))
			want(t, "too small a buffer for the list", err, unix.ERANGE)
			ok(t, unix.Setxattr(dir+"/f", "user.a", []byte(strings.Repeat("v", 2000)), 0))
			want(t, "too large a value", unix.Setxattr(dir+"/f", "user.a", make([]byte, 65537), 0), unix.E2BIG)
			ok(t, unix.Setxattr(dir+"/f", "user."+strings.Repeat("n", 250), []byte("x"), 0))
			want(t, "too long a name", unix.Setxattr(dir+"/f", "user."+strings.Repeat("n", 251), []byte("x"), 0), unix.ERANGE)
		}},
		{"namespaces", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			ok(t, os.Chmod(dir+"/f", 0o666))
			ok(t, unix.Symlink("f", dir+"/l"))
			want(t, "no namespace", unix.Setxattr(dir+"/f", "plain", []byte("x"), 0), unix.EOPNOTSUPP)
			want(t, "user. of a link", unix.Lsetxattr(dir+"/l", "user.a", []byte("x"), 0), unix.EPERM)
			ok(t, unix.Lsetxattr(dir+"/l", "trusted.a", []byte("x"), 0))
			same(t, "trusted. of a link", getxattr(t, dir+"/l", "trusted.a"), "x")
			ok(t, unix.Setxattr(dir+"/f", "trusted.t", []byte("x"), 0))
			as(t, user, []uint32{user}, func() {
				same(t, "user.", unix.Setxattr(dir+"/f", "user.a", []byte("x"), 0), nil)
				want(t, "trusted.", unix.Setxattr(dir+"/f", "trusted.a", []byte("x"), 0), unix.EPERM)
				_, err := unix.Getxattr(dir+"/f", "trusted.t", make([]byte, 10))
				want(t, "reading trusted.", err, unix.ENODATA)
			})
			ok(t, os.Chmod(dir+"/f", 0o600))
			as(t, user, []uint32{user}, func() {
				want(t, "without the right to write", unix.Setxattr(dir+"/f", "user.a", []byte("x"), 0), unix.EACCES)
			})
		}},
		{"they follow the file", func(t *testing.T, dir string) {
			write(t, dir+"/f", "x")
			ok(t, unix.Setxattr(dir+"/f", "user.a", []byte("1"), 0))
			ok(t, unix.Link(dir+"/f", dir+"/g"))
			ok(t, unix.Rename(dir+"/f", dir+"/h"))
			for _, n := range []string{"/g", "/h"} {
				same(t, n, getxattr(t, dir+n, "user.a"), "1")
			}
		}},
	}
}
