package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// What an operation of a writer does.
const (
	opCreate   = "create" // with O_EXCL; the file is open then
	opOpen     = "open"   // what is there
	opWrite    = "write"  // to the open file
	opSync     = "fsync"
	opClose    = "close"
	opTruncate = "truncate" // by path
	opRename   = "rename"
	opUnlink   = "unlink"
	opMkdir    = "mkdir"
	opRmdir    = "rmdir"
	opSymlink  = "symlink"
	opLink     = "link"
)

// op is a line of a writer's journal: what it is about to do, and then, with
// Done, what came of it.
type op struct {
	N    int
	Kind string
	Path string // of the open file: its path now
	To   string `json:",omitempty"` // rename, link: the new path; symlink: the target
	Off  int64  `json:",omitempty"`
	Len  int64  `json:",omitempty"`
	Seed byte   `json:",omitempty"` // of the bytes written, with N

	Done  bool          `json:",omitempty"`
	Err   string        `json:",omitempty"`
	Errno syscall.Errno `json:",omitempty"`
	Took  time.Duration `json:",omitempty"`
}

// content is what a write writes.
func (o *op) content() []byte {
	b := make([]byte, o.Len)
	rand.NewChaCha8([32]byte{o.Seed, byte(o.N), byte(o.N >> 8), byte(o.N >> 16)}).Read(b)
	return b
}

// writerSetup is the first line of a writer's input. The end of the input is the
// sign to come to an end.
type writerSetup struct {
	Root     string // its directory on the mount; nobody else writes there
	Seed     byte
	First    int  // number of the first operation
	Recorder bool // one long open file, written and synced all the time
	Files    []fileState
}

// fileState is a file as it is when the writer starts.
type fileState struct {
	Path string
	Type string // as seen.Type, or "hidden": a second name of a file, which is left alone
	Size int64
}

// writer does random things to its own part of the tree.
type writer struct {
	writerSetup
	out  *bufio.Writer
	rnd  *rand.Rand
	n    int
	file map[string]*fileState
	stop atomic.Bool
}

const (
	maxFiles   = 24 // of a writer
	maxContent = 6 << 20
)

// errFailed ends a writer: an operation failed, and the journal says which.
var errFailed = errors.New("an operation failed")

func writerMain() int {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	w := &writer{out: bufio.NewWriter(os.Stdout), file: map[string]*fileState{}}
	if err == nil {
		err = json.Unmarshal(line, &w.writerSetup)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "no setup:", err)
		return 2
	}
	w.n = w.First
	w.rnd = rand.New(rand.NewPCG(uint64(w.Seed), uint64(w.First)))
	for i := range w.Files {
		w.file[w.Files[i].Path] = &w.Files[i]
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		io.Copy(io.Discard, in)
		w.stop.Store(true)
	})
	err = w.run()
	if err != nil && !errors.Is(err, errFailed) {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if err == nil {
		wg.Wait()
	}
	return 0
}

func (w *writer) run() error {
	for !w.stop.Load() {
		step := w.step
		if w.Recorder {
			step = w.record
		}
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// do notes an operation, does it, and notes what came of it.
func (w *writer) do(o op, call func() error) error {
	w.n++
	o.N, o.Seed = w.n, w.Seed
	if err := w.note(o); err != nil {
		return err
	}
	start := time.Now()
	err := call()
	o.Done, o.Took = true, time.Since(start)
	if err != nil {
		o.Err = err.Error()
		errors.As(err, &o.Errno)
	}
	if e := w.note(o); e != nil {
		return e
	}
	if err != nil {
		return errFailed
	}
	return nil
}

func (w *writer) note(o op) error {
	b, err := json.Marshal(o)
	if err == nil {
		_, err = w.out.Write(append(b, '\n'))
	}
	if err == nil {
		err = w.out.Flush() // in the pipe it survives whatever is killed
	}
	return err
}

func (w *writer) at(path string) string { return filepath.Join(w.Root, path) }

// some picks a file of a type; nil: there is none.
func (w *writer) some(typ string) *fileState {
	var l []string
	for p, f := range w.file {
		if f.Type == typ {
			l = append(l, p)
		}
	}
	if len(l) == 0 {
		return nil
	}
	slices.Sort(l)
	return w.file[l[w.rnd.IntN(len(l))]]
}

// fresh is a path that does not exist.
func (w *writer) fresh() string {
	name := fmt.Sprintf("n%d", w.n+1)
	if d := w.some("dir"); d != nil && w.rnd.IntN(3) > 0 {
		return d.Path + "/" + name
	}
	return name
}

// size is most often small, at times some MiB.
func (w *writer) size() int64 {
	return 1 + w.rnd.Int64N(1<<(4+w.rnd.IntN(19)))
}

// step does one thing.
func (w *writer) step() error {
	f, d := w.some("file"), w.some("dir")
	k := w.rnd.IntN(20)
	switch {
	case f == nil || k < 6 && len(w.file) < maxFiles:
		return w.session(opCreate, w.fresh(), 1+w.rnd.IntN(4))
	case k < 10:
		return w.session(opOpen, f.Path, 1+w.rnd.IntN(4))
	case k < 12:
		size := w.rnd.Int64N(f.Size*3/2 + 2)
		err := w.do(op{Kind: opTruncate, Path: f.Path, Len: size}, func() error { return os.Truncate(w.at(f.Path), size) })
		f.Size = size
		return err
	case k < 14:
		return w.rename(f, w.fresh())
	case k == 14:
		if g := w.some("file"); g != f {
			return w.rename(f, g.Path) // replaces it
		}
		return w.relink(f, w.fresh())
	case k == 15 && d == nil || k == 16 && w.dirs() < 4:
		p := w.fresh()
		w.file[p] = &fileState{Path: p, Type: "dir"}
		return w.do(op{Kind: opMkdir, Path: p}, func() error { return os.Mkdir(w.at(p), 0o755) })
	case k == 17 && len(w.file) < maxFiles:
		p := w.fresh()
		w.file[p] = &fileState{Path: p, Type: "link"}
		return w.do(op{Kind: opSymlink, Path: p, To: f.Path}, func() error { return os.Symlink(f.Path, w.at(p)) })
	case k == 18 && d != nil && w.empty(d.Path):
		delete(w.file, d.Path)
		return w.do(op{Kind: opRmdir, Path: d.Path}, func() error { return syscall.Rmdir(w.at(d.Path)) })
	case len(w.file) > maxFiles/2 || k == 19:
		if l := w.some("link"); l != nil && k%2 == 0 {
			f = l
		}
		delete(w.file, f.Path)
		return w.do(op{Kind: opUnlink, Path: f.Path}, func() error { return syscall.Unlink(w.at(f.Path)) })
	}
	return w.session(opCreate, w.fresh(), 1)
}

func (w *writer) dirs() (n int) {
	for _, f := range w.file {
		if f.Type == "dir" {
			n++
		}
	}
	return n
}

func (w *writer) empty(dir string) bool {
	for p := range w.file {
		if filepath.Dir(p) == dir {
			return false
		}
	}
	return true
}

func (w *writer) rename(f *fileState, to string) error {
	from := f.Path
	delete(w.file, from)
	f.Path = to
	w.file[to] = f
	return w.do(op{Kind: opRename, Path: from, To: to}, func() error { return syscall.Rename(w.at(from), w.at(to)) })
}

// relink renames in the old way, by link and unlink.
func (w *writer) relink(f *fileState, to string) error {
	from := f.Path
	if err := w.do(op{Kind: opLink, Path: from, To: to}, func() error { return os.Link(w.at(from), w.at(to)) }); err != nil {
		return err
	}
	delete(w.file, from)
	f.Path = to
	w.file[to] = f
	return w.do(op{Kind: opUnlink, Path: from}, func() error { return syscall.Unlink(w.at(from)) })
}

// session opens a file, writes some pieces with an fsync here and there, and
// closes it. Once in a while it is renamed while it is open.
func (w *writer) session(kind, path string, pieces int) error {
	flags := os.O_WRONLY
	st := w.file[path]
	if kind == opCreate {
		flags |= os.O_CREATE | os.O_EXCL
		st = &fileState{Path: path, Type: "file"}
		w.file[path] = st
	}
	appends := w.rnd.IntN(4) == 0
	if appends {
		flags |= os.O_APPEND
	}
	var f *os.File
	err := w.do(op{Kind: kind, Path: path}, func() (err error) { f, err = os.OpenFile(w.at(path), flags, 0o644); return })
	if err != nil {
		return err
	}
	defer f.Close()
	for range pieces {
		if err := w.piece(f, st, appends); err != nil {
			return err
		}
		if w.rnd.IntN(3) == 0 {
			if err := w.do(op{Kind: opSync, Path: st.Path}, f.Sync); err != nil {
				return err
			}
		}
		if w.rnd.IntN(12) == 0 {
			if err := w.rename(st, w.fresh()); err != nil {
				return err
			}
		}
	}
	return w.do(op{Kind: opClose, Path: st.Path}, f.Close)
}

func (w *writer) piece(f *os.File, st *fileState, appends bool) error {
	o := op{Kind: opWrite, Path: st.Path, Len: w.size()}
	o.Off = st.Size
	if !appends && st.Size > 0 && w.rnd.IntN(2) == 0 || st.Size > maxContent {
		o.Off = w.rnd.Int64N(st.Size)
	}
	if appends {
		o.Off = st.Size
	}
	o.N, o.Seed = w.n+1, w.Seed
	data := o.content()
	st.Size = max(st.Size, o.Off+o.Len)
	return w.do(o, func() (err error) {
		if appends {
			_, err = f.Write(data)
		} else {
			_, err = f.WriteAt(data, o.Off)
		}
		return err
	})
}

// record is a recording: one file that grows by small pieces, synced often, and
// closed when it is long or the writer stops. The one before it is removed.
func (w *writer) record() error {
	if old := w.some("file"); old != nil && len(w.file) > 3 {
		delete(w.file, old.Path)
		if err := w.do(op{Kind: opUnlink, Path: old.Path}, func() error { return syscall.Unlink(w.at(old.Path)) }); err != nil {
			return err
		}
	}
	path := fmt.Sprintf("rec%d", w.n+1)
	st := &fileState{Path: path, Type: "file"}
	w.file[path] = st
	var f *os.File
	err := w.do(op{Kind: opCreate, Path: path}, func() (err error) {
		f, err = os.OpenFile(w.at(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		return
	})
	if err != nil {
		return err
	}
	defer f.Close()
	for i := 0; st.Size < 3*maxContent && !w.stop.Load(); i++ {
		o := op{Kind: opWrite, Path: path, Off: st.Size, Len: 1 + w.rnd.Int64N(60<<10)}
		o.N, o.Seed = w.n+1, w.Seed
		data := o.content()
		st.Size += o.Len
		if err := w.do(o, func() error { _, err := f.Write(data); return err }); err != nil {
			return err
		}
		if i%5 == 4 {
			if err := w.do(op{Kind: opSync, Path: path}, f.Sync); err != nil {
				return err
			}
		}
	}
	return w.do(op{Kind: opClose, Path: path}, f.Close)
}

// seen is what a verifier found at a path.
type seen struct {
	Path   string
	Type   string
	Size   int64
	Sum    string `json:",omitempty"` // SHA-256 of a regular file
	Target string `json:",omitempty"`
	Nlink  uint64
	Err    string `json:",omitempty"`
}

// verifierSetup says what tree to look at, and which files' content to bring.
type verifierSetup struct {
	Root string
	Dump map[string]string // path: file to which it is copied
}

// verifierMain lists a tree with the sums of all files.
func verifierMain() int {
	var s verifierSetup
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		fmt.Fprintln(os.Stderr, "no setup:", err)
		return 2
	}
	out := json.NewEncoder(os.Stdout)
	err := filepath.WalkDir(s.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(s.Root, path)
		if rel == "." {
			return nil
		}
		return out.Encode(look(path, rel, s.Dump[rel]))
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func look(path, rel, dump string) seen {
	v := seen{Path: rel}
	fail := func(err error) seen { v.Err = err.Error(); return v }
	fi, err := os.Lstat(path)
	if err != nil {
		return fail(err)
	}
	v.Size, v.Nlink = fi.Size(), fi.Sys().(*syscall.Stat_t).Nlink
	switch {
	case fi.IsDir():
		v.Type, v.Size = "dir", 0
	case fi.Mode()&fs.ModeSymlink != 0:
		v.Type = "link"
		if v.Target, err = os.Readlink(path); err != nil {
			return fail(err)
		}
	case fi.Mode().IsRegular():
		v.Type = "file"
		b, err := os.ReadFile(path)
		if err == nil && int64(len(b)) != fi.Size() {
			err = fmt.Errorf("%d bytes were read, stat says %d", len(b), fi.Size())
		}
		if err == nil && dump != "" {
			err = os.WriteFile(dump, b, 0o600)
		}
		if err != nil {
			return fail(err)
		}
		v.Sum = sumOf(b)
	}
	return v
}

func sumOf(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
