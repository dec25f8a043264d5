package client_test

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// What two clients append at one moment is there, whole and once, also where a
// chunk ends.
func TestAppendsOfTwoClients(t *testing.T) {
	k := startCluster(t, 1, 2)
	first := k.connect()
	const before = tnv.ChunkSize - 50*100 // in the middle of what is appended
	must(t, first.WriteFile(ctx, "log", nil, 0o644))
	a, err := first.Stat(ctx, "log")
	must(t, err)
	_, err = first.SetAttr(ctx, tnv.Root, protocol.SetAttr{Ino: a.Ino, Mask: protocol.SetSize, Size: before})
	must(t, err)
	const each, clients = 60, 2
	record := func(c, i int) []byte { return fmt.Appendf(nil, "%-99s\n", fmt.Sprint(c, " ", i)) }
	var wg sync.WaitGroup
	for c := range clients {
		cl := k.connect()
		wg.Go(func() {
			h, _, err := cl.OpenFile(ctx, a.Ino, os.O_WRONLY)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range each {
				if i%10 == 5 { // what is dirty here comes first
					if _, err := h.WriteAt(ctx, []byte{1}, 3); err != nil {
						t.Error(err)
					}
				}
				if _, n, err := h.Append(ctx, record(c, i)); err != nil || n != 100 {
					t.Error(n, err)
				}
			}
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b, err := k.connect().ReadFile(ctx, "log")
	must(t, err)
	if len(b) != before+each*clients*100 {
		t.Fatalf("%d bytes are appended, want %d", len(b)-before, each*clients*100)
	}
	for c := range clients {
		for i := range each {
			if n := bytes.Count(b[before:], record(c, i)); n != 1 {
				t.Errorf("record %d of client %d is there %d times", i, c, n)
			}
		}
	}
}
