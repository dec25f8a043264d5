// Package pebble is the embedded engine: an LSM tree in one directory of one
// process (github.com/cockroachdb/pebble/v2).
//
// It promises: what Apply acknowledged survives kill -9 of the process at once,
// and power loss after Sync or FlushEvery; with Durability Sync both at once.
// What survives a power loss is a prefix: of every volume the batches up to some
// number, none missing before it. After the first write or fsync that fails every
// call returns that error until the directory is opened anew; nothing is retried,
// since a second fsync may report success for pages that the first one dropped.
//
// Pebble knows two kinds of commit: synced, and buffered in the process, which a
// kill loses. TNV wants the one between. So every commit is a synced one, on a
// file system (disk.go) whose log files put Sync off to a flusher (logsync.go).
//
// Why a prefix survives, though Pebble believes that its log is synced when it is not:
//   - Only the log's tail is unsynced. Before Pebble starts a log it closes the
//     previous one, and close syncs for real. So all logs but the last are whole,
//     and of the last, reading stops at the first chunk that is damaged.
//   - A memtable is flushed only after the log that holds its batches was closed.
//     So a table or a manifest never holds a batch whose predecessors are still
//     unsynced in a log; and when the manifest says that a log is not needed any
//     more, the tables in its place are synced (those syncs are never put off).
//   - Opening replays the logs into tables, synced, before a new log is begun. So
//     what a killed process left unsynced is on disk before anything follows it.
//   - A log file is not used again. Chunks carry their log's number, so that old
//     ones between new ones would be refused; not to have them is one proof less.
//   - The store stays at a format in which a log's chunks do not say how far it was
//     synced (before FormatWALSyncChunks). They would say what is not true, and a
//     torn tail would be refused as damage.
//   - A reader of such logs may take a lost chunk at the end of a log's block for
//     padding, and go on behind it: Open looks for that first (logtail.go).
package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	crdb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// Durability says what Apply waits for.
type Durability int

const (
	// OS waits until the operating system has the batch: it survives kill -9 at
	// once, power loss after FlushEvery or Sync.
	OS Durability = iota
	// Sync waits for the disk.
	Sync
)

// Options of an engine. The zero value works.
type Options struct {
	FS           vfs.FS        // nil: the operating system's
	Durability   Durability    // default OS
	FlushEvery   time.Duration // how long a batch may stay unsynced; 0: half a second
	CacheSize    int64         // bytes of the block cache; 0: 64 MiB
	MemTableSize uint64        // bytes of a memtable, of which there are up to four; 0: 16 MiB
	Log          logrus.FieldLogger
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.FlushEvery <= 0 {
		o.FlushEvery = 500 * time.Millisecond
	}
	if o.CacheSize <= 0 {
		o.CacheSize = 64 << 20
	}
	if o.MemTableSize == 0 {
		o.MemTableSize = 16 << 20
	}
	if o.Log == nil {
		o.Log = logrus.StandardLogger()
	}
	return o
}

// Engine is an open store. Make it with Open.
//
// Lock order: volume.order, then volumes.mu or gate.mu; these two are never held
// while another is taken.
type Engine struct {
	dir     string
	opt     Options
	db      *crdb.DB
	disk    *disk
	log     *logSync
	failure *failure
	gate    gate
	flusher sync.WaitGroup
	stop    chan struct{} // closed by Close: the flusher ends

	volumes struct {
		mu sync.Mutex
		m  map[tnv.VolumeID]*volume
	}
}

var _ kv.Engine = (*Engine)(nil)

// Open opens the store in dir, and makes it if there is none. It fails if a
// process has it open, and with KindCorrupt if the store is damaged.
func Open(dir string, opt Options) (*Engine, error) {
	opt = opt.withDefaults()
	log := opt.Log.WithField("store", dir)
	e := &Engine{dir: dir, opt: opt, stop: make(chan struct{}), failure: newFailure(dir, log)}
	e.gate.idle.L = &e.gate.mu
	e.volumes.m = map[tnv.VolumeID]*volume{}
	e.log = newLogSync(e.failure)
	e.disk = newDisk(opt.FS, e.log, e.failure, opt.Durability == Sync)
	if err := e.open(log); err != nil {
		return nil, openError(dir, err)
	}
	if opt.Durability == OS {
		e.flusher.Add(1)
		go e.flush()
	}
	return e, nil
}

func (e *Engine) open(log logrus.FieldLogger) (err error) {
	defer func() { // Pebble panics on some kinds of damage
		if r := recover(); r != nil {
			err = tnv.E("", tnv.KindCorrupt, "%v", r)
		}
		if err != nil {
			e.disk.unlock()
		}
	}()
	if e.db, err = crdb.Open(e.dir, e.pebbleOptions(log)); err != nil {
		return errors.Join(e.failure.get(), err)
	}
	if err = e.checkFormat(); err == nil {
		err = e.failure.get()
	}
	if err != nil {
		err = errors.Join(err, e.db.Close())
	}
	return err
}

func (e *Engine) pebbleOptions(log logrus.FieldLogger) *crdb.Options {
	o := &crdb.Options{
		FS:                          e.disk,
		FormatMajorVersion:          crdb.FormatColumnarBlocks, // not later: see the package comment
		CacheSize:                   e.opt.CacheSize,
		MemTableSize:                e.opt.MemTableSize,
		MemTableStopWritesThreshold: 4,
		L0StopWritesThreshold:       24,
		Logger:                      logger{log, e.failure},
		EventListener:               listener(log, e.failure),
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return o
}

// checkFormat reads the store's format version, and writes it into a new store.
func (e *Engine) checkFormat() error {
	b, err := e.get([]byte{formatKey})
	if err != nil {
		return err
	}
	if b == nil {
		return e.db.Set([]byte{formatKey}, binary.BigEndian.AppendUint32(nil, formatVersion), crdb.Sync)
	}
	if len(b) != 4 {
		return tnv.E("", tnv.KindCorrupt, "format record of %d bytes", len(b))
	}
	if v := binary.BigEndian.Uint32(b); v > formatVersion {
		return tnv.E("", tnv.KindVersion, "format %d, this program knows up to %d", v, formatVersion)
	}
	return nil
}

// flush syncs the log every FlushEvery while something is unsynced.
func (e *Engine) flush() {
	defer e.flusher.Done()
	t := time.NewTicker(e.opt.FlushEvery)
	defer t.Stop()
	for {
		select {
		case <-e.stop:
			return
		case <-t.C:
			_ = e.log.sync() // a failure has been recorded, and ends the engine
		}
	}
}

// enter begins a call; every call that entered leaves.
func (e *Engine) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.failure.get(); err != nil {
		return err
	}
	return e.gate.enter()
}

// Sync implements kv.Engine. Concurrent callers share fsyncs.
func (e *Engine) Sync(ctx context.Context) error {
	if err := e.enter(ctx); err != nil {
		return err
	}
	defer e.gate.leave()
	return e.syncLog(ctx)
}

func (e *Engine) syncLog(ctx context.Context) error {
	if !e.log.dirty() {
		return e.failure.get()
	}
	done := make(chan error, 1)
	go func() { done <- e.log.sync() }()
	select {
	case err := <-done:
		return err
	case <-e.failure.done:
		return e.failure.get()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Exclusive implements kv.Engine: the directory is locked.
func (e *Engine) Exclusive() bool { return true }

// Name implements kv.Engine.
func (e *Engine) Name() string { return "pebble" }

// abandonAfter is how long Close of a failed engine waits for Pebble to end.
const abandonAfter = time.Second

// Close implements kv.Engine. On an engine that has failed it returns the
// failure, and does not wait forever for what hangs in a broken disk.
func (e *Engine) Close() error {
	if err := e.gate.close(); err != nil {
		return err
	}
	close(e.stop)
	e.disk.stopThrottling()
	defer e.disk.unlock()
	closed := make(chan error, 1)
	go func() {
		e.flusher.Wait()
		closed <- e.db.Close()
	}()
	select {
	case err := <-closed:
		if failed := e.failure.get(); failed != nil {
			return failed
		}
		return tnv.Wrap("close store "+e.dir, err)
	case <-e.failure.done:
	}
	select {
	case <-closed:
	case <-time.After(abandonAfter):
		e.failure.log.Warn("gave up waiting for the failed store to close")
	}
	return e.failure.get()
}

func openError(dir string, err error) error {
	op := "open store " + dir
	var used *inUseError
	kind := tnv.KindOf(err)
	switch {
	case errors.As(err, &used):
		return &tnv.Error{Op: "open store", Kind: tnv.KindBusy, Msg: dir + " is in use by another process"}
	case errors.Is(err, crdb.ErrCorruption), kind == tnv.KindNotExist:
		kind = tnv.KindCorrupt // dir was made if it was not there: what is missing is one of its files
	case kind == tnv.KindOther && isInconsistent(err):
		kind = tnv.KindCorrupt
	}
	if kind == tnv.KindCorrupt {
		return &tnv.Error{Op: op, Kind: kind, Msg: "the store is damaged", Err: err}
	}
	return &tnv.Error{Op: op, Kind: kind, Err: err}
}

// gate counts the calls under way, so that Close can wait for them.
type gate struct {
	mu     sync.Mutex
	closed bool
	calls  int
	idle   sync.Cond
}

func (g *gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return kv.ErrClosed
	}
	g.calls++
	return nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls--; g.calls == 0 {
		g.idle.Broadcast()
	}
}

func (g *gate) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return kv.ErrClosed
	}
	g.closed = true
	for g.calls > 0 {
		g.idle.Wait()
	}
	return nil
}

func storeError(dir string, vol tnv.VolumeID, err error) error {
	kind := tnv.KindOf(err)
	if errors.Is(err, crdb.ErrCorruption) {
		kind = tnv.KindCorrupt
	}
	return &tnv.Error{Op: fmt.Sprintf("store %s, volume %d", dir, vol), Kind: kind, Err: err}
}
