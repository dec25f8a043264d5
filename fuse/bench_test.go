package fuse_test

import (
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv/fuse"
	"github.com/tnvfs/tnv/fuse/fusetest"
)

// The backend is in memory, so these measure the adapter, go-fuse and the
// kernel. Allocations are those of both sides: per piece of 1 MiB.

const benchFile = 256 << 20

func benchWrite(b *testing.B, path string, piece int) {
	buf := make([]byte, piece)
	b.SetBytes(int64(piece))
	b.ReportAllocs()
	f, err := os.Create(path)
	must(b, err)
	defer f.Close()
	b.ResetTimer()
	for i := range b.N {
		_, err := f.WriteAt(buf, int64(i)*int64(piece)%benchFile)
		must(b, err)
	}
}

func BenchmarkSeqWrite1M(b *testing.B) {
	benchWrite(b, mountBackend(b, fusetest.New(), fuse.Options{}).dir+"/f", 1<<20)
}

func BenchmarkWrite4K(b *testing.B) {
	benchWrite(b, mountBackend(b, fusetest.New(), fuse.Options{}).dir+"/f", 4<<10)
}

func benchRead(b *testing.B, warm bool) {
	m := mountBackend(b, fusetest.New(), fuse.Options{})
	p := m.dir + "/f"
	must(b, os.WriteFile(p, make([]byte, benchFile), 0o644))
	buf := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	b.ResetTimer()
	var f *os.File
	for i := range b.N {
		if i%(benchFile>>20) == 0 {
			if f != nil {
				f.Close()
			}
			var err error
			f, err = os.Open(p)
			must(b, err)
			if !warm {
				must(b, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
			}
		}
		_, err := io.ReadFull(f, buf)
		must(b, err)
	}
	f.Close()
}

func BenchmarkSeqReadCold1M(b *testing.B) { benchRead(b, false) }
func BenchmarkSeqReadWarm1M(b *testing.B) { benchRead(b, true) }

func BenchmarkStat(b *testing.B) {
	m := mountBackend(b, fusetest.New(), fuse.Options{})
	must(b, os.WriteFile(m.dir+"/f", nil, 0o644))
	b.ReportAllocs()
	for b.Loop() {
		_, err := os.Lstat(m.dir + "/f")
		must(b, err)
	}
}
