package stored

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// scrubFile keeps, in the data directory, how far the scrubber is: a daemon
// that is restarted every day would never come to the end otherwise.
const (
	scrubFile    = "scrub.json"
	scrubPage    = 256
	scrubPersist = time.Minute
)

// scrubPlace is the block that is looked at next.
type scrubPlace struct {
	Vol   tnv.VolumeID `json:"volume"`
	Block tnv.BlockID  `json:"block"`
}

// scrubber is how far the pass under way is. A pass that was asked for begins
// anew, and goes at Config.ScrubRate; else passes are spread over the period.
type scrubber struct {
	wake chan struct{} // a pass is asked for

	mu    sync.Mutex
	state protocol.ScrubReply // of this pass
	want  bool                // a new pass is to begin, hurried
}

// now asks for a pass at once. One that was asked for before begins anew.
func (s *scrubber) now() {
	s.mu.Lock()
	s.want, s.state.Hurried = true, true
	s.mu.Unlock()
	signal(s.wake)
}

// wanted tells whether the pass under way is to give way to a new one.
func (s *scrubber) wanted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.want
}

func (s *scrubber) hurried() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Hurried
}

// begin begins a pass.
func (s *scrubber) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = protocol.ScrubReply{Passes: s.state.Passes, Hurried: s.want}
	s.want = false
}

// end ends a pass that came to the end.
func (s *scrubber) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Passes++
	s.state.Hurried = s.want
}

func (s *scrubber) read(n uint32, bad bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Blocks++
	s.state.Bytes += uint64(n)
	if bad {
		s.state.Bad++
	}
}

// scrubbed answers what a tool asks.
func (d *daemon) scrubbed(f *protocol.Frame) ([]any, error) {
	var req protocol.Scrub
	if err := f.Decode(&req); err != nil {
		return nil, err
	}
	if req.Now {
		d.scrubs.now()
	}
	d.scrubs.mu.Lock()
	rep := d.scrubs.state
	d.scrubs.mu.Unlock()
	rep.TotalBytes, rep.Waiting, rep.Found = d.usage().Live, d.repairs.waiting(), d.repairs.badBlocks()
	return []any{&rep}, nil
}

// scrub reads every block, evenly over the period, until ctx ends. What is bad
// goes the way of a reported block.
func (d *daemon) scrub(ctx context.Context) {
	at := d.loadScrub()
	saved := time.Now()
	for ctx.Err() == nil {
		if d.scrubs.wanted() {
			at = scrubPlace{}
		}
		d.scrubs.begin()
		n := d.scrubVolumes(ctx, &at, &saved)
		if at == (scrubPlace{}) {
			d.scrubs.end()
		}
		if n == 0 && !d.scrubs.wanted() && d.scrubSleep(ctx, min(time.Minute, d.cfg.ScrubPeriod)) != nil { // an empty store
			return
		}
	}
}

// scrubVolumes goes from a place to the end, and sets the place to the start. It
// ends earlier when a new pass is wanted. It gives the number of blocks that it
// looked at.
func (d *daemon) scrubVolumes(ctx context.Context, at *scrubPlace, saved *time.Time) (seen int) {
	vols := d.store.Volumes()
	slices.Sort(vols)
	for _, vol := range vols {
		if vol < at.Vol {
			continue
		}
		if vol > at.Vol {
			*at = scrubPlace{Vol: vol}
		}
		for more := true; more; {
			page, err := d.localList(&protocol.List{Vol: vol, From: at.Block, Limit: scrubPage})
			if err != nil {
				d.log.WithError(err).Error("the scrubber cannot list the blocks")
				break
			}
			for _, b := range page.Blocks {
				if d.scrubTurn(ctx, b.Len) != nil || d.scrubs.wanted() {
					d.saveScrub(*at)
					return seen
				}
				d.scrubBlock(vol, b)
				seen++
				at.Block = b.Block + 1
				if time.Since(*saved) > scrubPersist {
					d.saveScrub(*at)
					*saved = time.Now()
				}
			}
			more = page.More
		}
	}
	*at = scrubPlace{}
	return seen
}

// scrubTurn waits until a block of n bytes is to be read.
func (d *daemon) scrubTurn(ctx context.Context, n uint32) error {
	if !d.scrubs.hurried() {
		return d.scrubSleep(ctx, d.scrubPause(n))
	}
	pause := time.Duration(float64(n) / float64(d.cfg.ScrubRate) * float64(time.Second))
	if err := sleep(ctx, pause); err != nil {
		return err
	}
	return d.viewers.yield(ctx, int(n))
}

// scrubSleep waits, less long if a pass is asked for.
func (d *daemon) scrubSleep(ctx context.Context, pause time.Duration) error {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-d.scrubs.wake:
	case <-ctx.Done():
	}
	return ctx.Err()
}

func (d *daemon) scrubBlock(vol tnv.VolumeID, b protocol.ListedBlock) {
	key := tnv.BlockKey{Vol: vol, ID: b.Block}
	err := d.timedRead(func() error { return d.store.Verify(key) })
	bad := err != nil && tnv.KindOf(err) != tnv.KindMissing // deleted meanwhile
	d.scrubs.read(b.Len, bad)
	if !bad {
		return
	}
	if err := d.repairs.ask(key, b.Home); err != nil {
		d.log.WithError(err).WithField("block", key.String()).Error("the scrubber found a damaged block, and too many others wait for repair")
	}
}

// scrubPause is a block's share of the period.
func (d *daemon) scrubPause(n uint32) time.Duration {
	used := max(float64(d.usage().Live), float64(n), 1)
	return time.Duration(float64(d.cfg.ScrubPeriod) * float64(n) / used)
}

func (d *daemon) loadScrub() scrubPlace {
	var at scrubPlace
	b, err := os.ReadFile(filepath.Join(d.cfg.Dir, scrubFile))
	if err == nil {
		err = json.Unmarshal(b, &at)
	}
	if err != nil { // missing, or not ours: from the start
		return scrubPlace{}
	}
	return at
}

func (d *daemon) saveScrub(at scrubPlace) {
	b, err := json.Marshal(at)
	if err == nil {
		path := filepath.Join(d.cfg.Dir, scrubFile)
		if err = os.WriteFile(path+".new", b, 0o644); err == nil {
			err = os.Rename(path+".new", path)
		}
	}
	if err != nil {
		d.log.WithError(err).Warn("the scrubber's place cannot be kept: a restart begins from the start")
	}
}
