package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// buildEnv names the directory of the program as it is shipped, with its links,
// built once for all tests. It is handed on in the environment of this process.
const buildEnv = "TNV_TEST_BUILD"

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "tnv-test-*")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "tnv"), ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		for _, name := range []string{"trackerd", "stored", "httpd", "mount.tnv"} {
			if err := os.Symlink("tnv", filepath.Join(dir, name)); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		os.Setenv(buildEnv, dir)
		os.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state")) // the user's own list stays as it is
		for _, v := range []string{"TNV_TRACKERS", "TNV_KEYFILE"} {
			os.Unsetenv(v)
		}
		return m.Run()
	}())
}

// result is what a run of the program gave.
type result struct {
	code        int
	out, errOut string
}

// runAs runs the program under a name, for at most two minutes.
func runAs(t testing.TB, stdin io.Reader, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(os.Getenv(buildEnv), name), args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s %v hangs; so far:\n%s%s", name, args, &out, &errOut)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// tnvOK runs a command that must succeed, and returns its output.
func tnvOK(t testing.TB, args ...string) string {
	t.Helper()
	r := runAs(t, nil, "tnv", args...)
	if r.code != 0 {
		t.Fatalf("tnv %v: exit code %d\n%s%s", args, r.code, r.out, r.errOut)
	}
	return r.out
}

// local is a cluster on this machine.
type local struct {
	dir, mount string
}

// newLocal brings up a cluster, mounted, that is down when the test is over.
func newLocal(t *testing.T, flags ...string) *local {
	t.Helper()
	base := t.TempDir()
	c := &local{dir: filepath.Join(base, "c"), mount: filepath.Join(base, "m")}
	t.Cleanup(func() {
		r := runAs(t, nil, "tnv", "down", "--dir", c.dir)
		if r.code != 0 && !strings.Contains(r.errOut, "no cluster") {
			t.Errorf("down: %s", r.errOut)
		}
		for _, m := range []string{c.mount, c.mount + "2"} {
			syscall.Unmount(m, syscall.MNT_DETACH)
		}
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(c.dir, "log", "*"))
			for _, l := range logs {
				b, _ := os.ReadFile(l)
				t.Logf("%s:\n%s", filepath.Base(l), b[max(0, len(b)-3000):])
			}
		}
	})
	tnvOK(t, append([]string{"up", "-d", "--dir", c.dir, "--mount", c.mount, "--http", "127.0.0.1:0"}, flags...)...)
	return c
}

func (c *local) status(t testing.TB) statusJSON {
	t.Helper()
	var st statusJSON
	if err := json.Unmarshal([]byte(tnvOK(t, "status", "--dir", c.dir, "--json")), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

func (c *local) url(t testing.TB) string {
	t.Helper()
	for _, p := range c.status(t).Processes {
		if p.Name == "httpd-1" && p.Alive {
			return "http://" + p.Addr
		}
	}
	t.Fatal("no httpd runs")
	return ""
}

func (c *local) pid(t testing.TB, name string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.dir, "run", name+".pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// waitWhole waits until every group is whole.
func (c *local) waitWhole(t testing.TB) statusJSON {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		st := c.status(t)
		whole := len(st.Groups) > 0
		for _, g := range st.Groups {
			whole = whole && g.State == "whole"
		}
		if whole {
			return st
		}
		if time.Now().After(end) {
			t.Fatalf("the groups do not become whole: %+v", st.Groups)
		}
	}
}

func httpGet(t testing.TB, url string) []byte {
	t.Helper()
	c := &http.Client{Timeout: time.Minute}
	defer c.CloseIdleConnections()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("GET %s: %s, %d bytes, %v", url, resp.Status, len(b), err)
	}
	return b
}

func noise(seed int64, n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return b
}

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// taken is an address that another process listens on.
func taken(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}
