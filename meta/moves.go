package meta

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Moving what extents name to other blocks, with the same bytes: to empty a
// group, to even groups out, to make few large blocks of many small ones (D10).
//
// The owner plans for one chunk (PlanMoves), a store makes the new blocks, on disk
// at every holder, and one mutation puts them in the old ones' place (Replace).
//
// Invariants:
//
//   - A new block takes the place of the very extents that were read, or of
//     nothing: then it is deleted. Mutations go on between reading and replacing.
//   - The old block is freed in the batch that takes its last extent, so behind
//     the commit of the verified copy (P7).
//   - The content's version stays: the bytes are the same. Who reads by the old
//     extents finds the block missing, and reads the extents again (D9).
//   - Extents of blocks with references are moved block by block, all extents
//     of a chunk at once, and the m record says where to, so that what clones
//     share stays shared. Only a copy that has references is named again.
//   - Ids of new blocks are granted to moverSession, whose grants a new owner takes back.

// moverSession has the grants of blocks that are being moved. No client has it.
const moverSession tnv.SessionID = 0

// movedBlock is an m record: where the bytes of a block with references are, too.
type movedBlock struct {
	Block tnv.BlockID
	Group tnv.GroupID
}

func (m *movedBlock) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{recordV1}, uint64(m.Block))
	return binary.BigEndian.AppendUint32(b, uint32(m.Group))
}

func decodeMoved(b []byte) (any, error) {
	d := decoder{b: b}
	d.version()
	return &movedBlock{tnv.BlockID(d.u64()), tnv.GroupID(d.u32())}, d.err
}

// Move is the extents of a chunk whose bytes go to one new block.
type Move struct {
	Was    []tnv.Extent
	Shared bool // all are of one block, which has references; the copy is of all of it
	// The new block: 0 where an earlier move has made it. Set by whoever makes it.
	Block   tnv.BlockID
	Group   tnv.GroupID
	Holders []tnv.Holder
}

// Len is the new block's length.
func (m *Move) Len() uint32 {
	if m.Shared {
		return m.Was[0].BlockLen
	}
	var n uint32
	for _, e := range m.Was {
		n += e.Len
	}
	return n
}

// Parts says what bytes the new block consists of.
func (m *Move) Parts() (parts []protocol.BlockPart) {
	if m.Shared {
		return []protocol.BlockPart{{Block: m.Was[0].Block, Len: m.Was[0].BlockLen}}
	}
	for _, e := range m.Was {
		if n := len(parts); n > 0 && parts[n-1].Block == e.Block && parts[n-1].Off+parts[n-1].Len == e.BlockOff {
			parts[n-1].Len += e.Len
			continue
		}
		parts = append(parts, protocol.BlockPart{Block: e.Block, Off: e.BlockOff, Len: e.Len})
	}
	return parts
}

// is gives the extents that take the place of Was.
func (m *Move) is() []tnv.Extent {
	var out []tnv.Extent
	at := uint32(0)
	for _, e := range m.Was {
		n := e
		n.Block, n.Group = m.Block, m.Group
		if m.Shared {
			out = append(out, n)
			continue
		}
		n.BlockOff, n.BlockLen = at, m.Len()
		at += e.Len
		if i := len(out) - 1; i >= 0 && out[i].End() == n.Off {
			out[i].Len += n.Len
			continue
		}
		out = append(out, n)
	}
	return out
}

// planMoves says how the extents of a chunk that lie in a group go elsewhere.
// Neighbours without references go to one block together, up to its largest size.
func planMoves(l []tnv.Extent, from tnv.GroupID) (moves []Move) {
	shared := map[tnv.BlockID]int{}
	open := -1 // the move that neighbours may join
	for _, e := range l {
		switch {
		case e.Block == 0 || e.Group != from:
			open = -1
		case e.Flags&tnv.ExtentShared != 0:
			i, there := shared[e.Block]
			if !there {
				i = len(moves)
				shared[e.Block] = i
				moves = append(moves, Move{Shared: true})
			}
			moves[i].Was = append(moves[i].Was, e)
			open = -1
		case open >= 0 && moves[open].Len()+e.Len <= tnv.MaxBlockSize && len(moves[open].Was) < protocol.MaxParts:
			moves[open].Was = append(moves[open].Was, e)
		default:
			open = len(moves)
			moves = append(moves, Move{Was: []tnv.Extent{e}})
		}
	}
	return moves
}

// planCompaction joins runs of small extents in one group, without references, to
// blocks of good size. Runs that would gain nothing are left alone.
func planCompaction(l []tnv.Extent) (moves []Move) {
	groups := map[tnv.GroupID]bool{}
	for _, e := range l {
		groups[e.Group] = true
	}
	for g := range groups {
		for _, m := range planMoves(l, g) {
			if !m.Shared && len(m.Was) >= compactRun {
				moves = append(moves, m)
			}
		}
	}
	return moves
}

const (
	// compactRun is how many extents a run has at least that is made one block.
	compactRun = 8
	// compactAt is how many extents a chunk has that is looked at at all.
	compactAt = 256
)

// ChunksOf lists chunks that have extents in a group, behind a place: at most
// limit of them. With group 0 those that are in many pieces.
func (v *Volume) ChunksOf(ctx context.Context, group tnv.GroupID, after tnv.Home, limit int) (homes []tnv.Home, err error) {
	w := chunkWalk{fn: func(home tnv.Home, c *chunk) error {
		if group == 0 && len(c.extents) >= compactAt && len(planCompaction(c.extents)) > 0 ||
			group != 0 && slices.ContainsFunc(c.extents, func(e tnv.Extent) bool { return e.Group == group }) {
			homes = append(homes, home)
		}
		if len(homes) >= limit {
			return errEnough
		}
		return nil
	}}
	from := chunkKey(after.Ino, after.Chunk+1)
	err = v.snapshot(ctx, from, prefixEnd(string([]byte{keyChunk})), func(key string, value []byte) error { return w.take(key, value) })
	if err == nil {
		err = w.flush()
	}
	if err == errEnough {
		err = nil
	}
	return homes, err
}

// errEnough ends a walk.
var errEnough = tnv.E("walk", tnv.KindOther, "enough was seen")

// PlanMoves says how the extents of a chunk leave a group, or, for group 0, how
// it gets fewer. Blocks with references that were copied before name the copy.
func (v *Volume) PlanMoves(ctx context.Context, home tnv.Home, from tnv.GroupID) (moves []Move, err error) {
	err = v.read(ctx, func(tx *Tx) error {
		moves = nil
		if err := tx.want(inodeKey(home.Ino), chunkKey(home.Ino, home.Chunk)); err != nil {
			return err
		}
		n, err := getAs[inode](tx, inodeKey(home.Ino))
		if err != nil || n == nil {
			return err
		}
		c, _, err := tx.chunkOf(n, home.Chunk)
		if err != nil || c == nil {
			return err
		}
		if from == 0 {
			moves = planCompaction(c.extents)
			return nil
		}
		moves = planMoves(c.extents, from)
		for i := range moves {
			if m := &moves[i]; m.Shared {
				m.Block, m.Group, err = tx.copyOf(m.Was[0].Block, from)
			}
		}
		if tx.missed() {
			return errMiss
		}
		return err
	})
	return moves, err
}

// copyOf finds a copy of a block that was made before and is named yet; 0 if there is none.
func (tx *Tx) copyOf(b tnv.BlockID, from tnv.GroupID) (tnv.BlockID, tnv.GroupID, error) {
	m, err := getAs[movedBlock](tx, movedKey(b))
	if err != nil || m == nil || m.Group == from {
		return 0, 0, err
	}
	r, err := getAs[references](tx, refKey(m.Block))
	if err != nil || r == nil {
		return 0, 0, err
	}
	return m.Block, m.Group, nil
}

// MoverIDs grants ids for new blocks: as many as follow each other from the first on.
func (v *Volume) MoverIDs(ctx context.Context) (first tnv.BlockID, n int, err error) {
	err = v.mutate(ctx, func(tx *Tx) error {
		id, err := tx.newIDs(idBlock, grantSize)
		if err != nil {
			return err
		}
		first = tnv.BlockID(id)
		tx.set(grantKey(first), &grant{Session: moverSession})
		tx.then(func() { v.noteGrant(moverSession, first, true) })
		return nil
	})
	return first, grantSize, err
}

// endMoves takes back what was granted to the movers of an earlier owner.
func (v *Volume) endMoves(ctx context.Context) error {
	firsts, _ := v.heldBy(moverSession)
	for part := range slices.Chunk(firsts, 500) {
		if err := v.mutate(ctx, func(tx *Tx) error {
			for _, b := range part {
				tx.del(grantKey(b))
				tx.then(func() { v.noteGrant(moverSession, b, false) })
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// Replace puts new blocks, on disk at their holders, in the place of extents of a
// chunk. It tells how many of the moves found their extents as they were; blocks
// of the others are deleted.
func (v *Volume) Replace(ctx context.Context, home tnv.Home, moves []Move) (done int, err error) {
	err = v.mutate(ctx, func(tx *Tx) error {
		done = 0
		keys := []string{inodeKey(home.Ino), chunkKey(home.Ino, home.Chunk), usageKey()}
		for _, m := range moves {
			keys = append(keys, grantKey(m.Block), refKey(m.Block))
		}
		if err := tx.want(keys...); err != nil {
			return err
		}
		n, err := getAs[inode](tx, inodeKey(home.Ino))
		if err != nil {
			return err
		}
		var c *chunk
		if n != nil {
			if c, _, err = tx.chunkOf(n, home.Chunk); err != nil {
				return err
			}
		}
		if c == nil {
			c = &chunk{base: -1}
		}
		l := slices.Clone(c.extents)
		for i := range moves {
			ok, err := tx.replaceOne(v, home, &moves[i], &l)
			if err != nil {
				return err
			}
			done += int(boolean(ok))
		}
		if done == 0 {
			return nil
		}
		is := *n
		return tx.setChunk(&is, home.Chunk, l)
	})
	return done, err
}

// replaceOne does one move in a list of extents. A new block that is not needed is freed.
func (tx *Tx) replaceOne(v *Volume, home tnv.Home, m *Move, l *[]tnv.Extent) (bool, error) {
	if len(m.Was) == 0 {
		return false, tnv.E("move", tnv.KindInvalid, "no extents")
	}
	fresh := len(m.Holders) > 0
	if fresh {
		if err := tx.useID(&call{v: v}, m.Block); err != nil {
			return false, err
		}
	}
	at := slices.Index(*l, m.Was[0])
	same := at >= 0
	for _, e := range m.Was {
		same = same && slices.Contains(*l, e)
	}
	if !fresh { // its last extent may have gone meanwhile, and the block with it
		r, err := getAs[references](tx, refKey(m.Block))
		if err != nil {
			return false, err
		}
		same = same && r != nil
	}
	if !same {
		if fresh {
			tx.freeBlocks([]tnv.Extent{{Block: m.Block, Group: m.Group}})
		}
		return false, nil
	}
	if fresh {
		if err := tx.tookBlock(v, home, m); err != nil {
			return false, err
		}
	}
	gone := func(e tnv.Extent) bool { return slices.Contains(m.Was, e) }
	*l = append(slices.DeleteFunc(*l, gone), m.is()...)
	slices.SortFunc(*l, func(a, b tnv.Extent) int { return int(int64(a.Off) - int64(b.Off)) })
	return true, nil
}

// tookBlock checks that enough members hold a new block, and notes who does not (D4).
func (tx *Tx) tookBlock(v *Volume, home tnv.Home, m *Move) error {
	g := v.cluster.Map().Group(m.Group)
	if g == nil || v.closed(m.Group) {
		return tnv.E("move", tnv.KindTooFewHolders, "group %d takes no blocks", m.Group)
	}
	lack, err := whoLacks(g, protocol.BlockHolders{Block: m.Block, Holders: m.Holders}, v.set.Load().MinReplicas)
	if err != nil {
		return err
	}
	for _, id := range lack {
		tx.noteLack(v, id, m.Block, &lacking{Home: home, Bytes: m.Len()})
	}
	if m.Shared {
		tx.set(movedKey(m.Was[0].Block), &movedBlock{m.Block, m.Group})
	}
	return nil
}

// closer is a Cluster of which groups may be closed: no commit may name one any
// more. Asked under the volume's lock: it must return at once.
type closer interface{ Closed(tnv.GroupID) bool }

func (v *Volume) closed(g tnv.GroupID) bool {
	c, ok := v.cluster.(closer)
	return ok && c.Closed(g)
}

// ForgetMoves drops what says where blocks of a group were moved to.
func (v *Volume) ForgetMoves(ctx context.Context) error {
	return v.deleteAll(ctx, string([]byte{keyMoved}), nil)
}

// ForgetNode drops what is recorded of a store that is not part of the cluster any more.
func (v *Volume) ForgetNode(ctx context.Context, n tnv.NodeID) error {
	gone := func(key string, val any) {
		v.count(func(c *counts) {
			switch l, isLack := val.(*lacking); {
			case isLack:
				c.lacking[n]--
				c.lackBytes[n] -= int64(l.Bytes)
			default:
				c.deletions[n]--
			}
		})
	}
	if err := v.deleteAll(ctx, key1(keyDeletion, uint64(n)), gone); err != nil {
		return err
	}
	return v.deleteAll(ctx, key1(keyLacking, uint64(n)), gone)
}

// deleteAll deletes all records whose keys begin with a prefix, some at a time.
func (v *Volume) deleteAll(ctx context.Context, prefix string, gone func(key string, val any)) error {
	for {
		pairs, _, err := v.scan(ctx, prefix, prefixEnd(prefix), 500, nil)
		if err != nil || len(pairs) == 0 {
			return err
		}
		if err := v.mutate(ctx, func(tx *Tx) error {
			for _, p := range pairs {
				tx.want(p.key)
			}
			if tx.missed() {
				return errMiss
			}
			for _, p := range pairs {
				val, err := tx.get(p.key)
				if err != nil || val == nil {
					continue
				}
				tx.del(p.key)
				if gone != nil {
					tx.then(func() { gone(p.key, val) })
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
}

// Abandon deletes a new block that was made in vain, or in part.
func (v *Volume) Abandon(ctx context.Context, b tnv.BlockID, group tnv.GroupID) error {
	return v.mutate(ctx, func(tx *Tx) error {
		if err := tx.useID(&call{v: v}, b); err != nil {
			return err
		}
		tx.freeBlocks([]tnv.Extent{{Block: b, Group: group}})
		return nil
	})
}
