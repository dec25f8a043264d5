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
// kernel's pages are of.
//
// With AUTO_INVAL_DATA the kernel drops a file's pages when a reply to LOOKUP,
// GETATTR or STATX brings another size or mtime than the one before. That is not
// enough:
//
//   - the content changed and neither size nor mtime did (rsync, cp -p elsewhere);
//   - the new mtime came in a reply to SETATTR, which the kernel just takes over;
//   - replies overtook each other, or a reply was refused since its attributes
//     were recalled while it was on its way (known.go);
//   - the kernel stores the new mtime, and drops the pages then: whoever reads in
//     between finds nothing to wait for.
//
// So whenever Attr.Data changed, be it by this mount's own writing (behind which
// somebody else's may hide), the kernel is told to drop the pages, and the request
// that brought the news, as every other one for attributes, is answered when that is
// done: before the kernel hears of the new version nothing older than it is left. Dropping waits
// for READs under way; no READ waits for attributes. A wait is bounded, since
// a READ may take as long as the storage daemons do: after maxDropping the reply
// goes, with an mtime that is wrong by some nanoseconds if the kernel asked before
// it reads (other ones for each version; the process does not see it, see
// mtimeForRead), so that the kernel itself drops the pages before it reads.
//
// READs that arrive later are answered with content at least as new as the
// attributes (the promise of File). So pages are never older than what inode.kept
// says; they may be newer.
type pages struct {
	mu     sync.Mutex
	inodes map[tnv.Ino]*inode
}

// inode is the state of one regular file.
type inode struct {
	lookups uint64 // as the kernel counts them; at 0 it has forgotten the file
	writers int    // handles open for writing
	data    uint64 // the newest Attr.Data seen
	kept    uint64 // all pages are of this Attr.Data; 0: not known
	stale   bool   // pages may be older than data, and the kernel is being told to drop them
	off     uint32 // by how many nanoseconds the mtime is wrong while they are stale

	fresh chan struct{} // while stale: closed when that is over

	version uint64 // the newest Attr.Version seen
	noCaps  uint64 // no security.capability is set at this Attr.Version; 0: not known
}

func (p *pages) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.inodes)
}

// entered notes attributes that go to the kernel with one more reference to
// the inode. It tells whether the pages are to be dropped.
func (p *pages) entered(a *tnv.Attr) (drop bool) {
	if !a.IsRegular() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[a.Ino]
	if in == nil { // not in the kernel: it has no pages
		in = &inode{data: a.Data, version: a.Version}
		p.inodes[a.Ino] = in
	}
	in.lookups++
	return in.saw(a)
}

// told notes attributes that go to the kernel. It tells whether the pages are to
// be dropped.
func (p *pages) told(a *tnv.Attr) (drop bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[a.Ino]
	return in != nil && in.saw(a)
}

// saw takes a version in.
func (in *inode) saw(a *tnv.Attr) (drop bool) {
	in.version = max(in.version, a.Version)
	if a.Data <= in.data { // not new, or a reply that was overtaken
		return false
	}
	if !in.stale {
		in.stale, in.fresh = true, make(chan struct{})
	}
	in.data, in.kept = a.Data, 0
	in.off = in.off%1000 + 1
	return true
}

// dropped notes that the kernel has dropped the pages that it had when version
// data had been seen.
func (p *pages) dropped(ino tnv.Ino, data uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if in := p.inodes[ino]; in != nil && in.data == data {
		in.freshLocked()
		if in.writers == 0 {
			in.kept = data
		}
	}
}

func (in *inode) freshLocked() {
	if in.stale {
		close(in.fresh)
		in.stale, in.fresh = false, nil
	}
}

// maxDropping is how long a reply with attributes waits for pages to be dropped.
const maxDropping = 200 * time.Millisecond

// settled waits until the kernel's pages are of the version that a reply tells of.
func (p *pages) settled(ctx context.Context, ino tnv.Ino) {
	p.mu.Lock()
	var fresh chan struct{}
	if in := p.inodes[ino]; in != nil {
		fresh = in.fresh
	}
	p.mu.Unlock()
	if fresh == nil {
		return
	}
	t := time.NewTimer(maxDropping)
	defer t.Stop()
	select {
	case <-fresh:
	case <-t.C:
	case <-ctx.Done():
	}
}

// unsettled tells whether pages may be older than attributes that are told: then
// the kernel must ask before each read.
func (p *pages) unsettled(ino tnv.Ino) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[ino]
	return in != nil && in.stale
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

// mtimeForRead is the mtime's nanoseconds for a GETATTR that names a handle:
// the kernel asks so for itself only, before it reads or seeks, and shows the
// answer to nobody.
func (p *pages) mtimeForRead(ino tnv.Ino, nsec uint32) uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if in := p.inodes[ino]; in != nil && in.stale {
		return (nsec + in.off) % 1e9
	}
	return nsec
}

// open notes that a handle is opened. keep: the pages are of this version
// (FOPEN_KEEP_CACHE); else the kernel drops them all when it gets the reply.
//
// While a handle is open for writing the pages' version is not known, since
// this mount's own unflushed data is among them and may fail to be committed.
// The kernel drops written pages anyway when it hears of their new mtime.
func (p *pages) open(a *tnv.Attr, writable bool) (keep, drop bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[a.Ino]
	if in == nil {
		return false, false
	}
	drop = in.saw(a)
	keep = in.kept != 0 && in.kept == a.Data && in.writers == 0 && !in.stale
	if writable {
		in.writers++
	}
	switch {
	case in.writers > 0:
		in.kept = 0
	case in.data == a.Data:
		in.kept = a.Data
	}
	return keep, drop
}

// closed notes that a handle that was open for writing is not any more.
func (p *pages) closed(ino tnv.Ino) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if in := p.inodes[ino]; in != nil && in.writers > 0 {
		in.writers--
	}
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
		in.freshLocked()
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
