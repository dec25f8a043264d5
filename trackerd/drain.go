package trackerd

import (
	"context"
	"errors"
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
//	          so, and hold no copy of metadata (everything.go), group and stores leave
//	          the cluster
//
// From a clean pass while closed on, nothing can name the group again: commits
// are refused, and a clone needs an extent to be cloned.

const (
	drainPause = 200 * time.Millisecond // between two passes
	drainRetry = 2 * time.Second        // after a failure
	// lostWait is how long a store that is lost, or slow, is waited for to delete.
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
	ended  chan struct{} // closed when nothing of it runs

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
	return j.stage == "done" || j.stage == "cancelled" || j.stage == "elsewhere"
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
	j.stage, j.ended = "moving", make(chan struct{})
	t.background.Go(func() {
		defer close(j.ended)
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
			if j.note(err); t.elsewhere() {
				j.at("elsewhere")
				return
			}
			t.log.WithError(err).WithFields(logrus.Fields{"kind": j.kind, "group": j.group.Name}).Warn("moving blocks failed; it is tried again")
			pause(ctx, drainRetry)
		}
		j.at("cancelled")
	})
	return nil
}

// elsewhere tells whether another tracker is to go on with the jobs: the registry's owner.
func (t *tracker) elsewhere() bool {
	return t.contender != nil && t.held.get(meta.ClusterVolume) == nil
}

// running finds a job that is under way; nil if there is none.
func (t *tracker) running(kind string, g tnv.GroupID) *moveJob {
	t.jobs.mu.Lock()
	defer t.jobs.mu.Unlock()
	for _, j := range t.jobs.list {
		if j.kind == kind && j.group.ID == g && !j.over() {
			return j
		}
	}
	return nil
}

// cancelJobs ends a job, waits for that, and tells whether there was one.
func (t *tracker) cancelJobs(ctx context.Context, kind string, g tnv.GroupID) (there bool) {
	j := t.running(kind, g)
	if j == nil {
		return false
	}
	j.cancel()
	select {
	case <-j.ended:
	case <-ctx.Done():
	}
	return true
}

// drainGroup begins, or ends, the emptying of a group.
func (t *tracker) drainGroup(ctx context.Context, rq *protocol.GroupDrain) (done, error) {
	const op = "drain"
	if _, err := t.everyBlock(ctx, op); err != nil && !rq.Cancel {
		return done{}, err
	}
	m := t.members.Map()
	g := groupNamed(m, rq.Group)
	if g == nil {
		return done{}, tnv.E(op, tnv.KindNotExist, "there is no group %q", rq.Group)
	}
	if rq.Cancel {
		return done{}, t.cancelDrain(ctx, g)
	}
	if t.members.leaves(g.ID) {
		return done{}, tnv.E(op, tnv.KindBusy, "group %s is being emptied already", g.Name)
	}
	if err := roomFor(m, g); err != nil {
		return done{}, err
	}
	d := meta.Drain{Group: g.ID, Rate: rq.Rate}
	if err := t.setDrain(ctx, d); err != nil {
		return done{}, err
	}
	return done{}, t.startDrain(*g, d)
}

// cancelDrain ends the emptying of a group that is not closed yet.
func (t *tracker) cancelDrain(ctx context.Context, g *tnv.Group) error {
	const op = "drain"
	closed := tnv.E(op, tnv.KindBusy, "group %s is all but empty, and closed: it leaves", g.Name)
	switch {
	case t.elsewhere():
		return tnv.E(op, tnv.KindNotOwner, "the cluster's registry is not at tracker %s", t.addr)
	case t.members.Closed(g.ID):
		return closed
	case !t.cancelJobs(ctx, "drain", g.ID):
		return tnv.E(op, tnv.KindNotExist, "group %s is not being emptied", g.Name)
	case t.members.Closed(g.ID): // meanwhile
		return errors.Join(closed, t.resumeDrains(ctx))
	}
	_, err := onRegistry(t, func(r *meta.Registry) (done, error) { return done{}, r.EndDrain(ctx, g.ID) })
	if err == nil {
		t.cancelJobs(ctx, "drain", g.ID) // one that was resumed in between
		t.members.stays(g.ID)
	}
	return err
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

func (t *tracker) setDrain(ctx context.Context, d meta.Drain) error {
	_, err := onRegistry(t, func(r *meta.Registry) (done, error) { return done{}, r.SetDrain(ctx, d) })
	return err
}

func (t *tracker) startDrain(g tnv.Group, d meta.Drain) error {
	t.members.setLeaving(g.ID, d.Closed)
	j := &moveJob{t: t, kind: "drain", group: g, rate: d.Rate, mover: newMover(t, g.ID, 0, d.Rate)}
	return t.begin(j, func(ctx context.Context) error { return j.empty(ctx, d) })
}

// drainLoop has the owner of the cluster's own volume, whoever it is at the time, go
// on with what an earlier one had begun.
func (t *tracker) drainLoop(ctx context.Context) {
	for ; t.contender != nil && ctx.Err() == nil; pause(ctx, drainRetry) {
		if err := t.resumeDrains(ctx); err != nil && ctx.Err() == nil {
			t.log.WithError(err).Warn("the emptying of groups is not resumed yet; it is tried again")
		}
	}
}

// resumeDrains goes on with what an earlier tracker had begun, where the registry is here.
func (t *tracker) resumeDrains(ctx context.Context) error {
	l, err := onRegistry(t, func(r *meta.Registry) ([]meta.Drain, error) { return r.Drains(ctx) })
	if tnv.KindOf(err) == tnv.KindNotOwner && t.contender != nil {
		return nil
	}
	if err != nil {
		return err
	}
	for _, d := range l {
		g := t.members.Map().Group(d.Group)
		if g == nil || t.running("drain", d.Group) != nil {
			continue
		}
		if err := t.startDrain(*g, d); err != nil && tnv.KindOf(err) != tnv.KindBusy {
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
		if _, err := j.moveAll(ctx); err != nil {
			return err
		}
		d.Closed = true
		if err := t.setDrain(ctx, d); err != nil {
			return err
		}
		t.members.setLeaving(d.Group, true)
	}
	j.at("closing")
	clean, err := j.moveAll(ctx)
	if err != nil {
		return err
	}
	if err := t.engine.Sync(ctx); err != nil { // nothing names the group, for good
		return err
	}
	j.at("deleting")
	if err := j.awaitDeleted(ctx, clean); err != nil {
		return err
	}
	if err := t.clearPieces(ctx, d.Group); err != nil {
		return err
	}
	if now, err := t.everyBlock(ctx, "drain"); err != nil || !same(now, clean) {
		return errors.Join(err, errMoved)
	}
	return j.leave(ctx, d.Group, clean)
}

// moveAll makes passes over all volumes until one finds nothing. It gives those of that one.
func (j *moveJob) moveAll(ctx context.Context) ([]*meta.Volume, error) {
	for {
		all, err := j.t.everyBlock(ctx, "drain")
		if err != nil {
			return nil, err
		}
		seen := 0
		for _, v := range all {
			n, err := j.mover.pass(ctx, v, func() bool { return false })
			if seen += n; err != nil {
				return nil, err
			}
		}
		j.note(nil)
		if seen == 0 {
			return all, ctx.Err()
		}
		pause(ctx, drainPause)
	}
}

// errMoved: what was looked through is not all any more, or was not always here.
var errMoved = tnv.E("move", tnv.KindBusy, "volumes have come, or have moved between trackers, meanwhile: it is looked again")

// leftBehind tells whether a store that has not deleted all is not waited for any longer.
func leftBehind(is tnv.NodeState, waited time.Duration) bool {
	return (is == tnv.NodeLost || is == tnv.NodeSlow) && waited > lostWait
}

// awaitDeleted waits until the group's stores that are neither lost nor slow have deleted what was freed.
func (j *moveJob) awaitDeleted(ctx context.Context, all []*meta.Volume) error {
	for waited := time.Duration(0); ctx.Err() == nil; waited += drainPause {
		left := false
		g := j.t.members.Map().Group(j.group.ID)
		if g == nil {
			return nil
		}
		for _, n := range g.Nodes {
			if leftBehind(n.State, waited) {
				continue
			}
			for _, v := range all {
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
func (j *moveJob) leave(ctx context.Context, id tnv.GroupID, all []*meta.Volume) error {
	t := j.t
	g := t.members.Map().Group(id)
	if _, err := onRegistry(t, func(r *meta.Registry) (done, error) { return done{}, r.RemoveGroup(ctx, id) }); err != nil {
		return err
	}
	t.members.removeGroup(id)
	for _, v := range all {
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
