package client_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// An append whose guess of the place lies in another chunk than the file's end
// puts its block a second time. The first does not stay behind: the client lives
// on, and nobody else could know that it will not commit it.
func TestAbandonedBlockGoes(t *testing.T) {
	k := startCluster(t, 1, 2)
	a, b := k.connect(), k.connect()
	h, err := a.CreatePath(ctx, "f", 0o644)
	must(t, err)
	defer h.Close()
	_, err = b.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: h.Ino(), Mask: protocol.SetSize, Size: tnv.ChunkSize + 5})
	must(t, err)
	p := bytes.Repeat([]byte("x"), 100_000)
	if off, n, err := h.Append(ctx, p); err != nil || off != tnv.ChunkSize+5 || n != len(p) {
		t.Fatalf("append: %d bytes at %d, %v", n, off, err)
	}
	tool, err := protocol.DialClient(ctx, &protocol.Endpoint{Key: k.key, Role: protocol.RoleTool}, k.tracker, nil)
	must(t, err)
	defer tool.Close()
	deleted := false
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var st protocol.Status
		must(t, tool.Call(ctx, protocol.TypeStatus, &st, &protocol.StatusRequest{}))
		deleted = deleted || st.Volumes[0].PendingDeletions > 0 || st.Groups[0].Nodes[0].Blocks == 2
		if deleted && st.Volumes[0].PendingDeletions == 0 && st.Groups[0].Nodes[0].Blocks == 1 && st.Groups[0].Nodes[1].Blocks == 1 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the block that was put first is still there: %+v", st.Groups[0].Nodes)
		}
	}
}
