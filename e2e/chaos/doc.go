// Package chaos breaks one storage daemon of a cluster in every way that disks,
// daemons and networks break, while applications write, record, play, seek and
// delete on a kernel mount, and notes what they see: errors, the longest wait for
// one call, the time until the group is whole again, and whether every byte is
// right afterwards, read from the daemon that was broken alone.
//
// The cluster is real: a tracker, storage daemons and a mount in network
// namespaces joined by a veth pair, the victim in one of its own. The victim's
// data directory is a FUSE file system of this package (disk.go) that hands on to
// a directory, and fails, waits or is full when it is told to.
//
// TestChaos is the short form; with -long it is the whole matrix, and -table
// names the file in which the result is written (make chaos).
package chaos
