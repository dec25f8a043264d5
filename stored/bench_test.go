package stored

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Two stores in this process, over loopback:
//
//	go test -run - -bench . -benchtime 3s ./stored
//
// Figures contain the asking side (checksums, connections), on the same cores.
func benchGroup(b *testing.B, n int) (*asker, []*node) {
	k := newFakeTracker(b, protocol.NewKey())
	var nodes []*node
	for range n {
		nodes = append(nodes, startNode(b, k, filepath.Join(b.TempDir(), "s"), quiet))
	}
	return newAsker(b, k.key, protocol.RoleClient), nodes
}

// BenchmarkPut writes blocks through a chain, several in flight.
func BenchmarkPut(b *testing.B) {
	for _, c := range []struct {
		size, members, flight int
		sync                  bool
	}{
		{4 << 20, 1, 4, false}, {4 << 20, 2, 1, false}, {4 << 20, 2, 4, false}, {4 << 20, 2, 4, true},
		{32 << 10, 2, 8, false}, {4 << 10, 1, 1, true}, {4 << 10, 2, 1, true}, {4 << 10, 2, 8, true},
	} {
		b.Run(fmt.Sprintf("%dKiB/members=%d/flight=%d/sync=%v", c.size>>10, c.members, c.flight, c.sync), func(b *testing.B) {
			a, n := benchGroup(b, c.members)
			var chain []protocol.ChainLink
			for _, o := range n[1:] {
				chain = append(chain, o.link())
			}
			_, data := block(1, c.size)
			var next atomic.Int64
			var wg sync.WaitGroup
			b.SetBytes(int64(c.size))
			b.ResetTimer()
			for range c.flight {
				wg.Go(func() {
					for id := next.Add(1); id <= int64(b.N); id = next.Add(1) {
						meta := metaOf(int(id), data)
						reply, err := a.putRaw(n[0].addr, &protocol.Put{Block: meta, Sync: c.sync, Chain: chain}, data)
						if err != nil || len(reply.Holders) != c.members {
							b.Errorf("holders %v: %v", reply.Holders, err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
		})
	}
}

// BenchmarkGet reads ranges of blocks that are in the page cache.
func BenchmarkGet(b *testing.B) {
	for _, c := range []struct{ length, flight int }{{4 << 20, 1}, {4 << 20, 4}, {256 << 10, 4}, {4 << 10, 1}, {4 << 10, 16}} {
		b.Run(fmt.Sprintf("%dKiB/flight=%d", c.length>>10, c.flight), func(b *testing.B) {
			a, n := benchGroup(b, 1)
			for id := 1; id <= 16; id++ {
				a.mustPut(id, 4<<20, false, n[0])
			}
			var next atomic.Int64
			var wg sync.WaitGroup
			b.SetBytes(int64(c.length))
			b.ResetTimer()
			for range c.flight {
				wg.Go(func() {
					buf := make([]byte, tnv.MaxBlockSize)
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						off := int(i) * 7919 * c.length % (4 << 20)
						req := protocol.Get{Key: bkey(int(i%16) + 1), Off: uint32(off), Len: uint32(c.length)}
						if err := a.getInto(n[0].addr, &req, buf); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
		})
	}
}

func (a *asker) getInto(addr string, req *protocol.Get, buf []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return a.pool.Do(ctx, addr, func(w *protocol.Wire) (bool, error) {
		if err := w.WriteFrame(protocol.TypeGet, 0, 0, []any{req}); err != nil {
			return false, err
		}
		f, err := w.ReadFrame()
		if err != nil {
			return false, err
		}
		var reply protocol.GetReply
		if err := f.Decode(&reply); err != nil {
			return true, err
		}
		return true, w.ReadPayload(buf[:w.PayloadLeft()])
	})
}
