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

// TestPages walks through the cases that caching.go names, without a kernel
// whose timing hides them.
func TestPages(t *testing.T) {
	fresh := func() *pages {
		p := &pages{inodes: map[tnv.Ino]*inode{}}
		p.entered(regular(1, 100))
		return p
	}
	stale := func(p *pages) bool { return p.mtimeForRead(5, 100) != 100 }
	cases := []struct {
		name        string
		do          func(p *pages) bool
		drop, stale bool
	}{
		{"nothing new", func(p *pages) bool { return p.told(regular(1, 100)) }, false, false},
		{"new, new mtime", func(p *pages) bool { return p.told(regular(2, 200)) }, true, true},
		{"new, same mtime", func(p *pages) bool { return p.told(regular(2, 100)) }, true, true},
		{"two new ones", func(p *pages) bool { p.told(regular(2, 200)); return p.told(regular(3, 300)) }, true, true},
		{"overtaken", func(p *pages) bool { p.told(regular(3, 300)); return p.told(regular(2, 200)) }, false, true},
		{"learnt by OPEN", func(p *pages) bool { _, drop := p.open(regular(2, 100), false); return drop }, true, true},
	}
	for _, c := range cases {
		p := fresh()
		if drop := c.do(p); drop != c.drop || stale(p) != c.stale {
			t.Errorf("%s: drop %v, stale %v; want %v, %v", c.name, drop, stale(p), c.drop, c.stale)
		}
		p.dropped(5, p.seen(5))
		if stale(p) {
			t.Errorf("%s: stale after the pages were dropped", c.name)
		}
	}
	p := fresh()
	p.told(regular(2, 100))
	p.dropped(5, 1) // begun before version 2 was seen
	if !stale(p) {
		t.Error("a notification that came too early counts")
	}
}

// TestKeep: pages are kept only of the version that they are known to be of.
func TestKeep(t *testing.T) {
	p := &pages{inodes: map[tnv.Ino]*inode{}}
	p.entered(regular(1, 100))
	want := func(what string, a *tnv.Attr, writable, want bool) {
		t.Helper()
		if keep, _ := p.open(a, writable); keep != want {
			t.Errorf("%s: keep %v", what, keep)
		}
	}
	want("first open", regular(1, 100), false, false)
	want("second open", regular(1, 100), false, true)
	want("changed", regular(2, 200), false, false)
	want("not dropped yet", regular(2, 200), false, false)
	p.dropped(5, 2)
	want("an overtaken reply", regular(1, 100), false, false)
	want("unchanged", regular(2, 200), false, true)
	want("for writing", regular(2, 200), true, true)
	want("while it is open for writing", regular(2, 200), false, false)
	p.closed(5)
	want("first open after it", regular(2, 200), false, false)
	want("second open after it", regular(2, 200), false, true)
	p.told(regular(3, 200))
	want("stale", regular(3, 200), false, false)
	p.forget(5, 1)
	if p.len() != 0 {
		t.Error("not forgotten")
	}
	p.entered(regular(3, 200))
	want("known anew", regular(3, 200), false, false)
}

// TestSettled: a reply waits until the pages are dropped of which it brings news,
// and no longer than it may.
func TestSettled(t *testing.T) {
	p := &pages{inodes: map[tnv.Ino]*inode{}}
	p.entered(regular(1, 100))
	waits := func(ctx context.Context) time.Duration {
		start := time.Now()
		p.settled(ctx, 5)
		return time.Since(start)
	}
	if d := waits(context.Background()); d > maxDropping/2 {
		t.Errorf("nothing to wait for: %v", d)
	}
	p.told(regular(2, 200))
	if d := waits(context.Background()); d < maxDropping {
		t.Errorf("the pages stay: %v", d)
	}
	go func() {
		time.Sleep(10 * time.Millisecond)
		p.dropped(5, 2)
	}()
	if d := waits(context.Background()); d > maxDropping/2 {
		t.Errorf("the pages are dropped: %v", d)
	}
	p.told(regular(3, 300))
	go func() {
		time.Sleep(10 * time.Millisecond)
		p.forget(5, 1)
	}()
	if d := waits(context.Background()); d > maxDropping/2 {
		t.Errorf("the kernel has forgotten the file: %v", d)
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
