package blockstore

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	logName  = "deletes"
	logSlot  = 32
	slotSeed = 0x544e5664 // "TNVd"
)

type slotKind uint32

const (
	slotDelete slotKind = 1 + iota // the block was deleted
	slotDrop                       // the record at segment and offset was found bad
	slotStore                      // first of the file: volume is the format, block the node
)

// The delete log is a file of slots of 32 bytes, appended and synced before a
// deletion is confirmed, each batch twice, so that one damaged place loses
// none. Big endian.
//
//	 0  crc      4  CRC32C of bytes 4 to 32, begun with a seed of its own
//	 4  kind     4  1 delete, 2 drop, 3 store
//	 8  volume   4
//	12  block    8
//	20  segment  8  of a drop: its id
//	28  offset   4  of a drop: of the header, in sectors
//
// Torn tail: a slot that does not match is passed over, and those behind it
// count, since slots have fixed places and no data lies between them. A log in
// which such a slot was found is written anew at the start: nothing is ever
// appended to a torn tail. Nor to a log whose write or sync failed.
type slot struct {
	kind slotKind
	key  tnv.BlockKey
	seg  uint64
	off  uint32
}

func (l *slot) appendTo(p []byte) []byte {
	start := len(p)
	p = binary.BigEndian.AppendUint32(p, 0)
	p = binary.BigEndian.AppendUint32(p, uint32(l.kind))
	p = binary.BigEndian.AppendUint32(p, uint32(l.key.Vol))
	p = binary.BigEndian.AppendUint64(p, uint64(l.key.ID))
	p = binary.BigEndian.AppendUint64(p, l.seg)
	p = binary.BigEndian.AppendUint32(p, l.off)
	binary.BigEndian.PutUint32(p[start:], crc32.Update(slotSeed, protocol.Castagnoli, p[start+4:]))
	return p
}

func decodeSlot(p []byte) (slot, bool) {
	if len(p) < logSlot || crc32.Update(slotSeed, protocol.Castagnoli, p[4:logSlot]) != binary.BigEndian.Uint32(p) {
		return slot{}, false
	}
	l := slot{
		kind: slotKind(binary.BigEndian.Uint32(p[4:])),
		key: tnv.BlockKey{
			Vol: tnv.VolumeID(binary.BigEndian.Uint32(p[8:])),
			ID:  tnv.BlockID(binary.BigEndian.Uint64(p[12:])),
		},
		seg: binary.BigEndian.Uint64(p[20:]),
		off: binary.BigEndian.Uint32(p[28:]),
	}
	return l, l.kind >= slotDelete && l.kind <= slotStore
}

// readLog hands every good slot on. It returns how many bytes were passed over.
func readLog(r io.Reader, visit func(slot)) (damaged int64, err error) {
	br := bufio.NewReaderSize(r, 64<<10)
	var p [logSlot]byte
	for {
		n, err := io.ReadFull(br, p[:])
		switch {
		case err == io.EOF:
			return damaged, nil
		case err == io.ErrUnexpectedEOF:
			return damaged + int64(n), nil
		case err != nil:
			return damaged, err
		}
		if l, ok := decodeSlot(p[:]); ok {
			visit(l)
		} else {
			damaged += logSlot
		}
	}
}

// void is a record that Drop gave up: it does not come back from the index or
// the segment.
type void struct {
	seg uint64
	off uint32
}

// deleteLog is the log, open for appending.
type deleteLog struct {
	// gate is held for reading from a slot's writing until the index knows of
	// it, for writing while the log is written anew from the index.
	gate sync.RWMutex

	mu     sync.Mutex
	f      vfs.File
	size   int64
	slots  uint64 // appended since f was opened: the numbers of sync
	sync   *groupSync
	broken error
	kept   int64 // size after it was last written anew
}

// append puts slots on disk. After an error the log must be written anew.
func (l *deleteLog) append(slots []slot) error {
	p := make([]byte, 0, 2*logSlot*len(slots))
	for range 2 {
		for i := range slots {
			p = slots[i].appendTo(p)
		}
	}
	l.mu.Lock()
	if l.broken != nil {
		defer l.mu.Unlock()
		return l.broken
	}
	f, gs := l.f, l.sync
	if _, err := f.WriteAt(p, l.size); err != nil {
		l.broken = err
		l.mu.Unlock()
		return err
	}
	l.size += int64(len(p))
	l.slots++
	want := l.slots
	l.mu.Unlock()
	_, err := gs.wait(want, func() uint64 {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.slots
	}, f.SyncData, func(_ uint64, err error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.broken = err
	})
	return err
}

func (l *deleteLog) isBroken() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.broken != nil
}

func (l *deleteLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}

// use goes over to another file, which holds size bytes, synced.
func (l *deleteLog) use(f vfs.File, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		l.f.Close() // nothing in it is needed
	}
	l.f, l.size, l.kept, l.slots, l.sync, l.broken = f, size, size, 0, &groupSync{}, nil
}

func writeEmptyLog(fsys vfs.FS, dir string, node tnv.NodeID) error {
	return replaceFile(fsys, dir, logName, func(w io.Writer) error {
		l := slot{kind: slotStore, key: tnv.BlockKey{Vol: format, ID: tnv.BlockID(node)}}
		_, err := w.Write(l.appendTo(nil))
		return err
	})
}

// rewriteLog writes the log anew from what the index remembers.
func (s *Store) rewriteLog() error {
	l := s.log
	l.gate.Lock()
	defer l.gate.Unlock()
	var size int64
	err := replaceFile(s.opt.FS, s.dir, logName, func(w io.Writer) error {
		bw := bufio.NewWriterSize(w, 256<<10)
		head := []slot{{kind: slotStore, key: tnv.BlockKey{Vol: format, ID: tnv.BlockID(s.super.Node)}}}
		return s.remembered(func(slots []slot) error {
			for range 2 {
				for i := range slots {
					n, err := bw.Write(slots[i].appendTo(nil))
					if size += int64(n); err != nil {
						return err
					}
				}
			}
			return bw.Flush()
		}, head)
	})
	if err != nil {
		return wrap("write the delete log anew", err)
	}
	f, err := s.opt.FS.OpenReadWrite(s.opt.FS.PathJoin(s.dir, logName), vfs.WriteCategoryUnspecified)
	if err != nil {
		return wrap("write the delete log anew", err)
	}
	l.use(f, size)
	return nil
}

// remembered hands on, in pieces, the slots that the log must hold.
func (s *Store) remembered(write func([]slot) error, head []slot) error {
	s.mu.RLock()
	vols := make([]tnv.VolumeID, 0, len(s.index.vols))
	for id := range s.index.vols {
		vols = append(vols, id)
	}
	for v := range s.voids {
		head = append(head, slot{kind: slotDrop, seg: v.seg, off: v.off})
	}
	s.mu.RUnlock()
	slices.Sort(vols)
	if err := write(head); err != nil {
		return err
	}
	for _, vol := range vols {
		var err error
		s.scan(vol, 0, 0, func(items []item) bool {
			var slots []slot
			for _, it := range items {
				if it.at.tombstone() {
					slots = append(slots, slot{kind: slotDelete, key: tnv.BlockKey{Vol: vol, ID: it.id}})
				}
			}
			err = write(slots)
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// minute dates a tombstone, rounded up: so it is never taken for older than it is.
func (s *Store) minute() uint32 { return uint32(time.Since(s.start)/time.Minute) + 1 }

func (s *Store) tombstone() location { return location{pos: s.minute(), len: tombMark} }

// forget drops tombstones that are old enough, and whose block has no record
// in any segment: nothing can bring it back. Then the log is written anew, if
// that makes it much shorter.
func (s *Store) forget() error {
	l := s.log
	l.mu.Lock()
	grown := l.size > 2*l.kept+1<<16
	l.mu.Unlock()
	if !grown {
		return nil
	}
	// A block with a tombstone gets no new record: whatever record one of
	// these has is there already.
	old := s.oldTombstones()
	if err := s.withoutRecords(old); err != nil {
		return err
	}
	s.mu.Lock()
	for key := range old {
		if s.isOld(s.index.get(key)) { // still
			s.index.set(key, location{})
		}
	}
	s.mu.Unlock()
	return s.rewriteLog()
}

func (s *Store) isOld(at location) bool {
	return at.tombstone() && s.minute()-at.pos >= uint32(s.opt.TombstoneAge/time.Minute)
}

// maxForget bounds the memory of one round of forgetting.
const maxForget = 1 << 19

func (s *Store) oldTombstones() map[tnv.BlockKey]struct{} {
	old := map[tnv.BlockKey]struct{}{}
	s.mu.RLock()
	vols := make([]tnv.VolumeID, 0, len(s.index.vols))
	for id := range s.index.vols {
		vols = append(vols, id)
	}
	s.mu.RUnlock()
	for _, vol := range vols {
		s.scan(vol, 0, 0, func(items []item) bool {
			for _, it := range items {
				if s.isOld(it.at) {
					old[tnv.BlockKey{Vol: vol, ID: it.id}] = struct{}{}
				}
			}
			return len(old) < maxForget
		})
	}
	return old
}

// withoutRecords takes out of keys those of which some segment has a record,
// live or not.
func (s *Store) withoutRecords(keys map[tnv.BlockKey]struct{}) error {
	s.mu.RLock()
	var sealed []*segment
	for _, seg := range s.segments {
		if seg.records == nil {
			sealed = append(sealed, seg)
			continue
		}
		for i := range seg.records {
			delete(keys, seg.records[i].key)
		}
	}
	s.mu.RUnlock()
	for _, seg := range sealed {
		if len(keys) == 0 {
			return nil
		}
		if err := s.readSealed(seg, func(_ uint32, e entry) { delete(keys, e.key) }); err != nil {
			return wrap("look for records", err)
		}
	}
	return nil
}
