package blockstore

import (
	"io"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// recover builds the memory of a store from its directory: the delete log
// first, then the segments, oldest first, so that of two copies the newer one
// counts. No other goroutine runs yet.
func (s *Store) recover() error {
	names, err := s.opt.FS.List(s.dir)
	if err != nil {
		return wrap("list store "+s.dir, err)
	}
	damaged, err := s.loadLog()
	if err != nil {
		return wrap("store "+s.dir, err)
	}
	var ids []uint64
	have := map[uint64]bool{}
	for _, name := range names {
		if id, ok := parseName(name, ".seg"); ok {
			ids = append(ids, id)
			have[id] = true
		}
	}
	for _, name := range names {
		id, ok := parseName(name, ".idx")
		if strings.HasSuffix(name, tmpSuffix) || ok && !have[id] {
			if err := s.opt.FS.Remove(s.opt.FS.PathJoin(s.dir, name)); err != nil {
				return wrap("store "+s.dir, err)
			}
		}
	}
	slices.Sort(ids)
	begun := time.Now()
	walked := 0
	for _, id := range ids {
		rebuilt, err := s.loadSegment(id)
		if err != nil {
			return wrap("store "+s.dir+", segment "+segmentName(id), err)
		}
		walked += count(rebuilt)
	}
	live, tombs := s.index.totals()
	s.opt.Log.WithField("blocks", live).WithField("segments", len(ids)).WithField("walked", walked).
		WithField("tombstones", tombs).WithField("took", time.Since(begun)).Info("store opened")
	s.dropStaleVoids(have)
	if damaged > 0 {
		return s.rewriteLog()
	}
	return nil
}

// dropStaleVoids forgets drops of records whose segment is gone.
func (s *Store) dropStaleVoids(have map[uint64]bool) {
	for v := range s.voids {
		if !have[v.seg] {
			delete(s.voids, v)
		}
	}
}

// loadLog reads the delete log, and opens it for more.
func (s *Store) loadLog() (damaged int64, err error) {
	path := s.opt.FS.PathJoin(s.dir, logName)
	f, err := s.opt.FS.Open(path)
	if err != nil {
		return 0, &tnv.Error{Op: "open delete log", Kind: tnv.KindCorrupt, Msg: "without it deleted blocks would come back", Err: err}
	}
	defer f.Close()
	var foreign bool
	damaged, err = readLog(f, func(l slot) {
		switch l.kind {
		case slotStore:
			foreign = foreign || l.key.Vol != format || tnv.NodeID(l.key.ID) != s.super.Node
		case slotDelete:
			s.index.set(l.key, s.tombstone())
		case slotDrop:
			s.voids[void{l.seg, l.off}] = struct{}{}
		}
	})
	if err != nil {
		return 0, wrap("read delete log", err)
	}
	if foreign {
		return 0, tnv.E("read delete log", tnv.KindCorrupt, "it belongs to another store")
	}
	if damaged > 0 {
		s.stat.damaged.Add(uint64(damaged+logSlot-1) / logSlot)
		log := s.opt.Log.WithField("bytes", damaged).WithField("clean stop", s.super.Clean)
		if s.super.Clean {
			log.Error("the delete log is damaged: what is left of it counts")
		} else {
			log.Warn("the delete log has a torn tail")
		}
	}
	info, err := f.Stat()
	if err != nil {
		return 0, wrap("read delete log", err)
	}
	w, err := s.opt.FS.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, wrap("open delete log", err)
	}
	s.log = &deleteLog{}
	s.log.use(w, info.Size())
	// What was read may not be on disk yet, if only the process died.
	return damaged, wrap("sync delete log", w.Sync())
}

// loadSegment takes a segment in by its index file, or without a good one by
// walking it; rebuilt tells.
func (s *Store) loadSegment(id uint64) (rebuilt bool, err error) {
	seg := &segment{id: id, state: segSealed}
	entries, err := s.loadIndex(seg)
	if tnv.KindOf(err) == tnv.KindCorrupt || tnv.KindOf(err) == tnv.KindNotExist {
		if tnv.KindOf(err) == tnv.KindCorrupt {
			s.stat.damaged.Add(1)
			s.opt.Log.WithError(err).Error("an index file is damaged: the segment is walked")
		}
		rebuilt = true
		entries, err = s.rebuild(seg)
	}
	if err != nil {
		return rebuilt, err
	}
	s.addSegmentLocked(seg)
	seg.end, seg.count = seg.info.end, uint32(len(entries))
	s.used += seg.end
	for i := range entries {
		s.takeIn(seg, uint32(i), &entries[i])
	}
	return rebuilt, nil
}

// takeIn enters a record of a segment that is older than none before it.
func (s *Store) takeIn(seg *segment, number uint32, e *entry) {
	at := location{seg: seg.ref, off: e.off, pos: number, len: e.len}
	old := s.index.get(e.key)
	_, dropped := s.voids[void{seg.id, e.off}]
	if e.state != recLive || dropped || old.tombstone() {
		s.punchLaterLocked(at, s.opt.PunchDelay)
		return
	}
	if old.live() {
		s.deadLocked(old)
	}
	s.insertLocked(e.key, at)
}

func (s *Store) loadIndex(seg *segment) ([]entry, error) {
	f, err := s.opt.FS.Open(s.indexPath(seg))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var entries []entry
	seg.info, err = readIndex(f, fi.Size(), seg.id, func(_ uint32, e entry) { entries = append(entries, e) })
	return entries, err
}

// readSealed reads the entries of a sealed segment again.
func (s *Store) readSealed(seg *segment, visit func(uint32, entry)) error {
	h, err := s.files.get(s.indexPath(seg))
	if err != nil {
		return err
	}
	defer h.release()
	_, err = readIndex(h.r, seg.info.size(), seg.id, visit)
	return err
}

// rebuild walks a segment and writes its index file.
func (s *Store) rebuild(seg *segment) ([]entry, error) {
	f, err := s.opt.FS.OpenReadWrite(s.segmentPath(seg), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// What counts from now on must be on disk, and be what is on disk: after a
	// failed sync the page cache may hold what the disk does not.
	if err := f.Sync(); err != nil {
		s.opt.Log.WithError(err).WithField("segment", seg.name()).Error("cannot sync a segment: what the disk has counts")
	}
	dropCache(f)
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var head [sector]byte
	if ok, err := readFull(f, head[:], 0); err != nil {
		return nil, err
	} else if ok && !isSegment(head[:], seg.id, s.super.Node) {
		s.opt.Log.WithField("segment", seg.name()).Warn("a segment's first sector is damaged: its records tell")
	}
	w := walker{f: f, size: fi.Size(), segment: seg.id}
	if err := w.walk(); err != nil {
		return nil, err
	}
	if w.torn > 0 || w.unread > 0 {
		s.opt.Log.WithField("segment", seg.name()).WithField("void", w.torn).WithField("unreadable", w.unread).
			Warn("a segment was not sealed: records that do not match their sums are void")
	}
	seg.info, err = s.writeIndexFile(seg, w.end, w.entries, w.sums)
	if err != nil {
		return nil, err
	}
	if w.blank {
		releaseTail(f, w.end)
	}
	return w.entries, nil
}

// walker goes through a segment from header to header, and compares every
// record with its sums.
type walker struct {
	f       io.ReaderAt
	size    int64
	segment uint64

	entries []entry
	sums    []uint32
	end     int64
	torn    int  // records that do not match their sums
	unread  int  // records that could not be read: held, until someone finds out
	blank   bool // nothing was ever written behind the last record
}

func (w *walker) walk() error {
	w.end = sector
	buf := make([]byte, verifyChunk)
	for w.end < w.size && len(w.entries) < maxRecords && w.end <= maxSegmentSize {
		rec, ok, err := readRecord(w.f, w.end)
		if err != nil {
			return wrap("walk segment", err)
		}
		if !ok || rec.segment != w.segment || rec.number != uint32(len(w.entries)) {
			var p [fixedHeader]byte
			full, err := readFull(w.f, p[:], w.end)
			w.blank = full && err == nil && p == [fixedHeader]byte{}
			return nil
		}
		m := &rec.meta
		e := entry{
			key: m.Key, home: m.Home, len: m.Len, unit: m.Unit,
			off: uint32(w.end / sector), sumsAt: uint32(len(w.sums)), state: recLive,
		}
		good, err := matches(w.f, m, e.dataOff(), buf)
		switch {
		case err != nil:
			w.unread++
		case !good:
			w.torn++
			e.state = recVoid
		}
		w.entries = append(w.entries, e)
		w.sums = append(w.sums, m.Sums...)
		w.end += e.size()
	}
	w.blank = w.end >= w.size
	return nil
}

// matches compares the bytes at off with a block's sums; buf holds whole units.
func matches(f io.ReaderAt, m *protocol.BlockMeta, off int64, buf []byte) (bool, error) {
	for at := 0; at < int(m.Len); at += len(buf) {
		p := buf[:min(len(buf), int(m.Len)-at)]
		if ok, err := readFull(f, p, off+int64(at)); !ok || err != nil {
			return false, err
		}
		first := at / int(m.Unit)
		if protocol.Verify(m.Key, m.Unit, first, p, m.Sums[first:first+protocol.Units(uint32(len(p)), m.Unit)]) >= 0 {
			return false, nil
		}
	}
	return true, nil
}

// writeIndexFile writes a segment's index file, synced.
func (s *Store) writeIndexFile(seg *segment, end int64, entries []entry, sums []uint32) (indexInfo, error) {
	err := replaceFile(s.opt.FS, s.dir, indexName(seg.id), func(w io.Writer) error {
		return writeIndex(w, seg.id, end, entries, sums)
	})
	s.files.forget(s.indexPath(seg))
	if err != nil {
		return indexInfo{}, wrap("write index of segment "+seg.name(), err)
	}
	return indexInfo{count: uint32(len(entries)), sums: uint32(len(sums)), segment: seg.id, end: end}, nil
}
