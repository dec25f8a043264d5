// Package postgres is the engine of clusters with several trackers: volumes in a
// PostgreSQL database (13 or later), by github.com/lib/pq.
//
// It promises what package kv does, for any number of processes at once. What
// Apply acknowledged is as safe as a commit of the database is: synchronous_commit
// is never off in these sessions, so it survives the end of any process, the
// server's included; beyond that PostgreSQL's own replication decides.
//
// How:
//   - A group of batches is one call of one function (schema.go, apply_1), which
//     is one transaction and one round trip. It locks the volume's row first, and
//     goes on only if the row names the caller's epoch as the owner and the batch
//     before the group as the last one. Acquire and Release write that same row.
//     So of an old epoch nothing can commit behind a new one's beginning, however
//     late it comes.
//   - A commit is never cancelled. Where the connection breaks, or the server says
//     nothing for IOTimeout, the outcome is open; the same call is made again, on
//     another connection, until there is an answer. Each call of Apply has a random
//     token, stored with the sequence number: an answer that says "the last batch of
//     your group is stored, with your token" is success. That holds whether the
//     first attempt was executed before the second, behind it, or never, and
//     whoever repeats it (database/sql does, on its own).
//   - Renewals write another row than Apply does, and go through a pool of their
//     own: a large commit delays no lease.
//   - Keys are bytea: PostgreSQL compares them byte by byte, whatever the collation.
//   - Servers that restart, fail over, refuse for a while or end sessions are asked
//     again until Patience is over. With several hosts in the address (host1,host2)
//     the one that takes writes is looked for at each connection.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv/kv"
)

// Options of an engine. The zero value works.
type Options struct {
	Schema    string        // of the database; made if it is not there. "": tnv
	Cluster   string        // whose data this is: that of another cluster is refused. "": not checked
	Conns     int           // connections at most; two more are for leases. 0: 16
	Patience  time.Duration // how long a call is tried again while the server is away. 0: 1 minute
	IOTimeout time.Duration // silence of the server after which a connection is given up. 0: 10 s
	Log       logrus.FieldLogger
}

const (
	defaultSchema    = "tnv"
	defaultConns     = 16
	leaseConns       = 2
	defaultPatience  = time.Minute
	defaultIOTimeout = 10 * time.Second
	connectTimeout   = 3 * time.Second
	maxConnIdle      = 5 * time.Minute
)

func (o Options) withDefaults() Options {
	if o.Schema == "" {
		o.Schema = defaultSchema
	}
	if o.Conns == 0 {
		o.Conns = defaultConns
	}
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	if o.IOTimeout == 0 {
		o.IOTimeout = defaultIOTimeout
	}
	if o.Log == nil {
		l := logrus.New()
		l.SetOutput(io.Discard)
		o.Log = l
	}
	return o
}

// Engine is a database. Make it with Open.
//
// Lock order: mu alone.
type Engine struct {
	opt    Options
	data   *pool // records and commits
	leases *pool // leases and trackers

	ending context.Context // ends when Close is called: nothing is tried again
	end    context.CancelFunc

	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup // grows only while closed is false, under mu
}

var _ kv.Shared = (*Engine)(nil)

// Open connects to the database at dsn (a URL or words, as libpq takes them), and
// makes or renews the schema there. While the server is away it waits, for as long
// as ctx and Patience allow. KindVersion: a newer program made the schema;
// KindWrongCluster: it is another cluster's.
func Open(ctx context.Context, dsn string, opt Options) (*Engine, error) {
	opt = opt.withDefaults()
	e := &Engine{opt: opt}
	e.ending, e.end = context.WithCancel(context.Background())
	var err error
	if e.data, err = newPool(dsn, opt, opt.Conns); err != nil {
		return nil, err
	}
	if e.leases, err = newPool(dsn, opt, leaseConns); err != nil {
		return nil, errors.Join(err, e.data.close())
	}
	if err := e.try(ctx, "open database", e.migrate); err != nil {
		return nil, errors.Join(err, e.data.close(), e.leases.close())
	}
	e.warn(ctx)
	return e, nil
}

// warn tells of settings of the server with which it does not keep what it acknowledges.
func (e *Engine) warn(ctx context.Context) {
	for _, name := range []string{"fsync", "full_page_writes"} {
		var v string
		if err := e.data.db.QueryRowContext(ctx, "SELECT current_setting($1)", name).Scan(&v); err == nil && v != "on" {
			e.opt.Log.WithField(name, v).Warn("this setting of the PostgreSQL server does not survive a power failure")
		}
	}
}

// enter begins a call; the function returned ends it.
func (e *Engine) enter(ctx context.Context) (func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, kv.ErrClosed
	}
	e.calls.Add(1)
	return e.calls.Done, nil
}

// Sync implements kv.Engine: what was committed is on the server's disk already.
func (e *Engine) Sync(ctx context.Context) error {
	leave, err := e.enter(ctx)
	if err == nil {
		leave()
	}
	return err
}

// Exclusive implements kv.Engine.
func (e *Engine) Exclusive() bool { return false }

// Name implements kv.Engine.
func (e *Engine) Name() string { return "postgres" }

// Close implements kv.Engine. Calls that wait for a server that is away end.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return kv.ErrClosed
	}
	e.closed = true
	e.mu.Unlock()
	e.end()
	e.calls.Wait()
	return errors.Join(e.data.close(), e.leases.close())
}

// scanRows calls fn for each row of a result.
func scanRows(r *sql.Rows, fn func() error) error {
	for r.Next() {
		if err := fn(); err != nil {
			return errors.Join(err, r.Close())
		}
	}
	return errors.Join(r.Err(), r.Close())
}
