package stored

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// ask puts a question to the trackers, one after another, until one answers.
func (t *trackers) ask(ctx context.Context, typ protocol.Type, rep any, req any) error {
	err := tnv.E("ask a tracker", tnv.KindUnavailable, "none is connected")
	for _, c := range t.connected() {
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		err = c.Call(cctx, typ, rep, req)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// alive asks the owner of a volume which of the blocks live. Any doubt, and
// any failure, says that they do.
func (t *trackers) alive(ctx context.Context, vol tnv.VolumeID, blocks []protocol.BlockHome) ([]protocol.Liveness, error) {
	all := make([]protocol.Liveness, 0, len(blocks)) // LiveBlock is the zero value
	for len(blocks) > 0 {
		batch := blocks[:min(len(blocks), protocol.MaxBatch)]
		blocks = blocks[len(batch):]
		var reply protocol.AliveReply
		if err := t.ask(ctx, protocol.TypeAlive, &reply, &protocol.Alive{Vol: vol, Blocks: batch}); err != nil {
			return nil, err
		}
		if len(reply.State) != len(batch) {
			return nil, tnv.E("ask what lives", tnv.KindProtocol, "%d answers for %d blocks", len(reply.State), len(batch))
		}
		all = append(all, reply.State...)
	}
	return all, nil
}

// lacking asks which blocks the metadata records this store to lack.
func (t *trackers) lacking(ctx context.Context, vol tnv.VolumeID, from tnv.BlockID) (protocol.LackingReply, error) {
	var reply protocol.LackingReply
	err := t.ask(ctx, protocol.TypeLacking, &reply, &protocol.Lacking{Node: t.d.node, Vol: vol, From: from, Limit: protocol.MaxBatch})
	return reply, err
}

// held tells every connected tracker that this store has the blocks, on disk.
// It fails if no tracker took it in; who else missed it still names them in its
// answer to lacking.
func (t *trackers) held(ctx context.Context, vol tnv.VolumeID, blocks []tnv.BlockID) error {
	for len(blocks) > 0 {
		batch := blocks[:min(len(blocks), protocol.MaxBatch)]
		blocks = blocks[len(batch):]
		req := protocol.Held{Node: t.d.node, Boot: t.d.boot, Vol: vol, Blocks: batch}
		err, taken := tnv.E("tell what is held", tnv.KindUnavailable, "no tracker is connected"), false
		for _, c := range t.connected() {
			cctx, cancel := context.WithTimeout(ctx, callTimeout)
			if err = c.Call(cctx, protocol.TypeHeld, nil, &req); err == nil {
				taken = true
			}
			cancel()
		}
		if !taken {
			return err
		}
	}
	return nil
}
