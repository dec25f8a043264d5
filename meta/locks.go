package meta

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Locks are records, one for each owner of locks on an inode, all of them in
// memory as well. Waits are in memory alone: whoever waits asks again (LockWait)
// and is queued again by the next owner of the volume.
//
// Invariants, at every moment at which store.mu is free:
//   - The table's held is what the newest published L records say, and each of
//     them belongs to a session that is not over, or is being ended.
//   - No two owners have ranges that exclude each other.
//   - A wait is due exactly if nothing that is held and no wait that became due
//     before it excludes it. What is due is as good as held to all others: it is
//     granted when its client sends SetLock again, and by nothing else, so a grant
//     is a mutation like any other: exactly once, with an answer.
//   - Of waits that exclude each other the oldest becomes due first. A request that
//     only waits exclude does not wait for them, as on a local disk: whoever
//     reads already, and reads again, must not wait for a writer that waits for it.

// lockOwner is who has a lock.
type lockOwner struct {
	session tnv.SessionID
	owner   uint64
	kind    protocol.LockKind
}

// held is what an owner has of one inode.
type held struct {
	Pid    uint32
	Ranges []lockRange // as setRange makes them, never empty
}

// lockWait is a request that is queued.
type lockWait struct {
	id  uint64
	ino tnv.Ino
	who lockOwner
	r   lockRange
	due time.Time // since when its turn has come; zero: it has not
}

// inodeLocks is what is held of an inode, and who waits.
type inodeLocks struct {
	held  map[lockOwner]*held
	due   []*lockWait // in the order in which they became due
	queue []*lockWait // those that are not, in the order in which they came
	seq   tnv.BatchSeq
}

// lockTable is every lock of a volume. It is guarded by store.mu; it changes
// in Tx.then alone, or with mu held.
type lockTable struct {
	inodes   map[tnv.Ino]*inodeLocks
	sessions map[tnv.SessionID]*sessionLocks
	waiting  map[lockOwner][]*lockWait // not due; of LockPosix only: the edges that deadlocks are made of
	ranges   int
	gone     tnv.BatchSeq // the newest seq of inodes that were forgotten
}

// sessionLocks finds what a session has and waits for.
type sessionLocks struct {
	held   map[heldKey]bool
	waits  map[uint64]*lockWait
	ranges int
}

type heldKey struct {
	ino tnv.Ino
	who lockOwner
}

// Limits: beyond them a lock is refused with KindNoLock. A range costs some 50 bytes.
const (
	maxOwnerRanges   = 4096 // of one owner on one inode: one record
	maxSessionRanges = 1 << 16
	maxLockRanges    = 1 << 18 // of a volume
	maxSessionWaits  = protocol.MaxBatch
	maxDeadlockSteps = 1024 // owners that are looked at for a cycle
)

// claimTime is how long a wait stays due that nobody claims: its client has given
// it up, or will find that it is not queued any more.
const claimTime = 5 * time.Second

func lockKey(ino tnv.Ino, who lockOwner) string {
	b := []byte(key2(keyLock, uint64(ino), uint64(who.session)))
	return string(append(binary.BigEndian.AppendUint64(b, who.owner), byte(who.kind)))
}

// splitLockKey reads a key made by lockKey; false if it is none.
func splitLockKey(key string) (k heldKey, ok bool) {
	if len(key) != 26 {
		return k, false
	}
	ino, session := split2(key)
	owner := binary.BigEndian.Uint64([]byte(key[17:25]))
	return heldKey{tnv.Ino(ino), lockOwner{tnv.SessionID(session), owner, protocol.LockKind(key[25])}}, true
}

// A held record:
//
//	version 1 | pid 4 | { start 8 | end 8 | mode 1 } ...
func (h *held) encode() []byte {
	b := binary.BigEndian.AppendUint32([]byte{recordV1}, h.Pid)
	for _, r := range h.Ranges {
		b = binary.BigEndian.AppendUint64(b, r.start)
		b = binary.BigEndian.AppendUint64(b, r.end)
		b = append(b, byte(r.mode))
	}
	return b
}

func decodeHeld(b []byte) (any, error) {
	d := decoder{b: b}
	d.version()
	h := held{Pid: d.u32()}
	for len(d.b) > 0 && d.err == nil {
		h.Ranges = append(h.Ranges, lockRange{d.u64(), d.u64(), protocol.LockMode(d.u8())})
	}
	if !wellFormed(h.Ranges) {
		d.fail()
	}
	return &h, d.err
}

func newLockTable() lockTable {
	return lockTable{map[tnv.Ino]*inodeLocks{}, map[tnv.SessionID]*sessionLocks{}, map[lockOwner][]*lockWait{}, 0, 0}
}

func (t *lockTable) inode(ino tnv.Ino) *inodeLocks {
	l := t.inodes[ino]
	if l == nil {
		l = &inodeLocks{held: map[lockOwner]*held{}}
		t.inodes[ino] = l
	}
	return l
}

func (t *lockTable) session(id tnv.SessionID) *sessionLocks {
	s := t.sessions[id]
	if s == nil {
		s = &sessionLocks{held: map[heldKey]bool{}, waits: map[uint64]*lockWait{}}
		t.sessions[id] = s
	}
	return s
}

// tidy forgets an inode and a session of which nothing is left.
func (t *lockTable) tidy(ino tnv.Ino, id tnv.SessionID) {
	if l := t.inodes[ino]; l != nil && len(l.held)+len(l.due)+len(l.queue) == 0 {
		t.gone = max(t.gone, l.seq)
		delete(t.inodes, ino)
	}
	if s := t.sessions[id]; s != nil && len(s.held)+len(s.waits) == 0 {
		delete(t.sessions, id)
	}
}

// has is what an owner has of an inode.
func (t *lockTable) has(ino tnv.Ino, who lockOwner) []lockRange {
	if l := t.inodes[ino]; l != nil && l.held[who] != nil {
		return l.held[who].Ranges
	}
	return nil
}

// seen is the newest batch that made the inode's locks what they are.
func (t *lockTable) seen(ino tnv.Ino) tnv.BatchSeq {
	if l := t.inodes[ino]; l != nil {
		return l.seq
	}
	return t.gone
}

// put notes what an owner has from batch seq on; nil: nothing.
func (t *lockTable) put(ino tnv.Ino, who lockOwner, h *held, seq tnv.BatchSeq) {
	l, s, k := t.inode(ino), t.session(who.session), heldKey{ino, who}
	grew := 0
	if old := l.held[who]; old != nil {
		grew = -len(old.Ranges)
	}
	if h == nil {
		delete(l.held, who)
		delete(s.held, k)
	} else {
		l.held[who], s.held[k] = h, true
		grew += len(h.Ranges)
	}
	l.seq = seq
	s.ranges += grew
	t.ranges += grew
}

// against calls fn for everybody whose lock, held or due, excludes a range of
// who, with the range in the way, until fn returns false.
func (t *lockTable) against(ino tnv.Ino, who lockOwner, r lockRange, fn func(lockOwner, lockRange) bool) {
	l := t.inodes[ino]
	if l == nil {
		return
	}
	for w, h := range l.held {
		if w.kind != who.kind || w == who {
			continue
		}
		if x := excludes(h.Ranges, r); x != nil && !fn(w, *x) {
			return
		}
	}
	for _, w := range l.due {
		if w.who.kind == who.kind && w.who != who && excludes([]lockRange{w.r}, r) != nil && !fn(w.who, w.r) {
			return
		}
	}
}

// blockers lists who is in the way of a range.
func (t *lockTable) blockers(ino tnv.Ino, who lockOwner, r lockRange) (all []lockOwner) {
	t.against(ino, who, r, func(w lockOwner, _ lockRange) bool {
		all = append(all, w)
		return true
	})
	return all
}

func (t *lockTable) free(ino tnv.Ino, who lockOwner, r lockRange) bool {
	free := true
	t.against(ino, who, r, func(lockOwner, lockRange) bool {
		free = false
		return false
	})
	return free
}

// deadlock tells whether one of those in the way of who waits, through whomever, for who.
func (t *lockTable) deadlock(who lockOwner, inTheWay []lockOwner) bool {
	looked := map[lockOwner]bool{}
	for todo := inTheWay; len(todo) > 0 && len(looked) < maxDeadlockSteps; {
		w := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if w == who {
			return true
		}
		if looked[w] {
			continue
		}
		looked[w] = true
		for _, x := range t.waiting[w] {
			todo = append(todo, t.blockers(x.ino, w, x.r)...)
		}
	}
	return false
}

// enqueue queues a wait, unless it is already.
func (t *lockTable) enqueue(w *lockWait) {
	s := t.session(w.who.session)
	if s.waits[w.id] != nil {
		return
	}
	s.waits[w.id] = w
	l := t.inode(w.ino)
	l.queue = append(l.queue, w)
	if w.who.kind == protocol.LockPosix {
		t.waiting[w.who] = append(t.waiting[w.who], w)
	}
}

// drop forgets a wait. Others may be due then: see pump.
func (t *lockTable) drop(w *lockWait) {
	is := func(x *lockWait) bool { return x == w }
	delete(t.session(w.who.session).waits, w.id)
	l := t.inode(w.ino)
	l.due = slices.DeleteFunc(l.due, is)
	l.queue = slices.DeleteFunc(l.queue, is)
	t.unwait(w)
	t.tidy(w.ino, w.who.session)
}

// dropAll forgets what a session waits for, and returns where.
func (t *lockTable) dropAll(id tnv.SessionID) []tnv.Ino {
	inodes := map[tnv.Ino]bool{}
	for _, w := range t.sessions[id].waits {
		inodes[w.ino] = true
		t.unwait(w)
	}
	clear(t.sessions[id].waits)
	its := func(w *lockWait) bool { return w.who.session == id }
	for ino := range inodes {
		l := t.inodes[ino]
		l.due = slices.DeleteFunc(l.due, its)
		l.queue = slices.DeleteFunc(l.queue, its)
		t.tidy(ino, id)
	}
	return slices.Collect(maps.Keys(inodes))
}

// unwait takes a wait out of the edges that deadlocks are made of.
func (t *lockTable) unwait(w *lockWait) {
	if l := slices.DeleteFunc(t.waiting[w.who], func(x *lockWait) bool { return x == w }); len(l) > 0 {
		t.waiting[w.who] = l
	} else {
		delete(t.waiting, w.who)
	}
}

// pump makes due what can be, and returns whose it is.
func (t *lockTable) pump(ino tnv.Ino, now time.Time) (whose []tnv.SessionID) {
	l := t.inodes[ino]
	if l == nil || len(l.queue) == 0 {
		return nil
	}
	l.queue = slices.DeleteFunc(l.queue, func(w *lockWait) bool {
		if !t.free(ino, w.who, w.r) {
			return false
		}
		w.due = now
		l.due = append(l.due, w)
		t.unwait(w)
		whose = append(whose, w.who.session)
		return true
	})
	return whose
}
