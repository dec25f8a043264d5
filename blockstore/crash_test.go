package blockstore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tnvfs/tnv"
)

// seeds gives the seeds of a random test: one of now, and TNV_SEED instead if it is set.
func seeds(t *testing.T, n int) []uint64 {
	if v, err := strconv.ParseUint(os.Getenv("TNV_SEED"), 10, 64); err == nil {
		return []uint64{v}
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = uint64(time.Now().UnixNano()) + uint64(i)
	}
	return out
}

// fate is what the model knows of a block.
type fate uint8

const (
	absent  fate = iota // not held, and may be put
	held                // committed without sync: a power loss may take it
	durable             // acknowledged with sync
	deleted             // for ever
)

// model runs random operations on a store and knows what must come of them.
type model struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	mem     *vfs.MemFS
	opt     Options
	s       *Store
	fates   map[int]fate
	history []string
}

const modelKeys = 40

func (m *model) logf(format string, args ...any) {
	m.history = append(m.history, fmt.Sprintf(format, args...))
}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	h := m.history[max(0, len(m.history)-25):]
	m.t.Fatalf("TNV_SEED=%d after %d steps: %s\nlast steps: %v", m.seed, len(m.history), fmt.Sprintf(format, args...), h)
}

func modelSize(id int) int { return []int{300, 4096, 9000, 40_000}[id%4] }

func (m *model) step() {
	id := 1 + m.rng.IntN(modelKeys)
	k := key(id)
	switch n := m.rng.IntN(100); {
	case n < 45:
		sync := m.rng.IntN(2) == 0
		m.logf("put %d sync=%v", id, sync)
		m.put(id, sync)
	case n < 55:
		m.logf("abort %d", id)
		meta, p := block(k, modelSize(id))
		if w, err := m.s.Create(meta); err == nil {
			w.Write(p[:m.rng.IntN(len(p)+1)])
			if m.rng.IntN(2) == 0 { // else it hangs until the end
				w.Abort()
			}
		}
	case n < 62:
		m.logf("delete %d", id)
		if err := m.s.Delete(ctx, 1, []tnv.BlockID{tnv.BlockID(id)}); err != nil {
			m.fail("delete %d: %v", id, err)
		}
		m.fates[id] = deleted
	case n < 67:
		m.logf("drop %d", id)
		if err := m.s.Drop(k, "model"); err == nil {
			m.fates[id] = absent
		} else if tnv.KindOf(err) != tnv.KindMissing {
			m.fail("drop %d: %v", id, err)
		}
	case n < 72:
		m.logf("sync")
		if err := m.s.Sync(ctx); err != nil {
			m.fail("sync: %v", err)
		}
		for id, f := range m.fates {
			if f == held {
				m.fates[id] = durable
			}
		}
	case n < 80:
		m.logf("keep house")
		m.s.keepHouse()
	case n < 84:
		m.logf("seal")
		m.s.sealAll(m.t)
	case n < 86:
		m.reopen()
	case n < 90:
		m.crash()
	default:
		m.check(id)
	}
}

func (m *model) put(id int, sync bool) {
	meta, p := block(key(id), modelSize(id))
	err := put(m.s, meta, p, sync)
	f := m.fates[id]
	switch {
	case f == deleted && tnv.KindOf(err) == tnv.KindStale:
	case (f == held || f == durable) && tnv.KindOf(err) == tnv.KindExist:
		if sync {
			if err := m.s.SyncBlock(key(id)); err != nil {
				m.fail("sync block %d: %v", id, err)
			}
			m.fates[id] = durable
		}
	case f == absent && err == nil && sync:
		m.fates[id] = durable
	case f == absent && err == nil:
		m.fates[id] = held
	default:
		m.fail("put %d: %v, its fate is %d", id, err, f)
	}
}

func (m *model) check(id int) {
	f := m.fates[id]
	has := m.s.Has(key(id))
	if has != (f == held || f == durable) {
		m.fail("block %d: held %v, its fate is %d", id, has, f)
	}
	if !has {
		return
	}
	if err := m.s.Verify(key(id)); err != nil {
		m.fail("verify %d: %v", id, err)
	}
	got, err := read(m.s, key(id))
	if _, want := block(key(id), modelSize(id)); err != nil || !bytes.Equal(got, want) {
		m.fail("block %d differs: %v", id, err)
	}
}

func (m *model) reopen() {
	m.logf("reopen")
	if err := m.s.Close(); err != nil {
		m.fail("close: %v", err)
	}
	m.open(m.mem)
	m.settle(0)
}

// crash loses some of what was not synced, or nothing, as kill -9 does.
func (m *model) crash() {
	keep := []int{0, 0, 30, 70, 100, 100}[m.rng.IntN(6)]
	m.logf("crash, keep %d%%", keep)
	mem := m.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: keep, RNG: m.rng})
	m.s.Close()
	m.open(mem)
	m.settle(keep)
}

func (m *model) open(mem *vfs.MemFS) {
	m.mem = mem
	m.opt.FS = &faultFS{FS: mem}
	s, err := Open("d", m.opt)
	if err != nil {
		m.fail("open: %v", err)
	}
	m.s = s
}

// settle compares the store after a start with what it must and may hold.
func (m *model) settle(keep int) {
	for id := 1; id <= modelKeys; id++ {
		has := m.s.Has(key(id))
		switch f := m.fates[id]; {
		case f == held && has, f == absent && has: // absent: an aborted block may have been whole
			m.fates[id] = held
		case f == held && keep == 100:
			m.fail("block %d was committed and did not survive the process", id)
		case f == held:
			m.fates[id] = absent
		}
		m.check(id)
		if m.fates[id] == held { // recovery has put it on disk
			m.fates[id] = durable
		}
	}
}

func TestModel(t *testing.T) {
	for _, seed := range seeds(t, 12) {
		m := &model{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), fates: map[int]fate{}}
		mem := vfs.NewCrashableMem()
		m.opt = quiet(mem)
		m.opt.SegmentSize = 128 << 10
		if m.rng.IntN(2) == 0 {
			m.opt.Housekeeping = time.Millisecond
		}
		_, err := Init("d", "c", "g1", m.opt)
		ok(t, err)
		m.open(mem)
		for range 400 {
			m.step()
		}
		m.crash()
		m.s.Close()
	}
}

// Many at work at once, and the power goes at any moment.
func TestCrashUnderLoad(t *testing.T) {
	for _, seed := range seeds(t, 4) {
		rng := rand.New(rand.NewPCG(seed, 2))
		mem := vfs.NewCrashableMem()
		opt := quiet(&faultFS{FS: mem})
		opt.SegmentSize = 128 << 10
		opt.Housekeeping = time.Millisecond
		s := newStore(t, opt.FS, opt)
		l := load{acked: map[int]bool{}, intended: map[int]bool{}, gone: map[int]bool{}}
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for g := range 4 {
			r := rand.New(rand.NewPCG(seed, uint64(g+10)))
			wg.Go(func() { l.run(t, s, 1+g*100_000, r, stop) })
		}
		for range 3 {
			time.Sleep(time.Duration(20+rng.IntN(60)) * time.Millisecond)
			l.mu.Lock()
			acked, gone := clone(l.acked), clone(l.gone)
			l.mu.Unlock()
			crashed := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
			l.mu.Lock()
			intended := clone(l.intended)
			l.mu.Unlock()
			opt2 := opt
			opt2.FS = &faultFS{FS: crashed}
			opt2.Housekeeping = -1
			s2, err := Open("d", opt2)
			ok(t, err)
			for id := range acked {
				if !intended[id] && !s2.Has(key(id)) {
					t.Fatalf("TNV_SEED=%d: block %d was acknowledged with sync and is lost", seed, id)
				}
			}
			for id := range gone {
				if s2.Has(key(id)) {
					t.Fatalf("TNV_SEED=%d: block %d was deleted and came back", seed, id)
				}
			}
			verifyAll(t, s2)
			ok(t, s2.Close())
		}
		close(stop)
		wg.Wait()
		verifyAll(t, s)
		ok(t, s.Close())
	}
}

func clone(m map[int]bool) map[int]bool {
	out := map[int]bool{}
	for k := range m {
		out[k] = true
	}
	return out
}

func verifyAll(t *testing.T, s *Store) {
	t.Helper()
	list, _, err := s.List(1, 0, 0, 1<<20)
	ok(t, err)
	for _, b := range list {
		ok(t, s.Verify(tnv.BlockKey{Vol: 1, ID: b.Block}))
	}
}

type load struct {
	mu                    sync.Mutex
	acked, intended, gone map[int]bool
}

func (l *load) set(m map[int]bool, id int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m[id] = true
}

func (l *load) run(t *testing.T, s *Store, first int, r *rand.Rand, stop chan struct{}) {
	for id := first; ; id++ {
		select {
		case <-stop:
			return
		default:
		}
		meta, p := block(key(id), 200+r.IntN(12_000))
		sync := r.IntN(2) == 0
		if err := put(s, meta, p, sync); err != nil {
			t.Errorf("put: %v", err)
			return
		}
		if sync {
			l.set(l.acked, id)
		}
		if r.IntN(4) > 0 {
			old := first + r.IntN(id-first+1)
			l.set(l.intended, old)
			if err := s.Delete(ctx, 1, []tnv.BlockID{tnv.BlockID(old)}); err != nil {
				t.Errorf("delete: %v", err)
				return
			}
			l.set(l.gone, old)
		}
		if k := key(first + r.IntN(id-first+1)); s.Has(k) {
			if _, err := read(s, k); err != nil && tnv.KindOf(err) != tnv.KindMissing {
				t.Errorf("read: %v", err)
			}
		}
	}
}
