// Package ship keeps a copy of an embedded engine in the storage groups (D13): its
// checkpoints and the log of what was applied since, as blocks of a volume that is
// nobody else's. Losing the tracker's disk then costs what was applied in the last
// second at most.
//
// What is shipped are the engine's batches, not its files: a Journal stands before
// the engine and notes what was applied; a Shipper cuts that into pieces four times a
// second, and writes a checkpoint, which is all records, at its start and whenever the
// log has grown longer than the last one. The checkpoint is fuzzy: records are read a
// page at a time while batches are applied; a log that begins before the first page and
// reaches beyond the last makes it exact, since batches set and delete whole records.
//
// Invariants:
//
//   - Pieces are blocks: their ids are used once, a retry carries the same bytes (D3).
//     Ids of one engine's pieces grow in the order of their making.
//   - A checkpoint's end is put when all of its records, and the log up to where its
//     last record was read, are on disk in the groups. Nothing older than a checkpoint
//     with an end is needed, and nothing else is ever deleted.
//   - A chain is a row of log pieces without a gap. Whatever may leave a gap (a restart,
//     a batch whose outcome is open, more than maxBuffer waiting) ends it: the next
//     one begins with a new checkpoint.
//   - What was applied is restorable when a checkpoint with an end, and the chain from it
//     over that batch, are on disk in the groups. Settled waits for that: no block is
//     deleted before the state that frees it can be restored.
//
// Each engine has a lineage, a random number in every piece: pieces of another one, whose
// tracker was lost and whose copy may be all that is left, are not touched.
package ship
