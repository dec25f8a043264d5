package blockstore

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tnvfs/tnv"
)

// Store is one open data directory.
type Store struct {
	dir   string
	opt   Options
	super Superblock
	lock  io.Closer
	start time.Time // of this boot; its monotonic reading dates tombstones
	files *fileTable
	log   *deleteLog
	space space
	stat  counters

	life   sync.RWMutex
	closed bool

	wg       sync.WaitGroup // every goroutine of the store
	stop     chan struct{}  // closed to end them
	sealWake chan struct{}
	backWake chan *segment // has much to write back
	keepWake chan struct{}

	sealMu sync.Mutex // one seals at a time; taken before Store.mu
	keepMu sync.Mutex // one keeps house at a time; taken before sealMu

	appendMu    sync.Mutex
	nextSegment uint32

	mu        sync.RWMutex
	index     index
	segments  map[uint32]*segment // by ref
	lastRef   uint32
	active    *segment            // takes the next record; may be nil
	unsealed  map[uint32]*segment // active and draining
	sealing   []*segment          // drained: the sealer's queue
	receiving map[tnv.BlockKey][]*Writer
	pins      map[pin]int
	punches   []punch
	voids     map[void]struct{} // records that Drop gave up
	used      int64             // bytes of all segments, holes not counted
}

// pin is a record that readers hold open.
type pin struct {
	seg uint32
	off uint32
}

// counters count since the start.
type counters struct {
	syncs, syncFailures, compacted atomic.Uint64
	damaged                        atomic.Uint64
}

// Open opens the store of a directory. KindNotExist: there is none; KindBusy:
// it is in use; KindCorrupt: it says what is damaged. The boot counter has
// grown on disk before anything else happens.
func Open(dir string, opt Options) (*Store, error) {
	opt = opt.withDefaults()
	lock, err := lockDir(opt.FS, dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		dir: dir, opt: opt, lock: lock, start: time.Now(),
		files:     newFileTable(opt.FS, opt.MaxOpenFiles),
		stop:      make(chan struct{}),
		sealWake:  make(chan struct{}, 1),
		backWake:  make(chan *segment, 4),
		keepWake:  make(chan struct{}, 1),
		index:     index{vols: map[tnv.VolumeID]*volume{}},
		segments:  map[uint32]*segment{},
		unsealed:  map[uint32]*segment{},
		receiving: map[tnv.BlockKey][]*Writer{},
		pins:      map[pin]int{},
		voids:     map[void]struct{}{},
	}
	if err := s.open(); err != nil {
		s.files.close()
		lock.Close()
		return nil, err
	}
	s.wg.Go(s.sealer)
	s.wg.Go(s.writeBacker)
	if opt.Housekeeping > 0 {
		s.wg.Go(s.housekeeper)
	}
	return s, nil
}

func (s *Store) open() error {
	b, err := readSuperblock(s.opt.FS, s.dir)
	if err != nil {
		return err
	}
	s.super = b
	s.super.Boot++
	next := s.super
	next.Clean = false
	if err := writeSuperblock(s.opt.FS, s.dir, next); err != nil {
		return wrap("count the start of store "+s.dir, err)
	}
	return s.recover()
}

// Super is the store's identity, with the boot counter of now. Clean tells of
// the stop before.
func (s *Store) Super() Superblock { return s.super }

// enter begins an operation: the store is not closed until leave. It must not nest.
func (s *Store) enter() error {
	s.life.RLock()
	if s.closed {
		s.life.RUnlock()
		return tnv.E("store "+s.dir, tnv.KindUnavailable, "it is closed")
	}
	return nil
}

func (s *Store) leave() { s.life.RUnlock() }

// Close waits for operations under way, gives up unfinished writers, seals
// what is open and marks the stop as clean. Readers stay good until they are
// closed. An error: what was committed without sync may be lost.
func (s *Store) Close() error {
	s.life.Lock()
	if s.closed {
		s.life.Unlock()
		return nil
	}
	s.closed = true
	s.life.Unlock()
	close(s.stop)
	s.wg.Wait()
	defer s.lock.Close()
	defer s.files.close()
	s.mu.Lock()
	for _, ws := range s.receiving {
		for _, w := range ws {
			w.place.seg.records[w.place.pos].state = recVoid
			s.doneWritingLocked(w.place.seg)
		}
	}
	s.receiving = nil
	if s.active != nil {
		s.drainLocked(s.active)
	}
	s.mu.Unlock()
	failures := s.stat.syncFailures.Load()
	err := s.sealDrained()
	if s.stat.syncFailures.Load() > failures && err == nil {
		err = tnv.E("close store "+s.dir, tnv.KindOther, "the last sync failed: what was not synced before is lost")
	}
	s.mu.RLock()
	for _, seg := range s.unsealed { // could not be sealed: the next start walks them
		seg.w.release()
	}
	s.mu.RUnlock()
	if lerr := s.log.close(); err == nil {
		err = lerr
	}
	if err != nil {
		return err
	}
	b := s.super
	b.Clean = true
	return wrap("close store "+s.dir, writeSuperblock(s.opt.FS, s.dir, b))
}

// recordBytes is what a record counts for: its data.
func recordBytes(at location) int64 { return alignUp(int64(at.len), sector) }

// insertLocked makes a key point to a record.
func (s *Store) insertLocked(key tnv.BlockKey, at location) {
	s.index.set(key, at)
	seg := s.segments[at.seg]
	seg.live += recordBytes(at)
	seg.blocks++
}

// removeLocked takes a key out that points to at.
func (s *Store) removeLocked(key tnv.BlockKey, at location) {
	s.index.set(key, location{})
	s.unrefLocked(at)
}

// unrefLocked takes a record off its segment's account: nothing points to it.
func (s *Store) unrefLocked(at location) {
	seg := s.segments[at.seg]
	seg.live -= recordBytes(at)
	seg.blocks--
}

// writeBacker starts writing long before a sync wants it.
func (s *Store) writeBacker() {
	for {
		select {
		case <-s.stop:
			return
		case seg := <-s.backWake:
			s.mu.RLock()
			sealed, end := seg.state == segSealed || seg.failed != nil, seg.end
			var h *handle
			if !sealed {
				h = seg.w.retain()
			}
			s.mu.RUnlock()
			if sealed {
				continue
			}
			startWriteBack(h.w, seg.kicked, end-seg.kicked)
			seg.kicked = max(seg.kicked, end-2*writeBack) // writers below the end may be at work
			h.release()
		}
	}
}

// dirtied counts bytes written to a segment.
func (s *Store) dirtied(seg *segment, n int64) {
	if d := seg.dirty.Add(n); d >= writeBack {
		seg.dirty.Add(-d)
		select {
		case s.backWake <- seg:
		default:
		}
	}
}
