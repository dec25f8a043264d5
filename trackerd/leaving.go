package trackerd

import (
	"maps"
	"slices"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
)

// Groups that leave, as the members of the cluster see it.

// shownLocked is a node as the map shows it: that of a group which is being
// emptied takes no new blocks.
func (m *members) shownLocked(n tnv.Node) tnv.Node {
	if _, leaves := m.leaving[n.Group]; leaves && n.State == tnv.NodeAlive {
		n.State = tnv.NodeFull
	}
	return n
}

// Closed tells whether no commit may name a group any more; see meta.Cluster.
func (m *members) Closed(g tnv.GroupID) bool {
	c := m.closed.Load()
	return c != nil && (*c)[g]
}

// setLeaving says that a group is being emptied, or, closed, that nothing may be
// added to it any more: then it stays so.
func (m *members) setLeaving(g tnv.GroupID, closed bool) {
	m.changeLeaving(func() {
		if m.leaving == nil {
			m.leaving = map[tnv.GroupID]bool{}
		}
		m.leaving[g] = closed || m.leaving[g]
	})
}

// stays says that a group is not emptied any more.
func (m *members) stays(g tnv.GroupID) { m.changeLeaving(func() { delete(m.leaving, g) }) }

// removeGroup forgets a group and its stores.
func (m *members) removeGroup(g tnv.GroupID) { m.changeLeaving(func() { m.removeGroupLocked(g) }) }

func (m *members) removeGroupLocked(g tnv.GroupID) {
	m.groups = slices.DeleteFunc(m.groups, func(o tnv.Group) bool { return o.ID == g })
	maps.DeleteFunc(m.nodes, func(_ tnv.NodeID, n *member) bool { return n.node.Group == g })
	m.leaving[g] = true // a commit that is under way must not name it
}

// goneLocked tells whether a group has left.
func (m *members) goneLocked(g tnv.GroupID) bool {
	return m.leaving[g] && !slices.ContainsFunc(m.groups, func(o tnv.Group) bool { return o.ID == g })
}

// forgetLocked forgets stores that were taken out, and tells whether any was known.
func (m *members) forgetLocked(retired []tnv.NodeID) (changed bool) {
	for _, id := range retired {
		if _, there := m.nodes[id]; there {
			delete(m.nodes, id)
			changed = true
		}
	}
	return changed
}

// followLocked has groups leave as the registry, at another tracker, says, and tells
// whether anything is new. What was closed stays closed until it is gone.
func (m *members) followLocked(d *meta.Directory) (changed bool) {
	if m.leaving == nil {
		m.leaving = map[tnv.GroupID]bool{}
	}
	drains := map[tnv.GroupID]bool{}
	for _, x := range d.Drains {
		drains[x.Group] = true
		if was, there := m.leaving[x.Group]; !there || x.Closed && !was {
			m.leaving[x.Group], changed = x.Closed, true
		}
	}
	for g, closed := range m.leaving {
		switch {
		case drains[g] || m.goneLocked(g):
		case !closed:
			delete(m.leaving, g)
			changed = true
		case !slices.ContainsFunc(d.Groups, func(o tnv.Group) bool { return o.ID == g }):
			m.removeGroupLocked(g)
			changed = true
		}
	}
	m.closeLocked()
	return changed
}

// removeNode forgets a store.
func (m *members) removeNode(id tnv.NodeID) {
	m.changeLeaving(func() { delete(m.nodes, id) })
}

// hide leaves a store out of the map, so that no commit counts it as a holder any
// more. False: it is hidden already.
func (m *members) hide(id tnv.NodeID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hidden[id] {
		return false
	}
	if m.hidden == nil {
		m.hidden = map[tnv.NodeID]bool{}
	}
	m.hidden[id] = true
	m.publishLocked()
	m.tellLocked()
	return true
}

// unhide has the map show a store again, if it is a member still.
func (m *members) unhide(id tnv.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.hidden, id)
	m.publishLocked()
	m.tellLocked()
}

// hides tells whether any store is hidden.
func (m *members) hides() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.hidden) > 0
}

func (m *members) changeLeaving(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	m.closeLocked()
	m.publishLocked()
}

// closeLocked has Closed tell of what is closed now.
func (m *members) closeLocked() {
	closed := maps.Clone(m.leaving)
	maps.DeleteFunc(closed, func(_ tnv.GroupID, is bool) bool { return !is })
	m.closed.Store(&closed)
}

// leaves tells whether a group is being emptied.
func (m *members) leaves(g tnv.GroupID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, is := m.leaving[g]
	return is
}

// groupNamed finds a group in the map by its name; nil if there is none.
func groupNamed(m *tnv.Map, name string) *tnv.Group {
	for i := range m.Groups {
		if m.Groups[i].Name == name {
			return &m.Groups[i]
		}
	}
	return nil
}

// space is what a group has, in bytes, counting it as its fullest member; ok is
// false while a member has not told.
func space(g *tnv.Group) (used, capacity uint64, ok bool) {
	for i, n := range g.Nodes {
		if n.Capacity == 0 {
			return 0, 0, false
		}
		if i == 0 || capacity-min(capacity, used) > n.Capacity-min(n.Capacity, n.Used) {
			used, capacity = n.Used, n.Capacity
		}
	}
	return used, capacity, len(g.Nodes) > 0
}

// takes tells whether every member of a group is alive and takes blocks.
func takes(g *tnv.Group) bool {
	return len(g.Nodes) > 0 && !slices.ContainsFunc(g.Nodes, func(n tnv.Node) bool { return n.State != tnv.NodeAlive })
}

// staying is the map without groups that are being emptied.
func (m *members) staying() *tnv.Map {
	is := *m.Map()
	is.Groups = slices.DeleteFunc(slices.Clone(is.Groups), func(g tnv.Group) bool { return m.leaves(g.ID) })
	return &is
}
