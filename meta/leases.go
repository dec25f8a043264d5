package meta

import (
	"slices"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// leases is the owner's table of leases. It does no I/O and reads no clock: it is
// told the time (clock.Boot) and says what is to be sent and waited for.
//
// Invariants:
//   - A session believes nothing that the table does not hold for it: a key goes
//     from the table only when the session has answered a recall of it, or can
//     not believe it any more, because the clock by which it counts has run out.
//   - No lease is granted on a key while a mutation that recalled it is not done,
//     nor of a state that is not the newest: grant is called under the store's
//     lock, as is conflicts by a mutation before it publishes.
//   - A session's clock is renewed only when every recall before is on its way:
//     so a renewal that a session hears of comes behind the recalls that it missed.
//   - What earlier owners may have granted is respected until grace is over.
//
// Lock order: store.mu, then mu.
type leases struct {
	ttl    time.Duration // as the sessions count it
	margin time.Duration // the owner counts so much longer: their clocks may run slower than its own
	limit  int           // leases of one session
	most   int           // of all

	mu       sync.Mutex
	keys     map[protocol.LeaseKey]*leased
	cooling  map[protocol.LeaseKey]*coolness     // keys that were recalled lately
	crowded  map[protocol.LeaseKey]time.Duration // names that several sessions want: not leased to one alone until then
	sessions map[tnv.SessionID]*leaseSession
	recalls  uint64 // the last recall's number
	count    int
	grace    time.Duration // until then sessions of earlier owners may believe anything
}

const (
	leaseTTL   = 3 * time.Second
	leaseLimit = 200_000
	// leaseBytes is of the record cache's budget, for each lease that there may be:
	// it takes less than half of that.
	leaseBytes = 512
	minLeases  = 1 << 12
	// A key that was recalled is not granted for coolFirst, twice as long the
	// next time, and so on; after coolForgets without a recall it is as new (K6).
	coolFirst   = 50 * time.Millisecond
	coolMost    = 3 * time.Second
	coolForgets = 2 * time.Second
	// crowdedFor is how long names are not leased to one session alone after
	// another wanted them (K2).
	crowdedFor = 10 * time.Second
	// maxUnanswered is how many recalls of a session may be open before no more
	// are sent to make room.
	maxUnanswered = 16
)

// leased is who holds a key.
type leased struct {
	holders []*holding
	pending int // mutations that have recalled it and are not done
}

// holding is one session's lease on one key.
type holding struct {
	s      *leaseSession
	gen    uint32
	sole   bool      // of names: nobody else may look at them before it is recalled
	recall *recallOf // nil: not recalled
}

// recallOf is a recall that a session has not answered yet.
type recallOf struct {
	id    uint64
	lapse time.Duration // when the session can not believe it any more in any case
	keys  []protocol.LeaseKey
	done  chan struct{} // closed when it is answered
}

type coolness struct {
	times int
	until time.Duration
}

// leaseSession is a session as the table knows it.
type leaseSession struct {
	id      tnv.SessionID
	gen     uint32        // 0: it has no connection to this owner yet, and gets nothing
	until   time.Duration // its leases of generation gen lapse then
	before  time.Duration // those of earlier generations
	dropped bool          // it believes nothing that an earlier owner granted
	ended   bool          // it stays here until what it may believe has lapsed
	held    int
	order   []protocol.LeaseKey // as granted; some are gone
	unsent  int                 // recalls that are not on their way yet
	waiting map[uint64]*recallOf
}

func newLeases(ttl time.Duration, memory int64) *leases {
	return &leases{ttl: ttl, margin: ttl / 15, limit: leaseLimit, most: int(max(memory/leaseBytes, minLeases)), keys: map[protocol.LeaseKey]*leased{},
		cooling: map[protocol.LeaseKey]*coolness{}, crowded: map[protocol.LeaseKey]time.Duration{}, sessions: map[tnv.SessionID]*leaseSession{}}
}

// inherit notes a session that an earlier owner had.
func (l *leases) inherit(id tnv.SessionID, now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.grace = now + l.ttl + l.margin
	l.sessions[id] = &leaseSession{id: id, waiting: map[uint64]*recallOf{}}
}

// attach begins a new generation of a session's leases: it was opened, or has a
// new connection, on which recalls may have been missed. dropped: it has
// forgotten what it had. It returns the generation.
func (l *leases) attach(id tnv.SessionID, dropped bool, now time.Duration) uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sessions[id]
	if s == nil {
		s = &leaseSession{id: id, dropped: true, waiting: map[uint64]*recallOf{}}
		l.sessions[id] = s
	}
	s.dropped = s.dropped || dropped
	l.nextLocked(s, dropped, now)
	s.until = now + l.ttl
	return s.gen
}

// nextLocked begins a session's next generation.
func (l *leases) nextLocked(s *leaseSession, dropped bool, now time.Duration) {
	s.gen++
	s.unsent = 0 // the connection that they were for is gone
	if !dropped {
		s.before = max(s.before, s.until)
		return
	}
	s.before = 0
	for _, r := range s.waiting {
		l.overLocked(s, r)
	}
	for _, k := range s.order {
		l.removeLocked(s, k)
	}
	s.order = nil
}

// overLocked ends a recall: its session believes none of its keys.
func (l *leases) overLocked(s *leaseSession, r *recallOf) {
	delete(s.waiting, r.id)
	for _, key := range r.keys {
		if k := l.keys[key]; k != nil && slices.ContainsFunc(k.holders, func(h *holding) bool { return h.s == s && h.recall == r }) {
			l.removeLocked(s, key)
		}
	}
	close(r.done)
}

// renew lets a session's clock run on. It returns the generation that the session
// may believe in; renewed is false while a recall is not on its way to it.
func (l *leases) renew(id tnv.SessionID, now time.Duration) (gen uint32, renewed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sessions[id]
	if s == nil || s.gen == 0 || s.ended {
		return 0, false
	}
	if now >= s.until+l.margin { // it may have been passed over
		l.nextLocked(s, false, now)
	} else if s.unsent > 0 {
		return s.gen, false
	}
	s.until = now + l.ttl
	return s.gen, true
}

// forget ends a session. What it held is believed until it lapses, unless the
// session said itself that it is over.
func (l *leases) forget(id tnv.SessionID, closed bool, now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sessions[id]
	if s == nil {
		return
	}
	s.dropped = s.dropped || closed
	l.nextLocked(s, closed, now)
	s.until, s.ended = 0, true
	l.buryLocked(s, now)
}

// buryLocked takes a session out that has ended, if it can believe nothing any more.
func (l *leases) buryLocked(s *leaseSession, now time.Duration) {
	if s.ended && s.held == 0 && (s.dropped || now >= l.grace) {
		delete(l.sessions, s.id)
	}
}

// lapsed tells whether a session can not believe a lease any more.
func (l *leases) lapsed(h *holding, now time.Duration) bool {
	until := h.s.until
	if h.gen != h.s.gen {
		until = h.s.before
	}
	if h.recall != nil {
		until = min(until, h.recall.lapse)
		select {
		case <-h.recall.done:
			return true
		default:
		}
	}
	return now >= until+l.margin
}

// removeLocked takes a session's lease on a key out of the table.
func (l *leases) removeLocked(s *leaseSession, key protocol.LeaseKey) {
	k := l.keys[key]
	if k == nil {
		return
	}
	k.holders = slices.DeleteFunc(k.holders, func(h *holding) bool {
		if h.s != s {
			return false
		}
		s.held--
		l.count--
		return true
	})
	if len(k.holders) == 0 && k.pending == 0 {
		delete(l.keys, key)
	}
}

// grant leases those of keys to a session that can be leased now, and returns
// them with the generation in which it holds them.
func (l *leases) grant(id tnv.SessionID, keys []protocol.LeaseKey, now time.Duration) (granted []protocol.LeaseKey, gen uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sessions[id]
	if s == nil || now >= s.until {
		return nil, 0
	}
	for _, key := range keys {
		if c := l.cooling[key]; c != nil && now < c.until {
			continue
		}
		k := l.keys[key]
		if k == nil {
			if s.held >= l.limit || l.count >= l.most {
				continue
			}
			k = &leased{}
			l.keys[key] = k
		}
		if k.pending > 0 || !l.holdLocked(s, k, key) {
			if len(k.holders) == 0 && k.pending == 0 {
				delete(l.keys, key)
			}
			continue
		}
		if l.soleLocked(s, k, key, now) {
			key.Class = protocol.LeaseSole
		}
		granted = append(granted, key)
	}
	return granted, s.gen
}

// soleLocked tells whether a session is the only one that has names, and nobody
// else wanted them lately; then it is asked before anybody else looks at them.
func (l *leases) soleLocked(s *leaseSession, k *leased, key protocol.LeaseKey, now time.Duration) bool {
	if key.Class != protocol.LeaseNames || len(k.holders) != 1 || now < l.crowded[key] {
		return false
	}
	k.holders[0].sole = true
	return true
}

// looked gives the directories at whose names a session may not look before they
// were recalled from the one that has them alone. It notes that others want them.
func (l *leases) looked(id tnv.SessionID, dirs []tnv.Ino, now time.Duration) (hit []protocol.LeaseKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, dir := range dirs {
		key := protocol.LeaseKey{Ino: dir, Class: protocol.LeaseNames}
		k := l.keys[key]
		if k == nil {
			continue
		}
		for _, h := range k.holders {
			if h.s.id != id {
				l.crowded[key] = now + crowdedFor
			}
			if h.s.id != id && h.sole && !l.lapsed(h, now) {
				hit = append(hit, key)
			}
		}
	}
	return hit
}

// holdLocked notes that a session holds a key, in its present generation. A
// lease that is being recalled is not given anew: the answer would be to both.
func (l *leases) holdLocked(s *leaseSession, k *leased, key protocol.LeaseKey) bool {
	for _, h := range k.holders {
		if h.s == s {
			if h.recall != nil {
				return false
			}
			h.gen = s.gen
			return true
		}
		if h.sole {
			return false
		}
	}
	if s.held >= l.limit || l.count >= l.most {
		return false
	}
	k.holders = append(k.holders, &holding{s: s, gen: s.gen})
	s.held++
	l.count++
	if len(s.order) > 2*l.limit {
		s.order = slices.DeleteFunc(s.order, func(key protocol.LeaseKey) bool { return !l.holdsLocked(s, key) })
	}
	s.order = append(s.order, key)
	return true
}

func (l *leases) holdsLocked(s *leaseSession, key protocol.LeaseKey) bool {
	k := l.keys[key]
	return k != nil && slices.ContainsFunc(k.holders, func(h *holding) bool { return h.s == s })
}

// conflicts gives those of keys that somebody but the session may believe in.
// What has lapsed is forgotten on the way.
func (l *leases) conflicts(id tnv.SessionID, keys []protocol.LeaseKey, now time.Duration) (hit []protocol.LeaseKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inGraceLocked(id, now) {
		return keys
	}
	for _, key := range keys {
		k := l.keys[key]
		if k == nil {
			continue
		}
		k.holders = slices.DeleteFunc(k.holders, func(h *holding) bool {
			if h.s.id == id || !l.lapsed(h, now) {
				return false
			}
			h.s.held--
			l.count--
			return true
		})
		if slices.ContainsFunc(k.holders, func(h *holding) bool { return h.s.id != id }) {
			hit = append(hit, key)
		}
	}
	return hit
}

// inGraceLocked tells whether another session may believe what an earlier owner granted.
func (l *leases) inGraceLocked(id tnv.SessionID, now time.Duration) bool {
	if now >= l.grace {
		return false
	}
	for _, s := range l.sessions {
		if !s.dropped && s.id != id {
			return true
		}
	}
	return false
}

// inGrace tells whether a mutation of a session has to wait since another session
// may believe what an earlier owner granted.
func (l *leases) inGrace(id tnv.SessionID, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inGraceLocked(id, now)
}

// outgoing is a recall to be sent to a session.
type outgoing struct {
	to  tnv.SessionID
	gen uint32
	msg protocol.Recall
}

// recall begins to take keys back from everybody but a session, for a mutation
// that must call done with the same keys. It returns what is to be sent, what to
// wait for, and until when at the latest; see also inGrace.
func (l *leases) recall(id tnv.SessionID, keys []protocol.LeaseKey, now time.Duration) (send []outgoing, wait []*recallOf, latest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := map[*leaseSession]*recallOf{}
	for _, key := range keys {
		k := l.keys[key]
		if k == nil {
			k = &leased{}
			l.keys[key] = k
		}
		k.pending++
		for _, h := range k.holders {
			if h.s.id == id {
				continue
			}
			if h.recall == nil {
				h.recall = l.recallLocked(fresh, h, key)
				l.coolLocked(key, now)
				if key.Class == protocol.LeaseNames {
					l.crowded[key] = now + crowdedFor
				}
			}
			wait = append(wait, h.recall)
			latest = max(latest, h.recall.lapse+l.margin)
		}
	}
	return l.outgoingLocked(fresh), wait, latest
}

// recallLocked puts a key into the recall that is being made for its holder.
func (l *leases) recallLocked(fresh map[*leaseSession]*recallOf, h *holding, key protocol.LeaseKey) *recallOf {
	r := fresh[h.s]
	if r == nil {
		l.recalls++
		r = &recallOf{id: l.recalls, lapse: max(h.s.until, h.s.before), done: make(chan struct{})}
		fresh[h.s] = r
	}
	r.keys = append(r.keys, key)
	return r
}

// outgoingLocked makes messages of new recalls.
func (l *leases) outgoingLocked(fresh map[*leaseSession]*recallOf) (send []outgoing) {
	for s, r := range fresh {
		s.waiting[r.id] = r
		s.unsent++
		send = append(send, outgoing{s.id, s.gen, protocol.Recall{Session: s.id, ID: r.id, Keys: r.keys}})
	}
	return send
}

// sent notes that a recall is on its way, or can never be: then it lapses.
func (l *leases) sent(o *outgoing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.sessions[o.to]; s != nil && s.gen == o.gen && s.unsent > 0 {
		s.unsent--
	}
}

// answered notes a session's answer to a recall.
func (l *leases) answered(id tnv.SessionID, recall uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sessions[id]
	if s == nil || s.waiting[recall] == nil {
		return
	}
	l.overLocked(s, s.waiting[recall])
}

// done says that the mutation that recalled keys has published, or gives up.
func (l *leases) done(keys []protocol.LeaseKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		if k := l.keys[key]; k != nil {
			k.pending--
			if k.pending == 0 && len(k.holders) == 0 {
				delete(l.keys, key)
			}
		}
	}
}

// coolLocked keeps a key that is recalled again and again from being leased for a while.
func (l *leases) coolLocked(key protocol.LeaseKey, now time.Duration) {
	c := l.cooling[key]
	if c == nil {
		c = &coolness{}
		l.cooling[key] = c
	}
	if now > c.until+coolForgets {
		c.times = 0
	}
	c.until = now + min(coolFirst<<min(c.times, 10), coolMost)
	c.times++
}

// trim recalls the oldest leases of sessions that have nearly as many as they
// may, or more than others where all have nearly as many as there may be, and forgets what has no meaning any more. It is called every second or so.
func (l *leases) trim(now time.Duration) (send []outgoing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, until := range l.crowded {
		if now >= until {
			delete(l.crowded, key)
		}
	}
	for key, c := range l.cooling {
		if now > c.until+coolForgets {
			delete(l.cooling, key)
		}
	}
	for _, s := range l.sessions {
		l.dropLapsedLocked(s, now)
		l.buryLocked(s, now)
		many := s.held > l.limit-l.limit/8 || l.count > l.most-l.most/8 && s.held > l.count/(2*len(l.sessions))
		if !s.ended && many && len(s.waiting) < maxUnanswered {
			send = append(send, l.trimLocked(s)...)
		}
	}
	return send
}

// dropLapsedLocked takes out what a session that is over, or began a new
// generation, can not believe any more.
func (l *leases) dropLapsedLocked(s *leaseSession, now time.Duration) {
	for _, r := range s.waiting {
		if now >= r.lapse+l.margin {
			l.overLocked(s, r)
		}
	}
	if s.before == 0 && !s.ended || now < s.before+l.margin {
		return
	}
	s.order = slices.DeleteFunc(s.order, func(key protocol.LeaseKey) bool {
		k := l.keys[key]
		if k == nil {
			return true
		}
		i := slices.IndexFunc(k.holders, func(h *holding) bool { return h.s == s })
		if i >= 0 && k.holders[i].gen == s.gen && !s.ended {
			return false
		}
		l.removeLocked(s, key)
		return true
	})
	s.before = 0
}

func (l *leases) trimLocked(s *leaseSession) []outgoing {
	fresh := map[*leaseSession]*recallOf{}
	n := 0
	for ; n < len(s.order) && n < protocol.MaxRecall && n < l.limit/8+1; n++ {
		key := s.order[n]
		k := l.keys[key]
		if k == nil {
			continue
		}
		if i := slices.IndexFunc(k.holders, func(h *holding) bool { return h.s == s && h.recall == nil }); i >= 0 {
			k.holders[i].recall = l.recallLocked(fresh, k.holders[i], key)
		}
	}
	s.order = slices.Delete(s.order, 0, n)
	return l.outgoingLocked(fresh)
}

// held is how many leases there are.
func (l *leases) held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}
