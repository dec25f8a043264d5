package stored

import (
	"context"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// composeAnswer bounds the answer of those to whom a composed block is put, each.
const composeAnswer = 15 * time.Second

// compose makes a block of parts of others, every byte verified, and puts it to
// members of a group: what is moved goes from store to store.
func (d *daemon) compose(ctx context.Context, p *protocol.Peer, f *protocol.Frame) ([]any, error) {
	const op = "compose"
	if p.Role != protocol.RoleTracker {
		return nil, tnv.E(op, tnv.KindPermission, "only trackers have blocks moved, not a %.20q", p.Role)
	}
	var req protocol.Compose
	if err := f.Decode(&req); err != nil {
		return nil, err
	}
	size, err := checkCompose(&req)
	if err != nil {
		return nil, err
	}
	if err := d.mem.copy.acquire(ctx, tnv.MaxBlockSize, copyWait); err != nil {
		return nil, err
	}
	defer d.mem.copy.release(tnv.MaxBlockSize)
	buf := d.mem.bufs.get(tnv.MaxBlockSize)
	defer d.mem.bufs.put(buf)
	at := 0
	for _, part := range req.Parts {
		if err := d.readPart(ctx, req.Key.Vol, part, buf[at:at+int(part.Len)]); err != nil {
			return nil, err
		}
		at += int(part.Len)
	}
	unit := protocol.UnitFor(size)
	meta := protocol.BlockMeta{Key: req.Key, Home: req.Home, Len: uint32(size), Unit: unit, Sums: protocol.BlockSums(req.Key, unit, buf[:size])}
	reply, err := d.putElsewhere(ctx, &protocol.Put{Block: meta, Sync: true, Chain: req.Chain[1:]}, req.Chain[0], buf[:size])
	return []any{&reply}, err
}

func checkCompose(req *protocol.Compose) (size int, err error) {
	const op = "compose"
	if req.Key.Vol == 0 || req.Key.ID == 0 || len(req.Parts) == 0 || len(req.Parts) > protocol.MaxParts {
		return 0, tnv.E(op, tnv.KindInvalid, "block %v of %d parts", req.Key, len(req.Parts))
	}
	if len(req.Chain) == 0 || len(req.Chain) > maxChain+1 || req.Chain[0].Addr == "" {
		return 0, tnv.E(op, tnv.KindInvalid, "a chain of %d members, 1 to %d", len(req.Chain), maxChain+1)
	}
	for _, part := range req.Parts {
		if part.Len == 0 || part.Len > tnv.MaxBlockSize || size+int(part.Len) > tnv.MaxBlockSize {
			return 0, tnv.E(op, tnv.KindInvalid, "block %v of more than %d bytes, or an empty part", req.Key, tnv.MaxBlockSize)
		}
		size += int(part.Len)
	}
	return size, nil
}

// readPart reads a part of a block, verified: from this store, or else from a peer.
func (d *daemon) readPart(ctx context.Context, vol tnv.VolumeID, part protocol.BlockPart, dst []byte) error {
	key := tnv.BlockKey{Vol: vol, ID: part.Block}
	if err := d.disk.acquire(ctx, 1, copyWait); err != nil {
		return err
	}
	err := d.readOwn(key, part, dst)
	d.disk.release(1)
	if err == nil {
		return nil
	}
	if tnv.KindOf(err) == tnv.KindCorrupt {
		home, _ := d.store.Home(key)
		if e := d.repairs.ask(key, home); e != nil {
			d.log.WithError(e).WithField("block", key.String()).Warn("a damaged block is not queued for repair")
		}
	}
	buf := d.mem.bufs.get(tnv.MaxBlockSize)
	defer d.mem.bufs.put(buf)
	for _, p := range d.cluster.peers() {
		meta, perr := d.fetchFrom(ctx, key, p, buf)
		if perr == nil && uint64(part.Off)+uint64(part.Len) <= uint64(meta.Len) {
			copy(dst, buf[part.Off:part.Off+part.Len])
			return nil
		}
	}
	return err
}

func (d *daemon) readOwn(key tnv.BlockKey, part protocol.BlockPart, dst []byte) error {
	r, err := d.store.Open(key)
	if err != nil {
		return err
	}
	defer r.Close()
	meta := r.Meta()
	off, n, err := covering(&meta, part.Off, part.Len)
	if err != nil {
		return err
	}
	buf := d.mem.bufs.get(tnv.MaxBlockSize)
	defer d.mem.bufs.put(buf)
	if _, err := r.ReadAt(buf[:n], int64(off)); err != nil {
		return tnv.Wrap("read block "+key.String(), err)
	}
	first := int(off / meta.Unit)
	if u := protocol.Verify(key, meta.Unit, first, buf[:n], meta.Sums[first:first+protocol.Units(n, meta.Unit)]); u >= 0 {
		return tnv.E("read block "+key.String(), tnv.KindCorrupt, "unit %d does not match its checksum", u)
	}
	copy(dst, buf[part.Off-off:part.Off-off+part.Len])
	return nil
}

// putElsewhere puts a block to a member of another group.
func (d *daemon) putElsewhere(ctx context.Context, put *protocol.Put, to protocol.ChainLink, b []byte) (protocol.PutReply, error) {
	var reply protocol.PutReply
	limit := composeAnswer * time.Duration(1+len(put.Chain))
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := d.pool.Do(ctx, to.Addr, func(w *protocol.Wire) (bool, error) {
		if err := w.WriteFrame(protocol.TypePut, protocol.FlagLife, 0, []any{put}, b); err != nil {
			return false, protocol.Stalled(err)
		}
		f, err := w.ReadAnswer(hopSilence, limit)
		if err != nil {
			return false, err
		}
		return true, f.Decode(&reply)
	})
	return reply, err
}
