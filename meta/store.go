package meta

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/tidwall/btree"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/protocol"
)

// store runs functions over the records of one volume: mutations one after
// another, reads beside each other, both on memory alone.
//
// The executor is a lock, not a goroutine: a mutation runs on its caller's
// goroutine with mu held, so it costs no hand-over. What it holds mu for is
// memory work of microseconds; a record that is not in memory ends the function,
// is fetched without mu, and the function runs again.
//
// Invariants:
//   - A key's entry in the cache is the newest published state of its record.
//     An entry whose batch is not applied is never evicted, nor is one that is
//     pinned by a function under way, nor one that is being fetched.
//   - Batches are published and queued under mu in one step: the queue is in
//     the order of their numbers.
//   - pending has the stored keys that the batches not yet applied write.
//   - No answer leaves before all batches that it has seen are applied.
//
// Lock order: mu alone; no I/O under it.
type store struct {
	engine kv.Engine
	vol    tnv.VolumeID
	log    *logrus.Entry
	budget int64   // bytes of the cache
	owner  *Volume // whose records these are; nil: the cluster's own

	mu      sync.RWMutex
	cache   map[string]*entry
	ring    []*entry // of the cache, for the clock hand
	hand    int
	size    int64 // bytes of the cache, as estimated
	pending btree.Map[string, pendingWrite]
	fetches map[string]chan struct{} // keys being fetched; closed when they are in
	base    tnv.BatchSeq             // what the numbers of batches are above the engine's
	seq     tnv.BatchSeq             // last published
	lease   kv.Lease
	failed  error // why the volume was given up
	lastNow int64
	ids     map[string]*idRange
	open    *commitGroup // takes the next batches
	busy    *commitGroup // is being applied
	leading bool         // somebody applies groups

	kick chan struct{}
	stop chan struct{}
	done chan struct{}
	dead chan struct{} // closed when failed is set
}

type pendingWrite struct {
	seq   tnv.BatchSeq
	value []byte // nil: deleted
}

// commitGroup is a group of batches that are applied together.
type commitGroup struct {
	batches []kv.Batch
	last    tnv.BatchSeq
	done    chan struct{}
	err     error // set before done is closed
}

func newGroup() *commitGroup { return &commitGroup{done: make(chan struct{})} }

// errMiss ends a function that needs records which are not in memory.
var errMiss = errors.New("record not in memory")

// maxReruns bounds how often a function runs: a walk along a path or up a tree may
// miss a record at every step.
const maxReruns = 10000

// openStore begins to execute on a volume whose lease is held.
func openStore(ctx context.Context, engine kv.Engine, lease kv.Lease, budget int64, log *logrus.Entry) (*store, error) {
	seq, err := engine.Seq(ctx, lease.Vol)
	if err != nil {
		return nil, err
	}
	base, err := readCounter(ctx, engine, lease.Vol, idSeq)
	if err != nil {
		return nil, err
	}
	s := &store{
		engine: engine, vol: lease.Vol, lease: lease, log: log, budget: budget, base: tnv.BatchSeq(base), seq: seq + tnv.BatchSeq(base),
		cache: map[string]*entry{}, fetches: map[string]chan struct{}{}, ids: map[string]*idRange{},
		open: newGroup(), kick: make(chan struct{}, 1), stop: make(chan struct{}),
		done: make(chan struct{}), dead: make(chan struct{}),
	}
	go s.commitLoop()
	return s, nil
}

// close applies what was published and ends the executor.
func (s *store) close() {
	s.mu.Lock()
	if s.failed == nil {
		s.failed = tnv.E("volume", tnv.KindNotOwner, "the tracker is giving the volume up")
		close(s.dead)
	}
	s.mu.Unlock()
	close(s.stop)
	<-s.done
}

// mutate runs fn until it finds all that it reads in memory, publishes what it
// wrote as one batch and returns when that is applied. fn may run several times;
// its only effects are on tx. An error of fn discards what it wrote.
func (s *store) mutate(ctx context.Context, fn func(*Tx) error) error {
	_, err := s.mutateFor(ctx, 0, fn)
	return err
}

// mutateFor is mutate for a session: leases that others have on what fn writes
// are recalled before it is published. It returns what was leased to the session.
func (s *store) mutateFor(ctx context.Context, session tnv.SessionID, fn func(*Tx) error) (protocol.Leased, error) {
	tx := &Tx{s: s, writing: true, session: session}
	defer tx.unpin()
	defer tx.dropRecalls()
	for range maxReruns {
		seq, fnErr, err := s.mutateOnce(tx, fn)
		if err == nil {
			if tx.wrote() {
				s.lead(seq)
			}
			if err := s.wait(ctx, seq); err != nil {
				return protocol.Leased{}, err
			}
			return tx.leased, fnErr
		}
		if err := s.clear(ctx, tx, err); err != nil {
			return protocol.Leased{}, err
		}
	}
	return protocol.Leased{}, tnv.E("mutation", tnv.KindBusy, "records move too fast")
}

// clear takes out of the way what ended a function, so that it can run again; an
// error that is not in its power it returns.
func (s *store) clear(ctx context.Context, tx *Tx, err error) error {
	var held errLeased
	switch {
	case errors.As(err, &held):
		return s.owner.recall(ctx, tx, held.keys)
	case err == errMiss:
		return s.supply(ctx, tx)
	}
	return err
}

// errLeased ends a function that writes what others have leases on, or looks at
// names that another has alone.
type errLeased struct{ keys []protocol.LeaseKey }

func (errLeased) Error() string { return "leased to others" }

// mutateOnce runs fn once. err is errMiss or errLeased, or why nothing can run;
// else fnErr is fn's own.
func (s *store) mutateOnce(tx *Tx, fn func(*Tx) error) (seq tnv.BatchSeq, fnErr, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return 0, nil, s.failed
	}
	tx.begin(s.seq+1, max(time.Now().UnixNano(), s.lastNow+1))
	if fnErr = fn(tx); fnErr == nil && !tx.missed() {
		fnErr = tx.settleRefs()
	}
	if tx.missed() {
		return 0, nil, errMiss
	}
	if held := tx.overlooked(); len(held) > 0 {
		return 0, nil, errLeased{held}
	}
	if fnErr != nil {
		return tx.seen, fnErr, nil
	}
	if !tx.wrote() {
		tx.runAfter()
		tx.settleLeases(s.seq)
		return tx.seen, nil, nil
	}
	if held := tx.conflict(); len(held) > 0 {
		return 0, nil, errLeased{held}
	}
	s.publishLocked(tx)
	tx.settleLeases(tx.seq)
	return tx.seq, nil, nil
}

// read runs fn beside other reads and returns when all that it saw is applied.
func (s *store) read(ctx context.Context, fn func(*Tx) error) error {
	_, err := s.readFor(ctx, 0, fn)
	return err
}

// readFor is read for a session. It returns what was leased to it.
func (s *store) readFor(ctx context.Context, session tnv.SessionID, fn func(*Tx) error) (protocol.Leased, error) {
	tx := &Tx{s: s, session: session}
	defer tx.unpin()
	defer tx.dropRecalls()
	for range maxReruns {
		fnErr, err := s.readOnce(tx, fn)
		if err == nil {
			if err := s.wait(ctx, tx.seen); err != nil {
				return protocol.Leased{}, err
			}
			return tx.leased, fnErr
		}
		if err := s.clear(ctx, tx, err); err != nil {
			return protocol.Leased{}, err
		}
	}
	return protocol.Leased{}, tnv.E("read", tnv.KindBusy, "records move too fast")
}

func (s *store) readOnce(tx *Tx, fn func(*Tx) error) (fnErr, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.failed != nil {
		return nil, s.failed
	}
	tx.begin(0, time.Now().UnixNano())
	fnErr = fn(tx)
	if tx.missed() {
		return nil, errMiss
	}
	if held := tx.overlooked(); len(held) > 0 {
		return nil, errLeased{held}
	}
	if fnErr == nil {
		tx.settleLeases(s.seq)
	}
	return fnErr, nil
}

// supply gets what tx lacked: ids first, then records.
func (s *store) supply(ctx context.Context, tx *Tx) error {
	for _, name := range tx.lackIDs {
		if err := s.reserve(ctx, name); err != nil {
			return err
		}
	}
	if len(tx.missing) == 0 {
		return nil
	}
	return s.fetch(ctx, tx)
}

// pair is a stored key and its value.
type pair struct {
	key   string
	value []byte
}

// scan reads the stored keys in [from, to) as of one moment, batches that are
// published but not applied included; at most limit of them, at least all if
// fewer. The moment is one at which same() held, under the read lock, before
// and after: same is asked twice and must return equal values. It may be nil.
func (s *store) scan(ctx context.Context, from, to string, limit int, same func() any) ([]pair, tnv.BatchSeq, error) {
	for try := 0; ; try++ {
		var before any
		over, seen, err := s.pendingIn(from, to, func() {
			if same != nil {
				before = same()
			}
		})
		if err != nil {
			return nil, 0, err
		}
		pairs, err := s.scanOver(ctx, from, to, limit, over)
		if err != nil || same == nil {
			return pairs, seen, err
		}
		s.mu.RLock()
		after := same()
		s.mu.RUnlock()
		if before == after {
			return pairs, seen, nil
		}
		if try >= 16 { // too busy: once with everything held still
			s.mu.RLock()
			defer s.mu.RUnlock()
			over, seen := s.pendingInLocked(from, to)
			pairs, err := s.scanOver(ctx, from, to, limit, over)
			return pairs, seen, err
		}
	}
}

func (s *store) pendingIn(from, to string, also func()) (map[string][]byte, tnv.BatchSeq, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.failed != nil {
		return nil, 0, s.failed
	}
	also()
	over, seen := s.pendingInLocked(from, to)
	return over, seen, nil
}

func (s *store) pendingInLocked(from, to string) (map[string][]byte, tnv.BatchSeq) {
	var over map[string][]byte
	var seen tnv.BatchSeq
	s.pending.Ascend(from, func(k string, w pendingWrite) bool {
		if to != "" && k >= to {
			return false
		}
		if over == nil {
			over = map[string][]byte{}
		}
		over[k] = w.value
		seen = max(seen, w.seq)
		return true
	})
	return over, seen
}

// scanOver merges the engine's keys with those that lie over them.
func (s *store) scanOver(ctx context.Context, from, to string, limit int, over map[string][]byte) ([]pair, error) {
	ask := 0
	if limit > 0 {
		ask = limit + len(over)
	}
	var end []byte
	if to != "" {
		end = []byte(to)
	}
	var out []pair
	err := s.engine.Scan(ctx, s.vol, []byte(from), end, ask, func(k, v []byte) bool {
		if _, covered := over[string(k)]; !covered {
			out = append(out, pair{string(k), append([]byte(nil), v...)})
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	return mergePending(out, over, limit), nil
}
