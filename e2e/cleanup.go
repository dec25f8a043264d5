package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Environment of the test processes.
const (
	buildEnv = "TNV_E2E_BUILD" // directory of the program as it is shipped
	guardEnv = "TNV_E2E_GUARD" // file descriptor on which directories to be guarded are named
	workEnv  = "TNV_E2E_WORK"  // this process is a worker, of this kind
	raceEnv  = "TNV_E2E_RACE"  // not empty: the program is built with the race detector
)

// Build builds the program as it is shipped, with its links, into dir, and
// makes it what Program finds in this process and its children. It leaves the
// user's own list of clusters and settings alone.
func Build(dir string) error {
	args := []string{"build", "-o", filepath.Join(dir, "tnv")}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if os.Getenv(raceEnv) != "" {
		args, env = append(args, "-race"), append(os.Environ(), "CGO_ENABLED=1")
	}
	cmd := exec.Command("go", append(args, "github.com/tnvfs/tnv/tools/tnv")...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	for _, name := range []string{"trackerd", "stored", "httpd", "mount.tnv"} {
		if err := os.Symlink("tnv", filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for _, v := range []string{"TNV_TRACKERS", "TNV_KEYFILE"} {
		os.Unsetenv(v)
	}
	os.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	return os.Setenv(buildEnv, dir)
}

// Program is the path of the program under one of its names: tnv, trackerd,
// stored, httpd, mount.tnv.
func Program(name string) string { return filepath.Join(os.Getenv(buildEnv), name) }

// StartGuard starts a process that outlives this one by as long as it takes to
// clean up: when this process has ended, however it did, what it left in the
// directories named to guard is taken away. stop ends it after a proper end.
func StartGuard() (stop func(), err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), workEnv+"=guard")
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	os.Setenv(guardEnv, strconv.Itoa(int(w.Fd())))
	return func() { w.Close(); cmd.Wait() }, nil
}

// guard has a directory cleaned when this process is gone.
func guard(t testing.TB, base string) {
	fd, err := strconv.Atoi(os.Getenv(guardEnv))
	if err == nil {
		_, err = syscall.Write(fd, []byte(base+"\n"))
	}
	if err != nil {
		t.Fatalf("no guard is there: %v (does TestMain start it?)", err)
	}
}

// GuardMain is what the guard does.
func GuardMain() {
	b, _ := io.ReadAll(os.Stdin)
	for _, base := range strings.Fields(string(b)) {
		if _, err := os.Stat(base); err == nil {
			takeAway(base)
			os.RemoveAll(base)
		}
	}
	if dir := os.Getenv(buildEnv); dir != "" {
		os.RemoveAll(dir)
	}
}

// takeAway ends all processes of clusters in base, and all mounts there: in
// order if that works, else by force, which is an error.
func takeAway(base string) (errs []error) {
	procs := processesOf(base)
	for _, pid := range procs {
		syscall.Kill(pid, syscall.SIGCONT)
	}
	dirs, _ := filepath.Glob(filepath.Join(base, "*", "cluster.json"))
	for _, d := range dirs {
		if r := Exec(90*time.Second, Program("tnv"), "down", "--dir", filepath.Dir(d)); r.Code != 0 && len(processesOf(base)) > 0 {
			errs = append(errs, fmt.Errorf("tnv down: %v", r))
		}
	}
	if left := processesOf(base); len(left) > 0 {
		errs = append(errs, fmt.Errorf("processes are left over: %v", left))
		for _, pid := range left {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		abortMounts(base)
		for _, pid := range left {
			if !waitGone(pid, 10*time.Second) {
				errs = append(errs, fmt.Errorf("process %d cannot be killed", pid))
			}
		}
	}
	for range 10 { // mounts may lie on mounts
		ms := mountsBelow(base)
		for i := len(ms) - 1; i >= 0; i-- {
			if err := syscall.Unmount(ms[i].point, syscall.MNT_DETACH|unmountNoFollow); err != nil && !errors.Is(err, syscall.EINVAL) {
				errs = append(errs, fmt.Errorf("umount -l %s: %w", ms[i].point, err))
			}
		}
		if len(ms) == 0 {
			break
		}
	}
	return errs
}

const unmountNoFollow = 8 // UMOUNT_NOFOLLOW

// processesOf lists the living processes of this program whose command line
// names something in base.
func processesOf(base string) (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		b, _ := os.ReadFile(filepath.Join(d, "cmdline"))
		args := strings.Split(string(b), "\x00")
		pid, _ := strconv.Atoi(filepath.Base(d))
		switch filepath.Base(args[0]) {
		case "trackerd", "stored", "httpd", "mount.tnv", "tnv":
		default:
			continue
		}
		if strings.Contains(string(b), base+"/") && !isGone(pid) && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// isGone tells whether a process has ended; a zombie has.
func isGone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(after, "Z") || strings.HasPrefix(after, "X")
}

func waitGone(pid int, limit time.Duration) bool {
	for end := time.Now().Add(limit); !isGone(pid); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// mounted is a mount as /proc/self/mountinfo shows it.
type mounted struct {
	point, fstype string
	minor         string // of the device: the number of a FUSE connection
}

// mountsBelow lists the mounts in a directory, in the order of mounting,
// without touching them.
func mountsBelow(base string) (out []mounted) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		before, after, _ := strings.Cut(sc.Text(), " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if len(b) < 5 || len(a) < 1 || !strings.HasPrefix(b[4], base+"/") {
			continue
		}
		_, minor, _ := strings.Cut(b[2], ":")
		out = append(out, mounted{b[4], a[0], minor})
	}
	return out
}

// abortMounts ends the FUSE connections of the mounts in a directory: whoever
// waits for them gets an error.
func abortMounts(base string) {
	const ctl = "/sys/fs/fuse/connections"
	for _, m := range mountsBelow(base) {
		if strings.HasPrefix(m.fstype, "fuse") {
			os.WriteFile(filepath.Join(ctl, m.minor, "abort"), []byte("1"), 0o200)
		}
	}
}
