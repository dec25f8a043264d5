package meta

import (
	"bufio"
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/protocol"
)

// The file that a volume's metadata travels in, from one engine to another
// (docs/dump.md tells it to people). Integers are big-endian.
//
//	file  = "TNVDUMP\n" { frame }
//	frame = kind 1 | raw length 4 | stored length 4 | crc 4 | stored bytes
//
//	kind 1, the first  JSON: DumpInfo
//	kind 2             { key length 2 | key | value length 4 | value } ...
//	kind 3, the last   number of records 8 | SHA-256 of all that stands before this frame, 32
//
// The stored bytes are the raw ones deflated (RFC 1951). The crc (CRC32C) covers the
// frame's first nine bytes and the stored ones: damage is told where it is met. The
// sum at the end tells a file that was cut, or put together of pieces. Keys ascend
// over the whole file.
const (
	dumpMagic   = "TNVDUMP\n"
	dumpFormat  = 1
	frameHead   = 13
	frameInfo   = 1
	frameRecord = 2
	frameEnd    = 3

	dumpFrame    = 1 << 20                               // raw bytes after which a frame is written
	maxDumpFrame = 2<<20 + kv.MaxKeyLen + kv.MaxValueLen // raw or stored
	dumpEndSize  = 8 + sha256.Size
)

// DumpInfo is a dump's first frame.
type DumpInfo struct {
	Format  int          `json:"format"`
	Cluster string       `json:"cluster"` // whose storage groups hold the blocks
	Volume  string       `json:"volume"`
	ID      tnv.VolumeID `json:"id"`    // blocks are held under it: it stays
	Epoch   tnv.Epoch    `json:"epoch"` // the newer of the volume's and the cluster's
	Made    int64        `json:"made"`  // nanoseconds since 1970
	Groups  []DumpGroup  `json:"groups"`

	// MinReplicas is the volume's setting; see volume.
	MinReplicas uint32 `json:"min_replicas,omitempty"`
}

// DumpGroup is a storage group that extents name by number: an engine that knows
// it by another number is loaded with that.
type DumpGroup struct {
	ID   tnv.GroupID `json:"id"`
	Name string      `json:"name"`
}

func badDump(kind tnv.Kind, format string, args ...any) error {
	return tnv.E("read dump", kind, format, args...)
}

// dumpWriter writes a dump. Nothing of it is kept but one frame.
type dumpWriter struct {
	w       io.Writer
	sum     hash.Hash
	raw     []byte
	packed  bytes.Buffer
	deflate *flate.Writer
	records uint64
}

func newDumpWriter(w io.Writer) (*dumpWriter, error) {
	d := &dumpWriter{w: w, sum: sha256.New()}
	d.deflate, _ = flate.NewWriter(nil, flate.BestSpeed) // the level is a proper one
	return d, d.write([]byte(dumpMagic))
}

func (d *dumpWriter) write(b []byte) error {
	d.sum.Write(b)
	_, err := d.w.Write(b)
	return err
}

func (d *dumpWriter) frame(kind byte, raw []byte) error {
	d.packed.Reset()
	d.packed.Write(make([]byte, frameHead))
	d.deflate.Reset(&d.packed)
	if _, err := d.deflate.Write(raw); err != nil {
		return err
	}
	if err := d.deflate.Close(); err != nil {
		return err
	}
	b := d.packed.Bytes()
	b[0] = kind
	binary.BigEndian.PutUint32(b[1:], uint32(len(raw)))
	binary.BigEndian.PutUint32(b[5:], uint32(len(b)-frameHead))
	binary.BigEndian.PutUint32(b[9:], frameSum(b[:9], b[frameHead:]))
	return d.write(b)
}

func frameSum(head, stored []byte) uint32 {
	return crc32.Update(crc32.Update(0, protocol.Castagnoli, head), protocol.Castagnoli, stored)
}

func (d *dumpWriter) info(i DumpInfo) error {
	b, err := json.Marshal(i)
	if err != nil {
		return err
	}
	return d.frame(frameInfo, b)
}

func (d *dumpWriter) record(key, value []byte) error {
	d.raw = binary.BigEndian.AppendUint16(d.raw, uint16(len(key)))
	d.raw = append(d.raw, key...)
	d.raw = binary.BigEndian.AppendUint32(d.raw, uint32(len(value)))
	d.raw = append(d.raw, value...)
	d.records++
	if len(d.raw) < dumpFrame {
		return nil
	}
	return d.flush()
}

func (d *dumpWriter) flush() error {
	if len(d.raw) == 0 {
		return nil
	}
	err := d.frame(frameRecord, d.raw)
	d.raw = d.raw[:0]
	return err
}

func (d *dumpWriter) end() error {
	if err := d.flush(); err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint64(nil, d.records)
	return d.frame(frameEnd, d.sum.Sum(b))
}

// dumpReader reads a dump, and believes nothing of it.
type dumpReader struct {
	r       *bufio.Reader
	at      int64 // where the next frame begins
	sum     hash.Hash
	before  []byte // the sum of all before the frame that was read last
	stored  []byte
	raw     []byte
	inflate io.ReadCloser
	last    []byte // key
	records uint64
}

func newDumpReader(r io.Reader) (*dumpReader, DumpInfo, error) {
	d := &dumpReader{r: bufio.NewReaderSize(r, 1<<20), sum: sha256.New(), inflate: flate.NewReader(nil)}
	var info DumpInfo
	head := make([]byte, len(dumpMagic))
	if _, err := io.ReadFull(d.r, head); err != nil || string(head) != dumpMagic {
		return nil, info, badDump(tnv.KindInvalid, "this is no dump of a volume: it does not begin as one")
	}
	d.sum.Write(head)
	d.at = int64(len(head))
	kind, err := d.next()
	if err != nil {
		return nil, info, err
	}
	// Only the format is read of a newer one.
	if kind != frameInfo || json.Unmarshal(d.raw, &struct {
		Format *int `json:"format"`
	}{&info.Format}) != nil {
		return nil, info, badDump(tnv.KindCorrupt, "the first frame does not say what this is a dump of")
	}
	if info.Format != dumpFormat {
		return nil, info, badDump(tnv.KindVersion, "the dump has format %d, this program reads %d: use the version of tnv that made it", info.Format, dumpFormat)
	}
	if err := json.Unmarshal(d.raw, &info); err != nil {
		return nil, info, badDump(tnv.KindCorrupt, "what it says of itself cannot be read: %v", err)
	}
	return d, info, nil
}

// next reads a frame into raw.
func (d *dumpReader) next() (kind byte, err error) {
	d.before = d.sum.Sum(d.before[:0])
	var h [frameHead]byte
	if _, err := io.ReadFull(d.r, h[:]); err != nil {
		return 0, d.cut(err)
	}
	raw, stored := binary.BigEndian.Uint32(h[1:]), binary.BigEndian.Uint32(h[5:])
	if raw > maxDumpFrame || stored > maxDumpFrame {
		return 0, badDump(tnv.KindCorrupt, "damaged at byte %d: a frame of %d bytes", d.at, max(raw, stored))
	}
	d.stored = append(d.stored[:0], make([]byte, stored)...)
	if _, err := io.ReadFull(d.r, d.stored); err != nil {
		return 0, d.cut(err)
	}
	if frameSum(h[:9], d.stored) != binary.BigEndian.Uint32(h[9:]) {
		return 0, badDump(tnv.KindCorrupt, "damaged at byte %d: the checksum of the frame there does not match", d.at)
	}
	d.sum.Write(h[:])
	d.sum.Write(d.stored)
	if err := d.inflate.(flate.Resetter).Reset(bytes.NewReader(d.stored), nil); err != nil {
		return 0, err
	}
	d.raw = append(d.raw[:0], make([]byte, raw)...)
	if _, err := io.ReadFull(d.inflate, d.raw); err != nil {
		return 0, badDump(tnv.KindCorrupt, "damaged at byte %d: the frame there holds less than it says", d.at)
	}
	d.at += int64(frameHead + len(d.stored))
	return h[0], nil
}

// cut says of a file that ends too early what is to be said.
func (d *dumpReader) cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return badDump(tnv.KindCorrupt, "it ends at byte %d, before its end: the file is not complete", d.at)
	}
	return tnv.Wrap("read dump", err)
}

// each calls fn for all records, in order, and verifies the dump's end. Key and
// value are fn's until it returns.
func (d *dumpReader) each(fn func(key, value []byte) error) error {
	for {
		kind, err := d.next()
		if err != nil {
			return err
		}
		switch kind {
		case frameRecord:
			if err := d.recordsIn(d.raw, fn); err != nil {
				return err
			}
		case frameEnd:
			return d.verifyEnd()
		default:
			return badDump(tnv.KindCorrupt, "a frame of kind %d before byte %d, which this program does not know", kind, d.at)
		}
	}
}

func (d *dumpReader) recordsIn(b []byte, fn func(key, value []byte) error) error {
	for len(b) > 0 {
		key, rest, ok := takeSized(b, 2)
		value, rest, ok2 := takeSized(rest, 4)
		if !ok || !ok2 || len(key) == 0 || bytes.Compare(d.last, key) >= 0 {
			return badDump(tnv.KindCorrupt, "record %d, before byte %d, is out of order or not whole", d.records, d.at)
		}
		if err := fn(key, value); err != nil {
			return err
		}
		d.last = append(d.last[:0], key...)
		d.records++
		b = rest
	}
	return nil
}

// takeSized takes a length of so many bytes, and what it counts, from b.
func takeSized(b []byte, width int) (part, rest []byte, ok bool) {
	if len(b) < width {
		return nil, nil, false
	}
	n := uint64(0)
	for _, c := range b[:width] {
		n = n<<8 | uint64(c)
	}
	if b = b[width:]; n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

func (d *dumpReader) verifyEnd() error {
	if len(d.raw) != dumpEndSize {
		return badDump(tnv.KindCorrupt, "its last frame is of %d bytes", len(d.raw))
	}
	if n := binary.BigEndian.Uint64(d.raw); n != d.records {
		return badDump(tnv.KindCorrupt, "it says to hold %d records, and holds %d", n, d.records)
	}
	if !bytes.Equal(d.raw[8:], d.before) {
		return badDump(tnv.KindCorrupt, "the sum over the whole does not match: frames are missing, or not of this dump")
	}
	if _, err := d.r.ReadByte(); err != io.EOF {
		return badDump(tnv.KindCorrupt, "something follows its end at byte %d", d.at)
	}
	return nil
}

// String tells people what a dump is of.
func (i DumpInfo) String() string {
	return fmt.Sprintf("volume %s (%d) of cluster %s", i.Volume, i.ID, i.Cluster)
}
