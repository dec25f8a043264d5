package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = 250 * time.Millisecond
)

// try calls fn until it succeeds, fails for good, or Patience is over. fn may be
// called again though it was executed: it finds that out for itself.
func (e *Engine) try(ctx context.Context, op string, fn func(context.Context) error) error {
	end := time.Now().Add(e.opt.Patience)
	backoff := minBackoff
	for logged := false; ; {
		err := fn(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !passing(err):
			return databaseError(op, err)
		case e.ending.Err() != nil:
			return kv.ErrClosed
		case time.Now().After(end):
			return &tnv.Error{Op: op, Kind: tnv.KindUnavailable, Err: err, Msg: "the database does not answer"}
		}
		if !logged && backoff == maxBackoff {
			logged = true
			e.opt.Log.WithError(err).Warn("the database does not answer, trying on")
		}
		select {
		case <-time.After(backoff/2 + rand.N(backoff)):
		case <-ctx.Done():
		case <-e.ending.Done():
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// passingClasses and passingCodes are the answers of a server that will answer
// otherwise later, or that another server will.
var (
	passingClasses = []pqerror.Class{
		"08", // connection exception
		"53", // insufficient resources: connections, memory, disk
		"57", // operator intervention: shutdown, crash, starting up, cancelled
		"58", // system error
	}
	passingCodes = []pqerror.Code{
		"40001", // serialization failure
		"40P01", // deadlock detected
		"55P03", // lock not available
		"25006", // read-only transaction: a standby, or a primary that became one
		"26000", // a prepared statement that the session does not know: it was reset
		"XX000", // internal error: tuple concurrently updated, while two processes make the schema
		"23505", // unique violation: as above
		"42P05", // duplicate prepared statement: as 26000
	}
)

// passing tells whether an error says nothing of what was asked, only that this
// connection or server is of no use now.
func passing(err error) bool {
	if pe := pq.As(err); pe != nil {
		return slices.Contains(passingClasses, pe.Code.Class()) || slices.Contains(passingCodes, pe.Code)
	}
	var no net.Error
	switch {
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return true
	case errors.As(err, &no):
		return true
	case tnv.KindOf(err) != tnv.KindOther, errors.Is(err, kv.ErrFenced), errors.Is(err, kv.ErrLeaseMoved):
		return false
	}
	var se *kv.SeqError
	if errors.As(err, &se) {
		return false
	}
	// lib/pq has errors without a type: no host takes writes at the moment; a
	// connection in a state that it does not expect.
	return true
}

// databaseError makes an error of ours of the database's.
func databaseError(op string, err error) error {
	pe := pq.As(err)
	if pe == nil {
		return err
	}
	kind := tnv.KindOther
	switch {
	case pe.Code.Class() == "28": // invalid authorization
		kind = tnv.KindAuth
	case pe.Code == "42501": // insufficient privilege
		kind = tnv.KindPermission
	case pe.Code == "3D000": // no such database
		kind = tnv.KindNotExist
	case pe.Code == "XX001" || pe.Code == "XX002":
		kind = tnv.KindCorrupt
	}
	return &tnv.Error{Op: op, Kind: kind, Err: err}
}

// patient runs a call on the database: between enter and leave, tried again while
// that may help.
func (e *Engine) patient(ctx context.Context, op string, fn func(context.Context) error) error {
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return e.try(ctx, op, fn)
}
