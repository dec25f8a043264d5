package meta

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tnvfs/tnv/protocol"
)

// Random operations on ranges against a model that keeps a mode per byte. The
// last byte of the model stands for all up to LockEOF.
func TestLockRanges(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	const size = 24
	at := func(i int) uint64 {
		if i == size-1 {
			return protocol.LockEOF
		}
		return uint64(i)
	}
	for range 2000 {
		var model [size]protocol.LockMode
		var own []lockRange
		var story []lockRange
		for range 12 {
			a, b := rnd.IntN(size), rnd.IntN(size)
			r := lockRange{uint64(min(a, b)), at(max(a, b)), protocol.LockMode(rnd.IntN(3))}
			if min(a, b) == size-1 {
				r.start = size - 1
			}
			story = append(story, r)
			for i := min(a, b); i <= max(a, b); i++ {
				model[i] = r.mode
			}
			own = setRange(own, r)
			if !wellFormed(own) {
				t.Fatalf("%v give %v", story, own)
			}
			for i := range size {
				if got := modeAt(own, uint64(i)); got != model[i] {
					t.Fatalf("%v give %v: byte %d is %d, want %d", story, own, i, got, model[i])
				}
			}
			if got := modeAt(own, protocol.LockEOF); got != model[size-1] {
				t.Fatalf("%v give %v: the last byte of all is %d, want %d", story, own, got, model[size-1])
			}
			checkExcludes(t, own, model[:], lockRange{uint64(min(a, b)), uint64(max(a, b)), protocol.LockShared + protocol.LockMode(rnd.IntN(2))})
		}
	}
}

func modeAt(l []lockRange, b uint64) protocol.LockMode {
	for _, r := range l {
		if r.start <= b && b <= r.end {
			return r.mode
		}
	}
	return protocol.LockNone
}

func checkExcludes(t *testing.T, own []lockRange, model []protocol.LockMode, r lockRange) {
	t.Helper()
	want := false
	for i := r.start; i <= r.end; i++ {
		want = want || model[i] != protocol.LockNone && (model[i] == protocol.LockExclusive || r.mode == protocol.LockExclusive)
	}
	if got := excludes(own, r); (got != nil) != want {
		t.Fatalf("%v against %v: %v, want %v", r, own, got, want)
	}
}
