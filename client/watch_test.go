package client

import (
	"testing"
	"time"

	"github.com/tnvfs/tnv"
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
