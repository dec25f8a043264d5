package meta

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

func (h *harness) resolve(path string, follow bool) (protocol.ResolveReply, error) {
	return do[protocol.ResolveReply](h, protocol.TypeResolve, &protocol.Resolve{Path: path, Follow: follow})
}

func (h *harness) symlink(parent tnv.Ino, name, target string) {
	h.t.Helper()
	_, err := do[protocol.AttrReply](h, protocol.TypeSymlink, &protocol.Symlink{Parent: parent, Name: name, Target: target})
	h.must(err)
}

// path_resolution(7): where a walk ends, and how it fails.
func TestResolvePaths(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	d := h.mkdir(tnv.RootIno, "d")
	sub := h.mkdir(d, "sub")
	f := h.create(d, "f")
	h.symlink(tnv.RootIno, "to-d", "d")
	h.symlink(tnv.RootIno, "to-f", "/d/f")
	h.symlink(tnv.RootIno, "slash-f", "d/f/")
	h.symlink(tnv.RootIno, "loop", "loop")
	h.symlink(tnv.RootIno, "up", "../../../d")
	own := h.mkdir(tnv.RootIno, ".tnv")
	h.mkdir(own, "trash")
	mine := h.mkdir(d, ".tnv") // of that name, and not in the root
	h.symlink(tnv.RootIno, "to-own", "/.tnv")
	h.symlink(d, "to-trash", "../.tnv/trash")
	h.symlink(d, "to-root", "..")
	h.symlink(d, "to-own", "../to-own")
	long := strings.Repeat("n", 2000)
	for _, c := range []struct {
		path   string
		follow bool
		ino    tnv.Ino
		parent tnv.Ino
		err    tnv.Kind
	}{
		{path: "", ino: tnv.RootIno},
		{path: "/..", ino: tnv.RootIno},
		{path: "/d/..", ino: tnv.RootIno},
		{path: "/d/sub/..", ino: d, parent: tnv.RootIno},
		{path: "to-d/", ino: d, parent: tnv.RootIno},
		{path: "to-d/.", ino: d, parent: tnv.RootIno},
		{path: "to-d", follow: true, ino: d, parent: tnv.RootIno},
		{path: "to-d/sub", ino: sub, parent: d},
		{path: "up/f", ino: f, parent: d},
		{path: "to-f", follow: true, ino: f, parent: d},
		{path: "to-f/", err: tnv.KindNotDir},
		{path: "slash-f", follow: true, err: tnv.KindNotDir},
		{path: ".tnv", follow: true, ino: own, parent: tnv.RootIno},
		{path: "to-own", follow: true, err: tnv.KindNotExist},
		{path: "to-own/trash", err: tnv.KindNotExist},
		{path: "d/to-trash", follow: true, err: tnv.KindNotExist},
		{path: "d/to-root/.tnv/trash", err: tnv.KindNotExist},
		{path: "d/to-own", follow: true, err: tnv.KindNotExist},
		{path: "to-d/.tnv", ino: mine, parent: d},
		{path: "d/f/", err: tnv.KindNotDir},
		{path: "d/f/.", err: tnv.KindNotDir},
		{path: "d/f/..", err: tnv.KindNotDir},
		{path: "loop", follow: true, err: tnv.KindLoop},
		{path: "d/nothing", err: tnv.KindNotExist},
		{path: "d/" + long, err: tnv.KindNameTooLong},
		{path: strings.Repeat("/.", 5000), err: tnv.KindNameTooLong},
	} {
		rep, err := h.resolve(c.path, c.follow)
		if c.err != 0 {
			kindIs(t, err, c.err)
			continue
		}
		if err != nil || rep.Attr.Ino != c.ino || rep.Parent != c.parent {
			t.Errorf("%.40q: inode %d in %d, want %d in %d: %v", c.path, rep.Attr.Ino, rep.Parent, c.ino, c.parent, err)
		}
	}
	if rep, err := h.resolve("to-d", false); err != nil || rep.Attr.Type() != tnv.TypeSymlink {
		t.Errorf("a link that is not to be followed: %+v, %v", rep.Attr, err)
	}
	_, err := h.lookup(d, long)
	kindIs(t, err, tnv.KindNameTooLong)
}

// The deepest path there is can be walked, and its end moved, with nothing in memory.
func TestDeepestPath(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	at := tnv.RootIno
	const depth = 2040
	for range depth {
		at = h.mkdir(at, "d")
	}
	h.mkdir(at, "end")
	h.reopen()
	if rep, err := h.resolve(strings.Repeat("/d", depth), true); err != nil || rep.Attr.Ino != at {
		t.Fatalf("inode %d, %v", rep.Attr.Ino, err)
	}
	other := h.mkdir(tnv.RootIno, "other")
	h.reopen()
	_, err := do[protocol.UnlinkReply](h, protocol.TypeRename, &protocol.Rename{Parent: tnv.RootIno, Name: "other", NewParent: at, NewName: "moved"})
	h.must(err)
	_, err = do[protocol.UnlinkReply](h, protocol.TypeRename, &protocol.Rename{Parent: tnv.RootIno, Name: "d", NewParent: other, NewName: "d"})
	kindIs(t, err, tnv.KindInvalid)
	h.check()
}

// What the manual pages say of names that are there already, or are none.
func TestErrorsOfNames(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	const root = tnv.RootIno
	d := h.mkdir(root, "d")
	e := h.mkdir(d, "e")
	h.create(root, "f")
	h.symlink(root, "l", "f")
	rename := func(from tnv.Ino, name string, to tnv.Ino, newName string, flags uint32) error {
		_, err := do[protocol.UnlinkReply](h, protocol.TypeRename, &protocol.Rename{Parent: from, Name: name, NewParent: to, NewName: newName, Flags: flags})
		return err
	}
	create := func(name string, mode tnv.FileType, excl bool) error {
		_, err := do[protocol.CreateReply](h, protocol.TypeCreate, &protocol.Create{Parent: root, Name: name, Mode: mode.Mode() | 0o644, Excl: excl})
		return err
	}
	unlink := func(name string) error {
		_, err := do[protocol.UnlinkReply](h, protocol.TypeUnlink, &protocol.Unlink{Parent: root, Name: name})
		return err
	}
	rmdir := func(name string) error {
		_, err := do[struct{}](h, protocol.TypeRmdir, &protocol.Rmdir{Parent: root, Name: name})
		return err
	}
	for i, c := range []struct {
		got  error
		want tnv.Kind
	}{
		{create("d", tnv.TypeRegular, false), tnv.KindIsDir},
		{create("d", tnv.TypeRegular, true), tnv.KindExist},
		{create("l", tnv.TypeRegular, false), tnv.KindExist},
		{create("f", tnv.TypeFIFO, false), tnv.KindExist},
		{create("x", tnv.TypeDir, true), tnv.KindInvalid},
		{create("a/b", tnv.TypeRegular, true), tnv.KindInvalid},
		{unlink("."), tnv.KindIsDir},
		{unlink(".."), tnv.KindIsDir},
		{unlink("d"), tnv.KindIsDir},
		{unlink("none"), tnv.KindNotExist},
		{rmdir("."), tnv.KindInvalid},
		{rmdir(".."), tnv.KindNotEmpty},
		{rmdir("f"), tnv.KindNotDir},
		{rmdir("d"), tnv.KindNotEmpty},
		{rename(root, "d", e, "x", 0), tnv.KindInvalid},
		{rename(root, "d", d, "x", 0), tnv.KindInvalid},
		{rename(d, "e", root, "d", 0), tnv.KindNotEmpty},
		{rename(root, "f", root, "d", 0), tnv.KindIsDir},
		{rename(d, "e", root, "f", 0), tnv.KindNotDir},
		{rename(root, "none", root, "f", 0), tnv.KindNotExist},
		{rename(root, "f", root, "l", protocol.RenameNoReplace), tnv.KindExist},
		{rename(root, "f", root, "none", protocol.RenameExchange), tnv.KindNotExist},
		{rename(root, "d", d, "e", protocol.RenameExchange), tnv.KindInvalid},
		{rename(d, "e", root, "d", protocol.RenameExchange), tnv.KindInvalid},
		{rename(root, "f", root, "f", 3), tnv.KindInvalid},
		{rename(root, ".", root, "x", 0), tnv.KindBusy},
	} {
		if tnv.KindOf(c.got) != c.want || c.got == nil {
			t.Errorf("case %d: %v, want %v", i, c.got, c.want)
		}
	}
	h.check()
}

// stat's times and counts, as POSIX wants them of each operation.
func TestTimesAndLinks(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	const root = tnv.RootIno
	a, b := h.mkdir(root, "a"), h.mkdir(root, "b")
	sub, f := h.mkdir(a, "sub"), h.create(a, "f")
	type stamp struct{ m, c int64 }
	at := func(ino tnv.Ino) stamp { x := h.attr(ino); return stamp{x.Mtime, x.Ctime} }
	steps := []struct {
		name string
		do   func() error
		m, c []tnv.Ino // whose times change; of the rest none does
	}{
		{"link", func() error {
			_, err := do[protocol.AttrReply](h, protocol.TypeLink, &protocol.Link{Ino: f, Parent: b, Name: "g"})
			return err
		}, []tnv.Ino{b}, []tnv.Ino{b, f}},
		{"rename", func() error {
			_, err := do[protocol.UnlinkReply](h, protocol.TypeRename, &protocol.Rename{Parent: a, Name: "sub", NewParent: b, NewName: "sub"})
			return err
		}, []tnv.Ino{a, b}, []tnv.Ino{a, b, sub}},
		{"rename to itself", func() error {
			_, err := do[protocol.UnlinkReply](h, protocol.TypeRename, &protocol.Rename{Parent: a, Name: "f", NewParent: b, NewName: "g"})
			return err
		}, nil, nil},
		{"unlink", func() error {
			_, err := do[protocol.UnlinkReply](h, protocol.TypeUnlink, &protocol.Unlink{Parent: b, Name: "g"})
			return err
		}, []tnv.Ino{b}, []tnv.Ino{b, f}},
		{"chmod", func() error {
			_, err := do[protocol.AttrReply](h, protocol.TypeSetAttr, &protocol.SetAttr{Ino: f, Mask: protocol.SetMode, Mode: 0o600})
			return err
		}, nil, []tnv.Ino{f}},
		{"truncate", func() error {
			_, err := do[protocol.AttrReply](h, protocol.TypeSetAttr, &protocol.SetAttr{Ino: f, Mask: protocol.SetSize, Size: 0})
			return err
		}, []tnv.Ino{f}, []tnv.Ino{f}},
		{"setxattr", func() error {
			_, err := do[struct{}](h, protocol.TypeSetXattr, &protocol.SetXattr{Ino: f, Name: "user.x", Value: []byte("1")})
			return err
		}, nil, []tnv.Ino{f}},
		{"getxattr", func() error {
			_, err := do[protocol.XattrReply](h, protocol.TypeGetXattr, &protocol.GetXattr{Ino: f, Name: "user.x"})
			return err
		}, nil, nil},
	}
	all := []tnv.Ino{root, a, b, sub, f}
	for _, s := range steps {
		before := map[tnv.Ino]stamp{}
		for _, ino := range all {
			before[ino] = at(ino)
		}
		h.must(s.do())
		for _, ino := range all {
			was, is := before[ino], at(ino)
			if (is.m != was.m) != slices.Contains(s.m, ino) || (is.c != was.c) != slices.Contains(s.c, ino) {
				t.Errorf("%s: inode %d: mtime changed %v, ctime changed %v", s.name, ino, is.m != was.m, is.c != was.c)
			}
		}
	}
	if x, y := h.attr(a), h.attr(b); x.Nlink != 2 || y.Nlink != 3 || h.attr(f).Nlink != 1 {
		t.Errorf("links: %d, %d", x.Nlink, y.Nlink)
	}
	if up, err := h.lookup(sub, ".."); err != nil || up.Ino != b {
		t.Errorf("the moved directory's parent is %d, %v", up.Ino, err)
	}
	h.check()
}

// K7: a repeated error waits, like the first one, for what it was made of.
func TestRepeatedErrorWaitsForApply(t *testing.T) {
	e := mem.New(mem.Options{})
	h := start(t, e, Config{})
	h.create(tnv.RootIno, "first")
	held := e.PauseApply()
	made := make(chan error, 3)
	send := func(slot uint32) {
		c := *h
		made <- c.send(slot, 1, protocol.TypeCreate, nil, &protocol.Create{Parent: tnv.RootIno, Name: "x", Excl: true})
	}
	go send(1)
	<-held.Reached()
	answered := func(n int) {
		t.Helper()
		h.eventually("the request was executed", func() bool {
			s, _ := h.v.live(h.session)
			h.v.mu.RLock()
			defer h.v.mu.RUnlock()
			return s.slots[2].seq == 1
		})
		select {
		case err := <-made:
			t.Fatalf("answer %d before the batch is applied: %v", n, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
	go send(2)
	answered(1)
	go send(2) // the client came back on a new connection
	answered(2)
	held.Resume()
	failed := 0
	for range 3 {
		if err := <-made; err != nil {
			kindIs(t, err, tnv.KindExist)
			failed++
		}
	}
	if failed != 2 {
		t.Fatalf("%d of 3 failed", failed)
	}
}

// A tracker that was stopped for long does not hold it against its clients; a
// client that is silent while the tracker runs is over.
func TestExpiry(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{SessionExpiry: time.Minute})
	ctx := context.Background()
	now := time.Now().Add(time.Hour) // nobody called for an hour
	h.must(h.v.Expire(ctx, now))
	h.create(tnv.RootIno, "still there")
	h.v.smu.Lock()
	h.v.sessions[h.session].seen = now
	h.v.smu.Unlock()
	for range 59 {
		now = now.Add(time.Second)
		h.must(h.v.Expire(ctx, now))
	}
	if st, _ := h.v.Status(ctx); st.Sessions != 1 {
		t.Fatal("the session ended too early")
	}
	for range 2 {
		now = now.Add(time.Second)
		h.must(h.v.Expire(ctx, now))
	}
	_, err := h.lookup(tnv.RootIno, "still there")
	kindIs(t, err, tnv.KindSessionEnded)
	_, err = h.v.OpenSession(ctx, &protocol.OpenSession{Identity: strings.Repeat("i", 5000)}, nil)
	kindIs(t, err, tnv.KindInvalid)
}
