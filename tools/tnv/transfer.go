package main

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/tnvfs/tnv/client"
)

// copyBuffer is how much is read and written at a time.
const copyBuffer = 1 << 20

// progress shows how far a transfer is, on standard error if that is a terminal.
type progress struct{ bar *progressbar.ProgressBar }

// newProgress makes a bar for so many bytes; -1: unknown.
func (a *app) newProgress(total int64, what string, quiet bool) progress {
	f, ok := a.stderr.(*os.File)
	if quiet || !ok || !term.IsTerminal(int(f.Fd())) {
		return progress{}
	}
	return progress{progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(f),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetWidth(30),
		progressbar.OptionOnCompletion(func() { io.WriteString(f, "\n") }),
	)}
}

func (p progress) describe(what string) {
	if p.bar != nil {
		p.bar.Describe(what)
	}
}

func (p progress) add(n int) {
	if p.bar != nil {
		p.bar.Add(n)
	}
}

// end leaves the line, whether all was done or not.
func (p progress) end() {
	if p.bar != nil && !p.bar.IsFinished() {
		p.bar.Exit()
	}
}

// readAll copies a file of the volume to w.
func readAll(ctx context.Context, h *client.Handle, w io.Writer, p progress) error {
	buf := make([]byte, copyBuffer)
	for off := int64(0); ; {
		n, err := h.ReadAt(ctx, buf, off)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
			}
			off += int64(n)
			p.add(n)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// writeAll copies r to a file of the volume. It returns when the data is on
// every live storage daemon of its group, or on their disks with sync.
func writeAll(ctx context.Context, h *client.Handle, r io.Reader, p progress, sync bool) error {
	buf := make([]byte, copyBuffer)
	for off := int64(0); ; {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if _, werr := h.WriteAt(ctx, buf[:n], off); werr != nil {
				return werr
			}
			off += int64(n)
			p.add(n)
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			if sync {
				return h.Sync(ctx, false)
			}
			return h.Flush(ctx)
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}
