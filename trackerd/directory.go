package trackerd

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/meta"
)

// directory is what this tracker has read last of the cluster's own volume,
// whoever owns it.
type directory struct {
	engine kv.Engine

	reading sync.Mutex // held around a refresh
	mu      sync.RWMutex
	cur     *meta.Directory // replaced, never changed
	asOf    time.Time       // when the reading began that gave it, or found it unchanged
}

func newDirectory(engine kv.Engine) *directory {
	return &directory{engine: engine, cur: &meta.Directory{}}
}

func (d *directory) get() *meta.Directory {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.cur
}

// read is get, with when that was read.
func (d *directory) read() (*meta.Directory, time.Time) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.cur, d.asOf
}

// refresh reads it again if it has changed.
func (d *directory) refresh(ctx context.Context) error {
	d.reading.Lock()
	defer d.reading.Unlock()
	began := time.Now()
	next, err := meta.ReadDirectory(ctx, d.engine, d.get().Seq)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asOf = began
	if next != nil {
		d.cur = next
	}
	return nil
}

// follow has the members follow what was read.
func (t *tracker) follow() {
	d, began := t.directory.read()
	t.members.know(d, began, t.held.get(meta.ClusterVolume) != nil)
}

// followClosed is follow, and has what was read to be closed be so even if a store was
// admitted here since the reading began: what is closed stays so.
func (t *tracker) followClosed() {
	t.follow()
	for _, d := range t.directory.get().Drains {
		if d.Closed && !t.members.Closed(d.Group) {
			t.members.setLeaving(d.Group, true)
		}
	}
}

// find gives a volume's id. One that is not known is looked for in the engine.
func (d *directory) find(ctx context.Context, name string) (tnv.VolumeID, error) {
	if id, ok := d.get().Named(name); ok {
		return id, nil
	}
	if err := d.refresh(ctx); err != nil {
		return 0, err
	}
	if id, ok := d.get().Named(name); ok {
		return id, nil
	}
	return 0, tnv.E("volume", tnv.KindNotExist, "there is no volume %.255q", name)
}

// name is a volume's name.
func (d *directory) name(vol tnv.VolumeID) string {
	return d.get().Settings[vol].Name
}

// volumes are the ids of all volumes but the cluster's own.
func (d *directory) volumes() (ids []tnv.VolumeID) {
	for _, id := range d.get().Volumes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// groups are those that were admitted, with their stores; began is when that was read.
func (d *directory) groups() (groups []tnv.Group, began time.Time) {
	is, began := d.read()
	return is.Groups, began
}
