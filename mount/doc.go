// Package mount is the mount daemon: it shows a volume at a mountpoint until
// that is unmounted or the daemon is told to stop.
//
// # What it promises
//
// Nothing is mounted unless the cluster answered, the key proved right and the
// directory to show is there. Ready is called when the mount answers. A mountpoint
// in use is refused, what a dead daemon of ours left there is taken away first.
//
// At the end, however it comes, what the kernel has written is flushed before
// Run returns. umount(8) finds no open file, so all was flushed by close(2) already,
// but for pages written through a mapping. When the daemon is told to stop while files are
// open, it waits some seconds for their users, then flushes what they wrote and
// takes the mount away from them: they get ENOTCONN.
//
// One daemon serves one mountpoint; its session has an identity made of the
// machine, the mount namespace and the mountpoint, so that a daemon that comes back
// ends its predecessor's session at once.
//
// As root it mounts by itself, and everybody may use the mount: the kernel checks
// permissions. Anyone else needs fusermount3 (package fuse3).
package mount
