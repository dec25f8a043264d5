package meta

import (
	"context"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/protocol"
)

// volumeState says what may be done with a volume. The numbers are on disk.
type volumeState uint8

const (
	volumeActive  volumeState = iota
	volumeLoading             // its records are being loaded, or were when that was interrupted
	volumeDeleted             // it comes back if that is wanted before PurgeAt
	volumePurging             // its records are being removed, and then its blocks
	volumeGone                // nothing is left of it; its id stays taken
	volumeMoved               // its records have moved to another engine
)

func (s volumeState) String() string {
	switch s {
	case volumeActive:
		return "active"
	case volumeLoading:
		return "loading"
	case volumeDeleted:
		return "deleted"
	case volumePurging:
		return "purging"
	case volumeGone:
		return "gone"
	case volumeMoved:
		return "moved"
	}
	return "unknown"
}

// volume is a volume as volume 0 knows it.
type volume struct {
	ID          tnv.VolumeID
	Name        string
	MinReplicas uint32

	State    volumeState
	PurgeAt  int64  // of a deleted one, nanoseconds since 1970
	MaxFiles uint64 // 0: no limit
	MaxBytes uint64 // 0: no limit
	KeyGen   uint32 // of its keys: those of earlier generations are refused
}

// volumeV1 is a volume as the first format had it.
type volumeV1 struct {
	ID          tnv.VolumeID
	Name        string
	MinReplicas uint32
}

func (v *volume) encode() []byte {
	b := packed(v)
	b[0] = recordV2
	return b
}

func decodeVolume(b []byte) (any, error) {
	if len(b) == 0 || b[0] != recordV2 {
		v, err := unpack[volumeV1](b)
		old := v.(*volumeV1)
		return &volume{ID: old.ID, Name: old.Name, MinReplicas: old.MinReplicas}, err
	}
	v := new(volume)
	if protocol.Unmarshal(b[1:], v) != nil || v.State > volumeMoved {
		return v, tnv.E("decode record", tnv.KindCorrupt, "damaged or of a newer format")
	}
	return v, nil
}

// usable tells whether a volume may be opened.
func (v *volume) usable(op string) error {
	switch v.State {
	case volumeActive:
		return nil
	case volumeLoading:
		return tnv.E(op, tnv.KindUnavailable, "volume %s is being loaded, or that was interrupted: run `tnv load` to its end", v.Name)
	case volumeMoved:
		return tnv.E(op, tnv.KindUnavailable, "volume %s has moved to another engine: `tnv volume undelete` takes it back as it was", v.Name)
	}
	return tnv.E(op, tnv.KindNotExist, "volume %s was deleted", v.Name)
}

// firstVolume is the lowest id that a volume may have.
const firstVolume tnv.VolumeID = 2

// key is what a volume's record stands under: its name, which is free again when
// nothing is left of the volume.
func (v *volume) key() string {
	if v.State == volumeGone {
		return volumeKey("\x00" + key1(keyVolume, uint64(v.ID)))
	}
	return volumeKey(v.Name)
}

// volumeNamed finds a volume by its name, nil if there is none.
func (r *Registry) volumeNamed(ctx context.Context, name string) (v *volume, err error) {
	err = r.read(ctx, func(tx *Tx) error {
		v, err = getAs[volume](tx, volumeKey(name))
		return err
	})
	return v, err
}

// volumeByID finds a volume by its number, nil if there never was one.
func (r *Registry) volumeByID(ctx context.Context, id tnv.VolumeID) (found *volume, err error) {
	err = eachRecord(ctx, r.store, keyVolume, func(val any) {
		if v := val.(*volume); v.ID == id {
			found = v
		}
	})
	return found, err
}

// putVolume writes a volume's record, on disk when this returns.
func (r *Registry) putVolume(ctx context.Context, v *volume) error {
	err := r.mutate(ctx, func(tx *Tx) error {
		tx.set(v.key(), v)
		return nil
	})
	if err != nil {
		return err
	}
	return r.sync(ctx)
}

// dropVolume removes a volume's record, as if there had been none.
func (r *Registry) dropVolume(ctx context.Context, v *volume) error {
	err := r.mutate(ctx, func(tx *Tx) error {
		tx.del(v.key())
		return nil
	})
	if err != nil {
		return err
	}
	return r.sync(ctx)
}

// passID sees to it that ids of volumes and groups are made above one that comes from elsewhere.
func (r *Registry) passID(ctx context.Context, id uint64) error {
	err := r.mutate(ctx, func(tx *Tx) error {
		ids := r.ids[idIno]
		if ids.next > id {
			return nil
		}
		next := max(ids.limit, id+1)
		tx.set(counterKey(idIno), &counter{next})
		tx.then(func() { ids.next, ids.limit = next, next })
		return nil
	})
	if err != nil {
		return err
	}
	return r.sync(ctx)
}

// readCounter reads a counter of a volume that is not open; 0 if there is none.
func readCounter(ctx context.Context, engine kv.Engine, vol tnv.VolumeID, name string) (uint64, error) {
	got, err := engine.Get(ctx, vol, []byte(counterKey(name)))
	if err != nil || got[0] == nil {
		return 0, err
	}
	c, err := decodeCounter(got[0])
	if err != nil {
		return 0, &tnv.Error{Op: "read metadata", Kind: tnv.KindCorrupt, Msg: formatKey(vol, counterKey(name)), Err: err}
	}
	return c.(*counter).Next, nil
}

// Lease that nobody renews stands still: takeOver waits for that.
const (
	loadTTL    = 3 * time.Second
	loadMargin = time.Second
)

// takeOver acquires a volume's lease for an offline tool. Where the engine may be
// open in a tracker, it waits until the lease has certainly lapsed. KindBusy: a tracker renews it.
func takeOver(ctx context.Context, engine kv.Engine, vol tnv.VolumeID) (kv.Lease, error) {
	seen, err := engine.Lease(ctx, vol)
	if err != nil {
		return kv.Lease{}, err
	}
	if !engine.Exclusive() && seen.Epoch != 0 && !seen.Released {
		select {
		case <-time.After(seen.TTL + loadMargin):
		case <-ctx.Done():
			return kv.Lease{}, ctx.Err()
		}
		is, err := engine.Lease(ctx, vol)
		if err != nil {
			return kv.Lease{}, err
		}
		if is.Epoch != seen.Epoch || is.Renewals != seen.Renewals {
			return kv.Lease{}, tnv.E("own volume", tnv.KindBusy, "tracker %s is at work on it: stop the trackers first", is.Holder)
		}
	}
	return engine.Acquire(ctx, seen, "tnv", loadTTL)
}
