package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

func (h *harness) fsck(of uint32) (found []protocol.Damage) {
	h.t.Helper()
	for n := range of {
		_, err := h.v.CheckRecords(context.Background(), Part{n, of}, func(d protocol.Damage) { found = append(found, d) })
		h.must(err)
	}
	return found
}

// healthy makes a volume with some of everything in it.
func healthy(t *testing.T) (h *harness, dir, file, clone tnv.Ino) {
	h = start(t, mem.New(mem.Options{}), Config{})
	dir = h.mkdir(tnv.RootIno, "dir")
	h.mkdir(dir, "sub")
	file, clone = h.create(dir, "file"), h.create(dir, "clone")
	for i := range uint64(40) {
		_, err := h.write(file, i*8192, 4096)
		h.must(err)
	}
	b, err := h.write(file, tnv.ChunkSize, 1<<20)
	h.must(err)
	h.homes[b] = tnv.Home{Ino: file, Chunk: 1}
	_, err = do[protocol.CopyRangeReply](h, protocol.TypeCopyRange, &protocol.CopyRange{From: file, To: clone, Len: 64 << 10})
	h.must(err)
	_, err = do[struct{}](h, protocol.TypeSetXattr, &protocol.SetXattr{Ino: file, Name: "user.a", Value: []byte("b")})
	h.must(err)
	_, err = do[protocol.AttrReply](h, protocol.TypeLink, &protocol.Link{Ino: file, Parent: tnv.RootIno, Name: "hard"})
	h.must(err)
	return h, dir, file, clone
}

// change plants damage: it writes what no operation would.
func (h *harness) plant(fn func(tx *Tx) error) {
	h.t.Helper()
	h.must(h.v.mutate(context.Background(), fn))
}

func (h *harness) plantInode(ino tnv.Ino, change func(n *inode)) {
	h.t.Helper()
	h.plant(func(tx *Tx) error {
		n, err := getAs[inode](tx, inodeKey(ino))
		if err != nil {
			return err
		}
		is := *n
		change(&is)
		tx.set(inodeKey(ino), &is)
		return nil
	})
}

func (h *harness) plantChunk(ino tnv.Ino, index uint64, change func(l []tnv.Extent) []tnv.Extent) {
	h.t.Helper()
	h.plant(func(tx *Tx) error {
		c, err := getAs[chunk](tx, chunkKey(ino, index))
		if err != nil {
			return err
		}
		is := *c
		is.extents = change(slices.Clone(c.extents))
		tx.storeChunk(chunkKey(ino, index), &is, nil, true)
		return nil
	})
}

type planter func(h *harness, dir, file, clone tnv.Ino)

// planters plant damage of every kind that records can have.
func planters() map[protocol.DamageKind]planter {
	return map[protocol.DamageKind]planter{
		protocol.DamageDangling: func(h *harness, dir, _, _ tnv.Ino) {
			h.plant(func(tx *Tx) error {
				tx.set(dentryKey(dir, "ghost"), &dentry{Ino: 900, Type: tnv.TypeRegular})
				return tx.updateDir(dir, 1, 0)
			})
		},
		protocol.DamageNameless: func(h *harness, dir, _, clone tnv.Ino) {
			h.plant(func(tx *Tx) error {
				tx.del(dentryKey(dir, "clone"))
				return tx.updateDir(dir, -1, 0)
			})
		},
		protocol.DamageLinks:   func(h *harness, _, file, _ tnv.Ino) { h.plantInode(file, func(n *inode) { n.Nlink = 7 }) },
		protocol.DamageEntries: func(h *harness, dir, _, _ tnv.Ino) { h.plantInode(dir, func(n *inode) { n.Size = 1 }) },
		protocol.DamageParent:  func(h *harness, dir, _, _ tnv.Ino) { h.plantInode(dir, func(n *inode) { n.Parent = dir }) },
		protocol.DamageType: func(h *harness, dir, _, clone tnv.Ino) {
			h.plant(func(tx *Tx) error {
				tx.set(dentryKey(dir, "clone"), &dentry{Ino: clone, Type: tnv.TypeSymlink})
				return nil
			})
		},
		protocol.DamageAlloc: func(h *harness, _, file, _ tnv.Ino) {
			h.plant(func(tx *Tx) error { return tx.addUsage(0, 512) })
			h.plantInode(file, func(n *inode) { n.Alloc += 512 })
		},
		protocol.DamageXattrs: func(h *harness, _, file, _ tnv.Ino) { h.plantInode(file, func(n *inode) { n.Xattrs = 0 }) },
		protocol.DamageFiles:  func(h *harness, _, _, _ tnv.Ino) { h.plant(func(tx *Tx) error { return tx.addUsage(3, 0) }) },
		protocol.DamageBytes:  func(h *harness, _, _, _ tnv.Ino) { h.plant(func(tx *Tx) error { return tx.addUsage(0, -512) }) },
		protocol.DamageExtents: func(h *harness, _, file, _ tnv.Ino) {
			h.plantChunk(file, 0, func(l []tnv.Extent) []tnv.Extent {
				l[20].Off -= 100 // over its own hole and the one before
				l[20].Len += 8192
				return l
			})
			h.reopen()
		},
		protocol.DamageRefs: func(h *harness, _, _, clone tnv.Ino) {
			h.plant(func(tx *Tx) error {
				c, err := getAs[chunk](tx, chunkKey(clone, 0))
				if err != nil {
					return err
				}
				tx.set(refKey(c.extents[0].Block), &references{9})
				return nil
			})
		},
		protocol.DamageShared: func(h *harness, _, _, clone tnv.Ino) {
			h.plant(func(tx *Tx) error {
				c, err := getAs[chunk](tx, chunkKey(clone, 0))
				if err != nil {
					return err
				}
				is := *c
				is.extents = slices.Clone(c.extents)
				is.extents[0].Flags = 0
				tx.storeChunk(chunkKey(clone, 0), &is, nil, true)
				tx.set(refKey(c.extents[0].Block), &references{1})
				return nil
			})
		},
		protocol.DamageDeletion: func(h *harness, _, file, _ tnv.Ino) {
			h.plant(func(tx *Tx) error {
				c, err := getAs[chunk](tx, chunkKey(file, 1))
				if err != nil {
					return err
				}
				tx.deleteBlocks(c.extents)
				return nil
			})
		},
		protocol.DamageChunk: func(h *harness, dir, _, clone tnv.Ino) {
			h.plant(func(tx *Tx) error {
				n, err := getAs[inode](tx, inodeKey(clone))
				if err != nil {
					return err
				}
				tx.del(inodeKey(clone))
				tx.del(dentryKey(dir, "clone"))
				if err := tx.addUsage(-1, -int64(n.Alloc)); err != nil {
					return err
				}
				return tx.updateDir(dir, -1, 0)
			})
		},
		protocol.DamageParked: func(h *harness, _, file, _ tnv.Ino) {
			h.plant(func(tx *Tx) error {
				tx.set(unlinkedKey(file), &unlinked{Waiting: []tnv.SessionID{h.session}})
				tx.then(func() { h.v.count(func(c *counts) { c.unlinked++ }) })
				return nil
			})
		},
		protocol.DamageCounter: func(h *harness, _, file, _ tnv.Ino) {
			high := h.v.HighWater()
			h.plantChunk(file, 1, func(l []tnv.Extent) []tnv.Extent {
				l[0].Block = high + 3
				return l
			})
		},
	}
}

// Damage of every kind that records can have is found, as what it is, and
// repaired; a volume that is well has none, in however many parts it is looked at.
func TestFsckRecords(t *testing.T) {
	for kind, plant := range planters() {
		t.Run(kind.String(), func(t *testing.T) {
			h, dir, file, clone := healthy(t)
			for _, of := range []uint32{1, 3} {
				if found := h.fsck(of); len(found) != 0 {
					t.Fatalf("a volume that is well has %+v", found)
				}
			}
			plant(h, dir, file, clone)
			high := h.v.HighWater()
			for _, of := range []uint32{3, 1} {
				found := h.fsck(of)
				if len(found) == 0 || slices.ContainsFunc(found, func(d protocol.Damage) bool { return d.Kind != kind }) {
					t.Fatalf("found %+v", found)
				}
			}
			for round := 0; ; round++ {
				found := h.fsck(1)
				if len(found) == 0 {
					break
				}
				if round == 4 {
					t.Fatalf("repaired four times, there is still %+v", found)
				}
				for _, d := range found {
					h.must(h.v.Repair(context.Background(), d))
				}
			}
			if kind == protocol.DamageCounter && h.v.HighWater() <= high+3 {
				t.Fatal("ids that are in use are still to be given out")
			}
			clear(h.homes) // what a repair has freed or given up is not what the harness thinks
			h.check()
			switch kind {
			case protocol.DamageNameless, protocol.DamageChunk:
				lost, err := h.lookup(tnv.RootIno, "lost+found")
				h.must(err)
				a, err := h.lookup(lost.Ino, fmt.Sprintf("#%d", clone))
				if h.must(err); a.Ino != clone || a.Nlink != 1 || a.Size < 60<<10 {
					t.Fatalf("in lost+found: %+v", a)
				}
			case protocol.DamageDangling:
				if _, err := h.lookup(dir, "ghost"); !errors.Is(err, tnv.KindNotExist) {
					t.Fatalf("the entry without an inode: %v", err)
				}
			}
		})
	}
}

// A record that cannot be read is told of, and hinders nothing else.
func TestFsckUnreadable(t *testing.T) {
	h, _, file, _ := healthy(t)
	h.must(h.v.sync(context.Background()))
	h.v.Close()
	seen, err := h.engine.Lease(context.Background(), testVol)
	h.must(err)
	seq, err := h.engine.Seq(context.Background(), testVol)
	h.must(err)
	h.must(h.engine.Apply(context.Background(), kv.Fence{Vol: testVol, Epoch: seen.Epoch}, []kv.Batch{{Seq: seq + 1, Writes: []kv.Write{
		{Key: []byte(chunkBaseKey(chunkKey(file, 1))), Value: []byte{1, 2}}, {Key: []byte(xattrKey(file, "user.b")), Value: []byte{9}}}}}))
	h.v = nil
	h.reopen()
	found := h.fsck(1)
	n := 0
	for _, d := range found {
		if d.Kind == protocol.DamageRecord {
			n++
			if h.v.Repair(context.Background(), d) == nil {
				t.Error("what is lost was repaired")
			}
		}
	}
	if n != 2 || len(found) != 2 {
		t.Fatalf("found %+v", found)
	}
}

// While sessions change everything, nothing is found, and repairs of counts
// that were damaged meanwhile end in the right count.
func TestFsckUnderLoad(t *testing.T) {
	h, _, file, _ := healthy(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		other := *h
		other.homes = map[tnv.BlockID]tnv.Home{}
		other.newSession()
		dir := other.mkdir(tnv.RootIno, fmt.Sprintf("w%d", w))
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprint(i % 7)
				rep, err := do[protocol.CreateReply](&other, protocol.TypeCreate, &protocol.Create{Parent: dir, Name: name, Mode: 0o644})
				if err != nil {
					t.Error(err)
					return
				}
				f := rep.Attr.Ino
				for j := range uint64(3) {
					other.write(f, j*4096+uint64(i%5)*tnv.ChunkSize, 4096)
				}
				do[protocol.CopyRangeReply](&other, protocol.TypeCopyRange, &protocol.CopyRange{From: file, To: f, Len: 16 << 10})
				do[protocol.AttrReply](&other, protocol.TypeLink, &protocol.Link{Ino: f, Parent: dir, Name: name + "-hard"})
				do[protocol.UnlinkReply](&other, protocol.TypeRename, &protocol.Rename{Parent: dir, Name: name, NewParent: tnv.RootIno, NewName: fmt.Sprintf("r%d-%s", w, name)})
				rm, _ := do[protocol.UnlinkReply](&other, protocol.TypeUnlink, &protocol.Unlink{Parent: dir, Name: name + "-hard"})
				_ = rm
				do[struct{}](&other, protocol.TypeMkdir, &protocol.Mkdir{Parent: dir, Name: "d", Mode: 0o755})
				do[struct{}](&other, protocol.TypeRmdir, &protocol.Rmdir{Parent: dir, Name: "d"})
				do[struct{}](&other, protocol.TypeReleased, &protocol.Released{Inos: []tnv.Ino{f}})
			}
		})
	}
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		if found := h.fsck(2); len(found) != 0 {
			t.Errorf("found under load: %+v", found)
			break
		}
	}
	h.plantInode(tnv.RootIno, func(n *inode) { n.Size += 5; n.Nlink += 3 })
	h.plant(func(tx *Tx) error { return tx.addUsage(-4, 77) })
	for _, d := range h.fsck(1) {
		h.must(h.v.Repair(context.Background(), d))
	}
	if found := h.fsck(1); len(found) != 0 {
		t.Errorf("left after the repair: %+v", found)
	}
	close(stop)
	wg.Wait()
	h.idle()
	clear(h.homes)
	h.check()
}

func TestPaths(t *testing.T) {
	h, dir, file, clone := healthy(t)
	paths, err := h.v.Paths(context.Background(), []tnv.Ino{dir, clone, file, tnv.RootIno, 4711})
	h.must(err)
	if paths[dir] != "/dir" || paths[clone] != "/dir/clone" || paths[tnv.RootIno] != "/" || len(paths) != 4 || paths[file] != "/dir/file" && paths[file] != "/hard" {
		t.Fatalf("%v", paths)
	}
}
