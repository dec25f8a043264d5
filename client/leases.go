package client

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/clock"
	"github.com/tnvfs/tnv/protocol"
)

// leaseCache is what this client may answer without asking the owner, because it
// is leased: attributes by inode, and names by directory, those that are not
// there included.
//
// Invariants:
//   - Nothing is believed behind until, which counts from the sending of the
//     keep-alive that renewed it (K1), nor of another generation than gen.
//   - A reply's lease counts only if neither a recall of its key nor a new
//     generation came since the request was sent (K4): see mark.
//   - What a mutation of this client's own may change is not believed from before
//     it is sent until its answer is taken in: another client may see its effect
//     before this one has the answer.
//   - Newer states win: attributes by Attr.Version, names by the owner's sequence.
//
// mu is a leaf, and is held for memory work only.
type leaseCache struct {
	watcher atomic.Pointer[Watcher]
	max     int // attributes, and names, at the most
	ttl     time.Duration

	mu       sync.Mutex
	conn     *protocol.Client // on which gen was named
	vol      tnv.VolumeID
	gen      uint32
	until    time.Duration
	tick     uint64                       // counts recalls and new generations
	recalled map[protocol.LeaseKey]uint64 // the tick of a key's last recall
	floor    uint64                       // recalls up to this tick may be missing in recalled
	attrs    map[tnv.Ino]tnv.Attr         // leased
	dirs     map[tnv.Ino]*leasedDir       // whose names are leased
	names    int                          // in dirs
	wanted   map[tnv.Ino]rivalry          // inodes whose attributes were recalled, or not leased though asked for
	flying   map[protocol.LeaseKey]int    // touched by mutations under way
	flyNames map[nameKey]int              // likewise
	hints    map[nameKey]tnv.Ino          // what names stood for when last heard of; nothing is leased
}

// Watcher keeps, above a client, what it was told: the kernel's caches, most of all.
type Watcher interface {
	// Invalidate returns when nothing that is named is believed any more. It is
	// called before a mutation of the client's own that changes attributes, on any
	// goroutine; it must not wait for another one.
	Invalidate(keys []protocol.LeaseKey)
	// Recalled is Invalidate when attributes or names are recalled since somebody else
	// is to change them.
	Recalled(keys []protocol.LeaseKey)
	// InvalidateAll is Invalidate of everything.
	InvalidateAll()
}

type nameKey struct {
	dir  tnv.Ino
	name string
}

// leasedDir is what is known of a directory's names.
type leasedDir struct {
	names map[string]leasedName
	seq   tnv.BatchSeq // of this client's last mutation: older listings do not count
	sole  bool         // nobody else has them, or looks at them unasked
	all   bool         // a name that is not in names is not there
	list  []tnv.Dirent // all entries, by cookie; nil: not known
	next  *listing     // being read
}

type leasedName struct {
	ino tnv.Ino // 0: there is no such name
	seq tnv.BatchSeq
}

// listing is a directory that is being listed from its start.
type listing struct {
	cookie  uint64 // of the last entry
	entries []tnv.Dirent
}

const (
	attrBytes    = 4 << 10 // of the memory budget, for each attribute that may be kept
	minLeases    = 1 << 12
	maxLeases    = 1 << 17
	maxRecalled  = 1 << 13
	maxHints     = 1 << 12
	maxListed    = 1 << 16 // entries of the longest directory that is kept as a list
	namesPerAttr = 2
)

func newLeaseCache(memory int64) *leaseCache {
	return &leaseCache{max: int(min(max(memory/attrBytes, minLeases), maxLeases)),
		recalled: map[protocol.LeaseKey]uint64{}, attrs: map[tnv.Ino]tnv.Attr{}, dirs: map[tnv.Ino]*leasedDir{},
		wanted: map[tnv.Ino]rivalry{}, flying: map[protocol.LeaseKey]int{}, flyNames: map[nameKey]int{}, hints: map[nameKey]tnv.Ino{}}
}

// Watch has w told of what it must forget. It is called once, before anything is
// asked on w's behalf.
func (c *Client) Watch(w Watcher) { c.leases.watcher.Store(&w) }

func attrKey(ino tnv.Ino) protocol.LeaseKey {
	return protocol.LeaseKey{Ino: ino, Class: protocol.LeaseAttr}
}

func namesKey(dir tnv.Ino) protocol.LeaseKey {
	return protocol.LeaseKey{Ino: dir, Class: protocol.LeaseNames}
}

// mark is a moment before a request was sent.
type mark struct {
	gen  uint32
	tick uint64
}

func (l *leaseCache) mark() mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return mark{l.gen, l.tick}
}

// untouchedLocked tells whether a key was not recalled since a moment.
func (l *leaseCache) untouchedLocked(m mark, key protocol.LeaseKey) bool {
	return m.gen == l.gen && m.tick >= l.floor && l.recalled[key] <= m.tick
}

func (l *leaseCache) validLocked() bool { return clock.Boot() < l.until }

// attr gives the attributes of an inode, if they are leased.
func (l *leaseCache) attr(ino tnv.Ino) (tnv.Attr, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.attrLocked(ino)
}

func (l *leaseCache) attrLocked(ino tnv.Ino) (tnv.Attr, bool) {
	a, ok := l.attrs[ino]
	if !ok || l.flying[attrKey(ino)] > 0 || !l.validLocked() {
		return tnv.Attr{}, false
	}
	return a, true
}

// left is how long attributes of a version may still be believed.
func (l *leaseCache) left(ino tnv.Ino, version uint64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a, ok := l.attrLocked(ino); !ok || a.Version != version {
		return 0
	}
	return max(0, l.until-clock.Boot())
}

// lookup gives what a name stands for, if that is leased: 0 if there is no such name.
func (l *leaseCache) lookup(dir tnv.Ino, name string) (ino tnv.Ino, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.dirs[dir]
	if d == nil || l.flyNames[nameKey{dir, name}] > 0 || !l.validLocked() {
		return 0, false
	}
	n, ok := d.names[name]
	return n.ino, ok || d.all
}

// list gives a part of a directory's entries, if all are leased.
func (l *leaseCache) list(rq *protocol.ReadDir) (rep protocol.ReadDirReply, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.dirs[rq.Ino]
	if d == nil || d.list == nil || !l.validLocked() {
		return rep, false
	}
	if rep.Dir, known = l.attrLocked(rq.Ino); !known {
		return rep, false
	}
	for k := range l.flyNames {
		if k.dir == rq.Ino {
			return rep, false
		}
	}
	rep.Entries, rep.End = page(d.list, rq.Cookie, int(max(rq.Limit, 1)))
	return rep, true
}

// page gives the entries behind a cookie: at most n, and a few more where
// cookies collide.
func page(list []tnv.Dirent, cookie uint64, n int) (entries []tnv.Dirent, end bool) {
	from := behind(list, cookie)
	to := min(from+n, len(list))
	for to > from && to < len(list) && list[to].Cookie == list[to-1].Cookie {
		to++
	}
	return list[from:to:to], to == len(list)
}

// behind is the index of the first entry behind a cookie.
func behind(list []tnv.Dirent, cookie uint64) int {
	lo, hi := 0, len(list)
	for lo < hi {
		if mid := (lo + hi) / 2; list[mid].Cookie <= cookie {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// told is what came with the answer to a request.
type told struct {
	mark   mark
	leased protocol.Leased
}

// granted tells whether an answer leased a key, and the lease still counts.
func (l *leaseCache) grantedLocked(t *told, key protocol.LeaseKey) bool {
	if t.leased.Gen != l.gen || !l.untouchedLocked(t.mark, key) {
		return false
	}
	for _, k := range t.leased.Keys {
		if k == key || k.Class == protocol.LeaseSole && key.Class == protocol.LeaseNames && k.Ino == key.Ino {
			return true
		}
	}
	return false
}

// namesLeft is how long names in a directory may still be believed by whoever is
// above, because nobody else looks at them: this client's own mutations are told
// of to nobody beforehand.
func (l *leaseCache) namesLeft(dir tnv.Ino) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := l.dirs[dir]; d == nil || !d.sole {
		return 0
	}
	return max(0, l.until-clock.Boot())
}

// takeAttr takes attributes in that an answer brought.
func (l *leaseCache) takeAttr(t *told, a tnv.Attr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takeAttrLocked(t, a)
}

func (l *leaseCache) takeAttrLocked(t *told, a tnv.Attr) {
	if a.Ino == 0 {
		return
	}
	was, held := l.attrs[a.Ino]
	if held && was.Version > a.Version {
		return
	}
	granted := l.grantedLocked(t, attrKey(a.Ino))
	if !granted && t.leased.Gen == l.gen && l.untouchedLocked(t.mark, attrKey(a.Ino)) && len(l.attrs) < minLeases { // the owner has room for more
		l.wantedLocked(a.Ino, 0)
	}
	if !granted && (!held || !l.untouchedLocked(t.mark, attrKey(a.Ino))) {
		delete(l.attrs, a.Ino)
		return
	}
	for !held && len(l.attrs) >= l.max {
		for ino := range l.attrs { // any one
			l.forgetLocked([]protocol.LeaseKey{attrKey(ino)})
			break
		}
	}
	l.attrs[a.Ino] = a
}

// wantedFor is how long an inode counts as one that others change.
const wantedFor = 5 * time.Second

// rivalry is that others change an inode.
type rivalry struct {
	at   time.Duration
	data uint64 // Attr.Data that was leased then; 0: none was
}

// wantedLocked notes that others change an inode.
func (l *leaseCache) wantedLocked(ino tnv.Ino, data uint64) {
	if len(l.wanted) >= maxHints {
		clear(l.wanted)
	}
	l.wanted[ino] = rivalry{clock.Boot(), data}
}

// contested tells whether others have changed an inode's content a moment ago. If it
// is leased again, and the content is that of before, they changed something else.
func (l *leaseCache) contested(ino tnv.Ino) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w, known := l.wanted[ino]
	a, leased := l.attrLocked(ino)
	if known && (clock.Boot()-w.at >= wantedFor || leased && w.data != 0 && a.Data == w.data) {
		delete(l.wanted, ino)
		known = false
	}
	return known
}

// takeAttrs takes many in, of which all that the answer leased are in granted.
func (l *leaseCache) takeAttrs(t *told, attrs []tnv.Attr) {
	if len(attrs) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	granted := make(map[protocol.LeaseKey]bool, len(t.leased.Keys))
	for _, k := range t.leased.Keys {
		granted[k] = true
	}
	for _, a := range attrs {
		one := told{mark: t.mark, leased: protocol.Leased{Gen: t.leased.Gen}}
		if key := attrKey(a.Ino); granted[key] {
			one.leased.Keys = []protocol.LeaseKey{key}
		}
		l.takeAttrLocked(&one, a)
	}
}

// takeName takes in what a name stands for; 0: there is no such name.
func (l *leaseCache) takeName(t *told, dir tnv.Ino, name string, ino tnv.Ino) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ino != 0 {
		if len(l.hints) >= maxHints {
			clear(l.hints)
		}
		l.hints[nameKey{dir, name}] = ino
	}
	if d := l.dirFor(t, dir); d != nil {
		l.setNameLocked(d, name, leasedName{ino, t.leased.Seq})
	}
}

// dirFor is the directory whose names an answer leased, or that were leased
// before; nil if they are not.
func (l *leaseCache) dirFor(t *told, dir tnv.Ino) *leasedDir {
	d := l.dirs[dir]
	switch {
	case d != nil && l.untouchedLocked(t.mark, namesKey(dir)):
	case l.grantedLocked(t, namesKey(dir)):
		d = &leasedDir{names: map[string]leasedName{}}
		l.dirs[dir] = d
	default:
		return nil
	}
	sole := protocol.LeaseKey{Ino: dir, Class: protocol.LeaseSole}
	d.sole = d.sole || l.grantedLocked(t, namesKey(dir)) && slices.Contains(t.leased.Keys, sole)
	return d
}

func (l *leaseCache) setNameLocked(d *leasedDir, name string, n leasedName) {
	was, held := d.names[name]
	if held && was.seq > n.seq {
		return
	}
	if !held {
		l.names++
		for dir, other := range l.dirs { // any other one
			if l.names <= namesPerAttr*l.max {
				break
			}
			if other != d {
				l.forgetLocked([]protocol.LeaseKey{namesKey(dir)})
			}
		}
	}
	d.names[name] = n
}

func (l *leaseCache) dropDirLocked(dir tnv.Ino) {
	if d := l.dirs[dir]; d != nil {
		l.names -= len(d.names)
		delete(l.dirs, dir)
	}
}

// takePage takes a page of a listing in. When all pages from the start to the
// end have come under one lease, the directory is known as a whole.
func (l *leaseCache) takePage(t *told, rq *protocol.ReadDir, rep *protocol.ReadDirReply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takeAttrLocked(t, rep.Dir)
	d := l.dirFor(t, rq.Ino)
	if d == nil || d.list != nil {
		return
	}
	if t.leased.Seq < d.seq {
		d.next = nil
		return
	}
	if rq.Cookie < tnv.FirstCookie {
		d.next = &listing{}
	}
	if d.next == nil || d.next.cookie != rq.Cookie && rq.Cookie >= tnv.FirstCookie || len(d.next.entries)+len(rep.Entries) > maxListed {
		d.next = nil
		return
	}
	d.next.entries = append(d.next.entries, rep.Entries...)
	if n := len(d.next.entries); n > 0 {
		d.next.cookie = d.next.entries[n-1].Cookie
	}
	for _, e := range rep.Entries {
		l.setNameLocked(d, e.Name, leasedName{e.Ino, t.leased.Seq})
	}
	if rep.End {
		d.all, d.list, d.next = true, d.next.entries, nil
		if d.list == nil {
			d.list = []tnv.Dirent{}
		}
	}
}

// takeEmpty notes a directory that was made just now.
func (l *leaseCache) takeEmpty(t *told, dir tnv.Ino) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := l.dirFor(t, dir); d != nil && len(d.names) == 0 {
		d.all, d.list = true, []tnv.Dirent{}
	}
}
