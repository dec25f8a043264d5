package meta

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// DumpStats is what a dump or a load went through.
type DumpStats struct {
	Info    DumpInfo
	Records uint64
	Files   uint64 // inodes
}

// Dump writes the metadata of a volume to w, as of one moment: what was
// acknowledged when it began is in it, what is executed meanwhile is not, or up to
// some operation. It holds one frame in memory. Every record is decoded before it
// is written: damage is found now, not when the dump is needed.
//
// Not carried: sessions, what they have locked, their slots and their unused block
// ids; what of the blocks is in quarantine, which the stores' lists show anew; and where a
// group's emptying has copied shared blocks to, without which they are copied once more.
// Files without a name that they held open are carried as such, and freed by the next owner.
func Dump(ctx context.Context, engine kv.Engine, cluster, name string, w io.Writer) (DumpStats, error) {
	const op = "dump"
	var st DumpStats
	d, err := newDumpWriter(w)
	if err != nil {
		return st, tnv.Wrap(op, err)
	}
	if st.Info, err = dumpInfo(ctx, engine, cluster, name); err != nil {
		return st, err
	}
	if err := d.info(st.Info); err != nil {
		return st, tnv.Wrap(op, err)
	}
	known := map[tnv.GroupID]tnv.GroupID{}
	for _, g := range st.Info.Groups {
		known[g.ID] = g.ID
	}
	var bad error
	err = engine.Scan(ctx, st.Info.ID, []byte{0}, nil, 0, func(key, value []byte) bool {
		var carried bool
		if value, carried, bad = carry(key, value, known); bad != nil {
			bad = &tnv.Error{Op: op, Kind: tnv.KindOf(bad), Msg: namedKey(st.Info.ID, key), Err: bad}
			return false
		}
		if !carried {
			return true
		}
		if key[0] == keyInode {
			st.Files++
		}
		bad = d.record(key, value)
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	if err == nil {
		err = d.end()
	}
	st.Records = d.records
	return st, tnv.Wrap(op, err)
}

// dumpInfo reads what the registry knows of a volume. The groups are read first: an
// extent of one that was made since is an error, see carry.
func dumpInfo(ctx context.Context, engine kv.Engine, cluster, name string) (DumpInfo, error) {
	const op = "dump"
	info := DumpInfo{Format: dumpFormat, Cluster: cluster, Volume: name, Made: time.Now().UnixNano()}
	got, err := engine.Get(ctx, ClusterVolume, []byte(volumeKey(name)))
	if err != nil {
		return info, tnv.Wrap(op, err)
	}
	if got[0] == nil {
		return info, tnv.E(op, tnv.KindNotExist, "there is no volume %q", name)
	}
	v, err := decodeVolume(got[0])
	if err != nil {
		return info, tnv.Wrap(op, err)
	}
	is := v.(*volume)
	if err := is.usable(op); err != nil {
		return info, err
	}
	info.ID, info.MinReplicas = is.ID, is.MinReplicas
	lease, err := engine.Lease(ctx, is.ID)
	if err != nil {
		return info, tnv.Wrap(op, err)
	}
	own, err := engine.Lease(ctx, ClusterVolume)
	if err != nil {
		return info, tnv.Wrap(op, err)
	}
	info.Epoch = max(lease.Epoch, own.Epoch)
	from := string([]byte{keyGroup})
	var bad error
	err = engine.Scan(ctx, ClusterVolume, []byte(from), []byte(prefixEnd(from)), 0, func(_, value []byte) bool {
		var g any
		if g, bad = unpack[group](value); bad == nil {
			info.Groups = append(info.Groups, DumpGroup{g.(*group).ID, g.(*group).Name})
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	return info, tnv.Wrap(op, err)
}

// carry verifies a record and tells whether it moves house, and in which form:
// extents name their groups by the numbers of the new one.
func carry(key, value []byte, groups map[tnv.GroupID]tnv.GroupID) (as []byte, carried bool, err error) {
	switch key[0] {
	case keySession, keySlot, keyLock, keyGrant, keyOrphan, keyCollect, keyMoved:
		return nil, false, nil
	case keyChunk:
		value, err = carryChunk(key, value, groups)
		return value, true, err
	}
	decode := decoders[key[0]]
	if decode == nil || key[0] == keyVolume || key[0] == keyGroup || key[0] == keyNode || key[0] == keyDrain || key[0] == keyRetired || len(key) < keyLengths[key[0]] {
		return nil, false, tnv.E("record", tnv.KindCorrupt, "a key that no volume has: %.40q", key)
	}
	if _, err := decode(value); err != nil {
		return nil, false, err
	}
	switch {
	case key[0] == keyUnlinked:
		value = (&unlinked{}).encode()
	case key[0] == keyCounter && string(key[1:]) == idEpoch:
		return nil, false, nil
	}
	return value, true, nil
}

// namedKey is formatKey of a key that may be any bytes.
func namedKey(vol tnv.VolumeID, key []byte) string {
	if n, known := keyLengths[key[0]]; !known || len(key) < n {
		return fmt.Sprintf("volume %d, record %.40q", vol, key)
	}
	return formatKey(vol, string(key))
}

// keyLengths are how long the fixed part of a key of each class is.
var keyLengths = map[byte]int{keyInode: 9, keyDentry: 18, keyChunk: 18, keyXattr: 10, keyUnlinked: 9, keyTrim: 9, keyRefs: 9,
	keyDeletion: 17, keyLacking: 17, keyUsage: 1, keyCounter: 2}

// carryChunk verifies a chunk's record, base or delta, and gives it with other
// numbers of groups.
func carryChunk(key, value []byte, groups map[tnv.GroupID]tnv.GroupID) ([]byte, error) {
	if len(key) < keyLengths[keyChunk] {
		return nil, tnv.E("record", tnv.KindCorrupt, "a chunk's key of %d bytes", len(key))
	}
	c := &chunk{base: -1}
	if err := c.load(string(key[17:]), value); err != nil {
		return nil, err
	}
	head := 1
	if key[17] == 0 {
		head = 9
	}
	d := decoder{b: value[head:]}
	l := d.extents()
	if d.err != nil {
		return nil, d.err
	}
	for i := range l {
		if l[i].Block == 0 {
			continue
		}
		is, known := groups[l[i].Group]
		if !known {
			return nil, tnv.E("record", tnv.KindConflict, "an extent lies in group %d, which is not among those of the dump: it was made meanwhile, dump again", l[i].Group)
		}
		l[i].Group = is
	}
	return appendExtents(slices.Clone(value[:head]), l), nil
}

// seqIn is the newest batch that a record names.
func seqIn(key, value []byte) tnv.BatchSeq {
	switch key[0] {
	case keyInode:
		if n, err := decodeInode(value); err == nil {
			is := n.(*inode)
			return max(tnv.BatchSeq(is.Version), tnv.BatchSeq(is.Data), is.TrimSeq)
		}
	case keyChunk:
		if key[17] == 0 {
			return tnv.BatchSeq(binary.BigEndian.Uint64(value[1:]))
		}
		return tnv.BatchSeq(binary.BigEndian.Uint64(key[18:]))
	}
	return 0
}
