package meta

import (
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

func (h *harness) setXattr(ino tnv.Ino, name string, value []byte) error {
	_, err := do[struct{}](h, protocol.TypeSetXattr, &protocol.SetXattr{Ino: ino, Name: name, Value: value})
	return err
}

// The namespaces are those of xattr(7), and no others.
func TestXattrNames(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	for _, c := range []struct {
		name string
		want tnv.Kind
	}{
		{"user.a", 0}, {"trusted.a", 0}, {"security.a", 0}, {"user.\xff\x01", 0},
		{"user.", tnv.KindInvalid}, {"trusted.", tnv.KindInvalid}, {"", tnv.KindInvalid},
		{"user", tnv.KindNotSupported}, {"foo.a", tnv.KindNotSupported}, {"system.a", tnv.KindNotSupported}, {"User.a", tnv.KindNotSupported},
	} {
		set := h.setXattr(f, c.name, []byte("v"))
		_, get := do[protocol.XattrReply](h, protocol.TypeGetXattr, &protocol.GetXattr{Ino: f, Name: c.name})
		_, remove := do[struct{}](h, protocol.TypeRemoveXattr, &protocol.RemoveXattr{Ino: f, Name: c.name})
		for what, err := range map[string]error{"set": set, "get": get, "remove": remove} {
			if (err == nil) != (c.want == 0) || err != nil && tnv.KindOf(err) != c.want {
				t.Errorf("%s %q: %v, want %v", what, c.name, err, c.want)
			}
		}
	}
	h.check()
}

// A file's capabilities do not outlive a change of its content or owner (capabilities(7)).
func TestCapabilityIsDropped(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	has := func() bool {
		_, err := do[protocol.XattrReply](h, protocol.TypeGetXattr, &protocol.GetXattr{Ino: f, Name: tnv.XattrCapability})
		if is := h.attr(f).Flags&tnv.HasCapability != 0; is != (err == nil) {
			t.Errorf("the flag says %v, reading it %v", is, err)
		}
		return err == nil
	}
	setAttr := func(rq protocol.SetAttr) {
		rq.Ino = f
		_, err := do[protocol.AttrReply](h, protocol.TypeSetAttr, &rq)
		h.must(err)
	}
	for i, change := range []func(){
		func() { _, err := h.write(f, 0, 4096); h.must(err) },
		func() { setAttr(protocol.SetAttr{Mask: protocol.SetSize, Size: 1}) },
		func() { setAttr(protocol.SetAttr{Mask: protocol.SetUID, UID: 5}) },
		func() { setAttr(protocol.SetAttr{Mask: protocol.SetGID, GID: 5}) },
	} {
		h.must(h.setXattr(f, "user.other", []byte("x")))
		h.must(h.setXattr(f, tnv.XattrCapability, []byte("cap")))
		h.chmod(f, 0o700)
		if !has() {
			t.Fatalf("change %d: it is gone too early", i)
		}
		change()
		if has() {
			t.Errorf("change %d leaves it there", i)
		}
		h.check()
	}
}

// Reading is no change: the time of access is the owner's, and nothing else moves.
func TestAccessed(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	h.chmod(f, 0o640)
	was := h.attr(f)
	_, err := do[protocol.AttrReply](h, protocol.TypeSetAttr, &protocol.SetAttr{Ino: f, Mask: protocol.SetAccessed, Atime: 5})
	h.must(err)
	is := h.attr(f)
	if is.Atime <= was.Ctime || is.Version == was.Version {
		t.Errorf("before %+v, now %+v", was, is)
	}
	is.Atime, is.Version = was.Atime, was.Version
	if is != was {
		t.Errorf("before %+v, now %+v", was, is)
	}
}

// checkFlags verifies that flags and modes say what the extended attributes do.
func (h *harness) checkFlags(pairs []pair, inodes map[tnv.Ino]*inode) {
	h.t.Helper()
	flags, modes := map[tnv.Ino]tnv.AttrFlags{}, map[tnv.Ino]uint32{}
	for _, p := range pairs {
		if p.key[0] != keyXattr {
			continue
		}
		ino, name := tnv.Ino(split1(p.key)), p.key[9:]
		flags[ino] |= tnv.XattrFlag(name)
		if name == tnv.XattrAccessACL {
			x, err := decodeXattr(p.value)
			h.must(err)
			l, err := parseACL(x.(*xattr).Value)
			h.must(err)
			if modes[ino] = l.mode(); l.minimal() {
				h.t.Errorf("inode %d has an ACL that is a mode: %v", ino, l)
			}
		}
	}
	for ino, n := range inodes {
		if has := n.Flags &^ tnv.Linkable; has != flags[ino] {
			h.t.Errorf("inode %d has flags %b, its attributes say %b", ino, has, flags[ino])
		}
		if n.Flags&tnv.Linkable != 0 && n.Nlink > 0 {
			h.t.Errorf("inode %d has a name and is marked as one that never had", ino)
		}
		if mode, ok := modes[ino]; ok && mode != n.Mode&0o777 {
			h.t.Errorf("inode %d: mode %o, its ACL says %o", ino, n.Mode, mode)
		}
	}
}
