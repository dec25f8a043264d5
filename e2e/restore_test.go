package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/protocol"
)

// change is one step of a worker: a file's new content, or its end.
type change struct {
	name  string
	gone  bool
	acked time.Time
}

// lossWorker changes files in a directory of its own, one after another: new ones, new
// content in the place of old by rename, deletions, so that blocks are freed all the time.
type lossWorker struct {
	c       *client.Client
	dir     string
	ino     tnv.Ino
	changes []change
}

func lossContent(name string, step int) []byte {
	r := rand.New(rand.NewPCG(uint64(step), uint64(len(name))))
	b := make([]byte, 1+r.IntN(200<<10))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func (w *lossWorker) step(ctx context.Context) error {
	n := len(w.changes)
	ch := change{name: fmt.Sprintf("f%d", n*7%20)}
	if n%5 == 4 && n > 25 {
		ch.gone = true
		_, err := w.c.Unlink(ctx, tnv.Root, protocol.Unlink{Parent: w.ino, Name: ch.name})
		if err != nil && tnv.KindOf(err) != tnv.KindNotExist {
			return err
		}
	} else if err := w.put(ctx, ch.name, lossContent(ch.name, n)); err != nil {
		return err
	}
	ch.acked = time.Now()
	w.changes = append(w.changes, ch)
	return nil
}

func (w *lossWorker) put(ctx context.Context, name string, b []byte) error {
	h, err := w.c.CreatePath(ctx, "/"+w.dir+"/tmp", 0o644)
	if err != nil {
		return err
	}
	if _, err := h.WriteAt(ctx, b, 0); err != nil {
		return err
	}
	if err := h.Flush(ctx); err != nil {
		return err
	}
	if err := h.Close(); err != nil {
		return err
	}
	_, err = w.c.Rename(ctx, tnv.Root, protocol.Rename{Parent: w.ino, Name: "tmp", NewParent: w.ino, NewName: name})
	return err
}

// after is what the directory holds after so many changes: the number of the one that
// made each file.
func (w *lossWorker) after(n int) map[string]int {
	m := map[string]int{}
	for i, ch := range w.changes[:n] {
		if ch.gone {
			delete(m, ch.name)
		} else {
			m[ch.name] = i
		}
	}
	return m
}

// found reads the whole directory, and tells after how many changes it looks so. Every
// byte of every file must be there.
func (w *lossWorker) found(t *testing.T, c *client.Client) int {
	t.Helper()
	is := map[string][]byte{}
	entries, err := fs.ReadDir(c.FS(), w.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "tmp" {
			continue
		}
		if is[e.Name()], err = fs.ReadFile(c.FS(), w.dir+"/"+e.Name()); err != nil {
			t.Fatalf("a file that is there cannot be read: %v", err)
		}
	}
	for n := len(w.changes); n >= 0; n-- {
		want := w.after(n)
		same := len(want) == len(is)
		for name, step := range want {
			same = same && bytes.Equal(is[name], lossContent(name, step))
		}
		if same {
			return n
		}
	}
	t.Fatalf("%s is as it never was", w.dir)
	return 0
}

func connect(t *testing.T, c *Cluster) *client.Client {
	t.Helper()
	cl, err := client.Connect(context.Background(), client.Config{Trackers: c.Trackers(), Key: c.Key()})
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

// D13: the tracker is killed under load and its directory deleted. What is restored
// from the storage groups lacks the last second at most, is a state that was, and has
// every block of what it names; what is made afterwards takes no id that was given out.
func TestTrackerDirectoryLost(t *testing.T) {
	c := Start(t, Options{NoMount: true, NoHTTP: true})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var workers []*lossWorker
	var wg sync.WaitGroup
	for i := range 3 {
		w := &lossWorker{c: connect(t, c), dir: fmt.Sprintf("d%d", i)}
		a, err := w.c.Mkdir(ctx, tnv.Root, protocol.Mkdir{Parent: tnv.RootIno, Name: w.dir, Mode: 0o755})
		if err != nil {
			t.Fatal(err)
		}
		w.ino = a.Ino
		workers = append(workers, w)
		wg.Go(func() {
			for w.step(ctx) == nil {
			}
		})
	}
	time.Sleep(4*time.Second + time.Duration(rand.IntN(1000))*time.Millisecond)
	killed := time.Now()
	c.Kill(Tracker, syscall.SIGKILL)
	if err := os.RemoveAll(filepath.Join(c.Dir, "trackerd-1")); err != nil {
		t.Fatal(err)
	}
	cancel()
	wg.Wait()
	if r := c.Tnv("up", "-d", "--dir", c.Dir); r.Code == 0 || !strings.Contains(r.Err, "tnv restore --dir") {
		t.Fatalf("up without the tracker's directory: %v", r)
	}
	t.Log(c.Tnv("restore", "--dir", c.Dir).Err)
	c.Restart()
	after := connect(t, c)
	defer after.Close(context.Background())
	for _, w := range workers {
		n := w.found(t, after)
		lost := len(w.changes) - n
		if lost > 0 {
			if age := killed.Sub(w.changes[n].acked); age > time.Second {
				t.Errorf("%s: what was acknowledged %v before the end is missing", w.dir, age)
			} else {
				t.Logf("%s: of %d changes the last %d are missing, the first of them acknowledged %v before the end", w.dir, len(w.changes), lost, age)
			}
		}
		if len(w.changes) < 30 {
			t.Errorf("only %d changes were made", len(w.changes))
		}
	}
	goOn(t, c, after, workers)
}

// goOn goes on with what was restored, and loses it again: ids of neither life are
// used in the next one.
func goOn(t *testing.T, c *Cluster, after *client.Client, workers []*lossWorker) {
	ctx := context.Background()
	var last tnv.Ino
	for life := range 2 {
		w := &lossWorker{c: after, dir: fmt.Sprintf("life%d", life)}
		a, err := after.Mkdir(ctx, tnv.Root, protocol.Mkdir{Parent: tnv.RootIno, Name: w.dir, Mode: 0o755})
		if err != nil {
			t.Fatal(err)
		}
		if a.Ino <= last {
			t.Errorf("inode %d follows %d, which was given out", a.Ino, last)
		}
		w.ino = a.Ino
		for range 30 {
			if err := w.step(ctx); err != nil {
				t.Fatalf("life %d: %v", life, err)
			}
		}
		last = a.Ino + 1000
		if n := w.found(t, after); n != len(w.changes) {
			t.Errorf("life %d: %d changes of %d", life, n, len(w.changes))
		}
		if life == 1 {
			break
		}
		c.Kill(Tracker, syscall.SIGKILL) // with or without the first checkpoint of this life
		if err := os.RemoveAll(filepath.Join(c.Dir, "trackerd-1")); err != nil {
			t.Fatal(err)
		}
		args := []string{"restore", "--dir", c.Dir}
		var whole []string
		for line := range strings.Lines(c.OK("restore", "--dir", c.Dir, "--list")) {
			if strings.Contains(line, "can be restored") {
				whole = append(whole, strings.Fields(line)[0])
			}
		}
		if len(whole) > 1 { // this life's is complete, and what it came from not yet deleted
			args = append(args, "--lineage", whole[0]) // whichever
		}
		c.OK(args...)
		c.Restart()
		if err := after.Close(ctx); err != nil && !errors.Is(err, tnv.KindSessionEnded) {
			t.Log(err)
		}
		after = connect(t, c)
		t.Cleanup(func() { after.Close(ctx) })
	}
	if st := c.OK("collect", "--dir", c.Dir, "--volume", "media"); !strings.Contains(st, "restored") {
		t.Errorf("the collection does not ask after a restore: %s", st)
	}
	for _, w := range workers {
		w.found(t, after)
	}
}
