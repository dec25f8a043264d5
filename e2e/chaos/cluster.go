package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tnvfs/tnv/e2e"
)

// Addresses in the namespaces. They are seen nowhere else.
const (
	coreAddr   = "10.254.77.1"
	victimAddr = "10.254.77.2"
	trackerAt  = coreAddr + ":7400"
	nsPrefix   = "tnvchaos-"
)

// cluster is a tracker, storage daemons and a mount; one of the daemons is the victim.
type cluster struct {
	t           *testing.T
	base        string
	mount       string
	core, apart string // names of namespaces; the victim is in apart
	disk        *disk  // the victim's
	daemons     map[string]*exec.Cmd
	ended       map[string]chan struct{}
}

const (
	victim = "stored-2"
	other  = "stored-1"
)

// start brings up groups of two; the victim is in the first.
func start(t *testing.T, groups int, limit time.Duration) *cluster {
	t.Helper()
	p := e2e.Prepare(t, e2e.Options{Limit: limit})
	ns := nsPrefix + strconv.Itoa(os.Getpid())
	c := &cluster{t: t, base: p.Base, mount: p.Mount, core: ns + "-a", apart: ns + "-b", daemons: map[string]*exec.Cmd{}, ended: map[string]chan struct{}{}}
	t.Cleanup(c.stop)
	c.network()
	for _, dir := range []string{"log", "m", "t"} {
		if err := os.MkdirAll(filepath.Join(c.base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if c.disk, err = mountDisk(filepath.Join(c.base, "disk"), filepath.Join(c.base, victim)); err != nil {
		t.Fatalf("the victim's disk: %v", err)
	}
	run(t, e2e.Program("tnv"), "key", "new", c.key())
	c.daemon("trackerd", c.core, "trackerd", "--dir", filepath.Join(c.base, "t"), "--listen", trackerAt)
	c.startStore(1, "g1", c.core, coreAddr)
	c.startVictim()
	for n := 3; n <= 2*groups; n++ {
		c.startStore(n, fmt.Sprintf("g%d", (n+1)/2), c.core, coreAddr)
	}
	c.wait(60*time.Second, "all groups whole", func(s *e2e.Status) bool { return s.Whole() && nodes(s) == 2*groups })
	c.daemon("mount.tnv", c.core, "mount.tnv", trackerAt, c.mount, "-o", "foreground,memory=96M,keyfile="+c.key())
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		b, _ := os.ReadFile("/proc/self/mountinfo")
		if strings.Contains(string(b), " "+c.mount+" ") {
			return c
		}
		if time.Now().After(end) {
			t.Fatal("the mount does not get ready")
		}
	}
}

func nodes(s *e2e.Status) (n int) {
	for _, g := range s.Groups {
		n += len(g.Nodes)
	}
	return n
}

func (c *cluster) key() string { return filepath.Join(c.base, "key") }

func (c *cluster) startStore(n int, group, ns, addr string) {
	name := fmt.Sprintf("stored-%d", n)
	c.daemon(name, ns, "stored", "--dir", filepath.Join(c.base, name), "--listen", fmt.Sprintf("%s:%d", addr, 7500+n),
		"--trackers", trackerAt, "--group", group, "--host", "h"+strconv.Itoa(n), "--punch-delay", "5s")
}

func (c *cluster) startVictim() { c.startStore(2, "g1", c.apart, victimAddr) }

// network makes the namespaces, and a pair of interfaces that joins them.
func (c *cluster) network() {
	removeStale()
	ifA, ifB := fmt.Sprintf("tca%d", os.Getpid()%100000), fmt.Sprintf("tcb%d", os.Getpid()%100000)
	for _, args := range [][]string{
		{"netns", "add", c.core}, {"netns", "add", c.apart},
		{"link", "add", ifA, "netns", c.core, "type", "veth", "peer", "name", ifB, "netns", c.apart},
		{"-n", c.core, "link", "set", ifA, "name", "v0"}, {"-n", c.apart, "link", "set", ifB, "name", "v0"},
		{"-n", c.core, "addr", "add", coreAddr + "/24", "dev", "v0"}, {"-n", c.apart, "addr", "add", victimAddr + "/24", "dev", "v0"},
		{"-n", c.core, "link", "set", "lo", "up"}, {"-n", c.apart, "link", "set", "lo", "up"},
		{"-n", c.core, "link", "set", "v0", "up"}, {"-n", c.apart, "link", "set", "v0", "up"},
	} {
		run(c.t, "ip", args...)
	}
}

// removeStale removes the namespaces of runs that were killed.
func removeStale() {
	out, _ := exec.Command("ip", "netns", "list").Output()
	for line := range strings.Lines(string(out)) {
		name := strings.Fields(line)[0]
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, nsPrefix), "-")
		if _, err := os.Stat("/proc/" + pid); strings.HasPrefix(name, nsPrefix) && err != nil {
			exec.Command("ip", "netns", "del", name).Run()
		}
	}
}

// cut breaks the link between the namespaces, or joins them again.
func (c *cluster) cut(broken bool) {
	run(c.t, "ip", "-n", c.apart, "link", "set", "v0", map[bool]string{true: "down", false: "up"}[broken])
}

// run runs a program that must succeed.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if r := e2e.Exec(30*time.Second, name, args...); r.Code != 0 {
		t.Fatalf("%s %v (this test runs as root, and needs iproute2): %v", name, args, r)
	}
}

// within is the command line that runs a program in a namespace.
func within(ns, prog string, args ...string) []string {
	return append([]string{"--net=/run/netns/" + ns, e2e.Program(prog)}, args...)
}

// daemon starts a process; its log is in the base directory.
func (c *cluster) daemon(name, ns, prog string, args ...string) {
	c.t.Helper()
	log, err := os.OpenFile(filepath.Join(c.base, "log", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("nsenter", within(ns, prog, args...)...)
	cmd.Env = append(os.Environ(), "TNV_KEYFILE="+c.key())
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ended := make(chan struct{})
	c.daemons[name], c.ended[name] = cmd, ended
	go func() { cmd.Wait(); close(ended) }()
}

// signal sends a signal to a process; with SIGKILL it waits for its end.
func (c *cluster) signal(name string, sig syscall.Signal) {
	c.t.Helper()
	if err := c.daemons[name].Process.Signal(sig); err != nil {
		c.t.Fatalf("%v to %s: %v", sig, name, err)
	}
	if sig == syscall.SIGKILL {
		<-c.ended[name]
	}
}

// status asks the tracker.
func (c *cluster) status() (s e2e.Status, err error) {
	r := e2e.Exec(20*time.Second, "nsenter", within(c.core, "tnv", "status", "--json", "--trackers", trackerAt, "--keyfile", c.key())...)
	if r.Code != 0 {
		return s, fmt.Errorf("status: %v", r)
	}
	return s, json.Unmarshal([]byte(r.Out), &s)
}

func (c *cluster) wait(limit time.Duration, what string, ok func(*e2e.Status) bool) time.Duration {
	c.t.Helper()
	for began := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		s, err := c.status()
		if err == nil && ok(&s) {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			c.t.Fatalf("after %v not yet: %s: %+v, %v", limit, what, s, err)
		}
	}
}

// get reads a file as a client that has nothing in memory.
func (c *cluster) get(path string) ([]byte, error) {
	to := filepath.Join(c.base, "got")
	defer os.Remove(to)
	r := e2e.Exec(2*time.Minute, "nsenter", within(c.core, "tnv", "get", "--trackers", trackerAt, "--keyfile", c.key(), path, to)...)
	if r.Code != 0 {
		return nil, fmt.Errorf("get %s: %v", path, r)
	}
	return os.ReadFile(to)
}

// stop ends everything, the mount first.
func (c *cluster) stop() {
	if c.disk != nil {
		c.disk.set(trouble{})
	}
	for _, name := range []string{"mount.tnv", "stored-4", "stored-3", victim, other, "trackerd"} {
		cmd := c.daemons[name]
		if cmd == nil {
			continue
		}
		cmd.Process.Signal(syscall.SIGCONT)
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-c.ended[name]:
		case <-time.After(30 * time.Second):
			c.t.Errorf("%s does not end", name)
			cmd.Process.Signal(syscall.SIGKILL)
		}
	}
	if c.disk != nil {
		c.disk.unmount()
	}
	exec.Command("ip", "netns", "del", c.core).Run()
	exec.Command("ip", "netns", "del", c.apart).Run()
	c.checkLogs()
}

// checkLogs fails the test for what no daemon may ever do, and shows the logs'
// ends if it failed.
func (c *cluster) checkLogs() {
	logs, _ := filepath.Glob(filepath.Join(c.base, "log", "*.log"))
	for _, l := range logs {
		b, _ := os.ReadFile(l)
		for _, bad := range []string{"DATA RACE", "panic: ", "fatal error: ", "request panicked"} {
			if strings.Contains(string(b), bad) {
				c.t.Errorf("%s: %s", filepath.Base(l), b)
			}
		}
		if c.t.Failed() {
			c.t.Logf("the end of %s:\n%s", filepath.Base(l), b[max(0, len(b)-3000):])
		}
	}
}
