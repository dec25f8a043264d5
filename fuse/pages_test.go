package fuse

import (
	"context"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
)

func regular(data uint64, mtime int64) *tnv.Attr {
	return &tnv.Attr{Ino: 5, Mode: tnv.TypeRegular.Mode(), Data: data, Version: data, Mtime: mtime}
}

// known is the state of a file that the kernel has known for long.
func knownPages(handles int) *pages {
	p := &pages{inodes: map[tnv.Ino]*inode{}}
	p.entered(regular(1, 100))
	for range handles {
		p.open(context.Background(), regular(1, 100), false, false)
	}
	return p
}

// TestPages walks through the cases that caching.go names, without a kernel
// whose timing hides them.
func TestPages(t *testing.T) {
	tells := func(p *pages, a *tnv.Attr) bool { drop, _ := p.tells(a); return drop }
	firm := func(p *pages, a *tnv.Attr) bool { _, firm := p.tells(a); return firm }
	cases := []struct {
		name         string
		handles      int
		do           func(p *pages) bool
		drop, behind bool
	}{
		{"nothing new", 0, func(p *pages) bool { return tells(p, regular(1, 100)) }, false, false},
		{"new, new mtime", 0, func(p *pages) bool { return tells(p, regular(2, 200)) }, true, true},
		{"new, same mtime", 0, func(p *pages) bool { return tells(p, regular(2, 100)) }, true, true},
		{"being dropped", 0, func(p *pages) bool { tells(p, regular(2, 200)); return tells(p, regular(3, 300)) }, false, true},
		{"overtaken", 1, func(p *pages) bool { tells(p, regular(3, 300)); return tells(p, regular(2, 200)) }, false, true},
		{"open", 1, func(p *pages) bool { return tells(p, regular(2, 200)) }, false, true},
		{"closed", 1, func(p *pages) bool { tells(p, regular(2, 200)); return p.closed(5, false) }, true, true},
		{"one of two closed", 2, func(p *pages) bool { tells(p, regular(2, 200)); return p.closed(5, false) }, false, true},
		{"seen by nobody who reads", 1, func(p *pages) bool { p.sees(regular(2, 200)); return p.quiet(5) }, true, true},
		{"seen by a reader a moment ago", 1, func(p *pages) bool {
			p.sees(regular(2, 200))
			p.wrongMtime(regular(2, 200), 200)
			return p.quiet(5)
		}, false, true},
	}
	for _, c := range cases {
		p := knownPages(c.handles)
		if drop := c.do(p); drop != c.drop || p.inodes[5].behind != c.behind {
			t.Errorf("%s: drop %v, behind %v; want %v, %v", c.name, drop, p.inodes[5].behind, c.drop, c.behind)
		}
		now := regular(p.seen(5), 300)
		if c.behind && firm(p, now) {
			t.Errorf("%s: attributes may be believed while the pages are behind", c.name)
		}
		if p.dropped(5, p.seen(5), true) || p.inodes[5].behind {
			t.Errorf("%s: behind after the pages were dropped", c.name)
		}
		if c.behind && firm(p, now) {
			t.Errorf("%s: attributes may be believed before the first that told so can be with the kernel", c.name)
		}
		p.inodes[5].toldAt = p.inodes[5].toldAt.Add(-settling)
		if !firm(p, now) {
			t.Errorf("%s: attributes may not be believed, for ever", c.name)
		}
	}
	p := knownPages(0)
	p.tells(regular(2, 100))
	p.tells(regular(3, 100))
	if !p.dropped(5, 2, true) || !p.inodes[5].behind { // begun before version 3 was seen
		t.Error("a notification that came too early counts")
	}
	if p.dropped(5, 3, false) || !p.inodes[5].behind {
		t.Error("a notification that could not be sent counts")
	}
}

// TestWrongMtime: each reader of a file whose pages are behind is told another
// mtime, until settling is over, and then the true one, which is not to be believed
// by that reply.
func TestWrongMtime(t *testing.T) {
	p := knownPages(1)
	ask := func(a *tnv.Attr) (uint32, bool) { return p.wrongMtime(a, 100) }
	if nsec, wrong := ask(regular(1, 100)); wrong || nsec != 100 {
		t.Error("wrong with nothing new")
	}
	p.sees(regular(2, 100))
	told := map[uint32]bool{100: true}
	for range 100 {
		nsec, wrong := ask(regular(2, 100))
		if !wrong || told[nsec] {
			t.Fatalf("told %d, wrong %v", nsec, wrong)
		}
		told[nsec] = true
	}
	p.inodes[5].asked = p.inodes[5].asked.Add(-settling)
	if nsec, wrong := ask(regular(1, 100)); !wrong || told[nsec] {
		t.Error("a reply that was overtaken ends it")
	}
	if nsec, wrong := ask(regular(2, 100)); !wrong || nsec != 100 {
		t.Errorf("at the end %d, wrong %v", nsec, wrong)
	}
	if nsec, wrong := ask(regular(2, 100)); wrong || nsec != 100 {
		t.Errorf("after the end %d, wrong %v", nsec, wrong)
	}
}

// TestKeep: pages are kept only of the version that they are known to be of.
func TestKeep(t *testing.T) {
	p := knownPages(0)
	want := func(what string, a *tnv.Attr, writable, want bool) {
		t.Helper()
		if keep := p.open(context.Background(), a, writable, false); keep != want {
			t.Errorf("%s: keep %v", what, keep)
		}
	}
	want("first open", regular(1, 100), false, false)
	want("second open", regular(1, 100), false, true)
	want("changed", regular(2, 200), false, false)
	want("not dropped yet", regular(2, 200), false, false)
	p.dropped(5, 2, true)
	want("an overtaken reply", regular(1, 100), false, false)
	want("unchanged", regular(2, 200), false, true)
	want("for writing", regular(2, 200), true, true)
	want("while it is open for writing", regular(2, 200), false, false)
	p.closed(5, true)
	want("first open after it", regular(2, 200), false, false)
	want("second open after it", regular(2, 200), false, true)
	p.tells(regular(3, 200))
	want("stale", regular(3, 200), false, false)
	p.forget(5, 1)
	if p.len() != 0 {
		t.Error("not forgotten")
	}
	p.entered(regular(3, 200))
	want("known anew", regular(3, 200), false, false)
}

// took is how long f takes.
func took(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// TestOpening: an OPEN waits until the pages are dropped, and no longer than it may.
func TestOpening(t *testing.T) {
	p := knownPages(0)
	open := func() { p.open(context.Background(), regular(2, 200), false, false); p.inodes[5].handles = 0 }
	if d := took(open); d > maxOpening/2 {
		t.Errorf("nothing to wait for: %v", d)
	}
	p.tells(regular(2, 200))
	if d := took(open); d < maxOpening {
		t.Errorf("the pages stay: %v", d)
	}
	go func() {
		time.Sleep(10 * time.Millisecond)
		p.dropped(5, 2, true)
	}()
	if d := took(open); d > maxOpening/2 {
		t.Errorf("the pages are dropped: %v", d)
	}
}

// TestDrain: a recall waits for the READs that are under way, and no longer than it may.
func TestDrain(t *testing.T) {
	p := knownPages(1)
	drain := func() { p.drain(5) }
	if d := took(drain); d > maxDraining/2 {
		t.Errorf("nothing to wait for: %v", d)
	}
	one, two := p.reading(5), p.reading(5)
	if d := took(drain); d < maxDraining {
		t.Errorf("READs are under way, and it took %v", d)
	}
	one()
	late := p.reading(5)
	go func() {
		time.Sleep(10 * time.Millisecond)
		two()
		late()
	}()
	if d := took(drain); d < 10*time.Millisecond || d > maxDraining/2 {
		t.Errorf("READs end, and it took %v", d)
	}
	if in := p.inodes[5]; len(in.drained) > 0 {
		t.Error("what is over is waited for")
	}
	p.reading(5)()
	if d := took(drain); d > maxDraining/2 {
		t.Errorf("READs are over: %v", d)
	}
}

func TestTimeRange(t *testing.T) {
	for _, ns := range []int64{0, 1, -1, -1e9, -1e9 - 1, 1<<63 - 1, -1 << 63} {
		sec, nsec := seconds(ns)
		got := nanoseconds(sec, nsec)
		if nsec >= 1e9 || got != ns && ns > -1<<62 && ns < 1<<62 {
			t.Errorf("%d: %d.%09d, back %d", ns, int64(sec), nsec, got)
		}
	}
	if nanoseconds(1<<62, 0) != 1<<63-1 || nanoseconds(1<<63, 0) != -1<<63 {
		t.Error("times that cannot be told are not the nearest that can")
	}
}

func TestKillPending(t *testing.T) {
	for text, want := range map[string][2]bool{
		"Name:\tcat\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n": {true, true},
		"SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n":             {true, true},
		"SigPnd:\t0000000000400002\nShdPnd:\t0000000000000000\n":             {false, true},
		"Name:\tSigPnd\n": {false, false},
		"SigPnd:\tx\n":    {false, false},
	} {
		if dying, known := killPending([]byte(text)); dying != want[0] || known != want[1] {
			t.Errorf("%q: %v, %v", text, dying, known)
		}
	}
}

// TestShort: while a file is cut here, the kernel is told that it ends no sooner than
// it can believe it.
func TestShort(t *testing.T) {
	p := &pages{inodes: map[tnv.Ino]*inode{}}
	a := regular(1, 100)
	a.Size = 32
	p.entered(a)
	short := func(end uint64, arrived time.Time) time.Duration {
		return took(func() { p.short(context.Background(), 5, end, arrived) })
	}
	if d := short(0, time.Now()); d > takenIn/2 {
		t.Errorf("nobody cuts it: %v", d)
	}
	done := p.cutting(5)
	early := time.Now()
	time.AfterFunc(10*time.Millisecond, done)
	if d := short(0, early); d < settling+5*time.Millisecond || d > maxOpening {
		t.Errorf("asked for before the reply: %v", d)
	}
	if d := short(0, early); d > takenIn/2 {
		t.Errorf("long after the reply: %v", d)
	}
	p.cutting(5)()
	if d := short(32, early); d > takenIn/2 {
		t.Errorf("it is not short: %v", d)
	}
	if d := short(0, time.Now()); d < takenIn/2 || d > settling/2 {
		t.Errorf("asked for behind the reply: %v", d)
	}
	p.cutting(5)
	if d := short(0, time.Now()); d < maxOpening || d > 2*maxOpening {
		t.Errorf("the owner does not answer: %v", d)
	}
}
