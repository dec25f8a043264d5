package meta

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// A volume that goes on from a copy of its records, a dump or what was shipped, does
// not know what was given out since the copy was made: ids, numbers of batches, epochs.
// None of them may be given out again (P10), with other bytes least of all (D3), and
// the same copy may be gone on from twice. So all counters skip ahead, by a constant
// and by how much time has passed since a fixed day.
//
// Invariant: of two histories of one volume, of which the second goes on from a copy
// that knows less than the first, the second has other ids. That holds while less than
// 2^36 ids, and 2^20 in each second of the time between, are given out that the copy does
// not know of.
var skipEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	idJump       = 1 << 36
	idJumpMilli  = 1 << 10 // for each millisecond
	registryJump = 1 << 16 // ids of volumes have 32 bits
)

func sinceSkipEpoch(now time.Time, unit time.Duration) uint64 {
	return uint64(max(now.Sub(skipEpoch)/unit, 0))
}

// skipAhead is where a counter of a volume goes on, in whole grants.
func skipAhead(next uint64, now time.Time) uint64 {
	return (next + idJump + idJumpMilli*sinceSkipEpoch(now, time.Millisecond)) &^ (grantSize - 1)
}

// skipRegistry is where the counter of volumes and groups goes on.
func skipRegistry(next uint64, now time.Time) uint64 {
	return next + registryJump + sinceSkipEpoch(now, time.Minute)
}

// epochJump is by how much the epochs of a volume go on above those of its copy.
func epochJump(now time.Time) tnv.Epoch {
	return tnv.Epoch(registryJump + sinceSkipEpoch(now, time.Minute))
}

// Counters of the registry for the copies in the storage groups.
const (
	lineageCounter     = "lineage"     // of the copies of this engine
	predecessorCounter = "predecessor" // of the copy from which it was restored
)

// Lineage is the random number that the copies of this engine's records bear in the
// storage groups, drawn when it is asked for first, and that of the copy from which
// the engine was restored, 0 if it was not.
func (r *Registry) Lineage(ctx context.Context) (own, predecessor uint64, err error) {
	err = r.mutate(ctx, func(tx *Tx) error {
		c, err := getAs[counter](tx, counterKey(lineageCounter))
		if err != nil {
			return err
		}
		p, err := getAs[counter](tx, counterKey(predecessorCounter))
		if err != nil {
			return err
		}
		if predecessor = 0; p != nil {
			predecessor = p.Next
		}
		if c != nil {
			own = c.Next
			return nil
		}
		own = 1 + rand.Uint64N(1<<62)
		tx.set(counterKey(lineageCounter), &counter{own})
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return own, predecessor, r.sync(ctx)
}

// StoredVolumes lists the volumes of which an engine has records, the cluster's own
// first, whatever their state.
func StoredVolumes(ctx context.Context, engine kv.Engine) ([]tnv.VolumeID, error) {
	ids := []tnv.VolumeID{ClusterVolume}
	err := eachStored(ctx, engine, keyVolume, func(val any) {
		if v := val.(*volume); v.State != volumeGone {
			ids = append(ids, v.ID)
		}
	})
	slices.Sort(ids)
	return ids, err
}

// FinishRestore makes what was restored record by record what trackers can go on from:
// sessions and what they held are gone, counters and epochs are above all that was ever
// given out, and blocks that nothing names are kept (D7).
func FinishRestore(ctx context.Context, engine kv.Engine, now time.Time) error {
	ids, err := StoredVolumes(ctx, engine)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := finishRestore(ctx, engine, id, now); err != nil {
			return tnv.Wrap("restore", err)
		}
	}
	return engine.Sync(ctx)
}

func finishRestore(ctx context.Context, engine kv.Engine, vol tnv.VolumeID, now time.Time) error {
	lease, err := takeOver(ctx, engine, vol)
	if err != nil {
		return err
	}
	was, err := readCounter(ctx, engine, vol, idEpoch)
	if err != nil {
		return err
	}
	if lease, err = raise(ctx, engine, lease, tnv.Epoch(was)+epochJump(now)); err != nil {
		return err
	}
	l := &loading{engine: engine, info: DumpInfo{ID: vol}, lease: lease}
	if l.seq, err = engine.Seq(ctx, vol); err != nil {
		return err
	}
	for _, class := range []byte{keySession, keySlot, keyLock, keyGrant} {
		if err := l.rewrite(ctx, class, nil); err != nil {
			return err
		}
	}
	if err := l.rewrite(ctx, keyUnlinked, (&unlinked{}).encode()); err != nil {
		return err
	}
	var top tnv.BatchSeq
	for _, class := range []byte{keyInode, keyChunk} { // they name numbers of batches
		if err := l.eachOf(ctx, class, func(key, value []byte) error { top = max(top, seqIn(key, value)); return nil }); err != nil {
			return err
		}
	}
	if err := l.skip(ctx, uint64(top), now); err != nil {
		return err
	}
	if vol != ClusterVolume {
		key, value := RestoredMark()
		if err := l.write(ctx, key, value); err != nil {
			return err
		}
	}
	if err := l.flush(ctx); err != nil {
		return err
	}
	return engine.Release(ctx, lease)
}

// skip rewrites the counters. What the engine's copies bore is the predecessor now:
// the tracker that wrote them may live, somewhere.
func (l *loading) skip(ctx context.Context, top uint64, now time.Time) error {
	counters := map[string]uint64{}
	err := l.eachOf(ctx, keyCounter, func(key, value []byte) error {
		c, err := decodeCounter(value)
		if err == nil {
			counters[string(key[1:])] = c.(*counter).Next
		}
		return err
	})
	if err != nil {
		return err
	}
	own := l.info.ID == ClusterVolume
	counters[idSeq] = max(counters[idSeq], top)
	if !own {
		for name := range idSteps { // those too of which nothing was given out
			counters[name] += 0
		}
	}
	for name, next := range counters {
		switch {
		case name == idEpoch:
			continue
		case name == lineageCounter:
			if err := l.write(ctx, []byte(counterKey(predecessorCounter)), (&counter{next}).encode()); err != nil {
				return err
			}
			if err := l.write(ctx, []byte(counterKey(name)), nil); err != nil {
				return err
			}
			continue
		case name == predecessorCounter:
			continue
		case own && name == idIno:
			next = skipRegistry(next, now)
		default:
			next = skipAhead(next, now)
		}
		if err := l.write(ctx, []byte(counterKey(name)), (&counter{next}).encode()); err != nil {
			return err
		}
	}
	return nil
}

// pageRecords is how many records are read at a time; some are large.
const pageRecords = 128

// eachOf calls fn for the records of a class. fn owns what it gets, and may write.
func (l *loading) eachOf(ctx context.Context, class byte, fn func(key, value []byte) error) error {
	from, end := []byte{class}, []byte(prefixEnd(string([]byte{class})))
	for {
		var page []kv.Write
		err := l.engine.Scan(ctx, l.info.ID, from, end, pageRecords, func(key, value []byte) bool {
			page = append(page, kv.Write{Key: append([]byte(nil), key...), Value: append([]byte{}, value...)})
			return true
		})
		if err != nil {
			return err
		}
		for _, r := range page {
			if err := fn(r.Key, r.Value); err != nil {
				return err
			}
			from = append(r.Key[:len(r.Key):len(r.Key)], 0)
		}
		if len(page) < pageRecords {
			return nil
		}
	}
}

// rewrite gives the records of a class another value; nil deletes them.
func (l *loading) rewrite(ctx context.Context, class byte, value []byte) error {
	err := l.eachOf(ctx, class, func(key, _ []byte) error { return l.write(ctx, key, value) })
	if err != nil {
		return err
	}
	return l.flush(ctx)
}
