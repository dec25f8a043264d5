package ship

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"io"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// A piece, as the block that it is (big-endian; the block has checksums of its own):
//
//	"TNVS" 4 | version 1 | kind 1 | zero 2 | lineage 8 | row 8 | number 8 | from 8 | until 8 | raw length 4 | deflated bytes
//
//	log         row: the chain; number: its place there, from 0. Raw: a part of { volume 4 | batch 8 | writes 4 | { write } }
//	checkpoint  row: an id below those of its pieces; number: its place, from 0. Raw: a part of { volume 4 | write }
//	end         row as above; number: how many pieces the checkpoint has. from and until: the log piece at
//	            which its log begins, with a whole batch, and up to which it is needed (exclusive). Raw: the chain, 8
//
// A write is: key length 2 | key | value length 4 | value; the length of a deletion is 2^32-1.
// What stands in a row of pieces is cut where it happens to be: a batch may go over several,
// and what of one is there when the log ends counts for nothing.
const (
	pieceMagic   = "TNVS"
	pieceVersion = 1
	pieceHead    = 52

	kindLog        = 1
	kindCheckpoint = 2
	kindEnd        = 3

	// pieceBytes is how long raw bytes are at most: deflated they fit a block, whatever they are.
	pieceBytes  = 2 << 20
	deletedMark = ^uint32(0)
	// maxBatch bounds what one batch may be: see Journal.
	maxBatch = 256 << 20
)

// piece is a piece of a copy.
type piece struct {
	kind        byte
	lineage     uint64
	row, number uint64
	from, until uint64
	raw         []byte
}

func (p *piece) encode() []byte {
	var b bytes.Buffer
	head := append(make([]byte, 0, pieceHead), pieceMagic...)
	head = append(head, pieceVersion, p.kind, 0, 0)
	for _, v := range []uint64{p.lineage, p.row, p.number, p.from, p.until} {
		head = binary.BigEndian.AppendUint64(head, v)
	}
	b.Write(binary.BigEndian.AppendUint32(head, uint32(len(p.raw))))
	w, _ := flate.NewWriter(&b, flate.BestSpeed) // the level is a proper one
	_, _ = w.Write(p.raw)                        // nor does a buffer fail
	_ = w.Close()
	return b.Bytes()
}

func badPiece(why string) error { return tnv.E("read a copy's piece", tnv.KindCorrupt, "%s", why) }

func decodePiece(b []byte) (*piece, error) {
	if len(b) < pieceHead || string(b[:4]) != pieceMagic {
		return nil, badPiece("it is none")
	}
	if b[4] != pieceVersion {
		return nil, tnv.E("read a copy's piece", tnv.KindVersion, "its format is %d, this program knows %d", b[4], pieceVersion)
	}
	p := &piece{kind: b[5]}
	for i, v := range []*uint64{&p.lineage, &p.row, &p.number, &p.from, &p.until} {
		*v = binary.BigEndian.Uint64(b[8+8*i:])
	}
	n := binary.BigEndian.Uint32(b[48:])
	if n > pieceBytes || p.kind < kindLog || p.kind > kindEnd {
		return nil, badPiece("its head cannot be")
	}
	var raw bytes.Buffer // grows with what is there, not with what the head says
	m, err := io.Copy(&raw, io.LimitReader(flate.NewReader(bytes.NewReader(b[pieceHead:])), int64(n)+1))
	if err != nil || m != int64(n) {
		return nil, badPiece("it does not hold what its head says")
	}
	p.raw = raw.Bytes()
	return p, nil
}

func appendWrite(b []byte, key, value []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(key)))
	b = append(b, key...)
	if value == nil {
		return binary.BigEndian.AppendUint32(b, deletedMark)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
	return append(b, value...)
}

func appendBatch(b []byte, vol tnv.VolumeID, batch *kv.Batch) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(vol))
	b = binary.BigEndian.AppendUint64(b, uint64(batch.Seq))
	b = binary.BigEndian.AppendUint32(b, uint32(len(batch.Writes)))
	for _, w := range batch.Writes {
		b = appendWrite(b, w.Key, w.Value)
	}
	return b
}

// reader takes raw bytes apart. What is cut off makes it short, what cannot be bad;
// it gives zeros then.
type reader struct {
	b          []byte
	short, bad bool
}

func (r *reader) take(n uint64) []byte {
	if r.short || r.bad || n > uint64(len(r.b)) {
		r.short, r.b = true, nil
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) number(width uint64) (v uint64) {
	for _, c := range r.take(width) {
		v = v<<8 | uint64(c)
	}
	return v
}

func (r *reader) write() (w kv.Write) {
	w.Key = r.take(r.number(2))
	n := r.number(4)
	if !r.short && (kv.CheckKeys(w.Key) != nil || n > kv.MaxValueLen && n != uint64(deletedMark)) {
		r.bad = true
	}
	if !r.bad && n != uint64(deletedMark) {
		w.Value = append([]byte{}, r.take(n)...)
	}
	return w
}

// row is what a row of pieces holds, put together as they come.
type row struct {
	b    []byte
	next func(r *reader) func() error // reads an item and gives what is to be done with it
}

// feed takes the next piece's raw bytes.
func (w *row) feed(raw []byte) error {
	w.b = append(w.b, raw...)
	for len(w.b) > 0 {
		r := reader{b: w.b}
		do := w.next(&r)
		switch {
		case r.bad || r.short && len(w.b) > maxBatch:
			return badPiece("what stands in it cannot be")
		case r.short:
			return nil
		}
		if err := do(); err != nil {
			return err
		}
		w.b = w.b[len(w.b)-len(r.b):]
	}
	w.b = nil
	return nil
}

// batches is a row of log pieces. fn owns what it gets.
func batches(fn func(vol tnv.VolumeID, b kv.Batch) error) *row {
	return &row{next: func(r *reader) func() error {
		vol := tnv.VolumeID(r.number(4))
		b := kv.Batch{Seq: tnv.BatchSeq(r.number(8))}
		for n := r.number(4); n > 0 && !r.short && !r.bad; n-- {
			w := r.write()
			w.Key = append([]byte(nil), w.Key...)
			b.Writes = append(b.Writes, w)
		}
		return func() error { return fn(vol, b) }
	}}
}

// records is a row of checkpoint pieces. fn owns what it gets.
func records(fn func(vol tnv.VolumeID, w kv.Write) error) *row {
	return &row{next: func(r *reader) func() error {
		vol := tnv.VolumeID(r.number(4))
		w := r.write()
		w.Key = append([]byte(nil), w.Key...)
		if r.bad = r.bad || !r.short && w.Value == nil; r.bad {
			return nil
		}
		return func() error { return fn(vol, w) }
	}}
}
