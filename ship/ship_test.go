package ship

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/mem"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0: a new one")

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

// groups is one store in memory. It fails as often as it is told to, before or after
// it has stored what was put, and lets nobody put other bytes under an id that was used (D3).
type groups struct {
	t  testing.TB
	mu sync.Mutex
	r  *rand.Rand

	fail    int // percent
	pieces  map[tnv.BlockID]heldPiece
	used    map[tnv.BlockID]bool
	deleted int
	dead    bool // what comes is of a process that was killed
}

type heldPiece struct {
	home tnv.Home
	data []byte
}

func newGroups(t testing.TB, r *rand.Rand) *groups {
	return &groups{t: t, r: r, pieces: map[tnv.BlockID]heldPiece{}, used: map[tnv.BlockID]bool{}}
}

func (g *groups) failsLocked() bool { return g.dead || g.r.IntN(100) < g.fail }

var errDown = tnv.E("put", tnv.KindUnavailable, "down")

func (g *groups) Put(_ context.Context, id tnv.BlockID, home tnv.Home, data []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failsLocked() {
		return errDown
	}
	if g.used[id] {
		g.t.Errorf("id %d is used twice", id)
	}
	g.used[id] = true
	g.pieces[id] = heldPiece{home, bytes.Clone(data)}
	if g.failsLocked() { // the answer is lost
		return errDown
	}
	return nil
}

func (g *groups) List(_ context.Context, fn func(Stored)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, p := range g.pieces {
		fn(Stored{Node: 1, ID: id, Home: p.home})
	}
	if g.failsLocked() {
		return errDown
	}
	return nil
}

func (g *groups) Delete(_ context.Context, _ tnv.NodeID, ids []tnv.BlockID) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failsLocked() {
		return errDown
	}
	for _, id := range ids {
		delete(g.pieces, id)
		g.deleted++
	}
	return nil
}

func (g *groups) Get(_ context.Context, p Stored) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h, there := g.pieces[p.ID]; there {
		return h.data, nil
	}
	return nil, tnv.E("get", tnv.KindMissing, "%d", p.ID)
}

func (g *groups) set(fail int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fail = fail
}

// at is what is there at this moment, for a restore beside which the rest goes on.
func (g *groups) at() *groups {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := newGroups(g.t, rand.New(rand.NewPCG(1, 1)))
	for id, p := range g.pieces {
		c.pieces[id] = p
	}
	return c
}

// world is an engine that is shipped, what was written to it, and the groups.
type world struct {
	t      *testing.T
	r      *rand.Rand
	engine *mem.Engine
	groups *groups

	journal *Journal
	shipper *Shipper
	leases  map[tnv.VolumeID]kv.Lease
	history map[tnv.VolumeID][]kv.Batch // all that was acknowledged, the n-th at n-1
}

const testLineage = 77

var testVolumes = []tnv.VolumeID{0, 2, 3}

func newWorld(t *testing.T, r *rand.Rand) *world {
	w := &world{t: t, r: r, engine: mem.New(mem.Options{}), groups: newGroups(t, rand.New(rand.NewPCG(r.Uint64(), 2))), leases: map[tnv.VolumeID]kv.Lease{}, history: map[tnv.VolumeID][]kv.Batch{}}
	w.start()
	t.Cleanup(func() { w.shipper.Close() })
	return w
}

func (w *world) start() {
	w.t.Helper()
	w.journal = NewJournal(w.engine)
	for _, vol := range testVolumes {
		seen, err := w.journal.Lease(context.Background(), vol)
		w.must(err)
		w.leases[vol], err = w.journal.Acquire(context.Background(), seen, "test", time.Second)
		w.must(err)
	}
	w.shipper = Start(w.journal, w.groups, Config{Lineage: testLineage, Log: quiet(), Tick: time.Millisecond, Rate: 1 << 40, MinLog: 20000,
		Volumes: func(context.Context) ([]tnv.VolumeID, error) { return testVolumes, nil }})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// write applies a batch that says of itself which one it is.
func (w *world) write(vol tnv.VolumeID) {
	w.t.Helper()
	n := len(w.history[vol]) + 1
	b := kv.Batch{Seq: tnv.BatchSeq(n), Writes: []kv.Write{{Key: []byte("n"), Value: []byte(fmt.Sprint(n))}}}
	for range w.r.IntN(6) {
		k := kv.Write{Key: []byte(fmt.Sprintf("k%d", w.r.IntN(300))), Value: []byte{}}
		if w.r.IntN(4) == 0 {
			k.Value = nil
		} else {
			for range w.r.IntN(200) {
				k.Value = append(k.Value, byte(w.r.Uint32()))
			}
		}
		b.Writes = append(b.Writes, k)
	}
	w.must(w.journal.Apply(context.Background(), kv.Fence{Vol: vol, Epoch: w.leases[vol].Epoch}, []kv.Batch{b}))
	w.history[vol] = append(w.history[vol], b)
}

// killed goes on with the next process, on what the one before had acknowledged.
func (w *world) killed() {
	w.t.Helper()
	w.groups.mu.Lock()
	w.groups.dead = true
	w.groups.mu.Unlock()
	w.engine = w.engine.Kill()
	w.shipper.Close()
	w.groups.mu.Lock()
	w.groups.dead = false
	w.groups.mu.Unlock()
	w.start()
}

func contents(t *testing.T, e kv.Engine, vol tnv.VolumeID) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := e.Scan(context.Background(), vol, []byte{0}, nil, 0, func(k, v []byte) bool { m[string(k)] = string(v); return true })
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// restored restores what the groups have, and tells how many batches of each volume are in it.
func (w *world) restored(g *groups) map[tnv.VolumeID]int {
	w.t.Helper()
	e := mem.New(mem.Options{})
	_, err := Restore(context.Background(), g, testLineage, e)
	w.must(err)
	upTo := map[tnv.VolumeID]int{}
	for _, vol := range testVolumes {
		got, want, n := contents(w.t, e, vol), map[string]string{}, 0
		fmt.Sscan(got["n"], &n)
		for _, b := range w.history[vol][:n] {
			for _, k := range b.Writes {
				if k.Value == nil {
					delete(want, string(k.Key))
				} else {
					want[string(k.Key)] = string(k.Value)
				}
			}
		}
		if len(got) != len(want) {
			w.t.Errorf("volume %d, restored up to batch %d, has %d records, want %d", vol, n, len(got), len(want))
		}
		for k, v := range want {
			if got[k] != v {
				w.t.Errorf("volume %d, restored up to batch %d: %q is wrong", vol, n, k)
			}
		}
		upTo[vol] = n
	}
	return upTo
}

// Whatever fails, and whenever the process is killed: what is restored is the state
// after some batch of each volume, not before one of which Settled has said that it is
// restorable; and the groups keep no more than is needed.
func TestShipAndRestore(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d", seed)
	w := newWorld(t, rand.New(rand.NewPCG(seed, 1)))
	promised := map[tnv.VolumeID]int{}
	settle := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		w.must(w.shipper.Settled(ctx))
		for _, vol := range testVolumes {
			promised[vol] = len(w.history[vol])
		}
	}
	for _, vol := range testVolumes {
		w.write(vol)
	}
	settle()
	for step := range 4000 {
		switch k := w.r.IntN(1000); {
		case k < 960:
			w.write(testVolumes[w.r.IntN(len(testVolumes))])
		case k < 970:
			time.Sleep(time.Millisecond)
		case k < 975:
			w.groups.set(w.r.IntN(60))
		case k < 980:
			w.groups.set(0)
			settle()
		case k < 984:
			w.killed()
		case k < 986:
			w.shipper.Close()
			w.start()
		default:
			for vol, n := range w.restored(w.groups.at()) {
				if n < promised[vol] {
					t.Fatalf("step %d: volume %d is restored up to batch %d, %d was promised", step, vol, n, promised[vol])
				}
			}
		}
	}
	w.groups.set(0)
	settle()
	for vol, n := range w.restored(w.groups.at()) {
		if n != len(w.history[vol]) {
			t.Errorf("volume %d: %d batches of %d", vol, n, len(w.history[vol]))
		}
	}
	var size int
	g := w.groups.at()
	for _, p := range g.pieces {
		size += len(p.data)
	}
	if w.groups.deleted == 0 || size > 400000 {
		t.Errorf("%d pieces of %d bytes are left, %d were deleted", len(g.pieces), size, w.groups.deleted)
	}
}

// Many write at once while a checkpoint is made again and again: what was being
// applied as a record was read is in the log.
func TestCheckpointUnderLoad(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(5, 1)))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for _, vol := range testVolumes {
		wg.Add(1)
		go func() { // the numbers of two keys are always equal
			defer wg.Done()
			for n := 1; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				v := []byte(fmt.Sprint(n))
				writes := []kv.Write{{Key: []byte("a"), Value: v}, {Key: []byte("z"), Value: v}}
				for i := range 40 {
					writes = append(writes, kv.Write{Key: []byte(fmt.Sprintf("m%d", i)), Value: append(v, make([]byte, 300)...)})
				}
				if err := w.journal.Apply(context.Background(), kv.Fence{Vol: vol, Epoch: w.leases[vol].Epoch}, []kv.Batch{{Seq: tnv.BatchSeq(n), Writes: writes}}); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(100 * time.Microsecond)
			}
		}()
	}
	w.must(w.shipper.Settled(context.Background()))
	checkpoints := map[tnv.BlockID]bool{}
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		e := mem.New(mem.Options{})
		r, err := Restore(context.Background(), w.groups.at(), testLineage, e)
		w.must(err)
		checkpoints[r.Checkpoint] = true
		for _, vol := range testVolumes {
			got := contents(t, e, vol)
			if got["a"] != got["z"] {
				t.Fatalf("volume %d: half a batch was restored: %s and %s", vol, got["a"], got["z"])
			}
		}
	}
	close(stop)
	wg.Wait()
	if len(checkpoints) < 2 {
		t.Errorf("only %d checkpoints were seen", len(checkpoints))
	}
}

// held is an engine whose Apply does not return for a while, though it has taken effect,
// and which tells when the second page of a volume is read.
type held struct {
	*mem.Engine
	second  func()
	release chan struct{}
}

func (e *held) Apply(ctx context.Context, f kv.Fence, b []kv.Batch) error {
	err := e.Engine.Apply(ctx, f, b)
	<-e.release
	return err
}

func (e *held) Scan(ctx context.Context, vol tnv.VolumeID, from, to []byte, limit int, fn func(key, value []byte) bool) error {
	if len(from) > 1 {
		e.second()
	}
	return e.Engine.Scan(ctx, vol, from, to, limit, fn)
}

// A batch that takes effect between two pages, and is noted only later, is seen in part
// by the checkpoint: that has no end before the log has the batch.
func TestCheckpointSeesHalf(t *testing.T) {
	ctx := context.Background()
	e := &held{Engine: mem.New(mem.Options{}), release: make(chan struct{})}
	lease, err := e.Acquire(ctx, kv.Lease{Vol: 2}, "test", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	fence := kv.Fence{Vol: 2, Epoch: lease.Epoch}
	first := kv.Batch{Seq: 1, Writes: []kv.Write{{Key: []byte("a"), Value: []byte("1")}, {Key: []byte("z"), Value: []byte("1")}}}
	for i := range pageSize {
		first.Writes = append(first.Writes, kv.Write{Key: []byte(fmt.Sprintf("m%d", i)), Value: []byte{}})
	}
	if err := e.Engine.Apply(ctx, fence, []kv.Batch{first}); err != nil {
		t.Fatal(err)
	}
	j := NewJournal(e)
	applied := make(chan error, 1)
	e.second = sync.OnceFunc(func() {
		go func() {
			applied <- j.Apply(ctx, fence, []kv.Batch{{Seq: 2, Writes: []kv.Write{{Key: []byte("a"), Value: []byte("2")}, {Key: []byte("z"), Value: []byte("2")}}}})
		}()
		for contents(t, e.Engine, 2)["z"] != "2" {
			time.Sleep(time.Millisecond)
		}
	})
	g := newGroups(t, rand.New(rand.NewPCG(1, 1)))
	s := Start(j, g, Config{Lineage: testLineage, Log: quiet(), Tick: time.Millisecond, Volumes: func(context.Context) ([]tnv.VolumeID, error) { return []tnv.VolumeID{2}, nil }})
	defer s.Close()
	time.Sleep(50 * time.Millisecond)
	if _, err := Restore(ctx, g.at(), testLineage, mem.New(mem.Options{})); tnv.KindOf(err) != tnv.KindNotExist {
		t.Errorf("a checkpoint has an end before the log has what it has seen in part: %v", err)
	}
	close(e.release)
	if err := <-applied; err != nil {
		t.Fatal(err)
	}
	if err := s.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	to := mem.New(mem.Options{})
	if _, err := Restore(ctx, g.at(), testLineage, to); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, to, 2); got["a"] != "2" || got["z"] != "2" {
		t.Errorf("restored %s and %s", got["a"], got["z"])
	}
}

// Groups that take nothing for long cost a gap, not memory, and nothing that is
// restorable; then a new chain begins. Another engine's pieces stay.
func TestGap(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(9, 1)))
	theirs := piece{kind: kindEnd, lineage: 5, raw: make([]byte, 8)}
	w.must(w.groups.Put(context.Background(), 9, homeOf(5, kindEnd), theirs.encode()))
	w.write(2)
	w.must(w.shipper.Settled(context.Background()))
	w.groups.set(100)
	big := kv.Batch{Seq: 2, Writes: []kv.Write{{Key: []byte("n"), Value: []byte("2")}, {Key: []byte("big"), Value: make([]byte, kv.MaxValueLen)}}}
	for range maxBuffer/kv.MaxValueLen + 4 {
		w.must(w.journal.Apply(context.Background(), kv.Fence{Vol: 2, Epoch: w.leases[2].Epoch}, []kv.Batch{big}))
		w.history[2] = append(w.history[2], big)
		big.Seq++
		big.Writes = []kv.Write{{Key: []byte("n"), Value: []byte(fmt.Sprint(big.Seq))}, big.Writes[1]}
	}
	w.journal.mu.Lock()
	if n := len(w.journal.buf); n > maxBuffer+2*kv.MaxValueLen {
		t.Errorf("%d bytes wait", n)
	}
	w.journal.mu.Unlock()
	if got := w.restored(w.groups.at()); got[2] != 1 {
		t.Errorf("restored up to batch %d", got[2])
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	if err := w.shipper.Settled(ctx); err == nil {
		t.Error("what was not shipped is said to be restorable")
	}
	cancel()
	w.groups.set(0)
	w.must(w.shipper.Settled(context.Background()))
	if got := w.restored(w.groups.at()); got[2] != len(w.history[2]) {
		t.Errorf("afterwards restored up to batch %d of %d", got[2], len(w.history[2]))
	}
	if l, err := Lineages(context.Background(), w.groups); err != nil || len(l) != 2 || l[0] != (Lineage{5, 1, 1}) || l[1].ID != testLineage || l[1].Ends == 0 {
		t.Errorf("lineages %v, %v", l, err)
	}
	if !w.shipper.Needed(9, homeOf(5, kindEnd)) {
		t.Error("another lineage's piece is said not to be needed")
	}
}

// An outcome that is left open ends the chain: the batch may be applied, and is in no log.
func TestOpenOutcome(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(3, 1)))
	w.write(2)
	w.must(w.shipper.Settled(context.Background()))
	w.engine.FailApply(errDown, true)
	b := kv.Batch{Seq: 2, Writes: []kv.Write{{Key: []byte("n"), Value: []byte("2")}, {Key: []byte("only"), Value: []byte("here")}}}
	if err := w.journal.Apply(context.Background(), kv.Fence{Vol: 2, Epoch: w.leases[2].Epoch}, []kv.Batch{b}); err == nil {
		t.Fatal("it did not fail")
	}
	w.history[2] = append(w.history[2], b)
	w.write(2)
	w.must(w.shipper.Settled(context.Background()))
	if got := w.restored(w.groups.at()); got[2] != 3 {
		t.Errorf("restored up to batch %d", got[2])
	}
}

func FuzzPiece(f *testing.F) {
	log := appendBatch(nil, 3, &kv.Batch{Seq: 5, Writes: []kv.Write{{Key: []byte("k"), Value: []byte("v")}, {Key: []byte("d")}}})
	rec := appendWrite([]byte{0, 0, 0, 2}, []byte("k"), []byte{})
	f.Add((&piece{kind: kindLog, lineage: 1, row: 2, number: 3, raw: log}).encode())
	f.Add((&piece{kind: kindCheckpoint, raw: rec}).encode())
	f.Add((&piece{kind: kindEnd, from: 4, until: 5, raw: make([]byte, 8)}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePiece(b)
		if err != nil {
			return
		}
		if q, err := decodePiece(p.encode()); err != nil || !bytes.Equal(q.raw, p.raw) || q.row != p.row || q.until != p.until {
			t.Fatalf("%+v is read back as %+v, %v", p, q, err)
		}
		_ = batches(func(tnv.VolumeID, kv.Batch) error { return nil }).feed(p.raw)
		_ = records(func(tnv.VolumeID, kv.Write) error { return nil }).feed(p.raw)
	})
}

// After Renew nothing that was shipped before is needed, nor held.
func TestRenew(t *testing.T) {
	w := newWorld(t, rand.New(rand.NewPCG(4, 1)))
	w.write(2)
	w.must(w.shipper.Settled(context.Background()))
	before := w.groups.at().pieces
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	w.must(w.shipper.Renew(ctx))
	after := w.groups.at()
	for id, p := range before {
		if _, there := after.pieces[id]; there || w.shipper.Needed(id, p.home) {
			t.Errorf("piece %d is there yet", id)
		}
	}
	if got := w.restored(after); got[2] != 1 {
		t.Errorf("restored up to batch %d", got[2])
	}
	w.groups.set(100)
	short, stop := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer stop()
	if w.shipper.Renew(short) == nil {
		t.Error("a copy is said to be renewed where no group takes it")
	}
}

// A group that is being emptied gets no pieces, unless no other takes any.
func TestTakers(t *testing.T) {
	g := func(id tnv.GroupID, state tnv.NodeState) tnv.Group {
		return tnv.Group{ID: id, Nodes: []tnv.Node{{ID: tnv.NodeID(id), Group: id, State: state}}}
	}
	m := &tnv.Map{Groups: []tnv.Group{g(1, tnv.NodeFull), g(2, tnv.NodeAlive)}}
	s := &Stores{Map: func() *tnv.Map { return m }, Leaves: func(id tnv.GroupID) bool { return id == 1 }}
	if l := s.takers(); len(l) != 1 || l[0][0].ID != 2 {
		t.Errorf("takers: %v", l)
	}
	m = &tnv.Map{Groups: []tnv.Group{g(1, tnv.NodeFull), g(2, tnv.NodeLost)}}
	if l := s.takers(); len(l) != 1 || l[0][0].ID != 1 {
		t.Errorf("takers where only the leaving group is: %v", l)
	}
}
