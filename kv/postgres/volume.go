package postgres

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/lib/pq"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
)

const getQuery = `SELECT r.key, r.value FROM record r WHERE r.vol = $1 AND r.key = ANY ($2)`

// Get implements kv.Engine: one statement sees one moment.
func (e *Engine) Get(ctx context.Context, vol tnv.VolumeID, keys ...[]byte) ([][]byte, error) {
	if err := kv.CheckKeys(keys...); err != nil {
		return nil, err
	}
	out := make([][]byte, len(keys))
	err := e.patient(ctx, "database", func(ctx context.Context) error {
		if len(keys) == 0 {
			return nil
		}
		rows, err := e.data.query(ctx, getQuery, int64(vol), pq.ByteaArray(keys))
		if err != nil {
			return err
		}
		found := make(map[string][]byte, len(keys))
		err = scanRows(rows, func() error {
			var key, value []byte
			if err := rows.Scan(&key, &value); err != nil {
				return err
			}
			found[string(key)] = notNil(value)
			return nil
		})
		given := make(map[string]bool, len(found))
		for i, k := range keys {
			v := found[string(k)]
			if given[string(k)] { // asked for twice: each has its own
				v = append([]byte{}, v...)
			}
			out[i], given[string(k)] = v, v != nil
		}
		return err
	})
	return out, e.callError(ctx, vol, err)
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

const (
	scanQuery     = `SELECT r.key, r.value FROM record r WHERE r.vol = $1 AND r.key >= $2 AND r.key < $3 ORDER BY r.key LIMIT $4`
	scanTailQuery = `SELECT r.key, r.value FROM record r WHERE r.vol = $1 AND r.key >= $2 ORDER BY r.key LIMIT $3`
)

// Scan implements kv.Engine: one statement sees one moment. One that breaks before
// fn was called is begun again; one that breaks later fails.
func (e *Engine) Scan(ctx context.Context, vol tnv.VolumeID, from, to []byte, limit int, fn func(key, value []byte) bool) error {
	if to != nil && bytes.Compare(from, to) >= 0 {
		leave, err := e.enter(ctx)
		if err == nil {
			leave()
		}
		return err
	}
	called := false
	err := e.patient(ctx, "database", func(ctx context.Context) error {
		err := e.scanOnce(ctx, vol, from, to, limit, func(k, v []byte) bool {
			called = true
			return fn(k, v)
		})
		if err != nil && called && passing(err) {
			return tnv.E("scan", tnv.KindUnavailable, "the connection broke in the middle: %v", err)
		}
		return err
	})
	return e.callError(ctx, vol, err)
}

// scanOnce runs the query. All of a page is read before the first call of fn, up
// to scanAhead bytes: so that few scans break in the middle, and no connection is
// kept while fn works.
func (e *Engine) scanOnce(ctx context.Context, vol tnv.VolumeID, from, to []byte, limit int, fn func(key, value []byte) bool) error {
	most := sql.NullInt64{Int64: int64(limit), Valid: limit > 0}
	from = notNil(from)
	var rows *sql.Rows
	var err error
	if to == nil {
		rows, err = e.data.query(ctx, scanTailQuery, int64(vol), from, most)
	} else {
		rows, err = e.data.query(ctx, scanQuery, int64(vol), from, to, most)
	}
	if err != nil {
		return err
	}
	var page []kv.Write
	size, more := 0, true
	hand := func() bool {
		for _, w := range page {
			if more = fn(w.Key, w.Value); !more {
				break
			}
		}
		page, size = page[:0], 0
		return more
	}
	for more && rows.Next() {
		var w kv.Write
		if err := rows.Scan(&w.Key, &w.Value); err != nil {
			return errors.Join(err, rows.Close())
		}
		w.Value = notNil(w.Value)
		page = append(page, w)
		if size += len(w.Key) + len(w.Value); size > scanAhead {
			hand()
		}
	}
	if err := rows.Err(); err != nil && more {
		return errors.Join(err, rows.Close())
	}
	err = rows.Close()
	if more && err == nil {
		hand()
	}
	if !more {
		return nil
	}
	return err
}

const scanAhead = 4 << 20

const (
	applied = iota
	fenced
	notNext
)

const applyQuery = `SELECT status, stored FROM apply_1($1, $2, $3, $4, $5, $6, $7, $8)`

// Apply implements kv.Engine.
func (e *Engine) Apply(ctx context.Context, fence kv.Fence, batches []kv.Batch) error {
	g, err := newGroup(batches)
	if err != nil {
		return e.refuse(ctx, fence, batches, err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	attempts := 0
	// A commit is never cancelled.
	err = e.patient(context.WithoutCancel(ctx), "commit", func(ctx context.Context) error {
		attempts++
		var status int
		var stored sql.NullInt64
		err := e.data.row(ctx, []any{&status, &stored}, applyQuery, int64(fence.Vol), int64(fence.Epoch),
			g.prev, g.next, g.token, g.keys, g.values, g.deleted)
		switch {
		case err != nil:
			return err
		case status == fenced && attempts > 1 && len(batches) > 0 && uint64(stored.Int64) >= uint64(batches[0].Seq):
			return tnv.E("commit", tnv.KindFenced, "the volume has another owner; an attempt whose answer was lost may have been in time")
		case status == fenced:
			return kv.ErrFenced
		case status == notNext:
			return &kv.SeqError{Stored: tnv.BatchSeq(stored.Int64), Got: batches[0].Seq}
		}
		return nil
	})
	return e.callError(ctx, fence.Vol, err)
}

// group is batches in the form in which they are sent.
type group struct {
	prev, token           int64
	next                  sql.NullInt64
	keys, values, deleted pq.ByteaArray
}

// newGroup makes a group of batches that follow each other; else, or if one keeps
// no limit, it fails.
func newGroup(batches []kv.Batch) (*group, error) {
	g := &group{token: rand.Int64(), keys: pq.ByteaArray{}, values: pq.ByteaArray{}, deleted: pq.ByteaArray{}}
	if len(batches) == 0 {
		return g, nil
	}
	prev := batches[0].Seq - 1
	if err := kv.CheckBatches(prev, batches); err != nil {
		return nil, err
	}
	g.prev, g.next = int64(prev), sql.NullInt64{Int64: int64(batches[len(batches)-1].Seq), Valid: true}
	last := map[string]*kv.Write{}
	for i := range batches {
		for j := range batches[i].Writes {
			w := &batches[i].Writes[j]
			last[string(w.Key)] = w
		}
	}
	for i := range batches {
		for j := range batches[i].Writes {
			w := &batches[i].Writes[j]
			switch {
			case last[string(w.Key)] != w: // a later write counts
			case w.Value == nil:
				g.deleted = append(g.deleted, w.Key)
			default:
				g.keys, g.values = append(g.keys, w.Key), append(g.values, w.Value)
			}
		}
	}
	return g, nil
}

// refuse says what is wrong with batches that are never sent: first that the
// caller is not the owner, as for others.
func (e *Engine) refuse(ctx context.Context, fence kv.Fence, batches []kv.Batch, why error) error {
	if err := e.Apply(ctx, fence, nil); err != nil {
		return err
	}
	seq, err := e.Seq(ctx, fence.Vol)
	if err != nil {
		return err
	}
	if err := kv.CheckBatches(seq, batches); err != nil {
		return err
	}
	return why
}

const seqQuery = `SELECT COALESCE((SELECT v.seq FROM volume v WHERE v.vol = $1), 0)`

// Seq implements kv.Engine.
func (e *Engine) Seq(ctx context.Context, vol tnv.VolumeID) (tnv.BatchSeq, error) {
	var seq int64
	err := e.patient(ctx, "database", func(ctx context.Context) error {
		return e.data.row(ctx, []any{&seq}, seqQuery, int64(vol))
	})
	return tnv.BatchSeq(seq), e.callError(ctx, vol, err)
}

// callError names the volume in an error, unless it is one that callers look for.
func (e *Engine) callError(ctx context.Context, vol tnv.VolumeID, err error) error {
	var se *kv.SeqError
	switch {
	case err == nil, ctx.Err() != nil && errors.Is(err, ctx.Err()), errors.As(err, &se):
		return err
	case errors.Is(err, kv.ErrFenced), errors.Is(err, kv.ErrLeaseMoved), errors.Is(err, kv.ErrClosed):
		return err
	}
	return tnv.Wrap(fmt.Sprintf("database, volume %d", vol), err)
}
