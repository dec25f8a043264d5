package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// treeLimit is how long one command may take on the whole tree: much longer
// than it should, for a machine that does other things too.
const treeLimit = 4 * time.Minute

// goSource is the tree that Go itself is made of.
func goSource(t testing.TB) string {
	t.Helper()
	return filepath.Join(strings.TrimSpace(run(t, time.Minute, "go", "env", "GOROOT")), "src")
}

// timed runs a program that must succeed, and logs how long it took.
func timed(t testing.TB, program string, args ...string) {
	t.Helper()
	began := time.Now()
	out := run(t, treeLimit, program, args...)
	t.Logf("%-5s took %v", program, time.Since(began).Round(10*time.Millisecond))
	if out != "" {
		t.Errorf("%s %v says: %.1000s", program, args, out)
	}
}

// What may stay in use of a store when all was deleted: the segment that takes
// records now, as far as it is not worth giving up, and what is allocated ahead.
const (
	mayStayUsed      = 20 << 20
	mayStayAllocated = 90 << 20
)

// A tree of many small files and a large file are copied in and compared with
// the originals, attributes and all; when they are removed, the storage daemons'
// disks are free again.
func TestTreeAndDiskUse(t *testing.T) {
	t.Setenv("TNV_PUNCH_DELAY", "2s")
	c := Start(t, Options{NoHTTP: true, Limit: 15 * time.Minute})
	size := 256 << 20
	if *full {
		size = 2 << 30
	}
	src, film := goSource(t), filepath.Join(c.Base, "film")
	writeNoise(t, film, 1, int64(size))
	timed(t, "cp", "-a", src, filepath.Join(c.Mount, "src"))
	timed(t, "cp", "-a", film, filepath.Join(c.Mount, "film"))
	timed(t, "diff", "-r", "--no-dereference", src, filepath.Join(c.Mount, "src"))
	timed(t, "cmp", film, filepath.Join(c.Mount, "film"))
	// rsync would do something if a mode, owner, size, time or link differed.
	timed(t, "rsync", "-aHn", "--delete", "--itemize-changes", src+"/", filepath.Join(c.Mount, "src")+"/")
	st := c.Status()
	t.Logf("%d files, %d bytes; in use of each store %v", st.Volumes[0].Files, st.Volumes[0].Bytes, used(st))
	for i, n := range used(st) {
		if n < uint64(size) {
			t.Errorf("store %d uses %d bytes for a file of %d", i, n, size)
		}
	}
	timed(t, "rm", "-rf", filepath.Join(c.Mount, "src"), filepath.Join(c.Mount, "film"))
	began := time.Now()
	c.waitDisk(t, 45*time.Second)
	t.Logf("the disks are free %v after rm -rf: in use %v, allocated %v", time.Since(began).Round(100*time.Millisecond), used(c.Status()), c.allocated(t))
	if left, err := os.ReadDir(c.Mount); err != nil || len(left) != 0 {
		t.Errorf("after rm -rf: %v, %v", left, err)
	}
}

// waitDisk waits until next to nothing is in use on any store.
func (c *Cluster) waitDisk(t *testing.T, limit time.Duration) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		use, disk, open := used(c.Status()), c.allocated(t), c.deletedSegments(t)
		ok := len(open) == 0
		for i := range use {
			ok = ok && use[i] <= mayStayUsed && disk[i] <= mayStayAllocated
		}
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Errorf("%v after all was removed: in use %v, at most %d wanted; allocated %v, at most %d wanted; removed segments are open in %v",
				limit, use, mayStayUsed, disk, mayStayAllocated, open)
			return
		}
	}
}

// used is what each storage daemon says that it uses.
func used(st Status) (out []uint64) {
	for _, g := range st.Groups {
		for _, n := range g.Nodes {
			out = append(out, n.UsedBytes)
		}
	}
	return out
}

// allocated is what the files of each store have of the disk.
func (c *Cluster) allocated(t testing.TB) (out []int64) {
	t.Helper()
	for _, store := range []string{StoreA, StoreB} {
		var sum int64
		entries, err := os.ReadDir(filepath.Join(c.Dir, store))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if fi, err := e.Info(); err == nil { // a segment may go meanwhile
				sum += fi.Sys().(*syscall.Stat_t).Blocks * 512
			}
		}
		out = append(out, sum)
	}
	return out
}

// deletedSegments names what processes hold open of segments that were removed,
// and that still has some of the disk.
func (c *Cluster) deletedSegments(t testing.TB) (out []string) {
	t.Helper()
	for _, p := range c.Status().Processes {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.Pid))
		for _, fd := range fds {
			to, err := os.Readlink(fd)
			if err != nil || !strings.HasSuffix(to, ".seg (deleted)") {
				continue
			}
			if fi, err := os.Stat(fd); err == nil && fi.Sys().(*syscall.Stat_t).Blocks > 0 {
				out = append(out, p.Name+": "+filepath.Base(to))
			}
		}
	}
	return out
}

// noiseReader is an endless stream, the same for one seed.
func noiseReader(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

func writeNoise(t testing.TB, path string, seed byte, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(noiseReader(seed), size), make([]byte, 1<<20))
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// checkNoise reads a stream to its end and compares it with what writeNoise wrote.
func checkNoise(r io.Reader, seed byte, size int64) error {
	want, got := noiseReader(seed), make([]byte, 1<<20)
	ref := make([]byte, len(got))
	for off := int64(0); off < size; {
		n := min(int64(len(got)), size-off)
		if _, err := io.ReadFull(r, got[:n]); err != nil {
			return fmt.Errorf("at %d of %d: %w", off, size, err)
		}
		io.ReadFull(want, ref[:n])
		if string(got[:n]) != string(ref[:n]) {
			return fmt.Errorf("wrong bytes in [%d, %d)", off, off+n)
		}
		off += n
	}
	if n, err := r.Read(got); n != 0 || err != io.EOF {
		return fmt.Errorf("more than %d bytes, or no end: %d, %v", size, n, err)
	}
	return nil
}

// budget is each process's default memory budget, of the whole process.
const budget = 512 << 20

// A large copy in and out, over the mount and HTTP, leaves every process within
// its budget.
func TestMemoryBudget(t *testing.T) {
	c := Start(t, Options{Limit: 15 * time.Minute})
	size := int64(1 << 30)
	if *full {
		size = 10 << 30
	}
	path := filepath.Join(c.Mount, "film")
	step := func(what string, do func() error) {
		began := time.Now()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		t.Logf("%-8s %5.0f MB/s, the time to make the bytes included", what, float64(size)/1e6/time.Since(began).Seconds())
	}
	step("copy in", func() error { writeNoise(t, path, 7, size); return nil })
	step("copy out", func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return checkNoise(f, 7, size)
	})
	step("HTTP", func() error {
		client := http.Client{Timeout: 10 * time.Minute}
		defer client.CloseIdleConnections()
		resp, err := client.Get(c.HTTP + "/film")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return checkNoise(resp.Body, 7, size)
	})
	for _, name := range []string{Tracker, StoreA, StoreB, HTTPD, Mounter} {
		peak := peakMemory(t, c.Pid(name))
		t.Logf("%-10s peak %3d MiB", name, peak>>20)
		if peak > budget {
			t.Errorf("%s had %d MiB, more than its %d MiB", name, peak>>20, int64(budget)>>20)
		}
	}
}

// peakMemory is the most that a process ever had in memory.
func peakMemory(t testing.TB, pid int) int64 {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/status", pid))) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatalf("process %d has no VmHWM", pid)
	return 0
}
