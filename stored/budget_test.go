package stored

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
)

func TestBudget(t *testing.T) {
	ctx := context.Background()
	b := newBudget("test", 10)
	if err := b.acquire(ctx, 8, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := b.acquire(ctx, 3, 20*time.Millisecond); tnv.KindOf(err) != tnv.KindBusy {
		t.Fatalf("more than there is: %v", err)
	}
	large, small := make(chan error, 1), make(chan error, 1)
	go func() { large <- b.acquire(ctx, 9, 10*time.Second) }()
	eventually(t, "the large one waits", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.waiting) == 1 })
	go func() { small <- b.acquire(ctx, 1, 10*time.Second) }()
	eventually(t, "the small one waits behind it", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.waiting) == 2 })
	b.release(8)
	if err := <-large; err != nil {
		t.Fatal(err)
	}
	if err := <-small; err != nil {
		t.Fatal(err)
	}
	if b.used() != 10 {
		t.Fatalf("used %d", b.used())
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.acquire(canceled, 1, time.Minute); err == nil {
		t.Fatal("an ended context")
	}
	b.release(10)
	if err := b.acquire(ctx, 1000, time.Second); err != nil { // more than the whole: all of it
		t.Fatal(err)
	}
	b.release(1000)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			for range 100 {
				if b.acquire(ctx, int64(1+i%10), time.Millisecond) == nil {
					if u := b.used(); u > 10 || u < 1 {
						t.Errorf("used %d of 10", u)
					}
					b.release(int64(1 + i%10))
				}
			}
		})
	}
	wg.Wait()
	if b.used() != 0 {
		t.Fatalf("used %d at the end", b.used())
	}
}

func TestMemoryAddsUp(t *testing.T) {
	for _, n := range []int64{minMemory, defaultMemory} {
		m := newMemory(n)
		sum := m.gets.size + m.copy.size
		for _, b := range m.puts {
			sum += b.size
		}
		if sum > n || m.copy.size < tnv.MaxBlockSize || m.forPut(7).size < tnv.MaxBlockSize || m.forPut(1).size < tnv.MaxBlockSize {
			t.Errorf("%d bytes are shared out as %d", n, sum)
		}
	}
}

func TestLimiter(t *testing.T) {
	l := limiter{rate: 1 << 20}
	began := time.Now()
	for range 6 { // a second's worth at once, then half a second
		if err := l.wait(context.Background(), 1<<18); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 400*time.Millisecond || took > 2*time.Second {
		t.Errorf("1.5 MiB at 1 MiB/s took %v", took)
	}
}
