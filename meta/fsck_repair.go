package meta

import (
	"context"
	"fmt"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Repair repairs damage that CheckRecords, or the comparison with the stores, has
// found: each kind in one mutation, which looks again whether it is still so as
// far as one can see from there. Counts are changed by the difference found.
// Two checks must not repair the same find: whoever calls runs one at a time.
func (v *Volume) Repair(ctx context.Context, d protocol.Damage) error {
	switch d.Kind {
	case protocol.DamageCounter:
		return v.skipIDs(ctx, d.Name, (d.Want/grantSize+1)*grantSize)
	case protocol.DamageExtents:
		return v.repairExtents(ctx, d)
	}
	fn := repairs[d.Kind]
	if fn == nil {
		return tnv.E("repair", tnv.KindNotSupported, "%v: what is lost cannot be made again", d.Kind)
	}
	return v.mutate(ctx, func(tx *Tx) error { return fn(tx, v, &d) })
}

// repairs has the mutation for each kind of damage. It is never written to.
var repairs = map[protocol.DamageKind]func(tx *Tx, v *Volume, d *protocol.Damage) error{
	protocol.DamageDangling: repairDangling,
	protocol.DamageNameless: repairNameless,
	protocol.DamageLinks:    repairInode(func(n *inode, by int64) { n.Nlink += uint32(by) }),
	protocol.DamageEntries:  repairInode(func(n *inode, by int64) { n.Size += uint64(by) }),
	protocol.DamageXattrs:   repairInode(func(n *inode, by int64) { n.Xattrs += uint32(by) }),
	protocol.DamageAlloc:    repairAlloc,
	protocol.DamageParent:   repairParent,
	protocol.DamageType:     repairType,
	protocol.DamageFiles:    func(tx *Tx, _ *Volume, d *protocol.Damage) error { return tx.addUsage(int64(d.Want-d.Have), 0) },
	protocol.DamageBytes:    func(tx *Tx, _ *Volume, d *protocol.Damage) error { return tx.addUsage(0, int64(d.Want-d.Have)) },
	protocol.DamageRefs:     repairRefs,
	protocol.DamageShared:   repairShared,
	protocol.DamageDeletion: repairDeletion,
	protocol.DamageChunk:    repairChunk,
	protocol.DamageParked:   repairParked,
	protocol.DamageLacking:  repairLacking,
}

// gone is the error of a repair that has nothing to repair any more.
func gone(d *protocol.Damage) error {
	return tnv.E("repair", tnv.KindStale, "%v: it is so no more", d.Kind)
}

// repairInode changes a count of an inode by the difference found.
func repairInode(change func(n *inode, by int64)) func(*Tx, *Volume, *protocol.Damage) error {
	return func(tx *Tx, _ *Volume, d *protocol.Damage) error {
		n, err := getAs[inode](tx, inodeKey(d.Ino))
		if err != nil {
			return err
		}
		if n == nil {
			return gone(d)
		}
		is := tx.changed(n)
		change(&is, int64(d.Want-d.Have))
		tx.update(is)
		return nil
	}
}

func repairAlloc(tx *Tx, _ *Volume, d *protocol.Damage) error {
	if err := tx.want(inodeKey(d.Ino), usageKey()); err != nil {
		return err
	}
	n, err := getAs[inode](tx, inodeKey(d.Ino))
	if err != nil {
		return err
	}
	if n == nil {
		return gone(d)
	}
	is := tx.changed(n)
	if err := tx.allocate(&is, int64(d.Want-d.Have)); err != nil {
		return err
	}
	tx.update(is)
	return nil
}

// repairDangling removes an entry whose inode is not there.
func repairDangling(tx *Tx, _ *Volume, d *protocol.Damage) error {
	key := dentryKey(d.Ino, d.Name)
	if err := tx.want(key, inodeKey(d.Ino), inodeKey(d.Child)); err != nil {
		return err
	}
	e, err := getAs[dentry](tx, key)
	if err != nil {
		return err
	}
	n, err := getAs[inode](tx, inodeKey(d.Child))
	if err != nil {
		return err
	}
	if e == nil || e.Ino != d.Child || n != nil {
		return gone(d)
	}
	tx.del(key)
	return tx.adjustDir(d.Ino, -1, -int(boolean(e.Type == tnv.TypeDir)))
}

// adjustDir is updateDir for a directory that may not be there itself.
func (tx *Tx) adjustDir(ino tnv.Ino, entries, subdirs int) error {
	n, err := getAs[inode](tx, inodeKey(ino))
	if err != nil || n == nil || !n.IsDir() {
		return err
	}
	return tx.updateDir(ino, entries, subdirs)
}

// repairNameless gives an inode a name in lost+found; one that was removed goes on to be freed.
func repairNameless(tx *Tx, v *Volume, d *protocol.Damage) error {
	if err := tx.want(inodeKey(d.Ino), unlinkedKey(d.Ino)); err != nil {
		return err
	}
	n, err := getAs[inode](tx, inodeKey(d.Ino))
	if err != nil {
		return err
	}
	u, err := getAs[unlinked](tx, unlinkedKey(d.Ino))
	if err != nil {
		return err
	}
	switch {
	case n == nil || uint64(n.Nlink) != d.Have:
		return gone(d)
	case n.Nlink == 0 && u == nil:
		tx.park(v, d.Ino)
		return nil
	case u != nil:
		tx.unpark(v, d.Ino)
	}
	return tx.intoLostFound(*n, uint32(d.Want))
}

// repairChunk makes the inode of a chunk that has none, as large as its chunks need.
func repairChunk(tx *Tx, _ *Volume, d *protocol.Damage) error {
	if err := tx.want(inodeKey(d.Ino), usageKey()); err != nil {
		return err
	}
	n, err := getAs[inode](tx, inodeKey(d.Ino))
	if err != nil {
		return err
	}
	if n != nil {
		return gone(d)
	}
	is := inode{Attr: tnv.Attr{Ino: d.Ino, Mode: tnv.TypeRegular.Mode() | 0o600, Size: d.Want, Blocks: (d.Have + 511) / 512,
		Atime: tx.now, Mtime: tx.now, Ctime: tx.now, Btime: tx.now, Data: uint64(tx.seq)}, Alloc: d.Have}
	if err := tx.addUsage(1, int64(d.Have)); err != nil {
		return err
	}
	return tx.intoLostFound(is, 0)
}

const lostFound = "lost+found"

// intoLostFound gives an inode without a name one in the directory lost+found of
// the root. links is how many it has without it: those of a directory.
func (tx *Tx) intoLostFound(n inode, links uint32) error {
	dir, err := tx.lostFound()
	if err != nil {
		return err
	}
	name := fmt.Sprintf("#%d", n.Ino)
	if err := tx.want(dentryKey(dir, name), inodeKey(dir)); err != nil {
		return err
	}
	if e, err := tx.entry(dir, name); err != nil || e != nil {
		return tnv.E("repair", tnv.KindExist, "/%s/%s is there already (%v)", lostFound, name, err)
	}
	if n.Nlink = 1; n.IsDir() {
		n.Nlink, n.Parent = links, dir
	}
	n.Ctime = tx.now
	tx.update(n)
	tx.set(dentryKey(dir, name), &dentry{n.Ino, n.Type()})
	return tx.updateDir(dir, 1, int(boolean(n.IsDir())))
}

// lostFound finds the directory lost+found, or makes it.
func (tx *Tx) lostFound() (tnv.Ino, error) {
	if err := tx.want(inodeKey(tnv.RootIno), dentryKey(tnv.RootIno, lostFound), usageKey()); err != nil {
		return 0, err
	}
	e, err := tx.entry(tnv.RootIno, lostFound)
	if err != nil {
		return 0, err
	}
	if e != nil && e.Type != tnv.TypeDir {
		return 0, tnv.E("repair", tnv.KindNotDir, "/%s is no directory: move it away", lostFound)
	}
	if e != nil {
		return e.Ino, nil
	}
	made, err := tx.makeInode(&call{v: tx.s.owner}, tnv.RootIno, lostFound, 0, inode{Attr: tnv.Attr{Mode: tnv.TypeDir.Mode() | 0o700, Nlink: 2, Parent: tnv.RootIno}})
	if err != nil {
		return 0, err
	}
	return made.Ino, nil
}

// repairParked takes the mark off an inode that has names, and off none.
func repairParked(tx *Tx, v *Volume, d *protocol.Damage) error {
	if err := tx.want(inodeKey(d.Ino), unlinkedKey(d.Ino)); err != nil {
		return err
	}
	n, err := getAs[inode](tx, inodeKey(d.Ino))
	if err != nil {
		return err
	}
	if u, err := getAs[unlinked](tx, unlinkedKey(d.Ino)); err != nil || u == nil {
		return gone(d)
	}
	tx.unpark(v, d.Ino)
	if n == nil || uint64(n.Nlink) == d.Want {
		return nil
	}
	is := tx.changed(n)
	is.Nlink += uint32(d.Want - d.Have)
	tx.update(is)
	return nil
}

func repairParent(tx *Tx, _ *Volume, d *protocol.Damage) error {
	n, err := getAs[inode](tx, inodeKey(d.Ino))
	if err != nil {
		return err
	}
	if n == nil || uint64(n.Parent) != d.Have { // it was moved: that has set the parent
		return gone(d)
	}
	is := tx.changed(n)
	is.Parent = tnv.Ino(d.Want)
	tx.update(is)
	return nil
}

// repairType gives an entry its inode's type; directories are counted by entries.
func repairType(tx *Tx, _ *Volume, d *protocol.Damage) error {
	key := dentryKey(d.Ino, d.Name)
	if err := tx.want(key, inodeKey(d.Ino)); err != nil {
		return err
	}
	e, err := getAs[dentry](tx, key)
	if err != nil {
		return err
	}
	if e == nil || e.Ino != d.Child || uint64(e.Type) != d.Have {
		return gone(d)
	}
	is := &dentry{e.Ino, tnv.FileType(d.Want)}
	tx.set(key, is)
	return tx.adjustDir(d.Ino, 0, int(boolean(is.Type == tnv.TypeDir))-int(boolean(e.Type == tnv.TypeDir)))
}

// repairRefs changes a count by the difference found. A block without any extent
// left is an orphan from then on.
func repairRefs(tx *Tx, _ *Volume, d *protocol.Damage) error {
	r, err := getAs[references](tx, refKey(d.Block))
	if err != nil {
		return err
	}
	n := d.Want - d.Have
	if r != nil {
		n += r.Count
	}
	if int64(n) < 0 {
		return gone(d)
	}
	if n == 0 {
		tx.del(refKey(d.Block))
		return nil
	}
	tx.set(refKey(d.Block), &references{n})
	return nil
}

// repairShared marks a block's extents in a chunk, and counts them.
func repairShared(tx *Tx, _ *Volume, d *protocol.Damage) error {
	if err := tx.want(inodeKey(d.Ino), chunkKey(d.Ino, d.Chunk)); err != nil {
		return err
	}
	n, err := getAs[inode](tx, inodeKey(d.Ino))
	if err != nil {
		return err
	}
	if n == nil {
		return gone(d)
	}
	is := tx.changed(n)
	if err := tx.share(&is, d.Chunk, map[tnv.BlockID]bool{d.Block: true}); err != nil {
		return err
	}
	tx.update(is)
	return nil
}

// named tells whether a chunk names a block.
func (tx *Tx) named(home tnv.Home, b tnv.BlockID) (bool, error) {
	c, err := getAs[chunk](tx, chunkKey(home.Ino, home.Chunk))
	if err != nil || c == nil {
		return false, err
	}
	for _, e := range c.extents {
		if e.Block == b {
			return true, nil
		}
	}
	return false, nil
}

// repairDeletion takes back the deletion of a block that a chunk names.
func repairDeletion(tx *Tx, v *Volume, d *protocol.Damage) error {
	key := deletionKey(d.Node, d.Block)
	if err := tx.want(key, chunkKey(d.Ino, d.Chunk)); err != nil {
		return err
	}
	there, err := tx.named(tnv.Home{Ino: d.Ino, Chunk: d.Chunk}, d.Block)
	if err != nil {
		return err
	}
	g, err := tx.get(key)
	if err != nil {
		return err
	}
	if !there || g == nil {
		return gone(d)
	}
	tx.del(key)
	tx.then(func() { v.count(func(c *counts) { c.deletions[d.Node]-- }) })
	return nil
}

// repairLacking records that a member lacks a block that is named: it copies it then.
func repairLacking(tx *Tx, v *Volume, d *protocol.Damage) error {
	home := tnv.Home{Ino: d.Ino, Chunk: d.Chunk}
	if err := tx.want(chunkKey(d.Ino, d.Chunk), lackingKey(d.Node, d.Block)); err != nil {
		return err
	}
	there, err := tx.named(home, d.Block)
	if err != nil {
		return err
	}
	l, err := tx.get(lackingKey(d.Node, d.Block))
	if err != nil {
		return err
	}
	if !there || l != nil {
		return gone(d)
	}
	tx.noteLack(v, d.Node, d.Block, &lacking{Home: home, Bytes: uint32(d.Want)})
	return nil
}

// repairExtents writes a chunk anew whose extents overlap: those behind lie over
// those before. Nothing can have changed the chunk meanwhile, since nothing can read it.
func (v *Volume) repairExtents(ctx context.Context, d protocol.Damage) error {
	key := chunkKey(d.Ino, d.Chunk)
	pairs, _, err := v.scan(ctx, key, prefixEnd(key), 0, nil)
	if err != nil {
		return err
	}
	is := &chunk{base: -1}
	for _, p := range pairs {
		if l, ok := looseExtents(p.key[17:], p.value); ok {
			is.base = len(l)
			for _, e := range l {
				is.extents = overlay(is.extents, e)
			}
			continue
		}
		if err := is.load(p.key[17:], p.value); err != nil {
			return v.damaged(p.key, err)
		}
	}
	if is.base < 0 {
		return gone(&d)
	}
	return v.mutate(ctx, func(tx *Tx) error {
		out := *is
		out.seq = tx.seq
		tx.storeChunk(key, &out, nil, true)
		return nil
	})
}
