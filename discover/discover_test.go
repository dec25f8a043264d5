package discover

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// world is a machine with every source at hand.
type world struct {
	t    *testing.T
	root string
	env  map[string]string
	keys map[string]protocol.Key
}

func newWorld(t *testing.T) *world {
	return &world{t: t, root: t.TempDir(), env: map[string]string{}, keys: map[string]protocol.Key{}}
}

func (w *world) write(name, text string) string {
	w.t.Helper()
	p := filepath.Join(w.root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) key(name string) string {
	w.keys[name] = protocol.NewKey()
	return w.write(name, w.keys[name].String())
}

func (w *world) cluster(name, trackers string) string {
	w.key(name + "/key")
	w.write(name+"/run/trackers", trackers)
	dir := filepath.Join(w.root, name)
	if err := change(w.clusters, dir, true); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

func (w *world) clusters() (string, error) { return filepath.Join(w.root, "state/tnv/clusters"), nil }

func (w *world) place() place {
	return place{getenv: func(k string) string { return w.env[k] }, config: filepath.Join(w.root, "tnv.conf"), clusters: w.clusters}
}

func (w *world) want(trackers, keyfile, dir, wantTrackers, wantKey string) {
	w.t.Helper()
	f, err := w.place().find(trackers, keyfile, dir)
	if err != nil {
		w.t.Errorf("find(%q, %q, %q): %v", trackers, keyfile, dir, err)
		return
	}
	got := "?"
	for name, k := range w.keys {
		if k.String() == f.Key.String() {
			got = name
		}
	}
	if strings.Join(f.Trackers, ",") != wantTrackers || got != wantKey {
		w.t.Errorf("find(%q, %q, %q) = %v, key %s; want %s, key %s", trackers, keyfile, dir, f, got, wantTrackers, wantKey)
	}
}

func (w *world) wantErr(kind tnv.Kind, mention, trackers, keyfile, dir string) {
	w.t.Helper()
	_, err := w.place().find(trackers, keyfile, dir)
	if tnv.KindOf(err) != kind || !strings.Contains(err.Error(), mention) {
		w.t.Errorf("find(%q, %q, %q): %v; want %v that mentions %q", trackers, keyfile, dir, err, kind, mention)
	}
}

func TestOrder(t *testing.T) {
	w := newWorld(t)
	w.wantErr(tnv.KindNotExist, "tnv up", "", "", "")
	w.wantErr(tnv.KindNotExist, "TNV_KEYFILE", "h:1", "", "")

	a := w.cluster("a", "h:1\nh:2\n")
	w.want("", "", "", "h:1,h:2", "a/key")
	b := w.cluster("b", "h:3,h:4")
	w.want("", "", "", "h:3,h:4", "b/key")
	w.want("h:2", "", "", "h:2", "a/key") // the cluster that this tracker belongs to
	w.want("", "", a, "h:1,h:2", "a/key")
	if err := os.Remove(filepath.Join(b, "run/trackers")); err != nil { // not up
		t.Fatal(err)
	}
	w.want("", "", "", "h:1,h:2", "a/key")
	w.wantErr(tnv.KindNotExist, "tnv up --dir "+b, "", "", b)

	conf := w.key("conf.key")
	w.write("tnv.conf", "# machine\nkeyfile = "+conf+" # here\n")
	w.want("", "", "", "h:1,h:2", "a/key") // a cluster's own trackers come with its own key
	w.want("h:9", "", "", "h:9", "conf.key")
	w.write("tnv.conf", "trackers = c:1, c:2\nkeyfile=\""+conf+"\"\nvolume = films\n")
	w.want("", "", "", "c:1,c:2", "conf.key")
	if f, err := w.place().find("", "", ""); err != nil || f.Volume != "films" {
		t.Errorf("volume %q, %v", f.Volume, err)
	}

	w.env["TNV_TRACKERS"] = "e:1"
	w.want("", "", "", "e:1", "conf.key")
	w.env["TNV_KEYFILE"] = w.key("env.key")
	w.want("", "", "", "e:1", "env.key")
	w.want("", "", a, "h:1,h:2", "a/key")
	w.want("x:1", "", "", "x:1", "env.key")
	w.want("x:1", "", a, "x:1", "a/key")
	w.want("x:1", w.key("arg.key"), a, "x:1", "arg.key")
}

func TestBadInput(t *testing.T) {
	w := newWorld(t)
	key := w.key("k")
	w.wantErr(tnv.KindInvalid, "HOST:PORT", "nowhere", key, "")
	w.wantErr(tnv.KindInvalid, "HOST:PORT", "h:1,:2", key, "")
	w.wantErr(tnv.KindInvalid, "none", ",", key, "")
	w.wantErr(tnv.KindNotExist, "missing", "h:1", filepath.Join(w.root, "missing"), "")
	w.wantErr(tnv.KindInvalid, "not a TNV key", "h:1", w.write("bad", "hello"), "")
	w.write("tnv.conf", "trackers\n")
	w.wantErr(tnv.KindInvalid, "line 1", "h:1", key, "")
	w.write("tnv.conf", "\n\ntracker = h:1\n")
	w.wantErr(tnv.KindInvalid, `line 3: unknown key "tracker"`, "h:1", key, "")
}

func TestRememberAndForget(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	if err := Forget("/never"); err != nil {
		t.Error(err)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := Remember(fmt.Sprint("/c/", i)); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if err := Remember("/c/7"); err != nil {
		t.Fatal(err)
	}
	if err := Forget("/c/8"); err != nil {
		t.Fatal(err)
	}
	file, err := clustersFile()
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := readLines(file)
	if err != nil || len(dirs) != 19 || dirs[18] != "/c/7" {
		t.Errorf("%d: %q, %v", len(dirs), dirs, err)
	}
	for i := range 100 {
		if err := Remember(fmt.Sprint("/d/", i)); err != nil {
			t.Fatal(err)
		}
	}
	if dirs, err = readLines(file); err != nil || len(dirs) != maxKnown || dirs[maxKnown-1] != "/d/99" {
		t.Errorf("%d: %q, %v", len(dirs), dirs, err)
	}
	if err := Remember("a\nb"); tnv.KindOf(err) != tnv.KindInvalid {
		t.Errorf("a line break: %v", err)
	}
}
