package fuse

import (
	"sync"
	"sync/atomic"
	"time"

	raw "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tnvfs/tnv"
)

// The kernel checks permissions with an inode's ACL: behind each LOOKUP or GETATTR
// it asks for the extended attribute by which ACLs are handed over, for nearly
// every inode in vain; ls(1) does the same.
//
// Invariant: who is answered here that there is no ACL is the thread that within
// trustFor was given attributes that said so, and nobody has set one by this mount
// since. So the answer is of a moment within the same system call, except for a
// thread that asks by a descriptor, for which the kernel keeps ACLs as long anyway.
type acls struct {
	sets atomic.Uint64 // of ACLs, by this mount

	mu   sync.Mutex
	told [512]toldACL
}

type toldACL struct {
	ino  tnv.Ino
	pid  uint32
	has  tnv.AttrFlags
	sets uint64
	at   time.Time
}

func (c *acls) slot(ino tnv.Ino, pid uint32) *toldACL {
	return &c.told[(uint64(ino)*31+uint64(pid))%uint64(len(c.told))]
}

// asking is to be called before the owner is asked for attributes; tell takes
// its result when they go to the kernel.
func (c *acls) asking() toldACL { return toldACL{sets: c.sets.Load(), at: time.Now()} }

func (c *acls) tell(t toldACL, in *raw.InHeader, a *tnv.Attr) {
	t.ino, t.pid, t.has = a.Ino, in.Pid, a.Flags
	c.mu.Lock()
	defer c.mu.Unlock()
	*c.slot(a.Ino, in.Pid) = t
}

// none tells whether an ACL that is asked for is known not to be there.
func (c *acls) none(in *raw.InHeader, ino tnv.Ino, name string) bool {
	flag := tnv.XattrFlag(name)
	if flag&(tnv.HasAccessACL|tnv.HasDefaultACL) == 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.slot(ino, in.Pid)
	return t.ino == ino && t.pid == in.Pid && t.has&flag == 0 && t.sets == c.sets.Load() && time.Since(t.at) < trustFor
}
