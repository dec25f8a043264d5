package meta

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Unrecorded gives those of the blocks, each with a chunk that named it, which
// the chunk names still; and those of them which a store is not recorded to lack.
// So a store that is seen to lack one of these afterwards, when it is named then,
// too, has lost it: a record goes only when the store has the block on disk.
func (v *Volume) Unrecorded(ctx context.Context, n tnv.NodeID, blocks []protocol.BlockHome) (named, unrecorded []protocol.BlockHome, err error) {
	err = v.read(ctx, func(tx *Tx) error {
		named, unrecorded = named[:0], unrecorded[:0]
		for _, b := range blocks {
			tx.want(chunkKey(b.Home.Ino, b.Home.Chunk), lackingKey(n, b.Block))
		}
		if tx.missed() {
			return errMiss
		}
		for _, b := range blocks {
			there, err := tx.named(b.Home, b.Block)
			if err != nil {
				return err
			}
			l, err := tx.get(lackingKey(n, b.Block))
			if err != nil {
				return err
			}
			if there {
				named = append(named, b)
			}
			if there && l == nil {
				unrecorded = append(unrecorded, b)
			}
		}
		return nil
	})
	return named, unrecorded, err
}

// Paths finds the paths of inodes, as far as they have one: for people.
func (v *Volume) Paths(ctx context.Context, inos []tnv.Ino) (map[tnv.Ino]string, error) {
	type name struct {
		parent tnv.Ino
		name   string
	}
	names := map[tnv.Ino]name{}
	want := map[tnv.Ino]bool{}
	for _, ino := range inos {
		want[ino] = ino != 0 && ino != tnv.RootIno
	}
	class := string([]byte{keyDentry})
	// Each round finds the names of one level; a cycle of directories ends it, too.
	for range 256 {
		found := false
		err := v.snapshot(ctx, class, prefixEnd(class), func(key string, value []byte) error {
			val, err := decodeDentry(value)
			if err != nil {
				return nil // it is a finding of its own
			}
			if e := val.(*dentry); want[e.Ino] {
				_, s := dentryName(key)
				parent := tnv.Ino(split1(key))
				names[e.Ino] = name{parent, s}
				want[e.Ino] = false
				if _, known := want[parent]; !known && parent != tnv.RootIno {
					want[parent], found = true, true
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if !found {
			break
		}
	}
	paths := map[tnv.Ino]string{}
	for _, ino := range inos {
		path, at := "", ino
		for depth := 0; at != tnv.RootIno && depth < 256; depth++ {
			n, ok := names[at]
			if !ok {
				path = "…" + path
				break
			}
			path, at = "/"+n.name+path, n.parent
		}
		if at == tnv.RootIno && path == "" {
			path = "/"
		}
		if _, ok := names[ino]; ok || ino == tnv.RootIno {
			paths[ino] = path
		}
	}
	return paths, nil
}
