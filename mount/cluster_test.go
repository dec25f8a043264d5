package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/protocol"
	"github.com/tnvfs/tnv/stored"
	"github.com/tnvfs/tnv/trackerd"
)

// testCluster is one tracker and two storage daemons in this process.
type testCluster struct {
	t       *testing.T
	key     protocol.Key
	tracker string
}

// run starts a daemon, waits until it is ready, and stops it when the test ends.
func (tc *testCluster) run(name string, daemon func(ctx context.Context, ready func(string)) error) (addr string) {
	tc.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() { done <- daemon(ctx, func(a string) { ready <- a }) }()
	tc.t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, context.Canceled) {
				tc.t.Errorf("%s: %v", name, err)
			}
		case <-time.After(time.Minute):
			tc.t.Errorf("%s does not stop", name)
		}
	})
	select {
	case addr = <-ready:
	case err := <-done:
		done <- nil
		tc.t.Fatalf("%s: %v", name, err)
	case <-time.After(30 * time.Second):
		tc.t.Fatalf("%s does not get ready", name)
	}
	return addr
}

func startCluster(t *testing.T) *testCluster {
	t.Helper()
	tc := &testCluster{t: t, key: protocol.NewKey()}
	dir := t.TempDir()
	tc.tracker = tc.run("trackerd", func(ctx context.Context, ready func(string)) error {
		return trackerd.Run(ctx, trackerd.Config{Listen: "127.0.0.1:0", Dir: filepath.Join(dir, "t"), Key: tc.key, Log: quiet(), Ready: ready})
	})
	for i := range 2 {
		tc.run(fmt.Sprint("stored-", i), func(ctx context.Context, ready func(string)) error {
			return stored.Run(ctx, stored.Config{Listen: "127.0.0.1:0", Dir: filepath.Join(dir, fmt.Sprint("s", i)), Trackers: []string{tc.tracker},
				Key: tc.key, AllowSameHost: true, Log: quiet(), Ready: ready})
		})
	}
	return tc
}

func (tc *testCluster) config() client.Config {
	return client.Config{Trackers: []string{tc.tracker}, Key: tc.key, Log: quiet()}
}

// mount mounts the volume, or a directory of it, until the test t ends.
func (tc *testCluster) mount(t *testing.T, sub string) string {
	t.Helper()
	point := mountpoint(t)
	in := *tc
	in.t = t
	in.run("mount", func(ctx context.Context, ready func(string)) error {
		return Run(ctx, Config{Mountpoint: point, Subdir: sub, Client: tc.config(), Log: quiet(), Ready: func() { ready(point) }})
	})
	return point
}

func TestPosixOnCluster(t *testing.T) {
	tc := startCluster(t)
	c, err := client.Connect(context.Background(), tc.config())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	for name, run := range posixtest.All {
		switch name { // as in package fuse
		case "Fallocate", "FallocateKeepSize", "Tmpfile", "FcntlFlockLocksFile":
			continue
		}
		t.Run(name, func(t *testing.T) {
			if err := c.MkdirAll(context.Background(), "/posix/"+name, 0o777); err != nil {
				t.Fatal(err)
			}
			run(t, tc.mount(t, "/posix/"+name))
		})
	}
}

// TestTwoMounts does random things to files through one mount, and looks at
// them through another: what close or fsync acknowledged is there, at once.
func TestTwoMounts(t *testing.T) {
	tc := startCluster(t)
	a, b := tc.mount(t, ""), tc.mount(t, "/")
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewSource(seed))
	model := map[string][]byte{}
	const maxSize = 6 << 20
	for step := range 150 {
		w, r := a, b
		if rnd.Intn(2) == 0 {
			w, r = b, a
		}
		name := fmt.Sprint("f", rnd.Intn(6))
		if err := change(rnd, filepath.Join(w, name), name, model, maxSize); err != nil {
			t.Fatalf("step %d, seed %d: %s: %v", step, seed, name, err)
		}
		for _, dir := range []string{r, w} {
			got, err := os.ReadFile(filepath.Join(dir, name))
			want, there := model[name]
			if there != (err == nil) || !bytes.Equal(got, want) {
				t.Fatalf("step %d, seed %d: %s in %s has %d bytes (%v), want %d; first difference at %d", step, seed, name, dir,
					len(got), err, len(want), differ(got, want))
			}
		}
	}
}

func differ(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// change does one random thing to a file and to its model.
func change(rnd *rand.Rand, path, name string, model map[string][]byte, maxSize int) error {
	if rnd.Intn(12) == 0 {
		if _, there := model[name]; !there {
			return nil
		}
		delete(model, name)
		return os.Remove(path)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	m := model[name]
	if m == nil {
		m = []byte{}
	}
	for range 1 + rnd.Intn(4) {
		switch rnd.Intn(5) {
		case 0:
			size := rnd.Intn(maxSize)
			if err := f.Truncate(int64(size)); err != nil {
				return err
			}
			if size <= len(m) {
				m = m[:size:size]
			} else {
				m = append(m, make([]byte, size-len(m))...)
			}
		case 1: // read back what this handle wrote
			got := make([]byte, len(m))
			if _, err := f.ReadAt(got, 0); err != nil && err != io.EOF {
				return err
			}
			if !bytes.Equal(got, m) {
				return fmt.Errorf("reads back otherwise from %d on", differ(got, m))
			}
		default:
			p := make([]byte, 1+rnd.Intn(1<<(1+rnd.Intn(21))))
			rnd.Read(p)
			off := rnd.Intn(maxSize - len(p) + 1)
			if _, err := f.WriteAt(p, int64(off)); err != nil {
				return err
			}
			if off+len(p) > len(m) {
				m = append(m, make([]byte, off+len(p)-len(m))...)
			}
			m = append([]byte(nil), m...)
			copy(m[off:], p)
		}
	}
	model[name] = m
	if rnd.Intn(3) == 0 {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return f.Close()
}

// TestClusterErrors: what is wrong is said, and nothing is mounted.
func TestClusterErrors(t *testing.T) {
	tc := startCluster(t)
	point := mountpoint(t)
	cases := map[string]struct {
		change func(c *Config)
		want   tnv.Kind
	}{
		"no such directory": {func(c *Config) { c.Subdir = "/none" }, tnv.KindNotExist},
		"wrong key":         {func(c *Config) { c.Client.Key.Secret = bytes.Repeat([]byte("x"), 32) }, tnv.KindAuth},
		"another cluster":   {func(c *Config) { c.Client.Key = protocol.NewKey() }, tnv.KindWrongCluster},
		"no such volume":    {func(c *Config) { c.Client.Volume = "none" }, tnv.KindNotExist},
		"no tracker": {func(c *Config) {
			c.Client.Trackers = []string{"127.0.0.1:1"}
			c.Client.Timeout = time.Second
		}, tnv.KindUnavailable},
	}
	for name, bad := range cases {
		cfg := Config{Mountpoint: point, Client: tc.config(), Ready: func() { t.Errorf("%s: ready", name) }}
		bad.change(&cfg)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		err := Run(ctx, cfg)
		cancel()
		if tnv.KindOf(err) != bad.want {
			t.Errorf("%s: %v, want %v", name, err, bad.want)
		}
		if isMounted(t, point) {
			t.Errorf("%s: mounted", name)
		}
	}
}

// TestSetAttrAcrossMounts: what one mount says of a file, the other shows.
func TestSetAttrAcrossMounts(t *testing.T) {
	tc := startCluster(t)
	a, b := tc.mount(t, ""), tc.mount(t, "")
	if err := os.WriteFile(a+"/f", []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	when := unix.Timespec{Sec: 1234567890, Nsec: 987654321}
	for _, err := range []error{os.Chmod(b+"/f", 0o640), os.Chown(a+"/f", 7, 8),
		unix.UtimesNanoAt(unix.AT_FDCWD, b+"/f", []unix.Timespec{when, when}, 0),
		unix.Setxattr(a+"/f", "user.who", []byte("me"), 0), os.Link(a+"/f", b+"/g")} {
		if err != nil && !errors.Is(err, unix.EXDEV) {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{a, b} {
		var st unix.Stat_t
		if err := unix.Stat(dir+"/f", &st); err != nil || st.Mode != unix.S_IFREG|0o640 || st.Uid != 7 || st.Gid != 8 || st.Mtim != when || st.Size != 5 {
			t.Errorf("%s: %+v, %v", dir, st, err)
		}
		buf := make([]byte, 10)
		if n, err := unix.Getxattr(dir+"/f", "user.who", buf); err != nil || string(buf[:n]) != "me" {
			t.Errorf("%s: xattr %q, %v", dir, buf[:max(n, 0)], err)
		}
	}
}
