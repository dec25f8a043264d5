package cluster

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
)

func up(t *testing.T, cfg Config) *Cluster {
	t.Helper()
	c, err := Up(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func down(t *testing.T, cfg Config) []string {
	t.Helper()
	names, err := Down(t.Context(), cfg.Dir, cfg.Log)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// alive names the processes of a cluster that live.
func alive(dir string) (names []string) {
	for _, r := range (Layout{dir}).Records() {
		if r.Alive() {
			names = append(names, r.Name)
		}
	}
	return names
}

func ptr[T any](v T) *T { return &v }

func TestUpDownUp(t *testing.T) {
	cfg := config(t)
	cfg.Groups, cfg.Replicas = ptr(2), ptr(2)
	c := up(t, cfg)
	want := "httpd-1 stored-1 stored-2 stored-3 stored-4 trackerd-1"
	if got := strings.Join(alive(cfg.Dir), " "); got != want {
		t.Fatalf("running: %s, want %s", got, want)
	}
	for _, name := range strings.Fields(want) {
		b, err := os.ReadFile(c.PidFile(name))
		pid, err2 := strconv.Atoi(strings.TrimSuffix(string(b), "\n"))
		if err != nil || err2 != nil || syscall.Kill(pid, 0) != nil {
			t.Errorf("%s.pid holds %q: want the id of a living process and nothing else", name, b)
		}
	}
	if fi, err := os.Stat(c.KeyFile()); err != nil || fi.Mode() != 0o600 {
		t.Errorf("key: %v %v", fi.Mode(), err)
	}
	key, _ := os.ReadFile(c.KeyFile())
	trackers, err := c.Layout.Trackers()
	if err != nil || len(trackers) != 1 || trackers[0] != c.Trackers[0] {
		t.Errorf("run/trackers: %v %v, want %v", trackers, err, c.Trackers)
	}

	if _, err := Up(t.Context(), cfg); tnv.KindOf(err) != tnv.KindBusy || !strings.Contains(err.Error(), "tnv down") {
		t.Errorf("a second up: %v", err)
	}
	if n := len(alive(cfg.Dir)); n != 6 {
		t.Errorf("%d processes after the second up, want 6", n)
	}

	if names := down(t, cfg); len(names) != 6 || len(alive(cfg.Dir)) != 0 {
		t.Errorf("down stopped %v, and left %v", names, alive(cfg.Dir))
	}
	if left, _ := filepath.Glob(filepath.Join(cfg.Dir, "run", "*.pid")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if names := down(t, cfg); len(names) != 0 {
		t.Errorf("a second down stopped %v", names)
	}

	again := cfg
	again.Groups, again.Replicas, again.HTTP = nil, nil, nil
	c2 := up(t, again)
	key2, _ := os.ReadFile(c.KeyFile())
	if c2.Groups != 2 || c2.Replicas != 2 || c2.Trackers[0] != c.Trackers[0] || c2.HTTP != c.HTTP || string(key) != string(key2) {
		t.Errorf("up again: %d × %d at %v and %s, want 2 × 2 at %v and %s", c2.Groups, c2.Replicas, c2.Trackers, c2.HTTP, c.Trackers, c.HTTP)
	}
	stopTimes := func(name string) string {
		b, _ := os.ReadFile(c.LogFile(name))
		return string(b)
	}
	down(t, cfg)
	if !(stopTimes("httpd-1") < stopTimes("stored-1") && stopTimes("stored-1") < stopTimes("trackerd-1")) {
		t.Error("not stopped in the order HTTP, storage, tracker")
	}
}

// What died is started again by another up, and only that.
func TestUpRestartsTheMissing(t *testing.T) {
	cfg := config(t)
	c := up(t, cfg)
	before := map[string]int{}
	for _, r := range c.Records() {
		before[r.Name] = r.Pid
	}
	for _, name := range []string{"stored-2", "trackerd-1"} {
		syscall.Kill(before[name], syscall.SIGKILL)
		waitDead(t, c.Record(name))
		up(t, cfg2(cfg))
		for _, r := range c.Records() {
			if changed := r.Pid != before[r.Name]; changed != (r.Name == name) || !r.Alive() {
				t.Errorf("after the death of %s: %s had pid %d, has %d, alive %v", name, r.Name, before[r.Name], r.Pid, r.Alive())
			}
			before[r.Name] = r.Pid
		}
	}
	down(t, cfg)
}

func cfg2(cfg Config) Config {
	cfg.HTTP = nil
	return cfg
}

func waitDead(t *testing.T, r Record) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); r.Alive(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not die", r.Name)
		}
	}
}

func TestUpGrows(t *testing.T) {
	cfg := config(t)
	up(t, cfg)
	cfg.HTTP, cfg.Groups, cfg.Replicas = nil, ptr(2), ptr(3)
	c := up(t, cfg)
	if n := len(alive(cfg.Dir)); n != 8 {
		t.Errorf("%v: want 6 storage daemons", alive(cfg.Dir))
	}
	groups := map[string]int{}
	for _, d := range c.st.Daemons {
		groups[d.Group]++
	}
	if groups["g1"] != 3 || groups["g2"] != 3 || c.st.daemon("stored-2").Group != "g1" {
		t.Errorf("groups %v", c.st.Daemons)
	}
	down(t, cfg)
	cfg.Groups = ptr(1)
	if _, err := Up(t.Context(), cfg); tnv.KindOf(err) != tnv.KindInvalid {
		t.Errorf("fewer groups: %v", err)
	}
}

// An up that fails stops what it started, and says why.
func TestUpFails(t *testing.T) {
	for what, want := range map[string]string{
		"stored-2.fail":    "segment 7 is damaged",
		"httpd-1.crash":    "out of cheese",
		"trackerd-1.crash": "out of cheese",
	} {
		t.Run(what, func(t *testing.T) {
			cfg := config(t)
			os.MkdirAll(filepath.Join(cfg.Dir, "log"), 0o755)
			up(t, cfg)
			down(t, cfg)
			bad := filepath.Join(cfg.Dir, what)
			os.WriteFile(bad, []byte(want), 0o644)
			_, err := Up(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "log") {
				t.Errorf("error %v: want one with %q and where the log is", err, want)
			}
			if left := alive(cfg.Dir); len(left) != 0 {
				t.Errorf("left running: %v", left)
			}
			os.Remove(bad)
			up(t, cfg)
			down(t, cfg)
		})
	}
}

func TestUpCanceled(t *testing.T) {
	cfg := config(t)
	up(t, cfg)
	down(t, cfg)
	os.WriteFile(filepath.Join(cfg.Dir, "stored-1.hang"), nil, 0o644)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := Up(ctx, cfg); err == nil {
		t.Error("up without its storage daemon")
	}
	if left := alive(cfg.Dir); len(left) != 0 {
		t.Errorf("left running: %v", left)
	}
}

func TestAddressesInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cfg := config(t)
	cfg.HTTP = ptr(ln.Addr().String())
	if _, err := Up(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "--http") || len(alive(cfg.Dir)) != 0 {
		t.Errorf("an HTTP port in use, named: %v; running %v", err, alive(cfg.Dir))
	}
	cfg.HTTP = ptr("nonsense")
	if _, err := Up(t.Context(), cfg); tnv.KindOf(err) != tnv.KindInvalid {
		t.Errorf("no address: %v", err)
	}
	cfg.HTTP = ptr("127.0.0.1:0")
	c := up(t, cfg)
	addr := c.Trackers[0]
	down(t, cfg)
	taken, err := net.Listen("tcp", addr) // the tracker's port is somebody else's now
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if c = up(t, cfg); c.Trackers[0] == addr {
		t.Error("the tracker listens where another process does")
	}
	down(t, cfg)
}

func TestDirectories(t *testing.T) {
	cfg := config(t)
	os.MkdirAll(cfg.Dir, 0o755)
	foreign := filepath.Join(cfg.Dir, "thesis.txt")
	os.WriteFile(foreign, []byte("x"), 0o644)
	if _, err := Up(t.Context(), cfg); tnv.KindOf(err) != tnv.KindInvalid || !strings.Contains(err.Error(), "thesis.txt") {
		t.Errorf("a directory of other things: %v", err)
	}
	if entries, _ := os.ReadDir(cfg.Dir); len(entries) != 1 {
		t.Error("something was made in a foreign directory")
	}
	file := cfg
	file.Dir = foreign
	if _, err := Up(t.Context(), file); err == nil || !strings.Contains(err.Error(), "--dir") {
		t.Errorf("a file as directory: %v", err)
	}
	if _, err := Down(t.Context(), filepath.Join(cfg.Dir, "none"), cfg.Log); tnv.KindOf(err) != tnv.KindNotExist {
		t.Errorf("down without a cluster: %v", err)
	}
	os.Remove(foreign)
	c := up(t, cfg)
	down(t, cfg)
	os.Rename(c.KeyFile(), c.KeyFile()+".away")
	if _, err := Up(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("without its key: %v", err)
	}
	if _, err := os.Stat(c.KeyFile()); err == nil {
		t.Error("a new key was made for old data")
	}
	os.Rename(c.KeyFile()+".away", c.KeyFile())
	os.WriteFile(c.stateFile(), []byte("{"), 0o644)
	if _, err := Up(t.Context(), cfg); tnv.KindOf(err) != tnv.KindCorrupt {
		t.Errorf("damaged state: %v", err)
	}
	os.WriteFile(c.stateFile(), []byte(`{"version":99}`), 0o644)
	if _, err := Up(t.Context(), cfg); tnv.KindOf(err) != tnv.KindVersion {
		t.Errorf("newer state: %v", err)
	}
}

func TestMountpoints(t *testing.T) {
	cfg := config(t)
	point := filepath.Join(t.TempDir(), "m")
	for what, c := range map[string]struct {
		mount string
		kind  tnv.Kind
	}{
		"in use":             {"/proc", tnv.KindBusy},
		"hides the cluster":  {filepath.Dir(cfg.Dir), tnv.KindInvalid},
		"cannot be made":     {"/proc/none/x", tnv.KindNotExist},
		"a file":             {"/etc/passwd", tnv.KindExist},
		"holds other things": {"/etc", tnv.KindNotEmpty},
	} {
		cfg.Mount = ptr(c.mount)
		_, err := Up(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), "--mount") || c.kind != tnv.KindExist && tnv.KindOf(err) != c.kind {
			t.Errorf("%s: %v, want kind %v", what, err, c.kind)
		}
		if len(alive(cfg.Dir)) != 0 {
			t.Errorf("%s: left running %v", what, alive(cfg.Dir))
		}
	}
	cfg.Mount = ptr(point)
	up(t, cfg)
	if err := Mount(t.Context(), cfg.Dir, point+"2", Spawn{Role: RoleMount, Exe: cfg.Exe, Args: []string{"-o", "keyfile=" + filepath.Join(cfg.Dir, "key")}}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(alive(cfg.Dir), " "); got != "httpd-1 mount-1 mount-2 stored-1 stored-2 trackerd-1" {
		t.Errorf("running: %s", got)
	}
	down(t, cfg)
	if len(alive(cfg.Dir)) != 0 {
		t.Errorf("left running %v", alive(cfg.Dir))
	}
}

// A process that is not ours any more is never signalled.
func TestStalePidFiles(t *testing.T) {
	cfg := config(t)
	c := up(t, cfg)
	down(t, cfg)
	other, err := os.StartProcess("/bin/sleep", []string{"sleep", "60"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer other.Kill()
	now, err := newRecord("stored-1", RoleStore, other.Pid)
	if err != nil || !now.Alive() {
		t.Fatalf("%+v is not alive: %v", now, err)
	}
	for what, change := range map[string]func(r *Record){
		"another start time": func(r *Record) { r.Start-- },
		"another boot":       func(r *Record) { r.Boot = "x" },
	} {
		r := now
		change(&r)
		if err := c.save(r); err != nil {
			t.Fatal(err)
		}
		if r.Alive() {
			t.Errorf("%s: taken for ours", what)
		}
		down(t, cfg)
		if !now.Alive() {
			t.Fatalf("%s: a foreign process was stopped", what)
		}
	}
	os.WriteFile(c.PidFile("stored-1"), []byte(strconv.Itoa(other.Pid)), 0o644) // no record, and sleep is no stored
	down(t, cfg)
	if !now.Alive() {
		t.Fatal("a foreign process in a pid file was stopped")
	}
}

// A process that ignores SIGTERM is killed, in bounded time.
func TestStopEscalates(t *testing.T) {
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "trap '' TERM; echo; while :; do sleep 0.05; done"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	go p.Wait()
	time.Sleep(100 * time.Millisecond) // until the trap stands
	r, err := newRecord("stored-1", RoleStore, p.Pid)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	killed, err := Stop(t.Context(), r, 200*time.Millisecond)
	if err != nil || !killed || r.Alive() || time.Since(begin) > 5*time.Second {
		t.Errorf("killed %v, %v, alive %v, after %v", killed, err, r.Alive(), time.Since(begin))
	}
}

// In front it starts again what dies, and ends with all it started.
func TestSupervise(t *testing.T) {
	cfg := config(t)
	c := up(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Supervise(ctx) }()
	victim := c.Record("stored-1")
	syscall.Kill(victim.Pid, syscall.SIGKILL)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if r := c.Record("stored-1"); r.Pid != victim.Pid && r.Alive() {
			break
		}
		if time.Now().After(end) {
			t.Fatal("not started again")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if left := alive(cfg.Dir); len(left) != 0 {
		t.Errorf("left running: %v", left)
	}
}

func TestParseMounts(t *testing.T) {
	ms, err := parseMounts(strings.NewReader(`36 35 98:0 / /mnt\040a\134b rw,noatime shared:1 - fuse.tnv 127.0.0.1:1 rw
bad line
37 35 98:0 / /x rw - ext4 /dev/sda rw
`))
	if err != nil || len(ms) != 2 || ms[0] != (mountEntry{`/mnt a\b`, "fuse.tnv", "127.0.0.1:1"}) || ms[1].Point != "/x" {
		t.Errorf("%+v %v", ms, err)
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mount a small tmpfs (run the tests as root): %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 1<<20), 0o644)
	cfg := config(t)
	cfg.Dir = filepath.Join(dir, "c")
	_, err := Up(t.Context(), cfg)
	if tnv.KindOf(err) != tnv.KindNoSpace || !strings.Contains(err.Error(), "--dir") {
		t.Errorf("on a full disk: %v", err)
	}
}
