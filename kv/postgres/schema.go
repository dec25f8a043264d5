package postgres

import (
	"context"
	"database/sql"
	"errors"
	"hash/fnv"

	"github.com/lib/pq"

	"github.com/tnvfs/tnv"
)

// The schema. Every row of record is a key of a volume. What the owner of a volume
// is and which batch was applied last stands in volume, one row each; a row is
// locked by whoever changes its volume, so that changes of one follow each other.
//
// lease has what contenders watch. Its epoch and that of volume are equal: both
// are written by the same transactions, which lock lease first.
//
// Numbers that are unsigned in Go are stored as the bigint of the same 64 bits.
const tables1 = `
CREATE TABLE record (
	vol   bigint NOT NULL,
	key   bytea  NOT NULL,
	value bytea  NOT NULL,
	PRIMARY KEY (vol, key)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.1);

CREATE TABLE volume (
	vol   bigint  PRIMARY KEY,
	epoch bigint  NOT NULL DEFAULT 0,
	owned boolean NOT NULL DEFAULT false,
	seq   bigint  NOT NULL DEFAULT 0, -- the last batch applied
	token bigint  NOT NULL DEFAULT 0  -- of the call that applied it
) WITH (fillfactor = 50);

CREATE TABLE lease (
	vol      bigint  PRIMARY KEY,
	epoch    bigint  NOT NULL DEFAULT 0,
	holder   text    NOT NULL DEFAULT '',
	renewals bigint  NOT NULL DEFAULT 0,
	ttl      bigint  NOT NULL DEFAULT 0, -- nanoseconds
	released boolean NOT NULL DEFAULT false,
	token    bigint  NOT NULL DEFAULT 0  -- of the call that acquired or released it
) WITH (fillfactor = 50);

CREATE SEQUENCE tracker_id;

CREATE TABLE tracker (
	id       bigint  PRIMARY KEY,
	addr     text    NOT NULL,
	beats    bigint  NOT NULL DEFAULT 0,
	draining boolean NOT NULL DEFAULT false,
	seen     timestamptz NOT NULL DEFAULT now() -- for removing old rows only
) WITH (fillfactor = 50);
`

// apply_1 applies a group of batches. status: 0 applied, 1 fenced, 2 the group does
// not follow the last batch, which stored names. A null p_next applies nothing.
const apply1 = `
CREATE FUNCTION apply_1(p_vol bigint, p_epoch bigint, p_prev bigint, p_next bigint, p_token bigint,
	p_keys bytea[], p_values bytea[], p_deleted bytea[], OUT status int, OUT stored bigint)
LANGUAGE plpgsql AS $$
DECLARE r volume%ROWTYPE;
BEGIN
	SELECT * INTO r FROM volume v WHERE v.vol = p_vol FOR UPDATE;
	stored := r.seq;
	IF NOT FOUND OR NOT r.owned OR r.epoch <> p_epoch THEN
		status := 1;
		RETURN;
	END IF;
	IF p_next IS NULL OR (r.seq = p_next AND r.token = p_token AND p_next <> p_prev) THEN
		status := 0; -- nothing to do, or this very call was executed before
		RETURN;
	END IF;
	IF r.seq <> p_prev THEN
		status := 2;
		RETURN;
	END IF;
	IF cardinality(p_deleted) > 0 THEN
		DELETE FROM record d WHERE d.vol = p_vol AND d.key = ANY (p_deleted);
	END IF;
	IF cardinality(p_keys) > 0 THEN
		INSERT INTO record (vol, key, value)
			SELECT p_vol, u.key, u.value FROM unnest(p_keys, p_values) AS u (key, value)
			ON CONFLICT (vol, key) DO UPDATE SET value = EXCLUDED.value;
	END IF;
	UPDATE volume v SET seq = p_next, token = p_token WHERE v.vol = p_vol;
	status := 0;
	stored := p_next;
END $$;
`

// acquire_1 and release_1 change the owner. moved: the lease is not what was seen,
// or not the caller's.
const leases1 = `
CREATE FUNCTION acquire_1(p_vol bigint, p_epoch bigint, p_renewals bigint, p_holder text, p_ttl bigint, p_token bigint, OUT moved boolean)
LANGUAGE plpgsql AS $$
DECLARE r lease%ROWTYPE;
BEGIN
	INSERT INTO lease (vol) VALUES (p_vol) ON CONFLICT DO NOTHING;
	INSERT INTO volume (vol) VALUES (p_vol) ON CONFLICT DO NOTHING;
	SELECT * INTO r FROM lease l WHERE l.vol = p_vol FOR UPDATE;
	moved := r.epoch <> p_epoch OR r.renewals <> p_renewals;
	IF moved THEN
		moved := NOT (r.epoch = p_epoch + 1 AND r.token = p_token); -- this very call was executed before
		RETURN;
	END IF;
	UPDATE volume v SET epoch = p_epoch + 1, owned = true WHERE v.vol = p_vol;
	UPDATE lease l SET epoch = p_epoch + 1, holder = p_holder, renewals = 0, ttl = p_ttl, released = false, token = p_token WHERE l.vol = p_vol;
END $$;

CREATE FUNCTION release_1(p_vol bigint, p_epoch bigint, p_token bigint, OUT moved boolean)
LANGUAGE plpgsql AS $$
DECLARE r lease%ROWTYPE;
BEGIN
	SELECT * INTO r FROM lease l WHERE l.vol = p_vol FOR UPDATE;
	moved := NOT FOUND OR r.epoch <> p_epoch OR r.released;
	IF moved THEN
		moved := NOT (FOUND AND r.epoch = p_epoch AND r.token = p_token);
		RETURN;
	END IF;
	UPDATE volume v SET owned = false WHERE v.vol = p_vol;
	UPDATE lease l SET released = true, token = p_token WHERE l.vol = p_vol;
END $$;

CREATE FUNCTION renew_1(p_vols bigint[], p_epochs bigint[]) RETURNS SETOF lease
LANGUAGE sql AS $$
	UPDATE lease l SET renewals = l.renewals + 1
		FROM unnest(p_vols, p_epochs) AS u (vol, epoch)
		WHERE l.vol = u.vol AND l.epoch = u.epoch AND l.epoch <> 0 AND NOT l.released
		RETURNING l.*
$$;

CREATE FUNCTION beat_1(p_id bigint, p_addr text, p_draining boolean, p_vols bigint[], p_epochs bigint[]) RETURNS SETOF lease
LANGUAGE sql AS $$
	INSERT INTO tracker AS t (id, addr, draining) VALUES (p_id, p_addr, p_draining)
		ON CONFLICT (id) DO UPDATE SET beats = t.beats + 1, addr = EXCLUDED.addr, draining = EXCLUDED.draining, seen = now();
	SELECT * FROM renew_1(p_vols, p_epochs)
$$;
`

// migrations lead from version n of the schema to n+1. One that was released is
// never changed. Functions carry a number: programs of two versions may be at
// work at once.
var migrations = []string{tables1 + apply1 + leases1}

// migrate makes the schema, or brings it to the version of this program. Of
// several programs that start one does it, the others wait.
func (e *Engine) migrate(ctx context.Context) error {
	tx, err := e.data.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	exec := func(query string, args ...any) {
		if err == nil {
			_, err = tx.ExecContext(ctx, query, args...)
		}
	}
	exec("SELECT pg_advisory_xact_lock($1)", lockNumber(e.opt.Schema))
	var there bool
	if err == nil {
		err = tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", e.opt.Schema).Scan(&there)
	}
	if err == nil && !there {
		exec("CREATE SCHEMA " + pq.QuoteIdentifier(e.opt.Schema))
	}
	exec("CREATE TABLE IF NOT EXISTS format (version int NOT NULL, cluster text NOT NULL)")
	if err != nil {
		return err
	}
	if err := e.bringUp(ctx, tx); err != nil {
		return err
	}
	return tx.Commit()
}

// bringUp runs the migrations that are due, and ties the schema to its cluster.
func (e *Engine) bringUp(ctx context.Context, tx *sql.Tx) error {
	var version int
	var cluster string
	err := tx.QueryRowContext(ctx, "SELECT version, cluster FROM format").Scan(&version, &cluster)
	if errors.Is(err, sql.ErrNoRows) {
		_, err = tx.ExecContext(ctx, "INSERT INTO format VALUES (0, '')")
	}
	if err != nil {
		return err
	}
	switch {
	case version > len(migrations):
		return tnv.E("open database", tnv.KindVersion, "its schema has version %d, this program knows up to %d", version, len(migrations))
	case cluster != "" && e.opt.Cluster != "" && cluster != e.opt.Cluster:
		return tnv.E("open database", tnv.KindWrongCluster, "schema %s belongs to cluster %.40q, the key to %s: give the key of that cluster, or another database", e.opt.Schema, cluster, e.opt.Cluster)
	}
	for _, m := range migrations[version:] {
		if _, err := tx.ExecContext(ctx, m); err != nil {
			return err
		}
	}
	if cluster == "" {
		cluster = e.opt.Cluster
	}
	_, err = tx.ExecContext(ctx, "UPDATE format SET version = $1, cluster = $2 WHERE (version, cluster) <> ($1, $2)", len(migrations), cluster)
	return err
}

// lockNumber is the advisory lock under which a schema is made.
func lockNumber(schema string) int64 {
	h := fnv.New64a()
	h.Write([]byte("tnv schema " + schema))
	return int64(h.Sum64())
}
