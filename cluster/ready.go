package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
)

// readyEnv names the file descriptor on which a child tells that it is ready.
const readyEnv = "TNV_READY_FD"

// report is the one line that a child writes to its parent.
type report struct {
	Addr  string   `json:"addr,omitempty"`
	Kind  tnv.Kind `json:"kind,omitempty"`
	Error string   `json:"error,omitempty"`
}

// Reporter tells the parent, if it listens, that this process is ready or why
// it cannot be. Only the first call of Ready or Failed counts. Nil reports to nobody.
type Reporter struct {
	once sync.Once
	f    *os.File
}

// ReporterFromEnv takes the descriptor that the parent passed on, if it did. To
// be called once, at the start.
func ReporterFromEnv() *Reporter {
	fd, err := strconv.Atoi(os.Getenv(readyEnv))
	os.Unsetenv(readyEnv)
	if err != nil || fd < 3 {
		return nil
	}
	return &Reporter{f: os.NewFile(uintptr(fd), "ready")}
}

// Ready says that the process answers at addr.
func (r *Reporter) Ready(addr string) { r.send(report{Addr: addr}) }

// Failed says why the process will not get ready.
func (r *Reporter) Failed(err error) {
	r.send(report{Kind: tnv.KindOf(err), Error: err.Error()})
}

func (r *Reporter) send(m report) {
	if r == nil {
		return
	}
	r.once.Do(func() {
		b, _ := json.Marshal(m)
		r.f.Write(append(b, '\n')) // a parent that is gone needs no answer
		r.f.Close()
	})
}

// maxReport bounds what is read from a child.
const maxReport = 64 << 10

// waitReport reads the child's line until ctx ends. exited: the child closed
// the pipe without a word.
func waitReport(ctx context.Context, pipe *os.File) (addr string, exited bool, err error) {
	stop := context.AfterFunc(ctx, func() { pipe.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := bufio.NewReader(io.LimitReader(pipe, maxReport)).ReadBytes('\n')
	switch {
	case ctx.Err() != nil:
		return "", false, ctx.Err()
	case err != nil:
		return "", true, tnv.E("start", tnv.KindOther, "it ended before it was ready")
	}
	var m report
	if err := json.Unmarshal(line, &m); err != nil {
		return "", false, tnv.Wrap("read the child's report", err)
	}
	if m.Error != "" {
		return "", false, &childError{m}
	}
	return m.Addr, false, nil
}

// childError is an error that a child told of: its words, and its kind.
type childError struct{ m report }

func (e *childError) Error() string { return e.m.Error }
func (e *childError) Unwrap() error { return e.m.Kind }
