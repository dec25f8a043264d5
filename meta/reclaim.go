package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
)

// Inodes without a name, and chunks that truncation has left: they are freed in
// the background, in steps of bounded size, by whoever owns the volume.
//
// Invariant: an inode without a name has an O record from the batch that took
// its last name until the batch that removes it. Its Waiting sessions are those
// of that moment which have not said that they hold no handle, and have not ended.

// trimBusy says that an inode must be trimmed before the operation can go on.
type trimBusy struct{ ino tnv.Ino }

func (e trimBusy) Error() string { return fmt.Sprintf("inode %d is being trimmed", e.ino) }

func (e trimBusy) finish(ctx context.Context, v *Volume) error { return v.finishTrim(ctx, e.ino) }

// park keeps an inode that lost its last name until no session holds it.
func (tx *Tx) park(v *Volume, ino tnv.Ino) {
	v.smu.Lock()
	u := &unlinked{}
	for id, s := range v.sessions {
		if !s.rec.Ended {
			u.Waiting = append(u.Waiting, id)
		}
	}
	v.smu.Unlock()
	slices.Sort(u.Waiting)
	tx.set(unlinkedKey(ino), u)
	tx.then(func() {
		v.smu.Lock()
		defer v.smu.Unlock()
		v.counts.unlinked++
		v.awaitLocked(ino, u)
	})
}

// unpark undoes park: the inode has a name again.
func (tx *Tx) unpark(v *Volume, ino tnv.Ino) {
	tx.del(unlinkedKey(ino))
	tx.then(func() {
		v.smu.Lock()
		defer v.smu.Unlock()
		v.counts.unlinked--
		for _, s := range v.sessions {
			delete(s.unlinked, ino)
		}
	})
}

// awaitLocked notes in memory who is waited for; v.smu is held.
func (v *Volume) awaitLocked(ino tnv.Ino, u *unlinked) {
	for _, id := range u.Waiting {
		if s := v.sessions[id]; s != nil {
			s.unlinked[ino] = true
		}
	}
	if !v.heldLocked(u) {
		v.reclaim[ino] = true
		v.kickReclaim()
	}
}

// heldLocked tells whether a session may still hold an inode open; v.smu is held.
func (v *Volume) heldLocked(u *unlinked) bool {
	return slices.ContainsFunc(u.Waiting, func(id tnv.SessionID) bool { return v.sessions[id] != nil })
}

// doomed tells whether an inode has no name and no holder: nobody can ever use it again.
func (v *Volume) doomed(u *unlinked) bool {
	v.smu.Lock()
	defer v.smu.Unlock()
	return u != nil && !v.heldLocked(u)
}

func (v *Volume) wantReclaim(ino tnv.Ino) {
	v.smu.Lock()
	defer v.smu.Unlock()
	v.reclaim[ino] = true
	v.kickReclaim()
}

func (v *Volume) kickReclaim() {
	select {
	case v.reclaimer <- struct{}{}:
	default:
	}
}

func (v *Volume) loadUnlinked(ctx context.Context) error {
	err := v.each(ctx, keyUnlinked, func(key string, val any) error {
		v.smu.Lock()
		defer v.smu.Unlock()
		v.counts.unlinked++
		v.awaitLocked(tnv.Ino(split1(key)), val.(*unlinked))
		return nil
	})
	if err != nil {
		return err
	}
	return v.each(ctx, keyTrim, func(key string, _ any) error {
		v.smu.Lock()
		defer v.smu.Unlock()
		v.reclaim[tnv.Ino(split1(key))] = true
		return nil
	})
}

// Released notes that a session holds no handle of inodes without a name.
func (v *Volume) Released(ctx context.Context, id tnv.SessionID, inos []tnv.Ino) error {
	for part := range slices.Chunk(inos, 500) {
		if err := v.mutate(ctx, func(tx *Tx) error { return v.release(tx, id, part) }); err != nil {
			return err
		}
	}
	return nil
}

func (v *Volume) release(tx *Tx, id tnv.SessionID, inos []tnv.Ino) error {
	for _, ino := range inos {
		u, err := getAs[unlinked](tx, unlinkedKey(ino))
		if err != nil {
			continue // missing ones are noted; the function runs again
		}
		if u == nil || !slices.Contains(u.Waiting, id) {
			continue
		}
		is := &unlinked{Waiting: slices.DeleteFunc(slices.Clone(u.Waiting), func(s tnv.SessionID) bool { return s == id })}
		tx.set(unlinkedKey(ino), is)
		tx.then(func() {
			v.smu.Lock()
			defer v.smu.Unlock()
			if s := v.sessions[id]; s != nil {
				delete(s.unlinked, ino)
			}
			if !v.heldLocked(is) {
				v.reclaim[ino] = true
				v.kickReclaim()
			}
		})
	}
	return nil
}

func (v *Volume) reclaimLoop(ctx context.Context) {
	defer v.bg.Done()
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.reclaimer:
		}
		for {
			v.smu.Lock()
			var inos []tnv.Ino
			for ino := range v.reclaim {
				if inos = append(inos, ino); len(inos) == 64 {
					break
				}
			}
			v.smu.Unlock()
			if len(inos) == 0 {
				break
			}
			if err := v.reclaimSome(ctx, inos); err != nil {
				if ctx.Err() != nil {
					return
				}
				v.log.WithError(err).Warn("reclaiming space failed; it is tried again")
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Second):
				}
			}
		}
	}
}

// reclaimSome frees what is left of inodes: small files together in one
// transaction, the rest step by step. One that cannot be freed stops no other.
func (v *Volume) reclaimSome(ctx context.Context, inos []tnv.Ino) error {
	var large []tnv.Ino
	err := v.mutate(ctx, func(tx *Tx) error {
		large = large[:0]
		for _, ino := range inos {
			done, err := v.reclaimAtOnce(tx, ino)
			if err != nil && err != errMiss {
				return err
			}
			if err == nil && !done {
				large = append(large, ino)
			}
		}
		return nil
	})
	if err != nil && len(inos) > 1 && ctx.Err() == nil {
		var all []error
		for i := range inos {
			all = append(all, v.reclaimSome(ctx, inos[i:i+1]))
		}
		return errors.Join(all...)
	}
	if err != nil {
		return err
	}
	var all []error
	for _, ino := range large {
		all = append(all, v.reclaimLarge(ctx, ino))
	}
	return errors.Join(all...)
}

// reclaimAtOnce removes an inode with little content and no extended
// attributes. What does not fit the transaction any more is left for the next.
func (v *Volume) reclaimAtOnce(tx *Tx, ino tnv.Ino) (done bool, err error) {
	if err := tx.want(inodeKey(ino), unlinkedKey(ino), usageKey()); err != nil {
		return false, err
	}
	n, _ := getAs[inode](tx, inodeKey(ino))
	u, _ := getAs[unlinked](tx, unlinkedKey(ino))
	if n == nil {
		tx.then(func() { v.reclaimed(ino, false) })
		return true, nil
	}
	chunks := (n.Size + tnv.ChunkSize - 1) / tnv.ChunkSize
	if !v.doomed(u) || n.TrimSeq != 0 || n.Xattrs > 0 || chunks > trimAtOnce {
		return false, nil
	}
	is := *n
	if n.IsRegular() && chunks > 0 {
		blocks, err := tx.extentsIn(ino, 0, chunks-1)
		if err != nil {
			return false, err
		}
		if blocks > freeAtOnce {
			return false, nil
		}
		if tx.freed > 0 && tx.freed+blocks > freeAtOnce {
			return true, nil // it stays among those to reclaim
		}
		if err := tx.freeChunks(&is, 0, chunks-1); err != nil {
			return false, err
		}
	}
	return true, tx.removeInode(v, &is)
}

// removeInode removes what is left of an inode whose chunks and attributes are gone.
func (tx *Tx) removeInode(v *Volume, n *inode) error {
	tx.del(inodeKey(n.Ino))
	tx.del(unlinkedKey(n.Ino))
	tx.then(func() { v.reclaimed(n.Ino, true) })
	return tx.addUsage(-1, -int64(n.Alloc))
}

func (v *Volume) reclaimed(ino tnv.Ino, parked bool) {
	v.smu.Lock()
	defer v.smu.Unlock()
	delete(v.reclaim, ino)
	if parked {
		v.counts.unlinked--
	}
}

// reclaimLarge trims an inode, and removes it if it has no name and no holder.
// Whether it is to be removed is decided once, before the trim: what is doomed
// gets no new content, and what is not may get a new trim, name or holder any time.
func (v *Volume) reclaimLarge(ctx context.Context, ino tnv.Ino) error {
	doomed := false
	err := v.mutate(ctx, func(tx *Tx) error {
		doomed = false
		if err := tx.want(inodeKey(ino), unlinkedKey(ino)); err != nil {
			return err
		}
		n, _ := getAs[inode](tx, inodeKey(ino))
		u, _ := getAs[unlinked](tx, unlinkedKey(ino))
		if doomed = n != nil && v.doomed(u); !doomed {
			return nil
		}
		is := *n
		is.TrimFrom, is.TrimSeq = 0, tx.seq // all of its content
		tx.set(inodeKey(ino), &is)
		tx.set(trimKey(ino), mark{})
		tx.set(unlinkedKey(ino), &unlinked{}) // from here on it is stale to everyone
		return nil
	})
	if err != nil {
		return err
	}
	if err := v.finishTrim(ctx, ino); err != nil {
		return err
	}
	if doomed {
		return v.removeTrimmed(ctx, ino)
	}
	return v.mutate(ctx, func(tx *Tx) error {
		if err := tx.want(inodeKey(ino), unlinkedKey(ino)); err != nil {
			return err
		}
		n, _ := getAs[inode](tx, inodeKey(ino))
		u, _ := getAs[unlinked](tx, unlinkedKey(ino))
		if n == nil || n.TrimSeq == 0 && !v.doomed(u) {
			tx.then(func() { v.reclaimed(ino, false) })
		}
		return nil
	})
}

// removeTrimmed removes a doomed inode whose chunks are gone.
func (v *Volume) removeTrimmed(ctx context.Context, ino tnv.Ino) error {
	prefix := xattrKey(ino, "")
	names, _, err := v.scan(ctx, prefix, prefixEnd(prefix), 0, nil)
	if err != nil {
		return err
	}
	return v.mutate(ctx, func(tx *Tx) error {
		if err := tx.want(inodeKey(ino), usageKey()); err != nil {
			return err
		}
		n, _ := getAs[inode](tx, inodeKey(ino))
		if n == nil {
			tx.then(func() { v.reclaimed(ino, false) })
			return nil
		}
		for _, p := range names {
			tx.del(p.key)
		}
		return tx.removeInode(v, n)
	})
}

// trimStep is how many chunks one transaction of a trim frees.
const trimStep = 64

// finishTrim frees all chunks that truncation has left to the background.
func (v *Volume) finishTrim(ctx context.Context, ino tnv.Ino) error {
	var from uint64
	var until tnv.BatchSeq
	err := v.read(ctx, func(tx *Tx) error {
		n, err := getAs[inode](tx, inodeKey(ino))
		if err == nil && n != nil {
			from, until = n.TrimFrom, n.TrimSeq
		}
		return err
	})
	if err != nil || until == 0 {
		return err
	}
	for {
		chunks, err := v.chunksFrom(ctx, ino, from)
		if err != nil {
			return err
		}
		if len(chunks) == 0 {
			break
		}
		if err := v.mutate(ctx, func(tx *Tx) (err error) {
			from, err = trimChunks(tx, ino, chunks)
			return err
		}); err != nil {
			return err
		}
	}
	return v.mutate(ctx, func(tx *Tx) error {
		n, err := getAs[inode](tx, inodeKey(ino))
		if err != nil || n == nil || n.TrimSeq != until {
			return err
		}
		is := *n
		is.TrimFrom, is.TrimSeq = 0, 0
		tx.set(inodeKey(ino), &is)
		tx.del(trimKey(ino))
		return nil
	})
}

// chunksFrom lists some chunks of an inode that have records, from one on.
func (v *Volume) chunksFrom(ctx context.Context, ino tnv.Ino, from uint64) ([]uint64, error) {
	var out []uint64
	at, end := chunkKey(ino, from), prefixEnd(key1(keyChunk, uint64(ino)))
	for len(out) < trimStep {
		pairs, _, err := v.scan(ctx, at, end, trimStep, nil)
		if err != nil {
			return nil, err
		}
		for _, p := range pairs {
			if _, i := split2(p.key); len(out) == 0 || out[len(out)-1] != i {
				out = append(out, i)
			}
		}
		if len(pairs) < trimStep {
			break
		}
		at = pairs[len(pairs)-1].key + "\x00"
	}
	return out, nil
}

// trimChunks frees those of some chunks that are left to trim, as many as one
// transaction should free; next is the first that it did not come to.
func trimChunks(tx *Tx, ino tnv.Ino, chunks []uint64) (next uint64, err error) {
	keys := []string{inodeKey(ino), usageKey()}
	for _, i := range chunks {
		keys = append(keys, chunkKey(ino, i))
	}
	next = chunks[len(chunks)-1] + 1
	if err := tx.want(keys...); err != nil {
		return next, err
	}
	n, err := getAs[inode](tx, inodeKey(ino))
	if err != nil || n == nil {
		return next, err
	}
	is := *n
	for _, i := range chunks {
		_, left, err := tx.chunkOf(n, i)
		if err != nil {
			return next, err
		}
		if left == nil {
			continue
		}
		if tx.freed > 0 && tx.freed+len(left.extents) > freeAtOnce {
			next = i
			break
		}
		tx.replaced(left.extents, nil)
		tx.dropChunk(chunkKey(ino, i), left)
		if err := tx.allocate(&is, -int64(allocated(left.extents))); err != nil {
			return next, err
		}
	}
	tx.set(inodeKey(ino), &is)
	return next, nil
}
