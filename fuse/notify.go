package fuse

import (
	"sync"
	"sync/atomic"

	raw "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tnvfs/tnv"
)

// notifier tells the kernel to drop files' pages. The kernel answers when no
// READ of the file is under way, so each file has a goroutine of its own while it
// is told, at most maxNotifying of them: one that is stuck delays no other. What
// waits is bounded by the files that the kernel knows, each at most once.
//
// Requests only ever put things here; only OPEN waits (see pages).
type notifier struct {
	done func(ino tnv.Ino, data uint64, could bool) (again bool) // the pages of before data was seen are gone, if they could be dropped
	seen func(ino tnv.Ino) uint64                                // set with done
	sent atomic.Uint64

	mu      sync.Mutex
	tell    func(node uint64, off, length int64) raw.Status // nil: not mounted
	waiting map[tnv.Ino]uint64                              // to be told, with their node ids
	busy    map[tnv.Ino]bool                                // being told
	wg      sync.WaitGroup
}

const maxNotifying = 64

// to begins telling.
func (n *notifier) to(tell func(node uint64, off, length int64) raw.Status) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tell = tell
	n.waiting, n.busy = map[tnv.Ino]uint64{}, map[tnv.Ino]bool{}
}

// stop ends it: what waits is dropped, what is under way is waited for. The
// kernel's side must be over, or it may take as long as a READ.
func (n *notifier) stop() {
	n.mu.Lock()
	n.tell = nil
	left := n.waiting
	n.waiting = map[tnv.Ino]uint64{}
	n.mu.Unlock()
	for ino := range left {
		n.done(ino, 0, false)
	}
	n.wg.Wait()
}

func (n *notifier) len() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.waiting) + len(n.busy)
}

// send has the pages of a file dropped, soon.
func (n *notifier) send(node uint64, ino tnv.Ino) {
	n.mu.Lock()
	if n.tell == nil {
		n.mu.Unlock()
		n.done(ino, 0, false)
		return
	}
	defer n.mu.Unlock()
	n.waiting[ino] = node
	if !n.busy[ino] && len(n.busy) < maxNotifying {
		n.busy[ino] = true
		n.wg.Add(1)
		go n.run(ino)
	}
}

// run tells of one file, then of others that found no room.
func (n *notifier) run(ino tnv.Ino) {
	defer n.wg.Done()
	for {
		n.mu.Lock()
		node, again := n.waiting[ino]
		if !again {
			delete(n.busy, ino)
			if ino, node, again = n.nextLocked(); again {
				n.busy[ino] = true
			}
		}
		delete(n.waiting, ino)
		tell := n.tell
		n.mu.Unlock()
		if !again {
			return
		}
		if tell == nil {
			n.done(ino, 0, false)
			return
		}
		data := n.seen(ino)
		n.sent.Add(1)
		// ENOENT: the kernel does not have the inode, and so no pages.
		st := tell(node, 0, -1)
		if n.done(ino, data, st == raw.OK || st == raw.ENOENT) {
			n.send(node, ino)
		}
	}
}

// nextLocked picks a file that waits and is not being told.
func (n *notifier) nextLocked() (tnv.Ino, uint64, bool) {
	for ino, node := range n.waiting {
		if !n.busy[ino] {
			return ino, node, true
		}
	}
	return 0, 0, false
}
