package fuse

import (
	"context"
	"errors"
	"io"
	"log"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	raw "github.com/hanwen/go-fuse/v2/fuse"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
)

// Options say how a volume is shown. The zero value works.
type Options struct {
	Root     tnv.Ino               // the directory shown as the mount's root; 0: the volume's
	Log      *logrus.Entry         // nil: nothing is logged
	Registry prometheus.Registerer // takes the metrics; may be nil
	Atime    Atime
	// NoDirAtime leaves directories' times of access alone.
	NoDirAtime bool
	// Stale is how long the kernel keeps names and attributes of which nobody
	// tells it that they changed: it breaks P1, and is there for the test that shows
	// that the coherence test can fail.
	Stale time.Duration
}

// FS is a volume as go-fuse serves it. Make one with New.
//
// Lock order: dirStream.mu, then one of FS.mu, pages.mu, known.mu, notifier.mu,
// acls.mu, atimes.mu; none of these six is held over a call of another.
type FS struct {
	raw.RawFileSystem // answers ENOSYS to what is not here
	b                 Backend
	root              tnv.Ino
	log               *logrus.Entry
	pages             pages
	known             known
	entries           entries
	notify            notifier
	acls              acls
	atimes            atimes
	watchers          sync.WaitGroup // goroutines of interrupt.go
	start             time.Time      // zero of the times in handle.validated
	over              chan struct{}  // closed when the kernel's side has ended
	stale             time.Duration  // Options.Stale

	mu      sync.RWMutex
	next    uint64
	handles map[uint64]*handle
	dirs    map[uint64]*dirStream
}

// handle is an open file. Handle numbers are never used twice.
type handle struct {
	file      File
	ino       tnv.Ino
	writable  bool
	appends   bool         // O_APPEND
	direct    bool         // past the page cache
	kept      bool         // the kernel may read from its pages alone
	validated atomic.Int64 // when the kernel last asked for the attributes by this handle
	access    access
}

// New shows the volume that c has open.
func New(c *client.Client, opt Options) *FS {
	f := NewBackend(volume{c}, opt)
	c.Watch(f)
	return f
}

// NewBackend shows any Backend.
func NewBackend(b Backend, opt Options) *FS {
	f := &FS{
		RawFileSystem: raw.NewDefaultRawFileSystem(),
		b:             b,
		root:          opt.Root,
		log:           opt.Log,
		start:         time.Now(),
		over:          make(chan struct{}),
		stale:         opt.Stale,
		next:          1,
		handles:       map[uint64]*handle{},
		dirs:          map[uint64]*dirStream{},
	}
	if f.root == 0 {
		f.root = tnv.RootIno
	}
	if f.log == nil {
		l := logrus.New()
		l.SetOutput(io.Discard)
		f.log = logrus.NewEntry(l)
	}
	f.atimes.start(f, opt)
	f.pages.inodes = map[tnv.Ino]*inode{}
	f.known.inodes = map[tnv.Ino]*knownInode{}
	f.notify.done, f.notify.seen = f.pages.dropped, f.pages.seen
	if opt.Registry != nil {
		f.register(opt.Registry)
	}
	return f
}

func (f *FS) register(r prometheus.Registerer) {
	gauge := func(name, help string, value func() int) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help},
			func() float64 { return float64(value()) }))
	}
	gauge("tnv_fuse_open_handles", "Open files and directories.", func() int {
		f.mu.RLock()
		defer f.mu.RUnlock()
		return len(f.handles) + len(f.dirs)
	})
	gauge("tnv_fuse_known_inodes", "Inodes that the kernel holds in its caches.", f.known.len)
	gauge("tnv_fuse_notifications_waiting", "Invalidations that the kernel has not answered yet.", f.notify.len)
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "tnv_fuse_notifications_total",
		Help: "Invalidations of a file's pages sent to the kernel."}, func() float64 { return float64(f.notify.sent.Load()) }))
}

// Sizes of what goes back and forth with the kernel.
const (
	maxWrite      = 1 << 20 // bytes of one READ or WRITE: the kernel's own limit
	maxBackground = 128     // READs of read-ahead, and the like, under way at once
	// maxRequestMemory bounds the buffers of requests; some 60 WRITEs of the full size.
	maxRequestMemory = 64 << 20
)

// MountOptions are go-fuse's, for an FS. source is what findmnt shows as the
// mount's source; options go to the kernel (and fusermount3) as they are.
func (f *FS) MountOptions(source string, options ...string) *raw.MountOptions {
	return &raw.MountOptions{
		FsName:                  source,
		Name:                    "tnv",
		Options:                 append([]string{"default_permissions"}, options...),
		MaxBackground:           maxBackground,
		MaxWrite:                maxWrite,
		MaxReadAhead:            maxWrite,
		MaxInflightRequestBytes: maxRequestMemory,
		DisableReadDirPlus:      true,
		EnableLocks:             true,
		EnableAcl:               true,
		ExtraCapabilities: raw.CAP_HANDLE_KILLPRIV_V2 | raw.CAP_ASYNC_DIO | raw.CAP_DIRECT_IO_ALLOW_MMAP |
			raw.CAP_DONT_MASK | raw.CAP_SETXATTR_EXT,
		PanicHandler: f.panicked,
		Logger:       log.New(logWriter{f.log}, "", 0),
	}
}

// panicked ends one request with EIO, and no other.
func (f *FS) panicked(v any) raw.Status {
	f.log.WithFields(logrus.Fields{"panic": v, "stack": string(debug.Stack())}).Error("request panicked")
	return raw.EIO
}

type logWriter struct{ log *logrus.Entry }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.WithField("from", "go-fuse").Debug(string(p))
	return len(p), nil
}

// String names the file system.
func (f *FS) String() string { return "tnv" }

// Init is called by go-fuse before the first request.
func (f *FS) Init(s *raw.Server) {
	f.entries.open()
	f.notify.to(s.InodeNotify)
	f.watchers.Add(1)
	go f.refresher()
}

// OnUnmount is called by go-fuse behind the last request: the kernel is gone.
// What it left open is closed by Drain.
func (f *FS) OnUnmount() {
	close(f.over)
	f.entries.close()
	f.notify.stop()
	f.watchers.Wait()
	f.atimes.stop()
}

// FlushAll flushes every handle that is open for writing, as close(2) does. It
// returns all failures.
func (f *FS) FlushAll(ctx context.Context) error {
	f.mu.RLock()
	var open []*handle
	for _, h := range f.handles {
		if h.writable {
			open = append(open, h)
		}
	}
	f.mu.RUnlock()
	var errs []error
	for _, h := range open {
		if err := h.file.Flush(ctx); err != nil {
			errs = append(errs, tnv.Wrap("flush an open file", err))
		}
	}
	return errors.Join(errs...)
}

// Drain flushes and closes what the kernel left open: after an unmount it need
// not have told of every handle's end. No request may be under way or follow.
func (f *FS) Drain(ctx context.Context) error {
	err := f.FlushAll(ctx)
	f.mu.Lock()
	handles := f.handles
	f.handles, f.dirs = map[uint64]*handle{}, map[uint64]*dirStream{}
	f.mu.Unlock()
	for _, h := range handles {
		err = errors.Join(err, tnv.Wrap("close an open file", h.file.Close()))
	}
	return err
}

func (f *FS) addHandle(h *handle) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	f.handles[f.next] = h
	return f.next
}

func (f *FS) handle(fh uint64) *handle {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.handles[fh]
}

// ino is the inode behind a node id, node the other way: the same swap of the
// mount's root with inode 1.
func (f *FS) ino(node uint64) tnv.Ino {
	switch tnv.Ino(node) {
	case tnv.RootIno:
		return f.root
	case f.root:
		return tnv.RootIno
	}
	return tnv.Ino(node)
}

func (f *FS) node(ino tnv.Ino) uint64 { return uint64(f.ino(uint64(ino))) }

func cred(h *raw.InHeader) tnv.Cred { return tnv.Cred{UID: h.Uid, GID: h.Gid} }

func status(err error) raw.Status { return raw.Status(tnv.Errno(err)) }
