package trackerd

import (
	"context"
	"errors"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

// removeNode takes a store out of its group, if the others, all that live, hold
// every block that the metadata names there. What is committed behind the look at the
// blocks is seen by what the others lack then: from before the last look on the store
// is no holder that counts.
func (t *tracker) removeNode(ctx context.Context, rq *protocol.NodeRemove) (done, error) {
	const op = "remove node"
	all, err := t.everyBlock(ctx, op)
	if err != nil {
		return done{}, err
	}
	m := t.members.Map()
	n := m.Node(rq.Node)
	if n == nil {
		return done{}, tnv.E(op, tnv.KindNotExist, "there is no store %v", rq.Node)
	}
	var others []tnv.Node
	for _, o := range m.Group(n.Group).Nodes {
		if o.ID != n.ID && o.State != tnv.NodeLost {
			others = append(others, o)
		}
	}
	if len(others) == 0 {
		return done{}, tnv.E(op, tnv.KindBusy, "store %v is the last that lives in its group: add another first, or drain the group", n.ID)
	}
	for _, v := range all {
		lacks, err := t.audit(ctx, v, n.Group, others)
		if err != nil {
			return done{}, err
		}
		if lacks > 0 {
			return done{}, tnv.E(op, tnv.KindBusy, "the other members of its group lack %d blocks of volume %s yet", lacks, v.Name())
		}
	}
	if lacks, err := t.lacksPieces(ctx, *n, others); err != nil {
		return done{}, err
	} else if lacks > 0 {
		return done{}, tnv.E(op, tnv.KindBusy, "the other members of its group lack %d pieces of copies of the metadata yet", lacks)
	}
	if !t.members.hide(n.ID) {
		return done{}, tnv.E(op, tnv.KindBusy, "store %v is being taken out already", n.ID)
	}
	defer t.members.unhide(n.ID)
	if now, err := t.everyBlock(ctx, op); err != nil || !same(now, all) {
		return done{}, errors.Join(err, errMoved)
	}
	if err := t.heldByOthers(ctx, op, all, others); err != nil {
		return done{}, err
	}
	if _, err := onRegistry(t, func(r *meta.Registry) (done, error) { return done{}, r.RemoveNode(ctx, n.ID) }); err != nil {
		return done{}, err
	}
	t.members.removeNode(n.ID)
	for _, v := range all {
		if err := v.ForgetNode(ctx, n.ID); err != nil {
			return done{}, err
		}
	}
	t.log.WithFields(logrus.Fields{"node": n.ID, "addr": n.Addr}).Info("a storage daemon was taken out of the cluster")
	return done{}, nil
}

// heldByOthers is KindBusy if stores that had all a moment ago are not what they were,
// or lack anything that a commit which has begun by now names.
func (t *tracker) heldByOthers(ctx context.Context, op string, all []*meta.Volume, others []tnv.Node) error {
	for _, v := range all {
		if _, err := v.Status(ctx); err != nil { // what was executed by an older map is counted then
			return err
		}
	}
	m := t.members.Map()
	for _, o := range others {
		if is := m.Node(o.ID); is == nil || is.Boot != o.Boot || is.State == tnv.NodeLost {
			return tnv.E(op, tnv.KindBusy, "store %v of its group was lost, or has restarted, meanwhile", o.ID)
		}
		for _, v := range all {
			if n, _ := v.Lacks(o.ID); n > 0 {
				return tnv.E(op, tnv.KindBusy, "store %v of its group lacks %d blocks of volume %s yet", o.ID, n, v.Name())
			}
		}
	}
	return nil
}

// audit counts how many of the blocks that the metadata names in a group stores
// of it lack, each store's counted.
func (t *tracker) audit(ctx context.Context, v *meta.Volume, g tnv.GroupID, nodes []tnv.Node) (lacks uint64, err error) {
	err = inParts(func(part meta.Part) error {
		if part.N == 0 {
			lacks = 0
		}
		named, err := v.Census(ctx, part)
		if err != nil {
			return err
		}
		var want uint64
		for _, x := range named {
			if x.Group == g {
				want++
			}
		}
		for _, n := range nodes {
			has := uint64(0)
			if err := t.eachListed(ctx, n, v.ID(), func(page []protocol.ListedBlock) error {
				for _, b := range page {
					if x, there := named[b.Block]; there && x.Group == g {
						has++
					}
				}
				return nil
			}); err != nil {
				return err
			}
			lacks += want - min(has, want)
		}
		return nil
	})
	return lacks, err
}
