// Package stored is the storage daemon: it keeps the blocks of one data
// directory (package blockstore) and serves them to clients, trackers and the
// other members of its group.
//
// It promises:
//   - A put is answered when every holder named in the answer has the block,
//     with the sums that the writer made checked; with Put.Sync, on its disk.
//   - One member's death, freeze or full disk costs a put at most a fraction of
//     a second: the member is skipped, and not named (rule D11).
//   - A disk that fails or takes seconds is found by the operations at it, and told
//     to the trackers and to whoever puts blocks: nobody waits for it.
//   - Nothing waits without an end: each step of a transfer has a deadline, and
//     what finds no place within a short wait is answered KindBusy.
//   - The memory for blocks on their way stays within Config.Memory.
//   - What a store lacks and the metadata names comes back from its peers;
//     what was deleted does not.
//
// How, by file:
//
//	run.go       start, stop, and who owns which goroutine
//	serve.go     which role may ask what
//	put.go       a put's receiving side; forward.go its sending side
//	get.go       reads, by sendfile from the segment
//	locate.go    segment descriptors for clients on this host
//	cluster.go   the newest cluster map; trackers.go announce and heartbeats
//	owner.go     what is asked of trackers: liveness, lacking, held
//	copy.go      a block from a peer into the store
//	repair.go    single blocks that someone found bad
//	converge.go  comparing with the peers, and catching up; behind.go how far and
//	             how fast, and yielding to clients that read
//	scrub.go     reading everything once in a while, or when asked
//	diskwatch.go judging the disk
//	budget.go    memory and disk operations, bounded
//
// A put passes its block on while it arrives (cut-through). Whoever forwards
// holds the block in memory until its own answer, so that a member behind a
// dead one can still be given it. Memory is set aside by position in the chain:
// the tail of a chain waits for no other daemon, the one before it for tails
// only, and so on, hence no cycle of daemons can wait for each other's memory.
// While a store works on a put whose sender wants signs of life, it says so with
// an empty push every 200 ms: silence for a second then means that it is frozen.
// If its own disk takes longer than 1.5 s it says that, and is not waited for.
package stored
