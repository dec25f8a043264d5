package stored

import (
	"context"
	"path/filepath"
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
	k2.do(func() { k2.m.Epoch, k2.m.Version = 2, 1 }) // a newer owner's map counts
	eventually(t, "the newer map", func() bool { e, _ := n.d.cluster.version(); return e == 2 })
	k1.do(func() { k1.m.Version = 99 })
	time.Sleep(100 * time.Millisecond)
	if e, v := n.d.cluster.version(); e != 2 || v != 1 {
		t.Errorf("an older owner's map %d/%d was taken", e, v)
	}
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
