package client

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// A cluster in memory that speaks the real protocol over loopback, one flat
// directory, with faults on order.

const fakeVol = tnv.VolumeID(7)

type fakeCluster struct {
	t      testing.TB
	key    protocol.Key
	track  *fakeTracker
	stores []*fakeStore
}

func quiet() *logrus.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

// newFake starts a tracker and groups of stores.
func newFake(t testing.TB, groups, members int) *fakeCluster {
	f := &fakeCluster{t: t, key: protocol.NewKey()}
	f.track = &fakeTracker{f: f, files: map[tnv.Ino]*fakeFile{}, sessions: map[tnv.SessionID]*fakeSession{},
		names: map[string]tnv.Ino{}, nextIno: 1, nextBlock: 1, nextSession: 1, minReplicas: 2, keepAlive: 200, blocks: map[tnv.BlockID]tnv.SessionID{}}
	f.track.start("127.0.0.1:0")
	t.Cleanup(func() { f.track.stop() })
	for g := range groups {
		for m := range members {
			s := &fakeStore{f: f, id: tnv.NodeID(100*(g+1) + m), group: tnv.GroupID(g + 1), boot: 1, blocks: map[tnv.BlockKey]*fakeBlock{}}
			s.pool = &protocol.Pool{Endpoint: &protocol.Endpoint{Key: f.key, Role: protocol.RoleStore}}
			s.start("127.0.0.1:0")
			f.stores = append(f.stores, s)
			t.Cleanup(func() { s.kill(); s.pool.Close() })
		}
	}
	return f
}

func (f *fakeCluster) config() Config {
	return Config{Trackers: []string{f.track.addr}, Key: f.key, Timeout: 8 * time.Second, Log: quiet(), Memory: 64 << 20}
}

func (f *fakeCluster) connect(cfg Config) *Client {
	f.t.Helper()
	c, err := Connect(context.Background(), cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if c.life.Err() == nil {
			c.Close(context.Background())
		}
	})
	return c
}

func (f *fakeCluster) clusterMap() *tnv.Map {
	m := &tnv.Map{Epoch: 1}
	for _, s := range f.stores {
		s.mu.Lock()
		n := tnv.Node{ID: s.id, Group: s.group, Boot: s.boot, Addr: s.addr, Host: "elsewhere", State: s.state, Capacity: 1 << 40, Used: s.used}
		m.Version += s.version
		s.mu.Unlock()
		if g := m.Group(s.group); g != nil {
			g.Nodes = append(g.Nodes, n)
		} else {
			m.Groups = append(m.Groups, tnv.Group{ID: s.group, Name: fmt.Sprintf("g%d", s.group), Nodes: []tnv.Node{n}})
		}
	}
	return m
}

type fakeFile struct {
	attr    tnv.Attr
	extents []fileExtent // newest last
	synced  uint64       // Version that was synced
}

type fileExtent struct {
	off int64
	e   tnv.Extent
}

type fakeSession struct {
	slots map[uint32]*fakeSlot
}

type fakeSlot struct {
	seq   uint64
	reply []any
	err   error
}

// fakeTracker executes each (session, slot, seq) once.
type fakeTracker struct {
	f    *fakeCluster
	srv  *protocol.Server
	addr string

	mu          sync.Mutex
	files       map[tnv.Ino]*fakeFile
	names       map[string]tnv.Ino
	sessions    map[tnv.SessionID]*fakeSession
	blocks      map[tnv.BlockID]tnv.SessionID // granted and unused
	nextIno     tnv.Ino
	nextBlock   tnv.BlockID
	nextSession tnv.SessionID
	version     uint64
	minReplicas uint32
	keepAlive   uint32
	unlinked    []tnv.Ino
	released    []tnv.Ino
	executed    map[protocol.Type]int // mutations that were executed
	asked       map[protocol.Type]int
	commits     []protocol.Commit
	// before and after are called around the execution of a request; true: the
	// connection is cut instead of going on.
	before, after func(t protocol.Type) bool
	refuse        func(t protocol.Type) error
}

func (t *fakeTracker) start(addr string) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.f.t.Fatal(err)
	}
	t.addr = ln.Addr().String()
	t.srv = &protocol.Server{Endpoint: &protocol.Endpoint{Key: t.f.key, Role: protocol.RoleTracker}, Log: quiet(), Handle: t.handle}
	go t.srv.Serve(ln)
}

func (t *fakeTracker) stop() { t.srv.Close() }

func (t *fakeTracker) hook(h *func(protocol.Type) bool, typ protocol.Type) bool {
	t.mu.Lock()
	f := *h
	t.mu.Unlock()
	return f != nil && f(typ)
}

func (t *fakeTracker) handle(ctx context.Context, p *protocol.Peer, f *protocol.Frame) ([]any, error) {
	cut := func() ([]any, error) {
		p.Close()
		return nil, tnv.E("", tnv.KindUnavailable, "cut")
	}
	t.mu.Lock()
	if t.asked == nil {
		t.asked, t.executed = map[protocol.Type]int{}, map[protocol.Type]int{}
	}
	t.asked[f.Type]++
	refuse := t.refuse
	t.mu.Unlock()
	if refuse != nil {
		if err := refuse(f.Type); err != nil {
			return nil, err
		}
	}
	if t.hook(&t.before, f.Type) {
		return cut()
	}
	v, err := t.execute(f)
	if t.hook(&t.after, f.Type) {
		return cut()
	}
	return v, err
}

func (t *fakeTracker) execute(f *protocol.Frame) ([]any, error) {
	m := t.f.clusterMap()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch f.Type {
	case protocol.TypeOpenSession:
		var rq protocol.OpenSession
		if err := f.Decode(&rq); err != nil {
			return nil, err
		}
		if rq.Volume != "media" {
			return nil, tnv.E("open session", tnv.KindNotExist, "volume %s", rq.Volume)
		}
		info := protocol.SessionInfo{Vol: fakeVol, Epoch: 1, Slots: 16, KeepAliveMs: t.keepAlive, ExpiryMs: 60000, MinReplicas: t.minReplicas}
		if t.sessions[rq.Resume] != nil {
			info.Session, info.Resumed = rq.Resume, true
		} else {
			info.Session = t.nextSession
			t.nextSession++
			t.sessions[info.Session] = &fakeSession{slots: map[uint32]*fakeSlot{}}
		}
		return []any{&info}, nil
	case protocol.TypeKeepAlive:
		var rq protocol.KeepAlive
		if err := f.Decode(&rq); err != nil {
			return nil, err
		}
		if t.sessions[rq.Session] == nil {
			return nil, tnv.E("keepalive", tnv.KindSessionEnded, "")
		}
		rep := protocol.KeepAliveReply{Epoch: 1, Unlinked: slices.Clone(t.unlinked)}
		if rq.MapVersion != m.Version {
			rep.Map = m
		}
		return []any{&rep}, nil
	case protocol.TypeCloseSession:
		var rq protocol.CloseSession
		err := f.Decode(&rq)
		delete(t.sessions, rq.Session)
		return nil, err
	case protocol.TypeGetMap:
		return []any{&protocol.GetMapReply{Map: m}}, nil
	case protocol.TypeOwner:
		return []any{&protocol.OwnerReply{Vol: fakeVol, Epoch: 1, Here: true}}, nil
	case protocol.TypeAlive:
		return t.alive(f)
	}
	var head protocol.Head
	if err := f.Decode(&head); err != nil {
		return nil, err
	}
	s := t.sessions[head.Session]
	if s == nil {
		return nil, tnv.E("request", tnv.KindSessionEnded, "session %d", head.Session)
	}
	if f.Type < protocol.TypeCreate {
		values, err := t.query(f, &head)
		return unleased(values), err
	}
	sl := s.slots[head.Slot]
	if sl == nil {
		sl = &fakeSlot{}
		s.slots[head.Slot] = sl
	}
	switch head.Seq {
	case sl.seq:
		return unleased(sl.reply), sl.err
	case sl.seq + 1:
		t.executed[f.Type]++
		sl.reply, sl.err = t.mutate(f, &head, m)
		sl.seq++
		return unleased(sl.reply), sl.err
	}
	t.f.t.Errorf("slot %d: seq %d after %d", head.Slot, head.Seq, sl.seq)
	return nil, tnv.E("request", tnv.KindProtocol, "seq")
}

// unleased makes an answer of its values: nothing is leased with it.
func unleased(values []any) []any {
	if len(values) == 0 {
		values = []any{&nothing{}}
	}
	return []any{values[0], &protocol.Leased{}}
}

func (t *fakeTracker) file(ino tnv.Ino) (*fakeFile, error) {
	if f := t.files[ino]; f != nil && !slices.Contains(t.released, ino) {
		return f, nil
	}
	return nil, tnv.E("inode", tnv.KindStale, "%d", ino)
}

func (t *fakeTracker) query(f *protocol.Frame, head *protocol.Head) ([]any, error) {
	switch f.Type {
	case protocol.TypeReleased:
		var rq protocol.Released
		err := f.Decode(head, &rq)
		t.released = append(t.released, rq.Inos...)
		t.unlinked = slices.DeleteFunc(t.unlinked, func(i tnv.Ino) bool { return slices.Contains(rq.Inos, i) })
		return nil, err
	case protocol.TypeGetAttr:
		var rq protocol.GetAttr
		if err := f.Decode(head, &rq); err != nil {
			return nil, err
		}
		ff, err := t.file(rq.Ino)
		if err != nil {
			return nil, err
		}
		return []any{&protocol.AttrReply{Attr: ff.attr}}, nil
	case protocol.TypeResolve:
		var rq protocol.Resolve
		if err := f.Decode(head, &rq); err != nil {
			return nil, err
		}
		ino, ok := t.names[strings.Trim(rq.Path, "/")]
		if !ok {
			return nil, tnv.E("resolve", tnv.KindNotExist, "%s", rq.Path)
		}
		return []any{&protocol.ResolveReply{Attr: t.files[ino].attr, Parent: tnv.RootIno}}, nil
	case protocol.TypeSeek:
		return t.seek(f, head)
	case protocol.TypeExtents:
		var rq protocol.Extents
		if err := f.Decode(head, &rq); err != nil {
			return nil, err
		}
		ff, err := t.file(rq.Ino)
		if err != nil {
			return nil, err
		}
		rep := protocol.ExtentsReply{Attr: ff.attr}
		if rq.IfData != 0 && rq.IfData == ff.attr.Data {
			rep.Same = true
			return []any{&rep}, nil
		}
		for i := range uint64(rq.Count) {
			rep.Chunks = append(rep.Chunks, ff.chunk(rq.First+i))
		}
		return []any{&rep}, nil
	}
	return nil, tnv.E("request", tnv.KindNotSupported, "type %#x", uint16(f.Type))
}

// chunk lays a chunk's extents over each other.
func (ff *fakeFile) chunk(n uint64) []tnv.Extent {
	var l []tnv.Extent
	for _, x := range ff.extents {
		if uint64(x.off/tnv.ChunkSize) != n {
			continue
		}
		var out []tnv.Extent
		for _, o := range l {
			if o.Off < x.e.Off {
				left := o
				left.Len = min(o.Len, x.e.Off-o.Off)
				out = append(out, left)
			}
			if o.End() > x.e.End() {
				right := o
				d := max(o.Off, x.e.End()) - o.Off
				right.Off, right.BlockOff, right.Len = o.Off+d, o.BlockOff+d, o.Len-d
				out = append(out, right)
			}
		}
		l = append(out, x.e)
	}
	slices.SortFunc(l, func(a, b tnv.Extent) int { return int(int64(a.Off) - int64(b.Off)) })
	return l
}

func (t *fakeTracker) mutate(f *protocol.Frame, head *protocol.Head, m *tnv.Map) ([]any, error) {
	t.version++
	switch f.Type {
	case protocol.TypeGrant:
		var rq protocol.Grant
		if err := f.Decode(head, &rq); err != nil {
			return nil, err
		}
		rep := protocol.GrantReply{First: t.nextBlock, Count: rq.Count}
		for range rq.Count {
			t.blocks[t.nextBlock] = head.Session
			t.nextBlock++
		}
		return []any{&rep}, nil
	case protocol.TypeCreate:
		var rq protocol.Create
		if err := f.Decode(head, &rq); err != nil {
			return nil, err
		}
		if ino, ok := t.names[rq.Name]; ok {
			if rq.Excl {
				return nil, tnv.E("create", tnv.KindExist, "%s", rq.Name)
			}
			return []any{&protocol.CreateReply{Attr: t.files[ino].attr}}, nil
		}
		t.nextIno++
		now := time.Now().UnixNano()
		ff := &fakeFile{attr: tnv.Attr{Ino: t.nextIno, Mode: tnv.TypeRegular.Mode() | rq.Mode, Nlink: 1, Mtime: now, Version: t.version, Data: t.version}}
		t.files[t.nextIno], t.names[rq.Name] = ff, t.nextIno
		return []any{&protocol.CreateReply{Attr: ff.attr, Created: true}}, nil
	case protocol.TypeUnlink:
		var rq protocol.Unlink
		if err := f.Decode(head, &rq); err != nil {
			return nil, err
		}
		ino, ok := t.names[rq.Name]
		if !ok {
			return nil, tnv.E("unlink", tnv.KindNotExist, "%s", rq.Name)
		}
		delete(t.names, rq.Name)
		ff := t.files[ino]
		ff.attr.Nlink, ff.attr.Version = 0, t.version
		t.unlinked = append(t.unlinked, ino)
		return []any{&protocol.UnlinkReply{Unlinked: ino, Attr: ff.attr}}, nil
	case protocol.TypeSetAttr:
		var rq protocol.SetAttr
		if err := f.Decode(head, &rq); err != nil {
			return nil, err
		}
		ff, err := t.file(rq.Ino)
		if err != nil {
			return nil, err
		}
		if rq.Mask&protocol.SetMtime != 0 {
			ff.attr.Mtime = rq.Mtime
		}
		if rq.Mask&protocol.SetSize != 0 {
			ff.truncate(int64(rq.Size))
			ff.attr.Data = t.version
		}
		ff.attr.Version = t.version
		return []any{&protocol.AttrReply{Attr: ff.attr}}, nil
	case protocol.TypeCommit:
		var rq protocol.Commit
		if err := f.Decode(head, &rq); err != nil {
			return nil, err
		}
		return t.commit(&rq, head.Session, m)
	case protocol.TypeCopyRange:
		return t.copyRange(f, head)
	case protocol.TypeSyncFS:
		return nil, nil
	}
	return nil, tnv.E("request", tnv.KindNotSupported, "type %#x", uint16(f.Type))
}

func (ff *fakeFile) truncate(size int64) {
	var l []fileExtent
	for _, x := range ff.extents {
		if n := size - x.off; n > 0 {
			x.e.Len = uint32(min(int64(x.e.Len), n))
			l = append(l, x)
		}
	}
	ff.extents, ff.attr.Size = l, uint64(size)
}

func (t *fakeTracker) commit(rq *protocol.Commit, s tnv.SessionID, m *tnv.Map) ([]any, error) {
	ff, err := t.file(rq.Ino)
	if err != nil {
		return nil, err
	}
	t.commits = append(t.commits, *rq)
	for _, ch := range rq.Chunks {
		for _, e := range ch.Extents {
			if t.blocks[e.Block] != s {
				return nil, tnv.E("commit", tnv.KindInvalid, "block %d was not granted to session %d, or is used", e.Block, s)
			}
			i := slices.IndexFunc(rq.Holders, func(h protocol.BlockHolders) bool { return h.Block == e.Block })
			if i < 0 {
				return nil, tnv.E("commit", tnv.KindInvalid, "no holders")
			}
			have, alive := uint32(0), uint32(0)
			for _, n := range m.Group(e.Group).Nodes {
				if n.State != tnv.NodeLost {
					alive++
				}
				if slices.Contains(rq.Holders[i].Holders, tnv.Holder{Node: n.ID, Boot: n.Boot}) {
					have++
				}
			}
			if have == 0 || have < min(alive, t.minReplicas) {
				return nil, tnv.E("commit", tnv.KindTooFewHolders, "%d of %d", have, alive)
			}
		}
	}
	for _, ch := range rq.Chunks {
		for _, e := range ch.Extents {
			delete(t.blocks, e.Block)
			ff.extents = append(ff.extents, fileExtent{int64(ch.Chunk)*tnv.ChunkSize + int64(e.Off), e})
		}
	}
	if len(rq.Chunks) > 0 {
		ff.attr.Size = max(ff.attr.Size, rq.Size)
		ff.attr.Mtime = rq.Mtime
		ff.attr.Version, ff.attr.Data = t.version, t.version
	}
	if rq.Sync {
		ff.synced = ff.attr.Version
	}
	return []any{&protocol.AttrReply{Attr: ff.attr}}, nil
}

// endSessions forgets every session, as if it had expired.
func (t *fakeTracker) endSessions() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.sessions)
	clear(t.blocks)
}

func (t *fakeTracker) counts(m *map[protocol.Type]int) map[protocol.Type]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(*m)
}
