package pebble_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/kvtest"
	"github.com/tnvfs/tnv/kv/pebble"
)

var errDead = errors.New("the process is dead")

// process is a file system as one process sees it: once it is killed nothing that
// the process still does reaches the files. broken, if set, fails operations.
type process struct {
	vfs.FS
	mu     sync.RWMutex
	dead   bool
	lock   io.Closer
	broken func(op, name string) error
}

func (p *process) do(op, name string, fn func() error) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.dead {
		return errDead
	}
	if p.broken != nil {
		if err := p.broken(op, name); err != nil {
			return err
		}
	}
	return fn()
}

func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
	if p.lock != nil {
		_ = p.lock.Close()
	}
}

func (p *process) Create(name string, c vfs.DiskWriteCategory) (f vfs.File, err error) {
	err = p.do("create", name, func() error { f, err = p.FS.Create(name, c); return err })
	return &processFile{f, p, name}, err
}

func (p *process) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (f vfs.File, err error) {
	err = p.do("open", name, func() error { f, err = p.FS.OpenReadWrite(name, c, opts...); return err })
	return &processFile{f, p, name}, err
}

func (p *process) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (f vfs.File, err error) {
	err = p.do("reuse", to, func() error { f, err = p.FS.ReuseForWrite(from, to, c); return err })
	return &processFile{f, p, to}, err
}

func (p *process) OpenDir(name string) (f vfs.File, err error) {
	f, err = p.FS.OpenDir(name)
	return &processFile{f, p, name}, err
}

func (p *process) Remove(name string) error {
	return p.do("remove", name, func() error { return p.FS.Remove(name) })
}

func (p *process) Rename(from, to string) error {
	return p.do("rename", from, func() error { return p.FS.Rename(from, to) })
}

func (p *process) Link(from, to string) error {
	return p.do("link", from, func() error { return p.FS.Link(from, to) })
}

func (p *process) Lock(name string) (io.Closer, error) {
	c, err := p.FS.Lock(name)
	if err == nil {
		p.lock = c
	}
	return c, err
}

type processFile struct {
	vfs.File
	p    *process
	name string
}

func (f *processFile) Write(b []byte) (n int, err error) {
	err = f.p.do("write", f.name, func() error { n, err = f.File.Write(b); return err })
	return n, err
}

func (f *processFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = f.p.do("write", f.name, func() error { n, err = f.File.WriteAt(b, off); return err })
	return n, err
}

func (f *processFile) Sync() error     { return f.p.do("sync", f.name, f.File.Sync) }
func (f *processFile) SyncData() error { return f.p.do("sync", f.name, f.File.SyncData) }

func quiet() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

// machine is a disk in memory and the process that has the store open on it.
type machine struct {
	disk    *vfs.MemFS
	process *process
	engine  *pebble.Engine
	opt     pebble.Options
}

// start starts a process; the one before is dead by now.
func (m *machine) start(t testing.TB) kv.Engine {
	t.Helper()
	m.process = &process{FS: m.disk}
	opt := m.opt
	opt.FS, opt.Log = m.process, quiet()
	e, err := pebble.Open("store", opt)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	m.engine = e
	return e
}

func (m *machine) kill(t testing.TB) {
	m.process.kill()
	old := m.engine
	t.Cleanup(func() { _ = old.Close() }) // it ends in memory
}

// losePower replaces the disk by what survives on it.
func (m *machine) losePower(t testing.TB, r *rand.Rand) {
	percent := []int{0, 10, 50, 90, 100}[r.IntN(5)]
	m.kill(t)
	m.disk = m.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: r})
}

func newMachine(opt pebble.Options) *machine { return &machine{disk: vfs.NewCrashableMem(), opt: opt} }

func crashable(opt pebble.Options) func(testing.TB) *kvtest.Store {
	return func(t testing.TB) *kvtest.Store {
		m := newMachine(opt)
		return &kvtest.Store{
			Engine: m.start(t),
			Reopen: m.start,
			Kill: func(t testing.TB) kv.Engine {
				m.kill(t)
				return m.start(t)
			},
			PowerLoss: func(t testing.TB, r *rand.Rand) kv.Engine {
				m.losePower(t, r)
				return m.start(t)
			},
		}
	}
}

// small makes logs rotate and tables flush all the time. The flusher never comes
// by itself, so that what survives is what was synced for a reason.
func small() pebble.Options {
	return pebble.Options{MemTableSize: 128 << 10, FlushEvery: time.Hour}
}
