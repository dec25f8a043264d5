package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/fuse"
	"github.com/tnvfs/tnv/fuse/fusetest"
)

const daemonEnv = "TNV_TEST_MOUNT_AT"

// TestMain: with the variable set, this binary is a mount daemon on a volume in
// memory, which stops when its input ends.
func TestMain(m *testing.M) {
	point := os.Getenv(daemonEnv)
	if point == "" {
		os.Exit(m.Run())
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { io.Copy(io.Discard, os.Stdin); cancel() }()
	d := newMounting(point, fusetest.New())
	d.cfg.Ready = func() { fmt.Println("ready") }
	if err := d.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

func newMounting(point string, vol *fusetest.Volume) *mounting {
	cfg := Config{Mountpoint: point, Log: quiet()}.withDefaults()
	return &mounting{cfg: cfg, log: cfg.Log, point: point, fs: fuse.NewBackend(vol, fuse.Options{Log: cfg.Log})}
}

// mountpoint is a directory for a mount that is gone when the test ends.
func mountpoint(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts with the kernel: run it as root")
	}
	dir, err := os.MkdirTemp("", "tnv-mount-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 5 {
			if unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH) != nil {
				break
			}
			t.Log("a mount was left behind")
		}
		os.Remove(dir) // not recursive: nothing may be in it
	})
	return dir
}

// serve runs a mount daemon until the test ends, or stop is called, which gives its error.
func serve(t *testing.T, d *mounting) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	d.cfg.Ready = func() { close(ready) }
	go func() { done <- d.run(ctx) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatal("mount: ", err)
	}
	var once bool
	stop = func() error {
		if once {
			return nil
		}
		once = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(2 * time.Minute):
			return errors.New("the daemon does not stop")
		}
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return stop
}

func isMounted(t *testing.T, point string) bool {
	t.Helper()
	_, there, err := mountedAt(point)
	if err != nil {
		t.Fatal(err)
	}
	return there
}

func TestMountAndStop(t *testing.T) {
	point := mountpoint(t)
	vol := fusetest.New()
	d := newMounting(point, vol)
	d.cfg.Options.Flags = []string{"noexec"}
	d.cfg.Options.NoAtime = true
	stop := serve(t, d)
	if err := os.WriteFile(point+"/f", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(point, &st); err != nil || st.Flags&unix.ST_NOEXEC == 0 || st.Flags&unix.ST_NODEV == 0 || st.Flags&unix.ST_NOATIME == 0 {
		t.Errorf("flags %x, %v", st.Flags, err)
	}
	if b, err := os.ReadFile("/sys/class/bdi/" + d.dev + "/read_ahead_kb"); err != nil || strings.TrimSpace(string(b)) != fmt.Sprint(readAheadKiB) {
		t.Errorf("read-ahead %q, %v", b, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if isMounted(t, point) {
		t.Error("still mounted")
	}
}

func TestReadOnly(t *testing.T) {
	point := mountpoint(t)
	d := newMounting(point, fusetest.New())
	d.cfg.Options.ReadOnly = true
	serve(t, d)
	if err := syscall.Mkdir(point+"/d", 0o755); err != syscall.EROFS {
		t.Errorf("mkdir: %v", err)
	}
}

// TestUnmountByUser: umount(8) ends the daemon, after what was written is flushed.
func TestUnmountByUser(t *testing.T) {
	point := mountpoint(t)
	vol := fusetest.New()
	d := newMounting(point, vol)
	stop := serve(t, d)
	if err := os.WriteFile(point+"/f", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("umount", point).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v: %s", err, out)
	}
	select {
	case <-d.over:
	case <-time.After(10 * time.Second):
		t.Fatal("the daemon goes on")
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if n := vol.Opens(); n != 0 {
		t.Errorf("%d handles are open", n)
	}
}

// TestStopWhileInUse: a file that is open for writing loses nothing that was
// written before the end; its user loses the file.
func TestStopWhileInUse(t *testing.T) {
	point := mountpoint(t)
	vol := fusetest.New()
	d := newMounting(point, vol)
	stop := serve(t, d)
	f, err := os.Create(point + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	flushes := vol.Calls("flush")
	start := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d < grace || d > grace+10*time.Second {
		t.Errorf("stopped after %v", d)
	}
	if vol.Calls("flush") == flushes || vol.Opens() != 0 {
		t.Errorf("%d flushes, %d handles open", vol.Calls("flush")-flushes, vol.Opens())
	}
	if _, err := f.Write([]byte("more")); err == nil {
		t.Error("writing goes on")
	}
	if isMounted(t, point) {
		t.Error("still mounted")
	}
}

func TestPrepare(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if got, err := prepare(ctx, filepath.Join(dir, "link"), quiet()); err != nil || got != dir {
		t.Errorf("a link to %s: %s, %v", dir, got, err)
	}
	for path, want := range map[string]tnv.Kind{
		"":                                 tnv.KindInvalid,
		filepath.Join(dir, "missing"):      tnv.KindNotExist,
		filepath.Join(dir, "missing/deep"): tnv.KindNotExist,
		file:                               tnv.KindNotDir,
		filepath.Join(file, "x"):           tnv.KindNotDir,
		"/":                                tnv.KindBusy,
		"/proc":                            tnv.KindBusy,
	} {
		if got, err := prepare(ctx, path, quiet()); tnv.KindOf(err) != want {
			t.Errorf("%q: %q, %v; want %v", path, got, err, want)
		}
	}
}

// TestInUse: a mountpoint that one of our daemons serves is refused.
func TestInUse(t *testing.T) {
	point := mountpoint(t)
	serve(t, newMounting(point, fusetest.New()))
	_, err := prepare(context.Background(), point, quiet())
	if tnv.KindOf(err) != tnv.KindBusy || !strings.Contains(err.Error(), "umount") {
		t.Errorf("prepare: %v", err)
	}
	if err := os.Mkdir(point+"/still", 0o755); err != nil {
		t.Errorf("the mount was disturbed: %v", err)
	}
}

// daemon starts a mount daemon as a process of its own.
func daemon(t *testing.T, point string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), daemonEnv+"="+point)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	buf := make([]byte, 16)
	if n, err := out.Read(buf); err != nil || string(buf[:n]) != "ready\n" {
		t.Fatalf("the daemon says %q, %v", buf[:n], err)
	}
	return cmd
}

// TestDeadMount: what daemons that were killed left behind is taken away, one
// on top of the other too, and used again.
func TestDeadMount(t *testing.T) {
	point := mountpoint(t)
	for range 2 {
		cmd := daemon(t, point)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		var st unix.Stat_t
		if err := unix.Stat(point, &st); err != syscall.ENOTCONN {
			t.Fatalf("stat of a dead mount: %v", err)
		}
		got, err := prepare(context.Background(), point, quiet())
		if err != nil || got != point {
			t.Fatalf("prepare: %q, %v", got, err)
		}
		if isMounted(t, point) {
			t.Fatal("still mounted")
		}
	}
	serve(t, newMounting(point, fusetest.New()))
	if err := os.Mkdir(point+"/d", 0o755); err != nil {
		t.Error(err)
	}
}

// TestFrozenMount: a daemon that is stopped keeps its mountpoint, and asking for
// it does not hang.
func TestFrozenMount(t *testing.T) {
	point := mountpoint(t)
	cmd := daemon(t, point)
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err := prepare(context.Background(), point, quiet())
	if tnv.KindOf(err) != tnv.KindBusy || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("prepare: %v", err)
	}
	if d := time.Since(start); d > probeTime+2*time.Second {
		t.Errorf("it took %v", d)
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

func TestIdentity(t *testing.T) {
	a, b := Config{}.identity("/a"), Config{}.identity("/b")
	if a == b || a != (Config{}).identity("/a") {
		t.Errorf("%s, %s", a, b)
	}
}

// TestNoCluster: without a tracker nothing is mounted.
func TestNoCluster(t *testing.T) {
	point := mountpoint(t)
	cfg := Config{Mountpoint: point, Ready: func() { t.Error("ready") }}
	if err := Run(context.Background(), cfg); tnv.KindOf(err) != tnv.KindInvalid {
		t.Errorf("no tracker: %v", err)
	}
	if isMounted(t, point) {
		t.Error("mounted")
	}
}
