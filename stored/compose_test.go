package stored

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// A block is made of parts of others, which lie here or at a peer, and is on disk
// at all whom it is put to; only trackers may ask, and nothing unverified goes on.
func TestCompose(t *testing.T) {
	k, n := group(t, 4, quiet)
	client, tracker := newAsker(t, k.key, protocol.RoleClient), newAsker(t, k.key, protocol.RoleTracker)
	client.mustPut(1, 300_000, true, n[0])
	client.mustPut(2, 70_000, true, n[1]) // at a peer alone
	_, one := block(1, 300_000)
	_, two := block(2, 70_000)
	want := bytes.Join([][]byte{one[5000:205_000], two[1:69_999], one[:10]}, nil)
	rq := protocol.Compose{Key: bkey(9), Home: tnv.Home{Ino: 7, Chunk: 3},
		Parts: []protocol.BlockPart{{Block: 1, Off: 5000, Len: 200_000}, {Block: 2, Off: 1, Len: 69_998}, {Block: 1, Len: 10}},
		Chain: []protocol.ChainLink{n[2].link(), n[3].link()}}
	kindOf := func(err error) tnv.Kind { return tnv.KindOf(err) }
	if err := client.call(n[0].addr, protocol.TypeCompose, nil, &rq); !errors.Is(err, tnv.KindPermission) {
		t.Fatalf("asked by a client: %v", err)
	}
	var rep protocol.PutReply
	if err := tracker.call(n[0].addr, protocol.TypeCompose, &rep, &rq); err != nil || len(rep.Holders) != 2 {
		t.Fatalf("%+v, %v", rep, err)
	}
	for i, o := range n[2:] {
		got, data, err := client.get(o.addr, protocol.Get{Key: bkey(9), Meta: true})
		if err != nil || !bytes.Equal(data, want) || got.Block.Home != rq.Home {
			t.Fatalf("holder %d: %d bytes of %d, %+v, %v", i, len(data), len(want), got.Block.Home, err)
		}
	}
	if err := tracker.call(n[0].addr, protocol.TypeCompose, &rep, &rq); err != nil || len(rep.Holders) != 2 {
		t.Fatalf("once more, the same bytes under the same id: %+v, %v", rep, err)
	}
	for what, parts := range map[string][]protocol.BlockPart{"no parts": nil, "an empty part": {{Block: 1}},
		"too large": {{Block: 1, Len: tnv.MaxBlockSize}, {Block: 1, Len: 1}}, "behind the end": {{Block: 1, Off: 299_999, Len: 2}}} {
		bad := rq
		bad.Key, bad.Parts = bkey(10), parts
		if err := tracker.call(n[0].addr, protocol.TypeCompose, nil, &bad); kindOf(err) != tnv.KindInvalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	missing := rq
	missing.Key, missing.Parts = bkey(11), []protocol.BlockPart{{Block: 77, Len: 5}}
	if err := tracker.call(n[0].addr, protocol.TypeCompose, nil, &missing); kindOf(err) != tnv.KindMissing {
		t.Errorf("of a block that is nowhere: %v", err)
	}
}
