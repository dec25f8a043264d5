package fuse

import (
	"context"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
)

// What the kernel may keep, and how it is made to drop it, is decided in this
// file and in known.go. Names are kept for no time.

// trustFor is how long behind a GETATTR by a handle its READs are taken to belong
// to the same read(2). A read that takes longer asks the owner once more.
const trustFor = 20 * time.Millisecond

// pages knows of each regular file that the kernel knows which content the
// kernel's pages are of, and which size it surely has heard of.
//
// Two things bind here, by what the kernel does (fs/fuse):
//
//   - A notification makes the kernel refuse the reply to every GETATTR and LOOKUP
//     that was asked before it (attr_version), and a READ that was asked before it
//     and ends short does not correct the size any more: what lies beyond is zeros.
//     read(2) does not look at what it was refused, and goes by the size it had.
//   - With AUTO_INVAL_DATA the kernel drops a file's pages, in whoever asked and
//     before that one reads, when a reply brings another size or mtime than before.
//
// So whoever is about to read is never told of a new content by a notification, but
// by the reply to the GETATTR that precedes each read(2), with an mtime that is
// wrong by some nanoseconds (wrongMtime): by other ones in each reply, so that
// each reader drops the pages itself. That is needed, since
//
//   - the content may change and neither size nor mtime do (rsync, cp -p elsewhere);
//   - the new mtime may come in a reply to SETATTR, which the kernel just takes over;
//   - replies overtake each other;
//   - the kernel stores the new mtime, and drops the pages then: whoever reads in
//     between by the same mtime finds nothing to wait for.
//
// Whenever Attr.Data changed, be it by this mount's own writing (behind which
// somebody else's may hide), the pages are behind, and no attributes are to be
// believed, so that each read asks. They are not behind any more when a reader has
// been told for settling, or by a notification: which is sent only when no handle is
// open (an OPEN waits for its end), or nobody has read by one for settling, since
// pages that are mapped are looked at without a request.
//
// And a reply that may be called back by a notification, since it is to be believed
// for some time, is never the first that brings a content: it comes settling later,
// when the first has reached the kernel.
//
// READs that arrive later are answered with content at least as new as the
// attributes (the promise of File). So pages are never older than what inode.kept
// says; they may be newer.
type pages struct {
	mu     sync.Mutex
	inodes map[tnv.Ino]*inode
}

// settling is how long a reply to the kernel takes at most until whoever waits for
// it has taken it in.
const settling = 50 * time.Millisecond

// inode is the state of one regular file.
type inode struct {
	lookups uint64 // as the kernel counts them; at 0 it has forgotten the file
	handles int    // open
	writers int    // handles open for writing
	data    uint64 // the newest Attr.Data seen
	kept    uint64 // all pages are of this Attr.Data; 0: not known
	size    uint64 // the newest that the kernel was told, or wrote

	behind bool      // pages may be older than data
	since  time.Time // when they came to be
	asked  time.Time // when a reader was first told so
	last   time.Time // when a reader last asked, or read
	off    uint32    // by how many nanoseconds it was told a wrong mtime

	told   uint64    // the newest Attr.Data that a reply carried
	toldAt time.Time // when it first did; zero: the kernel has learnt the inode by it

	dropping chan struct{} // while the kernel is being told to drop the pages: closed when that is over
	cut      cut
	shortAt  time.Time    // when the kernel was last told that the file is shorter than it knew
	reads    *readGroup   // READs under way that no drain waits for
	drained  []*readGroup // those that one does

	version uint64 // the newest Attr.Version seen
	noCaps  uint64 // no security.capability is set at this Attr.Version; 0: not known
}

func (p *pages) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.inodes)
}

// entered notes attributes that go to the kernel with one more reference to
// the inode: see told.
func (p *pages) entered(a *tnv.Attr) (drop, firm bool) {
	if !a.IsRegular() {
		return false, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[a.Ino]
	if in == nil { // not in the kernel: it has no pages
		in = &inode{data: a.Data, told: a.Data, size: a.Size, version: a.Version}
		p.inodes[a.Ino] = in
	}
	in.lookups++
	return in.tell(a, time.Now())
}

// tells notes attributes that go to the kernel. drop: the pages are to be dropped
// by a notification. firm: the kernel has the content and the size that the
// attributes tell of, and may believe them.
func (p *pages) tells(a *tnv.Attr) (drop, firm bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[a.Ino]
	if in == nil {
		return false, !a.IsRegular()
	}
	return in.tell(a, time.Now())
}

func (in *inode) tell(a *tnv.Attr, now time.Time) (drop, firm bool) {
	in.saw(a)
	if a.Data > in.told {
		in.told, in.toldAt = a.Data, now
	}
	if a.Data >= in.told {
		in.size = a.Size
	}
	firm = !in.behind && a.Data == in.data && now.Sub(in.toldAt) >= settling
	return in.drop(), firm
}

// drop begins to drop the pages, if that is to be, and hurts no reader.
func (in *inode) drop() bool {
	if !in.behind || in.handles > 0 || in.dropping != nil {
		return false
	}
	in.dropping = make(chan struct{})
	return true
}

// saw takes a version in.
func (in *inode) saw(a *tnv.Attr) {
	in.version = max(in.version, a.Version)
	if a.Data <= in.data { // not new, or a reply that was overtaken
		return
	}
	in.data, in.kept = a.Data, 0
	if !in.behind {
		in.since = time.Now()
	}
	in.behind, in.asked = true, time.Time{}
}

// asked notes that a READ arrived.
func (p *pages) asked(ino tnv.Ino, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if in := p.inodes[ino]; in != nil {
		in.last = at
	}
}

// sees takes a version in that somebody else heard of than the kernel.
func (p *pages) sees(a *tnv.Attr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if in := p.inodes[a.Ino]; in != nil {
		in.saw(a)
	}
}

// opened tells whether a handle is open.
func (p *pages) opened(ino tnv.Ino) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[ino]
	return in != nil && in.handles > 0
}

// quiet tells whether the pages are behind and nobody has asked for long, so that a
// notification hurts none: it is to be sent. It is in any case once they have been
// behind for refreshEvery: who reads by read(2) has caught up long before.
func (p *pages) quiet(ino tnv.Ino) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[ino]
	if in == nil || !in.behind || in.dropping != nil || time.Since(in.last) < settling && time.Since(in.since) < refreshEvery {
		return false
	}
	in.dropping = make(chan struct{})
	return true
}

// dropped ends what drop or quiet began: the kernel has dropped, if it could, the
// pages that it had when version data had been seen. again: there is news since,
// and it is to be told once more.
func (p *pages) dropped(ino tnv.Ino, data uint64, could bool) (again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[ino]
	if in == nil {
		return false
	}
	in.droppedLocked()
	if !could {
		return false
	}
	if in.data == data {
		in.caughtUp()
	}
	return in.drop()
}

func (in *inode) droppedLocked() {
	if in.dropping != nil {
		close(in.dropping)
		in.dropping = nil
	}
}

// caughtUp notes that no page is older than data.
func (in *inode) caughtUp() {
	in.behind, in.asked = false, time.Time{}
	if in.writers == 0 {
		in.kept = in.data
	}
}

// seen is the newest Attr.Data seen.
func (p *pages) seen(ino tnv.Ino) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if in := p.inodes[ino]; in != nil {
		return in.data
	}
	return 0
}

// wrongMtime is the mtime's nanoseconds for a GETATTR that names a handle: the
// kernel asks so for itself only, before it reads or seeks, and shows the answer
// to nobody. wrong: it may differ from the true ones, or from what the kernel was
// told last, and is not to be believed.
func (p *pages) wrongMtime(a *tnv.Attr, nsec uint32) (_ uint32, wrong bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[a.Ino]
	if in == nil {
		return nsec, false
	}
	now := time.Now()
	in.last = now
	if !in.behind {
		return nsec, false
	}
	if in.asked.IsZero() {
		in.asked = now
	}
	if a.Data == in.data && now.Sub(in.asked) >= settling {
		in.caughtUp()
		return nsec, true
	}
	in.off = in.off%1e6 + 1
	return (nsec + in.off) % 1e9, true
}

// maxOpening is how long an OPEN waits for pages to be dropped.
const maxOpening = 200 * time.Millisecond

// open notes that a handle is opened. keep: the pages are of this version
// (FOPEN_KEEP_CACHE); else the kernel drops them all when it gets the reply. A handle
// that is direct leaves them alone.
//
// While a handle is open for writing the pages' version is not known, since
// this mount's own unflushed data is among them and may fail to be committed.
func (p *pages) open(ctx context.Context, a *tnv.Attr, writable, direct bool) (keep bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[a.Ino]
	for most := time.Now().Add(maxOpening); in != nil && in.dropping != nil && in.handles == 0 && time.Now().Before(most); in = p.inodes[a.Ino] {
		dropping := in.dropping
		p.mu.Unlock()
		wait(ctx, dropping, time.Until(most))
		p.mu.Lock()
	}
	if in == nil {
		return false
	}
	in.handles++
	in.saw(a)
	keep = in.kept != 0 && in.kept == a.Data && in.writers == 0 && !direct
	if writable {
		in.writers++
	}
	switch {
	case in.writers > 0:
		in.kept = 0
	case in.data == a.Data && !in.behind && !direct:
		in.kept = a.Data
	}
	return keep
}

// wait returns when a channel is closed, or some time is over.
func wait(ctx context.Context, c <-chan struct{}, most time.Duration) {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-c:
	case <-t.C:
	case <-ctx.Done():
	}
}

// closed notes that a handle is not open any more. drop: see tells.
func (p *pages) closed(ino tnv.Ino, writable bool) (drop bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[ino]
	if in == nil {
		return false
	}
	in.handles = max(0, in.handles-1)
	if writable {
		in.writers = max(0, in.writers-1)
	}
	return in.drop()
}

// forget takes references back.
func (p *pages) forget(ino tnv.Ino, n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[ino]
	if in == nil {
		return
	}
	if in.lookups -= min(n, in.lookups); in.lookups == 0 {
		in.droppedLocked()
		delete(p.inodes, ino)
	}
}

// regular tells whether the kernel knows the inode as a regular file.
func (p *pages) regular(ino tnv.Ino) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inodes[ino] != nil
}

// The kernel asks for security.capability before it writes to a file whose
// attributes were refreshed since. What is known of it holds as long as the
// newest attributes here have the same version: just as long as the kernel
// itself would remember the answer (S_NOSEC).

// capsVersion is the version to give to noCaps when the answer is there, and
// whether it is known already that there is none.
func (p *pages) capsVersion(ino tnv.Ino) (version uint64, none bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[ino]
	if in == nil {
		return 0, false
	}
	return in.version, in.noCaps != 0 && in.noCaps == in.version
}

// noCaps notes that at the version there was no security.capability.
func (p *pages) noCaps(ino tnv.Ino, version uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if in := p.inodes[ino]; in != nil && in.version == version {
		in.noCaps = version
	}
}

// capsChanged notes that it is being set: nothing is known until newer attributes come.
func (p *pages) capsChanged(ino tnv.Ino) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if in := p.inodes[ino]; in != nil {
		in.noCaps = 0
		in.version++ // answers under way count for nothing
	}
}
