package protocol

import "github.com/tnvfs/tnv"

// Trackers among themselves, and who asks them where a volume is.
const (
	TypeOwner    Type = 0x20 + iota // Owner, reply OwnerReply
	TypeTakeOver                    // TakeOver, from trackers
	TypeAdmit                       // Admit, reply AdmitReply, from trackers
	TypeDrain                       // Drain, from tools
	TypeTrackers                    // pushed by a volume's owner: Trackers
)

// Owner asks any tracker which one owns a volume, by its name, or by its id if
// Name is empty. KindNotExist: there is no such volume.
type Owner struct {
	Name string
	Vol  tnv.VolumeID
}

// OwnerReply is what the tracker knows. It may be out of date: the owner alone
// says whether it is.
type OwnerReply struct {
	Vol      tnv.VolumeID
	Epoch    tnv.Epoch // of the newest lease
	Here     bool      // the tracker that answers is the owner
	Addr     string    // of the owner, as it is told to others; empty: nobody at present
	Trackers []string  // all that live, at most MaxTrackers; none where there is but one
}

// MaxTrackers is how many trackers one message names.
const MaxTrackers = 256

// TakeOver tells a tracker that it may take a volume at once: its owner has given
// it back. It is answered when the volume's operations are.
type TakeOver struct {
	Vol   tnv.VolumeID
	Epoch tnv.Epoch // of the lease that was given back
}

// Admit hands a storage daemon's Announce on to the owner of the cluster's own
// volume, which alone takes daemons into the cluster.
type Admit struct {
	Node     tnv.Node
	Group    string
	SameHost bool
}

// AdmitReply names the group.
type AdmitReply struct {
	Group tnv.GroupID
}

// Drain has a tracker hand over all volumes and take none any more. It is answered
// when it has none. KindUnavailable: there is no other tracker.
type Drain struct {
}

// Trackers tells the clients of a volume which trackers live, whenever that changes.
type Trackers struct {
	Addrs []string // at most MaxTrackers
}
