package meta

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Collection of blocks that nothing names (D7): of writes that were refused, of
// sessions that ended, of movers that died. A store shows such a block, Alive
// says that it is dead, and it gets an o record: it is in quarantine. Long
// after, a mutation looks again, in the epoch of the owner, and turns the record
// into deletions.
//
// Invariants:
//
//   - No block is deleted for being an orphan before its o record is as old as
//     the quarantine, nor unless it is dead in the very batch that deletes it.
//   - Nothing of a group is deleted while what is in quarantine there, and was not
//     approved of by the operator, is more than 1% of the group's blocks.
//   - Nothing at all is deleted while the metadata is older than the blocks may
//     be: after a restore, or since a block was seen whose id was never given out.
//
// The operator's word counts for what is in quarantine at that moment.

// orphan is an o record.
type orphan struct {
	Group tnv.GroupID
	Home  tnv.Home
	Bytes uint32
	Since int64 // nanoseconds since 1970
}

func (o *orphan) encode() []byte {
	b := binary.BigEndian.AppendUint32([]byte{recordV1}, uint32(o.Group))
	b = binary.BigEndian.AppendUint64(b, uint64(o.Home.Ino))
	b = binary.BigEndian.AppendUint64(b, o.Home.Chunk)
	b = binary.BigEndian.AppendUint32(b, o.Bytes)
	return binary.BigEndian.AppendUint64(b, uint64(o.Since))
}

func decodeOrphan(b []byte) (any, error) {
	d := decoder{b: b}
	d.version()
	o := orphan{Group: tnv.GroupID(d.u32()), Home: tnv.Home{Ino: tnv.Ino(d.u64()), Chunk: d.u64()}, Bytes: d.u32(), Since: int64(d.u64())}
	return &o, d.err
}

// collection is the c record: what holds the collection of orphans back.
type collection struct {
	Restored bool        // the metadata was restored from a copy, which may know less than the stores hold
	Ahead    tnv.BlockID // the largest id that a store held and that was never given out; 0: none
	Approved int64       // orphans that were in quarantine then may go; nanoseconds since 1970
}

func (c *collection) encode() []byte { return packed(c) }

// RestoredMark is the record by which whoever restores a volume's metadata from
// a copy holds the collection of orphans back: what was written behind the copy
// looks like orphans. It is part of the restored records.
func RestoredMark() (key, value []byte) {
	return []byte(collectionKey()), (&collection{Restored: true}).encode()
}

// MarkRestored sets that mark in a volume that is open.
func (v *Volume) MarkRestored(ctx context.Context) error {
	return v.changeCollection(ctx, func(c *collection) { c.Restored = true })
}

// Restored tells whether the metadata goes on from a copy that the operator has not
// approved of yet.
func (v *Volume) Restored(ctx context.Context) (is bool, err error) {
	err = v.read(ctx, func(tx *Tx) error {
		c, err := getAs[collection](tx, collectionKey())
		is = c != nil && c.Restored
		return err
	})
	return is, err
}

// NoteAhead says that a store holds a block whose id was never given out: the
// metadata has forgotten it.
func (v *Volume) NoteAhead(ctx context.Context, id tnv.BlockID) error {
	if id < v.HighWater() {
		return nil
	}
	return v.changeCollection(ctx, func(c *collection) { c.Ahead = max(c.Ahead, id) })
}

func (v *Volume) changeCollection(ctx context.Context, change func(*collection)) error {
	return v.mutate(ctx, func(tx *Tx) error {
		c, err := getAs[collection](tx, collectionKey())
		if err != nil {
			return err
		}
		var is collection
		if c != nil {
			is = *c
		}
		if change(&is); c == nil || is != *c {
			tx.set(collectionKey(), &is)
		}
		return nil
	})
}

// HighWater is the first block id that is certainly not given out.
func (v *Volume) HighWater() tnv.BlockID { return tnv.BlockID(v.highWater(idBlock)) }

// ApproveCollection is the operator's word that the orphans in quarantine may be
// deleted. Ids that stores hold beyond those given out are skipped for good (P10).
func (v *Volume) ApproveCollection(ctx context.Context) error {
	var ahead tnv.BlockID
	err := v.read(ctx, func(tx *Tx) error {
		c, err := getAs[collection](tx, collectionKey())
		if ahead = 0; c != nil {
			ahead = c.Ahead
		}
		return err
	})
	if err != nil {
		return err
	}
	if ahead != 0 {
		if err := v.skipIDs(ctx, idBlock, (uint64(ahead)/grantSize+1)*grantSize); err != nil {
			return err
		}
	}
	return v.mutate(ctx, func(tx *Tx) error {
		tx.set(collectionKey(), &collection{Approved: tx.now})
		return nil
	})
}

// Quarantine notes blocks that a group's store holds and Alive has called dead.
// Those that are, still, get an o record, unless they have one. It returns how many did.
func (v *Volume) Quarantine(ctx context.Context, group tnv.GroupID, blocks []protocol.ListedBlock) (n int, err error) {
	high := v.HighWater()
	err = v.mutate(ctx, func(tx *Tx) error {
		n = 0
		for _, b := range blocks {
			tx.want(append(aliveKeys(protocol.BlockHome{Block: b.Block, Home: b.Home}), orphanKey(b.Block))...)
		}
		if tx.missed() {
			return errMiss
		}
		for _, b := range blocks {
			if o, err := tx.get(orphanKey(b.Block)); err != nil || o != nil {
				continue
			}
			dead, err := tx.dead(protocol.BlockHome{Block: b.Block, Home: b.Home}, high)
			if err != nil {
				return err
			}
			if dead {
				n++
				tx.set(orphanKey(b.Block), &orphan{Group: group, Home: b.Home, Bytes: b.Len, Since: tx.now})
			}
		}
		return nil
	})
	return n, err
}

// collectStep is how many orphans one mutation deletes.
const collectStep = 256

// CollectOrphans deletes the orphans whose quarantine is over. size tells how
// many blocks a group has. What is held back is in the answer's Asks.
func (v *Volume) CollectOrphans(ctx context.Context, quarantine time.Duration, size func(tnv.GroupID) uint64) (protocol.Collection, error) {
	st, groups, err := v.judgeOrphans(ctx, quarantine, size)
	if err != nil || len(st.Asks) > 0 && len(groups) == 0 {
		return st, err
	}
	for from := tnv.BlockID(0); ; {
		due, next, err := v.dueOrphans(ctx, from, time.Now().Add(-quarantine), groups)
		if err != nil {
			return st, err
		}
		n, err := v.deleteOrphans(ctx, due)
		st.Collected += uint64(n)
		if err != nil || next == 0 {
			return st, err
		}
		from = next
	}
}

// Collection is how the collection of orphans stands.
func (v *Volume) Collection(ctx context.Context, quarantine time.Duration, size func(tnv.GroupID) uint64) (protocol.Collection, error) {
	st, _, err := v.judgeOrphans(ctx, quarantine, size)
	return st, err
}

// judgeOrphans counts what is in quarantine, and tells of which groups orphans may go.
func (v *Volume) judgeOrphans(ctx context.Context, quarantine time.Duration, size func(tnv.GroupID) uint64) (protocol.Collection, map[tnv.GroupID]bool, error) {
	var st protocol.Collection
	hold := collection{}
	err := v.read(ctx, func(tx *Tx) error {
		c, err := getAs[collection](tx, collectionKey())
		if hold = (collection{}); c != nil {
			hold = *c
		}
		return err
	})
	if err != nil {
		return st, nil, err
	}
	asked := map[tnv.GroupID]uint64{} // orphans that were not approved of
	before := time.Now().Add(-quarantine).UnixNano()
	err = v.each(ctx, keyOrphan, func(_ string, val any) error {
		o := val.(*orphan)
		st.Quarantined++
		st.QuarantinedBytes += uint64(o.Bytes)
		if o.Since <= before {
			st.Due++
		}
		asked[o.Group] += boolean(o.Since > hold.Approved)
		return nil
	})
	if err != nil {
		return st, nil, err
	}
	if hold.Restored {
		st.Asks = append(st.Asks, "the metadata was restored from a copy: what was written behind it looks like orphans")
	}
	if hold.Ahead != 0 {
		st.Asks = append(st.Asks, fmt.Sprintf("a store holds block %d, and only ids below %d were ever given out: the metadata is older than the blocks", hold.Ahead, v.HighWater()))
	}
	if len(st.Asks) > 0 {
		return st, nil, nil
	}
	may := map[tnv.GroupID]bool{}
	for g, n := range asked {
		if all := size(g); n*100 > all {
			st.Asks = append(st.Asks, fmt.Sprintf("%d of %d blocks of group %d are orphans: more than 1%%", n, all, g))
			continue
		}
		may[g] = true
	}
	return st, may, nil
}

func boolean(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// dueOrphans lists some of the orphans from an id on whose quarantine ended
// before a time; next is where to go on, 0 at the end.
func (v *Volume) dueOrphans(ctx context.Context, from tnv.BlockID, before time.Time, groups map[tnv.GroupID]bool) (due []protocol.BlockHome, next tnv.BlockID, err error) {
	pairs, seen, err := v.scan(ctx, orphanKey(from), prefixEnd(string([]byte{keyOrphan})), collectStep, nil)
	if err != nil {
		return nil, 0, err
	}
	for _, p := range pairs {
		val, err := decodeOrphan(p.value)
		if err != nil {
			return nil, 0, v.damaged(p.key, err)
		}
		o, b := val.(*orphan), tnv.BlockID(split1(p.key))
		if o.Since <= before.UnixNano() && groups[o.Group] {
			due = append(due, protocol.BlockHome{Block: b, Home: o.Home})
		}
		next = b + 1
	}
	if len(pairs) < collectStep {
		next = 0
	}
	return due, next, v.wait(ctx, seen)
}

// deleteOrphans turns o records into deletions, if the blocks are dead. One that
// is not can only mean that something is wrong: it is left alone, and told of.
func (v *Volume) deleteOrphans(ctx context.Context, due []protocol.BlockHome) (n int, err error) {
	high := v.HighWater()
	err = v.mutate(ctx, func(tx *Tx) error {
		n = 0
		for _, b := range due {
			tx.want(append(aliveKeys(b), orphanKey(b.Block))...)
		}
		if tx.missed() {
			return errMiss
		}
		for _, b := range due {
			o, err := getAs[orphan](tx, orphanKey(b.Block))
			if err != nil || o == nil {
				continue
			}
			tx.del(orphanKey(b.Block))
			dead, err := tx.dead(b, high)
			if err != nil {
				return err
			}
			if !dead {
				tx.then(func() {
					v.log.WithField("block", b.Block).Error("a block in quarantine is named again: it is kept")
				})
				continue
			}
			n++
			tx.deleteBlocks([]tnv.Extent{{Block: b.Block, Group: o.Group}})
		}
		return nil
	})
	return n, err
}
