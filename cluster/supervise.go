package cluster

import (
	"context"
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
)

// Supervision: how often it looks, and how long it waits before it starts a
// daemon again that keeps dying.
const (
	lookEvery  = 500 * time.Millisecond
	minBackoff = time.Second
	maxBackoff = time.Minute
)

// Supervise watches over the cluster until ctx ends, and starts again what died.
// Then it stops the cluster in order, as Down does.
func (c *Cluster) Supervise(ctx context.Context) error {
	me := RoleFront.name(1)
	rec, err := newRecord(me, RoleFront, os.Getpid())
	if err != nil {
		return tnv.Wrap("supervise", err)
	}
	if err := c.save(rec); err != nil {
		return err
	}
	defer c.forget(me)
	c.watch(ctx)
	_, err = Down(context.WithoutCancel(ctx), c.Dir, c.log)
	return err
}

// watch restarts what died, until ctx ends.
func (c *Cluster) watch(ctx context.Context) {
	backoff := map[string]time.Duration{}
	next := map[string]time.Time{}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, name := range c.planned() {
				if c.Record(name).Alive() || now.Before(next[name]) {
					continue
				}
				backoff[name] = min(max(minBackoff, 2*backoff[name]), maxBackoff)
				next[name] = now.Add(backoff[name])
				c.restart(ctx, name)
			}
		}
	}
}

// restart starts one daemon again that died.
func (c *Cluster) restart(ctx context.Context, name string) {
	log := c.log.WithField("name", name)
	unlock, err := c.lock(ctx)
	if err != nil {
		log.WithError(err).Warn("died, and cannot be started again now")
		return
	}
	defer unlock()
	if c.Record(name).Alive() { // someone else was faster
		return
	}
	start := func() error { return c.startOne(ctx, name) }
	switch role, _, _ := roleOf(name); role {
	case RoleTracker:
		start = func() error { return c.upTrackers(ctx, c.running()) }
	case RoleMount:
		start = func() error {
			if err := prepareMountpoint(c.st.Mount, true); err != nil {
				return err
			}
			return c.startOne(ctx, name)
		}
	}
	if err := start(); err != nil {
		if ctx.Err() == nil {
			log.WithError(err).Error("died, and could not be started again")
		}
		return
	}
	if err := c.store(c.st); err != nil {
		log.WithError(err).Warn("the cluster's state could not be written")
	}
	log.WithFields(logrus.Fields{"log": c.LogFile(name)}).Warn("died, and was started again")
}
