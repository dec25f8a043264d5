package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A file grows on one mount, and tail -f follows on the other: each line is there
// within a flush of the writer (P1) and a look of tail.
func TestTailFollows(t *testing.T) {
	c := Start(t, Options{NoHTTP: true})
	m := c.MountMore("second", "")
	f, err := os.Create(filepath.Join(c.Mount, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tail := exec.Command("tail", "-s", "0.1", "-n", "+1", "-f", filepath.Join(m.Point, "log"))
	out, err := tail.StdoutPipe()
	if err == nil {
		err = tail.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Wait()
	defer tail.Process.Kill()
	lines := make(chan string)
	go func() {
		for sc := bufio.NewScanner(out); sc.Scan(); {
			lines <- sc.Text()
		}
		close(lines)
	}()
	for i := range 8 {
		want := fmt.Sprintf("line %d %s", i, strings.Repeat("x", i*1000))
		if _, err := fmt.Fprintln(f, want); err != nil {
			t.Fatal(err)
		}
		limit := 5 * time.Second // nobody flushed: the client does within a second
		if i%2 == 1 {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		select {
		case got := <-lines:
			if got != want {
				t.Fatalf("line %d came as %.40q", i, got)
			}
			t.Logf("line %d after %v", i, time.Since(began).Round(time.Millisecond))
		case <-time.After(limit):
			t.Fatalf("line %d does not come within %v", i, limit)
		}
	}
}

// A mount that is killed frees the files that it had open without a name within
// ten seconds; one that lives keeps them.
func TestKilledMountFreesUnlinkedFiles(t *testing.T) {
	c := Start(t, Options{NoHTTP: true})
	m := c.MountMore("second", "")
	hold := func(dir, name string) *exec.Cmd {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, noise(1, 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sleep", "300")
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = f
		err = cmd.Start()
		f.Close()
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	kept, lost := hold(c.Mount, "kept"), hold(m.Point, "lost")
	end := func(cmd *exec.Cmd) {
		cmd.Process.Kill()
		cmd.Wait()
	}
	defer end(kept)
	unlinked := func(n uint64) func(Status) bool {
		return func(s Status) bool { return s.Volumes[0].Unlinked == n }
	}
	c.WaitStatus(10*time.Second, "both files are open without a name", unlinked(2))
	time.Sleep(2 * time.Second)
	if n := c.Status().Volumes[0].Unlinked; n != 2 {
		t.Fatalf("%d files are open without a name, want 2", n)
	}
	if err := syscall.Kill(m.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	end(lost)
	c.WaitStatus(10*time.Second, "the killed mount's file is freed", unlinked(1))
	t.Logf("freed after %v", time.Since(began).Round(10*time.Millisecond))
	time.Sleep(2 * time.Second)
	if n := c.Status().Volumes[0].Unlinked; n != 1 {
		t.Errorf("%d files are open without a name, want the one of the living mount", n)
	}
}

// What is mounted on a directory of a mount stays when another mount changes
// names around it, and the kernel has to forget what it believed of them.
func TestMountedBelow(t *testing.T) {
	c := Start(t, Options{NoHTTP: true})
	m := c.MountMore("second", "")
	dir, other := filepath.Join(c.Mount, "d"), t.TempDir()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "inner"), []byte("inner"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(other, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	for i := range 3 {
		for range 3 { // so that the names are believed
			os.Stat(filepath.Join(dir, "inner"))
			os.Stat(filepath.Join(c.Mount, fmt.Sprint("new", i)))
		}
		if err := os.WriteFile(filepath.Join(m.Point, fmt.Sprint("new", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(c.Mount, fmt.Sprint("new", i))); err != nil {
			t.Errorf("what the other mount made: %v", err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "inner")); string(b) != "inner" {
			t.Fatalf("what was mounted on the directory is gone: %q, %v", b, err)
		}
		time.Sleep(time.Second)
	}
}
