package protocol

import "github.com/tnvfs/tnv"

// Trackers: locks, what changes nothing that is stored. Each body is a Head, then the request.
const (
	TypeGetLock   Type = 0x50 + iota // GetLock, reply GetLockReply
	TypeLockWait                     // LockWait, reply LockWaitReply
	TypeDropWaits                    // DropWaits
)

// Trackers: locks, mutations. A session that is read-only may lock, too.
const (
	TypeSetLock Type = 0x90 + iota // SetLock, reply SetLockReply
)

// LockKind is whose rules a lock follows. Locks of different kinds do not see each other.
type LockKind uint8

const (
	LockFlock LockKind = 1 + iota // flock(2): the whole file, one mode per owner
	LockPosix                     // fcntl(2): ranges of bytes, one mode per byte and owner
)

// LockMode is what a lock shuts out.
type LockMode uint8

const (
	LockNone      LockMode = iota // nothing: no lock
	LockShared                    // exclusive locks of others
	LockExclusive                 // all locks of others
)

// LockEOF as a lock's End means "to the end of the file, wherever that will be".
const LockEOF = 1<<63 - 1

// Lock is a lock that somebody has or wants. An owner is a number that the client
// chose: of a process for fcntl, of an open file for flock.
type Lock struct {
	Kind  LockKind
	Mode  LockMode
	Owner uint64
	Pid   uint32 // for people, and F_GETLK
	Start uint64 // first byte; LockPosix only
	End   uint64 // last byte; LockPosix only
}

// GetLock asks whether a lock could be had.
type GetLock struct {
	Ino  tnv.Ino
	Lock Lock
}

// GetLockReply names a lock that stands in the way, and whose it is. Lock.Mode is LockNone if none does.
type GetLockReply struct {
	Lock    Lock
	Session tnv.SessionID
}

// SetLock sets a lock, or removes it where Mode is LockNone. The owner's bytes
// in the range get that mode whatever they had before.
type SetLock struct {
	Ino  tnv.Ino
	Lock Lock
	// Wait is 0, or a number that the client has not used in this session: the
	// request is queued under it if it cannot be granted. It is sent again, with the
	// same number, when LockWait names it, and then granted. KindDeadlock: its owner
	// waits, through others, for itself; it is not queued.
	Wait uint64
}

// SetLockReply says what became of it.
type SetLockReply struct {
	State LockState
}

// LockState is the outcome of SetLock.
type LockState uint8

const (
	LockGranted LockState = 1 + iota
	LockRefused           // somebody has a lock that excludes it, and Wait is 0
	LockQueued            // as above, and Wait is not 0
)

// LockWait is answered as soon as something is due, or with nothing after a
// while: its reply is how a queued request is told that its turn has come. One
// under way at a time is enough for a session.
type LockWait struct {
	Waits    []uint64 // queued, as far as the client knows; at most MaxBatch
	Claiming []uint64 // due, and on their way: not to be named again; at most MaxBatch
	Ms       uint32   // answer after so long at the latest; never longer than some seconds
}

// LockWaitReply names waits whose SetLock is to be sent again: those whose turn
// has come, and those of LockWait.Waits that are not queued here (the owner was
// restarted).
type LockWaitReply struct {
	Due []uint64
}

// DropWaits takes requests out of the queues: nobody waits for them any more. At most MaxBatch.
type DropWaits struct {
	Waits []uint64
}
