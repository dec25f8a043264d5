package blockstore

import (
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// sector is what records and their data are aligned to.
const sector = 512

const (
	recordMagic  = 0x544e5662 // "TNVb"
	segmentMagic = 0x544e5673 // "TNVs"
	fixedHeader  = 64
	maxSums      = tnv.MaxBlockSize / protocol.MinUnit
	maxHeader    = (fixedHeader + 4*maxSums + sector - 1) / sector * sector
)

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }

// headerLen is the length of a record's header with n sums, padding included.
func headerLen(n int) int64 { return alignUp(fixedHeader+4*int64(n), sector) }

// recordSize is what a block takes in a segment.
func recordSize(m *protocol.BlockMeta) int64 {
	return headerLen(len(m.Sums)) + alignUp(int64(m.Len), sector)
}

// A record is a header and the block's data, each padded with zeros to sectors
// of 512 bytes. The next record follows at once. Big endian.
//
//	 0  magic    4  "TNVb"
//	 4  crc      4  CRC32C of the header from 8 on, sums included, padding not
//	 8  segment  8  the segment's own id: bytes from elsewhere are no header here
//	16  number   4  of the record in its segment, from 0
//	20  volume   4
//	24  block    8
//	32  inode    8  home
//	40  chunk    8  home
//	48  length   4
//	52  unit     4
//	56  sums     4  how many
//	60  zero     4
//	64  sums     4 each
//
// Headers are written in file order, each when its space is reserved. So the
// segment is walked from header to header, and never searched: a block's data
// may hold anything, forged headers too. Torn tail: the first header that does
// not match ends the segment. Data may be torn anywhere (writers run side by
// side): each record is compared with its sums, and void if it differs.
type record struct {
	segment uint64
	number  uint32
	meta    protocol.BlockMeta
}

func (r *record) appendTo(p []byte) []byte {
	start := len(p)
	m := &r.meta
	p = binary.BigEndian.AppendUint32(p, recordMagic)
	p = binary.BigEndian.AppendUint32(p, 0)
	p = binary.BigEndian.AppendUint64(p, r.segment)
	p = binary.BigEndian.AppendUint32(p, r.number)
	p = binary.BigEndian.AppendUint32(p, uint32(m.Key.Vol))
	p = binary.BigEndian.AppendUint64(p, uint64(m.Key.ID))
	p = binary.BigEndian.AppendUint64(p, uint64(m.Home.Ino))
	p = binary.BigEndian.AppendUint64(p, m.Home.Chunk)
	p = binary.BigEndian.AppendUint32(p, m.Len)
	p = binary.BigEndian.AppendUint32(p, m.Unit)
	p = binary.BigEndian.AppendUint32(p, uint32(len(m.Sums)))
	p = binary.BigEndian.AppendUint32(p, 0)
	for _, s := range m.Sums {
		p = binary.BigEndian.AppendUint32(p, s)
	}
	binary.BigEndian.PutUint32(p[start+4:], crc32.Checksum(p[start+8:], protocol.Castagnoli))
	return append(p, make([]byte, headerLen(len(m.Sums))-int64(len(p)-start))...)
}

// sumsOf tells how many sums a header of fixedHeader bytes announces; false if
// it is none.
func sumsOf(p []byte) (int, bool) {
	if len(p) < fixedHeader || binary.BigEndian.Uint32(p) != recordMagic {
		return 0, false
	}
	n := binary.BigEndian.Uint32(p[56:])
	return int(n), n > 0 && n <= maxSums
}

// decodeRecord reads a header; false if it is none, or damaged.
func decodeRecord(p []byte) (record, bool) {
	n, ok := sumsOf(p)
	if !ok || len(p) < fixedHeader+4*n {
		return record{}, false
	}
	p = p[:fixedHeader+4*n]
	if crc32.Checksum(p[8:], protocol.Castagnoli) != binary.BigEndian.Uint32(p[4:]) {
		return record{}, false
	}
	r := record{
		segment: binary.BigEndian.Uint64(p[8:]),
		number:  binary.BigEndian.Uint32(p[16:]),
		meta: protocol.BlockMeta{
			Key: tnv.BlockKey{
				Vol: tnv.VolumeID(binary.BigEndian.Uint32(p[20:])),
				ID:  tnv.BlockID(binary.BigEndian.Uint64(p[24:])),
			},
			Home: tnv.Home{
				Ino:   tnv.Ino(binary.BigEndian.Uint64(p[32:])),
				Chunk: binary.BigEndian.Uint64(p[40:]),
			},
			Len:  binary.BigEndian.Uint32(p[48:]),
			Unit: binary.BigEndian.Uint32(p[52:]),
			Sums: decodeSums(p[fixedHeader:]),
		},
	}
	return r, r.meta.Check() == nil
}

func decodeSums(p []byte) []uint32 {
	sums := make([]uint32, len(p)/4)
	for i := range sums {
		sums[i] = binary.BigEndian.Uint32(p[4*i:])
	}
	return sums
}

// readRecord reads the header at off. False without an error: there is none.
func readRecord(f io.ReaderAt, off int64) (record, bool, error) {
	var fixed [fixedHeader]byte
	if ok, err := readFull(f, fixed[:], off); !ok || err != nil {
		return record{}, false, err
	}
	n, ok := sumsOf(fixed[:])
	if !ok {
		return record{}, false, nil
	}
	p := make([]byte, fixedHeader+4*n)
	if ok, err := readFull(f, p, off); !ok || err != nil {
		return record{}, false, err
	}
	r, ok := decodeRecord(p)
	return r, ok, nil
}

// readFull fills p; false if the file ends before.
func readFull(f io.ReaderAt, p []byte, off int64) (bool, error) {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return true, nil
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return false, nil
	}
	return false, err
}

// A segment begins with one sector. Big endian.
//
//	 0  magic    4  "TNVs"
//	 4  crc      4  CRC32C of bytes 8 to 36
//	 8  format   4
//	12  segment  8  boot counter in the upper half, a counter in the lower
//	20  node     8
//	28  boot     8
//	36  zero, up to 512
//
// It is synced before the first record is begun.
func encodeSegmentHeader(id uint64, b Superblock) []byte {
	p := make([]byte, sector)
	binary.BigEndian.PutUint32(p[0:], segmentMagic)
	binary.BigEndian.PutUint32(p[8:], format)
	binary.BigEndian.PutUint64(p[12:], id)
	binary.BigEndian.PutUint64(p[20:], uint64(b.Node))
	binary.BigEndian.PutUint64(p[28:], uint64(b.Boot))
	binary.BigEndian.PutUint32(p[4:], crc32.Checksum(p[8:36], protocol.Castagnoli))
	return p
}

// isSegment tells whether p begins the segment with this id of this store.
func isSegment(p []byte, id uint64, node tnv.NodeID) bool {
	return len(p) >= 36 && binary.BigEndian.Uint32(p) == segmentMagic &&
		crc32.Checksum(p[8:36], protocol.Castagnoli) == binary.BigEndian.Uint32(p[4:]) &&
		binary.BigEndian.Uint32(p[8:]) == format &&
		binary.BigEndian.Uint64(p[12:]) == id &&
		binary.BigEndian.Uint64(p[20:]) == uint64(node)
}
