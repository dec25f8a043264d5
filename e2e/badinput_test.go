package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// refused checks that a program ended in time with an exit status, and said
// what is wrong and what to do.
func refused(t *testing.T, what string, r Result, code int, words ...string) {
	t.Helper()
	if r.Code != code || r.Hung {
		t.Errorf("%s: want exit status %d: %v", what, code, r)
	}
	for _, w := range words {
		if !strings.Contains(r.Err, w) {
			t.Errorf("%s: the message lacks %q: %s", what, w, r.Err)
		}
	}
	if n := strings.Count(r.Err, "\n"); n > 12 {
		t.Errorf("%s: a message of %d lines: %s", what, n, r.Err)
	}
}

// keep puts a file in, and returns what checks that it is still there.
func keep(t *testing.T, c *Cluster, n int) (check func(when string)) {
	t.Helper()
	data := film(77, n)
	if err := os.WriteFile(filepath.Join(c.Mount, "kept"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return func(when string) {
		t.Helper()
		checkGet(t, c, "/kept", data, when)
	}
}

// The names that `up` is given are wrong: it says so, and what is there stays.
func TestWrongPlaces(t *testing.T) {
	c := Start(t, Options{})
	check := keep(t, c, 5<<20)
	up := func(args ...string) Result { return c.Tnv(append([]string{"up", "-d"}, args...)...) }

	refused(t, "a second up", up("--dir", c.Dir, "--mount", c.Mount), 1, "already up", "tnv down --dir "+c.Dir)
	check("after a second up")

	other := filepath.Join(c.Base, "other")
	at := func(mount string) []string { return []string{"--dir", other, "--http", "", "--mount", mount} }
	refused(t, "a mountpoint in use", up(at(c.Mount)...), 1, c.Mount, "--mount")
	full := filepath.Join(c.Base, "full")
	if err := os.MkdirAll(filepath.Join(full, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	refused(t, "a mountpoint with files", up(at(full)...), 1, full, "sub", "--mount")
	file := filepath.Join(c.Base, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, "a file as mountpoint", up(at(file)...), 1, file, "--mount")
	refused(t, "a directory below a file", up("--dir", file+"/c", "--mount", "", "--http", ""), 1, file, "--dir")
	refused(t, "another's directory", up("--dir", full, "--mount", "", "--http", ""), 1, full, "sub", "--dir")
	refused(t, "a port in use", up("--dir", other, "--mount", "", "--http", strings.TrimPrefix(c.HTTP, "http://")), 1, "--http")
	none := filepath.Join(c.Base, "none")
	refused(t, "down without a cluster", c.Tnv("down", "--dir", none), 1, none, "--dir")
	refused(t, "status without a cluster", c.Tnv("status", "--dir", none), 1, none)
	refused(t, "mount without a cluster", c.Tnv("mount", "--dir", none, full), 32, none)
	refused(t, "mount on a missing directory", c.Tnv("mount", "--dir", c.Dir, none), 32, none)
	refused(t, "mount over a mount", c.Tnv("mount", "--dir", c.Dir, c.Mount), 32, c.Mount)
	if left := processesOf(other); len(left) != 0 {
		t.Errorf("processes of a cluster that was refused: %v", left)
	}
	check("after all of that")
}

// Data directories that are gone are missed, not begun anew.
func TestDataDirectoryGone(t *testing.T) {
	c := Start(t, Options{NoHTTP: true})
	check := keep(t, c, 5<<20)
	c.Down()
	for _, name := range []string{Tracker, StoreA} {
		dir, aside := filepath.Join(c.Dir, name), filepath.Join(c.Base, "aside")
		if err := os.Rename(dir, aside); err != nil {
			t.Fatal(err)
		}
		refused(t, name+" gone", c.Tnv("up", "-d", "--dir", c.Dir), 1, dir, "restore")
		if left := processesOf(c.Base); len(left) != 0 {
			t.Errorf("%s gone: processes run: %v", name, left)
		}
		if err := os.Rename(aside, dir); err != nil {
			t.Fatal(err)
		}
	}
	c.Restart()
	check("restored")
	c.WaitWhole(20 * time.Second)
}

// small mounts a file system of a few MiB, for a full disk.
func small(t *testing.T, size string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tnv-e2e-small-*")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount a tmpfs (the tests of full disks run as root): %v", err)
	}
	t.Cleanup(func() {
		syscall.Unmount(dir, syscall.MNT_DETACH)
		os.Remove(dir)
	})
	return dir
}

// On a full disk up says so, and whoever writes gets ENOSPC; what was there
// stays, and removing something gives room again.
func TestFullDisk(t *testing.T) {
	c := Prepare(t, Options{Base: small(t, "128k")})
	if err := os.WriteFile(filepath.Join(c.Base, "ballast"), make([]byte, 124<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, "up on a full disk", c.Tnv("up", "-d", "--dir", c.Dir, "--mount", "", "--http", ""), 1, "space", "--dir")
	if left := processesOf(c.Base); len(left) != 0 {
		t.Errorf("processes run: %v", left)
	}

	c = Start(t, Options{NoHTTP: true, Base: small(t, "400m")})
	check := keep(t, c, 5<<20)
	ballast := filepath.Join(c.Mount, "ballast")
	err := fill(ballast, film(5, 8<<20), 400<<20)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("writing to a full cluster: %v, want %v", err, syscall.ENOSPC)
	}
	check("full")
	if _, err := os.Stat(filepath.Join(c.Mount, "kept")); err != nil {
		t.Errorf("the mount of a full cluster: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatalf("a full disk must not keep from removing: %v", err)
	}
	data := film(6, 20<<20)
	again := filepath.Join(c.Mount, "again")
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		err := os.WriteFile(again, data, 0o644)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ENOSPC) || time.Now().After(end) {
			t.Fatalf("room was made, and there is none: %v", err)
		}
	}
	check("with room again")
	checkGet(t, c, "/again", data, "with room again")
	c.Down()
	c.Restart()
	check("up again")
}

// fill writes a file until something is wrong.
func fill(path string, piece []byte, most int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for n := 0; n < most && err == nil; n += len(piece) {
		if _, err = f.Write(piece); err == nil {
			err = f.Sync()
		}
	}
	return errors.Join(err, f.Close())
}

// Wrong keys, daemons of another cluster, trackers that are not there.
func TestStrangers(t *testing.T) {
	c := Start(t, Options{})
	check := keep(t, c, 5<<20)
	tracker := c.Trackers()[0]
	point := filepath.Join(c.Base, "p")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		p := filepath.Join(c.Base, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	wrong := c.Key()
	wrong.Secret = bytes.Repeat([]byte{7}, 32)
	foreign := protocol.NewKey()
	const soon = 45 * time.Second
	for _, k := range []struct{ name, file, word string }{
		{"a wrong key", write("wrong.key", wrong.String()), "key"},
		{"another cluster's key", write("foreign.key", foreign.String()), "cluster"},
		{"no key", write("damaged.key", "no key\n"), "key"},
		{"a missing key", filepath.Join(c.Base, "missing.key"), "missing.key"},
	} {
		refused(t, "ls with "+k.name, Exec(soon, Program("tnv"), "ls", "--trackers", tracker, "--keyfile", k.file), 1, k.word)
		refused(t, "mount with "+k.name, Exec(soon, Program("mount.tnv"), tracker, point, "-o", "keyfile="+k.file), 32, k.word)
		refused(t, "httpd with "+k.name, Exec(soon, Program("httpd"), "--listen", "127.0.0.1:0", "--trackers", tracker, "--keyfile", k.file), 1, k.word)
		refused(t, "stored with "+k.name, Exec(soon, Program("stored"), "--dir", filepath.Join(c.Base, "new"), "--trackers", tracker, "--keyfile", k.file), 1, k.word)
	}
	gone := "127.0.0.1:1"
	var wg sync.WaitGroup // they go on trying for half a minute, so all at once
	wg.Go(func() {
		refused(t, "ls without a tracker", Exec(soon, Program("tnv"), "ls", "--trackers", gone, "--keyfile", c.KeyFile()), 1, gone)
	})
	wg.Go(func() {
		refused(t, "mount without a tracker", Exec(soon, Program("mount.tnv"), gone, point, "-o", "keyfile="+c.KeyFile()), 32, gone)
	})
	wg.Go(func() {
		refused(t, "httpd without a tracker", Exec(soon, Program("httpd"), "--listen", "127.0.0.1:0", "--trackers", gone, "--keyfile", c.KeyFile()), 1, gone)
	})
	wg.Wait()
	if ms := mountsBelow(c.Base); len(ms) != 1 {
		t.Errorf("mounts: %v", ms)
	}

	b := Start(t, Options{NoMount: true, NoHTTP: true})
	b.Down()
	stored := func(dir, keyfile, trackers string) Result {
		return Exec(soon, Program("stored"), "--dir", dir, "--trackers", trackers, "--keyfile", keyfile, "--allow-same-host")
	}
	theirs := filepath.Join(b.Dir, StoreA)
	refused(t, "another cluster's store with our key", stored(theirs, c.KeyFile(), tracker), 1, "cluster")
	refused(t, "another cluster's daemon", stored(theirs, b.KeyFile(), tracker), 1, "cluster")
	refused(t, "a store that runs already", stored(filepath.Join(c.Dir, StoreA), c.KeyFile(), tracker), 1, filepath.Join(c.Dir, StoreA))
	refused(t, "another cluster's tracker directory", Exec(soon, Program("trackerd"), "--dir", filepath.Join(b.Dir, Tracker), "--keyfile", c.KeyFile()), 1, "cluster")
	refused(t, "a tracker that runs already", Exec(soon, Program("trackerd"), "--dir", filepath.Join(c.Dir, Tracker), "--keyfile", c.KeyFile()), 1, filepath.Join(c.Dir, Tracker))
	if n := len(c.Status().Groups[0].Nodes); n != 2 {
		t.Errorf("the group has %d members now", n)
	}
	b.Restart()
	b.WaitWhole(20 * time.Second)
	check("after all of that")
}

// A cluster's key that was exchanged for another: up says so.
func TestKeyExchanged(t *testing.T) {
	c := Start(t, Options{NoHTTP: true})
	check := keep(t, c, 1<<20)
	c.Down()
	good, err := os.ReadFile(c.KeyFile())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"another cluster": protocol.NewKey().String(), "TNV key": "rubbish\n"} {
		if err := os.WriteFile(c.KeyFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, "up with "+name, c.Tnv("up", "-d", "--dir", c.Dir), 1, name)
		if left := processesOf(c.Base); len(left) != 0 {
			t.Errorf("processes run: %v", left)
		}
	}
	if err := os.WriteFile(c.KeyFile(), good, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Restart()
	check("with the key back")
}

// A program of a newer version is told so, by every daemon; one that speaks
// this version too is served.
func TestNewerVersion(t *testing.T) {
	c := Start(t, Options{NoMount: true, NoHTTP: true})
	for _, addr := range []string{c.Trackers()[0], c.nodeOf(StoreA).Addr} {
		for _, v := range []struct {
			speaks []uint16
			want   tnv.Kind
		}{
			{[]uint16{protocol.Version + 1}, tnv.KindVersion},
			{[]uint16{protocol.Version + 1, protocol.Version + 2}, tnv.KindVersion},
			{[]uint16{protocol.Version, protocol.Version + 1}, 0},
		} {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			w, _, err := protocol.Dial(ctx, &protocol.Endpoint{Key: c.Key(), Role: protocol.RoleTool, Versions: v.speaks}, addr)
			cancel()
			if w != nil {
				w.Close()
			}
			if (v.want == 0) != (err == nil) || err != nil && (tnv.KindOf(err) != v.want || !strings.Contains(err.Error(), "upgrade")) {
				t.Errorf("%s, versions %v: %v", addr, v.speaks, err)
			}
		}
	}
	for _, name := range []string{Tracker, StoreA} {
		if !strings.Contains(c.Log(name), "speaks") {
			t.Errorf("%s has not logged it:\n%s", name, c.Log(name))
		}
	}
}

// exchange turns the bits of one byte of a file; twice is as if nothing had been.
func exchange(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := []byte{0}
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{^b[0]}, off); err != nil {
		t.Fatal(err)
	}
}

// A block that is damaged on every member is an error to whoever reads it, and
// to nobody else; it is given out again as soon as one member has it right.
func TestDamagedEverywhere(t *testing.T) {
	c := Start(t, Options{})
	check := keep(t, c, 5<<20)
	data := film(4, 12<<20)
	if err := os.WriteFile(filepath.Join(c.Mount, "bad"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	c.Down()
	mark := data[6<<20 : 6<<20+256]
	for _, s := range []string{StoreA, StoreB} {
		if n := flip(t, filepath.Join(c.Dir, s), mark); n != 1 {
			t.Fatalf("%d places flipped in %s", n, s)
		}
	}
	c.Restart()
	if r := Exec(60*time.Second, "cat", filepath.Join(c.Mount, "bad")); r.Code != 1 || r.Hung || !strings.Contains(r.Err, "Input/output error") {
		t.Errorf("cat of a damaged file: exit status %d, %s", r.Code, r.Err)
	}
	refused(t, "get of a damaged file", c.Tnv("get", "--dir", c.Dir, "/bad", filepath.Join(c.Base, "got")), 1, "corrupt", "block")
	if _, err := os.Stat(filepath.Join(c.Base, "got")); err == nil {
		t.Error("half a file was left under the name of the whole")
	}
	check("beside a damaged file")
	mark = slices.Clone(mark)
	mark[100] ^= 4
	if n := flip(t, filepath.Join(c.Dir, StoreB), mark); n != 1 { // back
		t.Fatalf("%d places flipped back", n)
	}
	checkGet(t, c, "/bad", data, "with one good copy again")
	c.WaitStatus(20*time.Second, "the other copy mended", func(st Status) bool {
		n := uint64(0)
		for _, node := range st.Groups[0].Nodes {
			n += node.MendedBlocks
		}
		return n > 0
	})
	c.Kill(StoreB, syscall.SIGKILL)
	checkGet(t, c, "/bad", data, "from the mended store alone")
}

// Damaged files of the daemons themselves: what can be made anew is, and what
// can not is named; put right, everything is there.
func TestDamagedStore(t *testing.T) {
	c := Start(t, Options{NoHTTP: true})
	check := keep(t, c, 40<<20)
	c.Down()
	super := filepath.Join(c.Dir, StoreA, "superblock")
	for _, name := range []string{super, filepath.Join(c.Dir, "cluster.json")} {
		exchange(t, name, 1)
		refused(t, "a damaged "+filepath.Base(name), c.Tnv("up", "-d", "--dir", c.Dir), 1, filepath.Base(name))
		if left := processesOf(c.Base); len(left) != 0 {
			t.Errorf("damaged %s: processes run: %v", name, left)
		}
		exchange(t, name, 1)
	}
	indexes, _ := filepath.Glob(filepath.Join(c.Dir, StoreA, "*.idx"))
	if len(indexes) == 0 {
		t.Fatal("the store has no index file")
	}
	for _, i := range indexes {
		exchange(t, i, 70)
	}
	c.Restart()
	c.WaitWhole(20 * time.Second)
	if log := c.Log(StoreA); !strings.Contains(log, "index") {
		t.Errorf("a damaged index is not logged:\n%s", log)
	}
	c.waitSame(20 * time.Second)
	c.Kill(StoreB, syscall.SIGKILL)
	check("from the store with the damaged index alone")
	c.Down()

	// The tracker's own files: never a volume that lacks something in silence.
	metas, _ := filepath.Glob(filepath.Join(c.Dir, Tracker, "meta", "MANIFEST-*"))
	logs, _ := filepath.Glob(filepath.Join(c.Dir, Tracker, "meta", "*.log"))
	tables, _ := filepath.Glob(filepath.Join(c.Dir, Tracker, "meta", "*.sst"))
	for _, path := range slices.Concat(metas, logs, tables) {
		fi, err := os.Stat(path)
		if err != nil || fi.Size() < 64 {
			continue
		}
		exchange(t, path, fi.Size()/3)
		r := c.Tnv("up", "-d", "--dir", c.Dir)
		if r.Code == 0 { // it may have been superfluous, or is found when it is read
			check("with a damaged " + filepath.Base(path))
			c.Down()
		} else {
			refused(t, "a damaged "+filepath.Base(path), r, 1, filepath.Join(c.Dir, Tracker))
		}
		if _, err := os.Stat(path); err == nil {
			exchange(t, path, fi.Size()/3)
		}
	}
	c.Restart()
	check("with all put right")
}
