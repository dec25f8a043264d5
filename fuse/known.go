package fuse

import (
	"context"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/clock"
	"github.com/tnvfs/tnv/protocol"
)

// maxTimeout is the longest that the kernel is ever told to believe attributes.
const maxTimeout = 3 * time.Second

// known is what the kernel knows of inodes: whether it has them, and until when it
// may believe attributes that it was told.
//
// Invariant: until is not over whenever a reply with a timeout is on its way to the
// kernel, or in force there. So where it is over, there is nothing to invalidate;
// and where it is not, a notification makes the kernel drop what it has, and refuse
// what is on its way: it compares the version of its attributes with that from
// before the request (attr_version in fs/fuse/inode.c). That it does for LOOKUP
// and GETATTR of inodes that it has; so no other reply carries a timeout, and
// LOOKUP's only where the kernel has proven, by naming the inode itself, that it
// has it (K4). A reply that is not on its way yet when its lease is recalled gets
// no timeout: so it is not refused, with the news of size and mtime that it brings.
type known struct {
	mu     sync.Mutex
	inodes map[tnv.Ino]*knownInode
}

type knownInode struct {
	lookups uint64 // as the kernel counts them; at 0 it has forgotten the inode
	proven  bool   // the kernel has named it in a request since it was learnt
	until   time.Duration
	recalls uint64 // how often it was not to be believed any more
	given   uint64 // how many replies got a timeout
}

// entered notes one more reference to an inode that goes to the kernel.
func (k *known) entered(ino tnv.Ino) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.inodes[ino]
	if n == nil {
		n = &knownInode{}
		k.inodes[ino] = n
	}
	n.lookups++
}

// forgot takes references back. An inode of which some are left may be in the
// middle of being learnt anew.
func (k *known) forgot(ino tnv.Ino, lookups uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.inodes[ino]
	if n == nil {
		return
	}
	n.proven = false
	if n.lookups -= min(lookups, n.lookups); n.lookups == 0 {
		delete(k.inodes, ino)
	}
}

// reply begins a reply that may get a timeout; by its request the kernel names
// the inode itself, or else does not. nil: it must get none.
func (k *known) reply(ino tnv.Ino, named bool) (n *knownInode, recalls uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n = k.inodes[ino]
	if n == nil && named { // the root, of which the kernel has a reference from the start
		n = &knownInode{lookups: 1}
		k.inodes[ino] = n
	}
	if n == nil || !named && !n.proven {
		return nil, 0
	}
	n.proven = true
	return n, n.recalls
}

// timeout gives a reply its timeout, at most d.
func (k *known) timeout(n *knownInode, recalls uint64, d time.Duration) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n.recalls != recalls {
		return 0
	}
	n.until = max(n.until, clock.Boot()+d)
	n.given++
	return d
}

// believed tells whether the kernel may believe attributes of an inode: then it is to
// be told not to, and that noted by unbelieved. Replies that are not on their way yet
// get no timeout.
func (k *known) believed(ino tnv.Ino) (live bool, given uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := k.inodes[ino]
	if n == nil {
		return false, 0
	}
	n.recalls++
	return clock.Boot() < n.until+slack, n.given
}

// unbelieved notes that the kernel was told, when so many replies had got a timeout.
// Until then whoever else has to tell it does so, too, and waits for that.
func (k *known) unbelieved(ino tnv.Ino, given uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := k.inodes[ino]; n != nil && n.given == given {
		n.until = 0
	}
}

// all are the inodes of which the kernel may believe attributes, or of which a reply
// may be on its way whose time ran out here; it is to be told of each.
func (k *known) all() map[tnv.Ino]uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := map[tnv.Ino]uint64{}
	for ino, n := range k.inodes {
		n.recalls++
		if n.until != 0 {
			all[ino] = n.given
		}
	}
	return all
}

func (k *known) len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.inodes)
}

// attrTime is how long the kernel may believe attributes that go to it in reply
// to a request that names the inode itself (GETATTR), or does not (LOOKUP): as
// long as they are leased. The kernel must have the content (pages.tells).
func (f *FS) attrTime(a *tnv.Attr, named bool) time.Duration {
	if f.stale > 0 {
		return f.stale
	}
	n, recalls := f.known.reply(a.Ino, named)
	if n == nil {
		return 0
	}
	d := min(f.b.AttrLease(a.Ino, a.Version), maxTimeout)
	if d == 0 {
		return 0
	}
	return f.known.timeout(n, recalls, d)
}

// Invalidate has the kernel drop what it believes of inodes that a mutation of
// this mount's own is to change (client.Watcher). The notification takes no lock
// that a request could hold: see fuse_reverse_inval_inode.
func (f *FS) Invalidate(keys []protocol.LeaseKey) { f.invalidate(keys, f.notify.attributes) }

// Recalled has the kernel drop what it believes of inodes that somebody else is to
// change (client.Watcher); and the pages of what is open, for mapped ones are
// looked at without a request. That waits for READs under way, which wait for no recall.
func (f *FS) Recalled(keys []protocol.LeaseKey) {
	f.invalidate(keys, func(node uint64) {
		if f.pages.opened(f.ino(node)) {
			f.notify.pages(node)
		} else {
			f.notify.attributes(node)
		}
	})
}

func (f *FS) invalidate(keys []protocol.LeaseKey, tell func(node uint64)) {
	if f.stale > 0 {
		return
	}
	var names time.Duration
	for _, key := range keys {
		if key.Class == protocol.LeaseNames {
			names = max(names, f.entries.recalled(key.Ino))
		}
	}
	f.entries.forget(names, false)
	for _, key := range keys {
		if key.Class == protocol.LeaseNames {
			continue
		}
		if live, given := f.known.believed(key.Ino); live {
			tell(f.node(key.Ino))
			f.pages.drain(key.Ino) // READs that were asked before it: what they wait for is not done before this returns
			f.known.unbelieved(key.Ino, given)
		}
	}
}

// InvalidateAll has the kernel drop all that it believes.
func (f *FS) InvalidateAll() {
	f.entries.forget(f.entries.recalledAll(), true)
	for ino, given := range f.known.all() {
		f.notify.attributes(f.node(ino))
		f.known.unbelieved(ino, given)
	}
}

// attributes tells the kernel to ask for an inode's attributes again, and returns
// when it has heard that.
func (n *notifier) attributes(node uint64) { n.now(node, -1, 0) }

// pages tells the kernel to drop a file's pages, too.
func (n *notifier) pages(node uint64) { n.now(node, 0, -1) }

func (n *notifier) now(node uint64, off, length int64) {
	n.mu.Lock()
	tell := n.tell
	n.mu.Unlock()
	if tell != nil {
		tell(node, off, length) // ENOENT: the kernel does not have it
	}
}

// Open files of which nothing is leased are looked at every refreshEvery, and
// what the kernel has not dropped by itself is dropped every dropEvery.
const (
	dropEvery    = 250 * time.Millisecond
	refreshEvery = 4 * dropEvery
)

// openFiles are the inodes that have a handle, with the newest version seen.
func (f *FS) openFiles() map[tnv.Ino]uint64 {
	open := map[tnv.Ino]uint64{}
	f.mu.RLock()
	for _, h := range f.handles {
		open[h.ino] = 0
	}
	f.mu.RUnlock()
	for ino := range open {
		open[ino], _ = f.pages.capsVersion(ino)
	}
	return open
}

// refresher looks at open files that others may have changed: pages that are
// mapped are read without a request, so nobody else would notice. It ends with
// the kernel's side.
func (f *FS) refresher() {
	defer f.watchers.Done()
	tick := time.NewTicker(dropEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-f.over:
			return
		case <-tick.C:
		}
		for ino, version := range f.openFiles() {
			if n%int(refreshEvery/dropEvery) == 0 {
				f.refresh(ino, version)
			}
			if f.pages.quiet(ino) {
				f.notify.send(f.node(ino), ino)
			}
		}
	}
}

// refresh looks at a file of which nothing is leased.
func (f *FS) refresh(ino tnv.Ino, version uint64) {
	if f.b.AttrLease(ino, version) > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), refreshEvery)
	defer cancel()
	if a, err := f.b.GetAttr(ctx, tnv.Root, ino); err == nil {
		f.pages.sees(&a)
	}
}
