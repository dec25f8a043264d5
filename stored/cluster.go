package stored

import (
	"maps"
	"slices"
	"sync"

	"github.com/tnvfs/tnv"
)

// cluster is what the trackers say of the cluster: of each the newest map. They
// agree on who belongs to a group; who is alive each measures for itself, and a
// peer that any of them hears of is worth being asked.
type cluster struct {
	self tnv.NodeID
	// returned is signalled when a member of the own group is seen alive that
	// was not before, or that was started anew.
	returned chan struct{}

	mu    sync.Mutex
	maps  map[string]*tnv.Map // by the tracker's address; maps are never changed, only replaced
	stale map[string]bool     // trackers without a connection: dropped when another one speaks
	group tnv.GroupID
}

func newCluster(self tnv.NodeID) *cluster {
	return &cluster{self: self, returned: make(chan struct{}, 1), maps: map[string]*tnv.Map{}, stale: map[string]bool{}}
}

// update takes a tracker's map in, if it is newer than the one at hand.
func (c *cluster) update(tracker string, m *tnv.Map) {
	if m == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.maps[tracker]; old != nil && m.Epoch == old.Epoch && m.Version <= old.Version {
		return
	}
	before := c.peersLocked()
	c.maps[tracker] = m
	delete(c.stale, tracker)
	for t := range c.stale {
		delete(c.maps, t)
	}
	clear(c.stale)
	if n := m.Node(c.self); n != nil {
		c.group = n.Group
	}
	for _, p := range c.peersLocked() {
		same := func(o tnv.Node) bool { return o.ID == p.ID && o.Boot == p.Boot }
		if !slices.ContainsFunc(before, same) {
			signal(c.returned)
			return
		}
	}
}

// gone says that a tracker is not heard of any more. What it said last counts on
// while nobody else says anything.
func (c *cluster) gone(tracker string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.maps[tracker] == nil {
		return
	}
	if c.stale[tracker] = true; len(c.stale) < len(c.maps) {
		for t := range c.stale {
			delete(c.maps, t)
		}
		clear(c.stale)
	}
}

// joined notes the group in which a tracker put this store.
func (c *cluster) joined(g tnv.GroupID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.group = g
}

// version of a tracker's map at hand.
func (c *cluster) version(tracker string) (tnv.Epoch, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.maps[tracker]
	if m == nil {
		return 0, 0
	}
	return m.Epoch, m.Version
}

// peers are the other members of the own group that are alive.
func (c *cluster) peers() []tnv.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peersLocked()
}

func (c *cluster) peersLocked() []tnv.Node {
	var peers []tnv.Node
	for _, tracker := range slices.Sorted(maps.Keys(c.maps)) {
		g := c.maps[tracker].Group(c.group)
		if g == nil {
			continue
		}
		for _, n := range g.Nodes {
			if n.ID == c.self || n.State == tnv.NodeLost || n.Addr == "" {
				continue
			}
			i := slices.IndexFunc(peers, func(o tnv.Node) bool { return o.ID == n.ID })
			switch {
			case i < 0:
				peers = append(peers, n)
			case n.Boot > peers[i].Boot: // a tracker has not heard of its restart yet
				peers[i] = n
			}
		}
	}
	return peers
}

// signal wakes whoever waits on a channel of one place, now or next.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
