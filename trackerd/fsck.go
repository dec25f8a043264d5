package trackerd

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

const (
	// maxFindings bounds what one check keeps: more of the same tell nothing new.
	maxFindings = 100_000
	// findingsPage is how many go into one reply.
	findingsPage = 1000
	// maxRepairRounds is how often a check is run again after repairs: what is
	// repaired may uncover more.
	maxRepairRounds = 5
)

// fsckJob is a check of a volume, under way or over. It ends with the tracker.
type fsckJob struct {
	t      *tracker
	v      *meta.Volume
	id     uint64
	repair bool

	mu    sync.Mutex
	reply protocol.FsckReply // Findings: all of them
	last  int                // findings before the round under way
}

// fscks has the last check of each volume.
type fscks struct {
	mu   sync.Mutex
	jobs map[tnv.VolumeID]*fsckJob
	next uint64
}

// fsck begins a check, or tells how one stands.
func (t *tracker) fsck(ctx context.Context, rq *protocol.Fsck) (*protocol.FsckReply, error) {
	id, err := t.directory.find(ctx, rq.Volume)
	if err != nil {
		return nil, tnv.Wrap("fsck", err)
	}
	return on(t, id, func(v *meta.Volume) (*protocol.FsckReply, error) { return t.fsckOf(rq, v) })
}

func (t *tracker) fsckOf(rq *protocol.Fsck, v *meta.Volume) (*protocol.FsckReply, error) {
	t.fscks.mu.Lock()
	defer t.fscks.mu.Unlock()
	job := t.fscks.jobs[v.ID()]
	if rq.Job == 0 {
		if job != nil && !job.done() {
			return nil, tnv.E("fsck", tnv.KindBusy, "volume %s is being checked already", v.Name())
		}
		if t.fscks.jobs == nil {
			t.fscks.jobs = map[tnv.VolumeID]*fsckJob{}
		}
		t.fscks.next++
		job = &fsckJob{t: t, v: v, id: t.fscks.next, repair: rq.Repair}
		job.reply.Job = job.id
		t.fscks.jobs[v.ID()] = job
		t.background.Go(func() { job.run(t.life) })
	}
	if job == nil || rq.Job != 0 && rq.Job != job.id {
		return nil, tnv.E("fsck", tnv.KindNotExist, "there is no such check: was the tracker restarted?")
	}
	return job.show(int(rq.From)), nil
}

func (j *fsckJob) done() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.reply.Done
}

// show is a page of how the check stands.
func (j *fsckJob) show(from int) *protocol.FsckReply {
	j.mu.Lock()
	defer j.mu.Unlock()
	rep := j.reply
	all := rep.Findings
	if !rep.Done {
		all = all[:j.last] // the rest may still be marked as repaired
	}
	from = min(from, len(all))
	rep.Findings = append([]protocol.Damage(nil), all[from:min(len(all), from+findingsPage)]...)
	rep.More = from+len(rep.Findings) < len(all)
	return &rep
}

func (j *fsckJob) update(fn func(rep *protocol.FsckReply)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	fn(&j.reply)
}

func (j *fsckJob) found(d protocol.Damage) {
	j.update(func(rep *protocol.FsckReply) {
		if len(rep.Findings) < maxFindings {
			rep.Findings = append(rep.Findings, d)
		}
	})
}

// run checks, and repairs and checks again until nothing is left to repair.
func (j *fsckJob) run(ctx context.Context) {
	var err error
	for range maxRepairRounds {
		j.mu.Lock()
		first := len(j.reply.Findings)
		j.mu.Unlock()
		err = errors.Join(j.check(ctx), j.tellPaths(ctx, first))
		again := err == nil && j.repair && j.repairFrom(ctx, first)
		j.mu.Lock()
		j.last = len(j.reply.Findings)
		j.mu.Unlock()
		if !again {
			break
		}
	}
	st, cerr := j.v.Collection(ctx, j.t.cfg.Quarantine, j.t.sizeOf)
	if err = errors.Join(err, cerr); err == nil && !slices.Contains(j.t.held.volumes(), j.v) {
		err = tnv.E("fsck", tnv.KindNotOwner, "the volume has moved to another tracker: check it again")
	}
	j.update(func(rep *protocol.FsckReply) {
		rep.Done, rep.Stage, rep.Orphans = true, "", st.Quarantined
		if err != nil {
			rep.Failed = err.Error()
		}
	})
	j.t.log.WithFields(logrus.Fields{"volume": j.v.Name(), "findings": len(j.reply.Findings)}).Info("the volume was checked")
}

func (j *fsckJob) check(ctx context.Context) error {
	j.update(func(rep *protocol.FsckReply) { rep.Stage, rep.Records, rep.Blocks = "records", 0, 0 })
	j.mu.Lock()
	before := len(j.reply.Findings)
	j.mu.Unlock()
	err := inParts(func(p meta.Part) error {
		if p.N == 0 { // from the start, in smaller parts
			j.update(func(rep *protocol.FsckReply) { rep.Findings = rep.Findings[:before] })
		}
		n, err := j.v.CheckRecords(ctx, p, j.found)
		j.update(func(rep *protocol.FsckReply) { rep.Records = max(rep.Records, n) })
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range j.findings(before) {
		if d.Kind == protocol.DamageRecord || d.Kind == protocol.DamageExtents {
			return nil // what names blocks is not known
		}
	}
	j.update(func(rep *protocol.FsckReply) { rep.Stage = "blocks" })
	return inParts(func(p meta.Part) error { return j.checkBlocks(ctx, p) })
}

func (j *fsckJob) findings(from int) []protocol.Damage {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]protocol.Damage(nil), j.reply.Findings[from:]...)
}

// tellPaths adds the paths of the inodes found.
func (j *fsckJob) tellPaths(ctx context.Context, from int) error {
	var inos []tnv.Ino
	for _, d := range j.findings(from) {
		if len(inos) < findingsPage {
			inos = append(inos, d.Ino)
		}
	}
	if len(inos) == 0 {
		return nil
	}
	paths, err := j.v.Paths(ctx, inos)
	j.update(func(rep *protocol.FsckReply) {
		for i := range rep.Findings[from:] {
			d := &rep.Findings[from+i]
			d.Path = paths[d.Ino]
		}
	})
	return err
}

// repairFrom repairs the findings from one on, and tells whether that changed anything.
func (j *fsckJob) repairFrom(ctx context.Context, from int) (changed bool) {
	j.update(func(rep *protocol.FsckReply) { rep.Stage = "repair" })
	for i, d := range j.findings(from) {
		if !d.Kind.Repairable() {
			continue
		}
		err := j.v.Repair(ctx, d)
		changed = changed || err == nil
		j.update(func(rep *protocol.FsckReply) {
			if rep.Findings[from+i].Repaired = err == nil; err != nil {
				rep.Findings[from+i].Failed = err.Error()
			}
		})
	}
	return changed
}
