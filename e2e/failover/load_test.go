package failover

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// load is applications at work on a mount. Each knows what every one of its system
// calls must answer, so a call that was executed twice, or not at all, shows as an
// answer that is wrong: EEXIST from a create that was repeated, ENOENT from a
// rename, a line that stands twice in a log.
//
// It runs in a process of its own: one that has files of a mount open, and starts
// another, waits for the mount (the kernel flushes what the other closes).
type load struct {
	root  string // a directory of its own
	ctx   context.Context
	wg    sync.WaitGroup
	calls atomic.Int64
	worst atomic.Int64 // the longest call since it was asked for last, in ns

	mu     sync.Mutex
	errs   []string
	checks []func(root string) error
}

func (l *load) start() {
	if err := os.Mkdir(l.root, 0o755); err != nil {
		l.failed(err)
		return
	}
	for i := range 2 {
		l.run(fmt.Sprintf("tree%d", i), l.tree)
	}
	l.run("log", l.log)
	l.run("film", l.film)
	l.run("held", l.held)
}

func (l *load) run(dir string, app func(dir string) error) {
	l.wg.Go(func() {
		if err := app(filepath.Join(l.root, dir)); err != nil {
			l.failed(fmt.Errorf("%s: %w", dir, err))
		}
	})
}

func (l *load) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, err.Error())
}

// report is what the worker answers to each line that it is sent.
type report struct {
	Longest time.Duration // call since the last report
	Calls   int64
	Errors  []string
}

func (l *load) report() report {
	l.mu.Lock()
	defer l.mu.Unlock()
	return report{time.Duration(l.worst.Swap(0)), l.calls.Load(), l.errs}
}

// Environment of the worker: its own directory, the same one as other mounts show
// it, and a file that another worker has locked.
const (
	rootEnv   = "TNV_FAILOVER_ROOT"
	otherEnv  = "TNV_FAILOVER_OTHER"
	lockedEnv = "TNV_FAILOVER_LOCKED"
)

// workerMain is the process of a load. "look" has it report, "lock" try a lock that
// another holds, "stop" end its applications and check what they have left.
func workerMain() int {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	l := &load{root: os.Getenv(rootEnv), ctx: ctx}
	l.start()
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "lock":
			if err := locked(os.Getenv(lockedEnv)); err != nil {
				l.failed(err)
			}
		case "stop":
			stop()
			l.wg.Wait()
			for _, root := range []string{l.root, os.Getenv(otherEnv)} {
				for _, check := range l.checks {
					if err := check(root); err != nil {
						l.failed(fmt.Errorf("seen at %s: %w", root, err))
					}
				}
			}
		}
		out.Encode(l.report())
	}
	return 0
}

// do makes a system call, and notes how long it took.
func (l *load) do(what string, call func() error) error {
	began := time.Now()
	err := call()
	took := int64(time.Since(began))
	l.calls.Add(1)
	for {
		w := l.worst.Load()
		if took <= w || l.worst.CompareAndSwap(w, took) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%s, after %v: %w", what, time.Duration(took), err)
	}
	return nil
}

// tree makes, renames and removes names, and compares the directory with what must be
// in it.
func (l *load) tree(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(1, 2))
	var names []string
	for n := 0; l.ctx.Err() == nil; n++ {
		var err error
		switch op := r.IntN(10); {
		case op < 4 || len(names) == 0:
			name := fmt.Sprintf("f%d", n)
			err = l.do("create "+name, func() error {
				f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
				if err == nil {
					err = f.Close()
				}
				return err
			})
			names = append(names, name)
		case op < 7:
			i := r.IntN(len(names))
			to := fmt.Sprintf("r%d", n)
			err = l.do("rename "+names[i], func() error { return os.Rename(filepath.Join(dir, names[i]), filepath.Join(dir, to)) })
			names[i] = to
		case op < 9:
			i := r.IntN(len(names))
			err = l.do("remove "+names[i], func() error { return os.Remove(filepath.Join(dir, names[i])) })
			names[i] = names[len(names)-1]
			names = names[:len(names)-1]
		default:
			err = l.do("mkdir and rmdir", func() error {
				d := filepath.Join(dir, fmt.Sprintf("d%d", n))
				return errors.Join(os.Mkdir(d, 0o755), os.Remove(d))
			})
		}
		if err != nil {
			return err
		}
		if n%200 == 0 {
			if err := sameNames(dir, names); err != nil {
				return err
			}
		}
	}
	l.check(func(root string) error { return sameNames(filepath.Join(root, filepath.Base(dir)), names) })
	return nil
}

func sameNames(dir string, names []string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	want := map[string]bool{}
	for _, n := range names {
		want[n] = true
	}
	for _, e := range entries {
		if !want[e.Name()] {
			return fmt.Errorf("there is %s, which was removed or renamed", e.Name())
		}
		delete(want, e.Name())
	}
	if len(want) > 0 {
		return fmt.Errorf("%d names are missing, of %d: %v", len(want), len(names), want)
	}
	return nil
}

// check is run when all is over, on every mount.
func (l *load) check(fn func(root string) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checks = append(l.checks, fn)
}

// log appends numbered lines, each on disk before the next.
func (l *load) log(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	n := 0
	for ; l.ctx.Err() == nil; n++ {
		err := l.do("append", func() error {
			_, err := fmt.Fprintf(f, "line %d\n", n)
			return errors.Join(err, f.Sync())
		})
		if err != nil {
			return err
		}
	}
	l.check(func(root string) error {
		b, err := os.ReadFile(filepath.Join(root, filepath.Base(path)))
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		for i, line := range lines {
			if line != fmt.Sprintf("line %d", i) {
				return fmt.Errorf("line %d of the log is %q", i, line)
			}
		}
		if len(lines) != n {
			return fmt.Errorf("the log has %d lines, %d were written", len(lines), n)
		}
		return nil
	})
	return nil
}

// film plays a film over and over, and compares each byte.
func (l *load) film(path string) error {
	data := make([]byte, 12<<20)
	rand.NewChaCha8([32]byte{7}).Read(data)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for l.ctx.Err() == nil {
		var f *os.File
		if err := l.do("open", func() (err error) { f, err = os.Open(path); return err }); err != nil {
			return err
		}
		for off := 0; off < len(data) && l.ctx.Err() == nil; off += len(buf) {
			if err := l.do("read", func() error { _, err := f.ReadAt(buf, int64(off)); return err }); err != nil {
				return err
			}
			if !bytes.Equal(buf, data[off:off+len(buf)]) {
				return fmt.Errorf("wrong bytes at %d", off)
			}
			time.Sleep(5 * time.Millisecond)
		}
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		f.Close()
	}
	return nil
}

// held keeps what a session holds: a lock, and a file that has no name any more.
func (l *load) held(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return err
	}
	g, err := os.OpenFile(path+".unlinked", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer g.Close()
	if err := os.Remove(path + ".unlinked"); err != nil {
		return err
	}
	for n := 0; l.ctx.Err() == nil; n++ {
		want := []byte(fmt.Sprintf("%08d", n))
		got := make([]byte, len(want))
		err := l.do("write to the unlinked file", func() error {
			_, err := g.WriteAt(want, 0)
			return errors.Join(err, g.Sync())
		})
		if err == nil {
			err = l.do("read of the unlinked file", func() error { _, err := g.ReadAt(got, 0); return err })
		}
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("the unlinked file has %q, want %q", got, want)
		}
		if err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// locked tells whether somebody has the lock that held holds, as another mount sees it.
func locked(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	switch {
	case err == nil:
		return errors.New("the lock that another holds was granted")
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EACCES):
		return nil
	}
	return err
}
