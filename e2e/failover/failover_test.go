// Package failover tests trackers that stand in for each other: three of them on a
// real PostgreSQL server, mounts with applications at work, and owners that are
// killed, frozen and stopped at random, the database too. No application may get an
// error, nothing may be lost or done twice; the longest that a call waited is printed.
package failover

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tnvfs/tnv/e2e"
	"github.com/tnvfs/tnv/kv/pgtest"
)

var (
	rounds = flag.Int("rounds", 0, "disturbances of the long run; 0: a short one")
	seed   = flag.Uint64("seed", 0, "of their order; 0: by the clock")
	only   = flag.String("only", "", "disturbances with these words in their names")
)

func TestMain(m *testing.M) { os.Exit(e2e.Main(m, map[string]func() int{"failover": workerMain})) }

// Limits of how long one call may wait; the goals are 5 s and half a second on a
// machine that has nothing else to do.
const (
	mostAfterKill = 15 * time.Second
	mostAfterStop = 6 * time.Second
)

type bench struct {
	t     *testing.T
	pg    *pgtest.Server
	c     *e2e.Cluster
	loads []*worker
	r     *rand.Rand
}

// worker is a process of applications; see load.
type worker struct {
	t    *testing.T
	name string
	in   io.WriteCloser
	out  *json.Decoder
	seen int // of the errors
}

// work starts applications on one of the mounts.
func (b *bench) work(name, mount, other string) {
	b.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), e2e.WorkerEnv("failover"), rootEnv+"="+filepath.Join(mount, name),
		otherEnv+"="+filepath.Join(other, name), lockedEnv+"="+filepath.Join(mount, "app0", "held"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { // before the mounts are taken away
		in.Close()
		ended := time.AfterFunc(40*time.Second, func() { cmd.Process.Kill() })
		defer ended.Stop()
		cmd.Wait()
	})
	b.loads = append(b.loads, &worker{t: b.t, name: name, in: in, out: json.NewDecoder(out)})
}

// ask sends a worker a line, and notes what it reports.
func (w *worker) ask(what string) report {
	w.t.Helper()
	var r report
	if _, err := io.WriteString(w.in, what+"\n"); err != nil {
		w.t.Fatal(err)
	}
	if err := w.out.Decode(&r); err != nil {
		w.t.Fatalf("%s: %v", w.name, err)
	}
	for ; w.seen < len(r.Errors); w.seen++ {
		w.t.Errorf("%s: %s", w.name, r.Errors[w.seen])
	}
	return r
}

// owner is the process that owns the volume.
func (b *bench) owner() string { return b.c.Owner("media") }

// disturbance is what happens to the cluster; it returns when all runs again.
type disturbance struct {
	name string
	most time.Duration
	do   func(b *bench)
}

var disturbances = []disturbance{
	{"kill -9 of the owner", mostAfterKill, func(b *bench) {
		name := b.owner()
		b.c.Kill(name, syscall.SIGKILL)
		b.awaitOther(name)
		b.c.Restart()
	}},
	{"clean stop of the owner", mostAfterStop, func(b *bench) {
		name := b.owner()
		b.c.Kill(name, syscall.SIGTERM)
		b.awaitOther(name)
		time.Sleep(300 * time.Millisecond)
		b.c.Restart()
	}},
	{"SIGSTOP of the owner for 6 s", mostAfterKill, func(b *bench) {
		name := b.owner()
		pid := b.c.Pid(name)
		syscall.Kill(pid, syscall.SIGSTOP)
		time.Sleep(6 * time.Second)
		syscall.Kill(pid, syscall.SIGCONT)
		time.Sleep(500 * time.Millisecond)
		if !strings.Contains(b.c.Log(name), "the volume has another owner") && !strings.Contains(b.c.Log(name), "fenced") {
			b.t.Errorf("%s, which was frozen, does not say that it lost the volume", name)
		}
	}},
	{"drain of the owner", mostAfterStop, func(b *bench) {
		name := b.owner()
		b.c.OK("tracker", "drain", b.addr(name), "--keyfile", b.c.KeyFile())
		if now := b.owner(); now == name {
			b.t.Errorf("%s still owns the volume", name)
		}
		b.c.Kill(name, syscall.SIGTERM) // until it is started again it takes nothing
		time.Sleep(300 * time.Millisecond)
		b.c.Restart()
	}},
	{"kill -9 of PostgreSQL", mostAfterKill, func(b *bench) {
		b.pg.Kill()
		time.Sleep(time.Duration(b.r.IntN(1500)) * time.Millisecond)
		b.pg.Run()
	}},
	{"restart of PostgreSQL", mostAfterKill, func(b *bench) { b.pg.Restart() }},
	{"kill -9 of a tracker that stands by", mostAfterStop, func(b *bench) {
		owner := b.owner()
		for _, name := range []string{"trackerd-1", "trackerd-2", "trackerd-3"} {
			if name != owner {
				b.c.Kill(name, syscall.SIGKILL)
				b.c.Restart()
				return
			}
		}
	}},
}

// short is how many of the disturbances the short run has.
const short = 5

// addr is the address of a tracker's process.
func (b *bench) addr(name string) string {
	var n int
	fmt.Sscanf(name, "trackerd-%d", &n)
	return b.c.Trackers()[n-1]
}

// awaitOther waits until somebody else owns the volume.
func (b *bench) awaitOther(name string) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if b.owner() != name {
			return
		}
	}
	b.t.Errorf("%s still owns the volume", name)
}

func start(t *testing.T, limit time.Duration) *bench {
	t.Helper()
	b := &bench{t: t, pg: pgtest.Start(t)}
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", s)
	b.r = rand.New(rand.NewPCG(s, 0))
	b.c = e2e.Start(t, e2e.Options{Trackers: 3, Meta: b.pg.NewDatabase(), NoHTTP: true, Limit: limit})
	return b
}

// disturb does one thing, and gives the longest wait of a call.
func (b *bench) disturb(d disturbance) time.Duration {
	b.t.Helper()
	for _, w := range b.loads {
		w.ask("look")
	}
	d.do(b)
	time.Sleep(700 * time.Millisecond) // a call that still waits is counted
	var longest time.Duration
	for _, w := range b.loads {
		longest = max(longest, w.ask("look").Longest)
	}
	b.t.Logf("%-36s longest wait %5d ms", d.name, longest.Milliseconds())
	if longest > d.most {
		b.t.Errorf("%s: a call waited %v, at most %v are allowed", d.name, longest, d.most)
	}
	return longest
}

// play has two mounts' applications at work while disturbances come, and checks
// what is left at the end on both.
func (b *bench) play(list []disturbance) map[string]time.Duration {
	b.t.Helper()
	more := b.c.MountMore("m2", b.c.Trackers()[0]) // told of one tracker: it learns of the others
	b.work("app0", b.c.Mount, more.Point)
	b.work("app1", more.Point, b.c.Mount)
	time.Sleep(time.Second)
	worst := map[string]time.Duration{}
	for _, d := range list {
		worst[d.name] = max(worst[d.name], b.disturb(d))
		if b.t.Failed() {
			break
		}
		b.loads[1].ask("lock")
		time.Sleep(time.Duration(b.r.IntN(400)) * time.Millisecond)
	}
	b.end()
	return worst
}

// end stops the applications, and has what they left checked.
func (b *bench) end() {
	b.t.Helper()
	for _, w := range b.loads {
		b.t.Logf("%s made %d calls", w.name, w.ask("stop").Calls)
	}
}

// Some disturbances once, or as many at random as -rounds says.
func TestFailover(t *testing.T) {
	var list []disturbance
	for _, d := range disturbances {
		if strings.Contains(d.name, *only) {
			list = append(list, d)
		}
	}
	b := start(t, 5*time.Minute+time.Duration(*rounds)*30*time.Second)
	switch {
	case *rounds == 0 && *only == "":
		list = list[:short]
	case *rounds > 0:
		kinds := list
		list = nil
		for range *rounds {
			list = append(list, kinds[b.r.IntN(len(kinds))])
		}
	}
	for name, d := range b.play(list) {
		t.Logf("longest wait of all: %-36s %5d ms", name, d.Milliseconds())
	}
}
