package tnv

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

// Every kind has a name, an errno and a status, and survives wrapping.
func TestKindTable(t *testing.T) {
	for k := KindOther; k < kindCount; k++ {
		i := kinds[k]
		if i.name == "" || i.errno == 0 || i.http == 0 {
			t.Errorf("kind %d is not in the table", k)
		}
		err := fmt.Errorf("outer: %w", Wrap("op", E("inner", k, "x %d", 1)))
		if got := KindOf(err); got != k {
			t.Errorf("KindOf(%v) = %v, want %v", err, got, k)
		}
		if !errors.Is(err, k) {
			t.Errorf("errors.Is(%v, %v) is false", err, k)
		}
		if Errno(err) != i.errno || HTTPStatus(err) != i.http || Retryable(err) != i.retry {
			t.Errorf("kind %v: table not followed", k)
		}
	}
	if Kind(60000).String() != KindOther.String() {
		t.Error("an unknown kind must read as KindOther")
	}
}

func TestKindOfForeign(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Kind
	}{
		{syscall.ENOSPC, KindNoSpace},
		{&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, KindNotExist},
		{fs.ErrExist, KindExist},
		{syscall.EIO, KindOther},
		{errors.New("other"), KindOther},
	} {
		if got := KindOf(c.err); got != c.want {
			t.Errorf("KindOf(%v) = %v, want %v", c.err, got, c.want)
		}
	}
	if !errors.Is(E("open", KindNotExist, ""), fs.ErrNotExist) {
		t.Error("KindNotExist must be fs.ErrNotExist")
	}
}
