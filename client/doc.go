// Package client is how programs use a TNV volume: the mount, the HTTP daemon,
// the tnv command, and applications that import it.
//
// # What it promises
//
// An operation on the namespace is executed exactly once, whatever connection or
// tracker is lost on the way, or it fails with an error that says so. What Flush
// (close) has acknowledged is visible to everybody and on every live member of
// its group; what Sync (fsync) has acknowledged is on their disks. What a handle
// could not write it reports at every later call. ReadAt returns the file as it
// is at that moment, dirty data of this client included, and never a byte that
// does not match its checksum. Nothing hangs: an operation rides out unreachable
// trackers and stores for Config.Timeout and then fails with
// tnv.KindUnavailable; an unreachable cluster is never an empty directory.
// Memory for data stays within Config.Memory.
//
// # How
//
// A link (session.go, call.go) keeps one session with the volume's owner. A
// mutation takes a slot and the slot's next number, is written to bytes once,
// and is sent again, byte for byte, until it is answered. Whoever asked may go
// away; the mutation does not. keepalive.go keeps the session alive, takes the
// cluster map, and tells the owner of deleted inodes that nobody has open.
//
// An inode (inode.go) is shared by its handles. Writes collect in open pieces
// (dirty.go), which are sealed, put to a group as one block each (put.go), and
// committed in the order of sealing (commit.go), at least every second; sync.go
// adds what fsync asks for.
//
// A read (reader.go) goes by the extents of a version (extents.go), confirms the
// version with the owner while the blocks are on their way, and puts what is
// dirty over them. Parts of blocks come from the cache (cache.go), or from
// whichever member is best (nodes.go, fetch.go): the segment file itself on this
// host (local.go), else over the network; a second member is asked if the first
// stays silent. readahead.go fetches for sequential readers before they ask, and
// diskcache.go keeps parts on local disk, if asked.
//
// Locks (locks.go) are set at the tracker; what waits there is told of its turn
// by the answer to one long request, and what nobody wants any more is unlocked in
// the background.
//
// All buffers come from one budget (budget.go), of which readers and writers have
// a quarter each for themselves. Whoever waits for memory holds none that others
// need in order to go on: a writer's is freed by commits, a reader's by reading.
package client
