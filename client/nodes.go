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
// how busy it keeps them, how fast they answer, and which of them failed lately
// (breaker.go). What is said here of members decides only whom to ask first.
type nodes struct {
	host string

	mu   sync.Mutex
	stat map[tnv.NodeID]*nodeStat
	// Hedging: late is the time that 95 of 100 reads take less than; tokens are how
	// many second questions may still be put, credit how many retries.
	late   time.Duration
	tokens float64
	credit float64
	local  map[string]*localStore // by socket path
}

type nodeStat struct {
	busy    int // requests under way
	breaker breaker
	refused time.Time // it said BUSY: not asked as a second member before
	typical time.Duration
	heard   time.Time // when typical got its last sample
	outrun  int       // reads in a row that another member, asked later, answered first
}

const (
	hedgeShare   = 0.05 // of the reads may ask twice
	hedgeBurst   = 16
	minHedge     = 20 * time.Millisecond
	hardHedge    = 300 * time.Millisecond // no answer for so long is a failure
	busyFor      = 200 * time.Millisecond
	retryShare   = 0.1 // of the reads may be tried again without delay
	retryBurst   = 64
	mostOutrun   = 4
	maxNodeStats = 4096
	// A member is a laggard if it takes so much, and so many times what the best takes.
	laggard      = 30 * time.Millisecond
	laggardTimes = 4
	forgiveEvery = 2 * time.Second // what is known of a member's time halves so often
)

func newNodes(host string) *nodes {
	return &nodes{host: host, stat: map[tnv.NodeID]*nodeStat{}, tokens: hedgeBurst, credit: retryBurst,
		late: minHedge / 2, local: map[string]*localStore{}}
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
	n.getLocked(id).breaker.failed(time.Now())
}

// worked closes it.
func (n *nodes) worked(id tnv.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.getLocked(id).breaker = breaker{}
}

// bad tells whether a member failed a short while ago.
func (n *nodes) bad(id tnv.NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.stat[id]
	return s != nil && s.breaker.open(time.Now())
}

// refused notes that a member said BUSY.
func (n *nodes) refused(id tnv.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.getLocked(id).refused = time.Now().Add(busyFor)
}

// isBusy tells whether a member said BUSY a moment ago.
func (n *nodes) isBusy(id tnv.NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.stat[id]
	return s != nil && time.Now().Before(s.refused)
}

// rank says how a member compares with others; the smaller the better.
type rank struct {
	lost, slow, bad, busy, lags, far bool
	load                             int
	turn                             uint64
}

func (a rank) compare(b rank) int {
	return cmp.Or(order(a.lost, b.lost), order(a.slow, b.slow), order(a.bad, b.bad), order(a.busy, b.busy),
		order(a.lags, b.lags), order(a.far, b.far), cmp.Compare(a.load, b.load), cmp.Compare(a.turn, b.turn))
}

// order sorts members by whom to ask first: those that work, those that answer
// as fast as others, those on this host, the least busy; among equals a block
// always goes to the same one, so that one page cache holds it.
func (n *nodes) order(members []tnv.Node, key tnv.BlockID) []tnv.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	best := time.Duration(-1)
	for _, m := range members {
		if s := n.stat[m.ID]; s != nil && !s.breaker.open(now) && (best < 0 || s.takes(now) < best) {
			best = s.takes(now)
		}
	}
	ranks := make(map[tnv.NodeID]rank, len(members))
	for _, m := range members {
		r := rank{lost: m.State == tnv.NodeLost, slow: m.State == tnv.NodeSlow, far: m.Host != n.host || n.host == "",
			turn: (uint64(m.ID) ^ uint64(key)) * 0x9e3779b97f4a7c15}
		if s := n.stat[m.ID]; s != nil {
			took := s.takes(now)
			r.bad, r.busy, r.load = s.breaker.open(now), now.Before(s.refused), s.busy
			r.lags = took > laggard && took > laggardTimes*best
		}
		ranks[m.ID] = r
	}
	l := slices.Clone(members)
	slices.SortFunc(l, func(x, y tnv.Node) int { return ranks[x.ID].compare(ranks[y.ID]) })
	return l
}

// takes is how long a member takes to answer, as far as that is known: what was
// seen long ago counts little, so that it is tried again.
func (s *nodeStat) takes(now time.Time) time.Duration {
	if ago := now.Sub(s.heard) / forgiveEvery; ago < 32 {
		return s.typical >> max(ago, 0)
	}
	return 0
}

// probe makes a member whose breaker lets one request through the first of a
// list; it tells whether there is one. Whoever asks it does not wait long for it.
func (n *nodes) probe(l []tnv.Node) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for i, m := range l {
		if s := n.stat[m.ID]; s != nil && m.State != tnv.NodeLost && m.State != tnv.NodeSlow && s.breaker.probe(now) {
			copy(l[1:], l[:i])
			l[0] = m
			return true
		}
	}
	return false
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

// answered notes how long a member took for a read, and lets hedging and retrying breathe.
func (n *nodes) answered(id tnv.NodeID, took time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sampleLocked(id, took)
	n.getLocked(id).outrun = 0
	n.tokens = min(n.tokens+hedgeShare, hedgeBurst)
	n.credit = min(n.credit+retryShare, retryBurst)
}

// outran notes that a member has not answered a read within a time, and one that
// was asked later has. Some in a row, and it counts as failed.
func (n *nodes) outran(id tnv.NodeID, within time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, now := n.getLocked(id), time.Now()
	if within > s.takes(now) { // else it says nothing new
		n.sampleLocked(id, within)
	}
	if s.outrun++; s.outrun >= mostOutrun {
		s.breaker.failed(now)
	}
}

// sampleLocked moves what is known of a member's time an eighth towards the new
// sample, and late by as much up or down that it comes to rest where 95 of 100
// samples are below it.
func (n *nodes) sampleLocked(id tnv.NodeID, took time.Duration) {
	now := time.Now()
	s := n.getLocked(id)
	s.typical = s.takes(now)
	s.typical += (took - s.typical) / 8
	s.heard = now
	if took > n.late {
		n.late = min(n.late+n.late*19/128, hardHedge)
	} else {
		n.late = max(n.late-n.late/128, minHedge/2)
	}
}

// patience is how long to wait for a member before a second one is asked.
func (n *nodes) patience() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return min(max(3*n.late/2, minHedge), hardHedge)
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

// mayRetry tells whether a read may be tried again without a long pause: the
// retries of all readers together stay a small share of what succeeds, so that
// they do not keep down what is just coming up again.
func (n *nodes) mayRetry() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.credit < 1 {
		return false
	}
	n.credit--
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
	classLame         // some member is lost, slow, full or leaving
	classTight        // one is nearly full: left before it is
	classShaky        // whole by the map, but a member failed us lately
	classWhole
)

// class judges a group, and gives the bytes free on its fullest member.
func (n *nodes) class(g *tnv.Group) (class int, free float64) {
	class, free = classWhole, -1
	taking := takes(g)
	for i := range g.Nodes {
		m := &g.Nodes[i]
		if m.State != tnv.NodeAlive {
			class = min(class, classLame)
		}
		if m.State != taking {
			continue
		}
		if n.bad(m.ID) {
			class = min(class, classShaky)
		}
		f := 1.0
		if m.Capacity > m.Used {
			f += float64(m.Capacity - m.Used)
		}
		if f < tightShare*float64(m.Capacity) && f < tightBytes {
			class = min(class, classTight)
		}
		if free < 0 || f < free {
			free = f
		}
	}
	if free < 0 {
		return classDown, 0
	}
	return class, free
}

// A member is nearly full when it has less of both: what is on its way fits still.
const (
	tightShare = 0.05
	tightBytes = 4 << 30
)

// takes is the state of the members that take new blocks: alive, or slow where
// all that take any are slow.
func takes(g *tnv.Group) tnv.NodeState {
	state := tnv.NodeAlive
	for i := range g.Nodes {
		switch g.Nodes[i].State {
		case tnv.NodeAlive:
			return tnv.NodeAlive
		case tnv.NodeSlow:
			state = tnv.NodeSlow
		}
	}
	return state
}

// takers are the members of a group that take new blocks, whom to ask first in front.
func (n *nodes) takers(g *tnv.Group, key tnv.BlockID) []tnv.Node {
	var l []tnv.Node
	state := takes(g)
	for _, m := range g.Nodes {
		if m.State == state {
			l = append(l, m)
		}
	}
	return n.order(l, key)
}
