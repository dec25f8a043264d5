package protocol

import (
	"errors"
	"testing"

	"github.com/tnvfs/tnv"
)

// Messages go as arrays of a fixed number of fields: a message of another shape
// is refused, never half read.
func TestMessagesAreArrays(t *testing.T) {
	b, err := Marshal(&Lookup{Parent: 5, Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if b[0] != 0x92 {
		t.Fatalf("a message of two fields begins with %#x, not with an array's header", b[0])
	}
	type newer struct {
		Parent tnv.Ino
		Name   string
		Extra  []uint64
	}
	b, _ = Marshal(&newer{7, "y", []uint64{1, 2}})
	if err := Unmarshal(b, new(Lookup)); !errors.Is(err, tnv.KindProtocol) {
		t.Fatalf("a message with a field more: %v", err)
	}
	b, _ = Marshal(&Lookup{9, "z"})
	if err := Unmarshal(b, new(newer)); !errors.Is(err, tnv.KindProtocol) {
		t.Fatalf("a message with a field less: %v", err)
	}
}
