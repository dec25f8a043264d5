package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// One cluster's life: up, files in through the mount, out over HTTP and by
// commands, errors of a second up, down, up again with everything there.
func TestUpUseDownUp(t *testing.T) {
	c := newLocal(t)
	st := c.waitWhole(t)
	if len(st.Trackers) != 1 || !st.Trackers[0].Alive || len(st.Volumes) != 1 || st.Volumes[0].Name != "media" || st.Volumes[0].Owner != st.Trackers[0].Addr {
		t.Errorf("status: %+v", st)
	}
	if len(st.Groups) != 1 || len(st.Groups[0].Nodes) != 2 || !st.Groups[0].Nodes[0].Alive || st.Groups[0].Nodes[0].CapacityBytes == 0 {
		t.Errorf("groups: %+v", st.Groups)
	}
	film := noise(1, 24<<20+123)
	src := filepath.Join(t.TempDir(), "film.mkv")
	if err := os.WriteFile(src, film, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", src, filepath.Join(c.mount, "film.mkv")).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v %s", err, out)
	}
	url := c.url(t)
	if got := httpGet(t, url+"/film.mkv"); !bytes.Equal(got, film) {
		t.Errorf("over HTTP: %d bytes, %s, want %d, %s", len(got), sum(got), len(film), sum(film))
	}
	if list := string(httpGet(t, url+"/")); !strings.Contains(list, "./film.mkv") {
		t.Errorf("the listing lacks the film: %s", list)
	}
	if got := tnvOK(t, "cat", "--dir", c.dir, "/film.mkv"); got != string(film) {
		t.Error("tnv cat gives other bytes")
	}

	r := runAs(t, nil, "tnv", "up", "-d", "--dir", c.dir)
	if r.code != 1 || !strings.Contains(r.errOut, "already up") || !strings.Contains(r.errOut, "tnv down") {
		t.Errorf("a second up: %d %s", r.code, r.errOut)
	}
	other := filepath.Join(t.TempDir(), "other")
	r = runAs(t, nil, "tnv", "up", "-d", "--dir", other, "--mount", c.mount, "--http", "")
	if r.code != 1 || !strings.Contains(r.errOut, "--mount") {
		t.Errorf("a mountpoint in use: %d %s", r.code, r.errOut)
	}
	r = runAs(t, nil, "tnv", "up", "-d", "--dir", other, "--mount", "", "--http", taken(t))
	if r.code != 1 || !strings.Contains(r.errOut, "--http") {
		t.Errorf("an address in use: %d %s", r.code, r.errOut)
	}
	foreign := filepath.Join(t.TempDir(), "key")
	tnvOK(t, "key", "new", foreign)
	r = runAs(t, nil, "tnv", "ls", "--trackers", st.Trackers[0].Addr, "--keyfile", foreign)
	if r.code != 1 || !strings.Contains(r.errOut, "another cluster") {
		t.Errorf("another cluster's key: %d %s", r.code, r.errOut)
	}

	tnvOK(t, "down", "--dir", c.dir)
	if entries, err := os.ReadDir(c.mount); err != nil || len(entries) != 0 {
		t.Errorf("after down the mountpoint holds %v (%v)", entries, err)
	}
	if pids, _ := filepath.Glob(filepath.Join(c.dir, "run", "*.pid")); len(pids) != 0 {
		t.Errorf("after down: %v", pids)
	}
	r = runAs(t, nil, "tnv", "status", "--dir", c.dir, "--json")
	var down statusJSON
	if err := json.Unmarshal([]byte(r.out), &down); err != nil || r.code != 1 || len(down.Trackers) != 1 || down.Trackers[0].Alive {
		t.Errorf("status of a cluster that is down: exit code %d, %s", r.code, r.out)
	}

	tnvOK(t, "up", "-d", "--dir", c.dir)
	got, err := os.ReadFile(filepath.Join(c.mount, "film.mkv"))
	if err != nil || !bytes.Equal(got, film) {
		t.Errorf("up again: %d bytes, %v", len(got), err)
	}
	if again := c.status(t); again.Trackers[0].Addr != st.Trackers[0].Addr {
		t.Errorf("the tracker moved from %s to %s", st.Trackers[0].Addr, again.Trackers[0].Addr)
	}
}

// What is killed is started again by up, one at a time and all at once, and
// nothing that was closed is lost.
func TestKilledProcessesComeBack(t *testing.T) {
	c := newLocal(t)
	want := map[string]string{}
	all := []string{"trackerd-1", "stored-1", "stored-2", "httpd-1", "mount-1"}
	for i, victims := range [][]string{{"stored-1"}, {"mount-1"}, {"trackerd-1"}, {"httpd-1"}, all} {
		name := string(rune('a'+i)) + ".mkv"
		data := noise(int64(i), 5<<20+i)
		if err := os.WriteFile(filepath.Join(c.mount, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		want[name] = sum(data)
		for _, v := range victims {
			if err := syscall.Kill(c.pid(t, v), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		for _, v := range victims {
			waitGone(t, c.pid(t, v))
		}
		tnvOK(t, "up", "-d", "--dir", c.dir)
		c.waitWhole(t)
		url := c.url(t)
		for name, s := range want {
			got, err := os.ReadFile(filepath.Join(c.mount, name))
			if err != nil || sum(got) != s {
				t.Errorf("after the end of %v: %s on the mount: %d bytes, %v", victims, name, len(got), err)
			}
			if sum(httpGet(t, url+"/"+name)) != s {
				t.Errorf("after the end of %v: %s over HTTP is wrong", victims, name)
			}
		}
	}
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); syscall.Kill(pid, 0) == nil; time.Sleep(5 * time.Millisecond) {
		b, _ := os.ReadFile(filepath.Join("/proc", itoa(pid), "stat"))
		if _, after, ok := strings.Cut(string(b), ") "); ok && strings.HasPrefix(after, "Z") {
			return // nobody has reaped it yet
		}
		if time.Now().After(end) {
			t.Fatalf("process %d does not go", pid)
		}
	}
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

// A second mount is one command, umount ends it, and down ends it too.
func TestSecondMount(t *testing.T) {
	c := newLocal(t)
	second := c.mount + "2"
	if err := os.Mkdir(second, 0o755); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(c.mount, "x"), []byte("one"), 0o644)
	for range 2 {
		if r := runAs(t, nil, "mount.tnv", second, "-o", "dir="+c.dir); r.code != 0 {
			t.Fatalf("mount.tnv: %d %s", r.code, r.errOut)
		}
		if b, err := os.ReadFile(filepath.Join(second, "x")); err != nil || string(b) != "one" {
			t.Errorf("on the second mount: %q %v", b, err)
		}
		pid := c.pid(t, "mount-2")
		if out, err := exec.Command("umount", second).CombinedOutput(); err != nil {
			t.Fatalf("umount: %v %s", err, out)
		}
		waitGone(t, pid)
	}
	if r := runAs(t, nil, "tnv", "mount", "--dir", c.dir, second); r.code != 0 { // the flag instead
		t.Fatalf("tnv mount: %d %s", r.code, r.errOut)
	}
	pid := c.pid(t, "mount-2")
	r := runAs(t, nil, "tnv", "mount", "--dir", c.dir, second)
	if r.code != 32 || r.errOut == "" {
		t.Errorf("a mount over a mount: %d %q", r.code, r.errOut)
	}
	tnvOK(t, "down", "--dir", c.dir)
	waitGone(t, pid)
	if entries, err := os.ReadDir(second); err != nil || len(entries) != 0 {
		t.Errorf("after down: %v %v", entries, err)
	}
}

// In front: it stays until it is told to stop, and then everything has ended.
func TestUpInFront(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "c")
	cmd := exec.Command(filepath.Join(os.Getenv(buildEnv), "tnv"), "up", "--dir", dir, "--mount", filepath.Join(base, "m"), "--http", "127.0.0.1:0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	watchdog := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer watchdog.Stop()
	var text strings.Builder
	for buf := make([]byte, 1000); !strings.Contains(text.String(), "Ctrl-C"); {
		n, err := out.Read(buf)
		text.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v; it said:\n%s%s", err, &text, &errOut)
		}
	}
	c := &local{dir: dir, mount: filepath.Join(base, "m")}
	pids := map[string]int{}
	for _, p := range c.status(t).Processes {
		pids[p.Name] = p.Pid
	}
	if err := os.WriteFile(filepath.Join(c.mount, "x"), []byte("one"), 0o644); err != nil {
		t.Error(err)
	}
	cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v\n%s", err, &errOut)
	}
	for name, pid := range pids {
		if name != "up-1" && syscall.Kill(pid, 0) == nil {
			t.Errorf("%s still runs", name)
		}
	}
	if len(pids) < 5 {
		t.Errorf("processes: %v", pids)
	}
	if entries, err := os.ReadDir(c.mount); err != nil || len(entries) != 0 {
		t.Errorf("the mountpoint holds %v (%v)", entries, err)
	}
}

// Commands on files, without a mount.
func TestFileCommands(t *testing.T) {
	c := newLocal(t, "--mount", "")
	vol := func(args ...string) []string { return append([]string{args[0], "--dir", c.dir}, args[1:]...) }
	tree := t.TempDir()
	big := noise(7, 9<<20+1)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(tree, "t", "sub", "empty"), 0o755))
	must(os.WriteFile(filepath.Join(tree, "t", "big"), big, 0o640))
	must(os.WriteFile(filepath.Join(tree, "t", "sub", "small"), []byte("small"), 0o755))
	must(os.Symlink("sub/small", filepath.Join(tree, "t", "link")))
	must(os.Chtimes(filepath.Join(tree, "t", "big"), time.Unix(1e9, 5), time.Unix(1e9, 5)))

	tnvOK(t, vol("put", "-r", "-p", filepath.Join(tree, "t"), "/")...)
	back := filepath.Join(t.TempDir(), "back")
	must(os.Mkdir(back, 0o755))
	tnvOK(t, vol("get", "-r", "-p", "/t", back)...)
	if out, err := exec.Command("diff", "-r", "--no-dereference", filepath.Join(tree, "t"), filepath.Join(back, "t")).CombinedOutput(); err != nil {
		t.Errorf("what came back differs: %v %s", err, out)
	}
	if fi, err := os.Stat(filepath.Join(back, "t", "big")); err != nil || fi.Mode() != 0o640 || !fi.ModTime().Equal(time.Unix(1e9, 5)) {
		t.Errorf("big came back as %v", fi)
	}

	var files []fileJSON
	must(json.Unmarshal([]byte(tnvOK(t, vol("ls", "--json", "/t")...)), &files))
	if len(files) != 3 || files[0].Name != "big" || files[0].Size != uint64(len(big)) || files[1].Target != "sub/small" || files[2].Type != "directory" {
		t.Errorf("ls: %+v", files)
	}
	var f fileJSON
	must(json.Unmarshal([]byte(tnvOK(t, vol("stat", "--json", "-L", "/t/link")...)), &f))
	if f.Type != "file" || f.Size != 5 || f.Mode != "0755" {
		t.Errorf("stat: %+v", f)
	}
	if out := tnvOK(t, vol("ls", "-l", "/t")...); !strings.Contains(out, "-rw-r-----") || !strings.Contains(out, "link -> sub/small") {
		t.Errorf("ls -l:\n%s", out)
	}

	r := runAs(t, strings.NewReader("from a pipe"), "tnv", vol("put", "-", "/piped")...)
	if r.code != 0 || tnvOK(t, vol("cat", "/piped")...) != "from a pipe" {
		t.Errorf("put -: %d %s", r.code, r.errOut)
	}
	tnvOK(t, vol("put", filepath.Join(tree, "t", "sub", "small"), "/piped")...) // replaces
	if got := tnvOK(t, vol("cat", "/piped")...); got != "small" {
		t.Errorf("after a replacement: %q", got)
	}
	tnvOK(t, vol("mkdir", "-p", "/x/y/z")...)
	tnvOK(t, vol("mkdir", "-p", "/x/y/z")...)
	tnvOK(t, vol("mv", "/piped", "/t/big", "/x/y")...)
	if got := tnvOK(t, vol("ls", "/x/y")...); got != "big\npiped\nz/\n" {
		t.Errorf("after mv: %q", got)
	}
	for _, bad := range []struct {
		want string
		args []string
	}{
		{"no such file", vol("cat", "/none")},
		{"is a directory", vol("cat", "/x")},
		{"-r", vol("rm", "/x")},
		{"-r", vol("get", "/x", back)},
		{"file exists", vol("mkdir", "/x")},
		{"file exists", vol("mv", "-n", "/x/y/big", "/x/y/piped")},
		{"not a directory", vol("ls", "/x/y/big/a")},
		{"tnv mkdir", vol("put", filepath.Join(tree, "t", "big"), "/none/")},
		{"no such file", vol("put", filepath.Join(tree, "none"), "/")},
		{"no such file", vol("rm", "/none")},
		{"volume", vol("rm", "-r", "/")},
		{"nothere", vol("ls", "--volume", "nothere")},
	} {
		if r := runAs(t, nil, "tnv", bad.args...); r.code != 1 || !strings.Contains(r.errOut, bad.want) {
			t.Errorf("%v: exit code %d, %q, want 1 and %q", bad.args, r.code, r.errOut, bad.want)
		}
	}
	tnvOK(t, vol("rm", "-f", "/none")...)
	tnvOK(t, vol("rm", "-r", "/x", "/t")...)
	if got := tnvOK(t, vol("ls")...); got != "" {
		t.Errorf("left: %q", got)
	}
	if got := tnvOK(t, "ls"); got != "" { // the newest cluster of this user
		t.Errorf("without --dir: %q", got)
	}
}
