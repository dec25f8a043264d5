package client

import (
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// When all members of all groups answer and are full, a write is told so, and
// does not wait; when one of them is away it waits for that one.
func TestEverythingFull(t *testing.T) {
	f := newFake(t, 2, 2)
	cfg := f.config()
	cfg.Timeout = 20 * time.Second
	c := f.connect(cfg)
	for _, s := range f.stores {
		s.seen(tnv.NodeFull)
	}
	must(t, c.refreshMap(ctx))
	h := create(t, c, "a")
	start := time.Now()
	_, err := h.WriteAt(ctx, []byte("no room"), 0)
	if err == nil {
		err = h.Flush(ctx)
	}
	if tnv.KindOf(err) != tnv.KindNoSpace || time.Since(start) > 5*time.Second {
		t.Fatalf("after %v: %v", time.Since(start), err)
	}
	h.Close()

	f.stores[0].seen(tnv.NodeLost)
	must(t, c.refreshMap(ctx))
	h = create(t, c, "b")
	_, err = h.WriteAt(ctx, []byte("room soon"), 0)
	must(t, err)
	back := time.AfterFunc(700*time.Millisecond, func() {
		for _, s := range f.stores {
			s.seen(tnv.NodeAlive)
		}
	})
	defer back.Stop()
	must(t, h.Flush(ctx))
	must(t, h.Close())
}

// One member of the only group has no space: a block that only the other one
// has can not be committed, and whoever writes is told why.
func TestOneMemberFull(t *testing.T) {
	for name, fill := range map[string]func(s *fakeStore){
		"by the map":     func(s *fakeStore) { s.seen(tnv.NodeFull) },
		"by its answers": func(s *fakeStore) { s.refuse = noSpaceForPut },
	} {
		f := newFake(t, 1, 2)
		cfg := f.config()
		cfg.Timeout = 20 * time.Second
		c := f.connect(cfg)
		fill(f.stores[1])
		must(t, c.refreshMap(ctx)) // it would come with the next keep-alive
		h := create(t, c, "a")
		start := time.Now()
		_, err := h.WriteAt(ctx, []byte("no room"), 0)
		if err == nil {
			err = h.Flush(ctx)
		}
		if tnv.KindOf(err) != tnv.KindNoSpace || time.Since(start) > 5*time.Second {
			t.Errorf("%s: after %v: %v", name, time.Since(start), err)
		}
		h.Close()
	}
}

func noSpaceForPut(typ protocol.Type) error {
	if typ == protocol.TypePut {
		return tnv.E("put", tnv.KindNoSpace, "full")
	}
	return nil
}
