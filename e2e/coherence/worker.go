package coherence

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Setup is the first line of a worker process's input.
type Setup struct {
	Mount int    // its number; httpMount
	Root  string // the mountpoint, or the URL
	First int    // number of its first worker
	N     int    // how many there are
}

// Task is a round for a worker process: each further line of the input. It is
// answered by the operations, a line each, and a line with the operation End.
type Task struct {
	Seed   uint64
	Ops    int // of each worker
	Arenas []Arena
	Data   string
}

// End is the kind of the line behind the last operation of a round.
const End Kind = "end"

// WorkerMain is what a worker process does, until its input ends.
func WorkerMain() int {
	syscall.Umask(0)
	in := bufio.NewReader(os.Stdin)
	var s Setup
	if err := readLine(in, &s); err != nil {
		fmt.Fprintln(os.Stderr, "no setup:", err)
		return 2
	}
	out := &journal{enc: json.NewEncoder(os.Stdout)}
	for {
		var task Task
		if err := readLine(in, &task); err == io.EOF {
			return 0
		} else if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		var wg sync.WaitGroup
		for i := range s.N {
			w := &worker{Setup: s, Task: task, id: s.First + i, slot: i, out: out,
				rnd: rand.New(rand.NewPCG(task.Seed, uint64(s.First+i)))}
			wg.Go(w.run)
		}
		wg.Wait()
		out.note(&Op{Kind: End})
	}
}

func readLine(in *bufio.Reader, v any) error {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, v)
}

// journal is where a process's operations go.
type journal struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func (j *journal) note(o *Op) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.enc.Encode(o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

// worker does one operation after the other.
type worker struct {
	Setup
	Task
	id, slot int // of all, of its process
	rnd      *rand.Rand
	out      *journal
	n        int // operations done
	serial   int // of the values written

	arena   int
	dirs    []dirHandle // of the arena at hand: p, q, and others that were opened
	files   []fileHandle
	readers map[string]int // descriptors kept open, by file
	http    *http.Client
}

// now is the machine's one clock.
func now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

// call times an operation and notes it.
func (w *worker) call(o Op, do func(o *Op) error) error {
	o.Worker, o.Mount = w.id, w.Mount
	o.Call = now()
	err := do(&o)
	o.Ret = now()
	if err != nil {
		o.Err = errno(err)
	}
	w.n++
	w.out.note(&o)
	return err
}

func (w *worker) one(l ...string) string { return l[w.rnd.IntN(len(l))] }
func (w *worker) chance(of int) bool     { return w.rnd.IntN(of) == 0 }

// run does bursts until all is done, with pauses in between: short ones, and now
// and then one that is about as long as a lease.
func (w *worker) run() {
	if w.Mount == httpMount {
		w.http = &http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		defer w.http.CloseIdleConnections()
	}
	w.readers = map[string]int{}
	defer func() {
		for _, fd := range w.readers {
			unix.Close(fd)
		}
	}()
	for w.n < w.Ops {
		burst := w.someBurst()
		n := 5 + w.rnd.IntN(30)
		for end := w.n + n; w.n < end; {
			was := w.n
			if burst(); w.n == was {
				w.n++ // there was nothing to be done
			}
			if w.chance(3) {
				time.Sleep(time.Duration(w.rnd.IntN(2000)) * time.Microsecond)
			}
		}
		w.leave()
		if w.chance(25) {
			time.Sleep(900*time.Millisecond + time.Duration(w.rnd.IntN(3300))*time.Millisecond)
		}
	}
}

// someBurst picks what to do for a while.
func (w *worker) someBurst() func() {
	if w.Mount == httpMount {
		return w.ask
	}
	if w.chance(4) {
		return w.data
	}
	// Mostly in its mount's own arena, so that directories are calm for a while.
	if w.arena = w.rnd.IntN(len(w.Arenas)); !w.chance(3) {
		w.arena = w.Mount % len(w.Arenas)
	}
	if !w.enter() {
		return func() {}
	}
	return []func(){w.change, w.change, w.watch, w.both, w.both, w.both}[w.rnd.IntN(6)]
}

func (w *worker) both() {
	if w.chance(2) {
		w.watch()
	} else {
		w.change()
	}
}

func (w *worker) path(elem ...string) string {
	return filepath.Join(append([]string{w.Root}, elem...)...)
}

func errno(err error) syscall.Errno {
	if e, ok := err.(syscall.Errno); ok {
		return e
	}
	return syscall.EIO
}
