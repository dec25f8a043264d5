package e2e

import (
	"bytes"
	"io"
	"math/rand"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	os.Exit(Main(m, map[string]func() int{"writer": writerMain, "verifier": verifierMain, "locker": lockerMain}))
}

// noise is n random bytes, the same for one seed.
func noise(seed int64, n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return b
}

// get fetches a URL.
func get(t testing.TB, url string) []byte {
	t.Helper()
	c := &http.Client{Timeout: time.Minute}
	defer c.CloseIdleConnections()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %d bytes, %v", url, resp.Status, len(b), err)
	}
	return b
}

// The harness itself: a cluster works, and after Stop nothing of it is left,
// not even when its mount was killed or its daemons were stopped.
func TestHarness(t *testing.T) {
	c := Start(t, Options{})
	data := noise(1, 3<<20+5)
	if err := os.WriteFile(filepath.Join(c.Mount, "x"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := get(t, c.HTTP+"/x"); !bytes.Equal(got, data) {
		t.Errorf("over HTTP: %d bytes", len(got))
	}
	c.WaitWhole(20 * time.Second)
	if n := len(processesOf(c.Base)); n != 5 {
		t.Errorf("%d processes run, want 5", n)
	}
	if ms := mountsBelow(c.Base); len(ms) != 1 || ms[0].point != c.Mount {
		t.Errorf("mounts: %v", ms)
	}
	c.Kill(Mounter, syscall.SIGKILL)
	c.Kill(StoreA, syscall.SIGSTOP)
	c.Stop()
	if ps, ms := processesOf(c.Base), mountsBelow(c.Base); len(ps)+len(ms) != 0 {
		t.Errorf("left over: processes %v, mounts %v", ps, ms)
	}
}
