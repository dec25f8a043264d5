package pebble

import (
	"encoding/binary"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// Keys of the store:
//
//	00                        the store's format version, 4 bytes
//	volume(4) 01 key          a key of the volume
//	volume(4) 02 'l'          its lease
//	volume(4) 02 's'          the number of the last batch applied, 8 bytes
//
// The volume id is big-endian, as all integers are, so that a volume's keys lie
// together in their own order.
const (
	formatKey     = 0
	formatVersion = 1

	classData  = 1
	classOwner = 2

	prefixLen = 5
)

func appendPrefix(b []byte, vol tnv.VolumeID, class byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(vol)), class)
}

// appendKey appends a volume's key.
func appendKey(b []byte, vol tnv.VolumeID, key []byte) []byte {
	return append(appendPrefix(b, vol, classData), key...)
}

func leaseKey(vol tnv.VolumeID) []byte { return append(appendPrefix(nil, vol, classOwner), 'l') }
func seqKey(vol tnv.VolumeID) []byte   { return append(appendPrefix(nil, vol, classOwner), 's') }

// A lease is kept as
//
//	version(1)=1 flags(1) epoch(8) renewals(8) ttl(8, nanoseconds) holder(the rest)
//
// Flag 1: released.
const (
	leaseVersion  = 1
	leaseReleased = 1
	leaseHeader   = 26
)

func encodeLease(l kv.Lease) []byte {
	b := make([]byte, 2, leaseHeader+len(l.Holder))
	b[0] = leaseVersion
	if l.Released {
		b[1] |= leaseReleased
	}
	b = binary.BigEndian.AppendUint64(b, uint64(l.Epoch))
	b = binary.BigEndian.AppendUint64(b, l.Renewals)
	b = binary.BigEndian.AppendUint64(b, uint64(l.TTL))
	return append(b, l.Holder...)
}

// decodeLease reads what encodeLease wrote; nil is the lease that never was.
func decodeLease(vol tnv.VolumeID, b []byte) (kv.Lease, error) {
	l := kv.Lease{Vol: vol}
	if b == nil {
		return l, nil
	}
	if len(b) < leaseHeader || b[0] != leaseVersion || b[1]&^leaseReleased != 0 {
		return l, tnv.E("", tnv.KindCorrupt, "lease record of volume %d cannot be read", vol)
	}
	l.Released = b[1]&leaseReleased != 0
	l.Epoch = tnv.Epoch(binary.BigEndian.Uint64(b[2:]))
	l.Renewals = binary.BigEndian.Uint64(b[10:])
	l.TTL = time.Duration(binary.BigEndian.Uint64(b[18:]))
	l.Holder = string(b[leaseHeader:])
	return l, nil
}

func decodeSeq(vol tnv.VolumeID, b []byte) (tnv.BatchSeq, error) {
	if b == nil {
		return 0, nil
	}
	if len(b) != 8 {
		return 0, tnv.E("", tnv.KindCorrupt, "sequence record of volume %d cannot be read", vol)
	}
	return tnv.BatchSeq(binary.BigEndian.Uint64(b)), nil
}
