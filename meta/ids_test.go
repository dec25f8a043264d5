package meta

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

// dying is an engine whose process ends at its n-th call that changes or syncs
// something: before that took effect, or behind it.
type dying struct {
	*mem.Engine
	calls  atomic.Int64
	at     int64
	behind bool
}

var errDied = errors.New("the process has died")

func (d *dying) die(effect func() error) error {
	n := d.calls.Add(1)
	switch {
	case n > d.at, n == d.at && !d.behind:
		return errDied
	}
	err := effect()
	if n == d.at {
		return errDied
	}
	return err
}

func (d *dying) Apply(ctx context.Context, f kv.Fence, b []kv.Batch) error {
	return d.die(func() error { return d.Engine.Apply(ctx, f, b) })
}

func (d *dying) Sync(ctx context.Context) error {
	return d.die(func() error { return d.Engine.Sync(ctx) })
}

// take takes ids of every kind until the engine dies, and notes them.
func (h *harness) take(taken map[string]map[uint64]bool) {
	note := func(kind string, first, n uint64) {
		if taken[kind] == nil {
			taken[kind] = map[uint64]bool{}
		}
		for id := first; id < first+n; id += max(1, n/50) { // of many some: two ranges that overlap begin alike
			if taken[kind][id] {
				h.t.Fatalf("%s %d was given out before", kind, id)
			}
			taken[kind][id] = true
		}
	}
	for i := range 3 {
		if first, err := h.v.TakeIDs(context.Background(), 40000); err == nil { // more than half a range
			note("id", first, 40000)
		}
		info, err := h.v.OpenSession(context.Background(), &protocol.OpenSession{}, nil)
		if err != nil {
			return
		}
		note("session", uint64(info.Session), 1)
		h.session, h.seq = info.Session, 0
		if rep, err := do[protocol.GrantReply](h, protocol.TypeGrant, &protocol.Grant{Count: 256}); err == nil {
			note("block", uint64(rep.First), uint64(rep.Count))
		}
		if rep, err := do[protocol.CreateReply](h, protocol.TypeCreate, &protocol.Create{Parent: tnv.RootIno, Name: fmt.Sprintf("%d-%d", h.session, i)}); err == nil {
			note("inode", uint64(rep.Attr.Ino), 1)
		}
	}
}

// P10: no id is given out twice, at whatever call of the engine the process dies, and
// though the machine loses all that was not synced.
func TestIDsSurviveAnyCrash(t *testing.T) {
	for _, behind := range []bool{false, true} {
		for at := int64(1); at < 30; at++ {
			engine := mem.New(mem.Options{})
			taken := map[string]map[uint64]bool{}
			for life := range 4 {
				d := &dying{Engine: engine, at: at, behind: behind}
				if life == 3 {
					d.at = 1 << 40 // the last one lives
				}
				seen, err := engine.Lease(context.Background(), testVol)
				if err != nil {
					t.Fatal(err)
				}
				lease, err := engine.Acquire(context.Background(), seen, "test", time.Second)
				if err != nil {
					t.Fatal(err)
				}
				h := &harness{t: t, engine: d, cluster: twoMembers()}
				h.v, err = OpenVolume(context.Background(), d, lease, "media", Config{Cluster: h.cluster, Log: quiet(), LeaseTTL: time.Millisecond})
				if err == nil {
					h.take(taken)
					h.v.Close()
				} else if life == 3 {
					t.Fatal(err)
				}
				engine = engine.PowerLoss(0)
			}
			if len(taken["id"]) == 0 || len(taken["session"]) == 0 || len(taken["block"]) == 0 || len(taken["inode"]) == 0 {
				t.Fatalf("call %d: ids taken: %d, %d, %d, %d", at, len(taken["id"]), len(taken["session"]), len(taken["block"]), len(taken["inode"]))
			}
		}
	}
}

func TestTakeIDsLimits(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	for _, n := range []uint64{0, protocol.MaxIDs + 1} {
		_, err := h.v.TakeIDs(context.Background(), n)
		kindIs(t, err, tnv.KindInvalid)
	}
	first, err := h.v.TakeIDs(context.Background(), protocol.MaxIDs)
	h.must(err)
	next, err := h.v.TakeIDs(context.Background(), 1)
	h.must(err)
	if first == 0 || next != first+protocol.MaxIDs {
		t.Errorf("ids from %d on, then %d", first, next)
	}
}
