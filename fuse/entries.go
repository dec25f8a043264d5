package fuse

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/clock"
)

// entries is in which directories the kernel may believe names (K2): only in those
// whose names are leased to this mount alone, where nobody else looks before it was
// asked. So a mutation by this mount, whose effects the kernel knows when it has the
// answer, is seen by nobody before.
//
// The kernel is made to forget names by a new epoch (FUSE_NOTIFY_INC_EPOCH, Linux
// 6.16): it takes no lock, so it waits for no operation, and what a LOOKUP under
// way brings counts as of the epoch in which that began. All names are asked for
// again, here, which costs no message. EntryNotify would wait for the directory's
// lock, and lets a revalidation under way set a timeout behind it. Kernels without
// epochs believe no names.
//
// The kernel detaches what is mounted on a name of an old epoch. So while something
// is mounted below this mount, as far as this process's mount namespace shows, it is
// not told to forget, and names are waited for until they lapse.
type entries struct {
	mu   sync.Mutex
	dev  *os.File // the connection's device; nil: this kernel has no epochs
	dirs map[tnv.Ino]*knownNames
}

type knownNames struct {
	until   time.Duration
	recalls uint64
}

// maxKnownNames is in how many directories the kernel may believe names.
const maxKnownNames = 1 << 14

// epochCode is FUSE_NOTIFY_INC_EPOCH of linux/fuse.h.
const epochCode = 8

// open finds the device by which this process serves its mount, and whether the
// kernel has epochs.
func (e *entries) open() {
	e.dirs = map[tnv.Ino]*knownNames{}
	links, _ := filepath.Glob("/proc/self/fd/*")
	var found []int
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == "/dev/fuse" {
			if fd, err := strconv.Atoi(filepath.Base(l)); err == nil {
				found = append(found, fd)
			}
		}
	}
	if len(found) != 1 { // several mounts in one process: nobody knows whose is whose
		return
	}
	fd, err := unix.FcntlInt(uintptr(found[0]), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return
	}
	dev := os.NewFile(uintptr(fd), "/dev/fuse")
	if newEpoch(dev) != nil {
		dev.Close()
		return
	}
	e.dev = dev
}

func (e *entries) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dev != nil {
		e.dev.Close()
		e.dev = nil
	}
}

// newEpoch sends the notification: a fuse_out_header alone.
func newEpoch(dev *os.File) error {
	var h [16]byte
	binary.NativeEndian.PutUint32(h[0:], uint32(len(h)))
	binary.NativeEndian.PutUint32(h[4:], epochCode)
	_, err := dev.Write(h[:])
	return err
}

// reply begins a reply that may get a timeout for a name in a directory.
func (e *entries) reply(dir tnv.Ino) (n *knownNames, recalls uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dev == nil {
		return nil, 0
	}
	if n = e.dirs[dir]; n == nil {
		if len(e.dirs) >= maxKnownNames && !e.tidyLocked() {
			return nil, 0
		}
		n = &knownNames{}
		e.dirs[dir] = n
	}
	return n, n.recalls
}

// tidyLocked forgets directories in which nothing is believed any more.
func (e *entries) tidyLocked() bool {
	now := clock.Boot()
	for dir, n := range e.dirs {
		if now >= n.until {
			delete(e.dirs, dir) // replies under way get no timeout
		}
	}
	return len(e.dirs) < maxKnownNames
}

// timeout gives a reply its timeout, at most d.
func (e *entries) timeout(dir tnv.Ino, n *knownNames, recalls uint64, d time.Duration) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n.recalls != recalls || e.dirs[dir] != n {
		return 0
	}
	n.until = max(n.until, clock.Boot()+d)
	return d
}

// recalled tells until when names in a directory may be believed. Replies that are not
// on their way yet get no timeout. Whoever else asks is told the same: it may come
// before the kernel was made to forget, and one more epoch costs no message.
func (e *entries) recalled(dir tnv.Ino) (until time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.dirs[dir]
	if n == nil {
		return 0
	}
	n.recalls++
	return n.until
}

// recalledAll is recalled for every directory.
func (e *entries) recalledAll() (until time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.dirs {
		until = max(until, n.until)
		n.recalls++
	}
	return until
}

// forget has the kernel forget names that it may believe until a time. anyway: also if
// that is over, since a reply may be on its way whose time ran out here.
func (e *entries) forget(until time.Duration, anyway bool) {
	left := until + slack - clock.Boot()
	if until == 0 || left <= 0 && !anyway {
		return
	}
	e.mu.Lock()
	dev := e.dev
	e.mu.Unlock()
	if dev == nil || !mountedBelow(dev) && newEpoch(dev) == nil {
		return // without a device the kernel's side is over
	}
	time.Sleep(max(0, left))
}

// slack is how much later than it was told the kernel may stop to believe: it
// counts from when the caller takes the reply in, in ticks.
const slack = 100 * time.Millisecond

// mountedBelow tells whether anything is mounted in the mount that a device serves.
func mountedBelow(dev *os.File) bool {
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(dev.Fd())))
	if err != nil {
		return true
	}
	_, rest, found := strings.Cut(string(info), "fuse_connection:")
	if !found {
		return true
	}
	id, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	return err != nil || anyBelow(string(mounts), "0:"+strings.TrimSpace(id))
}

// anyBelow looks in a mountinfo(5) for mounts whose parent is of a device.
func anyBelow(mountinfo, dev string) bool {
	ours := map[string]bool{}
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == dev {
			ours[f[0]] = true
		}
	}
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 2 && ours[f[1]] {
			return true
		}
	}
	return false
}

// moved notes that a name may have taken its timeout from one directory to another:
// a dentry is moved with what a revalidation under way sets. It tells whether it may.
func (e *entries) moved(from, to tnv.Ino) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, now := e.dirs[from], clock.Boot()
	if n == nil || from == to || now >= n.until+slack {
		return false
	}
	there := e.dirs[to]
	if there == nil {
		there = &knownNames{}
		e.dirs[to] = there
	}
	there.until = max(there.until, now+maxTimeout)
	return true
}

// renamed sees to it, before the kernel moves a name, that it does not go on to
// believe the name in a directory whose names nobody will recall from this mount.
func (f *FS) renamed(from, to tnv.Ino) {
	if f.entries.moved(from, to) && f.b.NamesLease(to) == 0 {
		f.entries.forget(f.entries.recalled(to), false)
	}
}

// nameTime is how long the kernel may believe what a name in a directory stands
// for, which goes to it in a reply. It is made before the name is looked up.
type nameTime struct {
	f       *FS
	dir     tnv.Ino
	n       *knownNames
	recalls uint64
}

func (f *FS) nameTime(dir tnv.Ino) nameTime {
	n, recalls := f.entries.reply(dir)
	return nameTime{f, dir, n, recalls}
}

func (t nameTime) left() time.Duration {
	if t.f.stale > 0 {
		return t.f.stale
	}
	if t.n == nil {
		return 0
	}
	d := min(t.f.b.NamesLease(t.dir), maxTimeout)
	if d == 0 {
		return 0
	}
	return t.f.entries.timeout(t.dir, t.n, t.recalls, d)
}
