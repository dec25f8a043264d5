package meta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

// fakeCluster is a cluster of one group with two members.
type fakeCluster struct{ m *tnv.Map }

func (c *fakeCluster) Map() *tnv.Map { return c.m }

func twoMembers() *fakeCluster {
	return &fakeCluster{&tnv.Map{Version: 1, Groups: []tnv.Group{{ID: 1, Name: "g1", Nodes: []tnv.Node{
		{ID: 11, Group: 1, Boot: 1, State: tnv.NodeAlive}, {ID: 12, Group: 1, Boot: 1, State: tnv.NodeAlive}}}}}}
}

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

const testVol tnv.VolumeID = 7

// harness drives a volume as a client does: one session, one slot.
type harness struct {
	t       testing.TB
	engine  kv.Engine
	cluster *fakeCluster
	cfg     Config
	v       *Volume
	session tnv.SessionID
	seq     uint64
	blocks  []tnv.BlockID
	homes   map[tnv.BlockID]tnv.Home // of all blocks that write has committed
}

func start(t testing.TB, engine kv.Engine, cfg Config) *harness {
	h := &harness{t: t, engine: engine, cluster: twoMembers(), cfg: cfg, homes: map[tnv.BlockID]tnv.Home{}}
	h.cfg.Cluster, h.cfg.Log = h.cluster, quiet()
	if h.cfg.LeaseTTL == 0 {
		h.cfg.LeaseTTL = 15 * time.Millisecond // restarts wait so long for sessions that do not come back
	}
	h.reopen()
	t.Cleanup(func() { h.v.Close() })
	h.newSession()
	return h
}

func (h *harness) reopen() {
	h.t.Helper()
	if h.v != nil {
		h.v.Close()
	}
	ctx := context.Background()
	seen, err := h.engine.Lease(ctx, testVol)
	h.must(err)
	lease, err := h.engine.Acquire(ctx, seen, "test", time.Second)
	h.must(err)
	h.v, err = OpenVolume(ctx, h.engine, lease, "media", h.cfg)
	h.must(err)
}

func (h *harness) newSession() {
	info, err := h.v.OpenSession(context.Background(), &protocol.OpenSession{Volume: "media"}, nil)
	h.must(err)
	h.session, h.seq, h.blocks = info.Session, 0, nil
}

func (h *harness) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// send executes one request in a slot with a sequence number.
func (h *harness) send(slot uint32, seq uint64, t protocol.Type, rep any, rq any) error {
	head := protocol.Head{Vol: testVol, Session: h.session, Slot: slot, Seq: seq}
	f, err := protocol.NewFrame(t, &head, rq)
	h.must(err)
	values, err := h.v.Do(context.Background(), f)
	if err != nil {
		return err
	}
	body, err := protocol.Marshal(values...)
	h.must(err)
	if rep == nil {
		return nil
	}
	return protocol.Unmarshal(body, rep)
}

func do[Rep any](h *harness, t protocol.Type, rq any) (Rep, error) {
	var rep Rep
	if t >= protocol.TypeCreate {
		h.seq++
	}
	return rep, h.send(0, h.seq, t, &rep, rq)
}

func (h *harness) create(parent tnv.Ino, name string) tnv.Ino {
	h.t.Helper()
	rep, err := do[protocol.CreateReply](h, protocol.TypeCreate, &protocol.Create{Parent: parent, Name: name, Mode: 0o644, Excl: true})
	h.must(err)
	return rep.Attr.Ino
}

func (h *harness) mkdir(parent tnv.Ino, name string) tnv.Ino {
	h.t.Helper()
	rep, err := do[protocol.AttrReply](h, protocol.TypeMkdir, &protocol.Mkdir{Parent: parent, Name: name, Mode: 0o755})
	h.must(err)
	return rep.Attr.Ino
}

func (h *harness) lookup(parent tnv.Ino, name string) (tnv.Attr, error) {
	rep, err := do[protocol.AttrReply](h, protocol.TypeLookup, &protocol.Lookup{Parent: parent, Name: name})
	if err == nil && rep.Attr.Ino == 0 {
		err = tnv.KindNotExist
	}
	return rep.Attr, err
}

func (h *harness) attr(ino tnv.Ino) tnv.Attr {
	h.t.Helper()
	rep, err := do[protocol.AttrReply](h, protocol.TypeGetAttr, &protocol.GetAttr{Ino: ino})
	h.must(err)
	return rep.Attr
}

func (h *harness) block() tnv.BlockID {
	if len(h.blocks) == 0 {
		rep, err := do[protocol.GrantReply](h, protocol.TypeGrant, &protocol.Grant{Count: 256})
		h.must(err)
		for i := range rep.Count {
			h.blocks = append(h.blocks, rep.First+tnv.BlockID(i))
		}
	}
	b := h.blocks[0]
	h.blocks = h.blocks[1:]
	return b
}

// write commits one block of n bytes at an offset, held by all members.
func (h *harness) write(ino tnv.Ino, off uint64, n uint32) (tnv.BlockID, error) {
	b := h.block()
	_, err := do[protocol.AttrReply](h, protocol.TypeCommit, h.commitOf(ino, off, n, b))
	return b, err
}

func (h *harness) commitOf(ino tnv.Ino, off uint64, n uint32, b tnv.BlockID) *protocol.Commit {
	var holders []tnv.Holder
	for _, m := range h.cluster.m.Groups[0].Nodes {
		holders = append(holders, tnv.Holder{Node: m.ID, Boot: m.Boot})
	}
	return &protocol.Commit{Ino: ino, Size: off + uint64(n),
		Chunks: []protocol.ChunkExtents{{Chunk: off / tnv.ChunkSize, Extents: []tnv.Extent{
			{Off: uint32(off % tnv.ChunkSize), Len: n, Block: b, BlockLen: n, Group: 1}}}},
		Holders: []protocol.BlockHolders{{Block: b, Holders: holders}}}
}

func (h *harness) readdir(ino tnv.Ino, limit uint32) map[string]tnv.Ino {
	h.t.Helper()
	out := map[string]tnv.Ino{}
	cookie := uint64(0)
	for {
		rep, err := do[protocol.ReadDirReply](h, protocol.TypeReadDir, &protocol.ReadDir{Ino: ino, Cookie: cookie, Limit: limit, Attrs: true})
		h.must(err)
		for i, e := range rep.Entries {
			if _, twice := out[e.Name]; twice {
				h.t.Fatalf("%q is listed twice", e.Name)
			}
			if rep.Attrs[i].Ino != e.Ino {
				h.t.Fatalf("entry %q has the attributes of inode %d", e.Name, rep.Attrs[i].Ino)
			}
			out[e.Name] = e.Ino
			cookie = e.Cookie
		}
		if rep.End {
			return out
		}
	}
}

// eventually waits until fn holds.
func (h *harness) eventually(what string, fn func() bool) {
	h.t.Helper()
	for range 500 {
		if fn() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.t.Fatalf("never: %s", what)
}

func kindIs(t testing.TB, err error, want tnv.Kind) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func TestNamespace(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	d := h.mkdir(tnv.RootIno, "d")
	f := h.create(d, "f")
	if a := h.attr(d); a.Size != 1 || a.Nlink != 2 {
		t.Fatalf("directory: %+v", a)
	}
	_, err := do[protocol.CreateReply](h, protocol.TypeCreate, &protocol.Create{Parent: d, Name: "f", Excl: true})
	kindIs(t, err, tnv.KindExist)
	found, err := do[protocol.CreateReply](h, protocol.TypeCreate, &protocol.Create{Parent: d, Name: "f"})
	if err != nil || found.Created || found.Attr.Ino != f {
		t.Fatalf("create of what is there: %+v, %v", found, err)
	}
	_, err = do[struct{}](h, protocol.TypeRmdir, &protocol.Rmdir{Parent: tnv.RootIno, Name: "d"})
	kindIs(t, err, tnv.KindNotEmpty)
	_, err = do[protocol.AttrReply](h, protocol.TypeLink, &protocol.Link{Ino: f, Parent: tnv.RootIno, Name: "hard"})
	h.must(err)
	if a := h.attr(f); a.Nlink != 2 {
		t.Fatalf("links: %d", a.Nlink)
	}
	_, err = do[protocol.UnlinkReply](h, protocol.TypeRename, &protocol.Rename{Parent: tnv.RootIno, Name: "d", NewParent: d, NewName: "x"})
	kindIs(t, err, tnv.KindInvalid)
	rep, err := do[protocol.UnlinkReply](h, protocol.TypeUnlink, &protocol.Unlink{Parent: d, Name: "f"})
	h.must(err)
	if rep.Unlinked != 0 {
		t.Fatal("a file with another name was said to have none")
	}
	_, err = do[struct{}](h, protocol.TypeRmdir, &protocol.Rmdir{Parent: tnv.RootIno, Name: "d"})
	h.must(err)
	_, err = h.lookup(tnv.RootIno, "d")
	kindIs(t, err, tnv.KindNotExist)
	res, err := do[protocol.ResolveReply](h, protocol.TypeResolve, &protocol.Resolve{Path: "/./hard"})
	if err != nil || res.Attr.Ino != f || res.Parent != tnv.RootIno {
		t.Fatalf("resolve: %+v, %v", res, err)
	}
	h.check()
}

func TestReadDirPages(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	want := map[string]tnv.Ino{}
	for i := range 257 {
		name := fmt.Sprintf("name-%d", i)
		want[name] = h.create(tnv.RootIno, name)
	}
	for _, limit := range []uint32{1, 7, 256, 257, 1000} {
		got := h.readdir(tnv.RootIno, limit)
		if len(got) != len(want) {
			t.Fatalf("pages of %d: %d names of %d", limit, len(got), len(want))
		}
		for name, ino := range want {
			if got[name] != ino {
				t.Fatalf("pages of %d: %q is inode %d, want %d", limit, name, got[name], ino)
			}
		}
	}
}

// P5: a repeated request is executed once and gets its first answer, also by
// the next owner.
func TestExactlyOnce(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	rq := &protocol.Create{Parent: tnv.RootIno, Name: "a", Mode: 0o600, Excl: true}
	var first, again protocol.CreateReply
	h.must(h.send(3, 1, protocol.TypeCreate, &first, rq))
	h.must(h.send(3, 1, protocol.TypeCreate, &again, rq))
	if first != again {
		t.Fatalf("answers differ: %+v, %+v", first, again)
	}
	h.reopen()
	h.must(h.send(3, 1, protocol.TypeCreate, &again, rq))
	if first != again {
		t.Fatalf("the next owner answers differently: %+v, %+v", first, again)
	}
	h.must(h.send(3, 2, protocol.TypeUnlink, nil, &protocol.Unlink{Parent: tnv.RootIno, Name: "a"}))
	kindIs(t, h.send(3, 1, protocol.TypeCreate, &again, rq), tnv.KindProtocol)
	if _, err := h.lookup(tnv.RootIno, "a"); !errors.Is(err, tnv.KindNotExist) {
		t.Fatalf("a late copy was executed: %v", err)
	}
	// An error is an answer, too: its copy must not succeed later.
	kindIs(t, h.send(3, 3, protocol.TypeUnlink, nil, &protocol.Unlink{Parent: tnv.RootIno, Name: "a"}), tnv.KindNotExist)
	h.must(h.send(4, 1, protocol.TypeCreate, nil, rq))
	kindIs(t, h.send(3, 3, protocol.TypeUnlink, nil, &protocol.Unlink{Parent: tnv.RootIno, Name: "a"}), tnv.KindNotExist)
}

func TestUnlinkedIsReclaimed(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	b, err := h.write(f, 0, 1<<20)
	h.must(err)
	other, err := h.v.OpenSession(context.Background(), &protocol.OpenSession{Volume: "media"}, nil)
	h.must(err)
	rep, err := do[protocol.UnlinkReply](h, protocol.TypeUnlink, &protocol.Unlink{Parent: tnv.RootIno, Name: "f"})
	h.must(err)
	if rep.Unlinked != f || h.attr(f).Nlink != 0 {
		t.Fatalf("unlink: %+v", rep)
	}
	_, err = do[struct{}](h, protocol.TypeReleased, &protocol.Released{Inos: []tnv.Ino{f}})
	h.must(err)
	h.reopen() // the other session is still waited for by the next owner
	h.attr(f)
	ka, err := h.v.KeepAlive(&protocol.KeepAlive{Session: other.Session})
	if err != nil || len(ka.Unlinked) != 1 || ka.Unlinked[0] != f {
		t.Fatalf("the other session is not asked: %+v, %v", ka, err)
	}
	if st, _ := h.v.Alive(context.Background(), []protocol.BlockHome{{Block: b, Home: tnv.Home{Ino: f}}}); st[0] != protocol.LiveBlock {
		t.Fatal("a block of an open file is said to be dead")
	}
	h.must(h.v.EndSession(context.Background(), other.Session))
	_, err = do[protocol.AttrReply](h, protocol.TypeGetAttr, &protocol.GetAttr{Ino: f})
	kindIs(t, err, tnv.KindStale)
	h.eventually("the inode is reclaimed", func() bool {
		st, err := h.v.Status(context.Background())
		return err == nil && st.Unlinked == 0
	})
	for _, n := range []tnv.NodeID{11, 12} {
		ids, err := h.v.Deletions(context.Background(), n, 0, 10)
		if err != nil || len(ids) != 1 || ids[0] != b {
			t.Fatalf("deletions at %v: %v, %v", n, ids, err)
		}
		h.must(h.v.Deleted(context.Background(), n, ids))
	}
	st, err := h.v.Status(context.Background())
	if err != nil || st.PendingDeletions != 0 || st.Bytes != 0 || st.Files != 1 || st.Unlinked != 0 {
		t.Fatalf("status afterwards: %+v, %v", st, err)
	}
	h.check()
}

// D3, D4, K8: what a commit must not accept.
func TestCommitRefuses(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	b, err := h.write(f, 0, 4096)
	h.must(err)
	_, err = do[protocol.AttrReply](h, protocol.TypeCommit, h.commitOf(f, 4096, 4096, b))
	kindIs(t, err, tnv.KindConflict) // an id counts once
	_, err = do[protocol.AttrReply](h, protocol.TypeCommit, h.commitOf(f, 0, 4096, 1<<40))
	kindIs(t, err, tnv.KindInvalid) // never granted
	rq := h.commitOf(f, 8192, 4096, h.block())
	rq.Holders[0].Holders = rq.Holders[0].Holders[:1]
	_, err = do[protocol.AttrReply](h, protocol.TypeCommit, rq)
	kindIs(t, err, tnv.KindTooFewHolders)
	rq = h.commitOf(f, 8192, 4096, h.block())
	rq.Holders[0].Holders[1].Boot = 99 // it was restarted since
	_, err = do[protocol.AttrReply](h, protocol.TypeCommit, rq)
	kindIs(t, err, tnv.KindTooFewHolders)
	if a := h.attr(f); a.Size != 4096 {
		t.Fatalf("a refused commit has changed the file: %+v", a)
	}
	// One member is lost: the other suffices, and what it lacks is recorded.
	h.cluster.m.Groups[0].Nodes[1].State = tnv.NodeLost
	rq = h.commitOf(f, 8192, 4096, h.block())
	rq.Holders[0].Holders = rq.Holders[0].Holders[:1]
	_, err = do[protocol.AttrReply](h, protocol.TypeCommit, rq)
	h.must(err)
	h.reopen()
	lack, err := h.v.Lacking(context.Background(), 12, 0, 10)
	if err != nil || len(lack) != 1 || lack[0].Block != rq.Holders[0].Block || lack[0].Home.Ino != f {
		t.Fatalf("lacking: %v, %v", lack, err)
	}
	h.must(h.v.Held(context.Background(), 12, []tnv.BlockID{lack[0].Block}))
	if n, _ := h.v.Lacks(12); n != 0 {
		t.Fatalf("%d blocks are still said to be lacking", n)
	}
	mine := h.block()
	h.must(h.v.EndSession(context.Background(), h.session))
	ended := h.session
	h.newSession()
	_, err = do[protocol.AttrReply](h, protocol.TypeCommit, h.commitOf(f, 0, 4096, mine))
	kindIs(t, err, tnv.KindInvalid)
	h.session = ended
	_, err = do[protocol.AttrReply](h, protocol.TypeCommit, h.commitOf(f, 0, 4096, mine))
	kindIs(t, err, tnv.KindSessionEnded)
}
