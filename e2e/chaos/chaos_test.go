package chaos

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tnvfs/tnv/e2e"
)

var (
	long  = flag.Bool("long", false, "the whole matrix, each trouble for as long as it takes")
	table = flag.String("table", "", "write the result as a table to this file")
	only  = flag.String("fault", "", "only the troubles whose names hold this")
)

func TestMain(m *testing.M) { os.Exit(e2e.Main(m, nil)) }

// fault is one kind of trouble at the victim.
type fault struct {
	name        string
	short       bool          // part of the short form
	last        time.Duration // how long it lasts in the whole matrix
	groups      int           // 0: 1
	shows       string        // how the tracker sees the victim meanwhile; empty: as if nothing were
	begin, heal func(c *cluster)
}

var faults = []fault{
	{name: "kill -9", shows: "lost", last: 10 * time.Second,
		begin: func(c *cluster) { c.signal(victim, syscall.SIGKILL) },
		heal:  (*cluster).startVictim},
	{name: "SIGSTOP 30 s", shows: "lost", last: 30 * time.Second,
		begin: func(c *cluster) { c.signal(victim, syscall.SIGSTOP) },
		heal:  func(c *cluster) { c.signal(victim, syscall.SIGCONT) }},
	{name: "network cut off", shows: "lost", last: 10 * time.Second,
		begin: func(c *cluster) { c.cut(true) },
		heal:  func(c *cluster) { c.cut(false) }},
	{name: "disk full", shows: "full", last: 10 * time.Second, groups: 2,
		begin: func(c *cluster) { c.disk.set(trouble{full: true}) },
		heal:  func(c *cluster) { c.disk.set(trouble{}) }},
	{name: "EIO from the disk", shows: "slow", short: true, last: 10 * time.Second,
		begin: func(c *cluster) { c.disk.set(trouble{errno: syscall.EIO}) },
		heal:  func(c *cluster) { c.disk.set(trouble{}) }},
	{name: "slow disk (3 s a call)", shows: "slow", last: 20 * time.Second,
		begin: func(c *cluster) { c.disk.set(trouble{delay: 3 * time.Second}) },
		heal:  func(c *cluster) { c.disk.set(trouble{}) }},
	{name: "bit flips", last: 10 * time.Second,
		begin: flipBits, heal: scrubNow},
	{name: "data directory wiped", shows: "lost", short: true, last: 5 * time.Second,
		begin: func(c *cluster) {
			c.signal(victim, syscall.SIGKILL)
			entries, _ := os.ReadDir(c.disk.backing)
			for _, e := range entries {
				os.RemoveAll(filepath.Join(c.disk.backing, e.Name()))
			}
		},
		heal: (*cluster).startVictim},
}

// flipBits turns a bit in every 64 KiB of the victim's segments.
func flipBits(c *cluster) {
	files, _ := filepath.Glob(filepath.Join(c.disk.backing, "*"))
	for _, path := range files {
		fi, err := os.Stat(path)
		if err != nil || !fi.Mode().IsRegular() || fi.Size() < 1<<20 {
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			c.t.Fatal(err)
		}
		b := []byte{0}
		for off := int64(200_000); off < min(fi.Size(), filmSize*9/10); off += 1 << 20 { // in the film, most likely
			f.ReadAt(b, off)
			b[0] ^= 8
			f.WriteAt(b, off)
		}
		f.Close()
	}
	c.disk.set(trouble{delay: 1}) // the kernel forgets what it had in memory
	c.disk.set(trouble{})
}

// scrubNow has everything read and mended.
func scrubNow(c *cluster) {
	r := e2e.Exec(2*time.Minute, "nsenter", within(c.core, "tnv", "scrub", "--now", "--trackers", trackerAt, "--keyfile", c.key())...)
	if r.Code != 0 || !strings.Contains(r.Out, "mended") || !strings.Contains(r.Out, "/film") {
		c.t.Errorf("scrub --now after bits were flipped: %v", r)
	}
}

// result is a row of the table.
type result struct {
	fault  string
	errors int
	waits  map[string]time.Duration
	whole  time.Duration
	bytes  int64
}

// One storage daemon of two is in trouble while applications are at work: none
// of them sees an error, a player hardly a pause, and afterwards the daemon that
// was in trouble has every byte.
func TestChaos(t *testing.T) {
	var rows []result
	for _, f := range faults {
		if !*long && !f.short && *only == "" || !strings.Contains(f.name, *only) {
			continue
		}
		t.Run(f.name, func(t *testing.T) { rows = append(rows, f.row(t)) })
	}
	if *table != "" {
		if err := os.WriteFile(*table, []byte(markdown(rows, t.Failed())), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// mostStall is how long a player may wait for one call. On a machine where it
// waits as long without any trouble, it may wait some times that.
const mostStall = time.Second

func (f fault) row(t *testing.T) result {
	last, calm := f.last, 5*time.Second
	if !*long {
		last, calm = 3*time.Second, 2*time.Second
	}
	c := start(t, max(f.groups, 1), 5*time.Minute)
	a, err := prepare(c.mount)
	if err != nil {
		t.Fatal(err)
	}
	a.run()
	time.Sleep(calm)
	a.troubled()
	f.begin(c)
	began := time.Now()
	if f.shows != "" {
		c.wait(15*time.Second, "the tracker sees that the victim is "+f.shows, func(s *e2e.Status) bool { return stateOf(s) == f.shows })
	}
	time.Sleep(time.Until(began.Add(last)))
	healed := time.Now()
	f.heal(c)
	c.wait(2*time.Minute, "all groups whole", (*e2e.Status).Whole)
	whole := time.Since(healed)
	time.Sleep(2 * time.Second)
	r := result{fault: f.name, waits: map[string]time.Duration{}, whole: whole}
	if err := a.end(); err != nil {
		t.Error(err)
		r.errors = strings.Count(err.Error(), "\n") + 1
	}
	for _, x := range a.all {
		r.waits[x.name] = x.longest
		t.Logf("%-10s %6.1f MB, longest wait %5d ms, and %5d ms before the trouble", x.name, float64(x.bytes)/1e6, x.longest.Milliseconds(), x.calm.Milliseconds())
		if most := max(mostStall, 3*x.calm); (x.name == "playing" || x.name == "seeking") && x.longest > most {
			t.Errorf("%s: a call took %v, more than %v", x.name, x.longest, most)
		}
	}
	t.Logf("whole after %v", whole)
	r.bytes = f.check(t, c, a)
	return r
}

// stateOf is how the tracker sees the victim.
func stateOf(s *e2e.Status) string {
	for _, g := range s.Groups {
		for _, n := range g.Nodes {
			if strings.HasPrefix(n.Addr, victimAddr) {
				return n.State
			}
		}
	}
	return ""
}

// check reads everything back: what was deleted is gone, and what was written is
// right, from the daemon that was in trouble alone.
func (f fault) check(t *testing.T, c *cluster, a *apps) (n int64) {
	for path := range a.deleted {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s was deleted: %v", path, err)
		}
	}
	c.wait(time.Minute, "everything deleted, everywhere", func(s *e2e.Status) bool { return s.Whole() && s.Volumes[0].PendingDeletions == 0 })
	c.signal(other, syscall.SIGKILL)
	c.wait(20*time.Second, "the other daemon is lost", func(s *e2e.Status) bool { return !s.Whole() })
	for name, size := range a.written {
		got, err := c.get("/" + name)
		if err != nil || !bytes.Equal(got, a.film[:size]) {
			t.Errorf("%s, from the daemon that was in trouble alone: %d bytes of %d, %v", name, len(got), size, err)
		}
		n += int64(len(got))
	}
	return n
}

// markdown is the table.
func markdown(rows []result, failed bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# One storage daemon in trouble\n\nMade by `make chaos` (e2e/chaos): a group of two storage daemons (two groups where the disk is full), the second one in trouble\n"+
		"while five applications are at work on one kernel mount: one copies files in (8 MB/s), one records (64 KiB, then fsync, again and\nagain), one plays a film of 96 MiB at 50 Mbit/s, "+
		"one seeks in it, one deletes small files. The waits are the longest of any one call\nwhile the trouble lasted and until all was whole. Afterwards everything is read from the daemon that was in trouble alone, and compared.\n\n"+
		"Machine: %d cores, %s.\n\n", runtime.NumCPU(), load())
	if failed {
		b.WriteString("**The run has failed: see its output.**\n\n")
	}
	names := []string{"writing", "recording", "playing", "seeking", "deleting"}
	b.WriteString("| trouble | errors seen | " + strings.Join(names, " | ") + " | whole again after | bytes compared |\n|---|---|" + strings.Repeat("---|", len(names)+2) + "\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %d |", r.fault, r.errors)
		for _, n := range names {
			fmt.Fprintf(&b, " %d ms |", r.waits[n].Milliseconds())
		}
		fmt.Fprintf(&b, " %.1f s | %d MB |\n", r.whole.Seconds(), r.bytes/1e6)
	}
	return b.String()
}

// load is how busy the machine was.
func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	return "load average at the end " + strings.Join(strings.Fields(string(b))[:3], ", ")
}
