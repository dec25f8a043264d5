package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	filmSize  = 96 << 20
	playRate  = 50e6 / 8 // bytes per second
	writeRate = 8e6
	small     = 40 << 10
)

// noise is n bytes that are all over different.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// app is one application: how long its calls took, and what went wrong.
type app struct {
	name    string
	work    func(ctx context.Context, a *app) error
	rate    float64       // bytes per second; 0: it paces itself
	calm    time.Duration // the longest call before trouble began
	longest time.Duration // and since then

	mu      sync.Mutex
	trouble bool
	began   time.Time
	bytes   int64
	err     error
}

// timed runs one call, and then waits as the rate demands.
func (a *app) timed(call func() (int, error)) (int, error) {
	start := time.Now()
	n, err := call()
	took := time.Since(start)
	a.mu.Lock()
	if a.trouble {
		a.longest = max(a.longest, took)
	} else {
		a.calm = max(a.calm, took)
	}
	a.bytes += int64(n)
	next := a.began
	if a.rate > 0 {
		next = a.began.Add(time.Duration(float64(a.bytes) / a.rate * float64(time.Second)))
		if late := time.Since(next); late > time.Second { // it is not made up for
			a.began = a.began.Add(late)
		}
	}
	a.mu.Unlock()
	time.Sleep(time.Until(next))
	return n, err
}

// apps are the applications on a mount, and what they left there.
type apps struct {
	mount string
	film  []byte
	all   []*app
	wg    sync.WaitGroup
	stop  context.CancelFunc

	mu      sync.Mutex
	written map[string]int // files of the film's first bytes, by their length
	deleted map[string]bool
}

const deletable = 800

// prepare puts the film and what is to be deleted on the mount.
func prepare(mount string) (*apps, error) {
	a := &apps{mount: mount, film: noise(9, filmSize), written: map[string]int{"film": filmSize}, deleted: map[string]bool{}}
	if err := os.WriteFile(filepath.Join(mount, "film"), a.film, 0o644); err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(mount, "d"), 0o755); err != nil {
		return nil, err
	}
	for i := range deletable {
		if err := os.WriteFile(a.victim(i), a.film[i:i+small], 0o644); err != nil {
			return nil, err
		}
	}
	a.all = []*app{{name: "writing", work: a.write, rate: writeRate}, {name: "recording", work: a.record, rate: playRate / 4},
		{name: "playing", work: a.play, rate: playRate}, {name: "seeking", work: a.seek}, {name: "deleting", work: a.remove}}
	return a, nil
}

func (a *apps) victim(i int) string { return filepath.Join(a.mount, "d", fmt.Sprint(i)) }

// run starts all of them.
func (a *apps) run() {
	ctx, cancel := context.WithCancel(context.Background())
	a.stop = cancel
	for _, x := range a.all {
		x.began = time.Now()
		a.wg.Go(func() {
			if err := x.work(ctx, x); err != nil {
				x.err = fmt.Errorf("%s: %w", x.name, err)
			}
		})
	}
}

// troubled says that from now on it is the trouble's doing.
func (a *apps) troubled() {
	for _, x := range a.all {
		x.mu.Lock()
		x.trouble = true
		x.mu.Unlock()
	}
}

// end stops them, and gives what went wrong.
func (a *apps) end() error {
	a.stop()
	a.wg.Wait()
	var errs []error
	for _, x := range a.all {
		errs = append(errs, x.err)
		if x.err == nil && x.bytes == 0 {
			errs = append(errs, fmt.Errorf("%s: nothing was done", x.name))
		}
	}
	return errors.Join(errs...)
}

// play reads the film at the rate of a player, over and over.
func (a *apps) play(ctx context.Context, x *app) error {
	buf := make([]byte, 128<<10)
	for ctx.Err() == nil {
		f, err := os.Open(filepath.Join(a.mount, "film"))
		if err != nil {
			return err
		}
		for off := 0; off < filmSize && ctx.Err() == nil; {
			n, err := x.timed(func() (int, error) { return f.Read(buf) })
			if err != nil && err != io.EOF || !bytes.Equal(buf[:n], a.film[off:off+n]) {
				f.Close()
				return fmt.Errorf("at %d: %d bytes, %w", off, n, cmpErr(err))
			}
			off += n
		}
		forget(f)
		f.Close()
	}
	return nil
}

var errBytes = errors.New("wrong bytes")

func cmpErr(err error) error {
	if err == nil || err == io.EOF {
		return errBytes
	}
	return err
}

// forget has the kernel drop what it has of a file.
func forget(f *os.File) { unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }

// seek reads somewhere in the film, as a player does whose user looks for a scene.
func (a *apps) seek(ctx context.Context, x *app) error {
	f, err := os.Open(filepath.Join(a.mount, "film"))
	if err != nil {
		return err
	}
	defer f.Close()
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)
	buf := make([]byte, 100_000)
	for ctx.Err() == nil {
		off := rand.IntN(filmSize - len(buf))
		n, err := x.timed(func() (int, error) { return f.ReadAt(buf, int64(off)) })
		if err != nil || !bytes.Equal(buf[:n], a.film[off:off+n]) {
			return fmt.Errorf("at %d: %d bytes, %w", off, n, cmpErr(err))
		}
		forget(f)
		time.Sleep(60 * time.Millisecond)
	}
	return nil
}

// write copies files in; close is a call like others.
func (a *apps) write(ctx context.Context, x *app) error {
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("written-%d", i)
		if err := a.fill(ctx, x, name, 128<<10, 24<<20, false); err != nil {
			return err
		}
	}
	return nil
}

// record appends, and has each piece on disk before the next.
func (a *apps) record(ctx context.Context, x *app) error {
	return a.fill(ctx, x, "recording", 64<<10, filmSize, true)
}

func (a *apps) fill(ctx context.Context, x *app, name string, piece, most int, sync bool) error {
	f, err := os.Create(filepath.Join(a.mount, name))
	if err != nil {
		return err
	}
	defer f.Close()
	size := 0
	for ctx.Err() == nil && size < most {
		n, err := x.timed(func() (int, error) {
			n, err := f.Write(a.film[size : size+piece])
			if err == nil && sync {
				err = f.Sync()
			}
			return n, err
		})
		size += n
		if err != nil {
			return fmt.Errorf("%s, at %d: %w", name, size, err)
		}
	}
	if _, err := x.timed(func() (int, error) { return 0, f.Close() }); err != nil {
		return fmt.Errorf("close %s: %w", name, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.written[name] = size
	return nil
}

// remove deletes one file after another.
func (a *apps) remove(ctx context.Context, x *app) error {
	for i := 0; i < deletable && ctx.Err() == nil; i++ {
		path := a.victim(i)
		if _, err := x.timed(func() (int, error) { return 1, os.Remove(path) }); err != nil {
			return err
		}
		a.mu.Lock()
		a.deleted[path] = true
		a.mu.Unlock()
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}
