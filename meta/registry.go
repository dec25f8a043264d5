package meta

import (
	"context"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// ClusterVolume is the volume in which the cluster keeps its own records.
const ClusterVolume tnv.VolumeID = 0

// Registry is the cluster's own volume: which volumes, groups and storage
// daemons there are. Who of them is alive is not kept here.
type Registry struct {
	*store
	admit sync.Mutex // one admission at a time: two stores may bring one new group
}

// OpenRegistry begins to execute on volume 0, whose lease is held.
func OpenRegistry(ctx context.Context, engine kv.Engine, lease kv.Lease, log *logrus.Entry) (*Registry, error) {
	s, err := openStore(ctx, engine, lease, 16<<20, log)
	if err != nil {
		return nil, err
	}
	r := &Registry{store: s}
	if err := r.loadIDs(ctx); err != nil {
		s.close()
		return nil, tnv.Wrap("open the cluster's registry", err)
	}
	r.ids[idIno].step = registryStep
	return r, nil
}

// registryStep is how many ids are reserved at a time: those of volumes are short.
const registryStep = 16

// Close stops executing; what was acknowledged is applied.
func (r *Registry) Close() { r.close() }

// Dead is closed when the registry was given up because a batch could not be applied.
func (r *Registry) Dead() <-chan struct{} { return r.dead }

// Epoch is the epoch in which the registry is owned here.
func (r *Registry) Epoch() tnv.Epoch { return r.lease.Epoch }

// EnsureVolume finds a volume by name, or makes it.
func (r *Registry) EnsureVolume(ctx context.Context, name string) (tnv.VolumeID, error) {
	if err := checkName(name); err != nil {
		return 0, tnv.Wrap("make volume", err)
	}
	var id tnv.VolumeID
	err := r.mutate(ctx, func(tx *Tx) error {
		v, err := getAs[volume](tx, volumeKey(name))
		if err != nil {
			return err
		}
		if v != nil {
			id = v.ID
			return v.usable("open volume")
		}
		n, err := tx.newIDs(idIno, 1) // volumes and groups are numbered from one counter
		if err != nil {
			return err
		}
		if n >= uint64(tnv.CopyVolume) {
			return tnv.E("make volume", tnv.KindNoSpace, "all ids of volumes are taken")
		}
		id = tnv.VolumeID(n)
		tx.set(volumeKey(name), &volume{ID: id, Name: name})
		return nil
	})
	return id, err
}

// Known is the groups and nodes that were taken into the cluster: ids, names,
// hosts and boot counters.
func (r *Registry) Known(ctx context.Context) ([]tnv.Group, error) {
	var groups []tnv.Group
	err := eachRecord(ctx, r.store, keyGroup, func(val any) {
		g := val.(*group)
		groups = append(groups, tnv.Group{ID: g.ID, Name: g.Name})
	})
	if err != nil {
		return nil, err
	}
	var nodes []*node
	err = eachRecord(ctx, r.store, keyNode, func(val any) { nodes = append(nodes, val.(*node)) })
	addNodes(groups, nodes)
	return groups, err
}

func eachRecord(ctx context.Context, s *store, class byte, fn func(val any)) error {
	prefix := string([]byte{class})
	pairs, seen, err := s.scan(ctx, prefix, prefixEnd(prefix), 0, nil)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		val, err := decoders[class](p.value)
		if err != nil {
			return s.damaged(p.key, err)
		}
		fn(val)
	}
	return s.wait(ctx, seen)
}

// Admission is a storage daemon that wants to be taken in.
type Admission struct {
	Node     tnv.Node
	Group    string // name
	New      bool   // its store is empty and was never part of a cluster
	SameHost bool   // a host that the group has already is allowed
}

// Admit takes a storage daemon into the cluster, or notes its new boot. It
// returns the daemon's group. A store whose boot counter went back was restored
// from a copy, and may lack what it once confirmed: it is refused (D8), as is a
// host that the group has already, unless that is allowed. An empty store that
// announces itself from the very address of a member has taken its place: the
// disk was exchanged or wiped. That member, whose id is returned, is none any
// more; if its disk comes back, it is one that nobody knows.
func (r *Registry) Admit(ctx context.Context, a Admission) (id tnv.GroupID, replaced tnv.NodeID, err error) {
	n := a.Node
	if n.ID == 0 || n.Boot == 0 || n.Addr == "" {
		return 0, 0, tnv.E(opAnnounce, tnv.KindInvalid, "a store without id, boot counter or address")
	}
	if err := checkName(a.Group); err != nil {
		return 0, 0, tnv.Wrap(opAnnounce, err)
	}
	r.admit.Lock()
	defer r.admit.Unlock()
	known, err := r.Known(ctx)
	if err != nil {
		return 0, 0, err
	}
	if i := slices.IndexFunc(known, func(g tnv.Group) bool { return g.Name == a.Group }); i >= 0 {
		id = known[i].ID
		if replaced, err = a.place(known[i]); err != nil {
			return 0, 0, err
		}
	}
	group := id
	err = r.mutate(ctx, func(tx *Tx) error {
		if err := refuseRetired(tx, n.ID); err != nil {
			return err
		}
		var err error
		id, err = a.enter(tx, group)
		if err == nil && replaced != 0 {
			tx.del(nodeKey(replaced))
		}
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	// A store's admission decides what others are waited for: it must not be forgotten.
	return id, replaced, r.sync(ctx)
}

const opAnnounce = "announce"

// place finds the member of the group whose place an empty store takes, if it
// takes one, and refuses a host that the group has already.
func (a *Admission) place(g tnv.Group) (replaced tnv.NodeID, err error) {
	n := &a.Node
	for _, o := range g.Nodes {
		if a.New && o.ID != n.ID && o.Host == n.Host && o.Addr == n.Addr {
			replaced = o.ID
		}
	}
	for _, o := range g.Nodes {
		if o.ID != n.ID && o.ID != replaced && o.Host == n.Host && !a.SameHost {
			return 0, tnv.E(opAnnounce, tnv.KindConflict, "group %s has a store on host %s already (%v): members of a group belong on different hosts, unless --allow-same-host says otherwise; an emptied store takes its old place if it listens at the old address, %s", a.Group, n.Host, o.ID, o.Addr)
		}
	}
	return replaced, nil
}

// enter writes the store's record, and that of its group if it is a new one.
func (a *Admission) enter(tx *Tx, id tnv.GroupID) (tnv.GroupID, error) {
	n := &a.Node
	was, err := getAs[node](tx, nodeKey(n.ID))
	if err != nil {
		return 0, err
	}
	if was != nil && n.Boot < was.Boot {
		return 0, tnv.E(opAnnounce, tnv.KindConflict, "store %v starts for the %d. time, but has started %d times before: it is an old copy; empty its directory to have it filled again", n.ID, n.Boot, was.Boot)
	}
	if was != nil && n.Boot == was.Boot && n.Addr != was.Addr {
		return 0, tnv.E(opAnnounce, tnv.KindConflict, "store %v has announced itself at %s in this very boot: two daemons run on copies of one store; stop one and empty its directory", n.ID, was.Addr)
	}
	if id == 0 {
		next, err := tx.newIDs(idIno, 1)
		if err != nil {
			return 0, err
		}
		id = tnv.GroupID(next)
		tx.set(groupKey(id), &group{ID: id, Name: a.Group})
	}
	if was != nil && was.Group != id {
		return 0, tnv.E(opAnnounce, tnv.KindConflict, "store %v belongs to another group than %s", n.ID, a.Group)
	}
	is := &node{ID: n.ID, Group: id, Boot: n.Boot, Host: n.Host, Addr: n.Addr}
	if was == nil || *was != *is {
		tx.set(nodeKey(n.ID), is)
	}
	return id, nil
}
