package postgres

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/lib/pq"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

const leaseColumns = `l.vol, l.epoch, l.holder, l.renewals, l.ttl, l.released`

// leaseRow reads a row of leaseColumns.
type leaseRow struct {
	vol, epoch, renewals, ttl int64
	holder                    string
	released                  bool
}

func (r *leaseRow) into() []any {
	return []any{&r.vol, &r.epoch, &r.holder, &r.renewals, &r.ttl, &r.released}
}

func (r *leaseRow) lease() kv.Lease {
	return kv.Lease{Vol: tnv.VolumeID(r.vol), Epoch: tnv.Epoch(r.epoch), Holder: r.holder,
		Renewals: uint64(r.renewals), TTL: time.Duration(r.ttl), Released: r.released}
}

// Lease implements kv.Engine.
func (e *Engine) Lease(ctx context.Context, vol tnv.VolumeID) (kv.Lease, error) {
	l := kv.Lease{Vol: vol}
	err := e.patient(ctx, "database", func(ctx context.Context) error {
		var r leaseRow
		err := e.leases.row(ctx, r.into(), `SELECT `+leaseColumns+` FROM lease l WHERE l.vol = $1`, int64(vol))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err == nil {
			l = r.lease()
		}
		return err
	})
	return l, e.callError(ctx, vol, err)
}

// Acquire implements kv.Engine.
func (e *Engine) Acquire(ctx context.Context, seen kv.Lease, holder string, ttl time.Duration) (kv.Lease, error) {
	token := rand.Int64()
	err := e.patient(context.WithoutCancel(ctx), "acquire", func(ctx context.Context) error {
		var moved bool
		err := e.leases.row(ctx, []any{&moved}, `SELECT moved FROM acquire_1($1, $2, $3, $4, $5, $6)`,
			int64(seen.Vol), int64(seen.Epoch), int64(seen.Renewals), holder, int64(ttl), token)
		if err == nil && moved {
			err = kv.ErrLeaseMoved
		}
		return err
	})
	if err != nil {
		return kv.Lease{}, e.callError(ctx, seen.Vol, err)
	}
	return seen.Next(holder, ttl), nil
}

// Raise implements kv.Raiser. A second try finds what the first has done.
func (e *Engine) Raise(ctx context.Context, l kv.Lease, to tnv.Epoch) (kv.Lease, error) {
	to = max(to, l.Epoch)
	var r leaseRow
	err := e.patient(context.WithoutCancel(ctx), "raise", func(ctx context.Context) error {
		err := e.leases.row(ctx, r.into(), `WITH l AS (UPDATE lease u SET epoch = $3 WHERE u.vol = $1 AND NOT u.released
				AND (u.epoch = $2 OR u.epoch = $3 AND u.holder = $4) RETURNING u.*),
			v AS (UPDATE volume w SET epoch = l.epoch FROM l WHERE w.vol = l.vol)
			SELECT `+leaseColumns+` FROM l`,
			int64(l.Vol), int64(l.Epoch), int64(to), l.Holder)
		if errors.Is(err, sql.ErrNoRows) {
			err = kv.ErrFenced
		}
		return err
	})
	if err != nil {
		return kv.Lease{}, e.callError(ctx, l.Vol, err)
	}
	return r.lease(), nil
}

// Renew implements kv.Engine.
func (e *Engine) Renew(ctx context.Context, l kv.Lease) (kv.Lease, error) {
	got, err := e.renew(ctx, []kv.Lease{l}, `SELECT `+leaseColumns+` FROM renew_1($1, $2) l`)
	if err == nil && len(got) == 0 {
		err = kv.ErrFenced
	}
	if err != nil {
		return kv.Lease{}, e.callError(ctx, l.Vol, err)
	}
	return got[0], nil
}

// renew runs a query that renews leases and gives those that are still ours; the
// first arguments are the volumes and their epochs.
func (e *Engine) renew(ctx context.Context, leases []kv.Lease, query string, args ...any) (got []kv.Lease, err error) {
	vols, epochs := make(pq.Int64Array, len(leases)), make(pq.Int64Array, len(leases))
	for i, l := range leases {
		vols[i], epochs[i] = int64(l.Vol), int64(l.Epoch)
	}
	err = e.patient(ctx, "renew", func(ctx context.Context) error {
		got = nil
		return e.each(ctx, query, append([]any{vols, epochs}, args...), func(l kv.Lease) { got = append(got, l) })
	})
	return got, err
}

// each calls fn for the leases that a query gives.
func (e *Engine) each(ctx context.Context, query string, args []any, fn func(kv.Lease)) error {
	rows, err := e.leases.query(ctx, query, args...)
	if err != nil {
		return err
	}
	return scanRows(rows, func() error {
		var r leaseRow
		if err := rows.Scan(r.into()...); err != nil {
			return err
		}
		fn(r.lease())
		return nil
	})
}

// Release implements kv.Engine.
func (e *Engine) Release(ctx context.Context, l kv.Lease) error {
	token := rand.Int64()
	err := e.patient(context.WithoutCancel(ctx), "release", func(ctx context.Context) error {
		var moved bool
		err := e.leases.row(ctx, []any{&moved}, `SELECT moved FROM release_1($1, $2, $3)`, int64(l.Vol), int64(l.Epoch), token)
		if err == nil && moved {
			err = kv.ErrFenced
		}
		return err
	})
	return e.callError(ctx, l.Vol, err)
}

// Join implements kv.Shared. Rows that nobody has touched for an hour go.
func (e *Engine) Join(ctx context.Context, addr string) (kv.Tracker, error) {
	t := kv.Tracker{Addr: addr}
	err := e.patient(ctx, "join", func(ctx context.Context) error {
		var id int64
		err := e.leases.row(ctx, []any{&id}, `WITH old AS (DELETE FROM tracker WHERE seen < now() - interval '1 hour')
			INSERT INTO tracker (id, addr) VALUES (nextval('tracker_id'), $1) RETURNING id`, addr)
		t.ID = uint64(id)
		return err
	})
	return t, err
}

// Beat implements kv.Shared.
func (e *Engine) Beat(ctx context.Context, me kv.Tracker, leases []kv.Lease) ([]kv.Lease, error) {
	return e.renew(ctx, leases, `SELECT `+leaseColumns+` FROM beat_1($3, $4, $5, $1, $2) l`, int64(me.ID), me.Addr, me.Draining)
}

// Leave implements kv.Shared.
func (e *Engine) Leave(ctx context.Context, id uint64) error {
	return e.patient(ctx, "leave", func(ctx context.Context) error {
		rows, err := e.leases.query(ctx, `DELETE FROM tracker WHERE id = $1 RETURNING id`, int64(id))
		if err != nil {
			return err
		}
		return scanRows(rows, func() error { return nil })
	})
}

// Trackers implements kv.Shared.
func (e *Engine) Trackers(ctx context.Context) (all []kv.Tracker, err error) {
	err = e.patient(ctx, "trackers", func(ctx context.Context) error {
		all = nil
		rows, err := e.leases.query(ctx, `SELECT t.id, t.addr, t.beats, t.draining FROM tracker t ORDER BY t.id`)
		if err != nil {
			return err
		}
		return scanRows(rows, func() error {
			var t kv.Tracker
			if err := rows.Scan(&t.ID, &t.Addr, &t.Beats, &t.Draining); err != nil {
				return err
			}
			all = append(all, t)
			return nil
		})
	})
	return all, err
}

// Leases implements kv.Shared.
func (e *Engine) Leases(ctx context.Context) (all []kv.Lease, err error) {
	err = e.patient(ctx, "leases", func(ctx context.Context) error {
		all = nil
		return e.each(ctx, `SELECT `+leaseColumns+` FROM lease l WHERE l.epoch <> 0`, nil, func(l kv.Lease) { all = append(all, l) })
	})
	return all, err
}
