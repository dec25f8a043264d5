package trackerd

import (
	"context"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

// handle answers one request.
func (t *tracker) handle(ctx context.Context, p *protocol.Peer, f *protocol.Frame) ([]any, error) {
	defer t.metrics.observe(f.Type, time.Now())
	if meta.IsOperation(f.Type) {
		var head protocol.Head
		if err := f.Decode(&head); err != nil {
			return nil, err
		}
		return on(t, head.Vol, func(v *meta.Volume) ([]any, error) { return v.Do(ctx, f) })
	}
	switch f.Type {
	case protocol.TypeOpenSession:
		return reply(ctx, f, func(ctx context.Context, rq *protocol.OpenSession) (*protocol.SessionInfo, error) {
			return t.openSession(ctx, rq, p)
		})
	case protocol.TypeRecalled:
		return reply(ctx, f, t.recalled)
	case protocol.TypeKeepAlive:
		return reply(ctx, f, t.keepAlive)
	case protocol.TypeCloseSession:
		return reply(ctx, f, t.closeSession)
	case protocol.TypeGetMap:
		return reply(ctx, f, func(_ context.Context, rq *protocol.GetMap) (*protocol.GetMapReply, error) {
			return &protocol.GetMapReply{Map: t.members.newer(rq.Epoch, rq.IfVersion)}, nil
		})
	case protocol.TypeStatus:
		return reply(ctx, f, t.status)
	case protocol.TypeOwner:
		return reply(ctx, f, t.owner)
	case protocol.TypeTakeIDs:
		return reply(ctx, f, t.takeIDs)
	}
	switch {
	case f.Type == protocol.TypeDrain && p.Role == protocol.RoleTool:
		return reply(ctx, f, t.drain)
	case f.Type == protocol.TypeTakeOver && p.Role == protocol.RoleTracker:
		return reply(ctx, f, t.takeOver)
	case f.Type == protocol.TypeAdmit && p.Role == protocol.RoleTracker:
		return reply(ctx, f, t.admit)
	}
	if values, handled, err := t.toolRequest(ctx, p, f); handled {
		return values, err
	}
	if f.Type == protocol.TypeAlive && (p.Role == protocol.RoleTool || p.Role == protocol.RoleClient) { // it changes nothing
		return reply(ctx, f, t.alive)
	}
	if p.Role != protocol.RoleStore {
		return nil, tnv.E("request", tnv.KindNotPermitted, "type %d from a %s", f.Type, p.Role)
	}
	switch f.Type {
	case protocol.TypeAnnounce:
		return reply(ctx, f, func(ctx context.Context, rq *protocol.Announce) (*protocol.AnnounceReply, error) {
			return t.announce(ctx, rq, p)
		})
	case protocol.TypeNodeBeat:
		return reply(ctx, f, t.beat)
	case protocol.TypeAlive:
		return reply(ctx, f, t.alive)
	case protocol.TypeHeld:
		return reply(ctx, f, t.holds)
	case protocol.TypeLacking:
		return reply(ctx, f, t.lacking)
	}
	return nil, tnv.E("request", tnv.KindProtocol, "a tracker does not answer type %d", f.Type)
}

func reply[Rq, Rep any](ctx context.Context, f *protocol.Frame, fn func(context.Context, *Rq) (Rep, error)) ([]any, error) {
	var rq Rq
	if err := f.Decode(&rq); err != nil {
		return nil, err
	}
	rep, err := fn(ctx, &rq)
	if err != nil {
		return nil, err
	}
	return []any{rep}, nil
}

// done is the reply to requests that are answered with nothing.
type done struct {
}

func (t *tracker) openSession(ctx context.Context, rq *protocol.OpenSession, p *protocol.Peer) (*protocol.SessionInfo, error) {
	id, err := t.directory.find(ctx, rq.Volume)
	if err != nil {
		return nil, tnv.Wrap("open session", err)
	}
	return on(t, id, func(v *meta.Volume) (*protocol.SessionInfo, error) {
		info, err := v.OpenSession(ctx, rq, p)
		if err == nil {
			t.watchers.add(p)
		}
		return &info, err
	})
}

// disconnected notes that a connection is over.
func (t *tracker) disconnected(p *protocol.Peer) {
	t.watchers.drop(p)
	t.members.disconnected(p)
}

func (t *tracker) keepAlive(_ context.Context, rq *protocol.KeepAlive) (*protocol.KeepAliveReply, error) {
	return on(t, rq.Vol, func(v *meta.Volume) (*protocol.KeepAliveReply, error) {
		rep, err := v.KeepAlive(rq)
		rep.Map = t.members.newer(t.members.epoch, rq.MapVersion)
		return &rep, err
	})
}

func (t *tracker) closeSession(ctx context.Context, rq *protocol.CloseSession) (done, error) {
	return on(t, rq.Vol, func(v *meta.Volume) (done, error) { return done{}, v.CloseSession(ctx, rq.Session) })
}

func (t *tracker) recalled(_ context.Context, rq *protocol.Recalled) (done, error) {
	return on(t, rq.Vol, func(v *meta.Volume) (done, error) { return done{}, v.Recalled(rq) })
}

func (t *tracker) announce(ctx context.Context, rq *protocol.Announce, via *protocol.Peer) (*protocol.AnnounceReply, error) {
	admitted, err := t.admitSomewhere(ctx, &protocol.Admit{Node: rq.Node, Group: rq.Group, SameHost: rq.SameHost, New: rq.New})
	if err != nil {
		return nil, err
	}
	n := rq.Node
	n.Group = admitted.Group
	t.members.announced(n, admitted.Replaced, rq.Group, via)
	t.watchers.add(via)
	return &protocol.AnnounceReply{Group: n.Group, Map: *t.members.Map(), BeatMs: uint32(beatEvery.Milliseconds())}, nil
}

func (t *tracker) takeIDs(ctx context.Context, rq *protocol.TakeIDs) (*protocol.TakeIDsReply, error) {
	id, err := t.directory.find(ctx, rq.Volume)
	if err != nil {
		return nil, tnv.Wrap("take ids", err)
	}
	return on(t, id, func(v *meta.Volume) (*protocol.TakeIDsReply, error) {
		first, err := v.TakeIDs(ctx, uint64(rq.Count))
		return &protocol.TakeIDsReply{First: first, Count: rq.Count}, err
	})
}

func (t *tracker) beat(_ context.Context, rq *protocol.NodeBeat) (*protocol.NodeBeatReply, error) {
	if err := t.members.beat(rq); err != nil {
		return nil, err
	}
	lacking, _ := t.lacks(rq.Node)
	return &protocol.NodeBeatReply{Map: t.members.newer(rq.MapEpoch, rq.MapVersion), Lacking: lacking}, nil
}

func (t *tracker) alive(ctx context.Context, rq *protocol.Alive) (*protocol.AliveReply, error) {
	if rq.Vol == tnv.CopyVolume {
		return t.pieceStates(rq)
	}
	return on(t, rq.Vol, func(v *meta.Volume) (*protocol.AliveReply, error) {
		state, err := v.Alive(ctx, rq.Blocks)
		return &protocol.AliveReply{State: state}, err
	})
}

func (t *tracker) holds(ctx context.Context, rq *protocol.Held) (done, error) {
	if n := t.members.Map().Node(rq.Node); n == nil || n.Boot != rq.Boot {
		return done{}, tnv.E("held", tnv.KindNotExist, "store %v, boot %d, is not known: announce it", rq.Node, rq.Boot)
	}
	if len(rq.Blocks) > protocol.MaxBatch {
		return done{}, tnv.E("held", tnv.KindInvalid, "%d blocks, at most %d", len(rq.Blocks), protocol.MaxBatch)
	}
	if rq.Vol == tnv.CopyVolume {
		return done{}, nil
	}
	return on(t, rq.Vol, func(v *meta.Volume) (done, error) { return done{}, v.Held(ctx, rq.Node, rq.Blocks) })
}

func (t *tracker) lacking(ctx context.Context, rq *protocol.Lacking) (*protocol.LackingReply, error) {
	if rq.Vol == tnv.CopyVolume {
		return &protocol.LackingReply{}, nil
	}
	limit := int(min(max(rq.Limit, 1), protocol.MaxBatch))
	return on(t, rq.Vol, func(v *meta.Volume) (*protocol.LackingReply, error) {
		blocks, err := v.Lacking(ctx, rq.Node, rq.From, limit)
		return &protocol.LackingReply{Blocks: blocks, More: len(blocks) == limit}, err
	})
}

// status is what this tracker knows: of volumes, those that it owns.
func (t *tracker) status(ctx context.Context, _ *protocol.StatusRequest) (*protocol.Status, error) {
	st := &protocol.Status{Trackers: []protocol.TrackerStatus{{Addr: t.addr, Alive: true, Engine: t.engine.Name()}}}
	for _, addr := range t.trackers() {
		if addr != t.addr {
			st.Trackers = append(st.Trackers, protocol.TrackerStatus{Addr: addr, Alive: true, Engine: t.engine.Name()})
		}
	}
	for _, v := range t.held.volumes() {
		vs, err := on(t, v.ID(), func(v *meta.Volume) (protocol.VolumeStatus, error) { return v.Status(ctx) })
		if tnv.KindOf(err) == tnv.KindNotOwner {
			continue // it has just moved
		}
		if err != nil {
			return nil, err
		}
		vs.Owner = t.addr
		st.Volumes = append(st.Volumes, vs)
	}
	st.Groups = t.members.status(t.lacks)
	return st, nil
}

// lacks is how much the metadata of all volumes here knows a store to lack.
func (t *tracker) lacks(n tnv.NodeID) (blocks, bytes uint64) {
	for _, v := range t.held.volumes() {
		b, by := v.Lacks(n)
		blocks, bytes = blocks+b, bytes+by
	}
	return blocks, bytes
}
