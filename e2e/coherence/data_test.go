package coherence

import (
	"testing"

	"github.com/anishathalye/porcupine"
)

// Zeros are excused where a truncation is under way, and nowhere else.
func TestTornReads(t *testing.T) {
	zeros, text := &Op{Kind: Read, Val: "\x00\x00"}, &Op{Kind: Read, Val: "\x00x"}
	op := func(in *Op, call, ret int64) porcupine.Operation {
		return porcupine.Operation{Input: in, Call: call, Return: ret}
	}
	cases := []struct {
		name string
		ops  []porcupine.Operation
		torn bool
	}{
		{"overlapped", []porcupine.Operation{op(zeros, 10, 20), op(&Op{Kind: Empty}, 15, 30)}, true},
		{"behind it", []porcupine.Operation{op(zeros, 10, 20), op(&Op{Kind: Empty}, 5, 9)}, false},
		{"before it", []porcupine.Operation{op(zeros, 10, 20), op(&Op{Kind: Empty}, 21, 30)}, false},
		{"by a write", []porcupine.Operation{op(zeros, 10, 20), op(&Op{Kind: Replace}, 15, 30)}, false},
	}
	for _, c := range cases {
		if got := tornReads(c.ops)[zeros]; got != c.torn {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if len(tornReads([]porcupine.Operation{op(text, 10, 20), op(&Op{Kind: Empty}, 15, 30)})) != 0 {
		t.Error("a read of something is excused")
	}
}
