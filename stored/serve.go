package stored

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// handle answers one request, on its connection's goroutine.
func (d *daemon) handle(ctx context.Context, p *protocol.Peer, f *protocol.Frame) error {
	if !d.requests.begin() {
		return p.Wire().WriteReply(f, tnv.E("request", tnv.KindUnavailable, "the storage daemon is stopping"), nil)
	}
	defer d.requests.end()
	switch f.Type {
	case protocol.TypePut:
		return d.put(ctx, p, f)
	case protocol.TypeGet:
		return d.get(ctx, p, f)
	case protocol.TypeLocate:
		return d.locate(p, f)
	}
	values, err := d.answer(ctx, p, f)
	if err != nil {
		d.met.failed(err)
	}
	return p.Wire().WriteReply(f, err, values)
}

// answer handles what has no payload.
func (d *daemon) answer(ctx context.Context, p *protocol.Peer, f *protocol.Frame) ([]any, error) {
	switch f.Type {
	case protocol.TypeDelete:
		return d.delete(ctx, p, f)
	case protocol.TypeSync:
		return d.sync(ctx, f)
	case protocol.TypeCompose:
		return d.compose(ctx, p, f)
	case protocol.TypeDigest:
		return d.digest(f)
	case protocol.TypeList:
		return d.list(f)
	case protocol.TypeScrub:
		return d.scrubbed(f)
	case protocol.TypeRepair:
		var req protocol.Repair
		if err := f.Decode(&req); err != nil {
			return nil, err
		}
		return nil, d.repairs.ask(req.Key, req.Home)
	}
	return nil, tnv.E("request", tnv.KindNotSupported, "a storage daemon answers no request of type %d", f.Type)
}

// delete removes blocks for the owner of their volume.
func (d *daemon) delete(ctx context.Context, p *protocol.Peer, f *protocol.Frame) ([]any, error) {
	const op = "delete blocks"
	if p.Role != protocol.RoleTracker {
		return nil, tnv.E(op, tnv.KindPermission, "only trackers delete blocks, not a %.20q", p.Role)
	}
	var req protocol.Delete
	if err := f.Decode(&req); err != nil {
		return nil, err
	}
	switch {
	case req.Node != d.node:
		return nil, tnv.E(op, tnv.KindConflict, "meant for store %v, this is %v", req.Node, d.node)
	case req.Vol == 0 || len(req.Blocks) > protocol.MaxBatch:
		return nil, tnv.E(op, tnv.KindInvalid, "%d blocks of volume %d: at most %d, of a volume above 0", len(req.Blocks), req.Vol, protocol.MaxBatch)
	}
	if err := d.store.Delete(ctx, req.Vol, req.Blocks); err != nil {
		return nil, err
	}
	d.met.deletes.Add(float64(len(req.Blocks)))
	return []any{&protocol.DeleteReply{}}, nil
}

// sync puts on disk what was taken, and says what of the asked is not there:
// what an earlier failed sync lost is among it (rule D5).
func (d *daemon) sync(ctx context.Context, f *protocol.Frame) ([]any, error) {
	var req protocol.Sync
	if err := f.Decode(&req); err != nil {
		return nil, err
	}
	if len(req.Blocks) > protocol.MaxBatch {
		return nil, tnv.E("sync", tnv.KindInvalid, "%d blocks, at most %d", len(req.Blocks), protocol.MaxBatch)
	}
	if err := d.syncStore(ctx); err != nil {
		return nil, err
	}
	reply := protocol.SyncReply{Node: d.node, Boot: d.boot}
	for _, k := range req.Blocks {
		if !d.store.Has(k) {
			reply.Missing = append(reply.Missing, k)
		}
	}
	return []any{&reply}, nil
}

const maxParts = 256

func (d *daemon) digest(f *protocol.Frame) ([]any, error) {
	var req protocol.Digest
	if err := f.Decode(&req); err != nil {
		return nil, err
	}
	if req.Parts < 1 || req.Parts > maxParts || req.To != 0 && req.To <= req.From {
		return nil, tnv.E("digest", tnv.KindInvalid, "%d parts of [%d, %d): 1 to %d parts of a range", req.Parts, req.From, req.To, maxParts)
	}
	reply, err := d.localDigest(&req)
	return []any{&reply}, err
}

func (d *daemon) list(f *protocol.Frame) ([]any, error) {
	var req protocol.List
	if err := f.Decode(&req); err != nil {
		return nil, err
	}
	if req.Limit < 1 || req.Limit > protocol.MaxBatch || req.To != 0 && req.To <= req.From {
		return nil, tnv.E("list", tnv.KindInvalid, "%d blocks of [%d, %d): 1 to %d of a range", req.Limit, req.From, req.To, protocol.MaxBatch)
	}
	reply, err := d.localList(&req)
	return []any{&reply}, err
}

// refuse answers with an error, and counts it.
func (d *daemon) refuse(w *protocol.Wire, f *protocol.Frame, err error) error {
	d.met.failed(err)
	return w.WriteReply(f, err, nil)
}
