package meta

import (
	"context"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

// D2: no deletion is ordered before the transaction that freed the block is on disk.
func TestDeletionsAreOnDisk(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	ctx := context.Background()
	f := h.create(tnv.RootIno, "f")
	old, err := h.write(f, 0, 4096)
	h.must(err)
	h.must(h.v.sync(ctx))
	_, err = h.write(f, 0, 4096)
	h.must(err)
	if ids := h.toDelete(); len(ids) != 1 || ids[0] != old {
		t.Fatalf("to be deleted: %v", ids)
	}
	h.engine = h.engineOf().PowerLoss(0)
	h.v.Close()
	h.v = nil
	h.reopen()
	h.newSession()
	for _, e := range h.extentsAt(tnv.Home{Ino: f}) {
		if e.Block == old {
			t.Fatal("a block whose deletion was ordered is named again after a power loss")
		}
	}
}

// D3: an id is of use to nobody but the session that it was granted to.
func TestIDsOfOthers(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	f := h.create(tnv.RootIno, "f")
	other := *h
	other.newSession()
	theirs := other.block()
	_, err := do[protocol.AttrReply](h, protocol.TypeCommit, h.commitOf(f, 0, 4096, theirs))
	kindIs(t, err, tnv.KindInvalid)
	_, err = do[protocol.AttrReply](&other, protocol.TypeCommit, other.commitOf(f, 0, 4096, theirs))
	h.must(err)
}
