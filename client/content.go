package client

import (
	"context"
	"maps"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Operations on the content of a file that move no data. What this client wrote
// to the inodes is committed first (K9): so the owner decides on all of it, and
// no later flush undoes what was decided.

// Fallocate changes the space of n bytes from off on, as fallocate(2) with a mode
// does; the constants are protocol.Falloc…. Space is not reserved: the size is
// set, and KindNoSpace is told if the volume has no room. KindNotSupported: a mode
// that is not among them, or more behind the place of a collapse or an insert than
// can be moved at once (16 GiB). Punching or zeroing much takes several steps.
func (h *Handle) Fallocate(ctx context.Context, mode uint32, off, n int64) error {
	switch {
	case !h.writable():
		return tnv.E("fallocate", tnv.KindInvalid, "the file is not open for writing")
	case off < 0 || n <= 0:
		return tnv.E("fallocate", tnv.KindInvalid, "%d bytes at %d", n, off)
	case off > tnv.MaxFileSize-n:
		return tnv.E("fallocate", tnv.KindTooBig, "%d bytes at %d", n, off)
	}
	if err := h.Flush(ctx); err != nil {
		return err
	}
	end := uint64(off + n)
	for at := uint64(off); ; {
		rep, err := h.in.fallocate(ctx, mode, at, end-at)
		if err != nil {
			return err
		}
		if at += rep.Done; rep.Done == 0 || at >= end {
			return nil
		}
		found, there, err := h.in.seek(ctx, at, false) // holes need no step
		if err != nil || !there || found >= end {
			return err
		}
		at = found
	}
}

func (in *inode) fallocate(ctx context.Context, mode uint32, off, n uint64) (protocol.FallocateReply, error) {
	var rep protocol.FallocateReply
	req := protocol.Fallocate{Ino: in.ino, Mode: mode, Off: off, Len: n, KillSUID: in.killsSUID()}
	err := in.c.change(ctx, tnv.Root, protocol.TypeFallocate, &rep, &req, in.ino)
	switch {
	case err == nil:
		in.changed(rep.Attr, req.KillSUID)
	case mayHappen(err):
		in.markUnsynced()
	}
	return rep, err
}

// mayHappen tells of a mutation's error that the caller was interrupted or gave
// up: it may be executed all the same, and fsync has to reckon with that.
func mayHappen(err error) bool {
	switch tnv.KindOf(err) {
	case tnv.KindUnavailable, tnv.KindTimeout, tnv.KindCanceled, tnv.KindInterrupted, tnv.KindSessionEnded:
		return true
	}
	return false
}

func (in *inode) killsSUID() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.killSUID
}

// changed takes in what a change of the content has made of the inode.
func (in *inode) changed(a tnv.Attr, killed bool) {
	in.everDirty.Store(true)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.noteLocked(a)
	in.metaDirty = true
	in.killSUID = in.killSUID && !killed
}

// SeekData finds the first byte of data from off on, exact to the byte, what was
// written here included. KindNotDeviceOrAddr: there is none up to the end of the file.
func (h *Handle) SeekData(ctx context.Context, off int64) (int64, error) {
	return h.seek(ctx, off, false)
}

// SeekHole finds the first byte from off on that was never written or was
// punched; the end of the file is a hole. KindNotDeviceOrAddr: off is not below the size.
func (h *Handle) SeekHole(ctx context.Context, off int64) (int64, error) {
	return h.seek(ctx, off, true)
}

func (h *Handle) seek(ctx context.Context, off int64, hole bool) (int64, error) {
	if off < 0 {
		return 0, tnv.E("seek", tnv.KindNotDeviceOrAddr, "to %d", off)
	}
	if err := h.in.flush(ctx, flushCommit); err != nil {
		return 0, err
	}
	found, there, err := h.in.seek(ctx, uint64(off), hole)
	if err == nil && !there {
		err = tnv.E("seek", tnv.KindNotDeviceOrAddr, "nothing from %d on", off)
	}
	return int64(found), err
}

// seek asks the owner until it has looked far enough. If the content changes
// meanwhile it begins anew, some times.
func (in *inode) seek(ctx context.Context, off uint64, hole bool) (found uint64, there bool, err error) {
	at, version := off, uint64(0)
	for restarts := 0; ; {
		var rep protocol.SeekReply
		if _, err := in.c.read(ctx, tnv.Root, protocol.TypeSeek, &rep, &protocol.Seek{Ino: in.ino, Off: at, Hole: hole}); err != nil {
			return 0, false, err
		}
		in.c.inodes.merge(rep.Attr)
		if version != 0 && rep.Attr.Data != version && restarts < 3 {
			at, version = off, 0
			restarts++
			continue
		}
		version = rep.Attr.Data
		if rep.State != protocol.SeekOn {
			return rep.Off, rep.State == protocol.SeekFound, nil
		}
		if rep.Off <= at {
			return 0, false, tnv.E("seek", tnv.KindProtocol, "from %d on to %d", at, rep.Off)
		}
		at = rep.Off
	}
}

// CopyRange makes n bytes of to at toOff the same as those at off here, as
// copy_file_range(2) does: the target names the source's blocks, and no data
// moves. It returns how many bytes that was: fewer than n at the end of the
// source, and where the source is in many pieces; 0 at the end.
func (h *Handle) CopyRange(ctx context.Context, to *Handle, off, toOff, n int64) (int64, error) {
	switch {
	case h.c != to.c || !to.writable():
		return 0, tnv.E("copy range", tnv.KindInvalid, "the target is not open for writing here")
	case off < 0 || toOff < 0 || n < 0:
		return 0, tnv.E("copy range", tnv.KindInvalid, "%d bytes at %d to %d", n, off, toOff)
	case off > tnv.MaxFileSize-n || toOff > tnv.MaxFileSize-n:
		return 0, tnv.E("copy range", tnv.KindTooBig, "%d bytes at %d to %d", n, off, toOff)
	case n == 0:
		return 0, nil
	}
	if err := h.in.flush(ctx, flushCommit); err != nil {
		return 0, err
	}
	if err := to.Flush(ctx); err != nil {
		return 0, err
	}
	// No commit to the source is under way from here on: what the copy names of
	// this client's blocks, and may not be on disk, is known when it is made.
	if err := h.in.lockCommit(ctx); err != nil {
		return 0, err
	}
	defer h.in.unlockCommit()
	var rep protocol.CopyRangeReply
	req := protocol.CopyRange{From: h.in.ino, FromOff: uint64(off), To: to.in.ino, ToOff: uint64(toOff), Len: uint64(n), KillSUID: to.in.killsSUID()}
	err := h.c.change(ctx, tnv.Root, protocol.TypeCopyRange, &rep, &req, to.in.ino)
	switch {
	case err == nil && rep.Copied > 0:
		to.in.changed(rep.Attr, req.KillSUID)
		to.in.owe(h.in, rep.Groups, rep.Attr.Version)
	case err != nil && mayHappen(err):
		to.in.markUnsynced()
		to.in.owe(h.in, h.c.groups(), 0)
	}
	return int64(rep.Copied), err
}

// groups are all groups of the cluster.
func (c *Client) groups() (ids []tnv.GroupID) {
	for _, g := range c.cmap.get().Groups {
		ids = append(ids, g.ID)
	}
	return ids
}

// owe takes over what is not known to be on disk of an inode's blocks, which
// this one now names, too: this client's blocks, and in some groups those that
// others have written. version is the inode's that names them.
func (in *inode) owe(from *inode, groups []tnv.GroupID, version uint64) {
	from.mu.Lock()
	blocks := maps.Clone(from.unsynced)
	for g := range from.foreign {
		groups = append(groups, g)
	}
	from.mu.Unlock()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.unsynced == nil {
		in.unsynced = map[tnv.BlockKey]unsyncedBlock{}
	}
	maps.Copy(in.unsynced, blocks)
	if in.foreign == nil {
		in.foreign = map[tnv.GroupID]uint64{}
	}
	for _, g := range groups {
		in.foreign[g] = version
	}
	if len(in.unsynced) >= 4*protocol.MaxBatch {
		in.c.flusher.backlog()
	}
}

// owed is in which groups there may be blocks of the inode that others have
// written and nobody has synced; paid takes out what was synced since.
func (in *inode) owed() map[tnv.GroupID]uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return maps.Clone(in.foreign)
}

func (in *inode) paid(groups map[tnv.GroupID]uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	maps.DeleteFunc(in.foreign, func(g tnv.GroupID, version uint64) bool {
		synced, ok := groups[g]
		return ok && synced == version
	})
}

// syncGroups has every store of some groups put on disk what it has.
func (c *Client) syncGroups(ctx context.Context, groups map[tnv.GroupID]uint64) error {
	for id := range groups {
		g := c.cmap.get().Group(id)
		if g == nil {
			continue
		}
		for _, n := range g.Nodes {
			if _, _, err := c.syncNode(ctx, n.ID, nil); err != nil && tnv.KindOf(err) != tnv.KindMissing {
				return err
			}
		}
	}
	return nil
}
