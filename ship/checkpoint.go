package ship

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/tnvfs/tnv"
)

// checkpoint is one that is being made, on a goroutine of its own. A nil one is none.
type checkpoint struct {
	stop  context.CancelFunc
	ended chan struct{}
	ok    bool // set before ended is closed
}

func (c *checkpoint) cancel() {
	if c != nil {
		c.stop()
		<-c.ended
	}
}

func (c *checkpoint) done() bool {
	if c == nil {
		return false
	}
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

func (c *checkpoint) complete() bool { return c.ok }

// startCheckpoint begins one. It is called by who ships the log, with nothing of it
// left: so the log from here on begins with a whole batch, and its pieces, like the
// checkpoint's, get ids above the row's number.
func (s *Shipper) startCheckpoint(ctx context.Context) *checkpoint {
	ctx, stop := context.WithCancel(ctx)
	c := &checkpoint{stop: stop, ended: make(chan struct{})}
	s.mu.Lock()
	w := &walk{s: s, row: uint64(s.next), chain: s.chain, from: s.pieces, logged: s.bytes, began: time.Now()}
	s.next++
	s.mu.Unlock()
	go func() {
		defer close(c.ended)
		defer stop()
		err := w.run(ctx)
		if c.ok = err == nil; err != nil && ctx.Err() == nil {
			s.cfg.Log.WithError(err).Warn("a checkpoint of the metadata was not shipped; it is tried again")
			pause(ctx, retryAfter)
		}
	}()
	return c
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// walk cuts records into the pieces of a checkpoint.
type walk struct {
	s      *Shipper
	row    uint64
	chain  uint64
	from   uint64 // the log begins with this piece
	logged int64  // bytes of log that are not needed any more

	n     uint64
	raw   []byte
	bytes int64 // shipped
	read  int64
	began time.Time
}

// pageSize is how many records are read at a time.
const pageSize = 512

// run puts all records of all volumes, and then the end.
func (w *walk) run(ctx context.Context) error {
	s := w.s
	vols, err := s.cfg.Volumes(ctx)
	if err != nil {
		return err
	}
	for _, vol := range vols {
		if err := w.volume(ctx, vol); err != nil {
			return err
		}
	}
	if err := w.cut(ctx, 0); err != nil {
		return err
	}
	position, err := s.journal.settle(ctx)
	if err != nil {
		return err
	}
	until, err := s.logTo(ctx, w.chain, position)
	if err != nil {
		return err
	}
	end := piece{kind: kindEnd, row: w.row, number: w.n, from: w.from, until: until, raw: binary.BigEndian.AppendUint64(nil, w.chain)}
	if _, err := s.putPiece(ctx, &end); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.chain == w.chain {
		s.oldest, s.whole, s.begin = tnv.BlockID(w.row), w.bytes, w.from
		s.bytes -= w.logged
	}
	return nil
}

// logTo waits until the log is shipped up to a position, and tells how many pieces it has then.
func (s *Shipper) logTo(ctx context.Context, chain, position uint64) (pieces uint64, err error) {
	for {
		s.mu.Lock()
		same, there, n, moved := s.chain == chain, s.shipped >= position, s.pieces, s.progress
		s.mu.Unlock()
		switch {
		case !same:
			return 0, tnv.E("ship metadata", tnv.KindConflict, "the log has a gap")
		case there:
			return n, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (w *walk) volume(ctx context.Context, vol tnv.VolumeID) error {
	from := []byte{0}
	for {
		n, full := 0, false
		err := w.s.journal.Engine.Scan(ctx, vol, from, nil, pageSize, func(key, value []byte) bool {
			w.raw = binary.BigEndian.AppendUint32(w.raw, uint32(vol))
			w.raw = appendWrite(w.raw, key, value)
			from = append(append(from[:0:0], key...), 0)
			n++
			full = len(w.raw) >= pieceBytes
			return !full
		})
		if err != nil {
			return err
		}
		if err := w.cut(ctx, pieceBytes); err != nil {
			return err
		}
		if n < pageSize && !full {
			return nil
		}
	}
}

// cut puts what was read as pieces while it is at least so long, no faster than the rate.
func (w *walk) cut(ctx context.Context, least int) error {
	for len(w.raw) > 0 && len(w.raw) >= least {
		part := w.raw[:min(len(w.raw), pieceBytes)]
		n, err := w.s.putPiece(ctx, &piece{kind: kindCheckpoint, row: w.row, number: w.n, raw: part})
		if err != nil {
			return err
		}
		w.n++
		w.bytes += int64(n)
		w.read += int64(len(part))
		w.raw = w.raw[len(part):]
		if ahead := time.Duration(float64(w.read)/float64(w.s.cfg.Rate)*float64(time.Second)) - time.Since(w.began); ahead > 0 {
			pause(ctx, ahead)
		}
	}
	return ctx.Err()
}
