package ship

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// Source is where a copy is read from.
type Source interface {
	// List calls fn for the pieces that each store has. An error: some did not answer.
	List(ctx context.Context, fn func(Stored)) error
	// Get reads a piece, verified.
	Get(ctx context.Context, p Stored) ([]byte, error)
}

// The chunk in a piece's home tells its kind, so that ends are found without reading all.
func homeOf(lineage uint64, kind byte) tnv.Home {
	return tnv.Home{Ino: tnv.Ino(lineage), Chunk: uint64(kind)}
}

// Lineage is what there is of an engine.
type Lineage struct {
	ID     uint64
	Pieces int
	Ends   int // checkpoints that were completed; 0: it cannot be restored
}

// Lineages lists the engines of which there are pieces. An error: some stores did not answer.
func Lineages(ctx context.Context, src Source) ([]Lineage, error) {
	all := map[uint64]*Lineage{}
	seen := map[tnv.BlockID]bool{}
	err := src.List(ctx, func(p Stored) {
		if seen[p.ID] {
			return
		}
		seen[p.ID] = true
		l := all[uint64(p.Home.Ino)]
		if l == nil {
			l = &Lineage{ID: uint64(p.Home.Ino)}
			all[l.ID] = l
		}
		l.Pieces++
		if p.Home.Chunk == kindEnd {
			l.Ends++
		}
	})
	var out []Lineage
	for _, id := range slices.Sorted(maps.Keys(all)) {
		out = append(out, *all[id])
	}
	return out, err
}

// Restored is what Restore has done.
type Restored struct {
	Checkpoint tnv.BlockID // by its end
	Pieces     int         // read
	Records    int
	Batches    int
	Volumes    []tnv.VolumeID
	Unheard    error // stores that did not answer: they may have had something newer
}

// Restore writes the newest state of a lineage that can be had into an engine that is
// empty: every volume with its records, sessions and all. The engine's own numbers of
// epochs and batches begin anew: package meta sees to what has to go on above.
func Restore(ctx context.Context, src Source, lineage uint64, engine kv.Engine) (Restored, error) {
	c := &copyOf{src: src, lineage: lineage, heads: map[tnv.BlockID]*piece{}, seen: map[tnv.BlockID]bool{}}
	listed := src.List(ctx, c.take)
	for _, p := range c.kinds {
		slices.SortFunc(p, func(a, b Stored) int {
			if a.ID < b.ID {
				return -1
			}
			return 1
		})
	}
	var last error
	for _, end := range slices.Backward(c.kinds[kindEnd]) {
		l, err := c.lay(ctx, end)
		if err != nil {
			last = err
			continue
		}
		r := Restored{Checkpoint: end.ID, Unheard: listed}
		return r, c.write(ctx, l, engine, &r)
	}
	if last == nil {
		last = tnv.E("restore", tnv.KindNotExist, "there is no checkpoint of lineage %d", lineage)
	}
	if listed != nil {
		last = &tnv.Error{Op: "restore", Kind: tnv.KindOf(last), Msg: "not all stores have answered: " + listed.Error(), Err: last}
	}
	return Restored{}, last
}

// copyOf is the pieces of a lineage.
type copyOf struct {
	src     Source
	lineage uint64
	kinds   [kindEnd + 1][]Stored
	seen    map[tnv.BlockID]bool
	heads   map[tnv.BlockID]*piece // without raw
}

func (c *copyOf) take(p Stored) {
	k := p.Home.Chunk
	if uint64(p.Home.Ino) != c.lineage || k < kindLog || k > kindEnd || c.seen[p.ID] {
		return
	}
	c.seen[p.ID] = true
	c.kinds[k] = append(c.kinds[k], p)
}

// layout is a checkpoint and its log: pieces in order.
type layout struct{ checkpoint, log []Stored }

func (c *copyOf) read(ctx context.Context, p Stored) (*piece, error) {
	b, err := c.src.Get(ctx, p)
	if err != nil {
		return nil, err
	}
	is, err := decodePiece(b)
	if err == nil && (is.lineage != c.lineage || uint64(is.kind) != p.Home.Chunk) {
		err = badPiece("it is not what its store says")
	}
	return is, err
}

// head reads what a piece says of itself.
func (c *copyOf) head(ctx context.Context, p Stored) (*piece, error) {
	if h := c.heads[p.ID]; h != nil {
		return h, nil
	}
	h, err := c.read(ctx, p)
	if err != nil {
		return nil, err
	}
	h.raw = nil
	c.heads[p.ID] = h
	return h, nil
}

// lay finds the pieces of a checkpoint and of the log behind it. An error: some are missing.
func (c *copyOf) lay(ctx context.Context, at Stored) (*layout, error) {
	end, err := c.read(ctx, at)
	if err != nil {
		return nil, err
	}
	if len(end.raw) != 8 {
		return nil, badPiece("it ends no checkpoint")
	}
	l := &layout{}
	if l.checkpoint, err = c.inRow(ctx, kindCheckpoint, end.row, end.row, 0); err != nil {
		return nil, err
	}
	if l.log, err = c.inRow(ctx, kindLog, end.row, binary.BigEndian.Uint64(end.raw), end.from); err != nil {
		return nil, err
	}
	if uint64(len(l.checkpoint)) < end.number || uint64(len(l.log)) < end.until-end.from {
		return nil, tnv.E("restore", tnv.KindMissing, "of the checkpoint that ends with piece %d only %d pieces of %d, and %d of its log of %d at least, are there",
			at.ID, len(l.checkpoint), end.number, len(l.log), end.until-end.from)
	}
	l.checkpoint = l.checkpoint[:end.number]
	return l, nil
}

// inRow lists the pieces of a row from a number on, up to the first that is missing.
// They have ids above after.
func (c *copyOf) inRow(ctx context.Context, kind byte, after, row, from uint64) (l []Stored, err error) {
	found := map[uint64]Stored{}
	for _, p := range c.kinds[kind] {
		if uint64(p.ID) <= after {
			continue
		}
		h, err := c.head(ctx, p)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil && h.row == row { // one that cannot be read may be there twice
			found[h.number] = p
		}
	}
	for n := from; ; n++ {
		p, there := found[n]
		if !there {
			return l, nil
		}
		l = append(l, p)
	}
}

// write applies a checkpoint and its log to an engine.
func (c *copyOf) write(ctx context.Context, l *layout, engine kv.Engine, r *Restored) error {
	w := &writer{engine: engine, volumes: map[tnv.VolumeID]*target{}}
	rec := records(func(vol tnv.VolumeID, k kv.Write) error {
		r.Records++
		return w.add(ctx, vol, k)
	})
	log := batches(func(vol tnv.VolumeID, b kv.Batch) error {
		r.Batches++
		return w.add(ctx, vol, b.Writes...)
	})
	for i, p := range slices.Concat(l.checkpoint, l.log) {
		is, err := c.read(ctx, p)
		if err != nil {
			return tnv.Wrap("restore", err)
		}
		to := log
		if i < len(l.checkpoint) {
			to = rec
		}
		if err := to.feed(is.raw); err != nil {
			return tnv.Wrap("restore", err)
		}
		r.Pieces++
	}
	for vol := range w.volumes {
		r.Volumes = append(r.Volumes, vol)
	}
	slices.Sort(r.Volumes)
	return w.finish(ctx)
}

// writer applies writes, many at a time, to volumes that it takes over.
type writer struct {
	engine  kv.Engine
	volumes map[tnv.VolumeID]*target
	bytes   int
}

type target struct {
	lease  kv.Lease
	seq    tnv.BatchSeq
	writes []kv.Write
}

// writeBytes is how much is applied at a time.
const writeBytes = 2 << 20

func (w *writer) add(ctx context.Context, vol tnv.VolumeID, writes ...kv.Write) error {
	t := w.volumes[vol]
	if t == nil {
		seen, err := w.engine.Lease(ctx, vol)
		if err != nil {
			return err
		}
		lease, err := w.engine.Acquire(ctx, seen, "tnv restore", 3*time.Second)
		if err != nil {
			return err
		}
		t = &target{lease: lease}
		if t.seq, err = w.engine.Seq(ctx, vol); err != nil {
			return err
		}
		w.volumes[vol] = t
	}
	t.writes = append(t.writes, writes...)
	for _, k := range writes {
		w.bytes += len(k.Key) + len(k.Value) + 64
	}
	if w.bytes < writeBytes {
		return nil
	}
	return w.flush(ctx)
}

func (w *writer) flush(ctx context.Context) error {
	for vol, t := range w.volumes {
		if len(t.writes) == 0 {
			continue
		}
		t.seq++
		if err := w.engine.Apply(ctx, kv.Fence{Vol: vol, Epoch: t.lease.Epoch}, []kv.Batch{{Seq: t.seq, Writes: t.writes}}); err != nil {
			return err
		}
		t.writes = nil
	}
	w.bytes = 0
	return nil
}

func (w *writer) finish(ctx context.Context) error {
	if err := w.flush(ctx); err != nil {
		return err
	}
	for _, t := range w.volumes {
		if err := w.engine.Release(ctx, t.lease); err != nil {
			return err
		}
	}
	return w.engine.Sync(ctx)
}
