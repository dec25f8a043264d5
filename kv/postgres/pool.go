package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/lib/pq"

	"github.com/tnvfs/tnv"
)

// pool is a bounded set of connections, and the statements prepared on them.
type pool struct {
	db *sql.DB

	mu    sync.Mutex
	stmts map[string]*sql.Stmt
}

// settings of each session. Statements are planned once: every one of them is a
// walk along the primary key, whatever the statistics say of a table that was
// filled a second ago.
var settings = map[string]string{
	"default_transaction_isolation": "read committed",
	"enable_seqscan":                "off",
	"enable_bitmapscan":             "off",
	"plan_cache_mode":               "force_generic_plan",
	"jit":                           "off",
	"statement_timeout":             "0",
	"lock_timeout":                  "5s", // a dead process's session may hold a row until the server notices
	"bytea_output":                  "hex",
}

func newPool(dsn string, opt Options, conns int) (*pool, error) {
	cfg, err := pq.NewConfig(dsn)
	if err != nil {
		return nil, &tnv.Error{Op: "database address", Kind: tnv.KindInvalid, Err: err}
	}
	cfg = cfg.Clone()
	for k, v := range settings {
		cfg.Runtime[k] = v
	}
	cfg.Runtime["search_path"] = pq.QuoteIdentifier(opt.Schema)
	if cfg.ApplicationName == "" {
		cfg.FallbackApplicationName = "tnv"
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	if cfg.TargetSessionAttrs == "" || cfg.TargetSessionAttrs == pq.TargetSessionAttrsAny {
		cfg.TargetSessionAttrs = pq.TargetSessionAttrsReadWrite
	}
	c, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, &tnv.Error{Op: "database address", Kind: tnv.KindInvalid, Err: err}
	}
	c.Dialer(&dialer{silence: opt.IOTimeout})
	p := &pool{db: sql.OpenDB(connector{c}), stmts: map[string]*sql.Stmt{}}
	p.db.SetMaxOpenConns(conns)
	p.db.SetMaxIdleConns(conns)
	p.db.SetConnMaxIdleTime(maxConnIdle)
	return p, nil
}

// connector makes sessions in which a commit that was acknowledged is on disk,
// whatever the server was told: where it is told to wait for more (a standby's
// disk, say), that stays.
type connector struct{ *pq.Connector }

const neverOff = `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	cn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := cn.(driver.ExecerContext).ExecContext(ctx, neverOff, nil); err != nil {
		return nil, errors.Join(err, cn.Close())
	}
	return cn, nil
}

// prepared gives a statement that is prepared, once on each connection.
func (p *pool) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	p.mu.Lock()
	st := p.stmts[query]
	p.mu.Unlock()
	if st != nil {
		return st, nil
	}
	st, err := p.db.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if first := p.stmts[query]; first != nil { // somebody was faster
		st.Close()
		return first, nil
	}
	p.stmts[query] = st
	return st, nil
}

func (p *pool) query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	st, err := p.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(ctx, args...)
}

// row reads the one row that a statement gives.
func (p *pool) row(ctx context.Context, into []any, query string, args ...any) error {
	st, err := p.prepared(ctx, query)
	if err != nil {
		return err
	}
	return st.QueryRowContext(ctx, args...).Scan(into...)
}

func (p *pool) close() error { return p.db.Close() }

// dialer makes connections that end when the other side is silent for too long
// while something is expected of it: a frozen server holds nobody forever.
type dialer struct {
	net.Dialer
	silence time.Duration
}

// DialContext implements pq.DialerContext.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, silence: d.silence}, nil
}

// DialTimeout implements pq.Dialer.
func (d *dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// conn has each read and write end in time. lib/pq reads only when it waits for
// an answer.
type conn struct {
	net.Conn
	silence time.Duration

	mu    sync.Mutex
	limit time.Time // set by lib/pq while it connects; zero: none
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = t
	return nil
}

func (c *conn) deadline() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	end := time.Now().Add(c.silence)
	if !c.limit.IsZero() && c.limit.Before(end) {
		return c.limit
	}
	return end
}

func (c *conn) Read(p []byte) (int, error) {
	if err := c.Conn.SetReadDeadline(c.deadline()); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(c.deadline()); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
