package trackerd

import (
	"context"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Who has a session hears of members that come and go at once, and unasked.
func TestMapIsPushed(t *testing.T) {
	r := run(t, Config{Dir: t.TempDir(), Key: protocol.NewKey()})
	maps := make(chan tnv.Map, 64)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := protocol.DialClient(ctx, &protocol.Endpoint{Key: r.cfg.Key, Role: protocol.RoleClient}, r.addr, func(f *protocol.Frame) {
		var is protocol.MapChanged
		if f.Type != protocol.TypeMapChanged {
			return
		}
		if err := f.Decode(&is); err != nil {
			t.Error(err)
		}
		maps <- is.Map
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var info protocol.SessionInfo
	if err := c.Call(ctx, protocol.TypeOpenSession, &info, &protocol.OpenSession{Volume: "media"}); err != nil {
		t.Fatal(err)
	}
	a := r.newStore(11, "h1")
	a.live("g1")
	version := uint64(0)
	hear := func(what string, state tnv.NodeState) {
		t.Helper()
		for {
			select {
			case m := <-maps:
				if m.Version < version {
					t.Errorf("version %d behind %d", m.Version, version)
				}
				version = m.Version
				if n := m.Node(11); n != nil && n.State == state {
					return
				}
			case <-ctx.Done():
				t.Fatalf("nothing is heard of: %s", what)
			}
		}
	}
	hear("a member that joins", tnv.NodeAlive)
	a.stop()
	slow := protocol.NodeBeat{Node: 11, Boot: 1, State: tnv.NodeSlow, Capacity: 100}
	if err := a.call(protocol.TypeNodeBeat, nil, &slow); err != nil {
		t.Fatal(err)
	}
	hear("a slow member", tnv.NodeSlow)
	hear("a lost member", tnv.NodeLost)
}
