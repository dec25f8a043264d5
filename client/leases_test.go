package client

import (
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/clock"
	"github.com/tnvfs/tnv/protocol"
)

// leaseHarness is a lease cache with an owner that says what it wants.
type leaseHarness struct {
	t *testing.T
	l *leaseCache
	w *fakeWatcher
}

type fakeWatcher struct{ told []protocol.LeaseKey }

func (w *fakeWatcher) Invalidate(keys []protocol.LeaseKey) { w.told = append(w.told, keys...) }
func (w *fakeWatcher) Recalled(keys []protocol.LeaseKey)   { w.told = append(w.told, keys...) }
func (w *fakeWatcher) InvalidateAll()                      {}

func newLeaseHarness(t *testing.T) *leaseHarness {
	h := &leaseHarness{t, newLeaseCache(0), &fakeWatcher{}}
	var w Watcher = h.w
	h.l.watcher.Store(&w)
	h.l.began(nil, &protocol.SessionInfo{LeaseGen: 1, LeaseMs: 60_000}, clock.Boot())
	return h
}

// reply is what came with an answer of the state behind a batch, to a request
// that was sent at m.
func reply(m mark, seq tnv.BatchSeq, keys ...protocol.LeaseKey) *told {
	return &told{m, protocol.Leased{Gen: 1, Seq: seq, Keys: keys}}
}

func version(ino tnv.Ino, v uint64) tnv.Attr { return tnv.Attr{Ino: ino, Version: v, Nlink: 1} }

// attr checks what is believed of inode 5; version 0: nothing.
func (h *leaseHarness) attr(what string, want uint64) {
	h.t.Helper()
	if a, _ := h.l.attr(5); a.Version != want {
		h.t.Errorf("%s: version %d is believed, want %d", what, a.Version, want)
	}
}

// name checks what is believed of name f in directory 3: -1 is nothing.
func (h *leaseHarness) name(what string, want int) {
	h.t.Helper()
	ino, known := h.l.lookup(3, "f")
	got := int(ino)
	if !known {
		got = -1
	}
	if got != want {
		h.t.Errorf("%s: %d is believed, want %d", what, got, want)
	}
}

func TestLeasedAttributes(t *testing.T) {
	h := newLeaseHarness(t)
	l := h.l
	l.takeAttr(reply(l.mark(), 1), version(5, 1))
	h.attr("not leased", 0)
	l.takeAttr(reply(l.mark(), 1, attrKey(5)), version(5, 1))
	h.attr("leased", 1)
	before := l.mark()
	l.recall([]protocol.LeaseKey{attrKey(5)})
	h.attr("recalled", 0)
	l.takeAttr(reply(before, 1, attrKey(5)), version(5, 1))
	h.attr("an answer to a request from before the recall", 0)
	l.takeAttr(reply(l.mark(), 2, attrKey(5)), version(5, 2))
	l.takeAttr(reply(l.mark(), 1, attrKey(5)), version(5, 1))
	h.attr("an answer that was overtaken", 2)
	old := l.mark()
	l.drop()
	h.attr("the connection is lost", 0)
	l.began(nil, &protocol.SessionInfo{LeaseGen: 1, LeaseMs: 60_000}, clock.Boot())
	l.takeAttr(reply(old, 2, attrKey(5)), version(5, 2))
	h.attr("an answer from the connection before, of a generation of the same number", 0)
}

func TestLeasesLapse(t *testing.T) {
	h := newLeaseHarness(t)
	l := h.l
	l.began(nil, &protocol.SessionInfo{LeaseGen: 1, LeaseMs: 60}, clock.Boot())
	l.takeAttr(reply(l.mark(), 1, attrKey(5)), version(5, 1))
	if d := l.left(5, 1); d <= 0 || d > 60*time.Millisecond {
		t.Errorf("%v are left of 60 ms", d)
	}
	if l.left(5, 2) != 0 {
		t.Error("another version's attributes are leased")
	}
	l.renewed(nil, 1, clock.Boot()-70*time.Millisecond) // it took long to be answered
	time.Sleep(70 * time.Millisecond)
	h.attr("lapsed", 0)
	if l.renewed(nil, 1, clock.Boot()) {
		t.Error("the same generation counts as a new one")
	}
	h.attr("renewed, and not passed over", 1)
	if !l.renewed(nil, 2, clock.Boot()) {
		t.Error("a new generation does not count as one")
	}
	h.attr("of a generation that has lapsed", 0)
}

// What a mutation of this client's own may change is not believed while it is on
// its way, and answers from before it never are afterwards.
func TestFlights(t *testing.T) {
	h := newLeaseHarness(t)
	l := h.l
	l.takeAttr(reply(l.mark(), 1, attrKey(5)), version(5, 1))
	before := l.mark()
	fl := l.fly([]tnv.Ino{5})
	if len(h.w.told) != 1 || h.w.told[0] != attrKey(5) {
		t.Errorf("told above: %v", h.w.told)
	}
	h.attr("in flight", 0)
	with := reply(l.mark(), 2)
	with.leased.Attrs = []tnv.Attr{version(5, 2)}
	fl.take(with)
	h.attr("answered, and not landed", 0)
	fl.land()
	h.attr("landed", 2) // the lease from before it holds
	l.takeAttr(reply(before, 1, attrKey(5)), version(5, 1))
	h.attr("an older answer", 2)

	fl = l.fly([]tnv.Ino{5})
	before = l.mark()
	fl.land()
	h.attr("nobody knows what came of it", 0)
	l.takeAttr(reply(before, 1, attrKey(5)), version(5, 1))
	h.attr("an answer from before that", 0)

	l.takeAttr(reply(l.mark(), 3, attrKey(5)), version(5, 3))
	fl = l.fly([]tnv.Ino{5})
	fl.failed()
	fl.land()
	h.attr("refused: nothing has changed", 3)

	// The owner's answer leases nothing, since others want it: an answer from before
	// is not to fill the gap with what was.
	l.recall([]protocol.LeaseKey{attrKey(5)})
	before = l.mark()
	fl = l.fly([]tnv.Ino{5})
	with = reply(l.mark(), 4)
	with.leased.Attrs = []tnv.Attr{version(5, 4)}
	fl.take(with)
	fl.land()
	l.takeAttr(reply(before, 3, attrKey(5)), version(5, 3))
	h.attr("an older answer behind one without a lease", 0)
}

func TestLeasedNames(t *testing.T) {
	h := newLeaseHarness(t)
	l := h.l
	h.name("nothing", -1)
	l.takeName(reply(l.mark(), 1), 3, "f", 0)
	h.name("not leased", -1)
	l.takeName(reply(l.mark(), 1, namesKey(3)), 3, "f", 0)
	h.name("not there", 0)
	if l.namesLeft(3) != 0 {
		t.Error("names that are shared are believed above")
	}
	before := l.mark()
	fl := l.fly(nil, nameKey{3, "f"})
	h.name("being made", -1)
	with := reply(l.mark(), 2)
	with.leased.Attrs = []tnv.Attr{version(5, 2), version(3, 2)}
	fl.take(with, 5)
	fl.land()
	h.name("made", 5)
	l.takeName(reply(before, 1, namesKey(3)), 3, "f", 0)
	h.name("an older answer", 5)
	before = l.mark()
	l.recall([]protocol.LeaseKey{namesKey(3)})
	h.name("recalled", -1)
	l.takeName(reply(before, 2, namesKey(3)), 3, "f", 5)
	h.name("an answer from before the recall", -1)
	l.takeName(reply(l.mark(), 3, protocol.LeaseKey{Ino: 3, Class: protocol.LeaseSole}), 3, "f", 5)
	h.name("leased alone", 5)
	if l.namesLeft(3) == 0 {
		t.Error("names that are leased alone are not believed above")
	}

	// A mutation in a directory that is not known: answers from before it may not
	// make it known as it was.
	l.recall([]protocol.LeaseKey{namesKey(3)})
	before = l.mark()
	fl = l.fly(nil, nameKey{3, "f"})
	fl.take(reply(l.mark(), 4), 0)
	fl.land()
	l.takeName(reply(before, 3, namesKey(3)), 3, "f", 5)
	h.name("an older answer behind a mutation", -1)
}

func TestLeasedListing(t *testing.T) {
	h := newLeaseHarness(t)
	l := h.l
	entries := []tnv.Dirent{{Name: "a", Ino: 10, Cookie: 100}, {Name: "b", Ino: 11, Cookie: 200}, {Name: "c", Ino: 12, Cookie: 200}, {Name: "d", Ino: 13, Cookie: 300}}
	pages := func(seq tnv.BatchSeq, at int, between func()) {
		dir := version(3, uint64(seq))
		first := protocol.ReadDirReply{Dir: dir, Entries: entries[:at]}
		l.takePage(reply(l.mark(), seq, namesKey(3), attrKey(3)), &protocol.ReadDir{Ino: 3}, &first)
		between()
		rest := protocol.ReadDirReply{Dir: dir, Entries: entries[at:], End: true}
		l.takePage(reply(l.mark(), seq, namesKey(3), attrKey(3)), &protocol.ReadDir{Ino: 3, Cookie: entries[at-1].Cookie}, &rest)
	}
	listed := func() bool {
		_, known := l.list(&protocol.ReadDir{Ino: 3, Limit: 10})
		return known
	}
	pages(1, 1, func() { l.recall([]protocol.LeaseKey{namesKey(3)}) })
	if listed() {
		t.Error("a listing that was recalled half-way is believed")
	}
	pages(2, 1, func() { l.fly(nil, nameKey{3, "x"}).land() })
	if listed() {
		t.Error("a listing in which this client made something half-way is believed")
	}
	pages(3, 3, func() {})
	if !listed() {
		t.Fatal("a listing under one lease is not believed")
	}
	if ino, known := l.lookup(3, "zzz"); !known || ino != 0 {
		t.Error("a name that is not in it is not known not to be there")
	}
	rep, _ := l.list(&protocol.ReadDir{Ino: 3, Cookie: 100, Limit: 1})
	if len(rep.Entries) != 2 || rep.End {
		t.Errorf("entries of one cookie are parted: %v", rep)
	}
	rep, _ = l.list(&protocol.ReadDir{Ino: 3, Cookie: 200, Limit: 1})
	if len(rep.Entries) != 1 || !rep.End {
		t.Errorf("the last entry: %v", rep)
	}
	fl := l.fly(nil, nameKey{3, "a"})
	if listed() {
		t.Error("a listing is believed with a removal under way")
	}
	fl.take(reply(l.mark(), 9), 0)
	fl.land()
	if listed() {
		t.Error("the listing from before a removal is believed")
	}
	pages(8, 3, func() {}) // as it was before the removal
	if listed() {
		t.Error("a listing that was overtaken by a removal is believed")
	}
}

// The cache keeps within its bounds, and what it lost is not taken from answers
// that are older than what it had.
func TestLeaseBounds(t *testing.T) {
	h := newLeaseHarness(t)
	l := h.l
	for ino := tnv.Ino(100); ino < tnv.Ino(100+3*l.max); ino++ {
		l.takeAttr(reply(l.mark(), 1, attrKey(ino)), version(ino, 1))
		l.takeName(reply(l.mark(), 1, namesKey(ino/50)), ino/50, string(rune(ino)), ino)
	}
	if len(l.attrs) > l.max || l.names > namesPerAttr*l.max || len(l.recalled) > maxRecalled+1 {
		t.Errorf("%d attributes, %d names, %d recalls; at most %d attributes", len(l.attrs), l.names, len(l.recalled), l.max)
	}
	n := 0
	for _, d := range l.dirs {
		n += len(d.names)
	}
	if n != l.names {
		t.Errorf("%d names are counted, there are %d", l.names, n)
	}
}

// TestContested: an inode is contested while others take its lease back, or the owner
// leases it to nobody.
func TestContested(t *testing.T) {
	l := newLeaseCache(64 << 20)
	l.gen = 1
	if l.contested(5) {
		t.Error("nobody has touched it")
	}
	l.recall([]protocol.LeaseKey{attrKey(5), namesKey(6)})
	if !l.contested(5) || l.contested(6) {
		t.Error("a recall of attributes makes contested, and of nothing else")
	}
	refused := told{mark: l.mark(), leased: protocol.Leased{Gen: 1}}
	l.takeAttr(&refused, tnv.Attr{Ino: 7, Version: 1})
	if !l.contested(7) {
		t.Error("the owner does not lease it")
	}
	l.wanted[7] = rivalry{at: l.wanted[7].at - wantedFor}
	if l.contested(7) || len(l.wanted) != 1 {
		t.Error("contested for ever")
	}
	l.until = clock.Boot() + time.Hour
	granted := told{mark: l.mark(), leased: protocol.Leased{Gen: 1, Keys: []protocol.LeaseKey{attrKey(9)}}}
	l.takeAttr(&granted, tnv.Attr{Ino: 9, Version: 1, Data: 1})
	l.recall([]protocol.LeaseKey{attrKey(9)})
	granted.mark = l.mark()
	l.takeAttr(&granted, tnv.Attr{Ino: 9, Version: 2, Data: 1})
	if l.contested(9) {
		t.Error("another mount changed its mode")
	}
	l.recall([]protocol.LeaseKey{attrKey(9)})
	granted.mark = l.mark()
	l.takeAttr(&granted, tnv.Attr{Ino: 9, Version: 3, Data: 3})
	if !l.contested(9) {
		t.Error("another mount changed its content")
	}
	early := told{mark: l.mark(), leased: protocol.Leased{Gen: 1}}
	l.fly([]tnv.Ino{8}).land()
	l.takeAttr(&early, tnv.Attr{Ino: 8, Version: 1})
	if l.contested(8) {
		t.Error("what this client's own mutation took back")
	}
}
