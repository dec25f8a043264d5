package trackerd

import (
	"context"
	"slices"
	"sync"

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
}

func newDirectory(engine kv.Engine) *directory {
	return &directory{engine: engine, cur: &meta.Directory{}}
}

func (d *directory) get() *meta.Directory {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.cur
}

// refresh reads it again if it has changed.
func (d *directory) refresh(ctx context.Context) error {
	d.reading.Lock()
	defer d.reading.Unlock()
	next, err := meta.ReadDirectory(ctx, d.engine, d.get().Seq)
	if err != nil || next == nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cur = next
	return nil
}

// follow has the members follow what was read.
func (t *tracker) follow() {
	t.members.know(t.directory.get(), t.held.get(meta.ClusterVolume) != nil)
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

func (d *directory) groups() []tnv.Group { return d.get().Groups }
