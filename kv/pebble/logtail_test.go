package pebble_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tnvfs/tnv/kv/pebble"
)

// TestLostPadding loses the few bytes at the end of a log's block in which a
// batch begins, and nothing else: neither this batch nor the next may be there.
func TestLostPadding(t *testing.T) {
	for left := 11; left <= 18; left++ {
		testLostPadding(t, left)
	}
}

func testLostPadding(t *testing.T, left int) {
	const block = 32 << 10
	m := newMachine(pebble.Options{FlushEvery: time.Hour})
	e := m.start(t)
	f := acquire(t, e)
	names, err := m.disk.List("store")
	must(t, err)
	slices.Sort(names)
	log := ""
	for _, n := range names {
		if strings.HasSuffix(n, ".log") {
			log = m.disk.PathJoin("store", n)
		}
	}
	length := func() int {
		fi, err := m.disk.Stat(log)
		must(t, err)
		return int(fi.Size())
	}
	n := 0
	apply := func(size int) int {
		before := length()
		n++
		must(t, e.Apply(ctx, f, one(n, size)))
		return length() - before
	}
	overhead := apply(1000) - 1000
	for block-length() > 12000 {
		apply(1000)
	}
	apply(block - left - length() - overhead)
	if length() != block-left {
		t.Fatalf("log is %d long, wanted %d", length(), block-left)
	}
	whole := n
	apply(1000)
	apply(1000)
	m.kill(t)
	w, err := m.disk.OpenReadWrite(log, vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = w.WriteAt(make([]byte, left), int64(block-left))
	must(t, err)
	must(t, w.Close())
	e = m.start(t)
	defer e.Close()
	if seq, err := e.Seq(ctx, 1); err != nil || int(seq) != whole {
		t.Fatalf("with %d bytes lost: batch %d is the last one, want %d, %v", left, seq, whole, err)
	}
}
