// Package e2e tests TNV as its users meet it: real processes, brought up by the
// shipped program, real kernel mounts, real files. Nothing of it is part of the
// product; what it asks stands in the tests.
//
// The harness promises: the program is built once per run (Build); each cluster
// has a directory of its own, and whatever happens to the test — failure, hang,
// a panic, the test process killed — its processes and mounts are taken away
// again; the test process itself never waits without bound for a mount, because
// a watchdog aborts the mount's connection when the cluster's time is over.
//
//	c := e2e.Start(t, e2e.Options{Replicas: 3})
//	os.WriteFile(filepath.Join(c.Mount, "film.mkv"), data, 0o644)
//	c.Kill("stored-1", syscall.SIGKILL)
//	c.Restart()
//	c.WaitWhole(time.Minute)
//
// A test that kills the mount works on it from other processes (see Worker): a
// thread of its own in a dead mount would take the whole test along.
package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tnvfs/tnv/protocol"
)

// Options say what cluster Start brings up. The zero Options: one group of two
// storage daemons, mounted, with an HTTP daemon on a free port.
type Options struct {
	Groups   int           // 0: 1
	Replicas int           // 0: 2
	Trackers int           // 0: 1; more need Meta
	Meta     string        // database of the metadata; empty: the tracker's directory
	NoMount  bool          // no mount
	NoHTTP   bool          // no HTTP daemon
	Base     string        // directory for all of it; empty: a new temporary one
	Flags    []string      // further flags of `tnv up`
	Limit    time.Duration // after which the mounts are aborted and the test fails. 0: 5 minutes
}

// Cluster is a cluster of real processes.
type Cluster struct {
	Base  string // holds Dir and Mount
	Dir   string // of `tnv up --dir`
	Mount string // mountpoint; it is there without a mount, too
	HTTP  string // http://127.0.0.1:PORT, without a slash at the end; empty: no HTTP daemon

	t        testing.TB
	watchdog *time.Timer
	stopped  bool
}

// Processes that a cluster of one group of two has.
const (
	Tracker = "trackerd-1"
	StoreA  = "stored-1"
	StoreB  = "stored-2"
	HTTPD   = "httpd-1"
	Mounter = "mount-1"
)

// Start brings a cluster up and takes it down when the test is over. The logs'
// ends are printed if the test failed.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := Prepare(t, o)
	args := []string{"up", "-d", "--dir", c.Dir}
	if o.NoMount {
		args = append(args, "--mount", "")
	} else {
		args = append(args, "--mount", c.Mount)
	}
	if o.NoHTTP {
		args = append(args, "--http", "")
	} else {
		args = append(args, "--http", "127.0.0.1:0")
	}
	if o.Groups > 0 {
		args = append(args, "--groups", strconv.Itoa(o.Groups))
	}
	if o.Replicas > 0 {
		args = append(args, "--replicas", strconv.Itoa(o.Replicas))
	}
	if o.Trackers > 0 {
		args = append(args, "--trackers", strconv.Itoa(o.Trackers))
	}
	if o.Meta != "" {
		args = append(args, "--meta", o.Meta)
	}
	c.OK(append(args, o.Flags...)...)
	c.HTTP = c.url()
	return c
}

// Prepare makes the directories of a cluster, and sees to it that all that is
// ever started or mounted there is taken away, but starts nothing.
func Prepare(t testing.TB, o Options) *Cluster {
	t.Helper()
	base := o.Base
	if base == "" {
		var err error
		if base, err = os.MkdirTemp("", "tnv-e2e-*"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(base) }) // after stop: nothing is mounted there any more
	}
	c := &Cluster{Base: base, Dir: filepath.Join(base, "c"), Mount: filepath.Join(base, "m"), t: t}
	guard(t, base)
	limit := o.Limit
	if limit == 0 {
		limit = 5 * time.Minute
	}
	c.watchdog = time.AfterFunc(limit, func() {
		t.Errorf("the cluster is up for longer than %v: its mounts are aborted", limit)
		abortMounts(base)
	})
	t.Cleanup(c.Stop)
	return c
}

// Result is what a run of a program gave.
type Result struct {
	Code     int // exit status; -1: it was killed
	Out, Err string
	Hung     bool // it did not end in its time, and was killed
}

func (r Result) String() string {
	return fmt.Sprintf("exit status %d (hung: %v)\n%s%s", r.Code, r.Hung, r.Out, r.Err)
}

// Exec runs a program for at most limit and then kills it. A program that
// cannot even be killed (stuck in a mount) is left behind after 10 s more.
func Exec(limit time.Duration, name string, args ...string) Result {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var out, errOut strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = time.Second
	done := make(chan error, 1)
	go func() { done <- cmd.Run() }()
	var err error
	select {
	case err = <-done:
	case <-time.After(limit + 10*time.Second):
		return Result{Code: -1, Err: name + " cannot be killed", Hung: true}
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && ctx.Err() == nil && !errors.Is(err, exec.ErrWaitDelay) {
		return Result{Code: -1, Err: err.Error()}
	}
	return Result{Code: cmd.ProcessState.ExitCode(), Out: out.String(), Err: errOut.String(), Hung: ctx.Err() != nil}
}

// Tnv runs the tnv command, for at most two minutes.
func (c *Cluster) Tnv(args ...string) Result {
	c.t.Helper()
	r := Exec(2*time.Minute, Program("tnv"), args...)
	if r.Hung {
		c.t.Errorf("tnv %v hangs: %v", args, r)
	}
	return r
}

// OK runs a tnv command that must succeed, and returns its output.
func (c *Cluster) OK(args ...string) string {
	c.t.Helper()
	r := c.Tnv(args...)
	if r.Code != 0 {
		c.t.Fatalf("tnv %v: %v", args, r)
	}
	return r.Out
}

// Restart starts what does not run, with `tnv up`.
func (c *Cluster) Restart() {
	c.t.Helper()
	c.OK("up", "-d", "--dir", c.Dir)
	c.HTTP = c.url()
}

// Down stops the cluster in order, with `tnv down`. Restart brings it up again.
func (c *Cluster) Down() {
	c.t.Helper()
	c.OK("down", "--dir", c.Dir)
}

func (c *Cluster) url() string {
	c.t.Helper()
	for _, p := range c.Status().Processes {
		if p.Name == HTTPD && p.Alive {
			return "http://" + p.Addr
		}
	}
	return ""
}

// Status is the JSON of `tnv status`.
type Status struct {
	Trackers []struct {
		Addr  string
		Alive bool
	}
	Volumes []struct {
		Name, Owner      string
		ID               uint32
		Files, Bytes     uint64
		PendingDeletions uint64 `json:"pending_deletions"`
		Unlinked         uint64
	}
	Groups    []Group
	Processes []struct {
		Name       string
		Pid        int
		Alive      bool
		Addr       string
		Mountpoint string
	}
}

// Group is a group of storage daemons in the status.
type Group struct {
	Name, State  string
	BehindBlocks uint64 `json:"behind_blocks"`
	Nodes        []Node
}

// Node is a storage daemon in the status.
type Node struct {
	ID, Addr, State string
	Alive           bool
	UsedBytes       uint64 `json:"used_bytes"`
	CapacityBytes   uint64 `json:"capacity_bytes"`
	Blocks          uint64
	BehindBlocks    uint64 `json:"behind_blocks"`
	CorruptBlocks   uint64 `json:"corrupt_blocks"`
	MendedBlocks    uint64 `json:"mended_blocks"`
	Boot            uint64
}

// Whole tells whether every group is whole.
func (s Status) Whole() bool {
	for _, g := range s.Groups {
		if g.State != "whole" {
			return false
		}
	}
	return len(s.Groups) > 0
}

// Status asks for the state of the cluster. The test fails if no tracker answers.
func (c *Cluster) Status() Status {
	c.t.Helper()
	var st Status
	if err := json.Unmarshal([]byte(c.OK("status", "--dir", c.Dir, "--json")), &st); err != nil {
		c.t.Fatal(err)
	}
	return st
}

// WaitStatus waits until what is looked for shows in the status.
func (c *Cluster) WaitStatus(limit time.Duration, what string, ok func(Status) bool) Status {
	c.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		st := c.Status()
		if ok(st) {
			return st
		}
		if time.Now().After(end) {
			c.t.Fatalf("after %v not yet: %s: %+v", limit, what, st)
		}
	}
}

// WaitWhole waits until every group is whole.
func (c *Cluster) WaitWhole(limit time.Duration) Status {
	c.t.Helper()
	return c.WaitStatus(limit, "all groups whole", Status.Whole)
}

// Pid is the id of a process of the cluster.
func (c *Cluster) Pid(name string) int {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.Dir, "run", name+".pid"))
	if err != nil {
		c.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		c.t.Fatalf("%s.pid holds %q", name, b)
	}
	return pid
}

// Kill sends a signal to a process of the cluster. With SIGKILL it returns when
// the process is gone.
func (c *Cluster) Kill(name string, sig syscall.Signal) {
	c.t.Helper()
	pid := c.Pid(name)
	if err := syscall.Kill(pid, sig); err != nil {
		c.t.Fatalf("kill %s (%d) with %v: %v", name, pid, sig, err)
	}
	if sig == syscall.SIGKILL && !waitGone(pid, 20*time.Second) {
		c.t.Fatalf("%s (pid %d) is not gone after SIGKILL", name, pid)
	}
}

// Log is what a process has logged so far.
func (c *Cluster) Log(name string) string {
	b, _ := os.ReadFile(filepath.Join(c.Dir, "log", name+".log"))
	return string(b)
}

// Key is the cluster's key.
func (c *Cluster) Key() protocol.Key {
	c.t.Helper()
	k, err := protocol.ReadKeyFile(c.KeyFile())
	if err != nil {
		c.t.Fatal(err)
	}
	return k
}

// KeyFile is where the cluster's key is.
func (c *Cluster) KeyFile() string { return filepath.Join(c.Dir, "key") }

// Trackers are the trackers' addresses.
func (c *Cluster) Trackers() []string {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.Dir, "run", "trackers"))
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.Fields(string(b))
}

// Stop takes the cluster down, by force where it must; it runs by itself at the
// end of the test.
func (c *Cluster) Stop() {
	if c.stopped {
		return
	}
	c.stopped = true
	c.watchdog.Stop()
	for _, err := range takeAway(c.Base) {
		c.t.Errorf("at the end: %v", err)
	}
	c.checkLogs()
	if c.t.Failed() {
		c.printLogs()
	}
}

// checkLogs fails the test for what no daemon may ever do.
func (c *Cluster) checkLogs() {
	logs, _ := filepath.Glob(filepath.Join(c.Dir, "log", "*.log"))
	for _, l := range logs {
		b, _ := os.ReadFile(l)
		for _, bad := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: ", "request panicked"} {
			if _, after, found := strings.Cut(string(b), bad); found {
				c.t.Errorf("%s: %s%s", filepath.Base(l), bad, after[:min(len(after), 4000)])
			}
		}
	}
}

func (c *Cluster) printLogs() {
	logs, _ := filepath.Glob(filepath.Join(c.Dir, "log", "*.log"))
	for _, l := range logs {
		b, _ := os.ReadFile(l)
		c.t.Logf("the end of %s:\n%s", filepath.Base(l), b[max(0, len(b)-4000):])
	}
}
