package client

import (
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// TestKillSUIDGoesWithItsWrite: a write by someone unprivileged shows at once, and
// its commit says so, even if another commit is under way when it comes.
func TestKillSUIDGoesWithItsWrite(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.connect(f.config())
	h := create(t, c, "prog")
	f.track.mu.Lock()
	f.track.files[h.Ino()].attr.Mode = tnv.TypeRegular.Mode() | 0o6755
	f.track.mu.Unlock()
	under, goOn := make(chan struct{}), make(chan struct{})
	first := true
	f.track.mu.Lock()
	f.track.after = func(typ protocol.Type) bool {
		if typ == protocol.TypeCommit && first {
			first = false
			close(under)
			<-goOn
		}
		return false
	}
	f.track.mu.Unlock()
	write := func(b string, off int64) {
		_, err := h.WriteAt(ctx, []byte(b), off)
		must(t, err)
	}
	write("by root", 0)
	flushed := make(chan error)
	go func() { flushed <- h.Flush(ctx) }()
	<-under
	h.KillSUID()
	write("by another", 0)
	write("by root again, all over it", 0)
	close(goOn)
	must(t, <-flushed)
	a, err := h.Attr(ctx)
	must(t, err)
	if a.Mode&0o7777 != 0o755 {
		t.Errorf("mode %o before the commit", a.Mode&0o7777)
	}
	must(t, h.Flush(ctx))
	write("by root", 0)
	must(t, h.Close())
	f.track.mu.Lock()
	defer f.track.mu.Unlock()
	var kills []bool
	for _, rq := range f.track.commits {
		kills = append(kills, rq.KillSUID)
	}
	if len(kills) != 3 || kills[0] || !kills[1] || kills[2] {
		t.Errorf("commits that clear set-user-id: %v", kills)
	}
}

// TestAttrsOfUncommitted: what is not yet committed changes the attributes by what
// it is, and what is committed leaves them as they are, times before 1970 too.
func TestAttrsOfUncommitted(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.connect(f.config())
	h := create(t, c, "x")
	defer h.Close()
	_, err := c.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: h.Ino(), Mask: protocol.SetMtime, Mtime: -5})
	must(t, err)
	a, err := h.Attr(ctx)
	must(t, err)
	if a.Mtime != -5 {
		t.Errorf("mtime %d, set to -5", a.Mtime)
	}
	_, err = h.WriteAt(ctx, []byte("x"), 1<<40)
	must(t, err)
	a, err = h.Attr(ctx)
	must(t, err)
	if a.Size != 1<<40+1 || a.Blocks != 1 || a.Mtime < 1e18 {
		t.Errorf("size %d, %d blocks, mtime %d", a.Size, a.Blocks, a.Mtime)
	}
}
