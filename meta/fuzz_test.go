package meta

import (
	"bytes"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// samples has a record of every class, as it is stored.
func samples() map[byte]encoder {
	return map[byte]encoder{
		keyInode:    &inode{Attr: tnv.Attr{Ino: 7, Mode: 0o100644, Nlink: 1, Size: 5, Flags: tnv.HasAccessACL}, TrimSeq: 3, Target: "t", Xattrs: 2},
		keyDentry:   &dentry{Ino: 7, Type: tnv.TypeRegular},
		keyXattr:    &xattr{Value: []byte("v")},
		keyUnlinked: &unlinked{Waiting: []tnv.SessionID{1, 2}},
		keyTrim:     mark{},
		keyLock:     &held{Pid: 9, Ranges: []lockRange{{0, 5, protocol.LockShared}, {6, protocol.LockEOF, protocol.LockExclusive}}},
		keySession:  &session{ID: 5, Identity: "i", Client: "c", Begun: 9, Ended: true},
		keySlot:     &slot{Seq: 4, Reply: []byte{1, 2}},
		keyRefs:     &references{Count: 2},
		keyGrant:    &grant{Session: 3, Used: [grantSize / 64]uint64{1, 2, 3, 4}},
		keyDeletion: mark{},
		keyLacking:  &lacking{Home: tnv.Home{Ino: 1, Chunk: 2}, Bytes: 3},
		keyOrphan:   &orphan{Group: 1, Home: tnv.Home{Ino: 2, Chunk: 3}, Bytes: 4, Since: 5},
		keyMoved:    &movedBlock{Block: 5, Group: 6},
		keyCollect:  &collection{Restored: true, Ahead: 7, Approved: 8},
		keyUsage:    &usage{Files: 1, Bytes: 2},
		keyCounter:  &counter{Next: 9},
		keyVolume:   &volume{ID: 2, Name: "media"},
		keyGroup:    &group{ID: 3, Name: "g1"},
		keyDrain:    &Drain{Group: 3, Rate: 4, Closed: true},
		keyRetired:  mark{},
		keyNode:     &node{ID: 4, Group: 3, Boot: 2, Host: "h", Addr: "a"},
	}
}

// Every class of record is read back as it was written, and no shorter form of
// it is taken for one, except where the rest is free text or a list.
func TestRecordsReadBack(t *testing.T) {
	all := samples()
	for class, decode := range decoders {
		rec := all[class]
		if rec == nil {
			t.Fatalf("no sample of class %c", class)
		}
		b := rec.encode()
		got, err := decode(b)
		if err != nil {
			t.Fatalf("class %c: %v", class, err)
		}
		if again := got.(encoder).encode(); !bytes.Equal(again, b) {
			t.Errorf("class %c: %x was read back as %x", class, b, again)
		}
		for _, bad := range [][]byte{nil, append([]byte{recordV2 + 1}, b[1:]...)} {
			if _, err := decode(bad); err == nil {
				t.Errorf("class %c: %x is taken for a record", class, bad)
			}
		}
	}
}

// No record, however damaged, makes a decoder panic; what it takes it writes
// again in a form that it takes for the same.
func FuzzRecord(f *testing.F) {
	for class, rec := range samples() {
		f.Add(class, rec.encode())
	}
	f.Fuzz(func(t *testing.T, class byte, b []byte) {
		decode := decoders[class]
		if decode == nil {
			return
		}
		rec, err := decode(b)
		if err != nil {
			return
		}
		once := rec.(encoder).encode()
		again, err := decode(once)
		if err != nil || !bytes.Equal(again.(encoder).encode(), once) {
			t.Fatalf("class %c: %x is written as %x, which is read differently: %v", class, b, once, err)
		}
	})
}

// A chunk's records, whatever is in them, give sorted and disjoint extents
// within the chunk, or an error.
func FuzzChunk(f *testing.F) {
	base := &chunk{seq: 3, extents: []tnv.Extent{{Off: 0, Len: 4096, Block: 1, BlockLen: 4096, Group: 1}, {Off: 8192, Len: 4096, Block: 2, BlockLen: 4096, Group: 1}}}
	f.Add(base.encodeBase(), encodeDelta([]tnv.Extent{{Off: 100, Len: 9000, Block: 3, BlockLen: 9000, Group: 1}}))
	f.Add(base.encodeBase(), encodeDelta([]tnv.Extent{{Off: 4000, Len: 1 << 20}}))
	f.Fuzz(func(t *testing.T, b, delta []byte) {
		key := chunkKey(5, 6)
		c := &chunk{base: -1}
		if c.load(chunkBaseKey(key)[len(key):], b) != nil || c.load(chunkDeltaKey(key, 9)[len(key):], delta) != nil {
			return
		}
		end := uint64(0)
		for _, e := range c.extents {
			if uint64(e.Off) < end || e.Len == 0 || uint64(e.Off)+uint64(e.Len) > tnv.ChunkSize {
				t.Fatalf("extents %v", c.extents)
			}
			end = uint64(e.Off) + uint64(e.Len)
		}
		if c.load("\x02", nil) == nil {
			t.Fatal("a record of an unknown kind was taken")
		}
	})
}

// An inode as the first format had it, without flags, is still read.
func TestOldInodeRecord(t *testing.T) {
	is := &inode{Attr: tnv.Attr{Ino: 7, Mode: 0o100644, Nlink: 1, Size: 5}, Xattrs: 2, Target: "t"}
	b := is.encode()
	old := append([]byte{recordV1}, b[1:1+6*4]...)
	got, err := decodeInode(append(old, b[1+7*4:]...))
	if err != nil || *got.(*inode) != *is {
		t.Fatalf("%+v, %v, want %+v", got, err, is)
	}
}
