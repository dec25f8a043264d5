package blockstore

import (
	"errors"
	"io"
	"os"
	"slices"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Reader reads one block. Its bytes stay as they are until Close, whatever
// happens to the block. Any number of goroutines may use it.
type Reader struct {
	s    *Store
	seg  *segment
	pin  pin
	h    *handle
	meta protocol.BlockMeta
	base int64
}

// Open opens a block for reading. KindMissing: the store does not have it.
// Close the Reader, even after the Store.
func (s *Store) Open(key tnv.BlockKey) (*Reader, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	return s.openBlock(key)
}

func (s *Store) openBlock(key tnv.BlockKey) (*Reader, error) {
	op := "open block " + key.String()
	s.mu.Lock()
	at := s.index.get(key)
	if !at.live() {
		s.mu.Unlock()
		return nil, tnv.E(op, tnv.KindMissing, "this store does not have it")
	}
	r := &Reader{s: s, seg: s.segments[at.seg], pin: pin{at.seg, at.off}}
	r.seg.users++
	s.pins[r.pin]++
	s.mu.Unlock()
	var err error
	if r.meta, err = s.readMeta(r.seg, at, key); err == nil {
		r.h, err = s.files.get(s.segmentPath(r.seg))
	}
	if err != nil {
		r.unpin()
		return nil, wrap(op, err)
	}
	r.base = int64(at.off)*sector + headerLen(len(r.meta.Sums))
	return r, nil
}

// Meta describes the block, with all its sums. They are the caller's.
func (r *Reader) Meta() protocol.BlockMeta { return r.meta }

// ReadAt reads as io.ReaderAt does. Nothing is verified.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	n := int64(r.meta.Len)
	if off < 0 || off >= n {
		return 0, io.EOF
	}
	want := min(int64(len(p)), n-off)
	got, err := r.h.r.ReadAt(p[:want], r.base+off)
	switch {
	case err != nil && err != io.EOF:
		return got, wrap("read block "+r.meta.Key.String(), err)
	case int64(got) < want: // the file ends too early: those bytes are gone
		return got, r.s.corrupt(r.meta.Key, r.seg, r.base+off+int64(got), "the file ends")
	case want < int64(len(p)):
		return got, io.EOF
	}
	return got, nil
}

// File gives the segment, open for reading only, and where in it the block
// begins: for sendfile. It is nil on a file system that has no descriptors.
// It is the Reader's: do not close it.
func (r *Reader) File() (*os.File, int64) { return r.h.os, r.base }

// SegmentID names the segment's file: equal for equal files, never used again.
func (r *Reader) SegmentID() uint64 { return r.seg.id }

// Close lets the bytes go.
func (r *Reader) Close() error {
	if r.h != nil {
		r.unpin()
		r.h.release()
		r.h = nil
	}
	return nil
}

func (r *Reader) unpin() {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	r.seg.users--
	if s.pins[r.pin]--; s.pins[r.pin] == 0 {
		delete(s.pins, r.pin)
	}
}

// readMeta describes the block at a location of a segment that stays. Without
// a good index entry, the record's own header tells.
func (s *Store) readMeta(seg *segment, at location, key tnv.BlockKey) (protocol.BlockMeta, error) {
	s.mu.RLock()
	if seg.records != nil {
		e := seg.records[at.pos]
		m := e.meta(slices.Clone(seg.sums[e.sumsAt:][:e.sums()]))
		s.mu.RUnlock()
		return m, nil
	}
	info := seg.info
	s.mu.RUnlock()
	h, err := s.files.get(s.indexPath(seg))
	if err == nil {
		e, sums, err := readEntry(h.r, at.pos, &info)
		h.release()
		if err == nil && e.key == key && e.off == at.off {
			return e.meta(sums), nil
		}
	}
	s.stat.damaged.Add(1)
	s.opt.Log.WithError(err).WithField("segment", seg.name()).WithField("block", key.String()).
		Warn("an index entry cannot be read: the segment tells")
	h, err = s.files.get(s.segmentPath(seg))
	if err != nil {
		return protocol.BlockMeta{}, err
	}
	defer h.release()
	rec, ok, err := readRecord(h.r, int64(at.off)*sector)
	switch {
	case err != nil:
		return protocol.BlockMeta{}, err
	case !ok || rec.segment != seg.id || rec.number != at.pos || rec.meta.Key != key:
		return protocol.BlockMeta{}, s.corrupt(key, seg, int64(at.off)*sector, "index entry and header are damaged")
	}
	return rec.meta, nil
}

func (s *Store) corrupt(key tnv.BlockKey, seg *segment, off int64, why string) error {
	return tnv.E("read block "+key.String(), tnv.KindCorrupt, "segment %s, offset %d: %s", seg.name(), off, why)
}

// metaOf describes a held block. KindMissing: it is not held.
func (s *Store) metaOf(key tnv.BlockKey) (protocol.BlockMeta, error) {
	s.mu.Lock()
	at := s.index.get(key)
	if !at.live() {
		s.mu.Unlock()
		return protocol.BlockMeta{}, tnv.E("look up block "+key.String(), tnv.KindMissing, "this store does not have it")
	}
	seg := s.segments[at.seg]
	seg.users++
	s.mu.Unlock()
	m, err := s.readMeta(seg, at, key)
	s.mu.Lock()
	seg.users--
	s.mu.Unlock()
	return m, err
}

// Has tells whether the block is held.
func (s *Store) Has(key tnv.BlockKey) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index.get(key).live()
}

// Home gives the inode and chunk for which a held block was written.
func (s *Store) Home(key tnv.BlockKey) (tnv.Home, bool) {
	if s.enter() != nil {
		return tnv.Home{}, false
	}
	defer s.leave()
	m, err := s.metaOf(key)
	return m.Home, err == nil
}

// verifyChunk is how much Verify reads at a time: a multiple of every unit.
const verifyChunk = 256 << 10

// Verify reads a block and compares it with its sums. KindMissing: it is not
// held; KindCorrupt: it does not match, and where is said; other errors: it
// could not be read.
func (s *Store) Verify(key tnv.BlockKey) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	r, err := s.openBlock(key)
	if err != nil {
		return err
	}
	defer r.Close()
	return r.verify(make([]byte, min(verifyChunk, int(r.meta.Len))))
}

// verify reads all, through buf, which holds whole units or the whole block.
func (r *Reader) verify(buf []byte) error {
	m := &r.meta
	for off := 0; off < int(m.Len); off += len(buf) {
		p := buf[:min(len(buf), int(m.Len)-off)]
		if _, err := r.ReadAt(p, int64(off)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		first := off / int(m.Unit)
		sums := m.Sums[first : first+protocol.Units(uint32(len(p)), m.Unit)]
		if bad := protocol.Verify(m.Key, m.Unit, first, p, sums); bad >= 0 {
			return r.s.corrupt(m.Key, r.seg, r.base+int64(bad)*int64(m.Unit), "checksum mismatch")
		}
	}
	return nil
}
