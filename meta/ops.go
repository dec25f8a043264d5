package meta

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// operation is an entry of the table: how a request of one type is executed.
type operation func(ctx context.Context, v *Volume, f *protocol.Frame) ([]any, error)

// operations is every operation on a volume that a session may ask for.
var operations = map[protocol.Type]operation{
	protocol.TypeLookup:      query(lookupName),
	protocol.TypeGetAttr:     query(getAttr),
	protocol.TypeReadLink:    query(readLink),
	protocol.TypeGetXattr:    query(getXattr),
	protocol.TypeExtents:     query(extents),
	protocol.TypeResolve:     query(resolve),
	protocol.TypeStatFS:      query(statFS),
	protocol.TypeReadDir:     direct(readDir),
	protocol.TypeListXattr:   direct(listXattr),
	protocol.TypeSyncFS:      direct(syncFS),
	protocol.TypeReleased:    direct(released),
	protocol.TypeSeek:        direct(seek),
	protocol.TypeCreate:      mutation(create),
	protocol.TypeMkdir:       mutation(mkdir),
	protocol.TypeSymlink:     mutation(symlink),
	protocol.TypeLink:        mutation(link),
	protocol.TypeUnlink:      mutation(unlink),
	protocol.TypeRmdir:       mutation(rmdir),
	protocol.TypeRename:      mutation(rename),
	protocol.TypeSetAttr:     mutation(setAttr),
	protocol.TypeSetXattr:    mutation(setXattr),
	protocol.TypeRemoveXattr: mutation(removeXattr),
	protocol.TypeCommit:      commitOperation(mutation(commit)),
	protocol.TypeGrant:       mutation(grantBlocks),
	protocol.TypeGiveBack:    mutation(giveBack),
	protocol.TypeGetLock:     query(getLock),
	protocol.TypeLockWait:    direct(lockWaits),
	protocol.TypeDropWaits:   direct(dropWaits),
	protocol.TypeSetLock:     readOnlyToo(setLock),
	protocol.TypeFallocate:   mutation(fallocate),
	protocol.TypeCopyRange:   mutation(copyRange),
}

// IsOperation tells whether a request of this type is for a volume.
func IsOperation(t protocol.Type) bool { return operations[t] != nil }

// IsQuery tells whether a request of this type only reads a few records, which
// are in memory more often than not.
func IsQuery(t protocol.Type) bool {
	return t >= protocol.TypeLookup && t <= protocol.TypeResolve && t != protocol.TypeReadDir
}

// Do executes a request, whose body begins with a Head, and returns the values
// of the reply's body.
func (v *Volume) Do(ctx context.Context, f *protocol.Frame) ([]any, error) {
	op := operations[f.Type]
	if op == nil {
		return nil, tnv.E("request", tnv.KindProtocol, "type %d is no operation on a volume", f.Type)
	}
	return op(ctx, v, f)
}

// call is what an operation is told besides its request, and what it tells
// besides its answer.
type call struct {
	v           *Volume
	head        protocol.Head
	leased      protocol.Leased
	readOnlyToo bool // a mutation that read-only sessions may ask for
}

// query makes an operation of a function that only reads records.
func query[Rq, Rep any](fn func(tx *Tx, c *call, rq *Rq) (*Rep, error)) operation {
	return func(ctx context.Context, v *Volume, f *protocol.Frame) ([]any, error) {
		c := call{v: v}
		var rq Rq
		if err := f.Decode(&c.head, &rq); err != nil {
			return nil, err
		}
		if _, err := v.live(c.head.Session); err != nil {
			return nil, err
		}
		var rep *Rep
		leased, err := v.readFor(ctx, c.head.Session, func(tx *Tx) (err error) {
			rep, err = fn(tx, &c, &rq)
			return err
		})
		if err != nil {
			return nil, err
		}
		return []any{rep, &leased}, nil
	}
}

// direct makes an operation of a function that drives the store itself.
func direct[Rq, Rep any](fn func(ctx context.Context, c *call, rq *Rq) (*Rep, error)) operation {
	return func(ctx context.Context, v *Volume, f *protocol.Frame) ([]any, error) {
		c := call{v: v}
		var rq Rq
		if err := f.Decode(&c.head, &rq); err != nil {
			return nil, err
		}
		if _, err := v.live(c.head.Session); err != nil {
			return nil, err
		}
		rep, err := fn(ctx, &c, &rq)
		if err != nil {
			return nil, err
		}
		return []any{rep, &c.leased}, nil
	}
}

// mutation makes an operation of a function that changes records. It is
// executed once per slot and sequence number; the answer is kept with its writes.
func mutation[Rq, Rep any](fn func(tx *Tx, c *call, rq *Rq) (*Rep, error)) operation {
	return exactlyOnce(fn, false)
}

// readOnlyToo makes a mutation that changes nothing of the tree.
func readOnlyToo[Rq, Rep any](fn func(tx *Tx, c *call, rq *Rq) (*Rep, error)) operation {
	return exactlyOnce(fn, true)
}

// unfinished is an error of a function which needs something done first that
// is no part of its transaction. Nothing is kept of it: the function runs again.
type unfinished interface {
	error
	finish(ctx context.Context, v *Volume) error
}

func exactlyOnce[Rq, Rep any](fn func(tx *Tx, c *call, rq *Rq) (*Rep, error), readOnly bool) operation {
	return func(ctx context.Context, v *Volume, f *protocol.Frame) ([]any, error) {
		c := call{v: v, readOnlyToo: readOnly}
		var rq Rq
		if err := f.Decode(&c.head, &rq); err != nil {
			return nil, err
		}
		live, err := v.live(c.head.Session)
		if err != nil {
			return nil, err
		}
		if c.head.Slot >= slotCount || c.head.Seq == 0 {
			return nil, tnv.E("request", tnv.KindProtocol, "slot %d, sequence %d", c.head.Slot, c.head.Seq)
		}
		var reply []byte
		for {
			c.leased, err = v.mutateFor(ctx, c.head.Session, func(tx *Tx) (err error) {
				reply, err = once(tx, &c, live, func() (any, error) { return fn(tx, &c, &rq) })
				return err
			})
			if first, ok := err.(unfinished); ok {
				if err := first.finish(ctx, v); err != nil {
					return nil, err
				}
				continue
			}
			break
		}
		if err != nil {
			return nil, err
		}
		return []any{protocol.Raw(reply), &c.leased}, nil
	}
}

// once runs fn unless the slot has executed this request, and keeps its answer.
func once(tx *Tx, c *call, live *liveSession, fn func() (any, error)) ([]byte, error) {
	key := slotKey(c.head.Session, c.head.Slot)
	if err := tx.want(sessionKey(c.head.Session), key); err != nil {
		return nil, err
	}
	rec, err := getAs[session](tx, sessionKey(c.head.Session))
	if err != nil {
		return nil, err
	}
	if rec == nil || rec.Ended {
		return nil, tnv.E("session", tnv.KindSessionEnded, "session %d is over", c.head.Session)
	}
	last, err := getAs[slot](tx, key)
	if err != nil {
		return nil, err
	}
	mem := &live.slots[c.head.Slot]
	switch {
	case mem.seq == c.head.Seq && mem.err != nil:
		tx.seen = max(tx.seen, mem.seen)
		return nil, mem.err
	case last != nil && last.Seq == c.head.Seq:
		return last.Reply, nil
	case mem.seq >= c.head.Seq || last != nil && last.Seq > c.head.Seq:
		return nil, tnv.E("request", tnv.KindProtocol, "slot %d is past sequence %d", c.head.Slot, c.head.Seq)
	}
	var rep any
	if rec.ReadOnly && !c.readOnlyToo {
		err = tnv.E("request", tnv.KindReadOnly, "the session is read-only")
	} else {
		rep, err = fn()
	}
	if tx.missed() {
		return nil, errMiss
	}
	if _, again := err.(unfinished); again {
		return nil, err
	}
	if err != nil {
		mem.seq, mem.err, mem.seen = c.head.Seq, err, tx.seen
		return nil, err
	}
	reply, err := protocol.Marshal(rep)
	if err != nil {
		return nil, err
	}
	tx.set(key, &slot{Seq: c.head.Seq, Reply: reply})
	tx.then(func() { mem.seq, mem.err = c.head.Seq, nil })
	return reply, nil
}

// empty is the reply of operations that answer nothing.
type empty struct {
}

func syncFS(ctx context.Context, c *call, _ *protocol.SyncFS) (*empty, error) {
	return &empty{}, c.v.sync(ctx)
}

func released(ctx context.Context, c *call, rq *protocol.Released) (*empty, error) {
	return &empty{}, c.v.Released(ctx, c.head.Session, rq.Inos)
}
