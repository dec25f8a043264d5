package trackerd

import (
	"context"
	"errors"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

const (
	listTimeout = 30 * time.Second
	// listPause lies between two pages of a store's list: comparing yields to everything else.
	listPause = 10 * time.Millisecond
)

// collectLoop compares, from time to time, what the stores hold with what the
// metadata names, and deletes what nothing names once its quarantine is over (D7).
func (t *tracker) collectLoop(ctx context.Context) {
	for pause(ctx, t.cfg.CollectEvery); ctx.Err() == nil; pause(ctx, t.cfg.CollectEvery) {
		for _, v := range t.held.volumes() {
			st, err := t.collectIn(ctx, v)
			log := t.log.WithField("volume", v.Name())
			if err != nil && ctx.Err() == nil {
				log.WithError(err).Warn("collecting orphaned blocks failed; it is tried again")
			}
			if st.Collected > 0 {
				log.WithField("blocks", st.Collected).Info("orphaned blocks are deleted")
			}
			for _, why := range st.Asks {
				log.WithField("why", why).Warn("orphaned blocks are kept until `tnv collect --approve`")
			}
		}
	}
}

// collectIn compares and collects once. Stores that cannot be listed are left out.
func (t *tracker) collectIn(ctx context.Context, v *meta.Volume) (protocol.Collection, error) {
	t.collecting.Lock()
	defer t.collecting.Unlock()
	err := inParts(func(p meta.Part) error { return t.findOrphans(ctx, v, p) })
	st, cerr := v.CollectOrphans(ctx, t.cfg.Quarantine, t.sizeOf)
	return st, errors.Join(err, cerr)
}

// inParts calls fn for every part of all block ids: for one that has all, or for
// more, if fn finds them too many.
func inParts(fn func(p meta.Part) error) error {
	for of := uint32(1); ; of *= 2 {
		var all []error
		for n := range of {
			err := fn(meta.Part{N: n, Of: of})
			if errors.Is(err, meta.ErrTooMany) {
				all = []error{err}
				break
			}
			all = append(all, err)
		}
		if err := errors.Join(all...); !errors.Is(err, meta.ErrTooMany) {
			return err
		}
	}
}

// findOrphans puts the blocks of a part that stores hold and nothing names in quarantine.
func (t *tracker) findOrphans(ctx context.Context, v *meta.Volume, part meta.Part) error {
	named, err := v.Census(ctx, part)
	if err != nil {
		return err
	}
	var all []error
	for _, g := range t.members.Map().Groups {
		for _, n := range g.Nodes {
			if n.State == tnv.NodeLost {
				continue
			}
			all = append(all, t.eachListed(ctx, n, v.ID(), func(page []protocol.ListedBlock) error {
				last := page[len(page)-1].Block
				if err := v.NoteAhead(ctx, last); err != nil {
					return err
				}
				var odd []protocol.ListedBlock
				for _, b := range page {
					if _, there := named[b.Block]; !there && part.Has(uint64(b.Block)) {
						odd = append(odd, b)
					}
				}
				return quarantine(ctx, v, g.ID, odd)
			}))
		}
	}
	return errors.Join(all...)
}

// quarantine notes those of the blocks that are dead.
func quarantine(ctx context.Context, v *meta.Volume, g tnv.GroupID, odd []protocol.ListedBlock) error {
	if len(odd) == 0 {
		return nil
	}
	homes := make([]protocol.BlockHome, len(odd))
	for i, b := range odd {
		homes[i] = protocol.BlockHome{Block: b.Block, Home: b.Home}
	}
	states, err := v.Alive(ctx, homes)
	if err != nil {
		return err
	}
	dead := odd[:0]
	for i, b := range odd {
		if states[i] == protocol.DeadBlock {
			dead = append(dead, b)
		}
	}
	_, err = v.Quarantine(ctx, g, dead)
	return err
}

// eachListed calls fn for a store's blocks of a volume, page by page, none of them empty.
func (t *tracker) eachListed(ctx context.Context, n tnv.Node, vol tnv.VolumeID, fn func(page []protocol.ListedBlock) error) error {
	return t.eachListedTo(ctx, n, vol, 0, fn)
}

// eachListedTo is eachListed for ids below one; 0: all. With a bound it ends, however
// fast blocks are written meanwhile.
func (t *tracker) eachListedTo(ctx context.Context, n tnv.Node, vol tnv.VolumeID, to tnv.BlockID, fn func(page []protocol.ListedBlock) error) error {
	for from := tnv.BlockID(1); ; {
		call, cancel := context.WithTimeout(ctx, listTimeout)
		var rep protocol.ListReply
		err := t.pool.Call(call, n.Addr, protocol.TypeList, &rep, &protocol.List{Vol: vol, From: from, To: to, Limit: protocol.MaxBatch})
		cancel()
		if err != nil {
			return tnv.Wrap("list the blocks of store "+n.ID.String(), err)
		}
		for _, b := range rep.Blocks {
			if b.Block < from {
				return tnv.E("list the blocks of store "+n.ID.String(), tnv.KindProtocol, "block %d in a list from %d", b.Block, from)
			}
			from = b.Block + 1
		}
		if len(rep.Blocks) > 0 {
			if err := fn(rep.Blocks); err != nil {
				return err
			}
		}
		if !rep.More || len(rep.Blocks) == 0 {
			return nil
		}
		pause(ctx, listPause)
	}
}

// blocksOf is how many blocks a group has: its largest member's.
func (m *members) blocksOf(g tnv.GroupID) (n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, is := range m.nodes {
		if is.node.Group == g {
			n = max(n, is.beat.Blocks)
		}
	}
	return n
}

// sizeOf is how many blocks of one volume a group has, were they spread evenly over all
// volumes: what may go of one without asking must not grow with the others (D7).
func (t *tracker) sizeOf(g tnv.GroupID) uint64 {
	return t.members.blocksOf(g) / uint64(max(1, len(t.directory.volumes())))
}

// collect answers how a collection stands, and runs one if asked to.
func (t *tracker) collect(ctx context.Context, rq *protocol.Collect) (*protocol.Collection, error) {
	id, err := t.directory.find(ctx, rq.Volume)
	if err != nil {
		return nil, tnv.Wrap("collect", err)
	}
	return on(t, id, func(v *meta.Volume) (*protocol.Collection, error) { return t.collectAsked(ctx, rq, v) })
}

func (t *tracker) collectAsked(ctx context.Context, rq *protocol.Collect, v *meta.Volume) (*protocol.Collection, error) {
	if rq.Approve {
		if err := v.ApproveCollection(ctx); err != nil {
			return nil, err
		}
	}
	var st protocol.Collection
	var err error
	if rq.Now {
		if st, err = t.collectIn(ctx, v); err != nil {
			return nil, err
		}
	}
	now, err := v.Collection(ctx, t.cfg.Quarantine, t.sizeOf)
	now.Collected = st.Collected
	return &now, err
}
