package pebble

import (
	"bytes"
	"encoding/hex"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// TestFormat pins the bytes of format 1: a store made with it must stay readable.
func TestFormat(t *testing.T) {
	for _, c := range []struct {
		what string
		got  []byte
		want string
	}{
		{"key", appendKey(nil, 0x01020304, []byte("k")), "01020304016b"},
		{"lease key", leaseKey(5), "00000005026c"},
		{"sequence key", seqKey(1<<32 - 1), "ffffffff0273"},
		{"lease", encodeLease(kv.Lease{Vol: 5, Epoch: 2, Renewals: 3, TTL: time.Second, Holder: "h:1", Released: true}),
			"010100000000000000020000000000000003000000003b9aca00683a31"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s is %s, want %s", c.what, got, c.want)
		}
	}
}

func FuzzLease(f *testing.F) {
	f.Add([]byte{})
	f.Add(encodeLease(kv.Lease{Epoch: 1, Holder: "a", Released: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := decodeLease(1, b)
		if err != nil {
			if tnv.KindOf(err) != tnv.KindCorrupt {
				t.Errorf("error is %v", err)
			}
			return
		}
		if again := encodeLease(l); b != nil && !bytes.Equal(again, b) {
			t.Errorf("%x was read as %+v, which is written as %x", b, l, again)
		}
	})
}

func FuzzMissingChunk(f *testing.F) {
	f.Add(make([]byte, logBlock+1), uint32(1))
	f.Fuzz(func(t *testing.T, b []byte, n uint32) {
		if at := missingChunk(b, n); at >= len(b) {
			t.Errorf("at %d of %d", at, len(b))
		}
	})
}
