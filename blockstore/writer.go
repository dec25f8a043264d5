package blockstore

import (
	"slices"
	"sync/atomic"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// smallBlock is up to where a synced block counts as small.
const smallBlock = 64 << 10

// Writer takes the bytes of one block. One goroutine uses it, and ends it with
// Commit or Abort.
type Writer struct {
	s        *Store
	place    place
	meta     protocol.BlockMeta
	data     int64  // offset of the data in the file
	n        uint32 // bytes verified and written
	part     []byte // of a unit that is not complete; at most Unit bytes
	err      error  // sticks
	ended    bool
	canceled atomic.Bool // the block was deleted
}

// Create begins a block. KindExist: it is held already, the same (a retry: the
// caller answers success, after SyncBlock if a sync was asked for);
// KindConflict: it is held with other sums or another length (D3); KindStale:
// it was deleted, and does not come back (D6); KindNoSpace: the store is full.
func (s *Store) Create(meta protocol.BlockMeta) (*Writer, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	op := "put block " + meta.Key.String()
	if err := meta.Check(); err != nil {
		return nil, wrap(op, err)
	}
	if err := s.checkNew(op, &meta); err != nil {
		return nil, err
	}
	if err := s.room(meta.Key.Vol, recordSize(&meta)); err != nil {
		return nil, wrap(op, err)
	}
	meta.Sums = slices.Clone(meta.Sums)
	p, err := s.reserve(&meta)
	if err != nil {
		return nil, err
	}
	w := s.newWriter(p, meta)
	s.mu.Lock()
	s.receiving[meta.Key] = append(s.receiving[meta.Key], w)
	s.mu.Unlock()
	return w, nil
}

func (s *Store) newWriter(p place, meta protocol.BlockMeta) *Writer {
	return &Writer{s: s, place: p, meta: meta, data: p.off + headerLen(len(meta.Sums))}
}

// checkNew tells why a block may not be put, if so.
func (s *Store) checkNew(op string, meta *protocol.BlockMeta) error {
	for {
		s.mu.RLock()
		at := s.index.get(meta.Key)
		s.mu.RUnlock()
		switch {
		case at.tombstone():
			return tnv.E(op, tnv.KindStale, "it was deleted")
		case !at.live():
			return nil
		}
		held, err := s.metaOf(meta.Key)
		switch {
		case tnv.KindOf(err) == tnv.KindMissing:
			continue // it went meanwhile
		case err != nil:
			return wrap(op, err)
		case held.Len != meta.Len || held.Unit != meta.Unit || !slices.Equal(held.Sums, meta.Sums):
			return tnv.E(op, tnv.KindConflict, "it is held with other bytes")
		}
		return tnv.E(op, tnv.KindExist, "it is held already")
	}
}

// Write takes the block's next bytes. Each unit is compared with its checksum
// as it completes (KindCorrupt), then written. An error sticks.
func (w *Writer) Write(p []byte) (int, error) {
	if err := w.s.enter(); err != nil {
		return 0, err
	}
	defer w.s.leave()
	if w.err == nil {
		w.err = w.check(len(p))
	}
	n := 0
	for n < len(p) && w.err == nil {
		n += w.take(p[n:])
	}
	return n, w.err
}

func (w *Writer) op() string { return "put block " + w.meta.Key.String() }

func (w *Writer) check(n int) error {
	switch {
	case w.ended:
		return tnv.E(w.op(), tnv.KindInvalid, "the writer has ended")
	case w.canceled.Load():
		return tnv.E(w.op(), tnv.KindStale, "it was deleted")
	case uint64(w.n)+uint64(len(w.part))+uint64(n) > uint64(w.meta.Len):
		return tnv.E(w.op(), tnv.KindInvalid, "more than its %d bytes", w.meta.Len)
	}
	return nil
}

// take uses some of p: whole units as they are, the rest through part.
func (w *Writer) take(p []byte) int {
	left := int(w.meta.Len - w.n) // from the first byte of part on
	unit := int(w.meta.Unit)
	if len(w.part) == 0 {
		whole := len(p) / unit * unit
		if len(p) == left {
			whole = left
		}
		if whole > 0 {
			w.flush(p[:whole])
			return whole
		}
	}
	n := min(len(p), min(unit, left)-len(w.part))
	w.part = append(w.part, p[:n]...)
	if len(w.part) == min(unit, left) {
		w.flush(w.part)
		w.part = w.part[:0]
	}
	return n
}

// flush verifies and writes whole units.
func (w *Writer) flush(p []byte) {
	first := int(w.n / w.meta.Unit)
	sums := w.meta.Sums[first : first+protocol.Units(uint32(len(p)), w.meta.Unit)]
	if bad := protocol.Verify(w.meta.Key, w.meta.Unit, first, p, sums); bad >= 0 {
		w.err = tnv.E(w.op(), tnv.KindCorrupt, "unit %d does not match its checksum", bad)
		return
	}
	if _, err := w.place.seg.w.w.WriteAt(p, w.data+int64(w.n)); err != nil {
		w.err = wrap(w.op(), err)
		return
	}
	w.n += uint32(len(p))
	w.s.dirtied(w.place.seg, int64(len(p)))
}

// Commit makes the block visible, and with sync returns when it is on disk.
// KindStale: it was deleted meanwhile; KindConflict: other bytes came in under
// its key; KindUnavailable: its segment failed. After an error without sync the
// block is not held; after one of the sync it is missing. The writer has ended.
func (w *Writer) Commit(sync bool) error {
	s := w.s
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	switch {
	case w.ended:
		return tnv.E(w.op(), tnv.KindInvalid, "the writer has ended")
	case w.err == nil && w.n != w.meta.Len:
		w.err = tnv.E(w.op(), tnv.KindInvalid, "%d of %d bytes", int(w.n)+len(w.part), w.meta.Len)
	}
	if w.err != nil {
		w.abort()
		return w.err
	}
	seg := w.place.seg
	want, err := w.publish()
	if err != nil {
		if tnv.KindOf(err) == tnv.KindExist { // someone else was faster: the same bytes are as good
			if sync {
				return s.syncBlock(w.meta.Key)
			}
			return nil
		}
		return err
	}
	if !sync {
		return nil
	}
	if w.meta.Len <= smallBlock {
		seg.zeroing.Store(true)
	}
	return s.syncSegment(seg, want)
}

// publish enters the block in the index, and gives the number of its commit.
func (w *Writer) publish() (uint64, error) {
	s, seg := w.s, w.place.seg
	for {
		s.mu.Lock()
		at := s.index.get(w.meta.Key)
		switch {
		case w.canceled.Load() || at.tombstone():
			w.endLocked(recVoid)
			s.mu.Unlock()
			return 0, tnv.E(w.op(), tnv.KindStale, "it was deleted")
		case seg.failed != nil:
			w.endLocked(recVoid)
			s.mu.Unlock()
			return 0, &tnv.Error{Op: w.op(), Kind: tnv.KindUnavailable, Msg: "segment " + seg.name() + " failed", Err: seg.failed}
		case !at.live():
			seg.commits++
			e := &seg.records[w.place.pos]
			e.commit = seg.commits
			s.insertLocked(w.meta.Key, w.place.location(w.meta.Len))
			w.endLocked(recLive)
			n := seg.commits
			s.mu.Unlock()
			return n, nil
		}
		s.mu.Unlock()
		if err := s.checkNew(w.op(), &w.meta); err != nil {
			w.abort()
			return 0, err
		}
	}
}

func (p place) location(n uint32) location {
	return location{seg: p.seg.ref, off: uint32(p.off / sector), pos: p.pos, len: n}
}

// Abort gives the block up; its space is dead. It does nothing after Commit.
func (w *Writer) Abort() {
	if w.s.enter() != nil {
		return // Close gave it up
	}
	defer w.s.leave()
	w.abort()
}

func (w *Writer) abort() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.endLocked(recVoid)
}

// endLocked sets the record's fate, once.
func (w *Writer) endLocked(state recState) {
	if w.ended {
		return
	}
	w.ended = true
	s, seg := w.s, w.place.seg
	e := &seg.records[w.place.pos]
	e.state = state
	if state == recVoid {
		s.punchLaterLocked(w.place.location(w.meta.Len), 0)
	}
	key := w.meta.Key
	if l := slices.DeleteFunc(s.receiving[key], func(o *Writer) bool { return o == w }); len(l) > 0 {
		s.receiving[key] = l
	} else {
		delete(s.receiving, key)
	}
	s.doneWritingLocked(seg)
}
