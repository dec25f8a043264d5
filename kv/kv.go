// Package kv is what the metadata of a volume is kept in: ordered bytes with an
// owner. An engine is a few hundred lines; the file system is written once, in
// package meta, on this interface.
//
// Each volume is a key space of its own, ordered by bytes. It has a lease (who
// owns it, in which epoch) and the sequence number of the last batch applied.
// Apply of an old epoch fails with ErrFenced and changes nothing, however late.
package kv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tnvfs/tnv"
)

var (
	// ErrFenced: the epoch of the caller is not the volume's current one.
	ErrFenced = errors.New("fenced: the volume has another owner")
	// ErrLeaseMoved: the lease is not what the contender saw.
	ErrLeaseMoved = errors.New("the lease has changed since it was seen")
	// ErrClosed: the engine is closed.
	ErrClosed = errors.New("engine is closed")
)

// SeqError is Apply's answer to a batch that does not follow the last one applied.
type SeqError struct {
	Stored, Got tnv.BatchSeq
}

func (e *SeqError) Error() string {
	return fmt.Sprintf("batch %d does not follow batch %d", e.Got, e.Stored)
}

// Fence proves ownership: the volume and the epoch of its current lease.
type Fence struct {
	Vol   tnv.VolumeID
	Epoch tnv.Epoch
}

// Write sets a key, or deletes it where Value is nil. An empty value that is
// not nil is a value.
type Write struct {
	Key   []byte
	Value []byte
}

// Batch is the writes of one mutation. Of two writes to one key the later counts.
type Batch struct {
	Seq    tnv.BatchSeq
	Writes []Write
}

// Lease is who owns a volume. Renewals grows with every renewal: a contender
// watches (Epoch, Renewals) stand still for TTL and a margin, by its own clock,
// before it takes over.
type Lease struct {
	Vol      tnv.VolumeID
	Epoch    tnv.Epoch // 0: never owned
	Holder   string    // for people and clients: the tracker's address
	Renewals uint64
	TTL      time.Duration
	Released bool // given back: anyone may take it at once
}

// Engine is a store of volumes. Methods are called from any goroutine at once.
// Keys are 1 to 1024 bytes long, values at most 8 MiB.
type Engine interface {
	// Get reads keys of a volume as of one moment. The result has one value per
	// key, nil where there is none. The values belong to the caller.
	Get(ctx context.Context, vol tnv.VolumeID, keys ...[]byte) ([][]byte, error)

	// Scan calls fn for the keys in [from, to) in order, as of one moment, until
	// fn returns false or limit keys were seen (0: no limit). A nil to has no
	// end. Key and value are fn's only until it returns.
	Scan(ctx context.Context, vol tnv.VolumeID, from, to []byte, limit int, fn func(key, value []byte) bool) error

	// Apply applies batches in order, all of them or none. Their sequence
	// numbers follow each other and the stored one without a gap (else
	// *SeqError). It returns when they are acknowledged as the engine's
	// durability promises: at least, they survive kill -9 of this process. Any
	// error but ErrFenced and *SeqError leaves the outcome open; engines
	// resolve for themselves what they can. One caller per volume at a time.
	Apply(ctx context.Context, fence Fence, batches []Batch) error

	// Sync returns when all that was applied before the call survives power loss.
	Sync(ctx context.Context) error

	// Seq is the sequence number of the last batch applied to the volume, 0 if none was.
	Seq(ctx context.Context, vol tnv.VolumeID) (tnv.BatchSeq, error)

	// Lease reads the volume's lease, the zero Lease (with Vol set) if there never was one.
	Lease(ctx context.Context, vol tnv.VolumeID) (Lease, error)

	// Acquire takes the lease over from seen, which must still be current in
	// Epoch and Renewals (else ErrLeaseMoved), with the next epoch. Whether that
	// is due is for the caller to know. It is on disk when it returns.
	Acquire(ctx context.Context, seen Lease, holder string, ttl time.Duration) (Lease, error)

	// Renew renews a lease that is still ours, else ErrFenced.
	Renew(ctx context.Context, l Lease) (Lease, error)

	// Release gives a lease back that is still ours, else ErrFenced. What was
	// applied is on disk when it returns.
	Release(ctx context.Context, l Lease) error

	// Exclusive tells whether no other process can have the engine open: then a
	// lease held by another is that of a dead one.
	Exclusive() bool

	// Name is the engine's name: "mem", "pebble", "postgres".
	Name() string

	// Close waits for calls under way. What was applied is on disk when it returns.
	Close() error
}

// Raiser is an engine that can take over a volume which another engine, or a copy
// of it, has owned until now: its epochs go on above those.
type Raiser interface {
	// Raise gives a lease that is still ours, else ErrFenced, a higher epoch. It is
	// on disk when it returns.
	Raise(ctx context.Context, l Lease, to tnv.Epoch) (Lease, error)
}
