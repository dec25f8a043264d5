package meta

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Ids are handed out from ranges that were reserved on disk before their first
// use; after a restart the rest of the range is skipped. So no id is given
// twice, whatever crashes.
type idRange struct {
	next, limit uint64
	step        uint64
}

const (
	idIno     = "ino"
	idBlock   = "block"
	idSession = "session"
	idApp     = "app" // what applications take
)

// idSeq is no id, but is kept like one: it is added to the engine's numbers of batches.
// A volume that moved to another engine, or was restored, goes on above all numbers
// that it ever had.
const idSeq = "seq"

// idEpoch is kept like an id, too: the epoch in which the volume was opened last. A
// copy of the records has it, which knows nothing of leases.
const idEpoch = "epoch"

var idSteps = map[string]uint64{idIno: 1 << 16, idBlock: 1 << 20, idSession: 1 << 8, idApp: 1 << 16}

// loadIDs reads the counters: what was reserved before is skipped.
func (s *store) loadIDs(ctx context.Context) error {
	for name, step := range idSteps {
		first := uint64(grantSize) // a multiple, so that grants are aligned
		switch name {
		case idIno:
			first = uint64(tnv.RootIno) + 1
		case idApp:
			first = 1
		}
		err := s.read(ctx, func(tx *Tx) error {
			c, err := getAs[counter](tx, counterKey(name))
			if err == nil && c != nil {
				first = c.Next
			}
			return err
		})
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.ids[name] = &idRange{next: first, limit: first, step: step}
		s.mu.Unlock()
	}
	return s.mutate(ctx, func(tx *Tx) error {
		tx.set(counterKey(idEpoch), &counter{uint64(s.lease.Epoch)})
		return nil
	})
}

// newIDs takes n ids that follow each other; the first is returned.
func (tx *Tx) newIDs(name string, n uint64) (uint64, error) {
	r := tx.s.ids[name]
	next, ok := tx.ids[name]
	if !ok {
		next = r.next
	}
	if next+n > r.limit {
		tx.lackIDs = append(tx.lackIDs, name)
		return 0, errMiss
	}
	if tx.ids == nil {
		tx.ids = map[string]uint64{}
	}
	tx.ids[name] = next + n
	return next, nil
}

// reserve makes more ids of a kind available.
func (s *store) reserve(ctx context.Context, name string) error {
	var limit uint64
	err := s.mutate(ctx, func(tx *Tx) error {
		limit = s.ids[name].limit + s.ids[name].step
		tx.set(counterKey(name), &counter{limit})
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.engine.Sync(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Two reservations at once both count from the same limit: the larger holds.
	s.ids[name].limit = max(s.ids[name].limit, limit)
	return nil
}

// skipIDs has no id of a kind below first given out from now on.
func (s *store) skipIDs(ctx context.Context, name string, first uint64) error {
	s.mu.Lock()
	r := s.ids[name]
	if r.limit >= first {
		s.mu.Unlock()
		return nil
	}
	r.next, r.limit = first, first
	s.mu.Unlock()
	return s.reserve(ctx, name)
}

// TakeIDs gives n ids to an application: the first of them. They come from a range that
// is on disk as taken, so nobody gets them again, whatever crashes; what an application
// that died has not used is lost. Nothing is written for them but that range.
func (v *Volume) TakeIDs(ctx context.Context, n uint64) (uint64, error) {
	if n < 1 || n > protocol.MaxIDs {
		return 0, tnv.E("take ids", tnv.KindInvalid, "%d ids: 1 to %d at a time", n, protocol.MaxIDs)
	}
	for {
		first, ok, err := v.takeIDs(idApp, n)
		if ok || err != nil {
			return first, err
		}
		if err := v.reserve(ctx, idApp); err != nil {
			return 0, err
		}
	}
}

func (s *store) takeIDs(name string, n uint64) (first uint64, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return 0, false, s.failed
	}
	r := s.ids[name]
	if r.next+n > r.limit {
		return 0, false, nil
	}
	r.next += n
	return r.next - n, true, nil
}

// highWater is the first id of a kind that is certainly not given out.
func (s *store) highWater(name string) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ids[name].limit
}
