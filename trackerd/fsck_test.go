package trackerd

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// syncLocked answers a sync: which of the blocks asked for the store lacks.
func (s *store) syncLocked(f *protocol.Frame) *protocol.SyncReply {
	rep := &protocol.SyncReply{Node: s.node.ID, Boot: s.node.Boot}
	var rq protocol.Sync
	if err := f.Decode(&rq); err != nil {
		s.t.Error(err)
	}
	for _, k := range rq.Blocks {
		if _, there := s.holds[k.ID]; !there {
			rep.Missing = append(rep.Missing, k)
		}
	}
	return rep
}

// fsck runs a check to its end.
func (a *asker) fsck(repair bool) (rep protocol.FsckReply) {
	a.t.Helper()
	a.must(protocol.TypeFsck, &rep, &protocol.Fsck{Volume: "media", Repair: repair})
	job := rep.Job
	eventually(a.t, "the check is over", func() bool {
		rep = protocol.FsckReply{}
		a.must(protocol.TypeFsck, &rep, &protocol.Fsck{Volume: "media", Job: job})
		return rep.Done
	})
	if rep.Failed != "" {
		a.t.Fatalf("the check failed: %s", rep.Failed)
	}
	return rep
}

func (s *store) drop(b tnv.BlockID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.holds, b)
}

// Blocks that stores have lost are found, with the file's path; what one member
// has yet is recorded, so that the other copies it.
func TestFsckBlocks(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	a, b := r.newStore(11, "h1"), r.newStore(12, "h2")
	a.live("g1")
	b.live("g1")
	tool := r.dial(protocol.RoleTool)
	s := r.session(protocol.OpenSession{})
	var blocks []tnv.BlockID
	for i := range 5 {
		var made protocol.CreateReply
		s.change(protocol.TypeCreate, &made, &protocol.Create{Parent: tnv.RootIno, Name: fmt.Sprint("f", i)})
		blk := s.write(made.Attr.Ino, a.node.Group, a, b)
		for _, st := range []*store{a, b} {
			st.hold(tnv.Home{Ino: made.Attr.Ino}, blk)
		}
		blocks = append(blocks, blk)
	}
	kindIs(t, s.call(protocol.TypeFsck, nil, &protocol.Fsck{Volume: "media"}), tnv.KindNotPermitted)
	kindIs(t, tool.call(protocol.TypeFsck, nil, &protocol.Fsck{Volume: "media", Job: 99}), tnv.KindNotExist)
	if rep := tool.fsck(false); len(rep.Findings) != 0 || rep.Blocks != 10 || rep.Records == 0 {
		t.Fatalf("a cluster that is well: %+v", rep)
	}
	b.drop(blocks[1])
	a.drop(blocks[2])
	b.drop(blocks[2])
	a.hold(tnv.Home{Ino: 77}, blocks[3]) // it was written for another file
	kinds := func(rep protocol.FsckReply) (l []string) {
		for _, d := range rep.Findings {
			l = append(l, fmt.Sprintf("%v of %s at %d", d.Kind, d.Path, d.Node))
		}
		slices.Sort(l)
		return l
	}
	want := []string{"block on fewer members than wanted of /f1 at 12", "block on fewer members than wanted of /f2 at 11",
		"block on fewer members than wanted of /f2 at 12", "missing block of /f2 at 0", "shared block without reference of /f3 at 0"}
	if got := kinds(tool.fsck(false)); !slices.Equal(got, want) {
		t.Fatalf("found %q, want %q", got, want)
	}
	rep := tool.fsck(true)
	for _, d := range rep.Findings {
		if d.Repaired == (d.Kind == protocol.DamageMissing) {
			t.Errorf("repaired: %+v", d)
		}
	}
	var lack protocol.LackingReply
	b.must(protocol.TypeLacking, &lack, &protocol.Lacking{Node: 12, Vol: s.info.Vol, Limit: 10})
	if len(lack.Blocks) != 2 || lack.Blocks[0].Block != blocks[1] || lack.Blocks[1].Block != blocks[2] {
		t.Fatalf("recorded as lacking: %+v", lack)
	}
	if got, want := kinds(tool.fsck(false)), []string{"missing block of /f2 at 0"}; !slices.Equal(got, want) {
		t.Fatalf("after the repair: %q, want %q", got, want)
	}
	var alive protocol.AliveReply
	b.must(protocol.TypeAlive, &alive, &protocol.Alive{Vol: s.info.Vol, Blocks: []protocol.BlockHome{{Block: blocks[3], Home: tnv.Home{Ino: 77}}}})
	if alive.State[0] != protocol.LiveBlock {
		t.Fatal("a block that is named away from its home is called dead after the repair")
	}
}

// A check while files are written, committed and removed finds nothing.
func TestFsckWhileWriting(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	a, b := r.newStore(11, "h1"), r.newStore(12, "h2")
	a.live("g1")
	b.live("g1")
	tool := r.dial(protocol.RoleTool)
	s := r.session(protocol.OpenSession{})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			var made protocol.CreateReply
			s.change(protocol.TypeCreate, &made, &protocol.Create{Parent: tnv.RootIno, Name: fmt.Sprint(i % 5)})
			var g protocol.GrantReply
			s.change(protocol.TypeGrant, &g, &protocol.Grant{Count: 1})
			for _, st := range []*store{a, b} { // stored first, then committed
				st.hold(tnv.Home{Ino: made.Attr.Ino}, g.First)
			}
			by := protocol.BlockHolders{Block: g.First, Holders: []tnv.Holder{{Node: 11, Boot: 1}, {Node: 12, Boot: 1}}}
			s.change(protocol.TypeCommit, nil, &protocol.Commit{Ino: made.Attr.Ino, Size: 4096, Holders: []protocol.BlockHolders{by},
				Chunks: []protocol.ChunkExtents{{Extents: []tnv.Extent{{Len: 4096, Block: g.First, BlockLen: 4096, Group: a.node.Group}}}}})
		}
	}()
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		if rep := tool.fsck(false); len(rep.Findings) != 0 {
			t.Errorf("found %+v", rep.Findings)
			break
		}
	}
	close(stop)
	<-stopped
}
