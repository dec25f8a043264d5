package blockstore

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	indexMagic  = 0x544e5669 // "TNVi"
	indexHeader = 64
	indexEntry  = 64
)

// recState says what became of a record.
type recState uint8

const (
	recWriting recState = iota // its writer is at work
	recLive                    // committed
	recVoid                    // aborted, lost in a failed sync, or torn: its bytes mean nothing
)

// entry is one record of a segment, as the index file and the memory of an
// unsealed segment have it.
type entry struct {
	key    tnv.BlockKey
	home   tnv.Home
	off    uint32 // of the header, in sectors
	len    uint32
	unit   uint32
	sumsAt uint32 // where its sums begin among those of the segment
	state  recState
	commit uint64 // number of its commit; not in the file
}

func (e *entry) sums() int        { return protocol.Units(e.len, e.unit) }
func (e *entry) dataOff() int64   { return int64(e.off)*sector + headerLen(e.sums()) }
func (e *entry) size() int64      { return headerLen(e.sums()) + alignUp(int64(e.len), sector) }
func (e *entry) headerOff() int64 { return int64(e.off) * sector }

func (e *entry) meta(sums []uint32) protocol.BlockMeta {
	return protocol.BlockMeta{Key: e.key, Home: e.home, Len: e.len, Unit: e.unit, Sums: sums}
}

// An index file lists the records of a sealed segment, sorted by offset: entry
// number n is record number n. It is written beside, synced and renamed, after
// the segment was synced: it is whole or not there. A damaged one is made anew
// from the segment. Big endian.
//
//	header                            entry, 64 bytes each
//	 0  magic    4  "TNVi"             0  volume   4
//	 4  crc      4  of bytes 8 to 64   4  length   4
//	 8  format   4                     8  block    8
//	12  entries  4                    16  inode    8
//	16  sums     4  of all entries    24  chunk    8
//	20  crc      4  of the entries    32  offset   4  of the header, in sectors
//	24  segment  8                    36  unit     4
//	32  end      8  of the segment    40  sums     4  number of the first
//	40  zero    24                    44  state    1  1 live, 2 void
//	                                  45  zero    15
//	then the entries,                 60  crc      4  of bytes 0 to 60, then its sums
//	then the sums, 4 bytes each
func (e *entry) appendTo(p []byte, sums []uint32) []byte {
	start := len(p)
	p = binary.BigEndian.AppendUint32(p, uint32(e.key.Vol))
	p = binary.BigEndian.AppendUint32(p, e.len)
	p = binary.BigEndian.AppendUint64(p, uint64(e.key.ID))
	p = binary.BigEndian.AppendUint64(p, uint64(e.home.Ino))
	p = binary.BigEndian.AppendUint64(p, e.home.Chunk)
	p = binary.BigEndian.AppendUint32(p, e.off)
	p = binary.BigEndian.AppendUint32(p, e.unit)
	p = binary.BigEndian.AppendUint32(p, e.sumsAt)
	p = append(p, byte(e.state))
	p = append(p, make([]byte, 15)...)
	crc := crc32.Checksum(p[start:], protocol.Castagnoli)
	crc = crc32.Update(crc, protocol.Castagnoli, encodeSums(nil, sums))
	return binary.BigEndian.AppendUint32(p, crc)
}

func encodeSums(p []byte, sums []uint32) []byte {
	for _, s := range sums {
		p = binary.BigEndian.AppendUint32(p, s)
	}
	return p
}

// decodeEntry reads an entry, whose checksum covers its sums too and is not
// checked here. False: it makes no sense in a segment with this end and so
// many sums.
func decodeEntry(p []byte, end int64, sums uint32) (entry, bool) {
	if len(p) < indexEntry {
		return entry{}, false
	}
	e := entry{
		key: tnv.BlockKey{
			Vol: tnv.VolumeID(binary.BigEndian.Uint32(p[0:])),
			ID:  tnv.BlockID(binary.BigEndian.Uint64(p[8:])),
		},
		home: tnv.Home{
			Ino:   tnv.Ino(binary.BigEndian.Uint64(p[16:])),
			Chunk: binary.BigEndian.Uint64(p[24:]),
		},
		len:    binary.BigEndian.Uint32(p[4:]),
		off:    binary.BigEndian.Uint32(p[32:]),
		unit:   binary.BigEndian.Uint32(p[36:]),
		sumsAt: binary.BigEndian.Uint32(p[40:]),
		state:  recState(p[44]),
	}
	ok := e.key.Vol != 0 && e.key.ID != 0 && e.len > 0 && e.len <= tnv.MaxBlockSize &&
		e.unit >= protocol.MinUnit && e.unit <= protocol.MaxUnit && e.unit&(e.unit-1) == 0 &&
		e.off > 0 && e.headerOff()+e.size() <= end &&
		uint64(e.sumsAt)+uint64(e.sums()) <= uint64(sums) &&
		(e.state == recLive || e.state == recVoid)
	return e, ok
}

// indexInfo is the header of an index file.
type indexInfo struct {
	count, sums uint32
	crc         uint32
	segment     uint64
	end         int64
}

func (h *indexInfo) encode() []byte {
	p := make([]byte, indexHeader)
	binary.BigEndian.PutUint32(p[0:], indexMagic)
	binary.BigEndian.PutUint32(p[8:], format)
	binary.BigEndian.PutUint32(p[12:], h.count)
	binary.BigEndian.PutUint32(p[16:], h.sums)
	binary.BigEndian.PutUint32(p[20:], h.crc)
	binary.BigEndian.PutUint64(p[24:], h.segment)
	binary.BigEndian.PutUint64(p[32:], uint64(h.end))
	binary.BigEndian.PutUint32(p[4:], crc32.Checksum(p[8:], protocol.Castagnoli))
	return p
}

func decodeIndexInfo(p []byte) (indexInfo, bool) {
	if len(p) < indexHeader || binary.BigEndian.Uint32(p) != indexMagic ||
		crc32.Checksum(p[8:indexHeader], protocol.Castagnoli) != binary.BigEndian.Uint32(p[4:]) ||
		binary.BigEndian.Uint32(p[8:]) != format {
		return indexInfo{}, false
	}
	h := indexInfo{
		count:   binary.BigEndian.Uint32(p[12:]),
		sums:    binary.BigEndian.Uint32(p[16:]),
		crc:     binary.BigEndian.Uint32(p[20:]),
		segment: binary.BigEndian.Uint64(p[24:]),
		end:     int64(binary.BigEndian.Uint64(p[32:])),
	}
	ok := h.count <= maxRecords && h.sums <= h.count*maxSums && h.end >= sector && h.end <= maxSegmentSize+tnv.MaxBlockSize+maxHeader
	return h, ok
}

// size is how long the file is.
func (h *indexInfo) size() int64 {
	return indexHeader + indexEntry*int64(h.count) + 4*int64(h.sums)
}

// writeIndex writes an index file's content.
func writeIndex(w io.Writer, segment uint64, end int64, entries []entry, sums []uint32) error {
	p := make([]byte, 0, indexEntry*len(entries))
	for i := range entries {
		e := &entries[i]
		p = e.appendTo(p, sums[e.sumsAt:][:e.sums()])
	}
	h := indexInfo{
		count: uint32(len(entries)), sums: uint32(len(sums)), segment: segment, end: end,
		crc: crc32.Checksum(p, protocol.Castagnoli),
	}
	for _, b := range [][]byte{h.encode(), p, encodeSums(make([]byte, 0, 4*len(sums)), sums)} {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// readIndex hands the entries of an index file of this size on, in order. It
// returns the header. KindCorrupt: the file is damaged, or not this segment's;
// some entries may have been handed on by then.
func readIndex(f io.ReaderAt, size int64, segment uint64, visit func(n uint32, e entry)) (indexInfo, error) {
	bad := func(why string) (indexInfo, error) {
		return indexInfo{}, tnv.E("read index", tnv.KindCorrupt, "segment %016x: %s", segment, why)
	}
	var p [indexEntry]byte
	if ok, err := readFull(f, p[:indexHeader], 0); err != nil {
		return indexInfo{}, err
	} else if !ok {
		return bad("cut short")
	}
	h, ok := decodeIndexInfo(p[:])
	if !ok || h.segment != segment || h.size() != size {
		return bad("its header does not match")
	}
	r := bufio.NewReaderSize(io.NewSectionReader(f, indexHeader, indexEntry*int64(h.count)), 64<<10)
	var crc uint32
	for n := range h.count {
		if _, err := io.ReadFull(r, p[:]); err != nil {
			return indexInfo{}, wrap("read index", err)
		}
		crc = crc32.Update(crc, protocol.Castagnoli, p[:])
		e, ok := decodeEntry(p[:], h.end, h.sums)
		if !ok {
			return bad("an entry makes no sense")
		}
		visit(n, e)
	}
	if crc != h.crc {
		return bad("its entries do not match their checksum")
	}
	return h, nil
}

// readEntry reads one entry with its sums and checks both. KindCorrupt: it is damaged.
func readEntry(f io.ReaderAt, number uint32, info *indexInfo) (entry, []uint32, error) {
	bad := func() (entry, []uint32, error) {
		return entry{}, nil, tnv.E("read index", tnv.KindCorrupt, "segment %016x, entry %d", info.segment, number)
	}
	var p [indexEntry]byte
	if ok, err := readFull(f, p[:], indexHeader+indexEntry*int64(number)); err != nil {
		return entry{}, nil, err
	} else if !ok {
		return bad()
	}
	e, ok := decodeEntry(p[:], info.end, info.sums)
	if !ok {
		return bad()
	}
	sums := make([]byte, 4*e.sums())
	if ok, err := readFull(f, sums, indexHeader+indexEntry*int64(info.count)+4*int64(e.sumsAt)); err != nil {
		return entry{}, nil, err
	} else if !ok {
		return bad()
	}
	crc := crc32.Update(crc32.Checksum(p[:60], protocol.Castagnoli), protocol.Castagnoli, sums)
	if crc != binary.BigEndian.Uint32(p[60:]) {
		return bad()
	}
	return e, decodeSums(sums), nil
}
