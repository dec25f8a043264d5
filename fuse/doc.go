// Package fuse shows a TNV volume to the kernel: it adapts go-fuse's raw API
// (the FUSE protocol, one method per request) to package client.
//
// # What it promises
//
// Node ids are inode numbers, the generation is always 0: inode numbers are
// never used again. With Options.Root, the inode that it names is the kernel's
// node 1, and changes places with inode 1 (which no path beneath it reaches).
//
// What the kernel keeps is what is leased: attributes (known.go), names, those that
// are not there too (entries.go), and pages of files (caching.go). It is told to
// forget before whoever changes something elsewhere gets the answer, or its time
// has run out by then: so a change made elsewhere is seen by the next system call.
//
// Permissions are the kernel's business (default_permissions), by ACLs too, which
// are the owner's extended attributes (acl.go). The umask is applied by the owner:
// it does not count under a default ACL. flock and fcntl locks hold between all
// mounts (lock.go). Times of access are set by telling the owner of a read behind
// the reader's back (atime.go): as the mount options say, not by following a
// symbolic link, nor by what the kernel reads from its pages for a memory mapping.
//
// fallocate allocates (the size; space is not reserved), punches and zeroes; the
// kernel does not hand on collapsing and inserting. copy_file_range makes the
// target name the source's blocks: cp uses it, as FICLONE, which it tries first,
// never reaches a FUSE file system. SEEK_DATA and SEEK_HOLE are exact to the byte,
// except that what is in mapped pages and not written out is not known to us.
//
// # Interrupts
//
// A signal that kills the caller ends its request. Any other one (the Go
// runtime sends itself many) is ignored, as a disk's file system does: programs
// do not expect EINTR from files. The kernel does not say which signal it was, so
// interrupt.go looks. Every request ends by the client's own deadline in any case,
// except a wait for a lock, which any signal ends: the kernel starts it again
// where the handler of the signal asks for that (SA_RESTART).
//
// # Reading
//
// Before a read(2), buffered or O_DIRECT, the kernel asks for the attributes with the
// handle's number if it does not believe those that it has (AUTO_INVAL_DATA). READs that come within trustFor
// behind such a GETATTR are answered at the version that it brought, without
// asking the owner again. READs without one, which are faults of mapped pages and
// reads of O_APPEND handles, ask the owner first. A page that is mapped already
// goes when the file's lease is recalled, or within a second where nothing is leased.
// How the kernel is brought to drop pages, and to hear of a new size in time, is
// told in caching.go; what may not overlap with a READ, in reads.go.
//
// Data goes from the client's buffers to the kernel by writev(2), with no copy
// in between.
//
// # Handles
//
// Handles that are opened for reading while others change the file bypass the page
// cache: each read(2) is one READ, which is answered by the newest version, and the
// kernel has no size of its own to be wrong about.
//
// Handles with O_APPEND bypass the page cache, too, and the owner finds the offset as
// it commits: what two mounts append at one moment stands one behind the other.
package fuse
