package fuse

import (
	"strings"

	raw "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// capability is what the kernel asks for before it writes; see caching.go.
const capability = tnv.XattrCapability

// refused tells of names in the system namespace that are not ACLs: some programs
// ask each file for one of another system.
func refused(name string) bool {
	return strings.HasPrefix(name, "system.") && tnv.XattrFlag(name) == 0
}

// GetXAttr reads an extended attribute, or its size into no buffer.
func (f *FS) GetXAttr(cancel <-chan struct{}, in *raw.InHeader, name string, dest []byte) (uint32, raw.Status) {
	if refused(name) {
		return 0, raw.ENOTSUP
	}
	ino := f.ino(in.NodeId)
	if f.acls.none(in, ino, name) {
		return 0, raw.ENODATA
	}
	version, none := f.pages.capsVersion(ino)
	// Without a buffer, that is the kernel itself; programs that mean it have one.
	if none && name == capability && len(dest) == 0 {
		return 0, raw.ENODATA
	}
	ctx := f.begin(cancel, in)
	defer ctx.end()
	value, err := f.b.GetXattr(ctx, cred(in), ino, name)
	st := status(err)
	if st == raw.ENODATA && name == capability && version != 0 {
		f.pages.noCaps(ino, version)
	}
	switch {
	case st != raw.OK:
		return 0, st
	case len(value) > len(dest):
		return uint32(len(value)), raw.ERANGE
	}
	return uint32(copy(dest, value)), raw.OK
}

// ListXAttr lists the names, each ended by a zero byte. trusted(7) ones are root's.
func (f *FS) ListXAttr(cancel <-chan struct{}, in *raw.InHeader, dest []byte) (uint32, raw.Status) {
	ctx := f.begin(cancel, in)
	defer ctx.end()
	names, err := f.b.ListXattr(ctx, cred(in), f.ino(in.NodeId))
	if err != nil {
		return 0, status(err)
	}
	var list []byte
	for _, name := range names {
		if in.Uid != 0 && strings.HasPrefix(name, "trusted.") {
			continue
		}
		list = append(append(list, name...), 0)
	}
	if len(list) > len(dest) {
		return uint32(len(list)), raw.ERANGE
	}
	return uint32(copy(dest, list)), raw.OK
}

// SetXAttr sets one.
func (f *FS) SetXAttr(cancel <-chan struct{}, in *raw.SetXAttrIn, name string, data []byte) raw.Status {
	if refused(name) {
		return raw.ENOTSUP
	}
	ctx := f.begin(cancel, &in.InHeader)
	defer ctx.end()
	ino := f.ino(in.NodeId)
	err := f.b.SetXattr(ctx, cred(&in.InHeader), protocol.SetXattr{Ino: ino, Name: name,
		Value: append([]byte(nil), data...), Flags: in.Flags, KillSGID: in.SetXAttrFlags&raw.SETXATTR_ACL_KILL_SGID != 0})
	switch tnv.XattrFlag(name) {
	case tnv.HasCapability:
		f.pages.capsChanged(ino)
	case tnv.HasAccessACL, tnv.HasDefaultACL:
		f.acls.sets.Add(1)
	}
	return status(err)
}

// RemoveXAttr removes one.
func (f *FS) RemoveXAttr(cancel <-chan struct{}, in *raw.InHeader, name string) raw.Status {
	if refused(name) {
		return raw.ENOTSUP
	}
	ctx := f.begin(cancel, in)
	defer ctx.end()
	return status(f.b.RemoveXattr(ctx, cred(in), protocol.RemoveXattr{Ino: f.ino(in.NodeId), Name: name}))
}
