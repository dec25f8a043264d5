// Package blockstore keeps the blocks of one data directory of one storage
// daemon. Blocks never change: a key, once bound to bytes, means those bytes.
//
// It promises:
//   - A block whose Commit with sync returned nil survives power loss, one
//     whose Commit without sync did survives the death of the process.
//   - A block is held whole and right, or not at all: after an unclean stop
//     whatever lies in an unsealed segment is read and compared with its sums.
//   - A deletion that returned nil holds for ever, against a crash, against
//     receptions under way, and against copies that come later.
//   - A failed fdatasync is never tried again: what its segment held since its
//     last good sync is missing from then on, and whoever waited gets the error.
//   - Bytes that a Reader holds open stay as they are until it is closed.
//   - What moves a block has the new copy on disk before the old one goes.
//
// How: a directory holds a superblock (superblock.go), a delete log
// (tombstones.go), and segments: files of records (record.go), appended one
// behind the other. A full segment is sealed: it gets an index file
// (indexfile.go) and is never written again, but for holes punched where its
// blocks were deleted (punch.go). What has little left is copied together
// (compact.go). Opening (recover.go) reads index files, walks what has none
// from header to header, and lets the delete log win over both.
//
// Memory: 24 bytes per block or remembered deletion in a B-tree, which with
// the tree's slack are 35 to 52 (TestMemoryPerBlock). Checksums and homes of sealed segments stay in the index
// files. An unsealed segment (one is the rule) costs 72 bytes per record, at
// most maxRecords of them, and 4 per checksum unit: at most 24 MiB.
//
// Locks, in the order in which they are taken:
//
//	Store.life      operations against Close; taken by exported methods only
//	deleteLog.gate  deletions against the log's rewriting
//	Store.appendMu  the active segment's end; I/O is done under it
//	deleteLog.mu    the log's end; I/O is done under it
//	Store.mu        the state: index, segments, pins; no I/O is done under it
//	groupSync.mu, fileTable.mu, space.mu  leaves
package blockstore
