package kvtest

import (
	"fmt"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

// Bench measures an engine: one small batch, eight volumes at once, a get of a
// key in memory, a scan of a hundred keys, a Sync after each batch.
func Bench(b *testing.B, open func(t testing.TB) *Store) {
	value := make([]byte, 100)
	small := func(seq tnv.BatchSeq) []kv.Batch {
		return []kv.Batch{{Seq: seq, Writes: []kv.Write{
			{Key: fmt.Appendf(nil, "I%08d", seq%100000), Value: value},
			{Key: fmt.Appendf(nil, "D%08d", seq%100000), Value: value[:40]},
			{Key: []byte("Q"), Value: value[:32]},
		}}}
	}
	run := func(name string, fn func(b *testing.B, e kv.Engine)) {
		b.Run(name, func(b *testing.B) {
			s := open(b)
			defer s.Engine.Close()
			b.ReportAllocs()
			fn(b, s.Engine)
		})
	}
	run("Apply", func(b *testing.B, e kv.Engine) {
		f := own(b, e, 1)
		for i := tnv.BatchSeq(1); b.Loop(); i++ {
			must(b, e.Apply(ctx, f, small(i)))
		}
	})
	run("ApplyVolumes8", func(b *testing.B, e kv.Engine) {
		done := make(chan error)
		for v := range tnv.VolumeID(8) {
			f := own(b, e, v)
			go func() {
				var err error
				for i := 1; i <= b.N/8 && err == nil; i++ {
					err = e.Apply(ctx, f, small(tnv.BatchSeq(i)))
				}
				done <- err
			}()
		}
		for range 8 {
			must(b, <-done)
		}
	})
	run("ApplySync", func(b *testing.B, e kv.Engine) {
		f := own(b, e, 1)
		for i := tnv.BatchSeq(1); b.Loop(); i++ {
			must(b, e.Apply(ctx, f, small(i)))
			must(b, e.Sync(ctx))
		}
	})
	fill := func(e kv.Engine) {
		f := own(b, e, 1)
		for i := tnv.BatchSeq(1); i <= 5000; i++ {
			must(b, e.Apply(ctx, f, small(i)))
		}
	}
	run("Get", func(b *testing.B, e kv.Engine) {
		fill(e)
		key := []byte("I00002500")
		for b.Loop() {
			if v, err := e.Get(ctx, 1, key); err != nil || v[0] == nil {
				b.Fatal(v, err)
			}
		}
	})
	run("Scan100", func(b *testing.B, e kv.Engine) {
		fill(e)
		for b.Loop() {
			must(b, e.Scan(ctx, 1, []byte("I00001000"), nil, 100, func(_, _ []byte) bool { return true }))
		}
	})
}
