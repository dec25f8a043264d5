package meta

import (
	"context"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

const (
	granted = protocol.LockGranted
	refused = protocol.LockRefused
	queued  = protocol.LockQueued

	none      = protocol.LockNone
	shared    = protocol.LockShared
	exclusive = protocol.LockExclusive
)

// locker is a session that locks.
type locker struct {
	h    *harness
	id   tnv.SessionID
	seq  uint64
	hang context.CancelFunc // ends its connection
}

func (h *harness) locker(rq protocol.OpenSession) *locker {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h.t.Cleanup(cancel)
	info, err := h.v.OpenSession(ctx, &rq, nil)
	h.must(err)
	return &locker{h: h, id: info.Session, hang: cancel}
}

// ask sends a request in the next number of slot 0.
func (l *locker) ask(t protocol.Type, rep, rq any) error {
	if t >= protocol.TypeCreate {
		l.seq++
	}
	return l.send(l.seq, t, rep, rq)
}

func (l *locker) send(seq uint64, t protocol.Type, rep, rq any) error {
	l.h.session, l.id = l.id, l.h.session
	defer func() { l.h.session, l.id = l.id, l.h.session }()
	return l.h.send(0, seq, t, rep, rq)
}

func (l *locker) set(ino tnv.Ino, k protocol.Lock, wait uint64) (protocol.LockState, error) {
	var rep protocol.SetLockReply
	err := l.ask(protocol.TypeSetLock, &rep, &protocol.SetLock{Ino: ino, Lock: k, Wait: wait})
	return rep.State, err
}

// want is set, with the outcome that it must have.
func (l *locker) want(ino tnv.Ino, k protocol.Lock, wait uint64, state protocol.LockState) {
	l.h.t.Helper()
	got, err := l.set(ino, k, wait)
	if err != nil || got != state {
		l.h.t.Fatalf("session %d, %+v: %d, %v, want %d", l.id, k, got, err, state)
	}
}

// due asks which of the waits are due, without waiting.
func (l *locker) due(waits ...uint64) []uint64 {
	l.h.t.Helper()
	var rep protocol.LockWaitReply
	l.h.must(l.ask(protocol.TypeLockWait, &rep, &protocol.LockWait{Waits: waits}))
	slices.Sort(rep.Due)
	return rep.Due
}

func (l *locker) wantDue(want ...uint64) {
	l.h.t.Helper()
	if got := l.due(); !slices.Equal(got, want) {
		l.h.t.Fatalf("session %d: due are %v, want %v", l.id, got, want)
	}
}

func flock(owner uint64, m protocol.LockMode) protocol.Lock {
	return protocol.Lock{Kind: protocol.LockFlock, Mode: m, Owner: owner}
}

func posix(owner uint64, m protocol.LockMode, start, end uint64) protocol.Lock {
	return protocol.Lock{Kind: protocol.LockPosix, Mode: m, Owner: owner, Pid: uint32(owner) + 1000, Start: start, End: end}
}

func lockHarness(t *testing.T) (h *harness, ino tnv.Ino) {
	h = start(t, mem.New(mem.Options{}), Config{})
	return h, h.create(tnv.RootIno, "f")
}

func TestLocksExclude(t *testing.T) {
	h, f := lockHarness(t)
	a, b := h.locker(protocol.OpenSession{}), h.locker(protocol.OpenSession{ReadOnly: true})
	a.want(f, flock(1, exclusive), 0, granted)
	a.want(f, flock(1, exclusive), 0, granted) // it has it
	b.want(f, flock(1, shared), 0, refused)    // an owner is one in its session alone
	a.want(f, flock(2, shared), 0, refused)
	b.want(f, posix(1, exclusive, 0, protocol.LockEOF), 0, granted) // the other kind
	a.want(f, flock(1, none), 0, granted)
	b.want(f, flock(1, shared), 0, granted)
	a.want(f, flock(2, shared), 0, granted)
	b.want(f, protocol.Lock{Kind: protocol.LockPosix, Owner: 1, Start: 10, End: 19}, 0, granted)
	a.want(f, posix(7, exclusive, 10, 19), 0, granted)
	a.want(f, posix(7, shared, 9, 19), 0, refused)
	b.want(f, posix(1, shared, 0, 9), 0, granted)
	a.want(f, posix(7, shared, 9, 19), 0, granted)
	b.want(f, posix(1, exclusive, 0, 9), 0, refused)
	a.want(f, protocol.Lock{Kind: protocol.LockPosix, Owner: 7, Start: 14, End: 14}, 0, granted) // the kernel names no process
	a.want(f, posix(7, shared, 14, 14), 0, granted)
	a.want(f, protocol.Lock{Kind: protocol.LockPosix, Owner: 7, Start: 19, End: 19}, 0, granted)

	var rep protocol.GetLockReply
	h.must(b.ask(protocol.TypeGetLock, &rep, &protocol.GetLock{Ino: f, Lock: posix(1, exclusive, 0, 30)}))
	if want := posix(7, shared, 9, 18); rep.Lock != want || rep.Session != a.id {
		t.Errorf("in the way: %+v, want %+v of session %d", rep, want, a.id)
	}
	h.must(b.ask(protocol.TypeGetLock, &rep, &protocol.GetLock{Ino: f, Lock: posix(1, shared, 0, 30)}))
	if rep.Lock.Mode != none {
		t.Errorf("in the way of a shared lock: %+v", rep)
	}
	for _, bad := range []protocol.Lock{{Kind: 3, Mode: shared}, {Kind: protocol.LockPosix, Mode: 3}, posix(1, shared, 5, 4), posix(1, shared, 0, protocol.LockEOF+1)} {
		_, err := a.set(f, bad, 0)
		kindIs(t, err, tnv.KindInvalid)
	}
	_, err := a.set(f+100, flock(1, shared), 0)
	kindIs(t, err, tnv.KindStale)
}

// The lock is handed on in the order of arrival; nobody comes in between.
func TestLockQueue(t *testing.T) {
	h, f := lockHarness(t)
	var l []*locker
	for range 5 {
		l = append(l, h.locker(protocol.OpenSession{}))
	}
	l[0].want(f, flock(1, exclusive), 0, granted)
	for i := 1; i < 4; i++ {
		l[i].want(f, flock(1, exclusive), uint64(10+i), queued)
		l[i].wantDue()
	}
	for i := range 3 {
		l[i].want(f, flock(1, none), 0, granted)
		next := uint64(11 + i)
		l[4].want(f, flock(1, exclusive), 0, refused) // the one whose turn it is has it as good as
		l[4].want(f, flock(1, shared), 50, queued)
		l[i+1].wantDue(next)
		l[i+1].want(f, flock(1, exclusive), next, granted)
		l[i+1].wantDue()
	}
	l[3].want(f, flock(1, none), 0, granted)
	l[4].wantDue(50)
	l[4].want(f, flock(1, shared), 50, granted)
	// Who reads does not wait for those who wait.
	l[0].want(f, flock(1, exclusive), 60, queued)
	l[1].want(f, flock(1, shared), 0, granted)
	l[4].want(f, flock(1, none), 0, granted)
	l[0].wantDue()
	l[1].want(f, flock(1, none), 0, granted)
	l[0].wantDue(60)
}

// LockWait is answered when the turn has come, not later.
func TestLockWaitIsPushed(t *testing.T) {
	h, f := lockHarness(t)
	a, b := h.locker(protocol.OpenSession{}), h.locker(protocol.OpenSession{})
	a.want(f, flock(1, exclusive), 0, granted)
	b.want(f, flock(1, exclusive), 5, queued)
	got := make(chan []uint64)
	go func() {
		head := protocol.Head{Vol: testVol, Session: b.id}
		fr, _ := protocol.NewFrame(protocol.TypeLockWait, &head, &protocol.LockWait{Waits: []uint64{5}, Ms: 60000})
		v, err := h.v.Do(context.Background(), fr)
		if err != nil {
			t.Error(err)
			close(got)
			return
		}
		got <- v[0].(*protocol.LockWaitReply).Due
	}()
	select {
	case <-got:
		t.Fatal("answered although nothing is due")
	case <-time.After(100 * time.Millisecond):
	}
	start := time.Now()
	a.want(f, flock(1, none), 0, granted)
	if due := <-got; !slices.Equal(due, []uint64{5}) || time.Since(start) > time.Second {
		t.Fatalf("%v after %v", due, time.Since(start))
	}
	// What is being claimed is not told again, but what is claimed in vain is.
	var rep protocol.LockWaitReply
	h.must(b.ask(protocol.TypeLockWait, &rep, &protocol.LockWait{Claiming: []uint64{5}}))
	if len(rep.Due) != 0 {
		t.Errorf("told again: %v", rep.Due)
	}
	b.want(f, flock(1, exclusive), 5, granted)
	b.want(f, flock(1, none), 0, granted)
	a.want(f, flock(1, exclusive), 0, granted)
	head := protocol.Head{Vol: testVol, Session: b.id}
	fr, _ := protocol.NewFrame(protocol.TypeLockWait, &head, &protocol.LockWait{Claiming: []uint64{6}, Ms: 60000})
	done := make(chan struct{})
	time.AfterFunc(50*time.Millisecond, func() {
		defer close(done)
		b.want(f, flock(1, exclusive), 6, queued) // on its way when LockWait comes
		a.want(f, flock(1, none), 0, granted)
	})
	start = time.Now()
	v, err := h.v.Do(context.Background(), fr)
	<-done
	h.must(err)
	if due := v[0].(*protocol.LockWaitReply).Due; !slices.Equal(due, []uint64{6}) || time.Since(start) > time.Second {
		t.Fatalf("%v after %v", due, time.Since(start))
	}
}

// Two that share a flock and both want all of it do not wait for each other:
// what is converted is given up first.
func TestFlockConversion(t *testing.T) {
	h, f := lockHarness(t)
	a, b := h.locker(protocol.OpenSession{}), h.locker(protocol.OpenSession{})
	a.want(f, flock(1, shared), 0, granted)
	b.want(f, flock(1, shared), 0, granted)
	a.want(f, flock(1, exclusive), 1, queued)
	b.want(f, flock(1, exclusive), 0, granted) // a has nothing any more
	a.wantDue()
	b.want(f, flock(1, shared), 0, granted) // down: nobody excludes it
	a.wantDue()
	c := h.locker(protocol.OpenSession{})
	c.want(f, flock(1, shared), 0, granted)
	b.want(f, flock(1, exclusive), 0, refused) // and lost
	c.want(f, flock(1, none), 0, granted)
	a.wantDue(1)
	a.want(f, flock(1, exclusive), 1, granted)
}

// A fcntl lock that cannot be had leaves what was there.
func TestPosixKeepsWhatItHas(t *testing.T) {
	h, f := lockHarness(t)
	a, b := h.locker(protocol.OpenSession{}), h.locker(protocol.OpenSession{})
	a.want(f, posix(1, shared, 0, 9), 0, granted)
	b.want(f, posix(1, shared, 5, 5), 0, granted)
	a.want(f, posix(1, exclusive, 0, 9), 0, refused)
	b.want(f, posix(2, exclusive, 0, 0), 0, refused)
	a.want(f, posix(1, exclusive, 0, 9), 3, queued)
	b.want(f, posix(2, exclusive, 0, 0), 0, refused)
	b.want(f, posix(1, none, 0, 9), 0, granted)
	a.wantDue(3)
}

func TestDeadlock(t *testing.T) {
	h, f := lockHarness(t)
	g := h.create(tnv.RootIno, "g")
	a, b := h.locker(protocol.OpenSession{}), h.locker(protocol.OpenSession{})
	a.want(f, posix(1, exclusive, 0, 0), 0, granted)
	a.want(f, posix(2, exclusive, 1, 1), 0, granted)
	b.want(g, posix(1, exclusive, 2, 2), 0, granted)
	a.want(f, posix(1, exclusive, 1, 1), 1, queued) // 1 waits for 2
	a.want(g, posix(2, shared, 0, 9), 2, queued)    // 2 waits for b
	_, err := b.set(f, posix(1, shared, 0, 0), 1)   // b would wait for 1
	kindIs(t, err, tnv.KindDeadlock)
	b.want(f, posix(1, shared, 0, 0), 0, refused)
	if got := b.due(1); !slices.Equal(got, []uint64{1}) {
		t.Errorf("the request that would wait for ever is queued: %v", got)
	}
	h.must(a.ask(protocol.TypeDropWaits, nil, &protocol.DropWaits{Waits: []uint64{2}}))
	b.want(f, posix(1, shared, 0, 0), 1, queued)
	// flock has no such thing, and its owners are no processes.
	a.want(f, flock(1, exclusive), 0, granted)
	b.want(g, flock(1, exclusive), 0, granted)
	a.want(g, flock(1, exclusive), 9, queued)
	b.want(f, flock(1, exclusive), 9, queued)
}

// Who gives up makes way for the next, and so does who is silent when its turn comes.
func TestLockWaitsGivenUp(t *testing.T) {
	h, f := lockHarness(t)
	a, b, c := h.locker(protocol.OpenSession{}), h.locker(protocol.OpenSession{}), h.locker(protocol.OpenSession{})
	a.want(f, flock(1, exclusive), 0, granted)
	b.want(f, flock(1, exclusive), 1, queued)
	c.want(f, flock(1, exclusive), 1, queued)
	a.want(f, flock(1, exclusive), 1, granted)
	drop := &protocol.DropWaits{Waits: []uint64{1, 77}}
	a.want(f, flock(1, none), 0, granted)
	b.wantDue(1)
	h.must(b.ask(protocol.TypeDropWaits, nil, drop))
	c.wantDue(1)
	b.want(f, flock(1, exclusive), 2, queued)
	h.must(h.v.Expire(context.Background(), time.Now()))
	c.wantDue(1)
	h.must(h.v.Expire(context.Background(), time.Now().Add(claimTime+time.Second)))
	b.wantDue(2)
	if got := c.due(1); !slices.Equal(got, []uint64{1}) { // it learns that it is not queued
		t.Errorf("c: %v", got)
	}
	c.want(f, flock(1, exclusive), 1, queued)
}

// A repeated request gets its first answer and does nothing.
func TestLocksExactlyOnce(t *testing.T) {
	h, f := lockHarness(t)
	a, b := h.locker(protocol.OpenSession{}), h.locker(protocol.OpenSession{})
	again := func(l *locker, k protocol.Lock, wait uint64, want protocol.LockState) {
		t.Helper()
		var rep protocol.SetLockReply
		h.must(l.send(l.seq, protocol.TypeSetLock, &rep, &protocol.SetLock{Ino: f, Lock: k, Wait: wait}))
		if rep.State != want {
			t.Errorf("repeated: %d, want %d", rep.State, want)
		}
	}
	a.want(f, flock(1, exclusive), 0, granted)
	b.want(f, flock(1, exclusive), 4, queued)
	h.must(b.ask(protocol.TypeDropWaits, nil, &protocol.DropWaits{Waits: []uint64{4}}))
	again(b, flock(1, exclusive), 4, queued)
	if got := b.due(4); !slices.Equal(got, []uint64{4}) {
		t.Error("the repetition was queued again")
	}
	a.want(f, flock(1, none), 0, granted)
	b.want(f, flock(1, exclusive), 0, granted)
	again(a, flock(1, none), 0, granted)
	a.want(f, flock(1, exclusive), 0, refused)
	b.want(f, flock(1, none), 0, granted)
	again(a, flock(1, exclusive), 0, refused)
	h.reopen()
	again(a, flock(1, exclusive), 0, refused)
	b.want(f, flock(1, exclusive), 0, granted)
}

// The next owner has the locks before it answers anything; waits are asked for again.
func TestLocksSurviveRestart(t *testing.T) {
	h, f := lockHarness(t)
	a, b := h.locker(protocol.OpenSession{}), h.locker(protocol.OpenSession{})
	a.want(f, posix(1, exclusive, 3, 7), 0, granted)
	a.want(f, flock(1, exclusive), 0, granted)
	b.want(f, flock(1, exclusive), 8, queued)
	stray := lockKey(f, lockOwner{4711, 1, protocol.LockFlock}) // as if the session's end had been lost
	h.must(h.v.mutate(context.Background(), func(tx *Tx) error {
		tx.set(stray, &held{Ranges: []lockRange{{0, protocol.LockEOF, shared}}})
		return nil
	}))
	h.reopen()
	b.want(f, posix(1, shared, 7, 7), 0, refused)
	b.want(f, flock(1, shared), 0, refused)
	if got := b.due(8); !slices.Equal(got, []uint64{8}) {
		t.Fatalf("the wait that is not queued any more: %v", got)
	}
	b.want(f, flock(1, exclusive), 8, queued)
	a.want(f, flock(1, none), 0, granted)
	b.wantDue(8)
	b.want(f, flock(1, exclusive), 8, granted)
	h.reopen()
	a.want(f, flock(1, shared), 0, refused)
}

func TestSessionEndFreesLocks(t *testing.T) {
	h, f := lockHarness(t)
	a, b := h.locker(protocol.OpenSession{Identity: "mount"}), h.locker(protocol.OpenSession{})
	for i := range uint64(1200) { // more than one step
		a.want(f, posix(i, exclusive, i, i), 0, granted)
	}
	b.want(f, posix(1, exclusive, 0, protocol.LockEOF), 1, queued)
	a.want(f, flock(1, exclusive), 0, granted)
	a.want(f, flock(2, exclusive), 5, queued)
	h.locker(protocol.OpenSession{Identity: "mount"}) // it was restarted
	b.wantDue(1)
	b.want(f, posix(1, exclusive, 0, protocol.LockEOF), 1, granted)
	b.want(f, flock(1, exclusive), 0, granted)
	_, err := a.set(f, flock(1, shared), 0)
	kindIs(t, err, tnv.KindSessionEnded)
	h.must(h.v.EndSession(context.Background(), b.id))
	h.noLocks()
}

// noLocks: nothing of any lock is left, in memory or stored.
func (h *harness) noLocks() {
	h.t.Helper()
	if l := &h.v.locks; len(l.inodes)+len(l.sessions)+len(l.waiting)+l.ranges != 0 {
		h.t.Errorf("left over: %+v", l)
	}
	h.must(h.v.each(context.Background(), keyLock, func(key string, _ any) error {
		h.t.Errorf("record %q is left", key)
		return nil
	}))
}

// quiet makes a session's last contact so long ago.
func (l *locker) quiet(d time.Duration) {
	l.h.v.smu.Lock()
	defer l.h.v.smu.Unlock()
	l.h.v.sessions[l.id].seen = time.Now().Add(-d)
}

// A silent session keeps its locks until somebody wants them; one that is
// connected is given more time; one that comes back in time keeps them.
func TestSilentSessionLosesLocks(t *testing.T) {
	h, f := lockHarness(t)
	ctx := context.Background()
	a, b := h.locker(protocol.OpenSession{}), h.locker(protocol.OpenSession{})
	a.want(f, flock(1, exclusive), 0, granted)
	a.quiet(silentAfter + time.Second)
	b.want(f, flock(1, exclusive), 0, refused) // a has its connection
	a.hang()
	h.eventually("the connection's end is noted", func() bool {
		h.v.smu.Lock()
		defer h.v.smu.Unlock()
		return h.v.sessions[a.id].conns == 0
	})
	a.quiet(silentAfter - time.Second)
	b.want(f, flock(1, exclusive), 0, refused)
	a.quiet(silentAfter + time.Second)
	h.must(h.v.Expire(ctx, time.Now())) // nobody waits
	if _, err := h.v.live(a.id); err != nil {
		t.Fatal("ended although nobody wants what it has")
	}
	a.quiet(silentAfter + time.Second)
	h.v.smu.Lock()
	h.v.expired = time.Now().Add(-maxPause - time.Second) // the tracker was stopped
	h.v.smu.Unlock()
	b.want(f, flock(1, exclusive), 0, refused)
	h.must(h.v.Expire(ctx, time.Now()))
	b.want(f, flock(1, exclusive), 0, refused)
	a.quiet(silentAfter + time.Second)
	b.want(f, flock(1, exclusive), 0, granted)
	_, err := a.set(f, flock(1, none), 0)
	kindIs(t, err, tnv.KindSessionEnded)

	b.quiet(frozenAfter + time.Second) // connected, and frozen
	c := h.locker(protocol.OpenSession{})
	c.want(f, flock(1, exclusive), 0, granted)
	h.reopen()
	d := h.locker(protocol.OpenSession{})
	d.want(f, flock(1, exclusive), 1, queued)
	c.quiet(silentAfter + time.Second) // not seen since the restart
	h.must(h.v.Expire(ctx, time.Now()))
	d.wantDue(1)
}

// What locks cost is bounded, and so is what a record holds.
func TestLockLimits(t *testing.T) {
	h, f := lockHarness(t)
	a := h.locker(protocol.OpenSession{})
	a.want(f, posix(1, shared, 0, 0), 0, granted)
	h.must(h.v.mutate(context.Background(), func(tx *Tx) error { // as many requests would
		full := &held{}
		for i := range uint64(maxOwnerRanges) {
			full.Ranges = append(full.Ranges, lockRange{2 * i, 2 * i, shared})
		}
		h.v.hold(tx, f, lockOwner{a.id, 1, protocol.LockPosix}, full)
		return nil
	}))
	_, err := a.set(f, posix(1, shared, 1<<40, 1<<40), 0)
	kindIs(t, err, tnv.KindNoLock)
	a.want(f, posix(1, shared, 1, 1), 0, granted) // it joins two
	a.want(f, posix(2, shared, 1<<40, 1<<40), 0, granted)
	b := h.locker(protocol.OpenSession{})
	for i := range uint64(maxSessionWaits) {
		b.want(f, posix(i, exclusive, 0, 0), i+1, queued)
	}
	_, err = b.set(f, posix(1<<20, exclusive, 0, 0), 1<<20)
	kindIs(t, err, tnv.KindNoLock)
	_, err = do[protocol.LockWaitReply](h, protocol.TypeLockWait, &protocol.LockWait{Waits: make([]uint64, protocol.MaxBatch+1)})
	kindIs(t, err, tnv.KindInvalid)
	_, err = do[struct{}](h, protocol.TypeDropWaits, &protocol.DropWaits{Waits: make([]uint64, protocol.MaxBatch+1)})
	kindIs(t, err, tnv.KindInvalid)
	start := time.Now()
	h.must(h.v.EndSession(context.Background(), b.id))
	h.must(h.v.EndSession(context.Background(), a.id))
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %v to end them", d)
	}
	h.noLocks()
}

// Random requests of some sessions, with restarts and ends between them: the
// invariants of locks.go hold at every step, and a naive model agrees.
func TestLocksModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 3))
	h, f := lockHarness(t)
	var l []*locker
	for range 3 {
		l = append(l, h.locker(protocol.OpenSession{}))
	}
	for i := range 4000 {
		n := rnd.IntN(len(l))
		s := l[n]
		owner := uint64(rnd.IntN(3))
		k := posix(owner, protocol.LockMode(rnd.IntN(3)), uint64(rnd.IntN(6)), 0)
		k.End = k.Start + uint64(rnd.IntN(4))
		if rnd.IntN(3) == 0 {
			k = flock(owner, k.Mode)
		}
		switch x := rnd.IntN(100); {
		case x == 0:
			h.reopen()
		case x == 1:
			h.must(h.v.EndSession(context.Background(), s.id))
			l[n] = h.locker(protocol.OpenSession{})
		case x < 10:
			h.must(s.ask(protocol.TypeDropWaits, nil, &protocol.DropWaits{Waits: []uint64{uint64(rnd.IntN(5) + 1)}}))
		case x < 40:
			s.claim(f)
		default:
			if _, err := s.set(f, k, uint64(rnd.IntN(2)*(i+1))); err != nil {
				kindIs(t, err, tnv.KindDeadlock)
			}
		}
		h.checkLocks(f)
	}
	for _, s := range l {
		h.must(h.v.EndSession(context.Background(), s.id))
	}
	h.noLocks()
}

// claim sends again what is due: it is granted, always.
func (l *locker) claim(ino tnv.Ino) {
	l.h.t.Helper()
	for _, id := range l.due() {
		w := l.h.v.locks.sessions[l.id].waits[id]
		if w == nil {
			continue // the one before it was by the same owner
		}
		l.want(ino, protocol.Lock{Kind: w.who.kind, Mode: w.r.mode, Owner: w.who.owner, Start: w.r.start, End: w.r.end}, id, granted)
	}
}

func (h *harness) checkLocks(ino tnv.Ino) {
	h.t.Helper()
	stored := map[lockOwner]*held{}
	h.must(h.v.each(context.Background(), keyLock, func(key string, val any) error {
		k, _ := splitLockKey(key)
		stored[k.who] = val.(*held)
		return nil
	}))
	t := &h.v.locks
	l := t.inodes[ino]
	if l == nil {
		l = &inodeLocks{held: map[lockOwner]*held{}}
	}
	if !reflect.DeepEqual(stored, l.held) {
		h.t.Fatalf("stored are %v, in memory %v", stored, l.held)
	}
	type claim struct {
		who lockOwner
		r   lockRange
	}
	var all []claim
	for w, x := range l.held {
		for _, r := range x.Ranges {
			all = append(all, claim{w, r})
		}
	}
	for _, w := range l.due {
		all = append(all, claim{w.who, w.r})
	}
	excl := func(a, b claim) bool {
		return a.who != b.who && a.who.kind == b.who.kind && a.r.start <= b.r.end && b.r.start <= a.r.end &&
			(a.r.mode == exclusive || b.r.mode == exclusive)
	}
	for i, a := range all {
		for _, b := range all[:i] {
			if excl(a, b) {
				h.t.Fatalf("%+v and %+v exclude each other", a, b)
			}
		}
	}
	for _, w := range l.queue {
		if !slices.ContainsFunc(all, func(a claim) bool { return excl(a, claim{w.who, w.r}) }) {
			h.t.Fatalf("%+v waits for nobody: held %v, due %v", w, l.held, l.due)
		}
	}
	if len(t.waiting) > len(l.queue) {
		h.t.Fatalf("%d owners wait, of %d waits", len(t.waiting), len(l.queue))
	}
}
