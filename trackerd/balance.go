package trackerd

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// defaultWithin is by how many percent of their space groups may differ.
const defaultWithin = 5

// balance begins, or ends, to even the groups out. It is not kept over a restart
// of the tracker: whoever asks again goes on from what there is.
func (t *tracker) balance(ctx context.Context, rq *protocol.Balance) (done, error) {
	if rq.Cancel {
		if !t.cancelJobs(ctx, "balance", 0) {
			return done{}, tnv.E("balance", tnv.KindNotExist, "nothing is being balanced")
		}
		return done{}, nil
	}
	j := &moveJob{t: t, kind: "balance", rate: rq.Rate, within: rq.Within}
	if j.within == 0 {
		j.within = defaultWithin
	}
	if _, err := t.everything("balance"); err != nil {
		return done{}, err
	}
	return done{}, t.begin(j, j.even)
}

// even moves from the fullest group to the emptiest until they are alike enough.
// The stores tell of their space with their heartbeats, so what was moved is
// reckoned with here.
func (j *moveJob) even(ctx context.Context) error {
	for ctx.Err() == nil {
		from, to, bytes := unevenness(j.t.members.staying(), j.within)
		if bytes == 0 {
			return nil
		}
		m := newMover(j.t, from.ID, to.ID, j.rate)
		j.mu.Lock()
		if j.mover != nil {
			m.blocks, m.bytes = j.mover.moved()
		}
		before := m.bytes
		j.mover = m
		j.mu.Unlock()
		enough := func() bool {
			_, now := m.moved()
			return now-before >= bytes
		}
		all, err := j.t.everything("balance")
		if err != nil {
			return err
		}
		seen := 0
		for _, v := range all {
			n, err := m.pass(ctx, v, enough)
			if seen += n; err != nil {
				return err
			}
		}
		if seen == 0 {
			return nil // what fills the group is no block of ours
		}
		j.note(nil)
		pause(ctx, usageEvery+drainRetry) // the stores delete, and tell
	}
	return ctx.Err()
}

// unevenness is how many bytes are to go from the fullest group to the emptiest,
// so that both are as full; 0 if they differ by less than within percent.
func unevenness(m *tnv.Map, within uint32) (from, to *tnv.Group, bytes uint64) {
	var most, least float64
	for i := range m.Groups {
		g := &m.Groups[i]
		used, capacity, ok := space(g)
		if !ok || capacity == 0 || !takes(g) && !full(g) {
			continue
		}
		share := float64(used) / float64(capacity)
		if from == nil || share > most {
			from, most = g, share
		}
		if to == nil || share < least {
			to, least = g, share
		}
	}
	if from == nil || from == to || (most-least)*100 < float64(within) {
		return nil, nil, 0
	}
	fu, fc, _ := space(from)
	tu, tc, _ := space(to)
	level := float64(fu+tu) / float64(fc+tc)
	return from, to, uint64(float64(fu) - level*float64(fc))
}

// full tells whether a group's members live and some of them are full.
func full(g *tnv.Group) bool {
	some := false
	for _, n := range g.Nodes {
		switch n.State {
		case tnv.NodeFull:
			some = true
		case tnv.NodeLost, tnv.NodeLeaving:
			return false
		}
	}
	return some
}
