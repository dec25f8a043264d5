package e2e

import (
	"bufio"
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv/fuse/fusetest"
)

// steady is what each store uses, when that has not changed for a while: heartbeats tell it late.
func steady(t *testing.T, c *Cluster) []uint64 {
	t.Helper()
	was := used(c.Status())
	for range 60 {
		time.Sleep(1500 * time.Millisecond)
		now := used(c.Status())
		if slices.Equal(now, was) {
			return now
		}
		was = now
	}
	t.Fatal("what the stores use does not come to rest")
	return nil
}

// TestContent runs random system calls on files of the mount and on the local
// disk; what they return and what is read must be the same. Then cp clones a
// film: in no time, without a byte more on the disks, and each of the two
// outlives the other.
func TestContent(t *testing.T) {
	t.Setenv("TNV_PUNCH_DELAY", "2s")
	c := Start(t, Options{NoHTTP: true})
	seed := uint64(time.Now().UnixNano())
	if err := fusetest.Compare(c.Mount, t.TempDir(), seed, 700); err != nil {
		t.Fatal(err)
	}
	film, copied := filepath.Join(c.Mount, "film"), filepath.Join(c.Mount, "copy")
	const size = 1<<30 + 4321
	writeFilm(t, film, seed, size)
	compareFilm(t, film, seed, noiseUnit) // its first open drops the pages that the writing has left
	blocks, _ := c.waitSame(20 * time.Second)
	before := steady(t, c)
	began := time.Now()
	if r := Exec(time.Minute, "cp", "--reflink=auto", film, copied); r.Code != 0 {
		t.Fatal("cp:", r)
	}
	took := time.Since(began)
	if took > time.Second {
		t.Errorf("cp of a film takes %v", took)
	}
	unix.Sync()
	after := used(c.Status())
	t.Logf("cp of %d bytes took %v; in use of each store before %v, after %v", size, took, before, after)
	if now, _ := c.waitSame(20 * time.Second); !slices.Equal(now, blocks) {
		t.Errorf("blocks of each group: %v, before %v", now, blocks)
	}
	for i := range after {
		if after[i] > before[i]+1<<20 { // the metadata's copies grow a little
			t.Errorf("store %d uses %d bytes more", i, after[i]-before[i])
		}
	}
	if fi, err := os.Stat(copied); err != nil || fi.Size() != size {
		t.Fatalf("the copy: %v, %v", fi, err)
	}
	compareFilm(t, copied, seed, size)
	if err := os.Truncate(film, 5<<20); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(copied, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("mine"), 100<<20); err != nil { // it is the copy's alone
		t.Fatal(err)
	}
	if _, err := f.WriteAt(noiseAt(seed, 100<<20), 100<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(film); err != nil {
		t.Fatal(err)
	}
	c.Kill(Tracker, unix.SIGKILL)
	c.Restart()
	c.WaitWhole(30 * time.Second)
	compareFilm(t, copied, seed, size)
	entries, err := os.ReadDir(c.Mount)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(c.Mount, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	c.waitDisk(t, 45*time.Second)
}

// noiseUnit is how much noiseAt makes.
const noiseUnit = 1 << 20

// noiseAt is what writeFilm writes at an offset, a multiple of noiseUnit.
func noiseAt(seed uint64, off int64) []byte {
	r := rand.New(rand.NewPCG(seed, uint64(off)))
	b := make([]byte, 0, noiseUnit)
	for len(b) < noiseUnit {
		v := r.Uint64()
		b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24), byte(v>>32), byte(v>>40), byte(v>>48), byte(v>>56))
	}
	return b
}

func writeFilm(t *testing.T, name string, seed uint64, size int64) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, noiseUnit)
	for off := int64(0); off < size; off += noiseUnit {
		if _, err := w.Write(noiseAt(seed, off)[:min(noiseUnit, size-off)]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// compareFilm compares the first bytes of a file with what writeFilm has written.
func compareFilm(t *testing.T, name string, seed uint64, size int64) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, noiseUnit)
	for off := int64(0); off < size; off += noiseUnit {
		part := b[:min(noiseUnit, size-off)]
		if _, err := f.ReadAt(part, off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(part, noiseAt(seed, off)[:len(part)]) {
			t.Fatalf("%s differs within 1 MiB of byte %d", name, off)
		}
	}
}
