package trackerd

import (
	"context"
	"slices"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
)

// maxMembers is how many members of a group are told apart.
const maxMembers = 64

// checkBlocks compares the blocks of a part that the metadata names with what
// the living members of their groups hold.
//
// Writing goes on meanwhile. A block counts as lost at a member if it was named,
// with no record that the member lacks it, before it was seen to be lacking
// there, and is named still afterwards. What the member's list lacked at first
// only says where to look.
func (j *fsckJob) checkBlocks(ctx context.Context, part meta.Part) error {
	named, err := j.v.Census(ctx, part)
	if err != nil {
		return err
	}
	m := j.t.members.Map()
	for b, x := range named {
		if m.Group(x.Group) == nil {
			j.found(protocol.Damage{Kind: protocol.DamageGroup, Ino: x.Home.Ino, Chunk: x.Home.Chunk, Block: b, Have: uint64(x.Group)})
		}
	}
	for _, g := range m.Groups {
		if err := j.checkGroup(ctx, part, named, g); err != nil {
			return err
		}
	}
	return nil
}

func (j *fsckJob) checkGroup(ctx context.Context, part meta.Part, named map[tnv.BlockID]meta.Named, g tnv.Group) error {
	var nodes []tnv.Node
	for _, n := range g.Nodes {
		if n.State != tnv.NodeLost {
			nodes = append(nodes, n)
		}
	}
	nodes = nodes[:min(len(nodes), maxMembers)]
	to := tnv.BlockID(1)
	for b := range named {
		to = max(to, b+1)
	}
	held := map[tnv.BlockID]uint64{} // by which of the nodes, a bit each
	for i, n := range nodes {
		err := j.t.eachListedTo(ctx, n, j.v.ID(), to, func(page []protocol.ListedBlock) error {
			j.update(func(rep *protocol.FsckReply) { rep.Blocks += uint64(len(page)) })
			for _, b := range page {
				x, there := named[b.Block]
				if !there || x.Group != g.ID {
					continue
				}
				held[b.Block] |= 1 << i
				if i == 0 && !x.Shared && b.Home != x.Home {
					j.strayed(b.Block, x)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	lacks := make([][]protocol.BlockHome, len(nodes))
	for b, x := range named {
		for i := range nodes {
			if x.Group == g.ID && held[b]&(1<<i) == 0 {
				lacks[i] = append(lacks[i], protocol.BlockHome{Block: b, Home: x.Home})
			}
		}
	}
	lost := map[tnv.BlockID]int{}
	for i, n := range nodes {
		if err := j.confirm(ctx, n, lacks[i], func(b protocol.BlockHome, recorded bool) {
			lost[b.Block]++
			if x := named[b.Block]; !recorded {
				j.found(protocol.Damage{Kind: protocol.DamageLacking, Ino: b.Home.Ino, Chunk: b.Home.Chunk, Block: b.Block, Node: n.ID, Want: uint64(x.Len)})
			}
		}); err != nil {
			return err
		}
	}
	for b, n := range lost {
		if n == len(nodes) {
			x := named[b]
			j.found(protocol.Damage{Kind: protocol.DamageMissing, Ino: x.Home.Ino, Chunk: x.Home.Chunk, Block: b, Have: uint64(n), Want: uint64(len(g.Nodes))})
		}
	}
	return nil
}

// strayed notes a block that is named away from its home and has no references:
// that its home does not name it would make it look dead (D1).
func (j *fsckJob) strayed(b tnv.BlockID, x meta.Named) {
	j.found(protocol.Damage{Kind: protocol.DamageShared, Ino: x.Home.Ino, Chunk: x.Home.Chunk, Block: b})
}

// confirm calls fn for those of the blocks that a store lacks for certain, and
// tells whether that is recorded.
func (j *fsckJob) confirm(ctx context.Context, n tnv.Node, blocks []protocol.BlockHome, fn func(b protocol.BlockHome, recorded bool)) error {
	for part := range slices.Chunk(blocks, protocol.MaxBatch) {
		named, unrecorded, err := j.v.Unrecorded(ctx, n.ID, part)
		if err != nil {
			return err
		}
		lacks, err := j.t.lacksOf(ctx, n, j.v.ID(), named)
		if err != nil {
			return err
		}
		still, _, err := j.v.Unrecorded(ctx, n.ID, lacks)
		if err != nil {
			return err
		}
		for _, b := range still {
			fn(b, !slices.Contains(unrecorded, b))
		}
	}
	return nil
}

// lacksOf gives those of the blocks that a store does not hold at present.
func (t *tracker) lacksOf(ctx context.Context, n tnv.Node, vol tnv.VolumeID, blocks []protocol.BlockHome) (lacks []protocol.BlockHome, err error) {
	if len(blocks) == 0 {
		return nil, nil
	}
	keys := make([]tnv.BlockKey, len(blocks))
	for i, b := range blocks {
		keys[i] = tnv.BlockKey{Vol: vol, ID: b.Block}
	}
	call, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var rep protocol.SyncReply
	if err := t.pool.Call(call, n.Addr, protocol.TypeSync, &rep, &protocol.Sync{Blocks: keys}); err != nil {
		return nil, tnv.Wrap("ask store "+n.ID.String(), err)
	}
	missing := map[tnv.BlockID]bool{}
	for _, k := range rep.Missing {
		missing[k.ID] = true
	}
	for _, b := range blocks {
		if missing[b.Block] {
			lacks = append(lacks, b)
		}
	}
	return lacks, nil
}
