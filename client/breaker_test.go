package client

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tnvfs/tnv"
)

func TestBreaker(t *testing.T) {
	var b breaker
	at := time.Now()
	step := func(d time.Duration) time.Time { at = at.Add(d); return at }
	if b.open(at) || b.probe(at) {
		t.Fatal("a breaker is open before anything failed")
	}
	b.failed(at)
	b.failed(step(firstPause / 2)) // under way when it opened: nothing new
	if !b.open(at) || b.probe(at) {
		t.Fatal("closed, or probed, while it is open")
	}
	if b.open(step(firstPause/2 + 1)) {
		t.Fatal("open behind its pause")
	}
	if !b.probe(at) || b.probe(at) || !b.open(at) {
		t.Fatal("not exactly one probe at a time")
	}
	if step(probeLife + 1); !b.probe(at) {
		t.Fatal("a probe that was given up keeps others off for ever")
	}
	for i := range 5 {
		b.failed(at)
		if i > 0 {
			step(maxPause)
		} else if step(2*firstPause - 1); !b.open(at) {
			t.Fatal("the pause is not longer the second time")
		}
		step(1)
		if b.open(at) {
			t.Fatalf("failure %d: open for longer than the longest pause", i)
		}
	}
}

// value is what a counter has come to.
func value(c prometheus.Counter) float64 {
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	l, err := r.Gather()
	if err != nil {
		panic(err)
	}
	return l[0].GetMetric()[0].GetCounter().GetValue()
}

// player reads parts of a film, some at once, and gives the longest that one took.
func player(t *testing.T, h *Handle, want []byte, reads int) (longest time.Duration) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), uint64(time.Now().UnixNano()))) // others each time: nothing is cached
			for range reads / 4 {
				off := r.IntN(len(want) - 100_000)
				b := make([]byte, 100_000)
				start := time.Now()
				_, err := h.ReadAt(ctx, b, int64(off))
				took := time.Since(start)
				mu.Lock()
				longest = max(longest, took)
				if err != nil || !bytes.Equal(b, want[off:off+len(b)]) {
					t.Errorf("read at %d: %v", off, err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return longest
}

// viewer is a client that has a film open and none of it cached.
func viewer(t *testing.T, f *fakeCluster, name string) (*Client, *Handle) {
	t.Helper()
	cfg := f.config()
	cfg.Memory = 16 << 20
	c := f.connect(cfg)
	h, _, err := c.OpenPath(ctx, name)
	must(t, err)
	t.Cleanup(func() { h.Close() })
	return c, h
}

func film(t *testing.T, f *fakeCluster) []byte {
	t.Helper()
	want := randomBytes(5, 48<<20)
	must(t, f.connect(f.config()).WriteFile(ctx, "film", want, 0o644))
	return want
}

// A member that froze is tried again by one read at a time, which does not wait
// for it, and is used again when it has thawed.
func TestFrozenMemberIsProbed(t *testing.T) {
	f := newFake(t, 1, 2)
	want := film(t, f)
	c, h := viewer(t, f, "film")
	player(t, h, want, 40)
	f.stores[0].freeze()
	if d := player(t, h, want, 40); d > time.Second {
		t.Errorf("frozen: a read took %v", d)
	}
	if !c.nodes.bad(f.stores[0].id) {
		t.Fatal("the breaker of the frozen member is closed")
	}
	time.Sleep(firstPause)
	asked := value(c.m.hedges)
	if d := player(t, h, want, 80); d > time.Second {
		t.Errorf("while the member is tried again a read took %v", d)
	}
	if n := value(c.m.hedges) - asked; n > 10 {
		t.Errorf("%v reads tried a member that is frozen", n)
	}
	f.stores[0].thaw()
	gets := func() int {
		f.stores[0].mu.Lock()
		defer f.stores[0].mu.Unlock()
		return f.stores[0].gets
	}
	for before, end := gets(), time.Now().Add(maxPause+5*time.Second); gets() < before+10; time.Sleep(50 * time.Millisecond) {
		if player(t, h, want, 20); time.Now().After(end) {
			t.Fatal("a member that works again is not read from")
		}
	}
}

// Second questions stay a small share of the reads however slow everything is,
// and a member that takes long, but answers, is soon asked behind the other.
func TestHedgesAreFew(t *testing.T) {
	f := newFake(t, 1, 2)
	want := film(t, f)
	c, h := viewer(t, f, "film")
	for _, s := range f.stores { // both: nobody is the better one
		s.mu.Lock()
		s.slow = 50 * time.Millisecond
		s.mu.Unlock()
	}
	player(t, h, want, 160)
	hedges, reads := value(c.m.hedges), value(c.m.gets)
	if hedges > hedgeBurst+hedgeShare*reads+1 {
		t.Errorf("%v second questions for %v reads", hedges, reads)
	}
	f.stores[1].mu.Lock()
	f.stores[1].slow = 0
	f.stores[1].mu.Unlock()
	f.stores[0].mu.Lock()
	f.stores[0].slow, f.stores[0].gets = 250*time.Millisecond, 0
	f.stores[0].mu.Unlock()
	began := time.Now()
	before := value(c.m.gets)
	player(t, h, want, 160)
	f.stores[0].mu.Lock()
	slow := f.stores[0].gets
	f.stores[0].mu.Unlock()
	all := value(c.m.gets) - before
	if float64(slow) > all/3 {
		t.Errorf("%d of %v reads, in %v, went to a member that takes 250 ms", slow, all, time.Since(began))
	}
}

// A member that said BUSY is not asked as a second one: the first is waited for.
func TestNoHedgeToBusy(t *testing.T) {
	f := newFake(t, 1, 2)
	want := film(t, f)
	c, h := viewer(t, f, "film")
	first, busy := f.stores[0], f.stores[1]
	first.mu.Lock()
	first.slow = 100 * time.Millisecond
	first.mu.Unlock()
	for i := range 6 {
		busy.mu.Lock()
		before := busy.gets
		busy.mu.Unlock()
		c.nodes.worked(first.id)
		c.nodes.refused(busy.id)
		off, b := int64(i)*(8<<20), make([]byte, 100_000)
		_, err := h.ReadAt(ctx, b, off)
		must(t, err)
		busy.mu.Lock()
		if busy.gets != before || !bytes.Equal(b, want[off:off+int64(len(b))]) {
			t.Errorf("a member that had said BUSY was asked %d times", busy.gets-before)
		}
		busy.mu.Unlock()
	}
}

// Members that take much longer than others are asked behind them, until that is
// long ago.
func TestLaggardsLast(t *testing.T) {
	n := newNodes("")
	members := []tnv.Node{{ID: 1, State: tnv.NodeAlive}, {ID: 2, State: tnv.NodeAlive}}
	for range 20 {
		n.answered(1, 200*time.Millisecond)
		n.answered(2, 5*time.Millisecond)
	}
	first := func() (ones int) {
		for key := range tnv.BlockID(50) {
			if n.order(members, key)[0].ID == 1 {
				ones++
			}
		}
		return ones
	}
	if got := first(); got > 0 {
		t.Errorf("a laggard comes first for %d of 50 blocks", got)
	}
	n.stat[1].heard = time.Now().Add(-10 * forgiveEvery)
	if got := first(); got == 0 || got == 50 {
		t.Errorf("what was seen long ago still counts: first for %d of 50 blocks", got)
	}
}

// What is tried again is a small share of what works.
func TestRetryBudget(t *testing.T) {
	n := newNodes("")
	for range retryBurst {
		if !n.mayRetry() {
			t.Fatal("the burst is not there")
		}
	}
	if n.mayRetry() {
		t.Fatal("retries without an end")
	}
	for range hedgeBurst {
		if !n.mayHedge() {
			t.Fatal("the burst of second questions is not there")
		}
	}
	if n.mayHedge() {
		t.Fatal("second questions without an end")
	}
	for range 20 {
		n.answered(1, time.Millisecond)
	}
	n.tokens += 1e-9 // twenty times a twentieth
	if !n.mayHedge() || n.mayHedge() {
		t.Fatal("not one second question for twenty reads")
	}
	n.credit += 1e-9
	got := 0
	for n.mayRetry() {
		got++
	}
	if got != 2 {
		t.Fatalf("%d retries for twenty reads, not two", got)
	}
}

// The delay of hedging comes to rest where 95 of 100 reads are faster.
func TestPatience(t *testing.T) {
	n := newNodes("")
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		n.answered(1, time.Duration(r.IntN(100))*time.Millisecond)
	}
	if n.late < 80*time.Millisecond || n.late > 110*time.Millisecond {
		t.Errorf("95 of 100 reads take less than 95 ms, and %v is believed", n.late)
	}
}

// New blocks go to whole groups with room; to slow members only where all are.
func TestPlace(t *testing.T) {
	member := func(id tnv.NodeID, state tnv.NodeState, used uint64) tnv.Node {
		return tnv.Node{ID: id, State: state, Used: used, Capacity: 100 << 30}
	}
	const G = 1 << 30
	group := func(id tnv.GroupID, l ...tnv.Node) tnv.Group { return tnv.Group{ID: id, Nodes: l} }
	for name, c := range map[string]struct {
		want tnv.GroupID
		m    []tnv.Group
	}{
		"whole before lame":    {2, []tnv.Group{group(1, member(1, tnv.NodeAlive, 0), member(2, tnv.NodeLost, 0)), group(2, member(3, tnv.NodeAlive, 90*G), member(4, tnv.NodeAlive, 90*G))}},
		"whole before slow":    {2, []tnv.Group{group(1, member(1, tnv.NodeAlive, 0), member(2, tnv.NodeSlow, 0)), group(2, member(3, tnv.NodeAlive, 90*G))}},
		"room before tight":    {2, []tnv.Group{group(1, member(1, tnv.NodeAlive, 99*G), member(2, tnv.NodeAlive, 0)), group(2, member(3, tnv.NodeAlive, 90*G))}},
		"tight before lame":    {2, []tnv.Group{group(1, member(1, tnv.NodeFull, 99*G), member(2, tnv.NodeAlive, 0)), group(2, member(3, tnv.NodeAlive, 99*G))}},
		"slow where all are":   {1, []tnv.Group{group(1, member(1, tnv.NodeSlow, 0), member(2, tnv.NodeSlow, 0)), group(2, member(3, tnv.NodeLost, 0))}},
		"none":                 {0, []tnv.Group{group(1, member(1, tnv.NodeFull, 0)), group(2, member(3, tnv.NodeLeaving, 0))}},
		"full slow member too": {1, []tnv.Group{group(1, member(1, tnv.NodeSlow, 0), member(2, tnv.NodeFull, 0))}},
	} {
		for range 20 {
			g, _ := newNodes("").place(&tnv.Map{Groups: c.m}, nil)
			if (g == nil) != (c.want == 0) || g != nil && g.ID != c.want {
				t.Fatalf("%s: %+v, want group %d", name, g, c.want)
			}
		}
	}
	g := group(1, member(1, tnv.NodeAlive, 0), member(2, tnv.NodeSlow, 0), member(3, tnv.NodeAlive, 0))
	if l := newNodes("").takers(&g, 7); len(l) != 2 || g.Awaiting() != 2 || g.Awaited(2) {
		t.Errorf("takers %v, %d awaited", l, g.Awaiting())
	}
}
