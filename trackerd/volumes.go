package trackerd

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

// Volumes come and go while trackers run. The registry's record is what counts, on
// disk before anybody is told; each tracker makes what it owns follow (reconcile, or
// contender.act where there are several).

const (
	purgeEvery   = 5 * time.Second
	purgeTimeout = 10 * time.Second
)

// volumeRequest answers the requests of package protocol about volumes.
func (t *tracker) volumeRequest(ctx context.Context, f *protocol.Frame) ([]any, error) {
	switch f.Type {
	case protocol.TypeCreateVolume:
		return changeVolumes(ctx, t, f, func(r *meta.Registry, rq *protocol.CreateVolume) (protocol.VolumeInfo, error) {
			return r.CreateVolume(ctx, rq.Name)
		})
	case protocol.TypeDeleteVolume:
		return changeVolumes(ctx, t, f, func(r *meta.Registry, rq *protocol.DeleteVolume) (protocol.VolumeInfo, error) {
			delay := time.Duration(min(rq.DelayMs, math.MaxInt64/uint64(4*time.Millisecond))) * time.Millisecond
			return r.DeleteVolume(ctx, rq.Name, time.Now().Add(delay))
		})
	case protocol.TypeUndeleteVolume:
		return changeVolumes(ctx, t, f, func(r *meta.Registry, rq *protocol.UndeleteVolume) (protocol.VolumeInfo, error) {
			return r.UndeleteVolume(ctx, rq.Name)
		})
	case protocol.TypeRenameVolume:
		return changeVolumes(ctx, t, f, func(r *meta.Registry, rq *protocol.RenameVolume) (protocol.VolumeInfo, error) {
			return r.RenameVolume(ctx, rq.Name, rq.To)
		})
	case protocol.TypeSetVolume:
		return changeVolumes(ctx, t, f, func(r *meta.Registry, rq *protocol.SetVolume) (protocol.VolumeInfo, error) {
			return r.SetVolume(ctx, rq)
		})
	}
	return reply(ctx, f, t.listVolumes)
}

func (t *tracker) listVolumes(ctx context.Context, rq *protocol.ListVolumes) (*protocol.ListVolumesReply, error) {
	return onRegistry(t, func(r *meta.Registry) (*protocol.ListVolumesReply, error) {
		l, more, err := r.ListVolumes(ctx, rq.After, int(min(max(rq.Limit, 1), protocol.MaxBatch)))
		return &protocol.ListVolumesReply{Volumes: l, More: more}, err
	})
}

// changeVolumes executes a change, has this tracker follow, and answers. A change that
// was made stays, though whoever asked has gone away.
func changeVolumes[Rq any](ctx context.Context, t *tracker, f *protocol.Frame, change func(*meta.Registry, *Rq) (protocol.VolumeInfo, error)) ([]any, error) {
	return reply(ctx, f, func(ctx context.Context, rq *Rq) (*protocol.VolumeInfo, error) {
		info, err := onRegistry(t, func(r *meta.Registry) (protocol.VolumeInfo, error) { return change(r, rq) })
		if err != nil {
			return nil, err
		}
		return &info, t.reconcile(context.WithoutCancel(ctx))
	})
}

// reconcile opens, closes and sets what this tracker owns, as the registry says. Where
// there are several trackers, opening and closing is the contender's.
func (t *tracker) reconcile(ctx context.Context) error {
	t.changing.Lock()
	defer t.changing.Unlock()
	if err := t.directory.refresh(ctx); err != nil {
		return err
	}
	d := t.directory.get()
	t.applySettings()
	if t.contender != nil {
		return nil
	}
	for _, h := range t.held.list() {
		if _, there := d.Settings[h.lease.Vol]; h.volume == nil || there || !t.held.take(h) {
			continue
		}
		h.volume.Disconnect()
		h.end()
		h.close()
		t.held.forget(h)
	}
	return t.ownAll(ctx, t.directory.volumes())
}

// applySettings has the volumes that are owned here follow their settings.
func (t *tracker) applySettings() {
	d := t.directory.get()
	for _, v := range t.held.volumes() {
		if set, there := d.Settings[v.ID()]; there {
			v.SetSettings(set)
		}
	}
}

// purgeLoop removes what is left of deleted volumes whose time has come: whoever owns
// the registry does.
func (t *tracker) purgeLoop(ctx context.Context) {
	for ; ctx.Err() == nil; pause(ctx, purgeEvery) {
		ids, err := onRegistry(t, func(r *meta.Registry) ([]tnv.VolumeID, error) { return r.BeginPurge(ctx, time.Now()) })
		if err == nil && len(ids) > 0 {
			err = t.directory.refresh(ctx)
		}
		for _, id := range ids {
			if err == nil {
				err = t.purge(ctx, id)
			}
		}
		if err != nil && ctx.Err() == nil && tnv.KindOf(err) != tnv.KindNotOwner {
			t.log.WithError(err).Warn("a deleted volume is not gone yet; it is tried again")
		}
	}
}

// purge takes one step: it removes the records, and the blocks from every store that
// answers. The volume is gone when a later step has found nothing on any store there is.
func (t *tracker) purge(ctx context.Context, id tnv.VolumeID) error {
	if t.held.get(id) != nil || !t.copied(ctx) { // what could be restored may have the volume, still
		return nil
	}
	if err := meta.Purge(ctx, t.engine, id); err != nil {
		return err
	}
	found, all := 0, []error(nil)
	for _, g := range t.members.Map().Groups {
		for _, n := range g.Nodes {
			if n.State == tnv.NodeLost {
				all = append(all, tnv.E("purge volume", tnv.KindUnavailable, "store %v is lost: it may hold blocks of volume %d", n.ID, id))
				continue
			}
			all = append(all, t.eachListed(ctx, n, id, func(page []protocol.ListedBlock) error {
				found += len(page)
				ids := make([]tnv.BlockID, len(page))
				for i, b := range page {
					ids[i] = b.Block
				}
				call, cancel := context.WithTimeout(ctx, purgeTimeout)
				defer cancel()
				return t.pool.Call(call, n.Addr, protocol.TypeDelete, nil, &protocol.Delete{Node: n.ID, Vol: id, Blocks: ids})
			}))
		}
	}
	if err := errors.Join(all...); err != nil || found > 0 {
		return err
	}
	_, err := onRegistry(t, func(r *meta.Registry) (done, error) { return done{}, r.Gone(ctx, id) })
	if err == nil {
		t.log.WithField("volume", id).Info("a deleted volume is gone")
	}
	return err
}
