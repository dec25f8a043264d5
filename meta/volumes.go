package meta

import (
	"context"
	"slices"
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

	// Former are names that it had: clients that know it by one come back by it.
	Former []string
}

// maxFormer is how many former names a volume keeps; the oldest go first.
const maxFormer = 16

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

// infoOf is a volume as tools are told of it.
func infoOf(v *volume) protocol.VolumeInfo {
	return protocol.VolumeInfo{ID: v.ID, Name: v.Name, State: v.State.String(), PurgeAt: v.PurgeAt,
		MinReplicas: v.MinReplicas, MaxFiles: v.MaxFiles, MaxBytes: v.MaxBytes, KeyGen: v.KeyGen}
}

// CreateVolume makes a volume. KindExist: one has, or had, that name.
func (r *Registry) CreateVolume(ctx context.Context, name string) (protocol.VolumeInfo, error) {
	const op = "create volume"
	taken, err := r.nameTaken(ctx, name, 0)
	if err == nil && taken != nil {
		err = tnv.E(op, tnv.KindExist, "%q is %s", name, taken.describe())
	}
	if err != nil {
		return protocol.VolumeInfo{}, tnv.Wrap(op, err)
	}
	if _, err := r.EnsureVolume(ctx, name); err != nil {
		return protocol.VolumeInfo{}, err
	}
	is, err := r.volumeNamed(ctx, name)
	if err != nil {
		return protocol.VolumeInfo{}, err
	}
	return infoOf(is), r.sync(ctx)
}

func (v *volume) describe() string {
	return "the name, or a former name, of volume " + v.Name + ", which is " + v.State.String()
}

// nameTaken finds who has a name, or had it and is found by it; but is not meant.
func (r *Registry) nameTaken(ctx context.Context, name string, but tnv.VolumeID) (taken *volume, err error) {
	err = eachRecord(ctx, r.store, keyVolume, func(val any) {
		v := val.(*volume)
		if v.ID != but && v.State != volumeGone && (v.Name == name || slices.Contains(v.Former, name)) {
			taken = v
		}
	})
	return taken, err
}

// ListVolumes lists volumes that are not gone, in the order of their names, behind one.
func (r *Registry) ListVolumes(ctx context.Context, after string, limit int) (l []protocol.VolumeInfo, more bool, err error) {
	from := volumeKey(after) + "\x00"
	if after == "" {
		from = volumeKey("\x01") // behind those that are gone
	}
	pairs, seen, err := r.scan(ctx, from, prefixEnd(volumeKey("")), limit+1, nil)
	if err != nil {
		return nil, false, err
	}
	for i, p := range pairs {
		val, err := decodeVolume(p.value)
		if err != nil {
			return nil, false, r.damaged(p.key, err)
		}
		if more = i == limit; !more {
			l = append(l, infoOf(val.(*volume)))
		}
	}
	return l, more, r.wait(ctx, seen)
}

// changeVolume changes the record of a volume that has one of some states.
func (r *Registry) changeVolume(ctx context.Context, op, name string, states []volumeState, change func(*volume) error) (protocol.VolumeInfo, error) {
	var is volume
	err := r.mutate(ctx, func(tx *Tx) error {
		v, err := getAs[volume](tx, volumeKey(name))
		switch {
		case err != nil:
			return err
		case v == nil:
			return tnv.E(op, tnv.KindNotExist, "there is no volume %q", name)
		case !slices.Contains(states, v.State):
			return tnv.E(op, tnv.KindConflict, "volume %s is %v", name, v.State)
		}
		is = *v
		is.Former = slices.Clone(v.Former)
		if err := change(&is); err != nil {
			return err
		}
		if is.key() != v.key() {
			tx.del(v.key())
		}
		tx.set(is.key(), &is)
		return nil
	})
	if err != nil {
		return protocol.VolumeInfo{}, err
	}
	return infoOf(&is), r.sync(ctx)
}

// DeleteVolume has a volume vanish; from a moment on its content may be purged.
func (r *Registry) DeleteVolume(ctx context.Context, name string, purgeAt time.Time) (protocol.VolumeInfo, error) {
	return r.changeVolume(ctx, "delete volume", name, []volumeState{volumeActive, volumeDeleted, volumeLoading, volumeMoved}, func(v *volume) error {
		v.State, v.PurgeAt = volumeDeleted, purgeAt.UnixNano()
		return nil
	})
}

// UndeleteVolume brings a volume back that was deleted and not purged, or has moved away.
func (r *Registry) UndeleteVolume(ctx context.Context, name string) (protocol.VolumeInfo, error) {
	return r.changeVolume(ctx, "undelete volume", name, []volumeState{volumeDeleted, volumeMoved}, func(v *volume) error {
		v.State, v.PurgeAt = volumeActive, 0
		return nil
	})
}

// RenameVolume gives a volume another name; the old one leads to it, still.
func (r *Registry) RenameVolume(ctx context.Context, name, to string) (protocol.VolumeInfo, error) {
	const op = "rename volume"
	if err := checkName(to); err != nil {
		return protocol.VolumeInfo{}, tnv.Wrap(op, err)
	}
	is, err := r.volumeNamed(ctx, name)
	if err == nil && is == nil {
		err = tnv.E(op, tnv.KindNotExist, "there is no volume %q", name)
	}
	if err != nil {
		return protocol.VolumeInfo{}, err
	}
	taken, err := r.nameTaken(ctx, to, is.ID)
	if err == nil && taken != nil {
		err = tnv.E(op, tnv.KindExist, "%q is %s", to, taken.describe())
	}
	if err != nil {
		return protocol.VolumeInfo{}, err
	}
	return r.changeVolume(ctx, op, name, []volumeState{volumeActive, volumeDeleted}, func(v *volume) error {
		v.Former = append(slices.DeleteFunc(v.Former, func(n string) bool { return n == to || n == name }), name)
		v.Former = v.Former[max(0, len(v.Former)-maxFormer):]
		v.Name = to
		return nil
	})
}

// SetVolume changes settings.
func (r *Registry) SetVolume(ctx context.Context, rq *protocol.SetVolume) (protocol.VolumeInfo, error) {
	return r.changeVolume(ctx, "set volume", rq.Name, []volumeState{volumeActive, volumeDeleted, volumeMoved}, func(v *volume) error {
		if rq.Set&protocol.SetMinReplicas != 0 {
			v.MinReplicas = rq.Info.MinReplicas
		}
		if rq.Set&protocol.SetMaxFiles != 0 {
			v.MaxFiles = rq.Info.MaxFiles
		}
		if rq.Set&protocol.SetMaxBytes != 0 {
			v.MaxBytes = rq.Info.MaxBytes
		}
		if rq.Set&protocol.SetKeyGen != 0 {
			v.KeyGen++
		}
		return nil
	})
}

// BeginPurge marks the volumes whose time has come as purging, which nothing undoes,
// and lists all that are.
func (r *Registry) BeginPurge(ctx context.Context, now time.Time) (ids []tnv.VolumeID, err error) {
	var due []string
	err = eachRecord(ctx, r.store, keyVolume, func(val any) {
		switch v := val.(*volume); {
		case v.State == volumePurging:
			ids = append(ids, v.ID)
		case v.State == volumeDeleted && v.PurgeAt <= now.UnixNano():
			due = append(due, v.Name)
		}
	})
	for _, name := range due {
		if err != nil {
			break
		}
		var is protocol.VolumeInfo
		is, err = r.changeVolume(ctx, "purge volume", name, []volumeState{volumeDeleted}, func(v *volume) error {
			if v.PurgeAt > now.UnixNano() { // deleted again meanwhile, for later
				return tnv.E("purge volume", tnv.KindConflict, "not yet")
			}
			v.State = volumePurging
			return nil
		})
		switch {
		case err == nil:
			ids = append(ids, is.ID)
		case tnv.KindOf(err) == tnv.KindConflict, tnv.KindOf(err) == tnv.KindNotExist: // undeleted, or renamed
			err = nil
		}
	}
	return ids, err
}

// Gone says that nothing is left of a volume that was purged. Its name is free; its id
// is not used again.
func (r *Registry) Gone(ctx context.Context, id tnv.VolumeID) error {
	v, err := r.volumeByID(ctx, id)
	if err != nil || v == nil {
		return err
	}
	_, err = r.changeVolume(ctx, "purge volume", v.Name, []volumeState{volumePurging}, func(v *volume) error {
		v.State, v.Former = volumeGone, nil
		return nil
	})
	return err
}

// Purge removes the records of a volume that nobody opens any more.
func Purge(ctx context.Context, engine kv.Engine, vol tnv.VolumeID) error {
	lease, err := takeOver(ctx, engine, vol)
	if err != nil {
		return err
	}
	l := &loading{engine: engine, info: DumpInfo{ID: vol}, lease: lease}
	if err := l.purge(ctx); err != nil {
		return err
	}
	return engine.Release(ctx, lease)
}
