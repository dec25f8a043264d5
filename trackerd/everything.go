package trackerd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

// Emptying a group, evening groups out and taking stores away are about all that
// names a block. They are done by a tracker that owns all volumes and the cluster's
// own, and stand still while there is none: half of it would be worse than nothing.

// everything is all volumes, if all are owned here. KindNotOwner: they are not.
func (t *tracker) everything(op string) ([]*meta.Volume, error) {
	all, missing := []*meta.Volume(nil), []string(nil)
	if h := t.held.get(meta.ClusterVolume); h == nil || h.sure() != nil {
		missing = append(missing, "the cluster's own")
	}
	for _, id := range t.directory.volumes() {
		if h := t.held.get(id); h != nil && h.volume != nil && h.sure() == nil {
			all = append(all, h.volume)
		} else {
			missing = append(missing, t.directory.name(id))
		}
	}
	if len(missing) == 0 {
		return all, nil
	}
	return nil, tnv.E(op, tnv.KindNotOwner, "it takes a tracker that owns all volumes, and %s does not own %s: stop the other trackers, or have them hand over with `tnv tracker drain`, until it is done",
		t.addr, listed(missing))
}

// listed names some of many.
func listed(names []string) string {
	const some = 3
	if len(names) <= some {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:some], ", "), len(names)-some)
}

// everyBlock is everything, if nothing else can name a block: a volume that was deleted
// may come back, and nobody executes it meanwhile.
func (t *tracker) everyBlock(ctx context.Context, op string) ([]*meta.Volume, error) {
	all, err := t.everything(op)
	if err != nil {
		return nil, err
	}
	unmoved, err := onRegistry(t, func(r *meta.Registry) ([]string, error) { return r.Unmoved(ctx) })
	if err != nil {
		return nil, err
	}
	if len(unmoved) > 0 {
		return nil, tnv.E(op, tnv.KindConflict, "volumes that are not in use may have blocks there: %s; take them back with `tnv volume undelete`, or have them purged with `tnv volume rm NAME --delay 0s`", listed(unmoved))
	}
	return all, nil
}

// same tells whether nothing but what was looked through is there, never out of this
// tracker's hands meanwhile: a volume that is opened anew is another one.
func same(is, was []*meta.Volume) bool {
	return !slices.ContainsFunc(is, func(v *meta.Volume) bool { return !slices.Contains(was, v) })
}

// pieces counts the pieces of copies of the metadata (volume tnv.CopyVolume) that the
// stores of a group hold, by lineage. Stores that are lost are left out.
func (t *tracker) pieces(ctx context.Context, g *tnv.Group) (map[uint64]int, error) {
	held := map[uint64]int{}
	for _, n := range g.Nodes {
		if n.State == tnv.NodeLost {
			continue
		}
		err := t.eachListed(ctx, n, tnv.CopyVolume, func(page []protocol.ListedBlock) error {
			for _, b := range page {
				held[uint64(b.Home.Ino)]++
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return held, nil
}

// clearPieces has the copy of the metadata leave a group that is being emptied: new
// pieces go elsewhere, so that nothing there is needed once there is a new checkpoint.
// Copies of other trackers, which may be all that is left of a library, hold it back.
func (t *tracker) clearPieces(ctx context.Context, id tnv.GroupID) error {
	g := t.members.Map().Group(id)
	if g == nil {
		return nil
	}
	held, err := t.pieces(ctx, g)
	if err != nil || len(held) == 0 {
		return err
	}
	if t.shipper != nil {
		if err := t.shipper.Renew(ctx); err != nil {
			return err
		}
		if held, err = t.pieces(ctx, g); err != nil || len(held) == 0 {
			return err
		}
	}
	var which []string
	for lineage, n := range held {
		which = append(which, fmt.Sprintf("%d pieces of lineage %d", n, lineage))
	}
	slices.Sort(which)
	return tnv.E("drain", tnv.KindBusy, "group %s holds copies of metadata (volume %d), yet: %s; `tnv restore --list` shows whose they are", g.Name, tnv.CopyVolume, listed(which))
}

// lacksPieces counts the pieces of the metadata's copy that a store has, and others lack.
func (t *tracker) lacksPieces(ctx context.Context, n tnv.Node, others []tnv.Node) (lacks int, err error) {
	if n.State == tnv.NodeLost {
		return 0, nil
	}
	has := map[tnv.BlockID]tnv.Home{}
	err = t.eachListed(ctx, n, tnv.CopyVolume, func(page []protocol.ListedBlock) error {
		for _, b := range page {
			has[b.Block] = b.Home
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, o := range others {
		there := map[tnv.BlockID]bool{}
		if err := t.eachListed(ctx, o, tnv.CopyVolume, func(page []protocol.ListedBlock) error {
			for _, b := range page {
				there[b.Block] = true
			}
			return nil
		}); err != nil {
			return 0, err
		}
		for b, home := range has {
			if !there[b] && (t.shipper == nil || t.shipper.Needed(b, home)) {
				lacks++
			}
		}
	}
	return lacks, nil
}
