package trackerd

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

const (
	// moversAtOnce is how many chunks are moved at the same time.
	moversAtOnce   = 4
	composeTimeout = 60 * time.Second
	// chunksPage is how many chunks are looked for at a time.
	chunksPage = 256
	// defaultMoveRate is in bytes per second.
	defaultMoveRate = 64 << 20
)

// mover moves blocks from one group to others, at a rate. Its methods are called
// from any goroutine.
type mover struct {
	t    *tracker
	from tnv.GroupID
	to   tnv.GroupID // 0: whichever has most room
	rate rate

	mu     sync.Mutex
	ids    map[tnv.VolumeID][]tnv.BlockID
	blocks uint64 // moved
	bytes  uint64
}

func newMover(t *tracker, from, to tnv.GroupID, bytes uint64) *mover {
	if bytes == 0 {
		bytes = defaultMoveRate
	}
	return &mover{t: t, from: from, to: to, rate: rate{perSecond: float64(bytes)}, ids: map[tnv.VolumeID][]tnv.BlockID{}}
}

// pass goes once over all chunks of a volume that have something in the group,
// or until stop says so. It gives how many it has seen.
func (m *mover) pass(ctx context.Context, v *meta.Volume, stop func() bool) (seen int, err error) {
	var all []error
	for at := (tnv.Home{}); ctx.Err() == nil && !stop(); {
		homes, err := v.ChunksOf(ctx, m.from, at, chunksPage)
		if err != nil {
			return seen, err
		}
		if len(homes) == 0 {
			break
		}
		seen += len(homes)
		at = homes[len(homes)-1]
		all = append(all, m.moveChunks(ctx, v, homes, stop))
		if len(all) > 8 { // a store is gone, or all are full: later
			break
		}
		if all[len(all)-1] == nil {
			all = all[:len(all)-1]
		}
	}
	return seen, errors.Join(append(all, ctx.Err())...)
}

// moveChunks moves some chunks, several at once. It gives the last error.
func (m *mover) moveChunks(ctx context.Context, v *meta.Volume, homes []tnv.Home, stop func() bool) (last error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	work := make(chan tnv.Home)
	for range moversAtOnce {
		wg.Go(func() {
			for home := range work {
				if err := m.moveChunk(ctx, v, home); err != nil {
					mu.Lock()
					last = err
					mu.Unlock()
				}
			}
		})
	}
	for _, home := range homes {
		if ctx.Err() != nil || stop() {
			break
		}
		work <- home
	}
	close(work)
	wg.Wait()
	return last
}

// moveChunk moves what a chunk has in the group: first all new blocks are on
// disk, then the extents change, and only that frees the old ones (P7).
func (m *mover) moveChunk(ctx context.Context, v *meta.Volume, home tnv.Home) error {
	moves, err := v.PlanMoves(ctx, home, m.from)
	if err != nil || len(moves) == 0 {
		return err
	}
	var made []meta.Move
	var last error
	for _, mv := range moves {
		if mv.Block == 0 {
			if err := m.make(ctx, v, home, &mv); err != nil {
				last = err
				break
			}
		}
		made = append(made, mv)
	}
	if len(made) == 0 {
		return last
	}
	n, err := v.Replace(ctx, home, made)
	m.mu.Lock()
	m.blocks += uint64(n)
	m.mu.Unlock()
	return errors.Join(last, err)
}

// make has a store of the group make the new block of a move.
func (m *mover) make(ctx context.Context, v *meta.Volume, home tnv.Home, mv *meta.Move) error {
	if err := m.rate.wait(ctx, int(mv.Len())); err != nil {
		return err
	}
	cluster := m.t.members.Map()
	target, from := m.target(cluster), cluster.Group(m.from)
	if target == nil || from == nil {
		return tnv.E("move", tnv.KindNoSpace, "no other group is whole and has room: add one")
	}
	id, err := m.id(ctx, v)
	if err != nil {
		return err
	}
	rq := protocol.Compose{Key: tnv.BlockKey{Vol: v.ID(), ID: id}, Home: home, Parts: mv.Parts()}
	for _, n := range target.Nodes {
		rq.Chain = append(rq.Chain, protocol.ChainLink{Node: n.ID, Addr: n.Addr})
	}
	last := tnv.E("move", tnv.KindUnavailable, "no store of group %s is there", from.Name)
	for i := range from.Nodes {
		n := &from.Nodes[(int(id)+i)%len(from.Nodes)]
		if n.State == tnv.NodeLost {
			continue
		}
		call, cancel := context.WithTimeout(ctx, composeTimeout)
		var rep protocol.PutReply
		err := m.t.pool.Call(call, n.Addr, protocol.TypeCompose, &rep, &rq)
		cancel()
		if err == nil {
			mv.Block, mv.Group, mv.Holders = id, target.ID, rep.Holders
			m.mu.Lock()
			m.bytes += uint64(mv.Len())
			m.mu.Unlock()
			return nil
		}
		last = tnv.Wrap("move from store "+n.ID.String(), err)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(last, v.Abandon(context.WithoutCancel(ctx), id, target.ID))
}

// target is where to: the group with the most room, unless one is named.
func (m *mover) target(cluster *tnv.Map) (best *tnv.Group) {
	most := uint64(0)
	for i := range cluster.Groups {
		g := &cluster.Groups[i]
		if g.ID == m.from || m.to != 0 && g.ID != m.to || !takes(g) {
			continue
		}
		used, capacity, ok := space(g)
		if room := capacity - min(capacity, used); ok && room > most {
			best, most = g, room
		}
	}
	return best
}

// id gives an id for a new block.
func (m *mover) id(ctx context.Context, v *meta.Volume) (tnv.BlockID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.ids[v.ID()]) == 0 {
		first, n, err := v.MoverIDs(ctx)
		if err != nil {
			return 0, err
		}
		for i := range n {
			m.ids[v.ID()] = append(m.ids[v.ID()], first+tnv.BlockID(i))
		}
	}
	l := m.ids[v.ID()]
	m.ids[v.ID()] = l[1:]
	return l[0], nil
}

func (m *mover) moved() (blocks, bytes uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.blocks, m.bytes
}

// rate spreads bytes over time: so many per second, a second's worth at once.
type rate struct {
	perSecond float64

	mu    sync.Mutex
	until time.Time
}

func (r *rate) wait(ctx context.Context, n int) error {
	r.mu.Lock()
	now := time.Now()
	if past := now.Add(-time.Second); r.until.Before(past) {
		r.until = past
	}
	r.until = r.until.Add(time.Duration(float64(n) / r.perSecond * float64(time.Second)))
	delay := r.until.Sub(now)
	r.mu.Unlock()
	if delay > 0 {
		pause(ctx, delay)
	}
	return ctx.Err()
}
