package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Mount is one more mount of a cluster: a daemon that is a child of the test.
type Mount struct {
	Point string
	Pid   int

	t    testing.TB
	done chan struct{} // closed when the daemon has ended
	log  logBuffer
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) end() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.b.Bytes()
	return string(b[max(0, len(b)-4000):])
}

// MountMore mounts the cluster's volume once more, at a directory of this name
// in the cluster's, by a tracker's address (empty: the cluster's own). It is
// unmounted when the test is over.
func (c *Cluster) MountMore(name, tracker string, env ...string) *Mount {
	c.t.Helper()
	if tracker == "" {
		tracker = c.Trackers()[0]
	}
	m := &Mount{Point: filepath.Join(c.Base, name), t: c.t, done: make(chan struct{})}
	if err := os.MkdirAll(m.Point, 0o755); err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(Program("mount.tnv"), tracker, m.Point, "-o", "foreground,keyfile="+c.KeyFile())
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &m.log, &m.log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	m.Pid = cmd.Process.Pid
	go func() { cmd.Wait(); close(m.done) }()
	c.t.Cleanup(m.stop)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if m.there() {
			return m
		}
		select {
		case <-m.done:
			c.t.Fatalf("mount %s ended: %s", name, m.log.end())
		default:
		}
		if time.Now().After(end) {
			c.t.Fatalf("mount %s does not get ready: %s", name, m.log.end())
		}
	}
}

// there tells whether the mount shows in the table of mounts.
func (m *Mount) there() bool {
	for _, o := range mountsBelow(filepath.Dir(m.Point)) {
		if o.point == m.Point {
			return true
		}
	}
	return false
}

// Freeze stops the daemon until the time is over.
func (m *Mount) Freeze(d time.Duration) {
	if syscall.Kill(m.Pid, syscall.SIGSTOP) == nil {
		time.Sleep(d)
		syscall.Kill(m.Pid, syscall.SIGCONT)
	}
}

// stop ends the mount, by force where it must.
func (m *Mount) stop() {
	syscall.Kill(m.Pid, syscall.SIGCONT)
	syscall.Kill(m.Pid, syscall.SIGTERM)
	select {
	case <-m.done:
	case <-time.After(90 * time.Second):
		m.t.Errorf("the mount at %s does not end", m.Point)
		abortMounts(filepath.Dir(m.Point))
		syscall.Kill(m.Pid, syscall.SIGKILL)
		<-m.done
	}
	if m.t.Failed() {
		m.t.Logf("the end of the log of %s:\n%s", filepath.Base(m.Point), m.log.end())
	}
}
