package e2e

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// drainMB is how much is written before a group is emptied, both groups together.
var drainMB = flag.Int("drain-mb", 96, "MiB written before a group is emptied")

// groupList is the JSON of `tnv group list`.
type groupList struct {
	Moves []struct {
		Kind, Stage, Failed string
		Moved               uint64 `json:"moved_blocks"`
		MovedBytes          uint64 `json:"moved_bytes"`
	}
}

func (c *Cluster) moved() (stage string, bytes uint64) {
	c.t.Helper()
	var l groupList
	if err := json.Unmarshal([]byte(c.OK("group", "list", "--dir", c.Dir, "--json")), &l); err != nil {
		c.t.Fatal(err)
	}
	for _, m := range l.Moves {
		stage, bytes = m.Stage, m.MovedBytes
	}
	return stage, bytes
}

func (s Status) group(name string) *Group {
	for i := range s.Groups {
		if s.Groups[i].Name == name {
			return &s.Groups[i]
		}
	}
	return nil
}

func noiseOf(seed uint64, n int) []byte {
	var s [32]byte
	for i := range 8 {
		s[i] = byte(seed >> (8 * i))
	}
	b := make([]byte, n)
	rand.NewChaCha8(s).Read(b)
	return b
}

// drainLoad writes small files and reads large ones until it is stopped.
type drainLoad struct {
	c     *Cluster
	files int
	size  int
	stop  chan struct{}
	end   func()
	wg    sync.WaitGroup
	small atomic.Int64 // written and closed
}

func (l *drainLoad) start() {
	l.stop = make(chan struct{})
	l.end = sync.OnceFunc(func() { close(l.stop); l.wg.Wait() })
	l.c.t.Cleanup(l.end)
	for _, work := range []func(i int) error{l.read, l.write} {
		l.wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-l.stop:
					return
				default:
				}
				if err := work(i); err != nil {
					l.c.t.Errorf("under load: %v", err)
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
}

func (l *drainLoad) path(i int) string { return filepath.Join(l.c.Mount, fmt.Sprint("film-", i)) }

func (l *drainLoad) read(i int) error {
	n := i % l.files
	b, err := os.ReadFile(l.path(n))
	if err == nil && !bytes.Equal(b, noiseOf(uint64(n), l.size)) {
		err = fmt.Errorf("film %d is not what was written", n)
	}
	return err
}

func (l *drainLoad) write(i int) error {
	err := os.WriteFile(filepath.Join(l.c.Mount, "small", fmt.Sprint(i)), noiseOf(uint64(1000+i), 100_000), 0o644)
	if err == nil {
		l.small.Add(1)
	}
	return err
}

// dataBytes is how much data the files of a directory hold: what was allocated ahead
// and not written, or punched out, does not count.
func dataBytes(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return nil // it was removed meanwhile
		}
		defer f.Close()
		for off := int64(0); ; {
			from, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
			if err != nil { // ENXIO: no more
				return nil
			}
			if off, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE); err != nil {
				return err
			}
			n += off - from
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A group is emptied while files are written and read, and the tracker is killed
// three times meanwhile: it goes on, nothing is lost, what was shared is shared, the
// space comes back, and the check finds nothing.
func TestDrain(t *testing.T) {
	t.Setenv("TNV_PUNCH_DELAY", "1s")
	c := Start(t, Options{NoHTTP: true, Limit: time.Hour})
	if name := c.OK("group", "add", "--dir", c.Dir); name != "g2\n" {
		t.Fatalf("a second group: %q", name)
	}
	c.WaitStatus(20*time.Second, "two whole groups", func(s Status) bool { return len(s.Groups) == 2 && s.Whole() })
	l := &drainLoad{c: c, files: 8, size: *drainMB << 20 / 8}
	must(t, os.Mkdir(filepath.Join(c.Mount, "small"), 0o755))
	for i := range l.files {
		must(t, os.WriteFile(l.path(i), noiseOf(uint64(i), l.size), 0o644))
	}
	clone := filepath.Join(c.Mount, "clone")
	if r := Exec(time.Minute, "cp", "--reflink=auto", l.path(0), clone); r.Code != 0 {
		t.Fatalf("cp: %v", r)
	}
	syscall.Sync()
	before := c.WaitStatus(20*time.Second, "blocks in the group", func(s Status) bool { return s.group("g1").Nodes[0].Blocks > 5 })
	l.start()
	c.OK("fsck", "--dir", c.Dir)
	inG1 := before.group("g1").Nodes[0].UsedBytes
	disk := filepath.Join(c.Dir, StoreA)
	taken := dataBytes(t, disk)
	c.OK("group", "drain", "g1", "--dir", c.Dir, "--rate", fmt.Sprint(max(inG1/12, 2<<20)))
	for kill := range 3 {
		for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			stage, moved := c.moved()
			if stage == "done" || c.Status().group("g1") == nil {
				t.Fatalf("the group was empty before the %d. kill", kill+1)
			}
			if moved > 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("nothing is moved")
			}
		}
		c.Kill(Tracker, syscall.SIGKILL)
		c.Restart()
	}
	c.WaitStatus(10*time.Minute, "the group has left", func(s Status) bool { return s.group("g1") == nil })
	c.OK("fsck", "--dir", c.Dir)
	l.end()
	for i := range l.files {
		must(t, l.read(i))
	}
	if b, err := os.ReadFile(clone); err != nil || !bytes.Equal(b, noiseOf(0, l.size)) {
		t.Errorf("the clone: %v", err)
	}
	for i := range int(l.small.Load()) {
		b, err := os.ReadFile(filepath.Join(c.Mount, "small", fmt.Sprint(i)))
		if err != nil || !bytes.Equal(b, noiseOf(uint64(1000+i), 100_000)) {
			t.Fatalf("small file %d: %v", i, err)
		}
	}
	for end := time.Now().Add(time.Minute); dataBytes(t, disk) > taken-int64(inG1)*3/4; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the space did not come back: of %d bytes that were taken for blocks of %d, %d are", taken, inG1, dataBytes(t, disk))
		}
	}
	if after := c.Status(); after.Volumes[0].PendingDeletions > 1000 || after.group("g2").State != "whole" {
		t.Errorf("afterwards: %+v", after)
	}
	c.OK("group", "drain", "g1", "--dir", c.Dir, "--wait") // stops its daemons
	for _, p := range c.Status().Processes {
		if (p.Name == StoreA || p.Name == StoreB) && p.Alive {
			t.Errorf("%s runs yet", p.Name)
		}
	}
	c.Kill(Tracker, syscall.SIGKILL)
	c.Restart()
	must(t, l.read(1))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
