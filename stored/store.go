package stored

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/blockstore"
	"github.com/tnvfs/tnv/protocol"
)

// store is what the daemon asks of the block store under it: blockstore.Store,
// and in tests one that fails. All may be called from any goroutine.
type store interface {
	// Create begins a block. KindExist: the very block is held already.
	Create(meta protocol.BlockMeta) (writer, error)
	// Open gives a held block for reading; KindMissing if it is not held.
	Open(key tnv.BlockKey) (reader, error)
	Delete(ctx context.Context, vol tnv.VolumeID, ids []tnv.BlockID) error
	Drop(key tnv.BlockKey, reason string) error
	Sync(ctx context.Context) error
	SyncBlock(key tnv.BlockKey) error
	Has(key tnv.BlockKey) bool
	Home(key tnv.BlockKey) (tnv.Home, bool)
	List(vol tnv.VolumeID, from, to tnv.BlockID, limit int) (blocks []protocol.ListedBlock, more bool, err error)
	Digest(vol tnv.VolumeID, from, to tnv.BlockID, parts int) (counts, sums []uint64, last tnv.BlockID, err error)
	Volumes() []tnv.VolumeID
	// Verify reads a block: KindCorrupt says where it is bad, KindMissing that it is not held.
	Verify(key tnv.BlockKey) error
	Usage() usage
	Close() error
}

// writer takes the bytes of one block, in order, and checks their sums. It is
// used by one goroutine; Commit or Abort ends it.
type writer interface {
	Write(p []byte) (int, error)
	Commit(sync bool) error
	Abort()
}

// reader is a held block. File's bytes at its offset are the block's; the file
// stays open until Close.
type reader interface {
	Meta() protocol.BlockMeta
	ReadAt(p []byte, off int64) (int, error)
	File() (f *os.File, off int64)
	SegmentID() uint64
	Close() error
}

// usage of the data directory: bytes, and live blocks.
type usage struct {
	Used, Capacity, Blocks uint64
	Live                   uint64 // bytes of the blocks
	Full                   bool   // no block of the largest size fits any more
}

// beginPut begins a block in the store. It is nil without an error if the very
// block is here already.
func (d *daemon) beginPut(m *protocol.BlockMeta) (writer, error) {
	var w writer
	err := d.timed(func() (err error) {
		w, err = d.store.Create(*m)
		return err
	})
	if err == nil {
		return w, nil
	}
	if tnv.KindOf(err) == tnv.KindExist {
		return nil, nil
	}
	return nil, err
}

func (d *daemon) commitPut(w writer, sync bool) error {
	began := time.Now()
	err := d.timed(func() error { return w.Commit(sync) })
	if sync {
		d.met.synced(began)
	}
	d.diskSaid(err)
	return err
}

// syncStore puts everything taken so far on disk.
func (d *daemon) syncStore(ctx context.Context) error {
	began := time.Now()
	err := d.timed(func() error { return d.store.Sync(ctx) })
	d.met.synced(began)
	d.diskSaid(err)
	return err
}

// syncBlock puts one block on disk that was held already.
func (d *daemon) syncBlock(key tnv.BlockKey) error {
	began := time.Now()
	err := d.timed(func() error { return d.store.SyncBlock(key) })
	d.met.synced(began)
	d.diskSaid(err)
	return err
}

// diskSaid notes, for the health check, whether the disk works.
func (d *daemon) diskSaid(err error) {
	switch tnv.KindOf(err) {
	case tnv.KindOther:
		d.unwell.set(err) // nil: well again
	case tnv.KindNoSpace, tnv.KindUnavailable:
		if err != nil {
			d.unwell.set(err)
		}
	}
}

func (d *daemon) localDigest(req *protocol.Digest) (protocol.DigestReply, error) {
	from := req.From
	if req.Parts == 1 { // a width of 2^64 is more than a number can be; and no id is 0
		from = max(from, 1)
	}
	counts, sums, last, err := d.store.Digest(req.Vol, from, req.To, int(req.Parts))
	return protocol.DigestReply{Vols: d.store.Volumes(), Last: last, Counts: counts, Sums: sums}, err
}

func (d *daemon) localList(req *protocol.List) (protocol.ListReply, error) {
	blocks, more, err := d.store.List(req.Vol, req.From, req.To, int(req.Limit))
	return protocol.ListReply{Blocks: blocks, More: more}, err
}

func (d *daemon) usage() usage { return d.store.Usage() }

// part gives the i-th of the parts into which a digest cuts [from, to).
func part(from, to tnv.BlockID, parts, i uint32) (lo, hi tnv.BlockID) {
	width := blockstore.PartWidth(from, to, int(parts))
	lo = from + tnv.BlockID(uint64(i)*width)
	return lo, min(lo+tnv.BlockID(width), to)
}

// disk is a blockstore.Store as a store.
type disk struct{ *blockstore.Store }

func (s disk) Create(m protocol.BlockMeta) (writer, error) {
	w, err := s.Store.Create(m)
	if err != nil {
		return nil, err // not a writer that is nil
	}
	return w, nil
}

func (s disk) Open(key tnv.BlockKey) (reader, error) {
	r, err := s.Store.Open(key)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (s disk) Usage() usage {
	st := s.Stats()
	return usage{Used: uint64(max(st.Used, 0)), Capacity: uint64(max(st.Capacity, 0)), Blocks: uint64(st.Blocks), Live: uint64(max(st.LiveBytes, 0)), Full: st.Full()}
}

// openStore opens the store in the data directory, and makes one first if there
// is none and the directory is empty or missing.
func (d *daemon) openStore() error {
	dir := d.cfg.Dir
	opt := blockstore.Options{Capacity: d.cfg.Capacity, PunchDelay: d.cfg.PunchDelay, Log: d.log}
	empty, err := isEmpty(dir)
	if err != nil {
		return tnv.Wrap("data directory "+dir, err)
	}
	if empty {
		if _, err := blockstore.Init(dir, d.cfg.Key.Cluster, d.cfg.Group, opt); err != nil && tnv.KindOf(err) != tnv.KindExist {
			return tnv.Wrap("make a store in "+dir, err)
		}
		d.log.WithField("dir", dir).Info("made a new store")
	}
	s, err := blockstore.Open(dir, opt)
	if err != nil {
		return explain(dir, err)
	}
	b := s.Super()
	switch {
	case b.Cluster != d.cfg.Key.Cluster:
		err = tnv.E("data directory "+dir, tnv.KindWrongCluster, "it belongs to cluster %s, and the key is that of cluster %s: "+
			"name the right directory or the right key file", b.Cluster, d.cfg.Key.Cluster)
	case b.Group != d.cfg.Group:
		err = tnv.E("data directory "+dir, tnv.KindConflict, "its blocks are those of group %q, not of %q: start it with --group %s, "+
			"or name an empty directory", b.Group, d.cfg.Group, b.Group)
	}
	if err != nil {
		return errors.Join(err, s.Close())
	}
	d.store, d.node, d.boot = disk{s}, b.Node, b.Boot
	return nil
}

// isEmpty tells whether a directory has nothing in it, or is not there. What a
// file system puts into its root does not count, nor what is left of a start
// that was killed before the store was made (its superblock comes last).
func isEmpty(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	for _, e := range entries {
		switch e.Name() {
		case "lost+found", "LOCK", "deletes", "deletes.tmp", "superblock.tmp":
		default:
			return false, err
		}
	}
	return true, err
}

// explain adds to an error of blockstore.Open what a person can do.
func explain(dir string, err error) error {
	what := ""
	switch tnv.KindOf(err) {
	case tnv.KindNotExist:
		what = "it holds files, but no store: name an empty directory for a new store, or the store's own"
	case tnv.KindBusy:
		what = "another storage daemon runs on it: stop that one, or name another directory"
	case tnv.KindCorrupt:
		what = "the store is damaged: if the group has other members, move the directory away and start with an empty one, which is filled from them"
	case tnv.KindVersion:
		what = "a newer version of this program wrote it: use that"
	default:
		return tnv.Wrap("open the store in "+dir, err)
	}
	return &tnv.Error{Op: "open the store in " + dir, Kind: tnv.KindOf(err), Msg: what, Err: err}
}
