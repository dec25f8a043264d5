package stored

import (
	"cmp"
	"slices"
	"sync"

	"github.com/tnvfs/tnv"
)

// cluster is the newest cluster map that any tracker gave.
type cluster struct {
	self tnv.NodeID
	// returned is signalled when a member of the own group is seen alive that
	// was not before, or that was started anew.
	returned chan struct{}

	mu    sync.Mutex
	cur   *tnv.Map // never changed, only replaced
	group tnv.GroupID
}

func newCluster(self tnv.NodeID) *cluster {
	return &cluster{self: self, returned: make(chan struct{}, 1), cur: &tnv.Map{}}
}

// update takes a map in, if it is newer than the one at hand.
func (c *cluster) update(m *tnv.Map) {
	if m == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Epoch < c.cur.Epoch || m.Epoch == c.cur.Epoch && m.Version <= c.cur.Version {
		return
	}
	before := c.peersLocked()
	c.cur = m
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

// joined notes the group in which a tracker put this store.
func (c *cluster) joined(g tnv.GroupID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.group = g
}

// version of the map at hand.
func (c *cluster) version() (tnv.Epoch, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cur.Epoch, c.cur.Version
}

// peers are the other members of the own group that are alive, slow ones last.
func (c *cluster) peers() []tnv.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peersLocked()
}

func (c *cluster) peersLocked() []tnv.Node {
	g := c.cur.Group(c.group)
	if g == nil {
		return nil
	}
	var peers []tnv.Node
	for _, n := range g.Nodes {
		if n.ID != c.self && n.State != tnv.NodeLost && n.Addr != "" {
			peers = append(peers, n)
		}
	}
	slices.SortStableFunc(peers, func(a, b tnv.Node) int {
		return cmp.Compare(b2i(a.State == tnv.NodeSlow), b2i(b.State == tnv.NodeSlow))
	})
	return peers
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// signal wakes whoever waits on a channel of one place, now or next.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
