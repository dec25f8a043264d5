package meta

import (
	"context"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

// A file without a name lives as long as its maker says, gets a name once, and
// is then a file like any other, across a restart of the owner too.
func TestUnnamedFile(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	ctx := context.Background()
	d := h.mkdir(tnv.RootIno, "d")
	unnamed := func() tnv.Ino {
		rep, err := do[protocol.CreateReply](h, protocol.TypeCreate, &protocol.Create{Parent: d, Mode: 0o666, Umask: 0o22, Unnamed: true})
		h.must(err)
		if a := rep.Attr; a.Nlink != 0 || a.Mode != tnv.TypeRegular.Mode()|0o644 || !rep.Created {
			t.Fatalf("made %+v", rep)
		}
		return rep.Attr.Ino
	}
	link := func(ino tnv.Ino, name string) error {
		_, err := do[protocol.AttrReply](h, protocol.TypeLink, &protocol.Link{Ino: ino, Parent: d, Name: name})
		return err
	}
	gone, kept := unnamed(), unnamed()
	_, err := h.write(gone, 0, 4096)
	h.must(err)
	_, err = h.write(kept, 0, 4096)
	h.must(err)
	if l := h.readdir(d, 10); len(l) != 0 {
		t.Fatalf("the directory has %v", l)
	}
	h.check()
	h.reopen()
	h.must(link(kept, "kept"))
	h.must(h.v.Released(ctx, h.session, []tnv.Ino{gone, kept})) // kept: it was under way
	h.eventually("the file that nobody holds is gone", func() bool { st, _ := h.v.Status(ctx); return st.Unlinked == 0 && st.Files == 3 })
	if a := h.attr(kept); a.Nlink != 1 || a.Size != 4096 || a.Flags != 0 {
		t.Errorf("named: %+v", a)
	}
	h.check()
	_, err = do[protocol.UnlinkReply](h, protocol.TypeUnlink, &protocol.Unlink{Parent: d, Name: "kept"})
	h.must(err)
	kindIs(t, link(kept, "again"), tnv.KindNotExist) // it had a name, and lost it
	_, err = do[protocol.CreateReply](h, protocol.TypeCreate, &protocol.Create{Parent: d, Mode: tnv.TypeFIFO.Mode(), Unnamed: true})
	kindIs(t, err, tnv.KindInvalid)
	_, err = do[struct{}](h, protocol.TypeRmdir, &protocol.Rmdir{Parent: tnv.RootIno, Name: "d"})
	h.must(err)
	_, err = do[protocol.CreateReply](h, protocol.TypeCreate, &protocol.Create{Parent: d, Mode: 0o600, Unnamed: true})
	kindIs(t, err, tnv.KindNotExist)
	h.check()
}
