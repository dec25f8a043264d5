package protocol

import "github.com/tnvfs/tnv"

// Trackers: volumes, and ids for applications. All but TakeIDs are answered by the
// owner of the cluster's registry, to tools.
const (
	TypeTakeIDs        Type = 0x28 + iota // TakeIDs, reply TakeIDsReply, from tools and clients
	TypeCreateVolume                      // CreateVolume, reply VolumeInfo
	TypeListVolumes                       // ListVolumes, reply ListVolumesReply
	TypeDeleteVolume                      // DeleteVolume, reply VolumeInfo
	TypeUndeleteVolume                    // UndeleteVolume, reply VolumeInfo
	TypeRenameVolume                      // RenameVolume, reply VolumeInfo
	TypeSetVolume                         // SetVolume, reply VolumeInfo
)

// MaxIDs is how many ids one TakeIDs may ask for.
const MaxIDs = 1 << 16

// TakeIDs takes numbers that nobody had or will have of this volume.
type TakeIDs struct {
	Volume string
	Count  uint32 // 1 to MaxIDs
}

// TakeIDsReply has them: [First, First+Count).
type TakeIDsReply struct {
	First uint64
	Count uint32
}

// VolumeInfo is a volume as the registry has it.
type VolumeInfo struct {
	ID          tnv.VolumeID
	Name        string
	State       string // "active", "loading", "deleted", "purging", "moved"
	PurgeAt     int64  // of a deleted one: when it goes for good, nanoseconds since 1970
	MinReplicas uint32 // 0: the default
	MaxFiles    uint64 // 0: no limit
	MaxBytes    uint64 // 0: no limit
	KeyGen      uint32 // generation of its keys
}

// CreateVolume makes a volume. KindExist: there is one of that name.
type CreateVolume struct {
	Name string
}

// ListVolumes lists volumes in the order of their names, behind After.
type ListVolumes struct {
	After string
	Limit uint32 // 1 to MaxBatch
}

// ListVolumesReply has them; More: there are more behind the last.
type ListVolumesReply struct {
	Volumes []VolumeInfo
	More    bool
}

// DeleteVolume has a volume vanish at once, and its content after a delay.
type DeleteVolume struct {
	Name    string
	DelayMs uint64
}

// UndeleteVolume brings a deleted volume back, or one that has moved away.
type UndeleteVolume struct {
	Name string
}

// RenameVolume gives a volume another name. Those who use it go on.
type RenameVolume struct {
	Name string
	To   string
}

// SetVolume changes settings: those whose Set flag is there.
type SetVolume struct {
	Name string
	Set  SetVolumeMask
	Info VolumeInfo
}

// SetVolumeMask says which fields of SetVolume.Info count.
type SetVolumeMask uint32

const (
	SetMinReplicas SetVolumeMask = 1 << iota
	SetMaxFiles
	SetMaxBytes
	SetKeyGen // one more than the last: keys that were given out are refused from then on
)
