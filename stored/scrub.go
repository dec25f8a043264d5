package stored

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
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

// scrub reads every block, evenly over the period, until ctx ends. What is bad
// goes the way of a reported block.
func (d *daemon) scrub(ctx context.Context) {
	at := d.loadScrub()
	saved := time.Now()
	for ctx.Err() == nil {
		n := d.scrubVolumes(ctx, &at, &saved)
		if n == 0 && sleep(ctx, min(time.Minute, d.cfg.ScrubPeriod)) != nil { // an empty store
			return
		}
	}
}

// scrubVolumes goes from a place to the end, and sets the place to the start.
// It gives the number of blocks that it looked at.
func (d *daemon) scrubVolumes(ctx context.Context, at *scrubPlace, saved *time.Time) int {
	seen := 0
	vols := d.store.Volumes()
	slices.Sort(vols)
	for _, vol := range vols {
		if vol < at.Vol {
			continue
		}
		if vol > at.Vol {
			*at = scrubPlace{Vol: vol}
		}
		for ctx.Err() == nil {
			page, err := d.localList(&protocol.List{Vol: vol, From: at.Block, Limit: scrubPage})
			if err != nil {
				d.log.WithError(err).Error("the scrubber cannot list the blocks")
				break
			}
			for _, b := range page.Blocks {
				if sleep(ctx, d.scrubPause(b.Len)) != nil {
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
			if !page.More {
				break
			}
		}
	}
	if ctx.Err() == nil {
		*at = scrubPlace{}
	}
	return seen
}

func (d *daemon) scrubBlock(vol tnv.VolumeID, b protocol.ListedBlock) {
	key := tnv.BlockKey{Vol: vol, ID: b.Block}
	err := d.store.Verify(key)
	if err == nil || tnv.KindOf(err) == tnv.KindMissing { // deleted meanwhile
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
