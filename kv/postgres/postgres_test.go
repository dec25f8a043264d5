package postgres_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/kvtest"
	"github.com/tnvfs/tnv/kv/pgtest"
	"github.com/tnvfs/tnv/kv/postgres"
)

var ctx = context.Background()

var schemas atomic.Int64

// quick are options for tests, in a schema of their own.
func quick() postgres.Options {
	return postgres.Options{Schema: fmt.Sprintf("s%d", schemas.Add(1)), Patience: 30 * time.Second}
}

func open(t testing.TB, dsn string, opt postgres.Options) *postgres.Engine {
	t.Helper()
	e, err := postgres.Open(ctx, dsn, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	s := pgtest.Start(t)
	dsn := s.NewDatabase()
	kvtest.Run(t, func(t testing.TB) *kvtest.Store {
		opt := quick()
		e := open(t, dsn, opt)
		last := e
		next := func(t testing.TB) kv.Engine {
			last = open(t, dsn, opt)
			return last
		}
		return &kvtest.Store{
			Engine: e,
			Reopen: next,
			// The server dies with it, in the middle of whatever it does.
			Kill: func(t testing.TB) kv.Engine {
				s.Kill()
				last.Close()
				s.Run()
				return next(t)
			},
		}
	})
}

// A server whose cluster was made with the collation of a language, and which is
// told to commit without waiting for its disk: order and promises stay.
func TestHostileSettings(t *testing.T) {
	s := pgtest.Start(t, "synchronous_commit = off", "default_transaction_isolation = serializable", "bytea_output = escape", "standard_conforming_strings = on")
	dsn := s.NewDatabase()
	opt := quick()
	e := open(t, dsn, opt)
	h := newWriter(t, e, 1)
	for range 50 {
		must(t, h.write())
	}
	s.Kill() // what was only promised would be lost
	s.Run()
	h.check(t)
}

func BenchmarkEngine(b *testing.B) {
	s := pgtest.Start(b)
	dsn := s.NewDatabase()
	kvtest.Bench(b, func(t testing.TB) *kvtest.Store { return &kvtest.Store{Engine: open(t, dsn, quick())} })
}
