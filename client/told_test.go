package client

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// TestReadUnderCommit: while the answer to a commit is on its way, what was committed
// is dirty here, and another client may have written over it since. A read that begins
// then gives what the owner has.
func TestReadUnderCommit(t *testing.T) {
	f := newFake(t, 1, 2)
	one, two := f.connect(f.config()), f.connect(f.config())
	ctx := context.Background()
	h1, rep, err := one.CreateFile(ctx, tnv.Root, protocol.Create{Parent: tnv.RootIno, Name: "f", Mode: tnv.TypeRegular.Mode() | 0o644}, os.O_RDWR)
	must(t, err)
	defer h1.Close()
	h2, _, err := two.OpenFile(ctx, rep.Attr.Ino, os.O_RDWR)
	must(t, err)
	defer h2.Close()

	executed, release := make(chan struct{}), make(chan struct{})
	first := true
	f.track.mu.Lock()
	f.track.after = func(typ protocol.Type) bool {
		f.track.mu.Lock()
		held := typ == protocol.TypeCommit && first
		first = first && !held
		f.track.mu.Unlock()
		if held {
			close(executed)
			<-release
		}
		return false
	}
	f.track.mu.Unlock()
	write := func(h *Handle, data string) {
		_, err := h.WriteAt(ctx, []byte(data), 0)
		must(t, err)
		must(t, h.Flush(ctx))
	}
	flushed := make(chan struct{})
	go func() { write(h1, "one and more"); close(flushed) }()
	<-executed
	_, err = two.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: rep.Attr.Ino, Mask: protocol.SetSize | protocol.SetSizeWrite})
	must(t, err)
	write(h2, "two")
	time.AfterFunc(50*time.Millisecond, func() { close(release) })
	if a, err := one.GetAttr(ctx, tnv.Root, rep.Attr.Ino); err != nil || a.Size != 3 {
		t.Errorf("the size is %d (%v), it was last set to 3", a.Size, err)
	}
	b := make([]byte, 20)
	if n, _ := h1.ReadAt(ctx, b, 0); string(b[:n]) != "two" {
		t.Errorf("read %q, the last that was written is %q", b[:n], "two")
	}
	<-flushed
}
