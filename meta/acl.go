package meta

import (
	"encoding/binary"

	"github.com/tnvfs/tnv"
)

// POSIX access control lists, acl(5), in the form in which the kernel hands them
// over as extended attributes, all little-endian:
//
//	version 4 (= 2) | entries: tag 2 | permissions 2 | user or group 4
//
// Invariant: an inode has the record of an access ACL, and HasAccessACL, if and
// only if the list says more than its mode can; then owner, mask and other of the
// list are the nine bits of the mode. A default ACL is a directory's only.
const (
	aclVersion = 2
	aclHeader  = 4
	aclEntry   = 8
	// maxACL is how many entries a list may have: the kernel takes a page at most.
	maxACL = (4096 - aclHeader) / aclEntry
)

// Tags of entries, in the order in which they stand.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

type ace struct {
	tag, perm uint16
	id        uint32
}

type acl []ace

func badACL(format string, args ...any) error { return tnv.E("ACL", tnv.KindInvalid, format, args...) }

// parseACL reads a list and refuses what is none. A list without entries is nil.
func parseACL(b []byte) (acl, error) {
	if len(b) < aclHeader || (len(b)-aclHeader)%aclEntry != 0 {
		return nil, badACL("%d bytes", len(b))
	}
	if v := binary.LittleEndian.Uint32(b); v != aclVersion {
		return nil, tnv.E("ACL", tnv.KindNotSupported, "version %d", v)
	}
	n := (len(b) - aclHeader) / aclEntry
	if n > maxACL {
		return nil, tnv.E("ACL", tnv.KindXattrTooBig, "%d entries, at most %d", n, maxACL)
	}
	var l acl
	for b = b[aclHeader:]; len(b) > 0; b = b[aclEntry:] {
		l = append(l, ace{binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])})
	}
	if l == nil {
		return nil, nil
	}
	return l, l.check()
}

// check wants owner, users, group, groups, mask, other in this order, the mask
// where there are users or groups.
func (l acl) check() error {
	next, named := uint16(aclUserObj), false // the tag that must, or may, come
	for _, e := range l {
		ok := e.perm&^7 == 0
		switch e.tag {
		case aclUserObj:
			ok, next = ok && next == aclUserObj, aclUser
		case aclUser:
			ok, named = ok && next == aclUser && e.id != ^uint32(0), true
		case aclGroupObj:
			ok, next = ok && next == aclUser, aclGroup
		case aclGroup:
			ok, named = ok && next == aclGroup && e.id != ^uint32(0), true
		case aclMask:
			ok, next = ok && next == aclGroup, aclOther
		case aclOther:
			ok, next = ok && (next == aclOther || next == aclGroup && !named), 0
		default:
			ok = false
		}
		if !ok {
			return badACL("entry of tag %#x, permissions %o", e.tag, e.perm)
		}
	}
	if next != 0 {
		return badACL("it has no entry for others")
	}
	return nil
}

func (l acl) encode() []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, aclHeader+len(l)*aclEntry), aclVersion)
	for _, e := range l {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// minimal tells that the list says no more than a mode does.
func (l acl) minimal() bool { return len(l) == 3 }

// class finds the entry that stands behind three bits of the mode: owner, group
// (the mask, where there is one) or other.
func (l acl) class(tag uint16) *ace {
	var found *ace
	for i := range l {
		if l[i].tag == tag || tag == aclGroupObj && l[i].tag == aclMask {
			found = &l[i] // the mask comes behind the group
		}
	}
	return found
}

// mode is the nine bits of a mode that the list stands for.
func (l acl) mode() uint32 {
	return uint32(l.class(aclUserObj).perm)<<6 | uint32(l.class(aclGroupObj).perm)<<3 | uint32(l.class(aclOther).perm)
}

// withMode is the list after chmod(2).
func (l acl) withMode(mode uint32) acl {
	is := append(acl(nil), l...)
	is.class(aclUserObj).perm = uint16(mode >> 6 & 7)
	is.class(aclGroupObj).perm = uint16(mode >> 3 & 7)
	is.class(aclOther).perm = uint16(mode & 7)
	return is
}

// inherited is the access ACL of what is made, with a mode, in a directory that
// has this default ACL: neither grants what the other does not.
func (l acl) inherited(mode uint32) acl { return l.withMode(l.mode() & mode) }

// allows tells whether the list of an inode lets a user and group do all of want
// (bits as in a mode).
func (l acl) allows(n *inode, cred tnv.Cred, want uint16) bool {
	mask, group, inGroup := uint16(7), uint16(0), false
	for _, e := range l {
		if e.tag == aclMask {
			mask = e.perm
		}
	}
	for _, e := range l {
		switch {
		case e.tag == aclUserObj && cred.UID == n.UID:
			return e.perm&want == want
		case e.tag == aclUser && cred.UID == e.id:
			return e.perm&mask&want == want
		case e.tag == aclGroupObj && cred.GID == n.GID, e.tag == aclGroup && cred.GID == e.id:
			if inGroup = true; e.perm&want == want {
				group = e.perm
			}
		case e.tag == aclOther && !inGroup:
			return e.perm&want == want
		}
	}
	return group&mask&want == want
}

// aclOf reads one of an inode's lists, nil if there is none.
func (tx *Tx) aclOf(n *inode, name string) (acl, error) {
	if n.Flags&tnv.XattrFlag(name) == 0 {
		return nil, nil
	}
	x, err := getAs[xattr](tx, xattrKey(n.Ino, name))
	if x == nil || err != nil {
		return nil, err
	}
	return parseACL(x.Value)
}

// setACL gives an inode one of its lists; nil takes it away.
func (tx *Tx) setACL(n *inode, name string, l acl) error {
	if l == nil || name == tnv.XattrAccessACL && l.minimal() {
		return tx.dropXattr(n, name)
	}
	return tx.putXattr(n, name, l.encode())
}

// chmod sets the permissions, and what an access ACL says of them.
func (tx *Tx) chmod(n *inode, mode uint32) error {
	n.Mode = n.Mode&^0o7777 | mode&0o7777
	l, err := tx.aclOf(n, tnv.XattrAccessACL)
	if l == nil || err != nil {
		return err
	}
	return tx.setACL(n, tnv.XattrAccessACL, l.withMode(mode))
}

// inherit gives a new inode its permissions: those asked for, less the umask, or
// what the directory's default ACL makes of them.
func (tx *Tx) inherit(dir, n *inode, umask uint32) error {
	if n.Type() == tnv.TypeSymlink {
		return nil
	}
	l, err := tx.aclOf(dir, tnv.XattrDefaultACL)
	if err != nil {
		return err
	}
	if l == nil {
		n.Mode &^= umask & 0o777
		return nil
	}
	access := l.inherited(n.Mode)
	n.Mode = n.Mode&^0o777 | access.mode()
	if err := tx.setACL(n, tnv.XattrAccessACL, access); err != nil || !n.IsDir() {
		return err
	}
	return tx.setACL(n, tnv.XattrDefaultACL, l)
}
