package stored

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	// slowOp is how long an operation at the disk may take before the disk counts
	// as slow: nobody waits for this store then (tnv.NodeSlow).
	slowOp = 1500 * time.Millisecond
	// slowFor is how long it counts as slow behind the last trouble, quickOp what
	// the last probe may have taken then.
	slowFor = 5 * time.Second
	quickOp = 500 * time.Millisecond
	// badReads is after how many failed reads, and none between that worked, it is
	// not single sectors that are bad.
	badReads   = 4
	watchEvery = 100 * time.Millisecond
	probeEvery = time.Second
)

// diskWatch judges the disk by the operations at it: it is slow while one takes
// longer than slowOp, and for slowFor after one did, or failed. It does no I/O
// and reads no clock.
type diskWatch struct {
	mu      sync.Mutex
	last    uint64
	under   map[uint64]time.Time // begun, and not ended
	trouble time.Time            // the last
	why     error                // of the last that failed; nil: it took long
	probed  time.Duration        // what the last probe took
	reads   int                  // failed in a row
}

// begin counts an operation that begins; the number ends it.
func (w *diskWatch) begin(now time.Time) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.under == nil {
		w.under = map[uint64]time.Time{}
	}
	w.last++
	w.under[w.last] = now
	return w.last
}

// end ends an operation that changed something.
func (w *diskWatch) end(op uint64, now time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endLocked(op, now)
	if diskFailed(err) {
		w.trouble, w.why = now, err
	}
}

// endRead ends a read: a failure may be a single bad sector's.
func (w *diskWatch) endRead(op uint64, now time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endLocked(op, now)
	if !diskFailed(err) {
		w.reads = 0
		return
	}
	if w.reads++; w.reads >= badReads {
		w.trouble, w.why = now, err
	}
}

func (w *diskWatch) endLocked(op uint64, now time.Time) (took time.Duration) {
	took = now.Sub(w.under[op])
	delete(w.under, op)
	if took > slowOp {
		w.trouble, w.why = now, nil
	}
	return took
}

// endProbe ends a probe.
func (w *diskWatch) endProbe(op uint64, now time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probed = w.endLocked(op, now)
	if diskFailed(err) {
		w.trouble, w.why = now, err
	}
}

// slow tells whether the disk is, and of what error, if that is why.
func (w *diskWatch) slow(now time.Time) (slow bool, why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, began := range w.under {
		if now.Sub(began) > slowOp {
			w.trouble, w.why = now, nil
			break
		}
	}
	if w.trouble.IsZero() {
		return false, nil
	}
	if now.Sub(w.trouble) > slowFor && w.probed < quickOp {
		w.trouble, w.why = time.Time{}, nil
		return false, nil
	}
	return true, w.why
}

// diskFailed tells whether an error is the disk's, and not the block's or a lack
// of space.
func diskFailed(err error) bool {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return false
	}
	switch no {
	case syscall.EIO, syscall.EROFS, syscall.ENXIO, syscall.ENODEV, syscall.EUCLEAN, syscall.ETIMEDOUT, syscall.ENOTCONN, syscall.ESTALE:
		return true
	}
	return false
}

// timed runs an operation that changes something at the disk, under watch.
func (d *daemon) timed(fn func() error) error {
	op := d.watch.begin(time.Now())
	err := fn()
	d.watch.end(op, time.Now(), err)
	return err
}

// timedRead runs a read.
func (d *daemon) timedRead(fn func() error) error {
	op := d.watch.begin(time.Now())
	err := fn()
	d.watch.endRead(op, time.Now(), err)
	return err
}

// watchDisk tells the trackers when the disk becomes slow, probes it while it is,
// and tells when it is well again.
func (d *daemon) watchDisk(ctx context.Context) {
	was, probing, next := false, make(chan struct{}, 1), time.Time{}
	for sleep(ctx, watchEvery) == nil {
		now := time.Now()
		slow, why := d.watch.slow(now)
		if slow != was {
			was = slow
			d.slow.Store(slow)
			d.trackers.beat()
			if slow {
				d.log.WithError(why).Error("the disk fails, or takes too long: until it is well nobody waits for this store")
			} else {
				d.log.Warn("the disk is well again")
				signal(d.cluster.returned) // what was passed over meanwhile is to be copied
			}
		}
		if !slow || now.Before(next) {
			continue
		}
		select {
		case probing <- struct{}{}:
			next = now.Add(probeEvery)
			d.probes.Go(func() {
				d.probeDisk()
				<-probing
			})
		default: // the last one hangs
		}
	}
}

const probeFile = "probe"

// probeDisk writes a small file and reads it back.
func (d *daemon) probeDisk() {
	op := d.watch.begin(time.Now())
	path := filepath.Join(d.cfg.Dir, probeFile)
	err := func() error {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return err
		}
		return f.Sync()
	}()
	os.Remove(path)
	d.watch.endProbe(op, time.Now(), err)
}
