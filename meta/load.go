package meta

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// Load puts a volume that Dump wrote into an engine, of which no tracker owns the
// volume or the registry. The volume keeps its id, under which the storage groups
// hold its blocks, and its epochs, batches and ids go on far above those of the dump:
// what was granted since it was made is never granted again.
//
// Invariant: until the whole dump is verified and on disk the registry has the volume
// as loading, or not at all, and no tracker opens it. A load that fails leaves the
// volumes as they were; one that was killed is run again.
//
// A volume of that id that is there already must be empty, or have moved away.
func Load(ctx context.Context, engine kv.Engine, cluster string, r io.Reader, log *logrus.Entry) (st DumpStats, err error) {
	const op = "load"
	d, info, err := newDumpReader(r)
	if err != nil {
		return st, err
	}
	st.Info = info
	if err := info.check(cluster); err != nil {
		return st, err
	}
	lease, err := takeOver(ctx, engine, ClusterVolume)
	if err != nil {
		return st, tnv.Wrap(op, err)
	}
	if lease, err = raise(ctx, engine, lease, info.Epoch+epochJump(time.Now())); err != nil {
		return st, tnv.Wrap(op, err)
	}
	stop := renewing(engine, lease)
	defer func() {
		stop()
		if rerr := engine.Release(context.WithoutCancel(ctx), lease); err == nil {
			err = rerr
		}
	}()
	reg, err := OpenRegistry(ctx, engine, lease, log)
	if err != nil {
		return st, err
	}
	defer reg.Close()
	l := &loading{engine: engine, info: info}
	undo, err := reg.beginLoad(ctx, l)
	if err != nil {
		return st, err
	}
	if err = l.run(ctx, d); err == nil {
		err = reg.endLoad(ctx, info)
	}
	st.Records, st.Files = d.records, l.files
	if err != nil {
		clean := context.WithoutCancel(ctx)
		if uerr := l.purge(clean); uerr != nil {
			log.WithError(uerr).Error("what was loaded could not be removed: run the load again")
			return st, tnv.Wrap(op, err)
		}
		if uerr := undo(clean); uerr != nil {
			log.WithError(uerr).Error("the volume stays marked as loading: run the load again")
		}
		return st, tnv.Wrap(op, err)
	}
	return st, engine.Release(ctx, l.lease)
}

func (i DumpInfo) check(cluster string) error {
	switch {
	case i.Cluster != cluster:
		return badDump(tnv.KindWrongCluster, "it is of cluster %.40q, whose storage groups hold its blocks; this is cluster %s", i.Cluster, cluster)
	case i.ID < firstVolume || i.ID >= tnv.CopyVolume || checkName(i.Volume) != nil:
		return badDump(tnv.KindCorrupt, "it is of volume %d with the name %q", i.ID, i.Volume)
	}
	seen := map[tnv.GroupID]bool{}
	for _, g := range i.Groups {
		if checkName(g.Name) != nil || seen[g.ID] {
			return badDump(tnv.KindCorrupt, "it names group %d, %q", g.ID, g.Name)
		}
		seen[g.ID] = true
	}
	return nil
}

// renewing keeps a lease alive until the function returned is called.
func renewing(engine kv.Engine, lease kv.Lease) (stop func()) {
	if engine.Exclusive() {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(lease.TTL / 3):
				if next, err := engine.Renew(ctx, lease); err == nil {
					lease = next
				}
			}
		}
	}()
	return func() { cancel(); <-done }
}

// loading is a load under way.
type loading struct {
	engine kv.Engine
	info   DumpInfo
	groups map[tnv.GroupID]tnv.GroupID // the dump's numbers and this engine's
	lease  kv.Lease
	seq    tnv.BatchSeq // the engine's
	files  uint64
	top    tnv.BatchSeq // the newest batch that a record names

	writes []kv.Write
	bytes  int
}

const (
	loadBytes  = 1 << 20
	loadWrites = 4096
)

// run loads the records, and last the counters: with them the volume goes on above
// all that the dump, or this engine before, knew of.
func (l *loading) run(ctx context.Context, d *dumpReader) (err error) {
	if l.lease, err = takeOver(ctx, l.engine, l.info.ID); err != nil {
		return err
	}
	if l.lease, err = raise(ctx, l.engine, l.lease, l.info.Epoch+epochJump(time.Now())); err != nil {
		return err
	}
	defer renewing(l.engine, l.lease)()
	if l.seq, err = l.engine.Seq(ctx, l.info.ID); err != nil {
		return err
	}
	if err := l.purge(ctx); err != nil {
		return err
	}
	counters := map[string]uint64{}
	err = d.each(func(key, value []byte) error {
		as, carried, err := carry(key, value, l.groups)
		if err != nil || !carried {
			return badDump(tnv.KindCorrupt, "record %s: %v", namedKey(l.info.ID, key), err)
		}
		switch key[0] {
		case keyInode:
			l.files++
		case keyCounter:
			c, _ := decodeCounter(value)
			counters[string(key[1:])] = c.(*counter).Next
			return nil
		}
		l.top = max(l.top, seqIn(key, value))
		return l.write(ctx, key, as)
	})
	if err != nil {
		return err
	}
	if err := l.count(ctx, counters); err != nil {
		return err
	}
	if err := l.flush(ctx); err != nil {
		return err
	}
	return l.engine.Sync(ctx)
}

// count sets the counters.
func (l *loading) count(ctx context.Context, counters map[string]uint64) error {
	counters[idSeq] = max(counters[idSeq], uint64(l.top))
	for name := range idSteps {
		counters[name] += 0 // all of them, those too that the dump has not
	}
	for name, next := range counters {
		here, err := readCounter(ctx, l.engine, l.info.ID, name)
		if err != nil {
			return err
		}
		if next = max(next, here); next > 1<<62 {
			return badDump(tnv.KindCorrupt, "its counter %.20q stands at %d", name, next)
		}
		if next > 0 {
			next = skipAhead(next, time.Now())
			if err := l.write(ctx, []byte(counterKey(name)), (&counter{next}).encode()); err != nil {
				return err
			}
		}
	}
	key, value := RestoredMark() // what was written since looks as if nothing named it (D7)
	return l.write(ctx, key, value)
}

func (l *loading) write(ctx context.Context, key, value []byte) error {
	w := kv.Write{Key: append([]byte(nil), key...)}
	if value != nil {
		w.Value = append([]byte{}, value...)
	}
	l.writes = append(l.writes, w)
	if l.bytes += len(key) + len(value); l.bytes < loadBytes && len(l.writes) < loadWrites {
		return nil
	}
	return l.flush(ctx)
}

func (l *loading) flush(ctx context.Context) error {
	if len(l.writes) == 0 {
		return nil
	}
	l.seq++
	err := l.engine.Apply(ctx, kv.Fence{Vol: l.info.ID, Epoch: l.lease.Epoch}, []kv.Batch{{Seq: l.seq, Writes: l.writes}})
	l.writes, l.bytes = nil, 0
	return err
}

// purge removes all records of the volume but its counters: ids that were granted
// here stay granted.
func (l *loading) purge(ctx context.Context) error {
	l.writes, l.bytes = nil, 0
	seq, err := l.engine.Seq(ctx, l.info.ID) // an Apply that failed may have counted
	if err != nil || l.lease.Epoch == 0 {
		return err
	}
	l.seq = seq
	return purgeRecords(ctx, l.engine, l.info.ID, func(key []byte) error { return l.write(ctx, key, nil) }, func() error { return l.flush(ctx) })
}

// purgeRecords deletes the records of a volume in bounded steps, counters excepted.
func purgeRecords(ctx context.Context, engine kv.Engine, vol tnv.VolumeID, del func(key []byte) error, flush func() error) error {
	from := []byte{0}
	for {
		var keys [][]byte
		n := 0
		err := engine.Scan(ctx, vol, from, nil, loadWrites, func(key, _ []byte) bool {
			from = append(append(from[:0:0], key...), 0)
			if n++; key[0] != keyCounter {
				keys = append(keys, append([]byte(nil), key...))
			}
			return true
		})
		if err != nil {
			return err
		}
		for _, k := range keys {
			if err := del(k); err != nil {
				return err
			}
		}
		if err := flush(); err != nil {
			return err
		}
		if n < loadWrites {
			return nil
		}
	}
}

// raise brings a lease that is held to an epoch at least.
func raise(ctx context.Context, engine kv.Engine, lease kv.Lease, to tnv.Epoch) (kv.Lease, error) {
	if lease.Epoch >= to {
		return lease, nil
	}
	r, can := engine.(kv.Raiser)
	if !can {
		return lease, tnv.E("raise epoch", tnv.KindNotSupported, "engine %s cannot take over a volume from elsewhere", engine.Name())
	}
	return r.Raise(ctx, lease, to)
}

// beginLoad enters the volume as loading and settles the numbers of its groups. undo
// leaves the volumes as they were.
func (r *Registry) beginLoad(ctx context.Context, l *loading) (undo func(context.Context) error, err error) {
	const op = "load"
	info := l.info
	was, err := r.volumeByID(ctx, info.ID)
	if err != nil {
		return nil, err
	}
	named, err := r.volumeNamed(ctx, info.Volume)
	switch {
	case err != nil:
		return nil, err
	case was != nil && was.Name != info.Volume:
		return nil, tnv.E(op, tnv.KindConflict, "volume %d is %s here (%v), and %s in the dump", info.ID, was.Name, was.State, info.Volume)
	case was != nil && (was.State == volumeDeleted || was.State == volumePurging || was.State == volumeGone):
		return nil, tnv.E(op, tnv.KindConflict, "volume %s was deleted here, and with it its blocks", info.Volume)
	}
	for _, v := range []*volume{was, named} {
		if v != nil && v.State != volumeLoading && v.State != volumeMoved {
			if err := checkEmpty(ctx, l.engine, v); err != nil {
				return nil, err
			}
		}
	}
	if l.groups, err = r.numberGroups(ctx, info.Groups); err != nil {
		return nil, err
	}
	is := &volume{ID: info.ID, Name: info.Volume, MinReplicas: info.MinReplicas}
	if was != nil {
		*is = *was
	}
	is.State = volumeLoading
	if err := r.passID(ctx, uint64(info.ID)); err != nil {
		return nil, err
	}
	if named != nil && named.ID != info.ID { // an empty one of that name: nothing is lost with it
		gone := *named
		gone.State = volumeGone
		if err := r.putVolume(ctx, &gone); err != nil {
			return nil, err
		}
	}
	if err := r.putVolume(ctx, is); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		switch {
		case named != nil && named.ID != info.ID:
			gone := *named
			gone.State = volumeGone
			return errors.Join(r.putVolume(ctx, named), r.dropVolume(ctx, &gone))
		case was == nil || was.State == volumeLoading:
			return r.dropVolume(ctx, is)
		}
		return r.putVolume(ctx, was)
	}, nil
}

// endLoad makes a volume that was loaded whole what trackers open.
func (r *Registry) endLoad(ctx context.Context, info DumpInfo) error {
	is, err := r.volumeNamed(ctx, info.Volume)
	if err != nil {
		return err
	}
	done := *is
	done.State, done.MinReplicas = volumeActive, info.MinReplicas
	return r.putVolume(ctx, &done)
}

// checkEmpty tells whether nothing was ever put into a volume that stands in the way.
func checkEmpty(ctx context.Context, engine kv.Engine, v *volume) error {
	used := false
	for _, class := range []byte{keyDentry, keyChunk, keyDeletion, keyUnlinked} {
		from := string([]byte{class})
		err := engine.Scan(ctx, v.ID, []byte(from), []byte(prefixEnd(from)), 1, func(_, _ []byte) bool {
			used = true
			return false
		})
		if err != nil {
			return err
		}
	}
	if used {
		return tnv.E("load", tnv.KindExist, "volume %s is here already, and has content", v.Name)
	}
	return nil
}

// numberGroups finds the groups of a dump by their names, and makes those that are not there.
func (r *Registry) numberGroups(ctx context.Context, groups []DumpGroup) (map[tnv.GroupID]tnv.GroupID, error) {
	known, err := r.Known(ctx)
	if err != nil {
		return nil, err
	}
	numbers := map[tnv.GroupID]tnv.GroupID{}
	for _, k := range known {
		for _, g := range groups {
			if g.Name == k.Name {
				numbers[g.ID] = k.ID
			}
		}
	}
	for _, g := range groups {
		if numbers[g.ID] != 0 {
			continue
		}
		err := r.mutate(ctx, func(tx *Tx) error {
			id, err := tx.newIDs(idIno, 1)
			if err != nil {
				return err
			}
			numbers[g.ID] = tnv.GroupID(id)
			tx.set(groupKey(tnv.GroupID(id)), &group{ID: tnv.GroupID(id), Name: g.Name})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return numbers, nil
}
