package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
