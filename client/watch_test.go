package client

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// A member that freezes costs a write and its fsync no more than it takes the
// tracker to call it lost, whichever member it is and whatever was under way.
func TestFrozenMemberAndSync(t *testing.T) {
	for frozen := range 2 {
		for _, before := range []bool{true, false} { // frozen before the write, or between it and the sync
			f := newFake(t, 1, 2)
			c := f.connect(f.config())
			h := create(t, c, "a")
			s := f.stores[frozen]
			if before {
				s.freeze()
			}
			_, err := h.WriteAt(ctx, randomBytes(1, 100_000), 0)
			must(t, err)
			if !before {
				must(t, h.Flush(ctx))
				s.freeze()
			}
			noticed := time.AfterFunc(time.Second, func() { s.seen(tnv.NodeLost) })
			start := time.Now()
			err = h.Sync(ctx, false)
			if took := time.Since(start); err != nil || took > 2500*time.Millisecond {
				t.Errorf("store %d frozen, before the write %v: fsync took %v: %v", frozen, before, took, err)
			}
			noticed.Stop()
			s.thaw()
			must(t, h.Close())
		}
	}
}

// Where all disks take long each is waited for: nothing fails, and every member
// has what was synced. Where one does, the other is enough.
func TestSlowMembersAndSync(t *testing.T) {
	for slow := 1; slow <= 2; slow++ {
		f := newFake(t, 1, 2)
		cfg := f.config()
		cfg.Timeout = 20 * time.Second
		c := f.connect(cfg)
		h := create(t, c, "a")
		for _, s := range f.stores[:slow] {
			s.seen(tnv.NodeSlow)
			s.mu.Lock()
			s.slow = 2 * putSilence
			s.mu.Unlock()
		}
		must(t, c.refreshMap(ctx)) // it is pushed as well
		_, err := h.WriteAt(ctx, randomBytes(1, 100_000), 0)
		must(t, err)
		start := time.Now()
		err = h.Sync(ctx, false)
		if took := time.Since(start); err != nil || slow == 1 && took > putSilence {
			t.Errorf("%d slow: fsync took %v: %v", slow, took, err)
		}
		for i, s := range f.stores {
			s.mu.Lock()
			want := 1
			if slow == 1 && i == 0 {
				want = 0
			}
			if len(s.blocks) != want {
				t.Errorf("%d slow: store %d has %d blocks, want %d", slow, i, len(s.blocks), want)
			}
			s.slow = 0
			s.mu.Unlock()
		}
		must(t, h.Close())
	}
}

// A map that is pushed on another connection than the one in use is not believed:
// it is of a tracker that was the owner.
func TestMapOfFormerOwner(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.connect(f.config())
	a, err := c.link.attach(ctx)
	must(t, err)
	m := *c.Map()
	m.Epoch += 7
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := &protocol.Server{Endpoint: &protocol.Endpoint{Key: f.key, Role: protocol.RoleTracker}, Log: quiet(),
		Handle: func(_ context.Context, p *protocol.Peer, _ *protocol.Frame) ([]any, error) {
			return []any{&protocol.OwnerReply{}}, p.Push(protocol.TypeMapChanged, &protocol.MapChanged{Map: m})
		}}
	go srv.Serve(ln)
	defer srv.Close()
	conn, err := c.link.connect(ctx, ln.Addr().String())
	must(t, err)
	defer conn.Close()
	must(t, conn.Call(ctx, protocol.TypeOwner, nil, &protocol.Owner{})) // the push is read before the reply
	if c.Map().Epoch == m.Epoch {
		t.Error("a former owner's map is believed")
	}
	use := func(a *attachment) {
		c.link.mu.Lock()
		defer c.link.mu.Unlock()
		c.link.cur = a
	}
	use(&attachment{conn: conn, sess: a.sess})
	err = conn.Call(ctx, protocol.TypeOwner, nil, &protocol.Owner{})
	use(a)
	must(t, err)
	if c.Map().Epoch != m.Epoch {
		t.Error("the owner's map is not believed")
	}
}
