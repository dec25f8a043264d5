package kv

import "context"

// Tracker is the record that a tracker keeps of itself in a shared engine. Who
// watches it sees Beats grow while the tracker lives.
type Tracker struct {
	ID       uint64 // of this run of the tracker: grows with each, never used again
	Addr     string // where it answers
	Beats    uint64
	Draining bool // it wants no volume
}

// Shared is an engine that several trackers have open at once, and in which they
// find each other.
type Shared interface {
	Engine

	// Join makes a record for a tracker that starts.
	Join(ctx context.Context, addr string) (Tracker, error)

	// Beat writes the tracker's record, with Beats grown, and renews leases, all in
	// one step. It returns those of the leases that are still the caller's, as
	// renewed. A record that was removed is made again.
	Beat(ctx context.Context, me Tracker, leases []Lease) ([]Lease, error)

	// Leave removes the tracker's record.
	Leave(ctx context.Context, id uint64) error

	// Trackers lists the records, those of trackers that died without Leave too.
	Trackers(ctx context.Context) ([]Tracker, error)

	// Leases lists the leases of all volumes that ever had one.
	Leases(ctx context.Context) ([]Lease, error)
}
