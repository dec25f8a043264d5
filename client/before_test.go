package client

import (
	"context"
	"io"
	"os"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// TestViewBefore: what was there before a cut can be read for as long as that was the
// last one, where somebody else has the file open, and no other client changes it.
func TestViewBefore(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.connect(f.config())
	ctx := context.Background()
	h, rep, err := c.CreateFile(ctx, tnv.Root, protocol.Create{Parent: tnv.RootIno, Name: "f", Mode: tnv.TypeRegular.Mode() | 0o644}, os.O_RDWR)
	must(t, err)
	defer h.Close()
	arrived := time.Now() // before each cut
	want := func(what, data string) {
		t.Helper()
		parts, release, err := h.ViewBefore(ctx, 0, 100, arrived)
		defer release()
		got := ""
		for _, p := range parts {
			got += string(p)
		}
		if got != data || (data == "") != (err == io.EOF) {
			t.Errorf("%s: %q (%v), want %q", what, got, err, data)
		}
	}
	write := func(data string) {
		_, err := h.WriteAt(ctx, []byte(data), 0)
		must(t, err)
		must(t, h.Flush(ctx))
	}
	cut := func(size uint64) {
		_, err := c.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: rep.Attr.Ino, Mask: protocol.SetSize | protocol.SetSizeWrite, Size: size})
		must(t, err)
	}
	settle := func() { // the tracker here leases nothing, as if others wanted it
		c.leases.mu.Lock()
		clear(c.leases.wanted)
		c.leases.mu.Unlock()
	}
	write("one")
	want("never cut", "")
	settle()
	cut(0)
	want("nobody else has it open", "")
	other, _, err := c.OpenFile(ctx, rep.Attr.Ino, os.O_RDONLY)
	must(t, err)
	defer other.Close()
	write("two")
	settle()
	cut(0)
	settle()
	want("cut", "two")
	early := arrived
	arrived = time.Now()
	want("cut before the read arrived", "")
	arrived = early
	settle()
	cut(0)
	settle()
	want("cut again, when it was empty", "")
	write("three")
	settle()
	cut(0)
	c.leases.recall([]protocol.LeaseKey{attrKey(rep.Attr.Ino)})
	want("others change it", "")
}
