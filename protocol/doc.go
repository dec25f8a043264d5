// Package protocol is the wire protocol of TNV, and this page its specification.
//
// # Frames
//
// All parts of a cluster speak frames over a byte stream (TCP, or a unix socket
// on one host). Integers are big-endian.
//
//	 0       2       4       6       8              12
//	+-------+-------+-------+-------+--------------+
//	| magic | type  | flags |   0   | stream       |
//	+-------+-------+-------+-------+--------------+
//	| body length   | payload length| checksum     |
//	+---------------+---------------+--------------+
//	12             16              20             24
//
//	magic     0x7456 ("tV")
//	type      what the body is: see the constants of Type
//	flags     1 reply, 2 error (the body is a WireError), 4 push (no reply expected)
//	stream    pairs a reply with its request; chosen by the asking side
//	body      msgpack, at most MaxBody bytes; one or more values, one behind the other
//	payload   raw bytes behind the body, at most MaxPayload; msgpack never touches them
//	checksum  CRC32C of bytes 0 to 19 and of the body; the payload has its own (see Put, Get)
//
// A frame that breaks a limit or whose checksum is wrong ends the connection:
// nothing is allocated for it.
//
// # Bodies
//
// Messages are structs written as msgpack arrays, fields in the order of the
// declaration. A message's fields are fixed for a version of the protocol: an
// array of another length is refused. What changes gets a new type, or a new
// version, which the handshake agrees on.
//
// # Connections
//
// A metadata connection (tracker) is multiplexed: any number of requests are
// outstanding, replies come in any order, and the tracker may push. A block
// connection (storage daemon) carries one request at a time, so that its payload
// can go by sendfile.
//
// # Handshake
//
// Each connection begins with one, in frames of type TypeHello and TypeProof:
//
//	asker    Hello{Versions, Cluster, Role, Nonce a}
//	answerer Hello{Version,  Cluster, Role, Nonce b, Proof HMAC-SHA256(key, "answer", a, b, cluster, version, roles)}
//	asker    Proof{          HMAC-SHA256(key, "ask", a, b, cluster, version, roles)}
//	answerer Proof{}         or an error
//
// Both sides hold the cluster key; it never goes over the wire. The answerer
// chooses the highest version that both speak. Refusals are KindVersion,
// KindWrongCluster and KindAuth.
//
// # Errors
//
// An error goes as WireError (kind, operation, message). Kinds are the
// append-only numbers of tnv.Kind; an unknown one reads as tnv.KindOther.
//
// # Metadata requests
//
// The body of a request on a volume is two values: a Head, which says on which
// volume, in which session and for whom, then the request itself. A mutation
// carries slot and sequence: the owner executes each (session, slot, seq) once
// and answers a repetition with its first answer. The reply's body is two values
// as well: the answer (an empty array where there is none), and what was Leased.
//
// # Several trackers
//
// Each volume has one owner; the others answer requests on it with KindNotOwner, and
// Owner with what they know: who owns it, and which trackers there are. A client
// whose owner is gone asks all trackers that it knows of, opens its session at the
// owner with the newest epoch, and sends again what was not answered.
//
// # Locks
//
// SetLock is a mutation that is answered at once. One that is to wait is queued
// under a number, and sent again when LockWait, a query that is answered when there
// is something to tell or after some seconds, names that number; only then is it
// granted. The queue is not kept over a change of owner: LockWait lists the numbers
// that the client takes to be queued, and the answer names those that are not.
package protocol
