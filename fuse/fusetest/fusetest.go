// Package fusetest is a fuse.Backend in memory, for tests of what stands on it.
// It behaves as one tracker without failures: each call is atomic and at once
// visible. Writes are committed as they come. Inodes without a name are kept, as
// an owner keeps them while a kernel may still know them. It can delay, fail and count.
package fusetest

import (
	"context"
	"hash/fnv"
	"sort"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Volume is the backend. Make one with New.
type Volume struct {
	// Hook, if set, is called before each operation, without a lock, with the
	// operation's name ("lookup", "view", …). Its error is the operation's. Set it
	// before the volume is used.
	Hook func(ctx context.Context, op string) error
	// Collide makes cookies of all names fall into so many classes, if not 0.
	Collide uint64

	mu     sync.Mutex
	seq    uint64
	next   tnv.Ino
	inodes map[tnv.Ino]*node
	calls  map[string]int
	views  int
}

type node struct {
	attr   tnv.Attr
	names  map[string]tnv.Ino // of a directory
	target string
	xattr  map[string][]byte
	chunks map[int64]*chunk
	opens  int

	locks    []lock
	unlocked chan struct{} // not nil: closed when locks change
}

// chunk is a piece of a file. What was shown to a reader is never written to again.
type chunk struct {
	data  []byte
	shown bool
}

const chunkSize = 1 << 20

// New makes an empty volume.
func New() *Volume {
	v := &Volume{next: tnv.RootIno, inodes: map[tnv.Ino]*node{}, calls: map[string]int{}}
	v.makeLocked(tnv.Attr{Mode: tnv.TypeDir.Mode() | 0o755, Nlink: 2, Parent: tnv.RootIno})
	return v
}

// Calls tells how often an operation was asked for.
func (v *Volume) Calls(op string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.calls[op]
}

// Opens tells how many handles are open.
func (v *Volume) Opens() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	sum := 0
	for _, n := range v.inodes {
		sum += n.opens
	}
	return sum
}

// Views tells how many views were given out and not released.
func (v *Volume) Views() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.views
}

// begin counts, runs the hook, and locks; the caller unlocks if there is no error.
func (v *Volume) begin(ctx context.Context, op string) error {
	v.mu.Lock()
	v.calls[op]++
	hook := v.Hook
	v.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, op); err != nil {
			return err
		}
	}
	v.mu.Lock()
	return nil
}

func (v *Volume) makeLocked(a tnv.Attr) *node {
	v.seq++
	now := time.Now().UnixNano()
	a.Ino, a.Atime, a.Mtime, a.Ctime, a.Btime = v.next, now, now, now, now
	a.Version, a.Data = v.seq, v.seq
	n := &node{attr: a, xattr: map[string][]byte{}, chunks: map[int64]*chunk{}}
	if a.IsDir() {
		n.names = map[string]tnv.Ino{}
	}
	v.inodes[v.next] = n
	v.next++
	return n
}

// changedLocked notes a change of an inode, and of its content.
func (v *Volume) changedLocked(n *node, content bool) {
	v.seq++
	n.attr.Version, n.attr.Ctime = v.seq, time.Now().UnixNano()
	if content {
		n.attr.Data, n.attr.Mtime = v.seq, n.attr.Ctime
	}
	if n.attr.IsDir() {
		n.attr.Size = uint64(len(n.names))
	}
}

func (v *Volume) getLocked(ino tnv.Ino) (*node, error) {
	if n := v.inodes[ino]; n != nil {
		return n, nil
	}
	return nil, tnv.E("get", tnv.KindStale, "inode %d", ino)
}

func (v *Volume) dirLocked(ino tnv.Ino) (*node, error) {
	n, err := v.getLocked(ino)
	switch {
	case err != nil:
		return nil, err
	case n.names == nil:
		return nil, tnv.E("get", tnv.KindNotDir, "inode %d", ino)
	case n.attr.Nlink == 0:
		return nil, tnv.E("get", tnv.KindNotExist, "inode %d", ino)
	}
	return n, nil
}

func (v *Volume) entryLocked(parent tnv.Ino, name string) (dir, n *node, err error) {
	if dir, err = v.dirLocked(parent); err != nil {
		return nil, nil, err
	}
	ino, ok := dir.names[name]
	if name == ".." {
		ino, ok = dir.attr.Parent, true
	}
	if !ok {
		return dir, nil, tnv.E("lookup", tnv.KindNotExist, "%q", name)
	}
	return dir, v.inodes[ino], nil
}

// addLocked makes an inode and gives it a name.
func (v *Volume) addLocked(cred tnv.Cred, parent tnv.Ino, name string, a tnv.Attr) (*node, error) {
	dir, n, err := v.entryLocked(parent, name)
	switch {
	case n != nil:
		return nil, tnv.E("make", tnv.KindExist, "%q", name)
	case tnv.KindOf(err) != tnv.KindNotExist || dir == nil:
		return nil, err
	case len(name) > tnv.MaxNameLen:
		return nil, tnv.E("make", tnv.KindNameTooLong, "%d bytes", len(name))
	}
	a.UID, a.GID = cred.UID, cred.GID
	if a.Nlink = 1; a.IsDir() {
		a.Nlink, a.Parent = 2, parent
		dir.attr.Nlink++
	}
	n = v.makeLocked(a)
	dir.names[name] = n.attr.Ino
	v.changedLocked(dir, true)
	return n, nil
}

// dropLocked takes a name away from an inode.
func (v *Volume) dropLocked(dir, n *node, name string) {
	delete(dir.names, name)
	if n.attr.IsDir() {
		n.attr.Nlink = 0
		dir.attr.Nlink--
	} else {
		n.attr.Nlink--
	}
	v.changedLocked(dir, true)
	v.changedLocked(n, false)
}

func (v *Volume) cookie(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	c := h.Sum64() >> 2
	if v.Collide > 0 {
		c %= v.Collide
	}
	return c + tnv.FirstCookie
}

// ReadDir lists a directory.
func (v *Volume) ReadDir(ctx context.Context, _ tnv.Cred, rq protocol.ReadDir) (rep protocol.ReadDirReply, err error) {
	if err := v.begin(ctx, "readdir"); err != nil {
		return rep, err
	}
	defer v.mu.Unlock()
	dir, err := v.dirLocked(rq.Ino)
	if err != nil {
		return rep, err
	}
	rep.Dir, rep.End = dir.attr, true
	var all []tnv.Dirent
	for name, ino := range dir.names {
		if c := v.cookie(name); c > rq.Cookie {
			all = append(all, tnv.Dirent{Name: name, Ino: ino, Type: v.inodes[ino].attr.Type(), Cookie: c})
		}
	}
	sort.Slice(all, func(i, j int) bool {
		return all[i].Cookie < all[j].Cookie || all[i].Cookie == all[j].Cookie && all[i].Name < all[j].Name
	})
	for i, e := range all {
		if i >= int(rq.Limit) && e.Cookie != all[i-1].Cookie {
			rep.End = false
			break
		}
		rep.Entries = append(rep.Entries, e)
	}
	return rep, nil
}
