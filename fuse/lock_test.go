package fuse_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv/fuse"
	"github.com/tnvfs/tnv/fuse/fusetest"
)

func open(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// fcntl asks for a lock on a range; end 0 is to the end of the file.
func fcntl(f *os.File, cmd int, typ int16, start, length int64) error {
	return unix.FcntlFlock(f.Fd(), cmd, &unix.Flock_t{Type: typ, Start: start, Len: length})
}

// Kernel and adapter agree on who has a lock and when it ends. A process's own
// fcntl locks are looked at through those of an open file (F_OFD_), which
// exclude them.
func TestLocks(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	p := m.dir + "/f"
	must(t, os.WriteFile(p, []byte("0123456789"), 0o644))
	a, b := open(t, p, os.O_RDWR), open(t, p, os.O_RDWR)

	must(t, unix.Flock(int(a.Fd()), unix.LOCK_EX))
	wantErr(t, "flock", unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
	must(t, fcntl(b, unix.F_SETLK, unix.F_WRLCK, 0, 0)) // the other kind
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_SH))
	must(t, unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB))
	must(t, unix.Flock(int(b.Fd()), unix.LOCK_UN))
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_EX))
	must(t, fcntl(b, unix.F_SETLK, unix.F_UNLCK, 0, 0))

	// The last close of an open file ends its flock, one of a copy does not.
	dup, err := unix.Dup(int(a.Fd()))
	must(t, err)
	must(t, a.Close())
	wantErr(t, "flock", unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
	must(t, unix.Close(dup))
	must(t, unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB)) // RELEASE may be on its way
	must(t, unix.Flock(int(b.Fd()), unix.LOCK_UN))

	// Any close of the file by the process ends its fcntl locks, be it for reading.
	must(t, fcntl(b, unix.F_SETLK, unix.F_WRLCK, 2, 3))
	other := open(t, p, os.O_RDWR)
	k := unix.Flock_t{Type: unix.F_RDLCK}
	must(t, unix.FcntlFlock(other.Fd(), unix.F_OFD_GETLK, &k))
	if k.Type != unix.F_WRLCK || k.Start != 2 || k.Len != 3 {
		t.Errorf("in the way: %+v", k)
	}
	wantErr(t, "a lock of an open file", fcntl(other, unix.F_OFD_SETLK, unix.F_RDLCK, 4, 1), unix.EAGAIN)
	must(t, fcntl(other, unix.F_OFD_SETLK, unix.F_WRLCK, 5, 1))
	must(t, open(t, p, os.O_RDONLY).Close())
	must(t, fcntl(other, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 0))

	// A lock of an open file ends with it, and is not the process's.
	wantErr(t, "fcntl", fcntl(b, unix.F_SETLK, unix.F_RDLCK, 9, 1), unix.EAGAIN)
	must(t, open(t, p, os.O_RDONLY).Close())
	wantErr(t, "fcntl", fcntl(b, unix.F_SETLK, unix.F_RDLCK, 9, 1), unix.EAGAIN)
	must(t, other.Close())
	eventually(t, "the lock of a closed file is gone", func() bool { return fcntl(b, unix.F_SETLK, unix.F_WRLCK, 0, 0) == nil })
}

// A wait ends with the lock, and any signal to who waits ends it at once.
func TestLockWaits(t *testing.T) {
	m := mountBackend(t, fusetest.New(), fuse.Options{})
	p := m.dir + "/f"
	must(t, os.WriteFile(p, nil, 0o644))
	a, b := open(t, p, os.O_RDWR), open(t, p, os.O_RDWR)
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_EX))
	got := make(chan error, 1)
	go func() { got <- unix.Flock(int(b.Fd()), unix.LOCK_EX) }()
	select {
	case err := <-got:
		t.Fatalf("locked twice: %v", err)
	case <-time.After(100 * time.Millisecond):
	}

	// flock(1) is woken from its wait by a timer's signal.
	start := time.Now()
	var exit *exec.ExitError
	err := exec.Command("flock", "--timeout", "0.2", "--conflict-exit-code", "7", p, "true").Run()
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || time.Since(start) > 5*time.Second {
		t.Errorf("flock -w (of util-linux): %v after %v", err, time.Since(start))
	}
	killed := exec.Command("flock", p, "true")
	must(t, killed.Start())
	time.Sleep(100 * time.Millisecond)
	must(t, killed.Process.Kill())
	start = time.Now()
	killed.Wait()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("a process that waited took %v to die", d)
	}
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_UN))
	must(t, <-got)
	must(t, unix.Flock(int(b.Fd()), unix.LOCK_UN))
	must(t, unix.Flock(int(a.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}
