package trackerd

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

// owner answers who owns a volume.
func (t *tracker) owner(ctx context.Context, rq *protocol.Owner) (*protocol.OwnerReply, error) {
	rep := &protocol.OwnerReply{Vol: rq.Vol, Trackers: t.trackers()}
	if rq.Name != "" {
		var err error
		if rep.Vol, err = t.directory.find(ctx, rq.Name); err != nil {
			return nil, err
		}
	}
	if h := t.held.get(rep.Vol); h != nil && h.sure() == nil {
		rep.Here, rep.Addr, rep.Epoch = true, t.addr, h.lease.Epoch
	} else if t.contender != nil {
		rep.Addr, rep.Epoch = t.contender.owner(rep.Vol)
	}
	return rep, nil
}

// trackers are the addresses of those that live, where there may be several.
func (t *tracker) trackers() []string {
	if t.contender == nil {
		return nil
	}
	return t.contender.addrs()
}

// admit takes a storage daemon into the cluster: here, or at the owner of the
// cluster's own volume.
func (t *tracker) admit(ctx context.Context, rq *protocol.Admit) (*protocol.AdmitReply, error) {
	return onRegistry(t, func(r *meta.Registry) (*protocol.AdmitReply, error) {
		id, err := r.Admit(ctx, rq.Node, rq.Group, rq.SameHost)
		return &protocol.AdmitReply{Group: id}, err
	})
}

func (t *tracker) admitSomewhere(ctx context.Context, rq *protocol.Admit) (tnv.GroupID, error) {
	rep, err := t.admit(ctx, rq)
	if tnv.KindOf(err) != tnv.KindNotOwner || t.contender == nil {
		if err != nil {
			return 0, err
		}
		return rep.Group, nil
	}
	addr, _ := t.contender.owner(meta.ClusterVolume)
	if addr == "" {
		return 0, tnv.E("announce", tnv.KindUnavailable, "nobody owns the cluster's registry at the moment")
	}
	var there protocol.AdmitReply
	err = t.pool.Call(ctx, addr, protocol.TypeAdmit, &there, rq)
	return there.Group, err
}

func (t *tracker) takeOver(ctx context.Context, rq *protocol.TakeOver) (done, error) {
	if t.contender == nil {
		return done{}, tnv.E("take over", tnv.KindNotSupported, "the engine of tracker %s is its own", t.addr)
	}
	return done{}, t.contender.takeOver(ctx, rq)
}

func (t *tracker) drain(ctx context.Context, _ *protocol.Drain) (done, error) {
	if t.contender == nil {
		return done{}, tnv.E("drain", tnv.KindUnavailable, "there is no other tracker: the engine of tracker %s is its own", t.addr)
	}
	return done{}, t.contender.drain(context.WithoutCancel(ctx))
}
