package client

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tnvfs/tnv"
)

func TestDiskCache(t *testing.T) {
	f := newFake(t, 1, 2)
	want := randomBytes(9, 6<<20)
	must(t, f.connect(f.config()).WriteFile(ctx, "x", want, 0o644))
	cfg := f.config()
	cfg.CacheDir = filepath.Join(t.TempDir(), "cache")
	gets := func() (n int) {
		for _, s := range f.stores {
			s.mu.Lock()
			n += s.gets
			s.mu.Unlock()
		}
		return n
	}
	// read opens a client, reads the file, and tells how often the stores were asked.
	read := func(clean bool) int {
		t.Helper()
		c := f.connect(cfg)
		before := gets()
		h, _, err := c.OpenPath(ctx, "x")
		must(t, err)
		check(t, h, want)
		must(t, h.Close())
		if _, err := Connect(ctx, cfg); tnv.KindOf(err) != tnv.KindBusy {
			t.Errorf("a second client on one directory: %v", err)
		}
		must(t, c.Close(ctx))
		if !clean {
			must(t, os.WriteFile(filepath.Join(cfg.CacheDir, openMark), nil, 0o600))
		}
		return gets() - before
	}
	if n := read(true); n == 0 {
		t.Fatal("the first read asked nobody")
	}
	if n := read(true); n != 0 {
		t.Errorf("the second read asked the stores %d times", n)
	}
	files, _ := filepath.Glob(filepath.Join(cfg.CacheDir, "*", "*"+diskSuffix))
	if len(files) == 0 {
		t.Fatal("no file in the cache")
	}
	b, err := os.ReadFile(files[0])
	must(t, err)
	b[len(b)/2] ^= 1
	must(t, os.WriteFile(files[0], b, 0o600))
	if n := read(true); n != 1 {
		t.Errorf("with one part damaged the stores were asked %d times", n)
	}
	read(false)
	if n := read(true); n == 0 {
		t.Error("the cache was used after an unclean stop")
	}
	cfg.CacheSize = 2 << 20
	read(true)
	var used int64
	files, _ = filepath.Glob(filepath.Join(cfg.CacheDir, "*", "*"+diskSuffix))
	for _, p := range files {
		fi, err := os.Stat(p)
		must(t, err)
		used += fi.Size()
	}
	if used > cfg.CacheSize || used == 0 {
		t.Errorf("%d bytes in a cache of %d", used, cfg.CacheSize)
	}
}
