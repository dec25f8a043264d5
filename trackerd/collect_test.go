package trackerd

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

// listLocked is a page of what the store holds; of two blocks at most, so that there are pages.
func (s *store) listLocked(rq *protocol.List) *protocol.ListReply {
	var rep protocol.ListReply
	holds := s.holds
	if rq.Vol == tnv.CopyVolume {
		holds = s.copies
	}
	for _, b := range slices.Sorted(maps.Keys(holds)) {
		if b < rq.From || rq.To != 0 && b >= rq.To {
			continue
		}
		if len(rep.Blocks) == 2 {
			rep.More = true
			break
		}
		rep.Blocks = append(rep.Blocks, protocol.ListedBlock{Block: b, Home: holds[b], Len: 4096})
	}
	return &rep
}

func (s *store) hold(home tnv.Home, blocks ...tnv.BlockID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holds == nil {
		s.holds = map[tnv.BlockID]tnv.Home{}
	}
	for _, b := range blocks {
		s.holds[b] = home
	}
}

func (s *store) held() []tnv.BlockID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.holds))
}

// D7: what a session that ended has put is found in the stores, waits, and is
// deleted when the operator allows it, since it is a good part of the group;
// what is named, or still may be, stays.
func TestCollect(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey(), Quarantine: time.Millisecond})
	a, b := r.newStore(11, "h1"), r.newStore(12, "h2")
	a.live("g1")
	b.live("g1")
	tool := r.dial(protocol.RoleTool)
	s, gone := r.session(protocol.OpenSession{}), r.session(protocol.OpenSession{})
	var made protocol.CreateReply
	s.change(protocol.TypeCreate, &made, &protocol.Create{Parent: tnv.RootIno, Name: "f"})
	home := tnv.Home{Ino: made.Attr.Ino}
	named := s.write(home.Ino, a.node.Group, a, b)
	var mine, theirs protocol.GrantReply
	s.change(protocol.TypeGrant, &mine, &protocol.Grant{Count: 1})
	gone.change(protocol.TypeGrant, &theirs, &protocol.Grant{Count: 1})
	keep := []tnv.BlockID{named, mine.First}
	for _, st := range []*store{a, b} {
		st.hold(home, named, mine.First, theirs.First, theirs.First+1)
	}
	kindIs(t, s.call(protocol.TypeCollect, nil, &protocol.Collect{Volume: "media"}), tnv.KindNotPermitted)
	kindIs(t, tool.call(protocol.TypeCollect, nil, &protocol.Collect{Volume: "none"}), tnv.KindNotExist)
	ask := func(rq protocol.Collect) (st protocol.Collection) {
		t.Helper()
		rq.Volume = "media"
		tool.must(protocol.TypeCollect, &st, &rq)
		return st
	}
	if st := ask(protocol.Collect{Now: true}); st.Quarantined != 0 {
		t.Fatalf("while the session lives: %+v", st)
	}
	gone.must(protocol.TypeCloseSession, nil, &protocol.CloseSession{Vol: gone.info.Vol, Session: gone.info.Session})
	ask(protocol.Collect{Now: true})
	time.Sleep(5 * time.Millisecond)
	if st := ask(protocol.Collect{Now: true}); st.Quarantined != 2 || st.Due != 2 || st.Collected != 0 || len(st.Asks) != 1 {
		t.Fatalf("orphans that are much of the group: %+v", st)
	}
	if st := ask(protocol.Collect{Now: true, Approve: true}); st.Collected != 2 || st.Quarantined != 0 || len(st.Asks) != 0 {
		t.Fatalf("with the operator's word: %+v", st)
	}
	eventually(t, "both stores have deleted the orphans, and nothing else", func() bool {
		return slices.Equal(a.held(), keep) && slices.Equal(b.held(), keep)
	})
	a.hold(home, 1<<40)
	if st := ask(protocol.Collect{Now: true}); len(st.Asks) != 1 || st.Quarantined != 0 {
		t.Fatalf("an id that was never given out: %+v", st)
	}
}

// The collection runs by itself; a store that does not answer hinders no other.
func TestCollectsByItself(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey(), Quarantine: time.Millisecond, CollectEvery: 50 * time.Millisecond})
	a, b := r.newStore(11, "h1"), r.newStore(12, "h2")
	a.live("g1")
	b.live("g1")
	b.refuses(tnv.E("list", tnv.KindOther, "no"))
	s := r.session(protocol.OpenSession{})
	var ids protocol.GrantReply
	s.change(protocol.TypeGrant, &ids, &protocol.Grant{Count: 1})
	s.must(protocol.TypeCloseSession, nil, &protocol.CloseSession{Vol: s.info.Vol, Session: s.info.Session})
	a.hold(tnv.Home{Ino: 5}, ids.First)
	if err := a.call(protocol.TypeNodeBeat, nil, &protocol.NodeBeat{Node: 11, Boot: 1, State: tnv.NodeAlive, Blocks: 100}); err != nil {
		t.Fatal(err)
	}
	a.stop() // its heartbeats say that it has no block
	eventually(t, "the orphan is deleted", func() bool {
		a.call(protocol.TypeNodeBeat, nil, &protocol.NodeBeat{Node: 11, Boot: 1, State: tnv.NodeAlive, Blocks: 100})
		b.refuses(nil)
		return len(a.held()) == 0
	})
}

// What of a group may be orphans is judged by a volume's share of its blocks.
func TestSizeOf(t *testing.T) {
	tr := &tracker{members: newMembers(1, []tnv.Group{{ID: 1, Name: "g1"}}, quiet()), directory: newDirectory(nil)}
	tr.members.announced(tnv.Node{ID: 11, Group: 1, Boot: 1}, 0, "g1", nil)
	if err := tr.members.beat(&protocol.NodeBeat{Node: 11, Boot: 1, State: tnv.NodeAlive, Blocks: 1000}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		volumes map[string]tnv.VolumeID
		want    uint64
	}{{nil, 1000}, {map[string]tnv.VolumeID{"a": 2}, 1000}, {map[string]tnv.VolumeID{"a": 2, "b": 3, "c": 4, "d": 5}, 250}} {
		tr.directory.cur = &meta.Directory{Volumes: tc.volumes}
		if n := tr.sizeOf(1); n != tc.want {
			t.Errorf("of %d volumes: %d blocks, want %d", len(tc.volumes), n, tc.want)
		}
	}
}
