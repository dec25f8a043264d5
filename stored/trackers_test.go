package stored

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

func TestAnnounce(t *testing.T) {
	k, n := group(t, 1, quiet)
	a := newAsker(t, k.key, protocol.RoleClient)
	k.do(func() {
		if len(k.announces) != 1 {
			t.Fatalf("%d announcements", len(k.announces))
		}
		r := k.announces[0]
		if r.Node.ID != n[0].d.node || r.Node.Boot == 0 || r.Node.Addr != n[0].addr || r.Node.Host != "test" || r.Group != "g1" || !r.New || !r.SameHost || r.Node.Capacity == 0 {
			t.Errorf("announced %+v", r)
		}
	})
	k.do(func() { k.forget = true }) // a tracker that was restarted
	eventually(t, "a second announcement", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.announces) == 2
	})
	k.do(func() {
		if k.announces[1].New {
			t.Error("a store that was announced calls itself new")
		}
	})
	a.mustPut(1, 5000, true, n[0])
	eventually(t, "a heartbeat with a block", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		b := k.beats[n[0].d.node]
		return b.Blocks == 1 && b.State == tnv.NodeAlive && b.Boot == n[0].d.boot && b.MapVersion == k.m.Version && b.Capacity > 0
	})
	n[0].stop()
	k.do(func() {
		if !k.left[n[0].d.node] {
			t.Error("no word on leaving")
		}
	})
	again := startNode(t, k, n[0].cfg.Dir, quiet)
	if again.d.node != n[0].d.node || again.d.boot <= n[0].d.boot {
		t.Errorf("node %v boot %d came back as %v boot %d", n[0].d.node, n[0].d.boot, again.d.node, again.d.boot)
	}
	if err := a.holds(again, 1, 5000); err != nil {
		t.Error(err)
	}
}

func TestAnnounceToEveryTracker(t *testing.T) {
	key := protocol.NewKey()
	k1, k2 := newFakeTracker(t, key), newFakeTracker(t, key)
	n := startNode(t, k1, filepath.Join(t.TempDir(), "s"), quiet, func(c *Config) {
		c.Trackers = []string{"127.0.0.1:1", k1.addr, k2.addr} // one is down
	})
	eventually(t, "heartbeats at both", func() bool {
		k1.mu.Lock()
		defer k1.mu.Unlock()
		k2.mu.Lock()
		defer k2.mu.Unlock()
		return k1.beats[n.d.node].Boot != 0 && k2.beats[n.d.node].Boot != 0
	})
	k2.do(func() { k2.m.Epoch, k2.m.Version = 2, 1 }) // it was started anew
	eventually(t, "the map of the new run", func() bool { e, _ := n.d.cluster.version(k2.addr); return e == 2 })
	k1.do(func() { k1.m.Version = 99 })
	eventually(t, "the other's newer map", func() bool { _, v := n.d.cluster.version(k1.addr); return v == 99 })
	if e, v := n.d.cluster.version(k2.addr); e != 2 || v != 1 {
		t.Errorf("one tracker's map became %d/%d by another's", e, v)
	}
}

// A tracker that a tracker tells of is announced to like those of the configuration.
func TestTrackersToldOf(t *testing.T) {
	key := protocol.NewKey()
	k1, k2 := newFakeTracker(t, key), newFakeTracker(t, key)
	k1.others = []string{k1.addr, k2.addr, "not an address"}
	n := startNode(t, k1, filepath.Join(t.TempDir(), "s"), quiet)
	eventually(t, "heartbeats at both", func() bool {
		k2.mu.Lock()
		defer k2.mu.Unlock()
		return k2.beats[n.d.node].Boot != 0
	})
	if got := len(n.d.trackers.all()); got != 2 {
		t.Errorf("%d trackers are announced to, want 2", got)
	}
}

// Of maps from several trackers a peer counts that any of them hears of, in its newest boot.
func TestMapsOfTrackers(t *testing.T) {
	c := newCluster(1)
	says := func(version uint64, nodes ...tnv.Node) *tnv.Map {
		for i := range nodes {
			nodes[i].Group, nodes[i].Addr = 7, "a:1"
		}
		return &tnv.Map{Epoch: 1, Version: version, Groups: []tnv.Group{{ID: 7, Nodes: nodes}}}
	}
	alive := func(id tnv.NodeID, boot tnv.BootID) tnv.Node {
		return tnv.Node{ID: id, Boot: boot, State: tnv.NodeAlive}
	}
	me := alive(1, 1)
	want := func(what string, boots ...tnv.BootID) {
		t.Helper()
		var got []tnv.BootID
		for _, p := range c.peers() {
			got = append(got, p.Boot)
		}
		if !slices.Equal(got, boots) {
			t.Errorf("%s: peers of boots %v, want %v", what, got, boots)
		}
	}
	returned := func() bool {
		select {
		case <-c.returned:
			return true
		default:
			return false
		}
	}
	c.update("a", says(1, me, alive(2, 4)))
	want("one tracker", 4)
	if !returned() {
		t.Error("nobody was told of the first peer")
	}
	c.update("b", says(1, me, tnv.Node{ID: 2, Boot: 4}, alive(3, 1)))
	want("one does not hear it", 4, 1)
	returned()
	c.update("b", says(1, me))
	want("an old map", 4, 1)
	c.update("b", says(2, me, alive(2, 5)))
	want("a restart that one knows of", 5)
	if !returned() {
		t.Error("nobody was told of the restart")
	}
	c.gone("b")
	want("one tracker is gone", 4)
	c.gone("a")
	want("both are", 4)
	c.update("b", says(1, me, alive(3, 1)))
	want("one is back", 1)
}

// refused runs a storage daemon that a tracker refuses, and gives why it ended.
func refused(t *testing.T, k *fakeTracker, key protocol.Key, dir string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	err := Run(ctx, Config{Dir: dir, Trackers: []string{k.addr}, Key: key, Log: testLog(t)})
	if ctx.Err() != nil {
		t.Error("the daemon went on")
	}
	return err
}

func TestTrackerRefuses(t *testing.T) {
	k := newFakeTracker(t, protocol.NewKey())
	wrong := k.key
	wrong.Secret = make([]byte, 32)
	if err := refused(t, k, wrong, filepath.Join(t.TempDir(), "s")); tnv.KindOf(err) != tnv.KindAuth {
		t.Errorf("wrong key: %v", err)
	}
	if err := refused(t, k, protocol.NewKey(), filepath.Join(t.TempDir(), "s")); tnv.KindOf(err) != tnv.KindWrongCluster {
		t.Errorf("another cluster's tracker: %v", err)
	}
	k.do(func() { k.refuse = tnv.E("announce", tnv.KindConflict, "the host has a member already") })
	if err := refused(t, k, k.key, filepath.Join(t.TempDir(), "s")); tnv.KindOf(err) != tnv.KindConflict {
		t.Errorf("refused for good: %v", err)
	}
}

func TestTrackerComesLater(t *testing.T) {
	k := newFakeTracker(t, protocol.NewKey())
	k.do(func() { k.refuse = tnv.E("announce", tnv.KindUnavailable, "not yet") })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{Dir: filepath.Join(t.TempDir(), "s"), Trackers: []string{k.addr}, Key: k.key, Log: testLog(t)})
	}()
	time.Sleep(300 * time.Millisecond)
	k.do(func() { k.refuse = nil })
	eventually(t, "announced", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(k.announces) == 1
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
