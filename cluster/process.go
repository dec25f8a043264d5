package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
)

// Spawn says how a process is started: this program again, under a role's name.
type Spawn struct {
	Exe  string // the program; empty: the running one
	Role Role
	Args []string // behind the name
	Env  []string // beside the running program's
	Dir  string   // working directory; empty: /
	Log  string   // file to which its output is appended; empty: nowhere
}

// failGrace is how long a process that did not get ready may take to end.
const failGrace = 5 * time.Second

// Child is a process that was started and reported that it is ready.
type Child struct {
	Pid  int
	Addr string // as it reported
	done chan struct{}
}

// Start starts a process in a session of its own and waits until it reports
// that it is ready, or why it is not, or ctx ends; in the last two cases the
// process is gone when Start returns. started, if not nil, is called with its
// id before the wait; its error stops the process too.
func Start(ctx context.Context, s Spawn, started func(pid int) error) (*Child, error) {
	cmd, pipe, err := s.command()
	if err != nil {
		return nil, err
	}
	defer pipe.Close()
	offset := logSize(s.Log)
	err = cmd.Start()
	closeAll(cmd)
	if err != nil {
		return nil, tnv.Wrap("start "+string(s.Role), err)
	}
	c := &Child{Pid: cmd.Process.Pid, done: make(chan struct{})}
	var exit error
	go func() { // ends with the process: reaps it
		exit = cmd.Wait()
		close(c.done)
	}()
	if started != nil {
		err = started(c.Pid)
	}
	var exited bool
	if err == nil {
		c.Addr, exited, err = waitReport(ctx, pipe)
	}
	if err == nil {
		return c, nil
	}
	if !exited { // asked to end, it takes its mount away
		cmd.Process.Signal(syscall.SIGTERM)
	}
	select {
	case <-c.done:
	case <-time.After(failGrace):
		cmd.Process.Kill()
		<-c.done
	}
	if exited {
		err = tnv.E("start", tnv.KindOther, "%s ended before it was ready (%v)%s", s.Role, exit, logTail(s.Log, offset))
	}
	return nil, err
}

// command prepares the process and the reading end of its ready pipe.
func (s Spawn) command() (*exec.Cmd, *os.File, error) {
	path, err := s.program()
	if err != nil {
		return nil, nil, err
	}
	var out *os.File
	if s.Log != "" {
		if out, err = os.OpenFile(s.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
			return nil, nil, fullHint("open log", err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, tnv.Wrap("make a pipe", err)
	}
	dir := s.Dir
	if dir == "" {
		dir = "/"
	}
	cmd := &exec.Cmd{
		Path:        path,
		Args:        append([]string{string(s.Role)}, s.Args...),
		Env:         append(append(os.Environ(), s.Env...), readyEnv+"=3"),
		Dir:         dir,
		ExtraFiles:  []*os.File{w},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true}, // a Ctrl-C is not meant for it
	}
	if out != nil {
		cmd.Stdout, cmd.Stderr = out, out
	}
	return cmd, r, nil
}

// closeAll closes this side's copies of what the child inherited.
func closeAll(cmd *exec.Cmd) {
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	if f, ok := cmd.Stdout.(*os.File); ok && f != nil {
		f.Close()
	}
}

// program is the link of the role's name beside the program, so that ps and
// pgrep show it, or the program itself.
func (s Spawn) program() (string, error) {
	exe := s.Exe
	if exe == "" {
		var err error
		if exe, err = os.Executable(); err != nil {
			return "", tnv.Wrap("find the running program", err)
		}
	}
	link := filepath.Join(filepath.Dir(exe), string(s.Role))
	a, errA := os.Stat(link)
	b, errB := os.Stat(exe)
	if errA == nil && errB == nil && os.SameFile(a, b) {
		return link, nil
	}
	return exe, nil
}

func logSize(path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return fi.Size()
}

// logTail is the end of what was logged since offset, for an error's text.
func logTail(path string, offset int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 1500
	if fi, err := f.Stat(); err == nil && fi.Size()-offset > most {
		offset = fi.Size() - most
	}
	b, _ := io.ReadAll(io.NewSectionReader(f, offset, most))
	text := strings.TrimSpace(string(b))
	if text == "" {
		return fmt.Sprintf("; nothing is in %s", path)
	}
	return fmt.Sprintf("; the end of %s:\n%s", path, text)
}

// Stop ends a process: SIGTERM, and SIGKILL after grace. It returns when the
// process is gone (nil), or cannot be ended. killed tells that it did not go by itself.
func Stop(ctx context.Context, r Record, grace time.Duration) (killed bool, err error) {
	op := fmt.Sprintf("stop %s (pid %d)", r.Name, r.Pid)
	fd, err := unix.PidfdOpen(r.Pid, 0)
	if err == unix.ESRCH {
		return false, nil
	}
	if err != nil {
		return false, tnv.Wrap(op, err)
	}
	defer unix.Close(fd)
	if !r.Alive() { // checked with the descriptor in hand: it is this process or none
		return false, nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && err != unix.ESRCH {
		return false, tnv.Wrap(op, err)
	}
	if awaitExit(ctx, fd, grace) {
		return false, nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return true, tnv.Wrap(op, err)
	}
	if !awaitExit(context.WithoutCancel(ctx), fd, 10*time.Second) {
		return true, tnv.E(op, tnv.KindTimeout, "it does not end even after SIGKILL: see /proc/%d/stack", r.Pid)
	}
	return true, nil
}

// awaitExit waits until the process of a pidfd has ended: true, or until limit
// has passed or ctx ended: false.
func awaitExit(ctx context.Context, fd int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for ctx.Err() == nil {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(min(left, 200*time.Millisecond)/time.Millisecond)+1)
		if n == 1 {
			return true
		}
		if err != nil && err != unix.EINTR {
			return false
		}
	}
	return false
}
