package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// film is n bytes that are all over different.
func film(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// stream is one application that reads or writes without a pause, or at a rate,
// and the longest that it waited for one call.
type stream struct {
	name    string
	rate    float64 // bytes per second; 0: as fast as it goes
	began   time.Time
	bytes   int64
	longest time.Duration
	at      time.Duration // since the start, of the longest
	err     error
}

func (s *stream) String() string {
	sec := time.Since(s.began).Seconds()
	return fmt.Sprintf("%-16s %6.1f MB/s, longest wait %4d ms, at %.1f s", s.name, float64(s.bytes)/1e6/sec, s.longest.Milliseconds(), s.at.Seconds())
}

// timed runs one call, and then waits as the rate demands.
func (s *stream) timed(call func() (int, error)) (int, error) {
	start := time.Now()
	n, err := call()
	if d := time.Since(start); d > s.longest {
		s.longest, s.at = d, start.Sub(s.began)
	}
	s.bytes += int64(n)
	if s.rate > 0 {
		time.Sleep(time.Until(s.began.Add(time.Duration(float64(s.bytes) / s.rate * 1e9))))
	}
	return n, err
}

// read plays a file over and over until ctx ends, and compares each byte.
func (s *stream) read(ctx context.Context, path string, want []byte) error {
	buf := make([]byte, 128<<10)
	for ctx.Err() == nil {
		var f *os.File
		if _, err := s.timed(func() (n int, err error) { f, err = os.Open(path); return }); err != nil {
			return err
		}
		err := s.readAll(ctx, f, buf, want)
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // the next time it comes from the daemons again
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) readAll(ctx context.Context, r io.Reader, buf, want []byte) error {
	for off := 0; ctx.Err() == nil; {
		n, err := s.timed(func() (int, error) { return r.Read(buf) })
		if off+n > len(want) || !bytes.Equal(buf[:n], want[off:off+n]) {
			return fmt.Errorf("wrong bytes in [%d, %d)", off, off+n)
		}
		off += n
		if err == io.EOF && off == len(want) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("at %d: %w", off, err)
		}
	}
	return nil
}

// fetch plays a file over HTTP, over and over.
func (s *stream) fetch(ctx context.Context, url string, want []byte) error {
	c := &http.Client{}
	defer c.CloseIdleConnections()
	buf := make([]byte, 128<<10)
	for ctx.Err() == nil {
		var resp *http.Response
		if _, err := s.timed(func() (n int, err error) { resp, err = c.Get(url); return }); err != nil {
			return err
		}
		err := s.readAll(ctx, resp.Body, buf, want)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %w", resp.Status, err)
		}
	}
	return nil
}

// write copies a file in until ctx ends, and returns how long it got.
func (s *stream) write(ctx context.Context, path string, data []byte) (size int, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for ctx.Err() == nil && size < len(data) {
		p := data[size:min(size+256<<10, len(data))]
		n, err := s.timed(func() (int, error) { return f.Write(p) })
		size += n
		if err != nil {
			return size, err
		}
	}
	_, err = s.timed(func() (int, error) { return 0, f.Close() })
	return size, err
}

// record appends to a file until ctx ends, and has each piece on disk before the next.
func (s *stream) record(ctx context.Context, path string, data []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for off := 0; ctx.Err() == nil; off += 64 << 10 {
		_, err := s.timed(func() (int, error) {
			n, err := f.Write(data[off : off+64<<10])
			if err == nil {
				err = f.Sync()
			}
			return n, err
		})
		if err != nil {
			return fmt.Errorf("at %d: %w", off, err)
		}
	}
	return f.Close()
}

// mostStall is how long an application may wait while one daemon is away.
const mostStall = 2 * time.Second

// One of two storage daemons is killed, or freezes, while one file is copied in
// and others play: no application notices more than a short wait; and when it is
// back the group becomes whole, and either daemon alone has every byte.
func TestOneStoreAway(t *testing.T) {
	for _, how := range []struct {
		name       string
		away, back func(c *Cluster)
	}{
		{"killed", func(c *Cluster) { c.Kill(StoreA, syscall.SIGKILL) }, (*Cluster).Restart},
		{"frozen", func(c *Cluster) { c.Kill(StoreB, syscall.SIGSTOP) }, func(c *Cluster) { c.Kill(StoreB, syscall.SIGCONT) }},
	} {
		t.Run(how.name, func(t *testing.T) {
			c := Start(t, Options{Limit: 3 * time.Minute})
			old := film(1, 320<<20) // more than either client's memory
			if err := os.WriteFile(filepath.Join(c.Mount, "old.mkv"), old, 0o644); err != nil {
				t.Fatal(err)
			}
			c.Down() // cold caches
			c.Restart()
			c.WaitWhole(30 * time.Second)
			in := old[100<<20+13:]
			size := playWhile(t, c, old, in, func() { how.away(c) }, func() { how.back(c) })
			n, orphans := c.waitSame(30 * time.Second)
			t.Logf("both daemons hold the same %d blocks", n)
			if orphans != 0 {
				t.Errorf("they hold %d blocks that no file has", orphans)
			}
			for _, other := range []string{StoreA, StoreB} {
				c.Kill(other, syscall.SIGKILL)
				checkGet(t, c, "/old.mkv", old, "without "+other)
				checkGet(t, c, "/new.mkv", in[:size], "without "+other)
				c.Restart()
				c.WaitWhole(30 * time.Second)
			}
		})
	}
}

// playWhile runs the applications; 2 s after their start comes away, 3 s later
// back, and 4 s later the end. It returns the size of what was copied in.
func playWhile(t *testing.T, c *Cluster, old, in []byte, away, back func()) (size int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	oldPath, newPath := filepath.Join(c.Mount, "old.mkv"), filepath.Join(c.Mount, "new.mkv")
	player, fast := &stream{name: "player 50 Mbit/s", rate: 50e6 / 8}, &stream{name: "full speed"}
	web, writer := &stream{name: "HTTP 50 Mbit/s", rate: 50e6 / 8}, &stream{name: "copy in", rate: 20e6}
	recorder := &stream{name: "fsync each 64 KB", rate: 3e6}
	all := []*stream{player, fast, web, writer, recorder}
	var wg sync.WaitGroup
	for _, s := range all {
		s.began = time.Now()
	}
	wg.Go(func() { player.err = player.read(ctx, oldPath, old) })
	wg.Go(func() { fast.err = fast.read(ctx, oldPath, old) })
	wg.Go(func() { web.err = web.fetch(ctx, c.HTTP+"/old.mkv", old) })
	wg.Go(func() { size, writer.err = writer.write(ctx, newPath, in) })
	wg.Go(func() { recorder.err = recorder.record(ctx, filepath.Join(c.Mount, "recording"), in) })
	time.Sleep(2 * time.Second)
	away()
	time.Sleep(3 * time.Second)
	began := time.Now()
	back()
	c.WaitWhole(30 * time.Second)
	t.Logf("the group was whole %v after the daemon was let back, under load", time.Since(began).Round(time.Millisecond))
	time.Sleep(time.Until(began.Add(4 * time.Second)))
	cancel()
	wg.Wait()
	for _, s := range all {
		t.Log(s)
		if s.err != nil {
			t.Errorf("%s: %v", s.name, s.err)
		}
		if s.longest > mostStall {
			t.Errorf("%s waited %v for one call, more than %v", s.name, s.longest, mostStall)
		}
		if s.bytes < 5e6 {
			t.Errorf("%s moved %d bytes only", s.name, s.bytes)
		}
	}
	return size
}

// checkGet fetches a file with a client of its own, which has nothing cached.
func checkGet(t *testing.T, c *Cluster, path string, want []byte, when string) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "got")
	defer os.Remove(to)
	r := c.Tnv("get", "--dir", c.Dir, path, to)
	got, err := os.ReadFile(to)
	if r.Code != 0 || err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %s: %d bytes of %d, first difference at %d, %v: %v", when, path, len(got), len(want), differ(got, want), err, r)
	}
}

// differ is the place of the first difference.
func differ(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// Bits flip in the segments of one store: every reader gets the right bytes;
// the damage is logged, counted, and mended from the other member's copy.
func TestFlippedBits(t *testing.T) {
	c := Start(t, Options{})
	data := film(2, 48<<20)
	if err := os.WriteFile(filepath.Join(c.Mount, "film.mkv"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	c.WaitWhole(20 * time.Second)
	c.Down() // no cache holds it
	var flips int
	for off := 1 << 20; off < len(data); off += 4 << 20 {
		flips += flip(t, filepath.Join(c.Dir, StoreA), data[off:off+256])
	}
	if flips < 10 {
		t.Fatalf("only %d places of the film were found in the segments of %s", flips, StoreA)
	}
	c.Restart()
	if got, err := os.ReadFile(filepath.Join(c.Mount, "film.mkv")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("on the mount: %d bytes, first difference at %d, %v", len(got), differ(got, data), err)
	}
	if got := get(t, c.HTTP+"/film.mkv"); !bytes.Equal(got, data) {
		t.Errorf("over HTTP: %d bytes, first difference at %d", len(got), differ(got, data))
	}
	// A reader asks for a block where it likes; the rest is found when a store is asked to look.
	s := c.stores()
	defer s.pool.Close()
	bad := c.nodeOf(StoreA)
	found := 0
	for key, b := range s.list(bad.Addr) {
		if s.verify(bad.Addr, key) != nil {
			found++
		}
		s.ask(bad.Addr, key, b.Home)
	}
	t.Logf("%d places flipped; after two readers %d blocks were still damaged", flips, found)
	if found == flips {
		t.Error("two readers found none of the damage")
	}
	st := c.WaitStatus(30*time.Second, "the damage counted and mended", func(st Status) bool {
		for _, g := range st.Groups {
			for _, n := range g.Nodes {
				if n.ID == bad.ID {
					return n.CorruptBlocks == uint64(flips) && n.MendedBlocks == uint64(flips)
				}
			}
		}
		return false
	})
	if !st.Whole() {
		c.WaitWhole(10 * time.Second)
	}
	for key := range s.list(bad.Addr) {
		if err := s.verify(bad.Addr, key); err != nil {
			t.Errorf("after mending: %v", err)
		}
	}
	log := c.Log(StoreA)
	if n := strings.Count(log, "a block is damaged"); n != flips {
		t.Errorf("the damage is logged %d times, want %d", n, flips)
	}
	c.waitSame(20 * time.Second)
	c.Kill(StoreB, syscall.SIGKILL)
	checkGet(t, c, "/film.mkv", data, "from the mended store alone")
}

// flip turns one bit in each place of a store's files where the bytes of mark
// stand, and says how many there were.
func flip(t *testing.T, dir string, mark []byte) (n int) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err != nil || !fi.Mode().IsRegular() || fi.Size() < 1<<20 {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		b, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		for at := 0; ; {
			i := bytes.Index(b[at:], mark)
			if i < 0 {
				return nil
			}
			at += i
			if _, err := f.WriteAt([]byte{b[at+100] ^ 4}, int64(at+100)); err != nil {
				return err
			}
			n++
			at++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A file that was unlinked while it is open stays readable and writable until
// its close, on its own mount, and its blocks go afterwards.
func TestUnlinkedButOpen(t *testing.T) {
	c := Start(t, Options{})
	c.Kill(HTTPD, syscall.SIGKILL) // its session must not keep what was unlinked
	c.Restart()
	path := filepath.Join(c.Mount, "f")
	data := film(3, 20<<20)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("after unlink: %v", err)
	}
	time.Sleep(3 * time.Second) // what reclaims would have done it by now
	c.Kill(StoreA, syscall.SIGKILL)
	c.Kill(Tracker, syscall.SIGKILL) // the owner of the list of unlinked files
	c.Restart()
	time.Sleep(time.Second)
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	got := make([]byte, len(data))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read of the unlinked file: first difference at %d, %v", differ(got, data), err)
	}
	if _, err := f.WriteAt([]byte("more"), int64(len(data))); err != nil {
		t.Error(err)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	c.WaitStatus(40*time.Second, "the unlinked file is reclaimed", func(st Status) bool {
		return st.Volumes[0].Unlinked == 0 && st.Volumes[0].Bytes == 0
	})
	if n, orphans := c.waitSame(60 * time.Second); n[0]+orphans != 0 {
		t.Errorf("%v blocks are left, %d of no file", n, orphans)
	}
}

// umount returns when all that was written is with the daemons, fsynced or not;
// down and up again find everything.
func TestUmountDrains(t *testing.T) {
	c := Start(t, Options{NoHTTP: true})
	want := map[string][]byte{}
	for i := range 6 {
		name := fmt.Sprintf("f%d", i)
		want[name] = film(byte(10+i), 10<<20+i)
		if err := os.WriteFile(filepath.Join(c.Mount, name), want[name], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// A mapping that was written to is not flushed by any close.
	if err := writeMapped(filepath.Join(c.Mount, "f0"), want["f0"]); err != nil {
		t.Fatal(err)
	}
	pid := c.Pid(Mounter)
	if r := Exec(60*time.Second, "umount", c.Mount); r.Code != 0 {
		t.Fatalf("umount: %v", r)
	}
	if !waitGone(pid, 30*time.Second) {
		t.Errorf("the mount's process stays after umount")
	}
	for name, data := range want {
		checkGet(t, c, "/"+name, data, "after umount")
	}
	c.Down()
	if entries, err := os.ReadDir(c.Mount); err != nil || len(entries) != 0 {
		t.Errorf("after down the mountpoint holds %v (%v)", entries, err)
	}
	if left := processesOf(c.Base); len(left) != 0 {
		t.Errorf("after down processes run: %v", left)
	}
	c.Restart()
	for name, data := range want {
		if got, err := os.ReadFile(filepath.Join(c.Mount, name)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("up again: %s: %d bytes, first difference at %d, %v", name, len(got), differ(got, data), err)
		}
	}
	if entries, err := os.ReadDir(c.Mount); err != nil || len(entries) != len(want) {
		t.Errorf("up again: %v, %v", entries, err)
	}
}

// writeMapped changes a file, and the bytes that it is to hold, through a
// mapping that is not synced.
func writeMapped(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, len(data), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for i := 0; i < len(data); i += 1 << 20 {
		m[i], data[i] = ^data[i], ^data[i]
	}
	return unix.Munmap(m)
}
