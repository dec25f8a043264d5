// Package syscalls holds what system calls must do on a file system as programs
// know it, by subject: each Case is a function on an empty directory. The same
// cases are run on a mount of TNV and on the local disk, which so judges the
// suite itself: an expectation that the local disk does not meet is wrong.
package syscalls

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Case is one thing that is expected. It works in a directory of its own, as root.
type Case struct {
	Name string
	Run  func(t *testing.T, dir string)
}

// Subject is what cases have in common.
type Subject struct {
	Name  string
	Cases []Case
}

// All are the subjects.
func All() []Subject {
	return []Subject{
		{"names", names()}, {"links", links()}, {"rename", renames()}, {"permission", permissions()},
		{"times", times()}, {"xattr", xattrs()}, {"content", content()}, {"mmap", mapped()},
		{"unlinked", unlinked()}, {"directories", directories()}, {"errors", mistakes()}, {"locks", locks()},
	}
}

// Run runs all cases in directories beneath dir.
func Run(t *testing.T, dir string) {
	old := syscall.Umask(0o022)
	defer syscall.Umask(old)
	for _, s := range All() {
		t.Run(s.Name, func(t *testing.T) {
			for _, c := range s.Cases {
				t.Run(c.Name, func(t *testing.T) {
					own, err := os.MkdirTemp(dir, s.Name)
					ok(t, err)
					ok(t, os.Chmod(own, 0o777))
					c.Run(t, own)
				})
			}
		})
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want checks that a call failed with one of these errors.
func want(t testing.TB, what string, err error, either ...error) {
	t.Helper()
	for _, e := range either {
		if errors.Is(err, e) {
			return
		}
	}
	t.Errorf("%s: %v, want %v", what, err, either)
}

// same compares.
func same[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func stat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	ok(t, unix.Lstat(path, &st))
	return st
}

func mode(t testing.TB, path string) uint32 {
	t.Helper()
	return stat(t, path).Mode & 0o7777
}

func write(t testing.TB, path, data string) {
	t.Helper()
	ok(t, os.WriteFile(path, []byte(data), 0o644))
}

func holds(t testing.TB, path, data string) {
	t.Helper()
	b, err := os.ReadFile(path)
	ok(t, err)
	same(t, "content of "+path, string(b), data)
}

func gone(t testing.TB, path string) {
	t.Helper()
	var st unix.Stat_t
	want(t, "stat of what is gone", unix.Lstat(path, &st), unix.ENOENT)
}

// open opens a file until the test ends.
func open(t testing.TB, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0o644)
	ok(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// as runs fn on a thread of its own as another user with these groups; the thread
// ends with it. fn must not end the test.
func as(t testing.TB, uid int, groups []uint32, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends
		if err := become(uid, groups); err != nil {
			t.Errorf("become user %d: %v", uid, err)
			return
		}
		fn()
	}()
	<-done
}
