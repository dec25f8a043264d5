package meta

import (
	"encoding/binary"
	"strings"

	"github.com/tnvfs/tnv"
)

// The key schema: every key of a volume, and what stands behind it. Integers
// are big-endian, so that keys sort by number.
//
//	I ino                    inode
//	D parent cookie name     directory entry
//	C ino chunk 0            a chunk's extents, folded
//	C ino chunk 1 seq        extents added by batch seq, not yet folded
//	X ino name               extended attribute
//	O ino                    inode without a name: who may still hold it
//	T ino                    inode with chunks to trim (see inode.TrimSeq)
//	L ino session owner kind what a lock's owner has locked
//	S session                session
//	s session slot           last reply of a slot
//	R block                  extents that name the block, where not only its home does
//	B first                  block ids granted: to whom, which are used
//	G node block             deletion that a store has not confirmed
//	M node block             block that a store lacks
//	o block                  block that nothing names, in quarantine
//	m block                  where a block with references was copied to
//	c                        what holds the collection of those back
//	Q                        usage of the volume
//	U name                   id counters: the first id that was never reserved
//
// Of the cluster's own volume, 0:
//
//	V name                   volume
//	g group                  group
//	N node                   storage daemon
//	d group                  that is being emptied
//	r node                   storage daemon that was taken out
const (
	keyInode    = 'I'
	keyDentry   = 'D'
	keyChunk    = 'C'
	keyXattr    = 'X'
	keyUnlinked = 'O'
	keyTrim     = 'T'
	keyLock     = 'L'
	keySession  = 'S'
	keySlot     = 's'
	keyRefs     = 'R'
	keyGrant    = 'B'
	keyDeletion = 'G'
	keyLacking  = 'M'
	keyOrphan   = 'o'
	keyCollect  = 'c'
	keyMoved    = 'm'
	keyUsage    = 'Q'
	keyCounter  = 'U'
	keyVolume   = 'V'
	keyGroup    = 'g'
	keyNode     = 'N'
	keyDrain    = 'd'
	keyRetired  = 'r'
)

func key1(class byte, a uint64) string {
	var b [9]byte
	b[0] = class
	binary.BigEndian.PutUint64(b[1:], a)
	return string(b[:])
}

func key2(class byte, a, c uint64) string {
	var b [17]byte
	b[0] = class
	binary.BigEndian.PutUint64(b[1:], a)
	binary.BigEndian.PutUint64(b[9:], c)
	return string(b[:])
}

// split1 and split2 read the integers of a key made by key1 and key2.
func split1(key string) uint64 { return binary.BigEndian.Uint64([]byte(key[1:9])) }

func split2(key string) (uint64, uint64) {
	return binary.BigEndian.Uint64([]byte(key[1:9])), binary.BigEndian.Uint64([]byte(key[9:17]))
}

func inodeKey(ino tnv.Ino) string                    { return key1(keyInode, uint64(ino)) }
func unlinkedKey(ino tnv.Ino) string                 { return key1(keyUnlinked, uint64(ino)) }
func trimKey(ino tnv.Ino) string                     { return key1(keyTrim, uint64(ino)) }
func xattrKey(ino tnv.Ino, name string) string       { return key1(keyXattr, uint64(ino)) + name }
func chunkKey(ino tnv.Ino, chunk uint64) string      { return key2(keyChunk, uint64(ino), chunk) }
func sessionKey(s tnv.SessionID) string              { return key1(keySession, uint64(s)) }
func slotKey(s tnv.SessionID, slot uint32) string    { return key2(keySlot, uint64(s), uint64(slot)) }
func refKey(b tnv.BlockID) string                    { return key1(keyRefs, uint64(b)) }
func grantKey(b tnv.BlockID) string                  { return key1(keyGrant, uint64(b)&^(grantSize-1)) }
func deletionKey(n tnv.NodeID, b tnv.BlockID) string { return key2(keyDeletion, uint64(n), uint64(b)) }
func lackingKey(n tnv.NodeID, b tnv.BlockID) string  { return key2(keyLacking, uint64(n), uint64(b)) }
func orphanKey(b tnv.BlockID) string                 { return key1(keyOrphan, uint64(b)) }
func movedKey(b tnv.BlockID) string                  { return key1(keyMoved, uint64(b)) }
func collectionKey() string                          { return string([]byte{keyCollect}) }
func usageKey() string                               { return string([]byte{keyUsage}) }
func counterKey(name string) string                  { return string([]byte{keyCounter}) + name }
func volumeKey(name string) string                   { return string([]byte{keyVolume}) + name }
func groupKey(g tnv.GroupID) string                  { return key1(keyGroup, uint64(g)) }
func drainKey(g tnv.GroupID) string                  { return key1(keyDrain, uint64(g)) }
func retiredKey(n tnv.NodeID) string                 { return key1(keyRetired, uint64(n)) }
func nodeKey(n tnv.NodeID) string                    { return key1(keyNode, uint64(n)) }

// chunkBaseKey and chunkDeltaKey are what a chunk record is stored under.
func chunkBaseKey(key string) string { return key + "\x00" }
func chunkDeltaKey(key string, seq tnv.BatchSeq) string {
	return key + "\x01" + string(binary.BigEndian.AppendUint64(nil, uint64(seq)))
}

// prefixEnd is the first key behind all keys that begin with prefix.
func prefixEnd(prefix string) string {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] != 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return ""
}

// A dentry's cookie is a hash of its name, so that listing goes on where it
// stopped whatever was made or removed meanwhile. The hash is FNV-1a with a
// finaliser, in 62 bits: positive as an off_t, with room below for "." and "..".
// Names of equal cookies stand side by side and are never split between two pages.
func cookieOf(name string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(name); i++ {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	return h>>2 + tnv.FirstCookie
}

func dentryPrefix(parent tnv.Ino) string { return key1(keyDentry, uint64(parent)) }

func dentryKey(parent tnv.Ino, name string) string {
	return key2(keyDentry, uint64(parent), cookieOf(name)) + name
}

// dentryName reads cookie and name from a dentry's key.
func dentryName(key string) (uint64, string) {
	_, cookie := split2(key)
	return cookie, strings.Clone(key[17:])
}
