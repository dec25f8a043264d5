package client_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/protocol"
)

// Benchmarks with a real tracker and two real stores in this process:
//
//	go test -run - -bench . -benchtime 2s ./client

const benchFile = 1 << 30

func writeFilm(b *testing.B, c *client.Client, name string, size int64, sync bool) {
	h, err := c.CreatePath(ctx, name, 0o644)
	must(b, err)
	buf := noise(1, 1<<20)
	for off := int64(0); off < size; off += int64(len(buf)) {
		_, err := h.WriteAt(ctx, buf, off)
		must(b, err)
	}
	if sync {
		must(b, h.Sync(ctx, false))
	}
	must(b, h.Close())
}

func BenchmarkSeqWrite(b *testing.B) {
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("fsync=%v", sync), func(b *testing.B) {
			k := startCluster(b, 1, 2)
			c := k.connect()
			b.SetBytes(benchFile)
			for b.Loop() {
				writeFilm(b, c, "film", benchFile, sync)
			}
		})
	}
}

func BenchmarkSeqRead(b *testing.B) {
	k := startCluster(b, 1, 2)
	writeFilm(b, k.connect(), "film", benchFile, false)
	for _, noLocal := range []bool{true, false} {
		for _, n := range []int{128 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("local=%v/%dK", !noLocal, n>>10), func(b *testing.B) {
				c := k.connect(func(c *client.Config) { c.NoLocal = noLocal; c.Memory = 128 << 20 })
				buf := make([]byte, n)
				b.SetBytes(benchFile)
				for b.Loop() {
					h, _, err := c.OpenPath(ctx, "film")
					must(b, err)
					for off := int64(0); off < benchFile; off += int64(n) {
						_, err := h.ReadAtVersion(ctx, buf, off)
						must(b, err)
					}
					must(b, h.Close())
				}
			})
		}
	}
}

func BenchmarkReadCached(b *testing.B) {
	k := startCluster(b, 1, 2)
	c := k.connect()
	writeFilm(b, c, "film", 32<<20, false)
	h, _, err := c.OpenPath(ctx, "film")
	must(b, err)
	for _, view := range []bool{false, true} {
		b.Run(fmt.Sprintf("view=%v", view), func(b *testing.B) {
			buf := make([]byte, 1<<20)
			b.SetBytes(32 << 20)
			for b.Loop() {
				for off := int64(0); off < 32<<20; off += 1 << 20 {
					if view {
						_, release, err := h.ViewVersion(ctx, off, 1<<20)
						must(b, err)
						release()
						continue
					}
					_, err := h.ReadAtVersion(ctx, buf, off)
					must(b, err)
				}
			}
		})
	}
}

func BenchmarkRandRead(b *testing.B) {
	k := startCluster(b, 1, 2)
	writeFilm(b, k.connect(), "film", benchFile, false)
	for _, noLocal := range []bool{true, false} {
		for _, n := range []int{4 << 10, 256 << 10} {
			b.Run(fmt.Sprintf("local=%v/%dK", !noLocal, n>>10), func(b *testing.B) {
				c := k.connect(func(c *client.Config) { c.NoLocal = noLocal; c.Memory = 16 << 20 })
				h, _, err := c.OpenPath(ctx, "film")
				must(b, err)
				defer h.Close()
				buf := make([]byte, n)
				b.SetBytes(int64(n))
				for b.Loop() {
					_, err := h.ReadAtVersion(ctx, buf, rand.Int64N(benchFile-int64(n)))
					must(b, err)
				}
			})
		}
	}
}

func BenchmarkRandWriteSync(b *testing.B) {
	k := startCluster(b, 1, 2)
	c := k.connect()
	writeFilm(b, c, "film", 256<<20, true)
	h, _, err := c.OpenPathFlags(ctx, "film", os.O_RDWR, 0)
	must(b, err)
	defer h.Close()
	buf := noise(2, 4096)
	for b.Loop() {
		_, err := h.WriteAt(ctx, buf, rand.Int64N(256<<20/4096)*4096)
		must(b, err)
		must(b, h.Sync(ctx, true))
	}
}

func BenchmarkRandWrite(b *testing.B) {
	k := startCluster(b, 1, 2)
	c := k.connect()
	writeFilm(b, c, "film", 256<<20, true)
	h, _, err := c.OpenPathFlags(ctx, "film", os.O_RDWR, 0)
	must(b, err)
	buf := noise(2, 4096)
	for b.Loop() {
		_, err := h.WriteAt(ctx, buf, rand.Int64N(256<<20/4096)*4096)
		must(b, err)
	}
	must(b, h.Close())
}

func BenchmarkSmallFile(b *testing.B) {
	k := startCluster(b, 1, 2)
	c := k.connect()
	buf := noise(3, 32<<10)
	i := 0
	for b.Loop() {
		h, _, err := c.CreateFile(ctx, tnv.Root, protocol.Create{Parent: tnv.RootIno, Name: fmt.Sprint(time.Now().UnixNano(), i), Mode: 0o644}, os.O_WRONLY)
		must(b, err)
		_, err = h.WriteAt(ctx, buf, 0)
		must(b, err)
		must(b, h.Flush(ctx))
		must(b, h.Close())
		i++
	}
}

func BenchmarkSmallRead(b *testing.B) {
	k := startCluster(b, 1, 2)
	w := k.connect()
	for i := range 1000 {
		must(b, w.WriteFile(ctx, fmt.Sprint(i), noise(3, 32<<10), 0o644))
	}
	c := k.connect()
	buf := make([]byte, 32<<10)
	i := 0
	for b.Loop() {
		h, _, err := c.OpenPath(ctx, fmt.Sprint(i%1000))
		must(b, err)
		if _, err := h.ReadAtVersion(ctx, buf, 0); err != nil && err != io.EOF {
			b.Fatal(err)
		}
		must(b, h.Close())
		i++
	}
}
