package protocol

import (
	"errors"
	"net"
	"os"
	"time"

	"github.com/tnvfs/tnv"
)

// Signs of life. A put may take as long as its disk does, and whoever waits for
// the answer must tell a store at work from one that is frozen or cut off. If the
// request carries FlagLife, the store pushes an empty frame of the request's type
// every LifeEvery from when it has all bytes until it answers. When its own disk
// takes longer than it should, it pushes an error instead, and nothing more: the
// block may still come to be held there, but nobody should wait for it.

const (
	// LifeEvery is how often a store that works on a put says so.
	LifeEvery = 200 * time.Millisecond
	// MovePiece is how much is written under one deadline at most.
	movePiece = 256 << 10
)

// SayBusyDisk tells the asker of a put not to wait any longer.
func (p *Peer) SayBusyDisk(t Type, err error) error {
	return p.w.WriteFrame(t, FlagPush|FlagError, 0, []any{ToWire(err)})
}

// WriteMoving writes all of b, as long as some byte is taken within each stall.
func WriteMoving(c net.Conn, b []byte, stall time.Duration) (int, error) {
	n := 0
	for n < len(b) {
		c.SetWriteDeadline(time.Now().Add(stall))
		m, err := c.Write(b[n:min(n+movePiece, len(b))])
		n += m
		if err != nil && (m == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return n, Stalled(err)
		}
	}
	return n, nil
}

// ReadAnswer reads the reply to a request with FlagLife: KindTimeout if nothing
// comes for silence, or no reply within limit.
func (w *Wire) ReadAnswer(silence, limit time.Duration) (Frame, error) {
	defer w.conn.SetReadDeadline(time.Time{})
	for end := time.Now().Add(limit); ; {
		by := time.Now().Add(silence)
		if by.After(end) {
			by = end
		}
		w.conn.SetReadDeadline(by)
		f, err := w.ReadFrame()
		switch {
		case err != nil:
			return f, Stalled(err)
		case f.Flags&FlagPush == 0:
			return f, nil
		case f.Flags&FlagError != 0:
			return f, f.Decode()
		}
	}
}

// Stalled gives a deadline that passed on a connection its kind, so that it
// counts as a freeze and not as a connection that broke.
func Stalled(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &tnv.Error{Op: "wait for the other side", Kind: tnv.KindTimeout, Err: err}
	}
	return err
}
