package meta

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// leaseSim drives the lease table in virtual time with sessions that believe what
// the protocol lets them believe, over connections that delay, break and freeze.
type leaseSim struct {
	t        testing.TB
	rnd      *rand.Rand
	now      time.Duration
	table    *leases
	version  map[protocol.LeaseKey]int
	sessions []*simSession
	muts     []*simMutation
	late     []func() // recalls that are not on their way yet
	history  []string
	stats    map[string]int
	broken   string // what the table's rules are broken by, to see that the test finds it
}

// simSession is a session as package client implements it.
type simSession struct {
	id       tnv.SessionID
	gen      uint32
	until    time.Duration
	held     map[protocol.LeaseKey]int // versions
	tick     int
	recalled map[protocol.LeaseKey]int
	inbox    []func() // from the owner, in order
	frozen   time.Duration
	conn     int  // changes with every connection
	open     bool // it has the answer to OpenSession: only then it asks for anything
}

type simMutation struct {
	by     *simSession
	key    protocol.LeaseKey
	wait   []*recallOf
	latest time.Duration
	begun  bool
	owed   []protocol.LeaseKey // done is due for these
}

const simTTL = 3 * time.Second

func newLeaseSim(t testing.TB, seed uint64) *leaseSim {
	m := &leaseSim{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), now: time.Hour, table: newLeases(simTTL, 0),
		version: map[protocol.LeaseKey]int{}, stats: map[string]int{}}
	for i := range 4 {
		s := &simSession{id: tnv.SessionID(i + 1), held: map[protocol.LeaseKey]int{}, recalled: map[protocol.LeaseKey]int{}}
		m.sessions = append(m.sessions, s)
		m.attach(s, false)
	}
	return m
}

func (m *leaseSim) log(format string, args ...any) {
	m.history = append(m.history, fmt.Sprintf("%7.3f ", (m.now-time.Hour).Seconds())+fmt.Sprintf(format, args...))
	if len(m.history) > 60 {
		m.history = m.history[1:]
	}
}

func (m *leaseSim) key() protocol.LeaseKey {
	return protocol.LeaseKey{Ino: tnv.Ino(1 + m.rnd.IntN(3)), Class: protocol.LeaseAttr}
}

// attach connects a session: it forgets, and says so if its kernel has, too. What
// the kernel has is believed until it lapses.
func (m *leaseSim) attach(s *simSession, dropped bool) {
	s.conn++
	s.inbox, s.open = nil, false
	if dropped {
		clear(s.held)
	}
	s.tick++
	sent := m.now
	gen := m.table.attach(s.id, dropped, m.now)
	m.log("session %d attaches, dropped %v: generation %d", s.id, dropped, gen)
	conn := s.conn
	s.inbox = append(s.inbox, func() {
		if s.conn == conn {
			s.begin(gen, sent+simTTL, dropped)
		}
	})
}

// begin goes over to a generation. held is kept as what the kernel still has: it
// is believed until the time that it was told, which until bounds.
func (s *simSession) begin(gen uint32, until time.Duration, dropped bool) {
	s.tick++
	if !dropped {
		s.held = map[protocol.LeaseKey]int{} // nothing of it was told to be believed beyond the old until
	}
	s.gen, s.until, s.open = gen, until, true
	clear(s.recalled)
}

func (m *leaseSim) believes(s *simSession, key protocol.LeaseKey) bool {
	_, held := s.held[key]
	return held && m.now < s.until
}

func (m *leaseSim) keepAlive(s *simSession) {
	sent := m.now
	m.advance(m.rnd.IntN(300)) // on its way
	gen, renewed := m.table.renew(s.id, m.now)
	if m.broken == "renewal overtakes" {
		renewed = true
	}
	if !renewed {
		return
	}
	conn := s.conn
	s.inbox = append(s.inbox, func() {
		if s.conn != conn {
			return
		}
		if gen != s.gen {
			s.held = map[protocol.LeaseKey]int{}
			s.tick++
			clear(s.recalled)
			s.gen = gen
		}
		s.until = max(s.until, sent+simTTL)
	})
}

func (m *leaseSim) read(s *simSession) {
	key, mark, conn, markGen := m.key(), s.tick, s.conn, s.gen
	granted, gen := m.table.grant(s.id, []protocol.LeaseKey{key}, m.now)
	if len(granted) == 0 {
		m.stats["not granted"]++
		return
	}
	m.stats["granted"]++
	v := m.version[key]
	m.log("session %d is granted %d at version %d", s.id, key.Ino, v)
	s.inbox = append(s.inbox, func() {
		if s.conn == conn && gen == s.gen && markGen == s.gen && s.recalled[key] <= mark {
			s.held[key] = v
		}
	})
}

// mutate begins a mutation, or goes on with one.
func (m *leaseSim) mutate() {
	if by := m.sessions[m.rnd.IntN(len(m.sessions))]; len(m.muts) < 3 && by.open {
		m.muts = append(m.muts, &simMutation{by: by, key: m.key()})
	}
	if len(m.muts) == 0 {
		return
	}
	i := m.rnd.IntN(len(m.muts))
	x := m.muts[i]
	over := m.now >= x.latest || !slices.ContainsFunc(x.wait, func(r *recallOf) bool {
		select {
		case <-r.done:
			return false
		default:
			return true
		}
	})
	if x.begun && (!over || m.table.inGrace(x.by.id, m.now)) {
		return
	}
	hit := m.table.conflicts(x.by.id, []protocol.LeaseKey{x.key}, m.now)
	if len(hit) > 0 && m.broken != "no recall" {
		send, wait, latest := m.table.recall(x.by.id, hit, m.now)
		x.wait, x.latest, x.begun = append(x.wait, wait...), max(x.latest, latest), true
		m.log("session %d recalls %d: %d to wait for, until %.3f", x.by.id, x.key.Ino, len(wait), (latest - time.Hour).Seconds())
		m.stats["recalls"] += len(send)
		m.send(send)
		x.owed = append(x.owed, hit...)
		return
	}
	m.publish(x)
	m.muts = slices.Delete(m.muts, i, i+1)
}

func (m *leaseSim) publish(x *simMutation) {
	for _, s := range m.sessions {
		if s != x.by && m.believes(s, x.key) {
			m.fail("session %d publishes %d, which session %d believes in version %d until %.3f",
				x.by.id, x.key.Ino, s.id, s.held[x.key], (s.until - time.Hour).Seconds())
		}
	}
	m.stats["published"]++
	m.version[x.key]++
	m.log("session %d publishes %d", x.by.id, x.key.Ino)
	delete(x.by.held, x.key) // its own kernel is told before it sends
	x.by.tick++
	x.by.recalled[x.key] = x.by.tick
	m.table.done(x.owed)
}

// send puts recalls on their way; some stay unsent for a while.
func (m *leaseSim) send(out []outgoing) {
	for i := range out {
		o := &out[i]
		s := m.sessions[o.to-1]
		conn := s.conn
		deliver := func() {
			m.table.sent(o)
			if s.conn != conn {
				return
			}
			s.inbox = append(s.inbox, func() {
				if s.conn != conn {
					return
				}
				s.tick++
				for _, k := range o.msg.Keys {
					delete(s.held, k)
					s.recalled[k] = s.tick
				}
				m.log("session %d answers recall %d", s.id, o.msg.ID)
				m.table.answered(s.id, o.msg.ID)
			})
		}
		if m.rnd.IntN(4) == 0 {
			m.late = append(m.late, deliver)
		} else {
			deliver()
		}
	}
}

func (m *leaseSim) advance(ms int) {
	m.now += time.Duration(ms) * time.Millisecond
	m.checkAll()
}

// checkAll: whoever believes something believes the newest version.
func (m *leaseSim) checkAll() {
	for _, s := range m.sessions {
		for k, v := range s.held {
			if m.believes(s, k) && v != m.version[k] {
				m.fail("session %d believes %d in version %d, which has version %d", s.id, k.Ino, v, m.version[k])
			}
		}
	}
}

type simFailure string

func (m *leaseSim) fail(format string, args ...any) {
	panic(simFailure(fmt.Sprintf(format, args...)))
}

func (m *leaseSim) step() {
	s := m.sessions[m.rnd.IntN(len(m.sessions))]
	switch n := m.rnd.IntN(100); {
	case n < 25:
		if m.now >= s.frozen && len(s.inbox) > 0 {
			next := s.inbox[0]
			s.inbox = s.inbox[1:]
			next()
		}
	case n < 40:
		if m.now >= s.frozen && s.open {
			m.keepAlive(s)
		}
	case n < 60:
		if m.now >= s.frozen && s.open {
			m.read(s)
		}
	case n < 80:
		m.mutate()
	case n < 84 && len(m.late) > 0:
		next := m.late[0]
		m.late = m.late[1:]
		next()
	case n < 86:
		s.frozen = m.now + time.Duration(m.rnd.IntN(6000))*time.Millisecond
		m.log("session %d freezes for %v", s.id, s.frozen-m.now)
	case n < 88:
		if m.now >= s.frozen {
			m.attach(s, m.rnd.IntN(2) == 0)
		}
	case n < 89 && m.rnd.IntN(10) == 0:
		m.restart()
	case n < 90:
		m.send(m.table.trim(m.now))
	default:
		m.advance(m.rnd.IntN(400))
	}
	m.checkAll()
}

// restart is another owner, who knows of the sessions only that they are.
func (m *leaseSim) restart() {
	m.log("another owner")
	m.stats["restarts"]++
	limit := m.table.limit
	m.table = newLeases(simTTL, 0)
	m.table.limit = limit
	m.muts, m.late = nil, nil
	for _, s := range m.sessions {
		m.table.inherit(s.id, m.now)
		s.conn++ // what was on its way is lost
		s.inbox, s.open = nil, false
	}
	if m.broken == "no grace" {
		m.table.grace = 0
	}
}

func (m *leaseSim) run(steps int) (failure string) {
	defer func() {
		if p := recover(); p != nil {
			f, ok := p.(simFailure)
			if !ok {
				panic(p)
			}
			failure = string(f)
		}
	}()
	for range steps {
		m.step()
	}
	return ""
}

// Whatever connections, clocks and processes do, nobody believes in anything
// but the newest state.
func TestLeaseSchedules(t *testing.T) {
	total := map[string]int{}
	for seed := range uint64(400) {
		m := newLeaseSim(t, seed)
		if seed%3 == 0 {
			m.table.limit = 2
		}
		if f := m.run(3000); f != "" {
			t.Fatalf("seed %d: %s\n%s", seed, f, joined(m.history))
		}
		for k, n := range m.stats {
			total[k] += n
		}
	}
	t.Logf("%v", total)
	for _, k := range []string{"granted", "recalls", "published", "restarts"} {
		if total[k] < 400 {
			t.Errorf("only %d times: %s", total[k], k)
		}
	}
}

// The simulation finds what breaks the rules.
func TestLeaseSchedulesBite(t *testing.T) {
	for _, broken := range []string{"no recall", "no grace", "renewal overtakes"} {
		found := false
		for seed := uint64(0); seed < 3000 && !found; seed++ {
			m := newLeaseSim(t, seed)
			m.broken = broken
			found = m.run(3000) != ""
		}
		if !found {
			t.Errorf("%s: no schedule was found that shows it", broken)
		}
	}
}

func joined(lines []string) (s string) {
	for _, l := range lines {
		s += l + "\n"
	}
	return s
}

// Names are leased to one session alone until another looks at them, and again
// when nobody else has wanted them for some time.
func TestSoleNames(t *testing.T) {
	l, now := newLeases(simTTL, 0), time.Hour
	l.attach(1, true, now)
	l.attach(2, true, now)
	names := protocol.LeaseKey{Ino: 5, Class: protocol.LeaseNames}
	sole := protocol.LeaseKey{Ino: 5, Class: protocol.LeaseSole}
	grant := func(id tnv.SessionID, want ...protocol.LeaseKey) {
		t.Helper()
		if got, _ := l.grant(id, []protocol.LeaseKey{names}, now); !slices.Equal(got, want) {
			t.Errorf("session %d got %v, want %v", id, got, want)
		}
	}
	look := func(id tnv.SessionID, want int) {
		t.Helper()
		if hit := l.looked(id, []tnv.Ino{5, 6}, now); len(hit) != want {
			t.Errorf("session %d looks, and %v stand in its way", id, hit)
		}
	}
	grant(1, sole)
	grant(1, sole)
	grant(2) // it has not looked
	look(1, 0)
	look(2, 1)
	send, wait, _ := l.recall(2, []protocol.LeaseKey{names}, now)
	if len(send) != 1 || len(wait) != 1 {
		t.Fatalf("%d recalls, %d to wait for", len(send), len(wait))
	}
	l.sent(&send[0])
	look(2, 1)
	l.answered(1, send[0].msg.ID)
	<-wait[0].done
	look(2, 0)
	l.done([]protocol.LeaseKey{names})
	now += coolFirst
	grant(2, names)
	grant(1, names)
	look(1, 0)
	look(2, 0)
	l.forget(2, true, now)
	grant(1, names)
	now += crowdedFor
	l.renew(1, now-crowdedFor/2) // keeps its clock running
	l.attach(1, true, now)
	grant(1, sole)
}
