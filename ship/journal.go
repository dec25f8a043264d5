package ship

import (
	"context"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// maxBuffer bounds the bytes that wait to be shipped. Where the groups take less than
// comes in the log has a gap, and a new checkpoint is made when they do again.
const maxBuffer = 32 << 20

// Journal is an engine that notes what was applied to the engine below it.
//
// A batch is noted before Apply returns: what was acknowledged is shipped with
// the next piece. Batches of one volume are noted in their order.
type Journal struct {
	kv.Engine

	mu     sync.Mutex
	on     bool
	buf    []byte          // of the log, whole batches
	at     uint64          // how many calls of Apply were noted
	calls  uint64          // how many have begun
	under  map[uint64]bool // those that have not ended
	broken bool            // something is missing between buf and what was taken before
}

// NewJournal puts a journal before an engine. It notes nothing before the Shipper is there.
func NewJournal(below kv.Engine) *Journal {
	return &Journal{Engine: below, under: map[uint64]bool{}}
}

// Apply implements kv.Engine.
func (j *Journal) Apply(ctx context.Context, fence kv.Fence, batches []kv.Batch) error {
	j.mu.Lock()
	j.calls++
	call := j.calls
	j.under[call] = true
	j.mu.Unlock()
	err := j.Engine.Apply(ctx, fence, batches)
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.under, call)
	j.at++
	switch {
	case !j.on:
	case err != nil:
		j.breakLocked() // it may have been applied
	default:
		for i := range batches {
			j.noteLocked(fence.Vol, &batches[i])
		}
	}
	return err
}

func (j *Journal) breakLocked() { j.buf, j.broken = nil, true }

func (j *Journal) noteLocked(vol tnv.VolumeID, b *kv.Batch) {
	switch {
	case j.broken:
	case len(j.buf) > maxBuffer:
		j.breakLocked()
	default:
		j.buf = appendBatch(j.buf, vol, b)
	}
}

// position is how much was noted.
func (j *Journal) position() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.at
}

// settle returns a position that covers all that a reader of the engine can have seen
// before the call: also what was being applied, and was not noted yet.
func (j *Journal) settle(ctx context.Context) (uint64, error) {
	j.mu.Lock()
	last := j.calls
	j.mu.Unlock()
	for {
		j.mu.Lock()
		at, waiting := j.at, false
		for call := range j.under {
			waiting = waiting || call <= last
		}
		j.mu.Unlock()
		if !waiting {
			return at, nil
		}
		if pause(ctx, time.Millisecond); ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
}

// begin has everything noted from now on.
func (j *Journal) begin() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.on, j.buf, j.broken = true, nil, false
}

// take hands over what waits, cut into pieces, and up to which position it reaches.
// broken: there is a gap before it, and nothing comes until begin.
func (j *Journal) take() (parts [][]byte, at uint64, broken bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for b := j.buf; len(b) > 0; {
		n := min(len(b), pieceBytes)
		parts, b = append(parts, b[:n]), b[n:]
	}
	j.buf = nil
	return parts, j.at, j.broken
}
