package meta

import (
	"bytes"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

const noID = ^uint32(0)

// list is an ACL of a named user besides the three classes.
func list(owner, user, group, mask, other uint16) acl {
	return acl{{aclUserObj, owner, noID}, {aclUser, user, 1234}, {aclGroupObj, group, noID}, {aclMask, mask, noID}, {aclOther, other, noID}}
}

func (h *harness) setACL(ino tnv.Ino, name string, l acl, killSGID bool) error {
	_, err := do[struct{}](h, protocol.TypeSetXattr, &protocol.SetXattr{Ino: ino, Name: name, Value: l.encode(), KillSGID: killSGID})
	return err
}

func (h *harness) acl(ino tnv.Ino, name string) acl {
	h.t.Helper()
	rep, err := do[protocol.XattrReply](h, protocol.TypeGetXattr, &protocol.GetXattr{Ino: ino, Name: name})
	if tnv.KindOf(err) == tnv.KindNoData {
		return nil
	}
	h.must(err)
	l, err := parseACL(rep.Value)
	h.must(err)
	return l
}

func (h *harness) wantACL(ino tnv.Ino, name string, want acl) {
	h.t.Helper()
	if got := h.acl(ino, name); !bytes.Equal(got.encode(), want.encode()) {
		h.t.Errorf("inode %d: %s is %v, want %v", ino, name, got, want)
	}
}

func (h *harness) chmod(ino tnv.Ino, mode uint32) {
	h.t.Helper()
	_, err := do[protocol.AttrReply](h, protocol.TypeSetAttr, &protocol.SetAttr{Ino: ino, Mask: protocol.SetMode, Mode: mode})
	h.must(err)
}

// Mode and access ACL say the same, whichever is set; what a mode can say alone
// is kept as the mode alone.
func TestAccessACL(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	mode := func(want uint32) {
		t.Helper()
		if a := h.attr(f); a.Mode&0o7777 != want || a.Flags&tnv.HasAccessACL != 0 != (h.acl(f, tnv.XattrAccessACL) != nil) {
			t.Errorf("mode %o, flags %b, want %o", a.Mode&0o7777, a.Flags, want)
		}
	}
	h.chmod(f, 0o2755)
	h.must(h.setACL(f, tnv.XattrAccessACL, list(7, 6, 4, 6, 4), false))
	mode(0o2764)
	h.chmod(f, 0o600)
	mode(0o600)
	h.wantACL(f, tnv.XattrAccessACL, list(6, 6, 4, 0, 0))
	h.chmod(f, 0o2755)
	h.wantACL(f, tnv.XattrAccessACL, list(7, 6, 4, 5, 5))
	h.must(h.setACL(f, tnv.XattrAccessACL, list(7, 6, 4, 6, 4), true))
	mode(0o764)
	h.reopen()
	h.check()
	h.must(h.setACL(f, tnv.XattrAccessACL, acl{{aclUserObj, 6, noID}, {aclGroupObj, 4, noID}, {aclOther, 0, noID}}, false))
	mode(0o640)
	h.must(h.setACL(f, tnv.XattrAccessACL, list(7, 6, 4, 6, 4), false))
	for range 2 { // the second time there is none, which is no error
		_, err := do[struct{}](h, protocol.TypeRemoveXattr, &protocol.RemoveXattr{Ino: f, Name: tnv.XattrAccessACL})
		h.must(err)
		mode(0o764)
	}
	h.must(h.setACL(f, tnv.XattrAccessACL, nil, false)) // a list without entries, too
	mode(0o764)
	h.check()
}

// What is made in a directory with a default ACL gets its permissions from it and
// from the mode asked for, not from the umask.
func TestDefaultACL(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	d, f := h.mkdir(tnv.RootIno, "d"), h.create(tnv.RootIno, "f")
	kindIs(t, h.setACL(f, tnv.XattrDefaultACL, list(7, 7, 7, 7, 7), false), tnv.KindPermission)
	h.symlink(tnv.RootIno, "l", "f")
	l, err := h.lookup(tnv.RootIno, "l")
	h.must(err)
	kindIs(t, h.setACL(l.Ino, tnv.XattrAccessACL, list(7, 7, 7, 7, 7), false), tnv.KindNotSupported)

	create := func(parent tnv.Ino, name string, mode uint32) tnv.Attr {
		rep, err := do[protocol.CreateReply](h, protocol.TypeCreate, &protocol.Create{Parent: parent, Name: name, Mode: mode, Umask: 0o077, Excl: true})
		h.must(err)
		return rep.Attr
	}
	if a := create(d, "plain", 0o666); a.Mode&0o777 != 0o600 || a.Flags != 0 {
		t.Errorf("without a default ACL: mode %o, flags %b", a.Mode&0o777, a.Flags)
	}
	def := list(7, 6, 5, 7, 4)
	h.must(h.setACL(d, tnv.XattrDefaultACL, def, false))
	if a := h.attr(d); a.Mode&0o777 != 0o755 {
		t.Errorf("a default ACL changed the mode to %o", a.Mode)
	}
	h.reopen() // the default ACL is not in memory
	made := create(d, "file", 0o646)
	if made.Mode&0o777 != 0o644 {
		t.Errorf("mode %o", made.Mode&0o777)
	}
	h.wantACL(made.Ino, tnv.XattrAccessACL, list(6, 6, 5, 4, 4))
	sub, err := do[protocol.AttrReply](h, protocol.TypeMkdir, &protocol.Mkdir{Parent: d, Name: "sub", Mode: 0o777, Umask: 0o077})
	h.must(err)
	h.wantACL(sub.Attr.Ino, tnv.XattrAccessACL, def)
	h.wantACL(sub.Attr.Ino, tnv.XattrDefaultACL, def)
	h.wantACL(create(sub.Attr.Ino, "below", 0o666).Ino, tnv.XattrAccessACL, list(6, 6, 5, 6, 4))
	// One that says no more than a mode leaves a mode.
	h.must(h.setACL(d, tnv.XattrDefaultACL, acl{{aclUserObj, 7, noID}, {aclGroupObj, 5, noID}, {aclOther, 0, noID}}, false))
	if a := create(d, "mode", 0o666); a.Mode&0o777 != 0o640 || a.Flags != 0 {
		t.Errorf("mode %o, flags %b", a.Mode&0o777, a.Flags)
	}
	h.check()
}

// Lists that say nothing, or too much, are refused.
func TestBadACLs(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	u, g, o := ace{aclUserObj, 7, noID}, ace{aclGroupObj, 5, noID}, ace{aclOther, 4, noID}
	named, m := ace{aclUser, 6, 5}, ace{aclMask, 7, noID}
	for i, l := range []acl{
		{u}, {u, g}, {g, u, o}, {u, g, o, o}, {u, g, o, m}, {u, named, g, o}, {u, g, named, m, o}, {u, u, g, o},
		{{aclUserObj, 8, noID}, g, o}, {u, {aclUser, 6, noID}, g, m, o}, {u, g, {0x40, 7, 0}, o}, {u, g, m, m, o},
	} {
		if err := h.setACL(f, tnv.XattrAccessACL, l, false); tnv.KindOf(err) != tnv.KindInvalid || err == nil {
			t.Errorf("list %d: %v", i, err)
		}
	}
	raw := func(value []byte) error {
		_, err := do[struct{}](h, protocol.TypeSetXattr, &protocol.SetXattr{Ino: f, Name: tnv.XattrAccessACL, Value: value})
		return err
	}
	kindIs(t, raw([]byte{2, 0, 0}), tnv.KindInvalid)
	kindIs(t, raw(append(acl{u, g, o}.encode(), 1)), tnv.KindInvalid)
	kindIs(t, raw([]byte{3, 0, 0, 0}), tnv.KindNotSupported)
	kindIs(t, raw(make(acl, maxACL+1).encode()), tnv.KindXattrTooBig)
	if a := h.attr(f); a.Mode&0o777 != 0o644 || a.Flags != 0 {
		t.Errorf("mode %o, flags %b", a.Mode, a.Flags)
	}
}

// The owner's own check of search permission, for paths, follows acl(5).
func TestSearchByACL(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	d := h.mkdir(tnv.RootIno, "d")
	h.create(d, "f")
	h.must(h.setACL(d, tnv.XattrAccessACL, acl{{aclUserObj, 7, noID}, {aclUser, 1, 1234}, {aclUser, 6, 1235}, {aclGroupObj, 0, noID},
		{aclGroup, 1, 55}, {aclGroup, 4, 56}, {aclMask, 5, noID}, {aclOther, 1, noID}}, false))
	may := func(cred tnv.Cred) bool {
		head := protocol.Head{Vol: testVol, Session: h.session, Cred: cred}
		f, err := protocol.NewFrame(protocol.TypeResolve, &head, &protocol.Resolve{Path: "/d/f"})
		h.must(err)
		_, err = h.v.Do(t.Context(), f)
		if err != nil {
			kindIs(t, err, tnv.KindPermission)
		}
		return err == nil
	}
	check := func(want bool, creds ...tnv.Cred) {
		t.Helper()
		for _, c := range creds {
			if may(c) != want {
				t.Errorf("%+v may search: %v", c, !want)
			}
		}
	}
	yes := []tnv.Cred{{UID: 0, GID: 56}, {UID: 1234, GID: 56}, {UID: 9, GID: 55}, {UID: 9, GID: 9}}
	no := []tnv.Cred{{UID: 1235, GID: 9}, {UID: 9, GID: 0}, {UID: 9, GID: 56}}
	check(true, yes...)
	check(false, no...)
	h.chmod(d, 0o701) // the mask: none of the named ones
	check(false, tnv.Cred{UID: 1234, GID: 9}, tnv.Cred{UID: 9, GID: 55})
	check(true, tnv.Cred{UID: 9, GID: 9})
}

// Whatever bytes are given as an ACL, what is taken is kept as it is.
func FuzzACL(f *testing.F) {
	f.Add(list(7, 6, 5, 4, 0).encode())
	f.Add([]byte{2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseACL(b)
		if err != nil || l == nil {
			return
		}
		if !bytes.Equal(l.encode(), b) {
			t.Fatalf("%x is written as %x", b, l.encode())
		}
		for mode := range uint32(0o1000) {
			if got := l.withMode(mode).mode(); got != mode {
				t.Fatalf("mode %o gives %o", mode, got)
			}
			if got := l.inherited(mode); got.check() != nil || got.mode()&^(mode&l.mode()) != 0 {
				t.Fatalf("inherited with mode %o: %v", mode, got)
			}
		}
	})
}
