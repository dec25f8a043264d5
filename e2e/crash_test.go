package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	crashRounds = flag.Int("crash.rounds", 8, "rounds of TestCrash; each kills something else")
	crashSeed   = flag.Uint64("crash.seed", 0, "seed of TestCrash; 0: another one each time")
)

// victims of a round, killed at the same moment. Each but the last group leaves
// the mount alone: then no application may see an error.
var victims = [][]string{
	{Tracker},
	{Mounter},
	{StoreA},
	{Tracker, StoreA, StoreB, HTTPD, Mounter},
	{StoreB},
	{Tracker, StoreA, StoreB},
	{Tracker, StoreB},
	{StoreA, StoreB},
	{Tracker, Mounter},
}

// crash is a run of TestCrash.
type crash struct {
	t      *testing.T
	c      *Cluster
	rnd    *rand.Rand
	models []*model
	acked  map[string]int // operations acknowledged, by kind
	failed map[syscall.Errno]int
	waited time.Duration // the longest operation that succeeded
}

const writers = 4 // the last one records

// kill -9 of everything, one at a time and all at once, under writers whose
// journal, kept outside the mount, says what was acknowledged: nothing of that
// is missing or wrong afterwards.
func TestCrash(t *testing.T) {
	seed := *crashSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (-crash.seed), %d rounds (-crash.rounds)", seed, *crashRounds)
	r := &crash{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), acked: map[string]int{}, failed: map[syscall.Errno]int{}}
	r.c = Start(t, Options{Limit: time.Minute + time.Duration(*crashRounds+1)*20*time.Second})
	for i := range writers {
		r.models = append(r.models, newModel())
		if err := os.Mkdir(r.root(i), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for n := range *crashRounds {
		who := victims[n%len(victims)]
		start := time.Now()
		r.waited = 0
		r.round(byte(n), who)
		t.Logf("round %d: killed %v; %.1f s; longest operation %v", n, who, time.Since(start).Seconds(), r.waited.Round(time.Millisecond))
		if t.Failed() {
			return
		}
	}
	t.Logf("acknowledged: %v; failed with the mount: %v", r.acked, r.failed)
	r.epilogue()
}

func (r *crash) root(i int) string { return filepath.Join(r.c.Mount, fmt.Sprintf("w%d", i)) }

// round runs the writers, kills, restarts, and looks at everything.
func (r *crash) round(n byte, who []string) {
	t := r.t
	mountDies := slices.Contains(who, Mounter)
	load := make([]*process, writers)
	for i := range load {
		load[i] = r.startWriter(i, n)
	}
	between := func(lo, hi int) { time.Sleep(time.Duration(lo+r.rnd.IntN(hi-lo)) * time.Millisecond) }
	between(700, 1800)
	for _, v := range who {
		if err := syscall.Kill(r.c.Pid(v), syscall.SIGKILL); err != nil {
			t.Fatalf("kill %s: %v", v, err)
		}
	}
	for _, v := range who {
		if !waitGone(r.c.Pid(v), 20*time.Second) {
			t.Fatalf("%s does not go", v)
		}
	}
	if mountDies {
		for i, p := range load {
			if !p.wait(20 * time.Second) {
				t.Errorf("writer %d hangs in a mount that was killed", i)
			}
		}
	}
	between(10, 600)
	r.c.Restart()
	if !mountDies {
		between(400, 900)
		for _, p := range load {
			p.stdin.Close()
		}
		for i, p := range load {
			if !p.wait(60 * time.Second) {
				t.Errorf("writer %d hangs after %v were killed and restarted", i, who)
			}
		}
	}
	for i, p := range load {
		p.end()
		if p.err != "" {
			t.Errorf("writer %d: %s", i, p.err)
		}
		for _, f := range p.failures {
			r.failed[f.Errno]++
			if !mountDies || f.Errno != syscall.ENOTCONN && f.Errno != syscall.ECONNABORTED && f.Errno != syscall.EIO {
				t.Errorf("killed %v: writer %d got an error from %s %s: %s", who, i, f.Kind, f.Path, f.Err)
			}
		}
		r.waited = max(r.waited, p.longest)
		for k, n := range p.acked {
			r.acked[k] += n
		}
	}
	r.verify(fmt.Sprintf("after the end of %v", who))
}

// process is a writer at work.
type process struct {
	cmd      *exec.Cmd
	stdin    io.WriteCloser
	done     chan struct{} // closed when it has ended and its journal is read
	err      string
	failures []op
	longest  time.Duration
	acked    map[string]int // operations, by kind
}

// startWriter starts a writer, and reads its journal into its model.
func (r *crash) startWriter(i int, round byte) *process {
	r.t.Helper()
	m := r.models[i]
	setup := writerSetup{Root: r.root(i), Seed: round*writers + byte(i), First: m.last, Recorder: i == writers-1, Files: m.state()}
	exe, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	p := &process{cmd: exec.Command(exe), done: make(chan struct{}), acked: map[string]int{}}
	p.cmd.Env = append(os.Environ(), workEnv+"=writer")
	var stderr strings.Builder
	p.cmd.Stderr = &stderr
	p.stdin, _ = p.cmd.StdinPipe()
	out, _ := p.cmd.StdoutPipe()
	if err := p.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	if err := json.NewEncoder(p.stdin).Encode(setup); err != nil {
		r.t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		sc := bufio.NewScanner(out)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			var o op
			err := json.Unmarshal(sc.Bytes(), &o)
			if err == nil {
				err = m.note(o)
			}
			if err != nil && p.err == "" {
				p.err = fmt.Sprintf("journal: %v: %s", err, sc.Bytes())
			}
			switch {
			case o.Done && o.Err != "":
				p.failures = append(p.failures, o)
			case o.Done:
				p.acked[o.Kind]++
				p.longest = max(p.longest, o.Took)
			}
		}
		if err := p.cmd.Wait(); err != nil && p.err == "" {
			p.err = fmt.Sprintf("%v: %s", err, &stderr)
		}
	}()
	r.t.Cleanup(p.end)
	return p
}

func (p *process) wait(limit time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(limit):
		return false
	}
}

// end ends a writer that did not end by itself.
func (p *process) end() {
	p.stdin.Close()
	p.cmd.Process.Kill()
	p.wait(10 * time.Second)
}

// verify compares what is on the mount with what was acknowledged.
func (r *crash) verify(when string) {
	t := r.t
	t.Helper()
	dir := filepath.Join(r.c.Base, "dump")
	os.RemoveAll(dir)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, m := range r.models {
		setup := verifierSetup{Root: r.root(i), Dump: map[string]string{}}
		paths := m.dirtyPaths()
		if next := m.after(); next != nil { // under the other name
			paths = append(paths, next.dirtyPaths()...)
		}
		for k, p := range paths {
			setup.Dump[p] = filepath.Join(dir, fmt.Sprintf("%d-%d", i, k))
		}
		got, err := lookAt(setup)
		if err != nil {
			t.Errorf("%s: writer %d: %v", when, i, err)
			continue
		}
		content := func(p string) ([]byte, error) { return os.ReadFile(setup.Dump[p]) }
		wrong := m.compare(got, content)
		if next := m.after(); next != nil && len(wrong) > 0 {
			if w := next.compare(got, content); len(w) < len(wrong) {
				m, wrong = next, w
				r.models[i] = next
			}
		}
		for _, w := range wrong {
			t.Errorf("%s: writer %d: %s%s", when, i, w, r.story(i, m, w))
		}
		if len(wrong) == 0 {
			if err := m.settle(content); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// story tells of the path that a complaint begins with: where its bytes differ
// when read again, and what the journal says of it.
func (r *crash) story(i int, m *model, complaint string) string {
	path, _, _ := strings.Cut(complaint, " ")
	path = strings.TrimSuffix(path, ":")
	var b strings.Builder
	if f := m.files[path]; f != nil && f.typ == "file" {
		dump := filepath.Join(r.c.Base, "dump", "again")
		lookAt(verifierSetup{Root: r.root(i), Dump: map[string]string{path: dump}})
		got, err := os.ReadFile(dump)
		fmt.Fprintf(&b, "\n    read again: %d bytes, %v, wrong in %v", len(got), err, wrongRanges(got, f.data))
	}
	names := map[string]bool{path: true} // and those that it had before
	var lines []string
	for _, o := range slices.Backward(m.recent) {
		if o.Done && o.Kind == opRename && names[o.To] {
			names[o.Path] = true
		}
		if names[o.Path] || names[o.To] || o.Err != "" {
			line, _ := json.Marshal(o)
			lines = append(lines, "\n    "+string(line))
		}
	}
	slices.Reverse(lines)
	return b.String() + strings.Join(lines[max(0, len(lines)-120):], "")
}

// wrongRanges lists where bytes differ, up to ten ranges; small gaps count as wrong.
func wrongRanges(got, want []byte) (out []string) {
	const gap = 64
	for i := 0; i < min(len(got), len(want)) && len(out) < 10; i++ {
		if got[i] == want[i] {
			continue
		}
		lo, hi, zero := i, i, true
		for ; i < min(len(got), len(want)) && i-hi < gap; i++ {
			if got[i] != want[i] {
				hi = i + 1
				zero = zero && got[i] == 0
			}
		}
		out = append(out, fmt.Sprintf("[%d,%d) zeros:%v", lo, hi, zero))
	}
	return out
}

// lookAt has another process look at a tree.
func lookAt(s verifierSetup) (map[string]seen, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	in, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), workEnv+"=verifier")
	cmd.Stdin = bytes.NewReader(in)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	timer := time.AfterFunc(60*time.Second, func() { cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("the tree cannot be read: %w: %s", err, &errOut)
	}
	got := map[string]seen{}
	for d := json.NewDecoder(&out); ; {
		var v seen
		if err := d.Decode(&v); err == io.EOF {
			return got, nil
		} else if err != nil {
			return nil, err
		}
		got[v.Path] = v
	}
}

// epilogue: nothing is lost by down and up, on either daemon alone; nothing is
// left over by the sessions that were killed.
func (r *crash) epilogue() {
	t, c := r.t, r.c
	c.WaitWhole(60 * time.Second)
	files := uint64(1 + writers)
	for _, m := range r.models {
		distinct := map[*modelFile]bool{}
		for f := range maps.Values(m.files) {
			distinct[f] = true
		}
		files += uint64(len(distinct))
	}
	c.WaitStatus(90*time.Second, fmt.Sprintf("%d files, none without a name", files), func(st Status) bool {
		return st.Volumes[0].Files == files && st.Volumes[0].Unlinked == 0
	})
	counts, orphans := c.waitSame(60 * time.Second)
	t.Logf("%d files; both daemons hold the same %v blocks, and %d of writes that were never committed", files, counts, orphans)
	for _, away := range []string{StoreA, StoreB} {
		c.Down()
		c.Restart()
		c.WaitWhole(60 * time.Second)
		c.Kill(away, syscall.SIGKILL)
		r.verify("from the group without " + away)
		c.Restart()
	}
	c.WaitWhole(60 * time.Second)
	for i := range writers {
		if res := Exec(60*time.Second, "rm", "-rf", r.root(i)); res.Code != 0 {
			t.Errorf("rm -rf: %v", res)
		}
	}
	c.WaitStatus(60*time.Second, "all is removed", func(st Status) bool {
		return st.Volumes[0].Files == 1 && st.Volumes[0].Bytes == 0
	})
	counts, orphans = c.waitSame(60 * time.Second)
	t.Logf("after rm -rf %v and %d blocks are left, of writes that were never committed", counts, orphans)
}
