package protocol

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/tnvfs/tnv"
)

// Checksum units. A unit is what a reader must read to verify one byte.
const (
	MinUnit = 4 << 10
	MaxUnit = 64 << 10
)

// UnitFor is the checksum unit of a new block of n bytes.
func UnitFor(n int) uint32 {
	if n <= 64<<10 {
		return MinUnit
	}
	return 16 << 10
}

// Units is the number of units of a block of n bytes.
func Units(n, unit uint32) int { return int((uint64(n) + uint64(unit) - 1) / uint64(unit)) }

// BlockSum is the checksum of one unit of a block: CRC32C over the block's key
// and the unit's number, then the bytes. So the right bytes of another block,
// or of another place in this one, do not match either.
func BlockSum(key tnv.BlockKey, unit int, data []byte) uint32 {
	var seed [16]byte
	binary.BigEndian.PutUint32(seed[0:], uint32(key.Vol))
	binary.BigEndian.PutUint64(seed[4:], uint64(key.ID))
	binary.BigEndian.PutUint32(seed[12:], uint32(unit))
	return crc32.Update(crc32.Update(0, Castagnoli, seed[:]), Castagnoli, data)
}

// BlockSums are the checksums of a whole block.
func BlockSums(key tnv.BlockKey, unit uint32, data []byte) []uint32 {
	sums := make([]uint32, Units(uint32(len(data)), unit))
	for i := range sums {
		end := min((i+1)*int(unit), len(data))
		sums[i] = BlockSum(key, i, data[i*int(unit):end])
	}
	return sums
}

// Verify checks data, which begins at unit first of the block, against sums,
// one per unit. It returns the number of the first bad unit, or -1.
func Verify(key tnv.BlockKey, unit uint32, first int, data []byte, sums []uint32) int {
	for i, want := range sums {
		lo := i * int(unit)
		hi := min(lo+int(unit), len(data))
		if lo >= hi || BlockSum(key, first+i, data[lo:hi]) != want {
			return first + i
		}
	}
	return -1
}

// Check tells whether a description makes sense: a length of at least one byte
// and at most tnv.MaxBlockSize, a proper unit and the right number of sums.
func (m *BlockMeta) Check() error {
	const op = "check block"
	switch {
	case m.Key.Vol == 0 || m.Key.ID == 0:
		return tnv.E(op, tnv.KindInvalid, "no block %v can be", m.Key)
	case m.Len == 0 || m.Len > tnv.MaxBlockSize:
		return tnv.E(op, tnv.KindInvalid, "block %v of %d bytes", m.Key, m.Len)
	case m.Unit < MinUnit || m.Unit > MaxUnit || m.Unit&(m.Unit-1) != 0:
		return tnv.E(op, tnv.KindInvalid, "block %v with a checksum unit of %d bytes", m.Key, m.Unit)
	case len(m.Sums) != Units(m.Len, m.Unit):
		return tnv.E(op, tnv.KindInvalid, "block %v of %d bytes with %d checksums", m.Key, m.Len, len(m.Sums))
	}
	return nil
}
