package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/tnvfs/tnv/client"
)

// sampleTree makes a tree of the kinds of files that people have, and names its
// regular files. None is larger than most bytes.
func sampleTree(t testing.TB, root string, most int) (files []string) {
	t.Helper()
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	old := time.Date(1999, 12, 31, 23, 59, 59, 123456789, time.UTC)
	for i, size := range []int{0, 1, 4095, 4096, 65537, 4<<20 - 1, 4<<20 + 1, 9 << 20} {
		size = min(size, most)
		name := fmt.Sprintf("dir-%d/sub dir/file %d ü.bin", i%3, i)
		p := filepath.Join(root, name)
		try(os.MkdirAll(filepath.Dir(p), 0o755))
		try(os.WriteFile(p, noise(int64(i), size), 0o644))
		try(os.Chmod(p, []os.FileMode{0o644, 0o600, 0o755}[i%3]))
		try(os.Chtimes(p, old, old.Add(time.Duration(i)*time.Hour)))
		files = append(files, name)
	}
	try(os.Mkdir(filepath.Join(root, "empty"), 0o750))
	try(os.Symlink("../dir-0", filepath.Join(root, "empty", "link")))
	try(os.Symlink("nowhere", filepath.Join(root, "dangling")))
	try(os.Link(filepath.Join(root, files[4]), filepath.Join(root, "hard")))
	files = append(files, "hard")
	sparse, err := os.Create(filepath.Join(root, "sparse"))
	try(err)
	try(sparse.Truncate(int64(min(10<<20, most))))
	_, err = sparse.WriteAt([]byte("middle"), int64(min(5<<20, most/2)))
	try(err)
	try(sparse.Close())
	return append(files, "sparse")
}

// The volume passes the standard library's own test of file systems.
func TestFS(t *testing.T) {
	c := Start(t, Options{NoHTTP: true})
	files := sampleTree(t, c.Mount, 5_000) // it reads all of them by single bytes
	// The test follows links: those that lead out of their tree, or nowhere, are no part of it.
	for _, l := range []string{"dangling", "empty/link"} {
		if err := os.Remove(filepath.Join(c.Mount, l)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cl, err := client.Connect(ctx, client.Config{Trackers: c.Trackers(), Key: c.Key(), ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cl.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	if err := fstest.TestFS(cl.FS(), append(files, "empty")...); err != nil {
		t.Error(err)
	}
}

// listed is a file as `tnv ls --json` and `tnv stat --json` show it.
type listed struct {
	Name, Type, Mode string
	Size             int64
	Mtime            time.Time
}

// The commands on files, one after another, and what the mount shows of them.
func TestCommands(t *testing.T) {
	c := Start(t, Options{NoHTTP: true})
	local := filepath.Join(c.Base, "local")
	files := sampleTree(t, local, 10<<20)
	tnv := func(args ...string) string {
		t.Helper()
		return c.OK(slices.Insert(args, 1, "--dir", c.Dir)...)
	}
	tnv("mkdir", "-p", "/a/b")
	tnv("put", "-r", "-p", "-q", local, "/a/b")
	run(t, time.Minute, "diff", "-r", "--no-dereference", local, filepath.Join(c.Mount, "a/b/local"))
	back := filepath.Join(c.Base, "back")
	tnv("get", "-r", "-p", "-q", "/a/b/local", back)
	run(t, time.Minute, "diff", "-r", "--no-dereference", local, back)
	want, err := os.ReadFile(filepath.Join(local, files[5]))
	if err != nil {
		t.Fatal(err)
	}
	if got := tnv("cat", "/a/b/local/"+files[5]); got != string(want) {
		t.Errorf("cat: %d bytes of %d", len(got), len(want))
	}
	var at listed
	if err := json.Unmarshal([]byte(tnv("stat", "--json", "/a/b/local/"+files[5])), &at); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(local, files[5]))
	if err != nil {
		t.Fatal(err)
	}
	if at.Size != fi.Size() || at.Mode != fmt.Sprintf("%04o", fi.Mode().Perm()) || !at.Mtime.Equal(fi.ModTime()) || at.Type != "file" {
		t.Errorf("stat: %+v, the local file has %d, %v, %v", at, fi.Size(), fi.Mode(), fi.ModTime())
	}
	tnv("mv", "/a/b/local/hard", "/a/moved")
	c.checkListing(t, "/a", "b", "moved")
	if entries, err := os.ReadDir(filepath.Join(c.Mount, "a")); err != nil || len(entries) != 2 {
		t.Errorf("on the mount: %v, %v", entries, err)
	}
	if err := os.WriteFile(filepath.Join(c.Mount, "a/from mount"), want, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := tnv("cat", "/a/from mount"); got != string(want) {
		t.Errorf("cat of what the mount wrote: %d bytes of %d", len(got), len(want))
	}
	tnv("rm", "/a/moved", "/a/from mount")
	tnv("rm", "-r", "/a/b")
	c.checkListing(t, "/a")
	for _, bad := range [][]string{{"cat", "/a/none"}, {"rm", "/a"}, {"mkdir", "/a"}, {"mv", "/none", "/a"}, {"get", "/none", back + "2"}, {"put", "/none", "/x"}, {"ls", "/none"}, {"stat", "/none"}} {
		if r := c.Tnv(slices.Insert(bad, 1, "--dir", c.Dir)...); r.Code == 0 || r.Err == "" {
			t.Errorf("tnv %v: %v", bad, r)
		}
	}
}

// checkListing compares `tnv ls --json` with the names that it should show.
func (c *Cluster) checkListing(t testing.TB, dir string, want ...string) {
	t.Helper()
	var list []listed
	if err := json.Unmarshal([]byte(c.OK("ls", "--dir", c.Dir, "--json", dir)), &list); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range list {
		got = append(got, f.Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("ls %s: %q, want %q", dir, got, want)
	}
}

// rsync there and back, and a tar archive, keep every byte and attribute.
func TestRsyncAndTar(t *testing.T) {
	c := Start(t, Options{NoHTTP: true})
	local, there, back := filepath.Join(c.Base, "local"), filepath.Join(c.Mount, "rsync"), filepath.Join(c.Base, "back")
	sampleTree(t, local, 10<<20)
	same := func(a, b string) {
		t.Helper()
		// -c: bytes; the rest of -aHAX: modes, owners, times, links. What it would do is what differs.
		if out := run(t, time.Minute, "rsync", "-aHcn", "--delete", "--itemize-changes", a+"/", b+"/"); out != "" {
			t.Errorf("%s and %s differ:\n%s", a, b, out)
		}
	}
	run(t, time.Minute, "rsync", "-aHS", local+"/", there+"/")
	same(local, there)
	run(t, time.Minute, "rsync", "-aH", there+"/", back+"/")
	same(local, back)
	if err := os.WriteFile(filepath.Join(local, "dir-1/changed"), []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(local, "dir-2")); err != nil {
		t.Fatal(err)
	}
	run(t, time.Minute, "rsync", "-aHc", "--delete", "--inplace", local+"/", there+"/")
	same(local, there)

	archive, out := filepath.Join(c.Mount, "a.tar"), filepath.Join(c.Mount, "untar")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, time.Minute, "tar", "-C", local, "-cf", archive, ".")
	run(t, time.Minute, "tar", "-C", local, "-df", archive)
	run(t, time.Minute, "tar", "-C", out, "-xpf", archive)
	same(local, out)
}

// A git repository lives on the mount: clone, commit, repack, fsck.
func TestGit(t *testing.T) {
	c := Start(t, Options{NoHTTP: true})
	git := func(dir string, args ...string) string {
		t.Helper()
		return run(t, time.Minute, "git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.org",
			"-c", "protocol.file.allow=always", "-c", "safe.directory=*", "-c", "commit.gpgsign=false", "-c", "gc.autoDetach=false"}, args...)...)
	}
	work := filepath.Join(c.Base, "work")
	sampleTree(t, work, 10<<20)
	git(work, "init", "-q", "-b", "main")
	for i := range 5 {
		if err := os.WriteFile(filepath.Join(work, "n"), bytes.Repeat([]byte{byte(i)}, i*1000), 0o644); err != nil {
			t.Fatal(err)
		}
		git(work, "add", "-A")
		git(work, "commit", "-q", "-m", fmt.Sprint(i))
	}
	bare, clone := filepath.Join(c.Base, "bare.git"), filepath.Join(c.Mount, "clone")
	git(c.Base, "clone", "-q", "--bare", work, bare)
	git(c.Base, "clone", "-q", bare, clone)
	git(clone, "fsck", "--full", "--strict")
	if out := git(clone, "status", "--porcelain"); out != "" {
		t.Errorf("a fresh clone is changed: %s", out)
	}
	if err := os.WriteFile(filepath.Join(clone, "on the mount"), noise(9, 100_000), 0o644); err != nil {
		t.Fatal(err)
	}
	git(clone, "add", "-A")
	git(clone, "commit", "-q", "-m", "on the mount")
	git(clone, "gc", "-q")
	git(clone, "push", "-q", "origin", "main")
	git(clone, "fsck", "--full", "--strict")
	a, b := git(clone, "rev-parse", "main"), git(bare, "rev-parse", "main")
	if a != b || strings.TrimSpace(a) == "" {
		t.Errorf("after push: %q on the mount, %q in the bare repository", a, b)
	}
}
