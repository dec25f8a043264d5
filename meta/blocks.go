package meta

import (
	"context"
	"maps"
	"slices"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// What the metadata says of blocks: which are to be deleted where, who lacks
// one, and which are alive.

// freeBlocks frees blocks that have no references, and that no extent of their
// home names any more.
func (tx *Tx) freeBlocks(gone []tnv.Extent) {
	tx.freed += len(gone)
	tx.deleteBlocks(gone)
}

// deleteBlocks notes for every member of their groups that blocks are to be deleted.
func (tx *Tx) deleteBlocks(gone []tnv.Extent) {
	v := tx.s.owner
	for _, e := range gone {
		g := v.cluster.Map().Group(e.Group)
		if g == nil {
			continue
		}
		for _, n := range g.Nodes {
			tx.set(deletionKey(n.ID, e.Block), mark{})
			tx.then(func() { v.count(func(c *counts) { c.deletions[n.ID]++ }) })
		}
	}
}

func (v *Volume) count(fn func(*counts)) {
	v.smu.Lock()
	defer v.smu.Unlock()
	fn(&v.counts)
}

// noteLack records that a store lacks a block.
func (tx *Tx) noteLack(v *Volume, n tnv.NodeID, b tnv.BlockID, l *lacking) {
	tx.set(lackingKey(n, b), l)
	tx.then(func() { v.count(func(c *counts) { c.lacking[n]++; c.lackBytes[n] += int64(l.Bytes) }) })
}

// forgetLack removes the record that a store lacks a block, if there is one.
func (tx *Tx) forgetLack(v *Volume, n tnv.NodeID, b tnv.BlockID) error {
	key := lackingKey(n, b)
	l, err := getAs[lacking](tx, key)
	if err != nil || l == nil {
		return err
	}
	tx.del(key)
	tx.then(func() { v.count(func(c *counts) { c.lacking[n]--; c.lackBytes[n] -= int64(l.Bytes) }) })
	return nil
}

// Deletions lists blocks that a store is to delete, from an id on. They are on
// disk as such: the order may leave (D2).
func (v *Volume) Deletions(ctx context.Context, n tnv.NodeID, from tnv.BlockID, limit int) ([]tnv.BlockID, error) {
	if v.deletionsOf(n) == 0 {
		return nil, nil
	}
	pairs, seen, err := v.scan(ctx, deletionKey(n, from), prefixEnd(key1(keyDeletion, uint64(n))), limit, nil)
	if err != nil || len(pairs) == 0 {
		return nil, err
	}
	if err := v.wait(ctx, seen); err != nil {
		return nil, err
	}
	if err := v.engine.Sync(ctx); err != nil {
		return nil, err
	}
	ids := make([]tnv.BlockID, len(pairs))
	for i, p := range pairs {
		_, b := split2(p.key)
		ids[i] = tnv.BlockID(b)
	}
	return ids, nil
}

// PendingAt is how many deletions a store has not confirmed.
func (v *Volume) PendingAt(n tnv.NodeID) int64 { return v.deletionsOf(n) }

func (v *Volume) deletionsOf(n tnv.NodeID) int64 {
	v.smu.Lock()
	defer v.smu.Unlock()
	return v.counts.deletions[n]
}

// Deleted notes that a store has deleted blocks, tombstones on disk.
func (v *Volume) Deleted(ctx context.Context, n tnv.NodeID, ids []tnv.BlockID) error {
	return v.mutate(ctx, func(tx *Tx) error {
		for _, b := range ids {
			key := deletionKey(n, b)
			if err := tx.want(key, lackingKey(n, b)); err != nil {
				continue // all that is missing is noted; the function runs again
			}
			if d, _ := tx.get(key); d == nil {
				continue
			}
			tx.del(key)
			tx.then(func() { v.count(func(c *counts) { c.deletions[n]-- }) })
			if err := tx.forgetLack(v, n, b); err != nil {
				return err
			}
		}
		return nil
	})
}

// Held notes that a store has blocks, on disk.
func (v *Volume) Held(ctx context.Context, n tnv.NodeID, ids []tnv.BlockID) error {
	if blocks, _ := v.Lacks(n); blocks == 0 {
		return nil
	}
	return v.mutate(ctx, func(tx *Tx) error {
		for _, b := range ids {
			if err := tx.forgetLack(v, n, b); err != nil && err != errMiss {
				return err
			}
		}
		return nil
	})
}

// Lacking lists blocks that a store is known to lack, from an id on.
func (v *Volume) Lacking(ctx context.Context, n tnv.NodeID, from tnv.BlockID, limit int) ([]protocol.BlockHome, error) {
	if blocks, _ := v.Lacks(n); blocks == 0 {
		return nil, nil
	}
	pairs, seen, err := v.scan(ctx, lackingKey(n, from), prefixEnd(key1(keyLacking, uint64(n))), limit, nil)
	if err != nil {
		return nil, err
	}
	out := make([]protocol.BlockHome, len(pairs))
	for i, p := range pairs {
		l, err := decodeLacking(p.value)
		if err != nil {
			return nil, v.damaged(p.key, err)
		}
		_, b := split2(p.key)
		out[i] = protocol.BlockHome{Block: tnv.BlockID(b), Home: l.(*lacking).Home}
	}
	return out, v.wait(ctx, seen)
}

// Named are the stores of which the metadata says that they are to delete or
// lack blocks.
func (v *Volume) Named() (nodes []tnv.NodeID) {
	v.smu.Lock()
	defer v.smu.Unlock()
	for id, n := range v.counts.deletions {
		if n > 0 {
			nodes = append(nodes, id)
		}
	}
	for id, n := range v.counts.lacking {
		if n > 0 && v.counts.deletions[id] <= 0 {
			nodes = append(nodes, id)
		}
	}
	return nodes
}

// Forget removes, in a bounded step, what is said of a store that is no member any
// more. more: there is some left.
func (v *Volume) Forget(ctx context.Context, n tnv.NodeID) (more bool, err error) {
	ids := map[tnv.BlockID]bool{}
	for _, class := range []byte{keyDeletion, keyLacking} {
		prefix := key1(class, uint64(n))
		pairs, seen, err := v.scan(ctx, prefix, prefixEnd(prefix), forgetStep, nil)
		if err != nil {
			return false, err
		}
		if err := v.wait(ctx, seen); err != nil {
			return false, err
		}
		for _, p := range pairs {
			_, b := split2(p.key)
			ids[tnv.BlockID(b)] = true
		}
		more = more || len(pairs) == forgetStep
	}
	l := slices.Sorted(maps.Keys(ids))
	if err := v.Deleted(ctx, n, l); err != nil {
		return false, err
	}
	return more, v.mutate(ctx, func(tx *Tx) error {
		for _, b := range l {
			if err := tx.forgetLack(v, n, b); err != nil && err != errMiss {
				return err
			}
		}
		return nil
	})
}

const forgetStep = 1024

// Alive tells which blocks may be named by the metadata, now or later. Dead is
// said only of what is certain: an id that was given out, that the chunk of its
// home does not name, that has no references, and that no session may still
// commit, all of that on disk (D2). Home may be any place where the block was
// seen: in another than that of its header it has references.
func (v *Volume) Alive(ctx context.Context, blocks []protocol.BlockHome) ([]protocol.Liveness, error) {
	if len(blocks) > protocol.MaxBatch {
		return nil, tnv.E("alive", tnv.KindInvalid, "%d blocks, at most %d", len(blocks), protocol.MaxBatch)
	}
	out := make([]protocol.Liveness, len(blocks))
	high := tnv.BlockID(v.highWater(idBlock))
	err := v.read(ctx, func(tx *Tx) error {
		for _, b := range blocks {
			tx.want(aliveKeys(b)...)
		}
		if tx.missed() {
			return errMiss
		}
		for i, b := range blocks {
			dead, err := tx.dead(b, high)
			if err != nil {
				return err
			}
			if dead {
				out[i] = protocol.DeadBlock
			}
		}
		return nil
	})
	if err == nil && slices.Contains(out, protocol.DeadBlock) {
		err = v.engine.Sync(ctx)
	}
	return out, err
}

// aliveKeys are the records that say whether a block lives.
func aliveKeys(b protocol.BlockHome) []string {
	return []string{chunkKey(b.Home.Ino, b.Home.Chunk), inodeKey(b.Home.Ino), grantKey(b.Block), refKey(b.Block)}
}

// dead tells whether a block is certainly named by nothing, and never will be.
func (tx *Tx) dead(b protocol.BlockHome, high tnv.BlockID) (bool, error) {
	if b.Block >= high {
		return false, nil
	}
	g, err := getAs[grant](tx, grantKey(b.Block))
	if err != nil || g != nil && !g.used(b.Block) {
		return false, err
	}
	if r, err := getAs[references](tx, refKey(b.Block)); err != nil || r != nil {
		return false, err
	}
	n, err := getAs[inode](tx, inodeKey(b.Home.Ino))
	if err != nil {
		return false, err
	}
	if n == nil {
		n = &inode{Attr: tnv.Attr{Ino: b.Home.Ino}}
	}
	c, _, err := tx.chunkOf(n, b.Home.Chunk)
	if err != nil || c == nil {
		return err == nil, err
	}
	for _, e := range c.extents {
		if e.Block == b.Block {
			return false, nil
		}
	}
	return true, nil
}
