package blockstore

import (
	"github.com/tidwall/btree"

	"github.com/tnvfs/tnv"
)

// location is where a block lies: 16 bytes. With seg 0 it is a tombstone, and
// pos the minute, since the store was opened, in which it was made.
type location struct {
	seg uint32 // Store.segments
	off uint32 // of the record's header, in sectors
	pos uint32 // number of the record in its segment
	len uint32
}

func (l location) live() bool      { return l.seg != 0 }
func (l location) tombstone() bool { return l.seg == 0 && l.len == tombMark }

// tombMark tells a tombstone from no location at all: no block is so long.
const tombMark = ^uint32(0)

// volume is what a store knows of one volume: its blocks and its tombstones.
type volume struct {
	blocks btree.Map[tnv.BlockID, location]
	live   int
	tombs  int
}

// index is the memory of where blocks lie. It has no lock: Store.mu guards it.
type index struct {
	vols map[tnv.VolumeID]*volume
}

func (x *index) get(key tnv.BlockKey) location {
	if v := x.vols[key.Vol]; v != nil {
		l, _ := v.blocks.Get(key.ID)
		return l
	}
	return location{}
}

// set puts a location, a tombstone, or nothing (the zero location) for a key.
func (x *index) set(key tnv.BlockKey, l location) {
	v := x.vols[key.Vol]
	if v == nil {
		if l == (location{}) {
			return
		}
		v = &volume{}
		x.vols[key.Vol] = v
	}
	var old location
	if l == (location{}) {
		old, _ = v.blocks.Delete(key.ID)
	} else {
		old, _ = v.blocks.Set(key.ID, l)
	}
	v.live += count(l.live()) - count(old.live())
	v.tombs += count(l.tombstone()) - count(old.tombstone())
	if v.blocks.Len() == 0 {
		delete(x.vols, key.Vol)
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// totals counts blocks and tombstones of all volumes.
func (x *index) totals() (live, tombs int) {
	for _, v := range x.vols {
		live += v.live
		tombs += v.tombs
	}
	return live, tombs
}
