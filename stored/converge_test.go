package stored

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

func TestCatchUpAfterAbsence(t *testing.T) {
	k, n := group(t, 2)
	a, tracker := newAsker(t, k.key, protocol.RoleClient), newAsker(t, k.key, protocol.RoleTracker)
	for id := 1; id <= 20; id++ {
		a.mustPut(id, 5000*id, false, n[0], n[1].link())
	}
	n[1].stop()
	k.lose(n[1].d.node)
	for id := 21; id <= 30; id++ { // written in its absence
		a.mustPut(id, 5000*id, false, n[0])
	}
	a.mustPut(40, 5000, false, n[0]) // written, and dead by now
	a.mustPut(41, 5000, false, n[0]) // a deletion of it is pending
	k.do(func() {
		k.dead[bkey(40)] = protocol.DeadBlock
		k.dead[bkey(41)] = protocol.DeletingBlock
		k.lacking[n[1].d.node] = map[tnv.BlockKey]tnv.Home{bkey(25): {Ino: 7, Chunk: 25}, bkey(3): {Ino: 7, Chunk: 3}}
	})
	// Deleted everywhere: confirmed at the one that is here, delivered to the other when it is back.
	del := protocol.Delete{Node: n[0].d.node, Vol: 1, Blocks: []tnv.BlockID{1, 2}}
	if err := tracker.call(n[0].addr, protocol.TypeDelete, nil, &del); err != nil {
		t.Fatal(err)
	}
	back := startNode(t, k, n[1].cfg.Dir, func(c *Config) { *c = n[1].cfg })
	for id := 21; id <= 30; id++ {
		eventually(t, "a block is copied", func() bool { return back.has(bkey(id)) })
		if err := a.holds(back, id, 5000*id); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "held is told", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.lacking[back.d.node]) == 0 && k.held[back.d.node][bkey(30)] && k.held[back.d.node][bkey(3)]
	})
	// The one that stayed was told to delete 1 and 2, and its peer has them still.
	rounds(t, n[0], 3)
	rounds(t, back, 3)
	if n[0].has(bkey(1)) || n[0].has(bkey(2)) {
		t.Error("deleted blocks came back")
	}
	if back.has(bkey(40)) || back.has(bkey(41)) {
		t.Error("dead blocks were copied")
	}
	eventually(t, "behind is told as nothing", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		b := k.beats[back.d.node]
		return b.Blocks == 30 && b.BehindBlocks == 0 && b.BehindBytes == 0
	})
}

// A daemon that froze for a while, and was passed over by writers meanwhile,
// compares itself with its peers at once: in its map it never was away.
func TestCatchUpAfterFreeze(t *testing.T) {
	k, n := group(t, 2, func(c *Config) { c.ConvergeEvery, c.ConvergeGrace = time.Hour, 20*time.Millisecond })
	a := newAsker(t, k.key, protocol.RoleClient)
	eventually(t, "the start's comparisons are over", func() bool { return n[1].d.met.rounds.get() > 0 })
	id := lacksAtLeisure(t, n[1], func(id int) { a.mustPut(id, 5000, false, n[0]) })
	k.do(func() { time.Sleep(mostJitter + 200*time.Millisecond) }) // no heartbeat is answered
	eventually(t, "the block is copied", func() bool { return n[1].has(bkey(id)) })
}

// lacksAtLeisure puts a block, by its id, that a store does not have and does not
// look for. On a machine that is busy a heartbeat may take so long that the
// store looks all the same: then it takes another.
func lacksAtLeisure(t *testing.T, n *node, put func(id int)) int {
	t.Helper()
	for id := 1; id <= 20; id++ {
		put(id)
		time.Sleep(300 * time.Millisecond)
		if !n.has(bkey(id)) {
			return id
		}
	}
	t.Fatal("the store compares itself all the time")
	return 0
}

// A commit that comes behind the comparison may record a lack that it could not
// know of: the tracker tells, and it is seen to at once.
func TestCatchUpWhenTold(t *testing.T) {
	k, n := group(t, 2, func(c *Config) { c.ConvergeEvery, c.ConvergeGrace = time.Hour, 20*time.Millisecond })
	a := newAsker(t, k.key, protocol.RoleClient)
	eventually(t, "the start's comparisons are over", func() bool { return n[1].d.met.rounds.get() > 0 })
	a.mustPut(100, 5000, false, n[0], n[1].link()) // put here after all, and recorded as lacking
	id := lacksAtLeisure(t, n[1], func(id int) { a.mustPut(id, 5000, false, n[0]) })
	k.do(func() {
		k.lacking[n[1].d.node] = map[tnv.BlockKey]tnv.Home{bkey(id): {Ino: 7, Chunk: uint64(id)}, bkey(100): {Ino: 7, Chunk: 100}}
	})
	eventually(t, "the block is copied, and both are told as held", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return n[1].has(bkey(id)) && len(k.lacking[n[1].d.node]) == 0
	})
}

// rounds waits until a node has compared itself n times more.
func rounds(t *testing.T, n *node, more uint64) {
	t.Helper()
	want := n.d.met.rounds.get() + more
	eventually(t, "comparison with the peers", func() bool { return n.d.met.rounds.get() >= want })
}

func TestDeletionNotComingBackFromTombstone(t *testing.T) {
	k, n := group(t, 2)
	a, tracker := newAsker(t, k.key, protocol.RoleClient), newAsker(t, k.key, protocol.RoleTracker)
	a.mustPut(1, 5000, true, n[0], n[1].link())
	if err := tracker.call(n[0].addr, protocol.TypeDelete, nil, &protocol.Delete{Node: n[0].d.node, Vol: 1, Blocks: []tnv.BlockID{1}}); err != nil {
		t.Fatal(err)
	}
	// The tracker says that it lives (in doubt, it always does): the tombstone stands.
	rounds(t, n[0], 4)
	if n[0].has(bkey(1)) {
		t.Fatal("a deleted block came back from a peer")
	}
}

func TestRefillOfWipedStore(t *testing.T) {
	k, n := group(t, 2)
	a := newAsker(t, k.key, protocol.RoleClient)
	const blocks = 1500 // more than a range that is listed at once
	for id := 1; id <= blocks; id++ {
		a.mustPut(id*1000, 4096, false, n[0], n[1].link())
	}
	n[1].stop()
	k.lose(n[1].d.node)
	if err := os.RemoveAll(n[1].cfg.Dir); err != nil {
		t.Fatal(err)
	}
	fresh := startNode(t, k, n[1].cfg.Dir)
	if fresh.d.node == n[1].d.node {
		t.Fatal("a wiped store came back under its old id")
	}
	eventually(t, "refill", func() bool { return fresh.d.usage().Blocks == blocks })
	for id := 1; id <= blocks; id += 97 {
		if err := a.holds(fresh, id*1000, 4096); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all are told as held", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.held[fresh.d.node]) == blocks
	})
}

func TestBehindIsTold(t *testing.T) {
	k, n := group(t, 2, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	for id := 1; id <= 3; id++ {
		a.mustPut(id, 5000, false, n[0])
	}
	n[1].stop()
	full := func(c *Config) {
		*c = n[1].cfg
		c.ConvergeEvery, c.ConvergeGrace = 100*time.Millisecond, time.Millisecond
	}
	back := startNodeWith(t, k, n[1].cfg.Dir, trouble{create: tnv.E("create", tnv.KindNoSpace, "full")}, full)
	eventually(t, "behind is told", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		b := k.beats[back.d.node]
		return b.Boot == back.d.boot && b.BehindBlocks == 3 && b.BehindBytes == 15000
	})
	back.fail.set(trouble{})
	eventually(t, "whole again", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		b := k.beats[back.d.node]
		return b.Blocks == 3 && b.BehindBlocks == 0
	})
}

// Held is told until a tracker has taken it.
func TestHeldUntilAcknowledged(t *testing.T) {
	k, n := group(t, 2)
	a := newAsker(t, k.key, protocol.RoleClient)
	k.do(func() { k.noHelds = true })
	a.mustPut(1, 5000, false, n[0], n[1].link())
	k.do(func() { k.lacking[n[1].d.node] = map[tnv.BlockKey]tnv.Home{bkey(1): {Ino: 7, Chunk: 1}} })
	rounds(t, n[1], 2)
	k.do(func() {
		if len(k.lacking[n[1].d.node]) != 1 {
			t.Error("the fake is no judge")
		}
		k.noHelds = false
	})
	eventually(t, "held is acknowledged", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.lacking[n[1].d.node]) == 0
	})
}

func TestRepairFromPeer(t *testing.T) {
	k, n := group(t, 2, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	for id := 1; id <= 3; id++ {
		a.mustPut(id, 300_000, true, n[0], n[1].link())
	}
	k.do(func() { k.dead[bkey(3)] = protocol.DeadBlock })
	for _, id := range []int{2, 3} {
		flip(t, n[0], bkey(id), 150_000)
		if err := a.holds(n[0], id, 300_000); tnv.KindOf(err) != tnv.KindCorrupt {
			t.Fatalf("the bit is not flipped: %v", err)
		}
	}
	for range 3 { // told more than once, looked at once
		for _, id := range []int{1, 2, 3} {
			if err := a.call(n[0].addr, protocol.TypeRepair, nil, &protocol.Repair{Key: bkey(id)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "the block is mended", func() bool { return a.holds(n[0], 2, 300_000) == nil })
	eventually(t, "it is told", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		b := k.beats[n[0].d.node]
		return b.CorruptBlocks == 2 && b.MendedBlocks == 1 && k.held[n[0].d.node][bkey(2)]
	})
	if err := a.holds(n[0], 3, 300_000); tnv.KindOf(err) != tnv.KindCorrupt {
		t.Errorf("a damaged block that is dead was mended: %v", err)
	}
	if err := n[0].d.store.Verify(bkey(1)); err != nil {
		t.Errorf("a block that is well: %v", err)
	}
}

func TestRepairOfMissing(t *testing.T) {
	k, n := group(t, 2, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	a.mustPut(1, 300_000, true, n[0])
	if err := a.call(n[1].addr, protocol.TypeRepair, nil, &protocol.Repair{Key: bkey(1), Home: tnv.Home{Ino: 7, Chunk: 1}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the block is copied", func() bool { return a.holds(n[1], 1, 300_000) == nil })
}

// A bad block that no peer has stays: a part of it may be right.
func TestRepairWithoutPeerKeepsWhatThereIs(t *testing.T) {
	k, n := group(t, 1, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	a.mustPut(1, 300_000, true, n[0])
	flip(t, n[0], bkey(1), 150_000)
	if err := a.call(n[0].addr, protocol.TypeRepair, nil, &protocol.Repair{Key: bkey(1)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is seen", func() bool { return n[0].d.met.corrupt.get() == 1 })
	time.Sleep(4 * repairPause) // it is tried again meanwhile
	if !n[0].has(bkey(1)) || n[0].d.met.mended.get() != 0 {
		t.Error("the only copy was thrown away")
	}
}

// A peer whose copy is bad is not copied from, and is told.
func TestCopyFromBadPeer(t *testing.T) {
	k, n := group(t, 3, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	a.mustPut(1, 300_000, true, n[0], n[1].link(), n[2].link())
	flip(t, n[0], bkey(1), 10)
	flip(t, n[1], bkey(1), 200_000)
	if err := a.call(n[0].addr, protocol.TypeRepair, nil, &protocol.Repair{Key: bkey(1)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are mended", func() bool {
		return a.holds(n[0], 1, 300_000) == nil && a.holds(n[1], 1, 300_000) == nil
	})
}

func TestScrub(t *testing.T) {
	k, n := group(t, 2, quiet, func(c *Config) { c.ScrubPeriod = 300 * time.Millisecond })
	a := newAsker(t, k.key, protocol.RoleClient)
	for id := 1; id <= 5; id++ {
		a.mustPut(id, 300_000, true, n[0], n[1].link())
	}
	flip(t, n[1], bkey(4), 299_999)
	eventually(t, "the scrubber finds and mends it", func() bool {
		return n[1].d.met.mended.get() == 1 && a.holds(n[1], 4, 300_000) == nil
	})
	n[1].stop()
	if _, err := os.Stat(filepath.Join(n[1].cfg.Dir, scrubFile)); err != nil {
		t.Errorf("the scrubber's place is not kept: %v", err)
	}
}

// A pass that is asked for reads everything at once, tells how far it is, and
// names what it found; the period begins anew behind it.
func TestScrubNow(t *testing.T) {
	k, n := group(t, 2, quiet)
	a, tool := newAsker(t, k.key, protocol.RoleClient), newAsker(t, k.key, protocol.RoleTool)
	for id := 1; id <= 5; id++ {
		a.mustPut(id, 300_000, true, n[0], n[1].link())
	}
	flip(t, n[1], bkey(4), 299_999)
	ask := func(now bool) (rep protocol.ScrubReply) {
		t.Helper()
		if err := tool.call(n[1].addr, protocol.TypeScrub, &rep, &protocol.Scrub{Now: now}); err != nil {
			t.Fatal(err)
		}
		return rep
	}
	if rep := ask(false); rep.Hurried || rep.Blocks > 1 || len(rep.Found) > 0 {
		t.Fatalf("before: %+v", rep)
	}
	for range 2 { // the second one finds all well
		before := ask(false).Passes
		ask(true)
		eventually(t, "the pass is over", func() bool { r := ask(false); return !r.Hurried && r.Passes > before && r.Waiting == 0 })
	}
	rep := ask(false)
	if len(rep.Found) != 1 || rep.Found[0].Key != bkey(4) || rep.Found[0].Home.Ino != 7 || !rep.Found[0].Mended || rep.Found[0].Why == "" {
		t.Fatalf("found: %+v", rep.Found)
	}
	if err := a.holds(n[1], 4, 300_000); err != nil || n[1].d.met.mended.get() != 1 {
		t.Fatalf("%d mended: %v", n[1].d.met.mended.get(), err)
	}
}

// While a client reads, what peers copy goes at a small part of the rate; when
// it has gone, at all of it.
func TestCopyingYieldsToViewers(t *testing.T) {
	const rate = 64 << 20
	k, n := group(t, 1, quiet, func(c *Config) { c.CopyRate = rate })
	a := newAsker(t, k.key, protocol.RoleClient)
	for id := 1; id <= 12; id++ {
		a.mustPut(id, 4<<20, true, n[0])
	}
	watch, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-watch:
				return
			case <-time.After(50 * time.Millisecond):
				a.get(n[0].addr, protocol.Get{Key: bkey(1), Len: 4096})
			}
		}
	}()
	time.Sleep(200 * time.Millisecond)
	empty := startNode(t, k, t.TempDir(), func(c *Config) { c.CopyRate = rate })
	began := time.Now()
	eventually(t, "some is copied", func() bool { return empty.d.usage().Blocks >= 4 })
	time.Sleep(time.Until(began.Add(1500 * time.Millisecond)))
	// A second's worth at once, and 8 MiB/s; four more may be on their way.
	if got, most := empty.d.usage().Blocks, uint64(2+3+4); got > most {
		t.Errorf("%d of 12 blocks in %v beside a viewer, at most %d", got, time.Since(began), most)
	}
	if _, bytes := empty.d.behind.get(); bytes == 0 || empty.d.behind.rate(time.Now()) == 0 {
		t.Errorf("%d bytes behind, at %d bytes/s", bytes, empty.d.behind.rate(time.Now()))
	}
	close(watch)
	<-ended
	began = time.Now()
	eventually(t, "all is copied", func() bool { return empty.d.usage().Blocks == 12 })
	t.Logf("the rest took %v without a viewer", time.Since(began))
	eventually(t, "nothing is behind", func() bool { b, _ := empty.d.behind.get(); return b == 0 && empty.d.behind.rate(time.Now()) == 0 })
}

// flip turns a bit of a block at rest.
func flip(t *testing.T, n *node, key tnv.BlockKey, at int64) {
	t.Helper()
	r, err := n.d.store.Open(key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ro, off := r.File()
	f, err := os.OpenFile(ro.Name(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off+at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b, off+at); err != nil {
		t.Fatal(err)
	}
}
