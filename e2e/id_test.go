package e2e

import (
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Ids for applications are unique, though the tracker is killed again and again while
// they are taken.
func TestIDsUnique(t *testing.T) {
	c := Start(t, Options{NoMount: true, NoHTTP: true})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := map[string]bool{}
	calls := 0
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r := Exec(time.Minute, Program("tnv"), "id", "-n", "30000", "--dir", c.Dir)
				mu.Lock()
				for id := range strings.Lines(r.Out) { // those of a call that failed half-way count, too
					if taken[id] {
						t.Errorf("id %s was taken before", strings.TrimSpace(id))
					}
					taken[id] = true
				}
				if r.Code == 0 {
					calls++
				}
				mu.Unlock()
			}
		})
	}
	for range 4 {
		time.Sleep(400 * time.Millisecond)
		c.Kill(Tracker, syscall.SIGKILL)
		c.Restart()
	}
	time.Sleep(300 * time.Millisecond)
	close(stop)
	wg.Wait()
	if calls < 4 || len(taken) < calls*30000 {
		t.Errorf("%d calls have taken %d ids", calls, len(taken))
	}
	t.Logf("%d ids in %d calls", len(taken), calls)
}
