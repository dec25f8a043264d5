package trackerd

import (
	"context"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
	"github.com/tnvfs/tnv/ship"
)

// The embedded engine is shipped to the storage groups (D13, package ship). Its
// pieces are blocks of volume tnv.CopyVolume, of which the stores ask as of any other.

// journalled puts a journal before an engine that has one copy only.
func (t *tracker) journalled(e kv.Engine) kv.Engine {
	if !e.Exclusive() || t.cfg.NoCopies {
		return e
	}
	t.journal = ship.NewJournal(e)
	return t.journal
}

// startShipping begins to ship, once the registry is open and the members are known.
func (t *tracker) startShipping(ctx context.Context) error {
	if t.journal == nil {
		return nil
	}
	cfg := ship.Config{Log: t.log, Volumes: func(ctx context.Context) ([]tnv.VolumeID, error) {
		return meta.StoredVolumes(ctx, t.journal.Engine)
	}}
	_, err := onRegistry(t, func(r *meta.Registry) (_ done, err error) {
		cfg.Lineage, cfg.Predecessor, err = r.Lineage(ctx)
		return done{}, err
	})
	if err != nil {
		return err
	}
	t.shipper = ship.Start(t.journal, &ship.Stores{Pool: t.pool, Map: t.members.Map, Leaves: t.members.leaves}, cfg)
	return nil
}

func (t *tracker) stopShipping() {
	if t.shipper != nil {
		t.shipper.Close()
	}
}

// copiedWait is how long deletions wait for the copy of the metadata at a time.
const copiedWait = 5 * time.Second

// copied tells whether all that was applied before the call can be restored: until
// then no block is deleted that it has freed, for what would be restored may name it.
func (t *tracker) copied(ctx context.Context) bool {
	if t.shipper == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, copiedWait)
	defer cancel()
	if t.shipper.Settled(ctx) == nil {
		return true
	}
	_, _, err := t.shipper.State()
	return tnv.KindOf(err) == tnv.KindNoSpace
}

// pieceStates answers whether pieces of copies are needed; any doubt is yes.
func (t *tracker) pieceStates(rq *protocol.Alive) (*protocol.AliveReply, error) {
	if len(rq.Blocks) > protocol.MaxBatch {
		return nil, tnv.E("alive", tnv.KindInvalid, "%d blocks, at most %d", len(rq.Blocks), protocol.MaxBatch)
	}
	rep := &protocol.AliveReply{State: make([]protocol.Liveness, len(rq.Blocks))}
	for i, b := range rq.Blocks {
		if t.shipper != nil && !t.shipper.Needed(b.Block, b.Home) {
			rep.State[i] = protocol.DeadBlock
		}
	}
	return rep, nil
}

// copyAge is how old the state is that can be restored, in seconds; -1: none can.
func (t *tracker) copyAge() float64 {
	if t.shipper == nil {
		return -1
	}
	asOf, complete, _ := t.shipper.State()
	if !complete {
		return -1
	}
	return time.Since(asOf).Seconds()
}
