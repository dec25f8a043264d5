package cluster

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// askTimeout bounds one question to one tracker.
const askTimeout = 5 * time.Second

// AskStatus asks all trackers for the state of the cluster, at once, and puts their
// answers together: each tells of the volumes that it owns. Trackers that did not
// answer are in it, not alive. With no answer at all the error is that of the first
// tracker, and the status names just the trackers.
func AskStatus(ctx context.Context, trackers []string, key protocol.Key) (protocol.Status, error) {
	replies := make([]protocol.Status, len(trackers))
	errs := make([]error, len(trackers))
	var wg sync.WaitGroup
	for i, addr := range trackers {
		wg.Go(func() { replies[i], errs[i] = askOne(ctx, addr, key) })
	}
	wg.Wait()
	var st protocol.Status
	var err error
	answered := false
	for i := range trackers {
		if errs[i] == nil {
			merge(&st, &replies[i])
			answered = true
		}
		if errs[i] != nil && err == nil {
			err = errs[i]
		}
	}
	if answered {
		err = nil
	}
	if len(trackers) == 0 {
		err = tnv.E("status", tnv.KindInvalid, "no tracker is named")
	}
	for i, addr := range trackers {
		markTracker(&st, addr, errs[i] == nil)
	}
	return st, err
}

// merge adds a tracker's view. Of a volume that moves the newer epoch counts; of a
// storage daemon what the tracker says that knows it to lack the most.
func merge(st, more *protocol.Status) {
	for _, t := range more.Trackers {
		markTracker(st, t.Addr, t.Alive)
		for i := range st.Trackers {
			if st.Trackers[i].Addr == t.Addr {
				st.Trackers[i].Engine = t.Engine
			}
		}
	}
	for _, v := range more.Volumes {
		i := slices.IndexFunc(st.Volumes, func(o protocol.VolumeStatus) bool { return o.ID == v.ID })
		switch {
		case i < 0:
			st.Volumes = append(st.Volumes, v)
		case v.Epoch > st.Volumes[i].Epoch:
			st.Volumes[i] = v
		}
	}
	slices.SortFunc(st.Volumes, func(a, b protocol.VolumeStatus) int { return cmp.Compare(a.Name, b.Name) })
	for _, g := range more.Groups {
		i := slices.IndexFunc(st.Groups, func(o protocol.GroupStatus) bool { return o.ID == g.ID })
		if i < 0 {
			st.Groups = append(st.Groups, g)
			continue
		}
		mergeGroup(&st.Groups[i], &g)
	}
}

func mergeGroup(g, more *protocol.GroupStatus) {
	rank := map[string]int{"whole": 0, "degraded": 1, "down": 2}
	if rank[more.State] > rank[g.State] {
		g.State = more.State
	}
	g.BehindBlocks, g.BehindBytes = max(g.BehindBlocks, more.BehindBlocks), max(g.BehindBytes, more.BehindBytes)
	for _, n := range more.Nodes {
		i := slices.IndexFunc(g.Nodes, func(o protocol.NodeStatus) bool { return o.Node.ID == n.Node.ID })
		if i < 0 {
			g.Nodes = append(g.Nodes, n)
			continue
		}
		is := &g.Nodes[i]
		behind, bytes := max(is.BehindBlocks, n.BehindBlocks), max(is.BehindBytes, n.BehindBytes)
		if is.Node.State == tnv.NodeLost && n.Node.State != tnv.NodeLost || n.Node.Boot > is.Node.Boot {
			*is = n // one tracker hears it
		}
		is.BehindBlocks, is.BehindBytes = behind, bytes
	}
}

// markTracker enters what was seen of a tracker oneself.
func markTracker(st *protocol.Status, addr string, alive bool) {
	for i := range st.Trackers {
		if st.Trackers[i].Addr == addr {
			st.Trackers[i].Alive = alive
			return
		}
	}
	st.Trackers = append(st.Trackers, protocol.TrackerStatus{Addr: addr, Alive: alive})
}

func askOne(ctx context.Context, addr string, key protocol.Key) (st protocol.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := protocol.DialClient(ctx, &protocol.Endpoint{Key: key, Role: protocol.RoleTool}, addr, nil)
	if err != nil {
		return st, err
	}
	defer c.Close()
	if c.Role != protocol.RoleTracker {
		return st, tnv.E("status of "+addr, tnv.KindInvalid, "a %s answers there, not a tracker", c.Role)
	}
	err = c.Call(ctx, protocol.TypeStatus, &st, &protocol.StatusRequest{})
	return st, tnv.Wrap("status of "+addr, err)
}

// aliveNodes counts the living storage daemons.
func aliveNodes(st *protocol.Status) (n int) {
	for _, g := range st.Groups {
		for _, node := range g.Nodes {
			if node.Node.State != tnv.NodeLost {
				n++
			}
		}
	}
	return n
}

// whole tells whether every group is, or is being emptied.
func whole(st *protocol.Status) bool {
	for _, g := range st.Groups {
		if g.State != "whole" && g.State != "draining" {
			return false
		}
	}
	return true
}

// Intervals of awaitStores: how often the tracker is asked, how long for the
// daemons, and how much longer for whole groups. A group that has much to copy
// is not waited for.
const (
	pollEvery  = 40 * time.Millisecond
	aliveLimit = 30 * time.Second
	wholeLimit = 5 * time.Second
)

// awaitStores waits until the tracker counts so many living storage daemons, and
// for a while until they are whole.
func awaitStores(ctx context.Context, tracker string, key protocol.Key, want int) error {
	ctx, cancel := context.WithTimeout(ctx, aliveLimit)
	defer cancel()
	c, err := protocol.DialClient(ctx, &protocol.Endpoint{Key: key, Role: protocol.RoleTool}, tracker, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	var aliveSince time.Time
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for n := 0; ; {
		var st protocol.Status
		if err := c.Call(ctx, protocol.TypeStatus, &st, &protocol.StatusRequest{}); err != nil {
			return tnv.E("wait for the storage daemons", tnv.KindOf(err), "%d of %d have announced themselves to the tracker: see DIR/log (%v)", n, want, err)
		}
		if n = aliveNodes(&st); n >= want {
			if aliveSince.IsZero() {
				aliveSince = time.Now()
			}
			if whole(&st) || time.Since(aliveSince) > wholeLimit {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return tnv.E("wait for the storage daemons", tnv.KindOf(ctx.Err()), "%d of %d have announced themselves to the tracker: see the logs of the others", n, want)
		}
	}
}
