package mem_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/kvtest"
	"github.com/tnvfs/tnv/kv/mem"
)

func open(t testing.TB) *kvtest.Store {
	e := mem.New(mem.Options{})
	next := func(n *mem.Engine) kv.Engine { e = n; return n }
	return &kvtest.Store{
		Engine:    e,
		Reopen:    func(testing.TB) kv.Engine { return next(e.Reopen()) },
		Kill:      func(testing.TB) kv.Engine { return next(e.Kill()) },
		PowerLoss: func(_ testing.TB, r *rand.Rand) kv.Engine { return next(e.PowerLoss(r.IntN(e.Unsynced() + 1))) },
	}
}

func TestConformance(t *testing.T) { kvtest.Run(t, open) }
func BenchmarkEngine(b *testing.B) { kvtest.Bench(b, open) }

func TestHooks(t *testing.T) {
	ctx := context.Background()
	e := mem.New(mem.Options{Shared: true})
	if e.Exclusive() {
		t.Error("a shared engine says that it is exclusive")
	}
	l, err := e.Acquire(ctx, kv.Lease{Vol: 1}, "t", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	f := kv.Fence{Vol: 1, Epoch: l.Epoch}
	apply := func() error {
		return e.Apply(ctx, f, []kv.Batch{{Seq: 1, Writes: []kv.Write{{Key: []byte("k"), Value: []byte("v")}}}})
	}
	broken := errors.New("broken")
	e.FailApply(broken, false)
	if err := apply(); err != broken {
		t.Errorf("error is %v", err)
	}
	if seq, _ := e.Seq(ctx, 1); seq != 0 {
		t.Errorf("a failed batch was applied: %d", seq)
	}
	e.FailApply(broken, true)
	if err := apply(); err != broken {
		t.Errorf("error is %v", err)
	}
	if seq, _ := e.Seq(ctx, 1); seq != 1 {
		t.Errorf("the batch with an open outcome was not applied: %d", seq)
	}
	p := e.PauseApply()
	done := make(chan error)
	go func() { done <- e.Apply(ctx, f, []kv.Batch{{Seq: 2}}) }()
	<-p.Reached()
	if seq, _ := e.Seq(ctx, 1); seq != 1 {
		t.Errorf("a held batch was applied: %d", seq)
	}
	next := e.PowerLoss(0)
	p.Resume()
	if err := <-done; !errors.Is(err, kv.ErrClosed) {
		t.Errorf("a dead engine answered %v", err)
	}
	if seq, _ := next.Seq(ctx, 1); seq != 0 {
		t.Errorf("an unsynced batch survived: %d", seq)
	}
}
