package client

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
)

// nodes is what this client knows of storage daemons from its own experience:
// how busy it keeps them, how fast they answer, and which of them failed lately.
type nodes struct {
	host string

	mu   sync.Mutex
	stat map[tnv.NodeID]*nodeStat
	// Hedging: the time after which a second member is asked, and how many such
	// questions are still allowed.
	typical time.Duration // moving average of the time to an answer
	tokens  float64
	local   map[string]*localStore // by socket path
}

type nodeStat struct {
	busy     int       // requests under way
	badUntil time.Time // asked last until then
}

const (
	breaker      = 3 * time.Second // a member that failed is asked last for so long
	hedgeShare   = 0.05            // of the reads may ask twice
	hedgeBurst   = 16
	minHedge     = 20 * time.Millisecond
	hardHedge    = 300 * time.Millisecond // whatever the share
	maxNodeStats = 4096
)

func newNodes(host string) *nodes {
	return &nodes{host: host, stat: map[tnv.NodeID]*nodeStat{}, tokens: hedgeBurst, typical: time.Millisecond, local: map[string]*localStore{}}
}

func (n *nodes) getLocked(id tnv.NodeID) *nodeStat {
	s := n.stat[id]
	if s == nil {
		if len(n.stat) >= maxNodeStats {
			clear(n.stat)
		}
		s = &nodeStat{}
		n.stat[id] = s
	}
	return s
}

// begin counts a request to a member; the function returned ends it.
func (n *nodes) begin(id tnv.NodeID) func() {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.getLocked(id)
	s.busy++
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		s.busy--
	}
}

// failed opens the breaker of a member.
func (n *nodes) failed(id tnv.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.getLocked(id).badUntil = time.Now().Add(breaker)
}

// worked closes it.
func (n *nodes) worked(id tnv.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.getLocked(id).badUntil = time.Time{}
}

// bad tells whether a member failed a short while ago.
func (n *nodes) bad(id tnv.NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.stat[id]
	return s != nil && time.Now().Before(s.badUntil)
}

// order sorts members by whom to ask first: those that work, those on this host,
// the least busy; among equals a block always goes to the same one, so that one
// page cache holds it.
func (n *nodes) order(members []tnv.Node, key tnv.BlockID) []tnv.Node {
	type rank struct {
		lost, bad, far bool
		busy           int
		turn           uint64
	}
	n.mu.Lock()
	ranks := make(map[tnv.NodeID]rank, len(members))
	now := time.Now()
	for _, m := range members {
		r := rank{lost: m.State == tnv.NodeLost, far: m.Host != n.host || n.host == "",
			turn: (uint64(m.ID) ^ uint64(key)) * 0x9e3779b97f4a7c15}
		if s := n.stat[m.ID]; s != nil {
			r.bad, r.busy = now.Before(s.badUntil), s.busy
		}
		ranks[m.ID] = r
	}
	n.mu.Unlock()
	l := slices.Clone(members)
	slices.SortFunc(l, func(x, y tnv.Node) int {
		a, b := ranks[x.ID], ranks[y.ID]
		return cmp.Or(order(a.lost, b.lost), order(a.bad, b.bad), order(a.far, b.far),
			cmp.Compare(a.busy, b.busy), cmp.Compare(a.turn, b.turn))
	})
	return l
}

func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// answered notes how long a read took, and lets hedging breathe.
func (n *nodes) answered(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.typical += (d - n.typical) / 16
	n.tokens = min(n.tokens+hedgeShare, hedgeBurst)
}

// patience is how long to wait for a member before a second one is asked.
func (n *nodes) patience() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return min(max(4*n.typical, minHedge), hardHedge)
}

// mayHedge takes a token, if one is left.
func (n *nodes) mayHedge() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.tokens < 1 {
		return false
	}
	n.tokens--
	return true
}

// place chooses the group for a new block: the healthiest class there is, and
// within it by chance, weighted by what is free. Nil: no group takes blocks.
func (n *nodes) place(m *tnv.Map, avoid map[tnv.GroupID]bool) (g *tnv.Group, whole bool) {
	best, total := 0, 0.0
	var l []*tnv.Group
	var free []float64
	for i := range m.Groups {
		g := &m.Groups[i]
		class, f := n.class(g)
		if class == 0 || avoid[g.ID] || class < best {
			continue
		}
		if class > best {
			best, total, l, free = class, 0, nil, nil
		}
		l, free, total = append(l, g), append(free, f), total+f
	}
	if len(l) == 0 {
		return nil, false
	}
	at := rand.Float64() * total
	for i, f := range free {
		if at -= f; at < 0 {
			return l[i], best == classWhole
		}
	}
	return l[len(l)-1], best == classWhole
}

const (
	classDown  = iota // takes no block
	classLame         // some member lacks or is full
	classShaky        // whole by the map, but a member failed us lately
	classWhole
)

// class judges a group, and gives the bytes free on its fullest member.
func (n *nodes) class(g *tnv.Group) (class int, free float64) {
	class, free = classWhole, -1
	taking := 0
	for i := range g.Nodes {
		m := &g.Nodes[i]
		if m.State != tnv.NodeAlive {
			class = min(class, classLame)
			continue
		}
		taking++
		if n.bad(m.ID) {
			class = min(class, classShaky)
		}
		f := 1.0
		if m.Capacity > m.Used {
			f += float64(m.Capacity - m.Used)
		}
		if free < 0 || f < free {
			free = f
		}
	}
	if taking == 0 {
		return classDown, 0
	}
	return class, free
}

// takers are the members of a group that take new blocks, whom to ask first in front.
func (n *nodes) takers(g *tnv.Group, key tnv.BlockID) []tnv.Node {
	var l []tnv.Node
	for _, m := range g.Nodes {
		if m.State == tnv.NodeAlive {
			l = append(l, m)
		}
	}
	return n.order(l, key)
}

// alive counts the members of a group that answer, full or not.
func alive(g *tnv.Group) (n int) {
	for i := range g.Nodes {
		if g.Nodes[i].State != tnv.NodeLost {
			n++
		}
	}
	return n
}
