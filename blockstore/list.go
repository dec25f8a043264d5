package blockstore

import (
	"math"
	"slices"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// scanStep is how many items of the index are looked at under one lock.
const scanStep = 2048

type item struct {
	id tnv.BlockID
	at location
}

// scan hands on what the index has of a volume in [from, to), tombstones too,
// in the order of ids, a piece at a time and without a lock; to 0: no end.
// What changes meanwhile may be seen or not. visit returns whether to go on.
func (s *Store) scan(vol tnv.VolumeID, from, to tnv.BlockID, visit func([]item) bool) {
	buf := make([]item, 0, scanStep)
	for {
		buf = buf[:0]
		s.mu.RLock()
		if v := s.index.vols[vol]; v != nil {
			v.blocks.Ascend(from, func(id tnv.BlockID, at location) bool {
				if to != 0 && id >= to {
					return false
				}
				buf = append(buf, item{id, at})
				return len(buf) < scanStep
			})
		}
		s.mu.RUnlock()
		if len(buf) > 0 && !visit(buf) || len(buf) < scanStep {
			return
		}
		from = buf[len(buf)-1].id + 1
		if from == 0 {
			return
		}
	}
}

// List lists held blocks of a volume in [from, to) in the order of ids, at most
// limit; to 0: no end. more: there are others behind the last.
func (s *Store) List(vol tnv.VolumeID, from, to tnv.BlockID, limit int) (blocks []protocol.ListedBlock, more bool, err error) {
	if err := s.enter(); err != nil {
		return nil, false, err
	}
	defer s.leave()
	var found []item
	s.scan(vol, from, to, func(items []item) bool {
		for _, it := range items {
			if !it.at.live() {
				continue
			}
			if len(found) >= limit {
				more = true
				return false
			}
			found = append(found, it)
		}
		return true
	})
	for _, it := range found {
		m, err := s.metaOf(tnv.BlockKey{Vol: vol, ID: it.id})
		switch tnv.KindOf(err) {
		case tnv.KindMissing:
			continue // it went meanwhile
		case tnv.KindCorrupt: // it is held, and whoever reads it will see; nobody knows its home
			m.Len = it.at.len
		default:
			if err != nil {
				return nil, false, wrap("list blocks", err)
			}
		}
		blocks = append(blocks, protocol.ListedBlock{Block: it.id, Home: m.Home, Len: m.Len})
	}
	return blocks, more, nil
}

// HashID is the hash of an id that digests add up: the finaliser of splitmix64
// (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
func HashID(id tnv.BlockID) uint64 {
	z := uint64(id) + 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Digest cuts [from, to) into parts of equal width, the last perhaps shorter
// (to 0: the range ends behind the largest id that can be), and gives for each the number of
// held blocks and the sum of their ids' hashes, modulo 2^64. last is the
// largest id held in the volume, 0 if there is none.
func (s *Store) Digest(vol tnv.VolumeID, from, to tnv.BlockID, parts int) (counts, sums []uint64, last tnv.BlockID, err error) {
	if parts < 1 || parts > 256 || to != 0 && to <= from {
		return nil, nil, 0, tnv.E("digest", tnv.KindInvalid, "%d parts of [%d, %d)", parts, from, to)
	}
	if err := s.enter(); err != nil {
		return nil, nil, 0, err
	}
	defer s.leave()
	counts, sums = make([]uint64, parts), make([]uint64, parts)
	width := PartWidth(from, to, parts)
	s.scan(vol, from, to, func(items []item) bool {
		for _, it := range items {
			if it.at.live() {
				part := min(uint64(it.id-from)/width, uint64(parts-1))
				counts[part]++
				sums[part] += HashID(it.id)
			}
		}
		return true
	})
	return counts, sums, s.last(vol), nil
}

// PartWidth is how many ids each part of a digest covers.
func PartWidth(from, to tnv.BlockID, parts int) uint64 {
	n := uint64(to) - uint64(from) - 1 // the number of ids less one; right for to 0 as well
	if n == math.MaxUint64 && parts == 1 {
		return n // 2^64 has no place; the last id counts to the last part
	}
	return n/uint64(parts) + 1
}

// last is the largest id held.
func (s *Store) last(vol tnv.VolumeID) tnv.BlockID {
	from, found := ^tnv.BlockID(0), tnv.BlockID(0)
	for {
		n := 0
		s.mu.RLock()
		if v := s.index.vols[vol]; v != nil && v.live > 0 {
			v.blocks.Descend(from, func(id tnv.BlockID, at location) bool {
				n++
				from = id - 1
				if at.live() {
					found = id
				}
				return found == 0 && n < scanStep
			})
		}
		s.mu.RUnlock()
		if found != 0 || n < scanStep {
			return found
		}
	}
}

// Volumes lists the volumes of which the store holds blocks.
func (s *Store) Volumes() []tnv.VolumeID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var vols []tnv.VolumeID
	for id, v := range s.index.vols {
		if v.live > 0 {
			vols = append(vols, id)
		}
	}
	slices.Sort(vols)
	return vols
}
