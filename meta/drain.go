package meta

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// Drain is the record that a group is being emptied: d. It stays until the group is gone.
type Drain struct {
	Group  tnv.GroupID
	Rate   uint64 // bytes per second
	Closed bool   // no commit may name the group any more
}

func (d *Drain) encode() []byte { return packed(d) }

// Drains lists the groups that are being emptied.
func (r *Registry) Drains(ctx context.Context) (l []Drain, err error) {
	err = eachRecord(ctx, r.store, keyDrain, func(val any) { l = append(l, *val.(*Drain)) })
	return l, err
}

// SetDrain records how the emptying of a group stands; it is on disk on return.
func (r *Registry) SetDrain(ctx context.Context, d Drain) error {
	err := r.mutate(ctx, func(tx *Tx) error {
		tx.set(drainKey(d.Group), &d)
		return nil
	})
	if err != nil {
		return err
	}
	return r.sync(ctx)
}

// EndDrain forgets that a group is being emptied.
func (r *Registry) EndDrain(ctx context.Context, g tnv.GroupID) error {
	err := r.mutate(ctx, func(tx *Tx) error {
		tx.del(drainKey(g))
		return nil
	})
	if err != nil {
		return err
	}
	return r.sync(ctx)
}

// RemoveGroup takes an empty group and its stores out of the cluster for good.
func (r *Registry) RemoveGroup(ctx context.Context, g tnv.GroupID) error {
	return r.remove(ctx, func(n *node) bool { return n.Group == g }, groupKey(g), drainKey(g))
}

// RemoveNode takes a store out of the cluster for good: it is not taken in again
// unless it is emptied, which makes it another one.
func (r *Registry) RemoveNode(ctx context.Context, id tnv.NodeID) error {
	return r.remove(ctx, func(n *node) bool { return n.ID == id })
}

func (r *Registry) remove(ctx context.Context, which func(*node) bool, keys ...string) error {
	r.admit.Lock()
	defer r.admit.Unlock()
	var nodes []tnv.NodeID
	err := eachRecord(ctx, r.store, keyNode, func(val any) {
		if n := val.(*node); which(n) {
			nodes = append(nodes, n.ID)
		}
	})
	if err != nil {
		return err
	}
	err = r.mutate(ctx, func(tx *Tx) error {
		for _, k := range keys {
			tx.del(k)
		}
		for _, id := range nodes {
			tx.del(nodeKey(id))
			tx.set(retiredKey(id), mark{})
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.sync(ctx)
}

// retired lists the stores that were taken out.
func retired(ctx context.Context, engine kv.Engine) (l []tnv.NodeID, err error) {
	prefix := string([]byte{keyRetired})
	err = engine.Scan(ctx, ClusterVolume, []byte(prefix), []byte(prefixEnd(prefix)), 0, func(k, _ []byte) bool {
		l = append(l, tnv.NodeID(split1(string(k))))
		return true
	})
	return l, err
}

// Unmoved names the volumes that nobody executes, though they name blocks or may do so
// again: those cannot be moved.
func (r *Registry) Unmoved(ctx context.Context) (l []string, err error) {
	err = eachRecord(ctx, r.store, keyVolume, func(val any) {
		if v := val.(*volume); v.State == volumeLoading || v.State == volumeDeleted || v.State == volumeMoved {
			l = append(l, v.Name+" ("+v.State.String()+")")
		}
	})
	return l, err
}

// refuseRetired refuses a store that was taken out: its blocks are those of another time.
func refuseRetired(tx *Tx, id tnv.NodeID) error {
	r, err := tx.get(retiredKey(id))
	if err != nil || r == nil {
		return err
	}
	return tnv.E("announce", tnv.KindConflict, "store %v was taken out of the cluster: empty its directory to use it again", id)
}
