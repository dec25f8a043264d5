package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lockOrder is what a locker is told to do with its file.
type lockOrder struct {
	Do    string // "flock", "fcntl", "getlk", "reopen" (close the file, and open it again)
	Mode  int16  // unix.F_RDLCK, F_WRLCK or F_UNLCK
	Wait  bool
	Start int64
	Len   int64
}

// lockDone is how that went, and when it was over.
type lockDone struct {
	Errno syscall.Errno
	At    int64 // nanoseconds since 1970
	Lock  unix.Flock_t
}

// lockerMain is a process that opens the file it is told, and locks it as it is told.
func lockerMain() int {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var path string
	if err := in.Decode(&path); err != nil {
		return 1
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	for err == nil {
		var o lockOrder
		if in.Decode(&o) != nil {
			return 0
		}
		var d lockDone
		k := unix.Flock_t{Type: o.Mode, Start: o.Start, Len: o.Len}
		var failed error
		switch o.Do {
		case "flock":
			how := map[int16]int{unix.F_RDLCK: unix.LOCK_SH, unix.F_WRLCK: unix.LOCK_EX, unix.F_UNLCK: unix.LOCK_UN}[o.Mode]
			if !o.Wait {
				how |= unix.LOCK_NB
			}
			failed = unix.Flock(int(f.Fd()), how)
		case "fcntl":
			cmd := unix.F_SETLK
			if o.Wait {
				cmd = unix.F_SETLKW
			}
			failed = unix.FcntlFlock(f.Fd(), cmd, &k)
		case "getlk":
			failed = unix.FcntlFlock(f.Fd(), unix.F_GETLK, &k)
			d.Lock = k
		case "reopen":
			f.Close()
			f, err = os.OpenFile(path, os.O_RDWR, 0)
		}
		errors.As(failed, &d.Errno)
		d.At = time.Now().UnixNano()
		out.Encode(d)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// locker is such a process, as the test sees it.
type locker struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out chan lockDone
}

func startLocker(t *testing.T, path string) *locker {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := &locker{t: t, cmd: exec.Command(exe), out: make(chan lockDone, 16)}
	l.cmd.Env = append(os.Environ(), workEnv+"=locker")
	l.cmd.Stderr = os.Stderr
	l.in, _ = l.cmd.StdinPipe()
	out, _ := l.cmd.StdoutPipe()
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.kill)
	go func() {
		defer close(l.out)
		for d := json.NewDecoder(bufio.NewReader(out)); ; {
			var done lockDone
			if d.Decode(&done) != nil {
				return
			}
			l.out <- done
		}
	}()
	json.NewEncoder(l.in).Encode(path)
	return l
}

func (l *locker) kill() {
	l.in.Close()
	l.cmd.Process.Kill()
	go l.cmd.Wait()
}

func (l *locker) order(o lockOrder) { json.NewEncoder(l.in).Encode(o) }

// answer waits for the answer to an order.
func (l *locker) answer(limit time.Duration) lockDone {
	l.t.Helper()
	select {
	case d, ok := <-l.out:
		if !ok {
			l.t.Fatal("the locker is gone")
		}
		return d
	case <-time.After(limit):
		l.t.Fatalf("no answer within %v", limit)
		return lockDone{}
	}
}

// want gives an order that must have a certain outcome at once.
func (l *locker) want(o lockOrder, errno syscall.Errno) lockDone {
	l.t.Helper()
	l.order(o)
	d := l.answer(10 * time.Second)
	if d.Errno != errno {
		l.t.Fatalf("%+v: %v, want %v", o, d.Errno, errno)
	}
	return d
}

// waits gives an order that has no answer yet.
func (l *locker) waits(o lockOrder) {
	l.t.Helper()
	o.Wait = true
	l.order(o)
	select {
	case d := <-l.out:
		l.t.Fatalf("%+v did not wait: %v", o, d.Errno)
	case <-time.After(150 * time.Millisecond):
	}
}

func flockTo(mode int16) lockOrder { return lockOrder{Do: "flock", Mode: mode} }

func fcntlTo(mode int16, start, length int64) lockOrder {
	return lockOrder{Do: "fcntl", Mode: mode, Start: start, Len: length}
}

// startSecondMount mounts the volume once more, by a process of its own that the test can kill.
func startSecondMount(t *testing.T, c *Cluster) (dir string, daemon *exec.Cmd) {
	t.Helper()
	dir = filepath.Join(c.Base, "m2")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	daemon = exec.Command(Program("tnv"), "mount", "--dir", c.Dir, "-o", "foreground", dir)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() })
	for end := time.Now().Add(20 * time.Second); len(mountsBelow(c.Base)) < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the second mount does not come up")
		}
	}
	return dir, daemon
}

// Locks between processes of one mount and of two: who has them, when they are
// handed over, and what ends them.
func TestLocks(t *testing.T) {
	c := Start(t, Options{NoHTTP: true})
	second, daemon := startSecondMount(t, c)
	if err := os.WriteFile(filepath.Join(c.Mount, "f"), []byte("locked"), 0o644); err != nil {
		t.Fatal(err)
	}
	here := func() *locker { return startLocker(t, filepath.Join(c.Mount, "f")) }
	there := startLocker(t, filepath.Join(second, "f"))
	a, b := here(), here()
	lockExclusion(a, b, there)
	handOver(t, "flock", flockTo(unix.F_WRLCK), flockTo(unix.F_UNLCK), a, b, there)
	handOver(t, "fcntl", fcntlTo(unix.F_WRLCK, 5, 10), fcntlTo(unix.F_UNLCK, 5, 10), a, b, there)
	lockDeaths(t, a, b, there, here, filepath.Join(c.Mount, "f"))
	lockTracker(t, c, a, there)
	lockMountKilled(t, there, daemon, a, b)
}

func lockExclusion(a, b, there *locker) {
	for _, x := range []*locker{b, there} {
		a.want(flockTo(unix.F_WRLCK), 0)
		x.want(flockTo(unix.F_RDLCK), syscall.EWOULDBLOCK)
		a.want(flockTo(unix.F_RDLCK), 0)
		x.want(flockTo(unix.F_RDLCK), 0)
		x.want(flockTo(unix.F_WRLCK), syscall.EWOULDBLOCK) // and what it had is lost: flock(2)
		a.want(flockTo(unix.F_WRLCK), 0)
		a.want(lockOrder{Do: "reopen"}, 0)
		x.want(flockTo(unix.F_WRLCK), 0)
		x.want(flockTo(unix.F_UNLCK), 0)

		a.want(fcntlTo(unix.F_WRLCK, 10, 0), 0)
		x.want(fcntlTo(unix.F_WRLCK, 0, 10), 0)
		x.want(fcntlTo(unix.F_RDLCK, 9, 2), syscall.EAGAIN)
		got := x.want(lockOrder{Do: "getlk", Mode: unix.F_RDLCK, Start: 0}, 0).Lock
		pid := int32(0)
		if x == b {
			pid = int32(a.cmd.Process.Pid)
		}
		if got.Type != unix.F_WRLCK || got.Start != 10 || got.Len != 0 || got.Pid != pid {
			a.t.Errorf("in the way: %+v, want all from 10 on, of process %d", got, pid)
		}
		// a waits for x, so x must not wait for a.
		a.waits(fcntlTo(unix.F_RDLCK, 5, 1))
		x.want(lockOrder{Do: "fcntl", Mode: unix.F_RDLCK, Start: 20, Len: 1, Wait: true}, syscall.EDEADLK)
		x.want(lockOrder{Do: "reopen"}, 0) // a process's locks end when it closes the file
		if d := a.answer(5 * time.Second); d.Errno != 0 {
			a.t.Errorf("after the other's close: %v", d.Errno)
		}
		a.want(fcntlTo(unix.F_UNLCK, 0, 0), 0)
	}
}

// handOver measures the time from before an unlock to when the one who waits has
// the lock. The median counts: this machine may be busy with something else.
func handOver(t *testing.T, what string, lock, unlock lockOrder, a, b, there *locker) {
	for _, x := range []struct {
		where string
		l     *locker
	}{{"one mount", b}, {"two mounts", there}} {
		took := make([]time.Duration, 11)
		for i := range took {
			a.want(lock, 0)
			x.l.waits(lock)
			start := time.Now()
			a.order(unlock)
			took[i] = time.Duration(x.l.answer(10*time.Second).At - start.UnixNano())
			a.answer(10 * time.Second)
			x.l.want(unlock, 0)
		}
		slices.Sort(took)
		median := took[len(took)/2]
		t.Logf("%s, %s: handed over in %v, at worst %v", what, x.where, median.Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond))
		if median > 50*time.Millisecond {
			t.Errorf("%s, %s: handed over in %v", what, x.where, median)
		}
	}
}

// lockDeaths: an interrupted or killed process holds nothing and waits for nothing.
func lockDeaths(t *testing.T, a, b, there *locker, here func() *locker, path string) {
	for _, kind := range []func(int16) lockOrder{flockTo, func(m int16) lockOrder { return fcntlTo(m, 0, 0) }} {
		dying := here()
		dying.want(kind(unix.F_WRLCK), 0)
		there.waits(kind(unix.F_WRLCK))
		dying.kill()
		if d := there.answer(5 * time.Second); d.Errno != 0 {
			t.Errorf("after the holder's death: %v", d.Errno)
		}
		dying = here()
		dying.waits(kind(unix.F_WRLCK))
		b.waits(kind(unix.F_WRLCK)) // behind it
		dying.kill()
		there.want(kind(unix.F_UNLCK), 0)
		if d := b.answer(5 * time.Second); d.Errno != 0 {
			t.Errorf("behind one who died waiting: %v", d.Errno)
		}
		b.want(kind(unix.F_UNLCK), 0)
	}
	// The signal of its timer interrupts flock(1), which then says so.
	a.want(flockTo(unix.F_WRLCK), 0)
	start := time.Now()
	r := Exec(20*time.Second, "flock", "--timeout", "0.3", "--conflict-exit-code", "9", path, "true")
	if took := time.Since(start); r.Code != 9 || took > 5*time.Second {
		t.Errorf("flock -w: %v after %v", r, took)
	}
	r = Exec(20*time.Second, "perl", "-e", `use Fcntl ':flock'; $SIG{ALRM} = sub {}; open F, '+<', shift or die; alarm 1; print flock(F, LOCK_EX) ? "locked" : $!{EINTR} ? "EINTR" : $!`, path)
	if r.Out != "EINTR" {
		t.Errorf("flock of perl, interrupted: %v", r)
	}
	a.want(flockTo(unix.F_UNLCK), 0)
	there.want(flockTo(unix.F_WRLCK), 0)
	there.want(flockTo(unix.F_UNLCK), 0)
}

// lockTracker: locks and waits are kept over kill -9 of the tracker.
func lockTracker(t *testing.T, c *Cluster, a, there *locker) {
	a.want(flockTo(unix.F_WRLCK), 0)
	a.want(fcntlTo(unix.F_WRLCK, 7, 7), 0)
	there.waits(flockTo(unix.F_WRLCK))
	c.Kill(Tracker, syscall.SIGKILL)
	c.Restart()
	third := startLocker(t, filepath.Join(c.Mount, "f"))
	third.want(fcntlTo(unix.F_RDLCK, 13, 1), syscall.EAGAIN)
	third.want(fcntlTo(unix.F_WRLCK, 0, 7), 0)
	third.want(flockTo(unix.F_RDLCK), syscall.EWOULDBLOCK)
	third.kill()
	select {
	case d := <-there.out:
		t.Fatalf("the wait ended with the tracker: %v", d.Errno)
	default:
	}
	a.want(flockTo(unix.F_UNLCK), 0)
	if d := there.answer(20 * time.Second); d.Errno != 0 {
		t.Errorf("who waited over the tracker's restart got %v", d.Errno)
	}
	there.want(flockTo(unix.F_UNLCK), 0)
	a.want(fcntlTo(unix.F_UNLCK, 0, 0), 0)
}

// lockMountKilled: a mount that is killed frees what it holds within 10 s, for
// who waits and for who comes then.
func lockMountKilled(t *testing.T, there *locker, daemon *exec.Cmd, a, b *locker) {
	there.want(flockTo(unix.F_WRLCK), 0)
	there.want(fcntlTo(unix.F_WRLCK, 0, 0), 0)
	a.waits(flockTo(unix.F_WRLCK))
	b.waits(fcntlTo(unix.F_RDLCK, 3, 3))
	start := time.Now()
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, l := range []*locker{a, b} {
		d := l.answer(15 * time.Second)
		took := time.Duration(d.At - start.UnixNano())
		t.Logf("freed %v after kill -9 of the mount", took.Round(time.Millisecond))
		if d.Errno != 0 || took > 10*time.Second {
			t.Errorf("after kill -9 of the mount: %v, %v", d.Errno, took)
		}
	}
	a.want(flockTo(unix.F_UNLCK), 0)
	b.want(flockTo(unix.F_WRLCK), 0)
}
