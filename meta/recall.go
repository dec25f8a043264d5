package meta

import (
	"context"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/clock"
	"github.com/tnvfs/tnv/protocol"
)

// How leases and the executor meet. A function that was run tells by what it
// wrote which leases others must not hold. If somebody does, it is abandoned, the
// leases are recalled without any lock, and it runs again (K5).

// Pusher sends a session what it did not ask for: its connection. It may block
// for as long as the connection does.
type Pusher interface {
	Push(t protocol.Type, values ...any) error
}

// leaseKeys are what the function's writes touch.
func (tx *Tx) leaseKeys() (keys []protocol.LeaseKey) {
	add := func(ino uint64, class protocol.LeaseClass) {
		key := protocol.LeaseKey{Ino: tnv.Ino(ino), Class: class}
		for _, k := range keys {
			if k == key {
				return
			}
		}
		keys = append(keys, key)
	}
	for _, key := range tx.order {
		switch key[0] {
		case keyInode, keyXattr, keyChunk:
			add(split1(key), protocol.LeaseAttr)
		case keyDentry:
			add(split1(key), protocol.LeaseNames)
		}
	}
	return keys
}

// lease asks for a lease on what the function has read or written, for the
// session that it runs for.
func (tx *Tx) lease(ino tnv.Ino, class protocol.LeaseClass) {
	if tx.session != 0 {
		tx.wanted = append(tx.wanted, protocol.LeaseKey{Ino: ino, Class: class})
	}
}

// look notes that the function looks at the names in a directory.
func (tx *Tx) look(dir tnv.Ino) {
	if tx.session != 0 && !slices.Contains(tx.looked, dir) {
		tx.looked = append(tx.looked, dir)
	}
}

// overlooked gives the leases that keep the function from telling what it saw: what
// it saw of a mutation by the session that has the names alone, whose answer is
// still on its way, others must not know before that session's kernel does.
func (tx *Tx) overlooked() []protocol.LeaseKey {
	if tx.s.owner == nil || len(tx.looked) == 0 {
		return nil
	}
	return tx.s.owner.leases.looked(tx.session, tx.looked, clock.Boot())
}

// tell has the session told of attributes that the function changes.
func (tx *Tx) tell(a tnv.Attr) {
	if tx.session == 0 {
		return
	}
	l := &tx.leased
	if i := slices.IndexFunc(l.Attrs, func(b tnv.Attr) bool { return b.Ino == a.Ino }); i >= 0 {
		l.Attrs[i] = a
		return
	}
	l.Attrs = append(l.Attrs, a)
	tx.lease(a.Ino, protocol.LeaseAttr)
}

// conflict gives the leases that keep the function's writes from being
// published; the store's lock is held.
func (tx *Tx) conflict() []protocol.LeaseKey {
	if tx.s.owner == nil {
		return nil
	}
	return tx.s.owner.leases.conflicts(tx.session, tx.leaseKeys(), clock.Boot())
}

// settleLeases grants what the function asked for, of the state that it has seen
// or made: the store's lock is held, for reading at least.
func (tx *Tx) settleLeases(seq tnv.BatchSeq) {
	if tx.s.owner == nil {
		return
	}
	tx.dropRecalls()
	tx.leased = protocol.Leased{Seq: seq, Attrs: tx.leased.Attrs}
	if len(tx.wanted) > 0 {
		tx.leased.Keys, tx.leased.Gen = tx.s.owner.leases.grant(tx.session, tx.wanted, clock.Boot())
	}
}

// dropRecalls lets others be granted again what was recalled for the function.
func (tx *Tx) dropRecalls() {
	if len(tx.recalled) > 0 {
		tx.s.owner.leases.done(tx.recalled)
		tx.recalled = nil
	}
}

// graceStep is how often a mutation looks whether it still has to wait for
// sessions that an earlier owner served.
const graceStep = 10 * time.Millisecond

// recall takes leases back for a function that was abandoned, and returns when
// nobody believes in them any more. They are not granted until the function is done.
func (v *Volume) recall(ctx context.Context, tx *Tx, keys []protocol.LeaseKey) error {
	now := clock.Boot()
	send, wait, latest := v.leases.recall(tx.session, keys, now)
	tx.recalled = append(tx.recalled, keys...)
	v.push(send)
	if len(wait) > 0 {
		timer := time.NewTimer(latest - now)
		defer timer.Stop()
	waiting:
		for _, r := range wait {
			select {
			case <-r.done:
			case <-timer.C:
				break waiting
			case <-ctx.Done():
				return tnv.Wrap("recall of leases", ctx.Err())
			}
		}
	}
	for v.leases.inGrace(tx.session, clock.Boot()) {
		select {
		case <-time.After(graceStep):
		case <-ctx.Done():
			return tnv.Wrap("recall of leases", ctx.Err())
		}
	}
	return nil
}

// push sends recalls, each on a goroutine of its own: a session that takes
// nothing delays no other.
func (v *Volume) push(send []outgoing) {
	for i := range send {
		o := &send[i]
		v.smu.Lock()
		var to Pusher
		if s := v.sessions[o.to]; s != nil {
			to = s.to
		}
		v.smu.Unlock()
		v.bg.Add(1)
		go func() {
			defer v.bg.Done()
			defer v.leases.sent(o)
			if to == nil {
				return // it lapses
			}
			if err := to.Push(protocol.TypeRecall, &o.msg); err != nil {
				v.log.WithError(err).WithField("session", uint64(o.to)).Debug("a recall was not sent: the lease lapses")
			}
		}()
	}
}

// Recalled notes that a session has forgotten what a recall named.
func (v *Volume) Recalled(rq *protocol.Recalled) error {
	if _, err := v.live(rq.Session); err != nil {
		return err
	}
	v.leases.answered(rq.Session, rq.ID)
	return nil
}
