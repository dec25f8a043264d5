package coherence

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv/e2e"
	"github.com/tnvfs/tnv/kv/pgtest"
)

var (
	seed    = flag.Uint64("seed", 0, "seed of the operations; 0: by the clock")
	maxOps  = flag.Int("ops", 0, "operations of the long run; 0: it is short")
	onMany  = flag.Int("trackers", 1, "trackers; several share a PostgreSQL server, and their owner is killed, frozen and stopped")
	keepDir = flag.String("histories", "", "directory of the histories that fail; empty: the temporary one")
)

func TestMain(m *testing.M) {
	os.Exit(e2e.Main(m, map[string]func() int{"coherence": WorkerMain}))
}

const (
	mounts   = 3
	perMount = 3 // workers
	arenas   = 4
)

// process is a worker process.
type process struct {
	in  io.WriteCloser
	out *json.Decoder
}

// bench is a cluster with its mounts and worker processes.
type bench struct {
	t      *testing.T
	c      *e2e.Cluster
	pg     *pgtest.Server // nil: one tracker on its own
	mounts []*e2e.Mount
	links  []*e2e.Link // of all mounts but the first
	procs  []*process
	seed   uint64
	rnd    *rand.Rand
}

func start(t *testing.T, limit time.Duration, env ...string) *bench {
	t.Helper()
	b := &bench{t: t, seed: *seed}
	if b.seed == 0 {
		b.seed = uint64(time.Now().UnixNano()) % 1e9
	}
	t.Logf("seed %d", b.seed)
	b.rnd = rand.New(rand.NewPCG(b.seed, 0))
	o := e2e.Options{NoMount: true, Limit: limit}
	if *onMany > 1 {
		b.pg = pgtest.Start(t)
		o.Trackers, o.Meta = *onMany, b.pg.NewDatabase()
	}
	b.c = e2e.Start(t, o)
	for i := range mounts {
		addr := ""
		if i > 0 {
			l := e2e.NewLink(t, b.c.Trackers()[0])
			b.links = append(b.links, l)
			addr = l.Addr
		}
		b.mounts = append(b.mounts, b.c.MountMore(fmt.Sprint("m", i), addr, env...))
	}
	for i, m := range b.mounts {
		b.work(Setup{Mount: i, Root: m.Point, First: i * perMount, N: perMount})
	}
	b.work(Setup{Mount: httpMount, Root: b.c.HTTP, First: mounts * perMount, N: 2})
	return b
}

// work starts a worker process. It ends with the test.
func (b *bench) work(s Setup) {
	b.t.Helper()
	exe, err := os.Executable()
	must(b.t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), e2e.WorkerEnv("coherence"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(b.t, err)
	out, err := cmd.StdoutPipe()
	must(b.t, err)
	must(b.t, cmd.Start())
	b.t.Cleanup(func() {
		in.Close()
		done := make(chan struct{})
		go func() { cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(time.Minute):
			cmd.Process.Kill()
			b.t.Errorf("a worker of mount %d does not end", s.Mount)
		}
	})
	b.procs = append(b.procs, &process{in, json.NewDecoder(bufio.NewReader(out))})
	must(b.t, json.NewEncoder(in).Encode(s))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// prepare makes what a round begins with.
func (b *bench) prepare(n int) *Round {
	b.t.Helper()
	r := &Round{Data: fmt.Sprintf("r%d/data", n)}
	root := b.mounts[0].Point
	must(b.t, os.MkdirAll(filepath.Join(root, r.Data), 0o755))
	for _, f := range slices.Concat(overwritten, emptied, replaced, []string{appended}) {
		must(b.t, os.WriteFile(filepath.Join(root, r.Data, f), nil, 0o644))
	}
	for _, f := range overwritten { // they keep their size; the first values are nobody's
		must(b.t, os.WriteFile(filepath.Join(root, r.Data, f), []byte(firstValue), 0o644))
	}
	ino := func(p string) uint64 {
		var st unix.Stat_t
		must(b.t, unix.Stat(p, &st))
		return st.Ino
	}
	for i := range arenas {
		a := Arena{Dir: fmt.Sprintf("r%d/a%d", n, i)}
		dir := filepath.Join(root, a.Dir)
		must(b.t, os.MkdirAll(filepath.Join(dir, "p"), 0o755))
		must(b.t, os.MkdirAll(filepath.Join(dir, "q"), 0o755))
		must(b.t, os.WriteFile(filepath.Join(dir, "p", fixedName), nil, 0o644))
		a.P, a.Q, a.Fixed = ino(dir+"/p"), ino(dir+"/q"), ino(dir+"/p/"+fixedName)
		r.Arenas = append(r.Arenas, a)
	}
	return r
}

// round has all workers do a number of operations each, and gathers the history.
func (b *bench) round(n, ops int) *Round {
	b.t.Helper()
	r := b.prepare(n)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range b.procs {
		must(b.t, json.NewEncoder(p.in).Encode(Task{Seed: b.seed + uint64(n), Ops: ops, Arenas: r.Arenas, Data: r.Data}))
		wg.Go(func() {
			for {
				var o Op
				if err := p.out.Decode(&o); err != nil {
					b.t.Errorf("a worker process ended: %v", err)
					return
				}
				if o.Kind == End {
					return
				}
				mu.Lock()
				r.Ops = append(r.Ops, o)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return r
}

// finish judges a round and takes its files away.
func (b *bench) finish(n int, r *Round) []Violation {
	b.t.Helper()
	root := b.mounts[n%mounts].Point
	log, err := os.ReadFile(filepath.Join(root, r.Data, appended))
	must(b.t, err)
	dir := *keepDir
	if dir == "" {
		dir = os.TempDir()
	}
	found := r.Judge(dir)
	if err := r.CheckAppends(string(log)); err != nil {
		found = append(found, Violation{Part: appended, Message: err.Error()})
	}
	must(b.t, os.RemoveAll(filepath.Join(root, fmt.Sprintf("r%d", n))))
	return found
}

// trouble disturbs the cluster until stop is closed: a mount is frozen for longer
// than a lease lasts, or cut off from the tracker, or the tracker is slow; in the
// long run it is killed, too.
func (b *bench) trouble(stop <-chan struct{}, long bool) {
	between := func(low, high int) time.Duration {
		return time.Duration(low+b.rnd.IntN(high-low)) * time.Millisecond
	}
	for {
		select {
		case <-stop:
			return
		case <-time.After(between(500, 3000)):
		}
		if b.pg != nil && b.rnd.IntN(3) == 0 {
			b.failover(between)
			continue
		}
		i := b.rnd.IntN(len(b.links))
		kind := b.rnd.IntN(6)
		if long && b.rnd.IntN(12) == 0 {
			kind = 6
		}
		switch kind {
		case 0, 1:
			b.mounts[1+i].Freeze(between(3200, 4500))
		case 2, 3:
			b.links[i].Stall(between(1000, 5000))
		case 4:
			b.links[i].Break()
		case 5:
			b.c.Kill(e2e.Tracker, syscall.SIGSTOP)
			time.Sleep(between(100, 1500))
			b.c.Kill(e2e.Tracker, syscall.SIGCONT)
		case 6:
			b.c.Kill(e2e.Tracker, syscall.SIGKILL)
			time.Sleep(between(0, 2000))
			b.c.Restart()
		}
	}
}

// failover takes the volume from its owner, or the database from all.
func (b *bench) failover(between func(low, high int) time.Duration) {
	owner := b.c.Owner("media")
	switch b.rnd.IntN(5) {
	case 0:
		b.c.Kill(owner, syscall.SIGKILL)
		time.Sleep(between(0, 5000))
		b.c.Restart()
	case 1:
		b.c.Kill(owner, syscall.SIGTERM)
		time.Sleep(between(300, 2000))
		b.c.Restart()
	case 2, 3:
		b.c.Kill(owner, syscall.SIGSTOP)
		time.Sleep(between(3000, 7000))
		b.c.Kill(owner, syscall.SIGCONT)
	case 4:
		b.pg.Restart()
	}
}

// run does rounds until so many operations are done, and so much time has passed.
func (b *bench) run(ops int, d time.Duration, long bool) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { b.trouble(stop, long) })
	defer wg.Wait()
	defer close(stop)
	kinds, errs := map[Kind]int{}, map[string]int{}
	began, done, each := time.Now(), 0, 300
	if long {
		each = 1500
	}
	for n := 0; done < ops || time.Since(began) < d; n++ {
		r := b.round(n, each)
		found := b.finish(n, r)
		done += len(r.Ops)
		for i := range r.Ops {
			o := &r.Ops[i]
			kinds[o.Kind]++
			if o.unknown() || o.Err == syscall.ESTALE {
				errs[string(o.Kind)+": "+o.Err.Error()]++
			}
		}
		for _, v := range found {
			b.t.Errorf("round %d: %s%s", n, v.Message, v.File)
		}
		if b.t.Failed() {
			break
		}
		if long && n%20 == 0 {
			b.t.Logf("%v: %d operations in %d rounds", time.Since(began).Round(time.Second), done, n+1)
		}
	}
	b.t.Logf("%d operations in %v: %v; without result: %v", done, time.Since(began).Round(time.Second), kinds, errs)
}

// TestCoherence: three mounts, two of them behind links that fail, and an HTTP
// daemon tell one truth.
func TestCoherence(t *testing.T) {
	if *maxOps > 0 {
		b := start(t, 24*time.Hour)
		b.run(*maxOps, 0, true)
		return
	}
	start(t, 3*time.Minute).run(0, 15*time.Second, false)
}

// TestStaleCachesAreFound: if the kernel may keep names and attributes for a
// second and nobody tells it of changes, the judge says so.
func TestStaleCachesAreFound(t *testing.T) {
	b := start(t, 3*time.Minute, "TNV_TEST_STALE=1s")
	for n := range 5 {
		r := b.round(n, 200)
		if found := r.Judge(t.TempDir()); len(found) > 0 {
			t.Logf("round %d: found as it should be: %s", n, found[0].Message)
			return
		}
	}
	t.Error("the judge finds nothing wrong with caches that nobody invalidates")
}
