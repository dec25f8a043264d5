package trackerd

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

const (
	// beatEvery is how often storage daemons are asked to send a heartbeat.
	beatEvery = 250 * time.Millisecond
	// lostAfter is how long a storage daemon may be silent before it counts as
	// lost. Until then commits wait for it: an application that syncs shall not
	// notice more than 2 s of a daemon's freezing.
	lostAfter = 1200 * time.Millisecond
	// goneAfter is how long it may take to come back when its connection has
	// ended, as it does at once when a process is killed.
	goneAfter = 300 * time.Millisecond
	// usageEvery is how often mere changes of used space make a new map.
	usageEvery = 5 * time.Second
)

// members knows the groups and their storage daemons: those that were taken
// into the cluster, and what their heartbeats say. It makes the cluster map.
//
// Each tracker makes its own: membership is the same for all of them, who is alive
// each measures. The epoch names the run of the tracker that made a map, and grows
// with each run; versions order the maps of one epoch. So a client believes the map
// of its volume's owner, whatever it had from another; and a storage daemon, which
// hears of all trackers, keeps one of each (package stored).
type members struct {
	log     *logrus.Entry
	epoch   tnv.Epoch
	current atomic.Pointer[tnv.Map] // a map that is not changed any more
	changed chan struct{}           // signalled when a member's state or place is another

	mu      sync.Mutex
	version uint64
	groups  []tnv.Group // ids and names; Nodes is not used
	nodes   map[tnv.NodeID]*member
	asOf    time.Time            // whatever the registry said then is in groups and nodes
	usageAt time.Time            // of the last map made for used space alone
	leaving map[tnv.GroupID]bool // groups that are being emptied; true: closed, see Closed
	closed  atomic.Pointer[map[tnv.GroupID]bool]
	hidden  map[tnv.NodeID]bool // stores that are being taken out: no map shows them
}

type member struct {
	node  tnv.Node
	beat  protocol.NodeBeat
	heard time.Time      // zero: not since this tracker's start
	until time.Time      // when it counts as lost, unless it is heard of before
	via   *protocol.Peer // the connection on which it announced itself
}

func newMembers(epoch tnv.Epoch, known []tnv.Group, log *logrus.Entry) *members {
	// Versions of this epoch are above those of earlier ones: a client that asks
	// by version alone is not taken for one that has this map.
	m := &members{log: log, changed: make(chan struct{}, 1), epoch: epoch, version: uint64(epoch) << 32, nodes: map[tnv.NodeID]*member{}}
	for _, g := range known {
		m.groups = append(m.groups, tnv.Group{ID: g.ID, Name: g.Name})
		for _, n := range g.Nodes {
			m.nodes[n.ID] = &member{node: n}
		}
	}
	m.publishLocked()
	return m
}

// Map is the current map; it implements meta.Cluster.
func (m *members) Map() *tnv.Map { return m.current.Load() }

// publishLocked makes a new map of what is known; mu is held, or m not shared yet.
func (m *members) publishLocked() {
	m.version++
	is := &tnv.Map{Epoch: m.epoch, Version: m.version}
	for _, g := range m.groups {
		for _, n := range m.nodes {
			if n.node.Group == g.ID && !m.hidden[n.node.ID] {
				g.Nodes = append(g.Nodes, m.shownLocked(n.node))
			}
		}
		slices.SortFunc(g.Nodes, func(a, b tnv.Node) int {
			if a.ID < b.ID {
				return -1
			}
			return 1
		})
		is.Groups = append(is.Groups, g)
	}
	m.current.Store(is)
}

// know takes in what the registry said when its reading began: stores that were
// admitted, and places that were taken, at another tracker; and groups that leave,
// unless the registry is here: then that is known already.
func (m *members) know(d *meta.Directory, began time.Time, here bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if began.Before(m.asOf) { // it may lack who was admitted here meanwhile, and name who was replaced
		return
	}
	m.asOf = began
	changed := m.forgetLocked(d.Retired)
	if !here {
		changed = m.followLocked(d) || changed
	}
	for _, g := range d.Groups {
		if m.goneLocked(g.ID) {
			continue
		}
		if !slices.ContainsFunc(m.groups, func(have tnv.Group) bool { return have.ID == g.ID }) {
			m.groups = append(m.groups, tnv.Group{ID: g.ID, Name: g.Name})
			changed = true
		}
		for _, n := range g.Nodes {
			is := m.nodes[n.ID]
			if slices.Contains(d.Retired, n.ID) || is != nil && (!is.heard.IsZero() || is.node.Boot >= n.Boot && is.node.Addr == n.Addr) {
				continue // it speaks for itself, or nothing is new
			}
			m.nodes[n.ID] = &member{node: n}
			changed = true
		}
	}
	known := tnv.Map{Groups: d.Groups}
	for id, is := range m.nodes {
		if known.Node(id) == nil {
			delete(m.nodes, id)
			changed = true
			m.log.WithFields(logrus.Fields{"node": id, "addr": is.node.Addr}).Warn("a store is no member any more: another has its place")
		}
	}
	if changed {
		m.publishLocked()
		m.tellLocked()
	}
}

// announced takes in a storage daemon that the registry has admitted to a group,
// in the place of another one if that is not 0.
func (m *members) announced(n tnv.Node, replaced tnv.NodeID, group string, via *protocol.Peer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.ContainsFunc(m.groups, func(g tnv.Group) bool { return g.ID == n.Group }) {
		m.groups = append(m.groups, tnv.Group{ID: n.Group, Name: group})
	}
	if replaced != 0 {
		delete(m.nodes, replaced)
		m.log.WithFields(logrus.Fields{"node": replaced, "by": n.ID, "addr": n.Addr}).Warn("a store was replaced by an empty one, which is filled from the group")
	}
	n.State = tnv.NodeAlive
	now := time.Now()
	m.asOf = now
	m.nodes[n.ID] = &member{node: n, heard: now, until: now.Add(lostAfter), via: via, beat: protocol.NodeBeat{Node: n.ID, Boot: n.Boot, Comparing: true}}
	m.publishLocked()
	m.tellLocked()
	m.log.WithFields(logrus.Fields{"node": n.ID, "group": group, "addr": n.Addr, "boot": n.Boot}).Info("storage daemon joined")
}

// beat takes a heartbeat in. KindNotExist asks the daemon to announce itself.
func (m *members) beat(b *protocol.NodeBeat) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	is := m.nodes[b.Node]
	if is == nil || is.heard.IsZero() || is.node.Boot != b.Boot {
		return tnv.E("heartbeat", tnv.KindNotExist, "store %v, boot %d, is not known: announce it", b.Node, b.Boot)
	}
	now := time.Now()
	is.heard, is.until, is.beat = now, now.Add(lostAfter), *b
	state := b.State
	if state == tnv.NodeLost {
		state = tnv.NodeAlive
	}
	changed := is.node.State != state
	if changed {
		m.log.WithFields(logrus.Fields{"node": b.Node, "addr": is.node.Addr, "state": state.String()}).Info("storage daemon changed state")
	}
	usage := is.node.Used != b.Used || is.node.Capacity != b.Capacity
	first := is.node.Capacity == 0
	is.node.State, is.node.Used, is.node.Capacity = state, b.Used, b.Capacity
	if changed || first || usage && now.Sub(m.usageAt) > usageEvery {
		m.usageAt = now
		m.publishLocked()
		if changed {
			m.tellLocked()
		}
	}
	return nil
}

// disconnected notes that a connection has ended: whoever announced itself on it
// has died, most likely, and is given little time to come back.
func (m *members) disconnected(via *protocol.Peer) {
	if via.Role != protocol.RoleStore {
		return
	}
	soon := time.Now().Add(goneAfter)
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.nodes {
		if n.via == via && n.until.After(soon) {
			n.until = soon
		}
	}
}

// expire marks as lost whoever was silent for too long.
func (m *members) expire(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := false
	for _, n := range m.nodes {
		if n.node.State != tnv.NodeLost && now.After(n.until) {
			n.node.State = tnv.NodeLost
			changed = true
			m.log.WithFields(logrus.Fields{"node": n.node.ID, "addr": n.node.Addr}).Warn("storage daemon is lost: no heartbeat")
		}
	}
	if changed {
		m.publishLocked()
		m.tellLocked()
	}
}

// tellLocked has the map pushed.
func (m *members) tellLocked() {
	select {
	case m.changed <- struct{}{}:
	default: // it will be the newest
	}
}

// newer is the current map, nil if the asker has it.
func (m *members) newer(epoch tnv.Epoch, version uint64) *tnv.Map {
	is := m.Map()
	if is.Epoch == epoch && is.Version == version {
		return nil
	}
	return is
}

// status tells of every group; lacks says how much the metadata knows a node to lack.
func (m *members) status(lacks func(tnv.NodeID) (blocks, bytes uint64)) []protocol.GroupStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	var out []protocol.GroupStatus
	for _, g := range m.Map().Groups {
		st := protocol.GroupStatus{ID: g.ID, Name: g.Name, State: "whole"}
		alive, slow, comparing := 0, false, false
		for _, n := range g.Nodes {
			is := m.nodes[n.ID]
			ns := protocol.NodeStatus{Node: is.node, Blocks: is.beat.Blocks, CopyRate: is.beat.CopyRate, CorruptBlocks: is.beat.CorruptBlocks, MendedBlocks: is.beat.MendedBlocks}
			comparing = comparing || is.beat.Comparing
			blocks, bytes := lacks(n.ID)
			ns.BehindBlocks, ns.BehindBytes = max(blocks, is.beat.BehindBlocks), max(bytes, is.beat.BehindBytes)
			if !is.heard.IsZero() {
				ns.LastBeatMs = uint64(now.Sub(is.heard).Milliseconds())
			}
			switch is.node.State {
			case tnv.NodeLost:
			case tnv.NodeSlow:
				alive, slow = alive+1, true
			default:
				alive++
			}
			st.BehindBlocks += ns.BehindBlocks
			st.BehindBytes += ns.BehindBytes
			st.Nodes = append(st.Nodes, ns)
		}
		_, leaves := m.leaving[g.ID]
		switch {
		case leaves:
			st.State = "draining"
		case alive == 0:
			st.State = "down"
		case alive < len(g.Nodes) || slow || comparing || st.BehindBlocks > 0:
			st.State = "degraded"
		}
		out = append(out, st)
	}
	return out
}
