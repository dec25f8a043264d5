package httpd

import (
	"context"
	"fmt"
	"io"
	"math/rand"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// fake is a volume in memory, as a source. Paths are exact: like the tracker it
// knows no way out of the volume, and it notes every path that it was asked for.
type fake struct {
	mu     sync.Mutex
	nodes  map[string]*node // by path
	inos   map[tnv.Ino]*node
	asked  []string
	down   error // every call fails with it
	last   tnv.Ino
	locks  map[tnv.Ino]*fakeWriter // who has which file locked
	opened int
	full   bool // no more can be written
	closed int
	held   int                      // views that were not released
	links  map[string]string        // paths that are followed to another, as symbolic links are
	onMove func()                   // before a name is moved
	onRead func(n *node, off int64) // before a read
}

type node struct {
	attr   tnv.Attr
	data   []byte
	name   string
	xattrs map[string][]byte
}

func newFake() *fake {
	f := &fake{nodes: map[string]*node{}, inos: map[tnv.Ino]*node{}, locks: map[tnv.Ino]*fakeWriter{}}
	f.add("/", tnv.TypeDir.Mode()|0o755, nil)
	return f
}

func (f *fake) add(p string, mode uint32, data []byte) *node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.addLocked(p, mode, data)
}

func (f *fake) addLocked(p string, mode uint32, data []byte) *node {
	f.last++
	n := &node{data: data, name: path.Base(p), attr: tnv.Attr{Ino: f.last, Mode: mode, Size: uint64(len(data)), Data: 7, Nlink: 1,
		Mtime: time.Date(2024, 5, 6, 7, 8, 9, 10, time.UTC).UnixNano()}}
	f.nodes[p], f.inos[n.attr.Ino] = n, n
	f.touchLocked(p)
	return n
}

func (f *fake) file(p string, data []byte) *node { return f.add(p, tnv.TypeRegular.Mode()|0o644, data) }
func (f *fake) dir(p string) *node               { return f.add(p, tnv.TypeDir.Mode()|0o755, nil) }

func (f *fake) Resolve(_ context.Context, _ tnv.Cred, p string, _ bool) (r protocol.ResolveReply, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, p)
	if f.down != nil {
		return r, f.down
	}
	if to, ok := f.links[p]; ok {
		p = to
	}
	n := f.nodes[p]
	if n == nil {
		return r, tnv.E("resolve", tnv.KindNotExist, "")
	}
	return protocol.ResolveReply{Attr: n.attr}, nil
}

func (f *fake) ReadDir(_ context.Context, _ tnv.Cred, req protocol.ReadDir) (rep protocol.ReadDirReply, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return rep, f.down
	}
	dir := ""
	for p, n := range f.nodes {
		if n.attr.Ino == req.Ino {
			dir, rep.Dir = p, n.attr
		}
	}
	var kids []*node
	for p, n := range f.nodes {
		if p != "/" && path.Dir(p) == dir && uint64(n.attr.Ino) > req.Cookie {
			kids = append(kids, n)
		}
	}
	slices.SortFunc(kids, func(a, b *node) int { return int(a.attr.Ino) - int(b.attr.Ino) })
	rep.End = len(kids) <= int(req.Limit)
	for _, k := range kids[:min(len(kids), int(req.Limit))] {
		rep.Entries = append(rep.Entries, tnv.Dirent{Name: k.name, Ino: k.attr.Ino, Type: k.attr.Type(), Cookie: uint64(k.attr.Ino)})
		rep.Attrs = append(rep.Attrs, k.attr)
	}
	return rep, nil
}

func (f *fake) StatFS(context.Context) (tnv.StatFS, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return tnv.StatFS{Files: 3, Capacity: 1 << 40, Free: 1 << 39}, f.down
}

func (f *fake) Open(_ context.Context, ino tnv.Ino) (file, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.inos[ino]
	if f.down != nil || n == nil {
		return nil, tnv.E("open", tnv.KindStale, "")
	}
	f.opened++
	return &fakeFile{f, n}, nil
}

type fakeFile struct {
	f *fake
	n *node
}

func (o *fakeFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if o.f.onRead != nil {
		o.f.onRead(o.n, off)
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	o.f.mu.Lock()
	defer o.f.mu.Unlock()
	if off >= int64(len(o.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, o.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// View gives at most 100,000 bytes, in two parts.
func (o *fakeFile) View(ctx context.Context, off int64, n int) ([][]byte, func(), error) {
	b := make([]byte, min(n, 100_000))
	n, err := o.ReadAt(ctx, b, off)
	if n == 0 {
		return nil, func() {}, err
	}
	o.f.mu.Lock()
	o.f.held++
	o.f.mu.Unlock()
	return [][]byte{b[:n/2], b[n/2 : n]}, func() {
		o.f.mu.Lock()
		o.f.held--
		o.f.mu.Unlock()
	}, nil
}

func (o *fakeFile) Attr(context.Context) (tnv.Attr, error) {
	o.f.mu.Lock()
	defer o.f.mu.Unlock()
	return o.n.attr, o.f.down
}

func (o *fakeFile) Close() error {
	o.f.mu.Lock()
	defer o.f.mu.Unlock()
	o.f.closed++
	return nil
}

// start serves a fake volume, for reading by anybody.
func start(t testing.TB, f *fake, cred tnv.Cred) (*httptest.Server, *handler) {
	return startWith(t, f, cred, options{})
}

func startWith(t testing.TB, f *fake, cred tnv.Cred, o options) (*httptest.Server, *handler) {
	h := newHandler(f, cred, "media", 256<<20, quietLog(), newMetrics(nil), o)
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = newServer(h, silent(), false)
	srv.Listener = newLimitListener(srv.Listener, maxConns, func(int) {})
	srv.Start()
	t.Cleanup(func() {
		srv.Close()
		h.close()
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.opened != f.closed || f.held != 0 {
			t.Errorf("%d files opened, %d closed; %d views not released", f.opened, f.closed, f.held)
		}
	})
	return srv, h
}

func quietLog() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

// noise is pseudo-random data.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(int64(n))).Read(b)
	return b
}

func manyRanges(n int) string {
	var b strings.Builder
	b.WriteString("bytes=")
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d-%d", 2*i, 2*i)
	}
	return b.String()
}
