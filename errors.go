package tnv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"syscall"
)

// Kind says what went wrong, in a number that goes over the wire. Kinds are
// append-only: a number never changes its meaning.
type Kind uint16

const (
	KindOther           Kind = iota // not classified; EIO
	KindNotExist                    // ENOENT
	KindExist                       // EEXIST
	KindPermission                  // EACCES
	KindNotPermitted                // EPERM
	KindNotDir                      // ENOTDIR
	KindIsDir                       // EISDIR
	KindNotEmpty                    // ENOTEMPTY
	KindInvalid                     // EINVAL: an argument that makes no sense
	KindNameTooLong                 // ENAMETOOLONG
	KindTooManyLinks                // EMLINK
	KindTooBig                      // EFBIG
	KindNoSpace                     // ENOSPC
	KindNoData                      // ENODATA: no such extended attribute
	KindRange                       // ERANGE: the buffer is too small
	KindXattrTooBig                 // E2BIG
	KindStale                       // ESTALE: the inode is gone
	KindReadOnly                    // EROFS
	KindLoop                        // ELOOP
	KindNotSupported                // EOPNOTSUPP
	KindInterrupted                 // EINTR
	KindCorrupt                     // EIO: bytes do not match their checksum
	KindUnavailable                 // EIO: whoever should answer does not; a retry may help
	KindTimeout                     // EIO: the deadline passed
	KindBusy                        // EBUSY; from a storage daemon: ask another member
	KindFenced                      // EIO: the owner's epoch is over; ask who owns the volume now
	KindNotOwner                    // EIO: this tracker does not own the volume; a retry elsewhere helps
	KindSessionEnded                // EIO: the session is over; what it held is gone
	KindAuth                        // EACCES: the key does not prove right
	KindVersion                     // EPROTO: the other side speaks another version
	KindWrongCluster                // EINVAL: the other side belongs to another cluster
	KindProtocol                    // EPROTO: a frame or message that makes no sense
	KindConflict                    // EIO: a block id that is taken by other bytes
	KindTooFewHolders               // EIO: too few current members hold a block; put it again
	KindWouldBlock                  // EAGAIN
	KindNoLock                      // ENOLCK
	KindCanceled                    // EINTR: the caller went away
	KindQuota                       // EDQUOT
	KindNotDeviceOrAddr             // ENXIO
	KindMissing                     // EIO: a store does not have the block
	KindDeadlock                    // EDEADLK: waiting for the lock would never end
	kindCount
)

type kindInfo struct {
	name  string
	errno syscall.Errno
	http  int
	retry bool
}

// The one table: kind, errno for the kernel, status for HTTP, whether a retry can help.
var kinds = [kindCount]kindInfo{
	KindOther:           {"error", syscall.EIO, http.StatusInternalServerError, false},
	KindNotExist:        {"no such file or directory", syscall.ENOENT, http.StatusNotFound, false},
	KindExist:           {"file exists", syscall.EEXIST, http.StatusConflict, false},
	KindPermission:      {"permission denied", syscall.EACCES, http.StatusForbidden, false},
	KindNotPermitted:    {"operation not permitted", syscall.EPERM, http.StatusForbidden, false},
	KindNotDir:          {"not a directory", syscall.ENOTDIR, http.StatusNotFound, false},
	KindIsDir:           {"is a directory", syscall.EISDIR, http.StatusConflict, false},
	KindNotEmpty:        {"directory not empty", syscall.ENOTEMPTY, http.StatusConflict, false},
	KindInvalid:         {"invalid argument", syscall.EINVAL, http.StatusBadRequest, false},
	KindNameTooLong:     {"file name too long", syscall.ENAMETOOLONG, http.StatusNotFound, false},
	KindTooManyLinks:    {"too many links", syscall.EMLINK, http.StatusConflict, false},
	KindTooBig:          {"file too large", syscall.EFBIG, http.StatusRequestEntityTooLarge, false},
	KindNoSpace:         {"no space left", syscall.ENOSPC, http.StatusInsufficientStorage, false},
	KindNoData:          {"no such attribute", syscall.ENODATA, http.StatusNotFound, false},
	KindRange:           {"result too large", syscall.ERANGE, http.StatusBadRequest, false},
	KindXattrTooBig:     {"attribute too large", syscall.E2BIG, http.StatusRequestEntityTooLarge, false},
	KindStale:           {"file is gone", syscall.ESTALE, http.StatusNotFound, false},
	KindReadOnly:        {"read-only", syscall.EROFS, http.StatusForbidden, false},
	KindLoop:            {"too many symbolic links", syscall.ELOOP, http.StatusNotFound, false},
	KindNotSupported:    {"not supported", syscall.EOPNOTSUPP, http.StatusNotImplemented, false},
	KindInterrupted:     {"interrupted", syscall.EINTR, http.StatusServiceUnavailable, false},
	KindCorrupt:         {"corrupt", syscall.EIO, http.StatusInternalServerError, false},
	KindUnavailable:     {"unavailable", syscall.EIO, http.StatusServiceUnavailable, true},
	KindTimeout:         {"deadline passed", syscall.EIO, http.StatusServiceUnavailable, true},
	KindBusy:            {"busy", syscall.EBUSY, http.StatusServiceUnavailable, true},
	KindFenced:          {"fenced", syscall.EIO, http.StatusServiceUnavailable, true},
	KindNotOwner:        {"not the owner", syscall.EIO, http.StatusServiceUnavailable, true},
	KindSessionEnded:    {"session ended", syscall.EIO, http.StatusServiceUnavailable, false},
	KindAuth:            {"wrong key", syscall.EACCES, http.StatusServiceUnavailable, false},
	KindVersion:         {"unsupported protocol version", syscall.EPROTO, http.StatusServiceUnavailable, false},
	KindWrongCluster:    {"another cluster", syscall.EINVAL, http.StatusServiceUnavailable, false},
	KindProtocol:        {"protocol error", syscall.EPROTO, http.StatusBadGateway, false},
	KindConflict:        {"block id conflict", syscall.EIO, http.StatusInternalServerError, false},
	KindTooFewHolders:   {"too few holders", syscall.EIO, http.StatusServiceUnavailable, true},
	KindWouldBlock:      {"would block", syscall.EAGAIN, http.StatusConflict, false},
	KindNoLock:          {"no locks available", syscall.ENOLCK, http.StatusServiceUnavailable, false},
	KindCanceled:        {"canceled", syscall.EINTR, 499, false},
	KindQuota:           {"quota exceeded", syscall.EDQUOT, http.StatusInsufficientStorage, false},
	KindNotDeviceOrAddr: {"no such device or address", syscall.ENXIO, http.StatusNotFound, false},
	KindMissing:         {"block missing", syscall.EIO, http.StatusInternalServerError, false},
	KindDeadlock:        {"deadlock", syscall.EDEADLK, http.StatusConflict, false},
}

func (k Kind) info() kindInfo {
	if k >= kindCount {
		return kinds[KindOther]
	}
	return kinds[k]
}

func (k Kind) String() string { return k.info().name }

// Error makes a Kind usable as a target of errors.Is: errors.Is(err, tnv.KindNotExist).
func (k Kind) Error() string { return k.info().name }

// Is ties kinds to the sentinels of io/fs, so that errors.Is(err, fs.ErrNotExist) holds.
func (k Kind) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return k == KindNotExist || k == KindStale
	case fs.ErrExist:
		return k == KindExist || k == KindNotEmpty
	case fs.ErrPermission:
		return k == KindPermission || k == KindNotPermitted
	case fs.ErrInvalid:
		return k == KindInvalid
	}
	return false
}

// Error is an operation that failed: what was tried, the kind, and what is
// known beyond it. It unwraps to its Kind and to its cause.
type Error struct {
	Op   string // what was tried: "rename", "put block 1/77 to 127.0.0.1:4000"
	Kind Kind
	Msg  string // what a person needs to know beyond the kind; may be empty
	Err  error  // cause on this machine; may be nil
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Op != "" {
		b.WriteString(": ")
	}
	b.WriteString(e.Kind.String())
	if e.Msg != "" {
		b.WriteString(": " + e.Msg)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap gives the kind, then the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// E makes an Error with a message. The message is formatted as by fmt.Sprintf.
func E(op string, kind Kind, format string, args ...any) error {
	return &Error{Op: op, Kind: kind, Msg: fmt.Sprintf(format, args...)}
}

// Wrap gives an error an operation, and keeps its kind. Nil stays nil.
func Wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Kind: KindOf(err), Err: err}
}

// KindOf classifies any error: the kind of the first Error in its chain, or of
// the errno, io/fs sentinel or context error in it, or KindOther.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	var k Kind
	if errors.As(err, &k) {
		return k
	}
	switch {
	case errors.Is(err, context.Canceled):
		return KindCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return KindTimeout
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		if no == syscall.EIO { // several kinds share it
			return KindOther
		}
		for k := range kinds {
			if kinds[k].errno == no {
				return Kind(k)
			}
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return KindNotExist
	case errors.Is(err, fs.ErrExist):
		return KindExist
	case errors.Is(err, fs.ErrPermission):
		return KindPermission
	}
	return KindOther
}

// Errno is what the kernel is told. Nil gives 0.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	return KindOf(err).info().errno
}

// HTTPStatus is what a browser is told. Nil gives 200.
func HTTPStatus(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return KindOf(err).info().http
}

// Retryable tells whether the same operation may succeed if it is tried again.
func Retryable(err error) bool { return err != nil && KindOf(err).info().retry }
