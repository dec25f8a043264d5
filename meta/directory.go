package meta

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// Directory is what the cluster's own volume says, as of one batch: which volumes
// there are, and which groups and storage daemons were taken in.
type Directory struct {
	Seq     tnv.BatchSeq
	Volumes map[string]tnv.VolumeID // that may be opened
	Former  map[string]tnv.VolumeID // by names that they had, and nobody has now
	// Settings of those that may be opened.
	Settings map[tnv.VolumeID]Settings
	Groups   []tnv.Group // ids, names and members: ids, hosts, addresses and boot counters
	Drains   []Drain     // groups that are being emptied
	Retired  []tnv.NodeID
}

// Settings of a volume. A limit of 0 is none; MinReplicas 0: the default.
type Settings struct {
	Name        string
	MinReplicas uint32
	MaxFiles    uint64
	MaxBytes    uint64
}

// Named finds a volume by its name, or by one that it had.
func (d *Directory) Named(name string) (id tnv.VolumeID, ok bool) {
	if id, ok = d.Volumes[name]; !ok {
		id, ok = d.Former[name]
	}
	return id, ok
}

// ReadDirectory reads it past the owner, as trackers do that are not it: what it
// tells was true a moment ago. Nil: nothing has changed since batch known.
func ReadDirectory(ctx context.Context, engine kv.Engine, known tnv.BatchSeq) (*Directory, error) {
	seq, err := engine.Seq(ctx, ClusterVolume)
	if err != nil || seq == known {
		return nil, err
	}
	// Records may be newer than seq, some than others: then they are read again.
	d := &Directory{Seq: seq, Volumes: map[string]tnv.VolumeID{}, Former: map[string]tnv.VolumeID{}, Settings: map[tnv.VolumeID]Settings{}}
	err = eachStored(ctx, engine, keyVolume, func(val any) {
		v := val.(*volume)
		if v.State != volumeActive {
			return
		}
		d.Volumes[v.Name] = v.ID
		d.Settings[v.ID] = Settings{Name: v.Name, MinReplicas: v.MinReplicas, MaxFiles: v.MaxFiles, MaxBytes: v.MaxBytes}
		for _, name := range v.Former {
			d.Former[name] = v.ID
		}
	})
	if err != nil {
		return nil, err
	}
	var nodes []*node
	if err := eachStored(ctx, engine, keyNode, func(val any) { nodes = append(nodes, val.(*node)) }); err != nil {
		return nil, err
	}
	err = eachStored(ctx, engine, keyGroup, func(val any) {
		g := val.(*group)
		d.Groups = append(d.Groups, tnv.Group{ID: g.ID, Name: g.Name})
	})
	if err != nil {
		return nil, err
	}
	addNodes(d.Groups, nodes)
	if err := eachStored(ctx, engine, keyDrain, func(val any) { d.Drains = append(d.Drains, *val.(*Drain)) }); err != nil {
		return nil, err
	}
	d.Retired, err = retired(ctx, engine)
	return d, err
}

// eachStored calls fn for all records of a class in the cluster's own volume.
func eachStored(ctx context.Context, engine kv.Engine, class byte, fn func(val any)) error {
	prefix := string([]byte{class})
	var bad error
	err := engine.Scan(ctx, ClusterVolume, []byte(prefix), []byte(prefixEnd(prefix)), 0, func(k, v []byte) bool {
		val, err := decoders[class](v)
		if err != nil {
			bad = &tnv.Error{Op: "read metadata", Kind: tnv.KindCorrupt, Msg: formatKey(ClusterVolume, string(k)), Err: err}
			return false
		}
		fn(val)
		return true
	})
	if err == nil {
		err = bad
	}
	return err
}

func addNodes(groups []tnv.Group, nodes []*node) {
	for _, n := range nodes {
		for i := range groups {
			if groups[i].ID == n.Group {
				groups[i].Nodes = append(groups[i].Nodes, tnv.Node{ID: n.ID, Group: n.Group, Boot: n.Boot, Host: n.Host, Addr: n.Addr})
			}
		}
	}
}
