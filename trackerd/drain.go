package trackerd

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

// Emptying a group. Its record in the registry is all that is kept: what is left
// to move is what names the group, so that a tracker that is killed goes on
// where it was. The stages:
//
//	moving    the group takes no new blocks; passes over all volumes move what
//	          names it, until a pass has found nothing
//	closing   commits that name it are refused, on record first: writers that put
//	          blocks there before put them elsewhere; passes, until one finds nothing
//	deleting  the group's living stores delete what was moved; when they have said
//	          so, group and stores leave the cluster
//
// From a clean pass while closed on, nothing can name the group again: commits
// are refused, and a clone needs an extent to be cloned.

const (
	drainPause = 200 * time.Millisecond // between two passes
	drainRetry = 2 * time.Second        // after a failure
	// lostWait is how long a store that is lost is waited for to delete.
	lostWait = 5 * time.Second
)

// jobs is what moves blocks.
type jobs struct {
	mu   sync.Mutex
	list []*moveJob // one per group that is being emptied, and one that balances; the last that ended, too
}

// moveJob is a drain, or the balancing.
type moveJob struct {
	t      *tracker
	kind   string
	group  tnv.Group
	rate   uint64
	within uint32 // balance only
	cancel context.CancelFunc

	mu     sync.Mutex
	mover  *mover
	stage  string
	failed string
}

func (j *moveJob) at(stage string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stage = stage
}

func (j *moveJob) over() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.stage == "done" || j.stage == "cancelled"
}

func (j *moveJob) note(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed = ""; err != nil {
		j.failed = err.Error()
	}
}

// begin runs a job, in place of one of the same kind and group that is over.
func (t *tracker) begin(j *moveJob, run func(ctx context.Context) error) error {
	t.jobs.mu.Lock()
	defer t.jobs.mu.Unlock()
	same := func(o *moveJob) bool { return o.kind == j.kind && o.group.ID == j.group.ID }
	if i := slices.IndexFunc(t.jobs.list, same); i >= 0 && !t.jobs.list[i].over() {
		return tnv.E(j.kind, tnv.KindBusy, "it is under way already")
	}
	t.jobs.list = append(slices.DeleteFunc(t.jobs.list, same), j)
	var ctx context.Context
	ctx, j.cancel = context.WithCancel(t.life)
	j.stage = "moving"
	t.background.Go(func() {
		defer j.cancel()
		for ctx.Err() == nil {
			err := run(ctx)
			if err == nil {
				j.at("done")
				return
			}
			if ctx.Err() != nil {
				break
			}
			j.note(err)
			t.log.WithError(err).WithFields(logrus.Fields{"kind": j.kind, "group": j.group.Name}).Warn("moving blocks failed; it is tried again")
			pause(ctx, drainRetry)
		}
		j.at("cancelled")
	})
	return nil
}

// cancelJobs ends jobs, and tells whether there was one.
func (t *tracker) cancelJobs(kind string, g tnv.GroupID) (there bool) {
	t.jobs.mu.Lock()
	defer t.jobs.mu.Unlock()
	for _, j := range t.jobs.list {
		if j.kind == kind && j.group.ID == g && !j.over() {
			j.cancel()
			there = true
		}
	}
	return there
}

// drain begins, or ends, the emptying of a group.
func (t *tracker) drain(ctx context.Context, rq *protocol.GroupDrain) (done, error) {
	const op = "drain"
	m := t.members.Map()
	g := groupNamed(m, rq.Group)
	if g == nil {
		return done{}, tnv.E(op, tnv.KindNotExist, "there is no group %q", rq.Group)
	}
	if rq.Cancel {
		if t.members.Closed(g.ID) {
			return done{}, tnv.E(op, tnv.KindBusy, "group %s is all but empty, and closed: it leaves", g.Name)
		}
		if !t.cancelJobs("drain", g.ID) {
			return done{}, tnv.E(op, tnv.KindNotExist, "group %s is not being emptied", g.Name)
		}
		t.members.stays(g.ID)
		return done{}, t.registry.EndDrain(ctx, g.ID)
	}
	if t.members.leaves(g.ID) {
		return done{}, tnv.E(op, tnv.KindBusy, "group %s is being emptied already", g.Name)
	}
	if err := roomFor(m, g); err != nil {
		return done{}, err
	}
	d := meta.Drain{Group: g.ID, Rate: rq.Rate}
	if err := t.registry.SetDrain(ctx, d); err != nil {
		return done{}, err
	}
	return done{}, t.startDrain(*g, d)
}

// roomFor refuses to empty a group that the others have no room for.
func roomFor(m *tnv.Map, g *tnv.Group) error {
	used, _, _ := space(g)
	room := uint64(0)
	for i := range m.Groups {
		if o := &m.Groups[i]; o.ID != g.ID && takes(o) {
			u, c, _ := space(o)
			room += c - min(c, u)
		}
	}
	if room <= used {
		return tnv.E("drain", tnv.KindNoSpace, "group %s has %d bytes in use, the whole other groups have room for %d: add a group first", g.Name, used, room)
	}
	return nil
}

func (t *tracker) startDrain(g tnv.Group, d meta.Drain) error {
	t.members.setLeaving(g.ID, d.Closed)
	j := &moveJob{t: t, kind: "drain", group: g, rate: d.Rate, mover: newMover(t, g.ID, 0, d.Rate)}
	return t.begin(j, func(ctx context.Context) error { return j.empty(ctx, d) })
}

// resumeDrains goes on with what an earlier tracker had begun.
func (t *tracker) resumeDrains(ctx context.Context) error {
	l, err := t.registry.Drains(ctx)
	if err != nil {
		return err
	}
	for _, d := range l {
		g := t.members.Map().Group(d.Group)
		if g == nil {
			continue
		}
		if err := t.startDrain(*g, d); err != nil {
			return err
		}
	}
	return nil
}

// empty goes through the stages.
func (j *moveJob) empty(ctx context.Context, d meta.Drain) error {
	t := j.t
	if !t.members.Closed(d.Group) {
		j.at("moving")
		if err := j.moveAll(ctx); err != nil {
			return err
		}
		d.Closed = true
		if err := t.registry.SetDrain(ctx, d); err != nil {
			return err
		}
		t.members.setLeaving(d.Group, true)
	}
	j.at("closing")
	if err := j.moveAll(ctx); err != nil {
		return err
	}
	if err := t.engine.Sync(ctx); err != nil { // nothing names the group, for good
		return err
	}
	j.at("deleting")
	if err := j.awaitDeleted(ctx); err != nil {
		return err
	}
	return j.leave(ctx, d.Group)
}

// moveAll makes passes over all volumes until one finds nothing.
func (j *moveJob) moveAll(ctx context.Context) error {
	for {
		seen := 0
		for _, v := range j.t.volumes {
			n, err := j.mover.pass(ctx, v, func() bool { return false })
			if seen += n; err != nil {
				return err
			}
		}
		j.note(nil)
		if seen == 0 {
			return ctx.Err()
		}
		pause(ctx, drainPause)
	}
}

// awaitDeleted waits until the group's living stores have deleted what was freed.
func (j *moveJob) awaitDeleted(ctx context.Context) error {
	for lost := time.Duration(0); ctx.Err() == nil; lost += drainPause {
		left := false
		g := j.t.members.Map().Group(j.group.ID)
		if g == nil {
			return nil
		}
		for _, n := range g.Nodes {
			if n.State == tnv.NodeLost && lost > lostWait {
				continue
			}
			for _, v := range j.t.volumes {
				left = left || v.PendingAt(n.ID) > 0
			}
		}
		if !left {
			return nil
		}
		pause(ctx, drainPause)
	}
	return ctx.Err()
}

// leave takes the empty group out of the cluster.
func (j *moveJob) leave(ctx context.Context, id tnv.GroupID) error {
	t := j.t
	g := t.members.Map().Group(id)
	if err := t.registry.RemoveGroup(ctx, id); err != nil {
		return err
	}
	t.members.removeGroup(id)
	for _, v := range t.volumes {
		if err := v.ForgetMoves(ctx); err != nil {
			return err
		}
		if g == nil {
			continue
		}
		for _, n := range g.Nodes {
			if err := v.ForgetNode(ctx, n.ID); err != nil {
				return err
			}
		}
	}
	t.log.WithFields(logrus.Fields{"group": j.group.Name}).Info("a group was emptied, and has left the cluster")
	return nil
}

// moves tells of what is being moved.
func (t *tracker) moves(context.Context, *protocol.MovesRequest) (*protocol.Moves, error) {
	t.jobs.mu.Lock()
	defer t.jobs.mu.Unlock()
	rep := &protocol.Moves{}
	for _, j := range t.jobs.list {
		j.mu.Lock()
		x := protocol.MoveJob{Kind: j.kind, Group: j.group.Name, Stage: j.stage, Rate: j.rate, Failed: j.failed}
		if j.mover != nil {
			x.Moved, x.MovedBytes = j.mover.moved()
		}
		j.mu.Unlock()
		if j.kind == "drain" {
			x.Left = t.members.blocksOf(j.group.ID)
		}
		rep.Jobs = append(rep.Jobs, x)
	}
	return rep, nil
}
