package trackerd

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

func (r *running) in(volume string) *session {
	r.t.Helper()
	s := &session{asker: r.dial(protocol.RoleClient)}
	s.must(protocol.TypeOpenSession, &s.info, &protocol.OpenSession{Volume: volume})
	return s
}

func (a *asker) volumes() (names []string) {
	a.t.Helper()
	for after, more := "", true; more; {
		var rep protocol.ListVolumesReply
		a.must(protocol.TypeListVolumes, &rep, &protocol.ListVolumes{After: after, Limit: 2})
		for _, v := range rep.Volumes {
			names = append(names, v.Name+" "+v.State)
			after = v.Name
		}
		more = rep.More
	}
	return names
}

func wantVolumes(t *testing.T, a *asker, want ...string) {
	t.Helper()
	if got := a.volumes(); !slices.Equal(got, want) {
		t.Fatalf("volumes %q, want %q", got, want)
	}
}

// Volumes are made, deleted, brought back, renamed and set while the tracker runs, and
// are so for the next one.
func TestVolumes(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	tool := r.dial(protocol.RoleTool)
	kindIs(t, r.dial(protocol.RoleClient).call(protocol.TypeCreateVolume, nil, &protocol.CreateVolume{Name: "x"}), tnv.KindNotPermitted)
	var a, b protocol.VolumeInfo
	tool.must(protocol.TypeCreateVolume, &a, &protocol.CreateVolume{Name: "a"})
	tool.must(protocol.TypeCreateVolume, &b, &protocol.CreateVolume{Name: "b"})
	for _, name := range []string{"a", "media", "", "x/y", ".."} {
		if err := tool.call(protocol.TypeCreateVolume, nil, &protocol.CreateVolume{Name: name}); err == nil {
			t.Errorf("a volume %q was made", name)
		}
	}
	wantVolumes(t, tool, "a active", "b active", "media active")
	s := r.in("a")
	s.change(protocol.TypeMkdir, nil, &protocol.Mkdir{Parent: tnv.RootIno, Name: "kept"})

	var is protocol.VolumeInfo
	tool.must(protocol.TypeDeleteVolume, &is, &protocol.DeleteVolume{Name: "a", DelayMs: 3600_000})
	if d := time.Until(time.Unix(0, is.PurgeAt)); d < 50*time.Minute || d > time.Hour || is.State != "deleted" {
		t.Errorf("deleted: %+v", is)
	}
	again := r.dial(protocol.RoleClient)
	kindIs(t, again.call(protocol.TypeOpenSession, nil, &protocol.OpenSession{Volume: "a"}), tnv.KindNotExist)
	kindIs(t, again.call(protocol.TypeGetAttr, nil, s.head(0, 0), &protocol.GetAttr{Ino: tnv.RootIno}), tnv.KindNotOwner)
	kindIs(t, tool.call(protocol.TypeCreateVolume, nil, &protocol.CreateVolume{Name: "a"}), tnv.KindExist)
	kindIs(t, tool.call(protocol.TypeRenameVolume, nil, &protocol.RenameVolume{Name: "b", To: "a"}), tnv.KindExist)

	r = r.again() // a deleted volume stays so, and comes back with all that it held
	tool = r.dial(protocol.RoleTool)
	wantVolumes(t, tool, "a deleted", "b active", "media active")
	tool.must(protocol.TypeUndeleteVolume, nil, &protocol.UndeleteVolume{Name: "a"})
	kindIs(t, tool.call(protocol.TypeUndeleteVolume, nil, &protocol.UndeleteVolume{Name: "a"}), tnv.KindConflict)
	s = r.in("a")
	s.must(protocol.TypeLookup, nil, s.head(0, 0), &protocol.Lookup{Parent: tnv.RootIno, Name: "kept"})

	tool.must(protocol.TypeRenameVolume, nil, &protocol.RenameVolume{Name: "a", To: "c"})
	s.change(protocol.TypeMkdir, nil, &protocol.Mkdir{Parent: tnv.RootIno, Name: "after"}) // who uses it goes on
	old := r.dial(protocol.RoleClient)
	var info protocol.SessionInfo
	old.must(protocol.TypeOpenSession, &info, &protocol.OpenSession{Volume: "a", Resume: s.info.Session})
	if !info.Resumed || info.Vol != a.ID {
		t.Errorf("by its former name the session is %+v", info)
	}
	kindIs(t, tool.call(protocol.TypeCreateVolume, nil, &protocol.CreateVolume{Name: "a"}), tnv.KindExist)
	tool.must(protocol.TypeRenameVolume, nil, &protocol.RenameVolume{Name: "c", To: "a"}) // and back
	tool.must(protocol.TypeRenameVolume, nil, &protocol.RenameVolume{Name: "a", To: "c"})

	tool.must(protocol.TypeSetVolume, nil, &protocol.SetVolume{Name: "c", Set: protocol.SetMaxFiles, Info: protocol.VolumeInfo{MaxFiles: 4}})
	s.change(protocol.TypeMkdir, nil, &protocol.Mkdir{Parent: tnv.RootIno, Name: "fourth"})
	s.seq++
	kindIs(t, s.call(protocol.TypeMkdir, nil, s.head(0, s.seq), &protocol.Mkdir{Parent: tnv.RootIno, Name: "fifth"}), tnv.KindQuota)
	s.change(protocol.TypeRmdir, nil, &protocol.Rmdir{Parent: tnv.RootIno, Name: "fourth"})

	r = r.again()
	tool = r.dial(protocol.RoleTool)
	wantVolumes(t, tool, "b active", "c active", "media active")
	var list protocol.ListVolumesReply
	tool.must(protocol.TypeListVolumes, &list, &protocol.ListVolumes{After: "b", Limit: 1})
	if len(list.Volumes) != 1 || list.Volumes[0].MaxFiles != 4 || list.Volumes[0].ID != a.ID || !list.More {
		t.Errorf("after a restart: %+v", list)
	}
	kindIs(t, tool.call(protocol.TypeSetVolume, nil, &protocol.SetVolume{Name: "none"}), tnv.KindNotExist)
}

// A volume whose delay is over goes, its name is free, and its id is not used again.
func TestVolumePurged(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	tool := r.dial(protocol.RoleTool)
	var first, second protocol.VolumeInfo
	tool.must(protocol.TypeCreateVolume, &first, &protocol.CreateVolume{Name: "a"})
	s := r.in("a")
	s.change(protocol.TypeMkdir, nil, &protocol.Mkdir{Parent: tnv.RootIno, Name: "d"})
	tool.must(protocol.TypeDeleteVolume, nil, &protocol.DeleteVolume{Name: "a"})
	eventually(t, "it is gone", func() bool { return len(tool.volumes()) == 1 })
	tool.must(protocol.TypeCreateVolume, &second, &protocol.CreateVolume{Name: "a"})
	if second.ID == first.ID {
		t.Errorf("id %d is used again", first.ID)
	}
	s = r.in("a")
	var list protocol.ReadDirReply
	s.must(protocol.TypeReadDir, &list, s.head(0, 0), &protocol.ReadDir{Ino: tnv.RootIno, Limit: 10})
	if len(list.Entries) != 0 {
		t.Errorf("a new volume has %+v", list.Entries)
	}
}

// Many volumes in one tracker: what an idle one costs is bounded.
func TestManyVolumesCreated(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	tool := r.dial(protocol.RoleTool)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	const n = 130
	before := heap()
	for i := range n {
		tool.must(protocol.TypeCreateVolume, nil, &protocol.CreateVolume{Name: fmt.Sprintf("v%04d", i)})
	}
	each := (heap() - before) / n
	t.Logf("an idle volume costs %d KiB", each>>10)
	if each > 96<<10 {
		t.Errorf("an idle volume costs %d bytes", each)
	}
	began := time.Now()
	r = r.again()
	t.Logf("a tracker of %d volumes is stopped and started in %v", n, time.Since(began))
	if got := len(r.dial(protocol.RoleTool).volumes()); got != n+1 {
		t.Errorf("%d volumes of %d", got, n+1)
	}
	s := r.in("v0123")
	s.change(protocol.TypeMkdir, nil, &protocol.Mkdir{Parent: tnv.RootIno, Name: "d"})
}
