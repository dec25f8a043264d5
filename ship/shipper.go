package ship

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
)

// Groups is where pieces are kept. Calls come from the shipper's goroutines, two at a
// time at most; the data is the caller's again when they return.
type Groups interface {
	// Put stores a piece, on disk with every live member of a group at least. KindConflict:
	// another block has the id.
	Put(ctx context.Context, id tnv.BlockID, home tnv.Home, data []byte) error
	// List calls fn for the pieces that each live store has. An error: some store did not
	// answer; fn was called for the others'.
	List(ctx context.Context, fn func(Stored)) error
	// Delete removes pieces from a store.
	Delete(ctx context.Context, node tnv.NodeID, ids []tnv.BlockID) error
}

// Stored is a piece that a store has.
type Stored struct {
	Node tnv.NodeID
	ID   tnv.BlockID
	Home tnv.Home // see homeOf
}

// Config of a shipper. Tick, Rate and MinLog may be zero.
type Config struct {
	Lineage     uint64
	Predecessor uint64 // the lineage from whose copy this engine was restored; 0: none
	Volumes     func(ctx context.Context) ([]tnv.VolumeID, error)
	Log         *logrus.Entry
	Tick        time.Duration // how often the log is shipped; 0: 250 ms
	Rate        int64         // bytes per second that a checkpoint reads; 0: 32 MiB
	MinLog      int64         // bytes of log before a new checkpoint is made; 0: 32 MiB
}

const (
	putTimeout = 10 * time.Second
	// retryAfter is how long a shipper whose groups failed waits.
	retryAfter = 500 * time.Millisecond
	stopGrace  = 2 * time.Second
	// maxChain is how many log pieces are kept, however short.
	maxChain = 8192
)

// Shipper ships what a Journal notes. Make it with Start.
type Shipper struct {
	cfg     Config
	journal *Journal
	groups  Groups
	stop    context.CancelFunc
	wg      sync.WaitGroup

	put sync.Mutex // held while an id is taken and its piece is put: ids grow as pieces are made

	mu       sync.Mutex
	next     tnv.BlockID
	chain    uint64      // 0: none
	pieces   uint64      // of the chain, put
	begin    uint64      // of them, those before the newest checkpoint's log
	shipped  uint64      // position up to which the chain reaches
	oldest   tnv.BlockID // of the newest checkpoint with an end: nothing before it is needed; 0: none in this chain
	bytes    int64       // of log since that
	whole    int64       // bytes of that
	asked    uint64      // by Renew
	renewed  uint64      // up to which of those a checkpoint was made, and what is older deleted
	failing  error       // why nothing is shipped at the moment
	since    time.Time   // when all that was applied was restorable last
	progress chan struct{}
}

// Start begins to ship. What was applied before counts as restorable once the first
// checkpoint is complete.
func Start(journal *Journal, groups Groups, cfg Config) *Shipper {
	if cfg.Tick == 0 {
		cfg.Tick = 250 * time.Millisecond
	}
	if cfg.Rate == 0 {
		cfg.Rate = 32 << 20
	}
	if cfg.MinLog == 0 {
		cfg.MinLog = 32 << 20
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Shipper{cfg: cfg, journal: journal, groups: groups, stop: stop, progress: make(chan struct{}), since: time.Now()}
	s.wg.Add(1)
	go s.run(ctx)
	return s
}

// Close ships what is left, for a bounded time, and stops.
func (s *Shipper) Close() {
	s.stop()
	s.wg.Wait()
}

// State tells whether all that was applied is restorable, as of when, and if not why.
func (s *Shipper) State() (asOf time.Time, complete bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since, s.oldest != 0, s.failing
}

// Position is how much was applied so far; see Reached.
func (s *Shipper) Position() uint64 { return s.journal.position() }

// Reached tells whether what was applied up to a position is restorable.
func (s *Shipper) Reached(position uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.oldest != 0 && s.shipped >= position
}

// Settled returns when all that was applied before the call is restorable.
func (s *Shipper) Settled(ctx context.Context) error {
	position := s.Position()
	for {
		s.mu.Lock()
		done, moved := s.oldest != 0 && s.shipped >= position, s.progress
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return tnv.Wrap("wait for the copy of the metadata", ctx.Err())
		}
	}
}

// Renew has a new checkpoint made. It returns when one that was begun after the call is
// complete, and the stores that answer have been told to delete what is older.
func (s *Shipper) Renew(ctx context.Context) error {
	s.mu.Lock()
	s.asked++
	mine := s.asked
	s.mu.Unlock()
	for {
		s.mu.Lock()
		done, moved := s.renewed >= mine, s.progress
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return tnv.Wrap("wait for a new copy of the metadata", ctx.Err())
		}
	}
}

func (s *Shipper) asks() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *Shipper) answer(to uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewed = to
}

// Needed tells whether a piece may be needed: any doubt answers yes.
func (s *Shipper) Needed(id tnv.BlockID, home tnv.Home) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := uint64(home.Ino) == s.cfg.Lineage || s.cfg.Predecessor != 0 && uint64(home.Ino) == s.cfg.Predecessor
	return !mine || s.oldest == 0 || id >= s.oldest
}

// run ships the log, and begins chains, until ctx ends.
func (s *Shipper) run(ctx context.Context) {
	defer s.wg.Done()
	var checkpoint *checkpoint
	var answers uint64 // what the checkpoint is an answer to
	defer func() { checkpoint.cancel() }()
	var left [][]byte // of the log, not put yet
	var at uint64     // up to where left reaches
	for {
		ended := ctx.Err() != nil
		if len(left) == 0 {
			var broken bool
			if left, at, broken = s.journal.take(); broken || s.chainID() == 0 {
				checkpoint.cancel()
				checkpoint, left = nil, nil
				s.newChain(ctx)
			}
		}
		err := s.shipLog(ctx, &left, at)
		s.note(err)
		if ended {
			return
		}
		if checkpoint.done() {
			if checkpoint.complete() {
				s.clean(ctx)
				s.answer(answers)
			}
			checkpoint = nil
		}
		if checkpoint == nil && err == nil && s.due() {
			answers = s.asks()
			checkpoint = s.startCheckpoint(ctx)
		}
		wait := s.cfg.Tick
		if err != nil {
			wait = retryAfter
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (s *Shipper) chainID() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chain
}

// newChain begins a chain: nothing of this engine is restorable as of now before its
// first checkpoint is complete; what the last chain has stays until then.
func (s *Shipper) newChain(ctx context.Context) {
	first := s.firstID(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = max(s.next, first)
	s.chain, s.pieces, s.begin, s.shipped, s.oldest, s.bytes, s.whole = uint64(s.next), 0, 0, 0, 0, 0, 0
	s.next++
	s.journal.begin()
}

// firstID is above all ids that the groups hold, and those that were used before by
// the clock; where another clock went wrong Put says so.
func (s *Shipper) firstID(ctx context.Context) tnv.BlockID {
	first := tnv.BlockID(time.Now().UnixMilli()) << 22
	err := s.groups.List(ctx, func(p Stored) { first = max(first, p.ID+1) })
	if err != nil {
		s.cfg.Log.WithError(err).Debug("not all stores have told which pieces they have")
	}
	return first
}

// shipLog puts what waits. A part that was not put stays in left.
func (s *Shipper) shipLog(ctx context.Context, left *[][]byte, at uint64) error {
	if ctx.Err() != nil { // the last time
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer cancel()
	}
	for len(*left) > 0 {
		s.mu.Lock()
		p := piece{kind: kindLog, row: s.chain, number: s.pieces, raw: (*left)[0]}
		s.mu.Unlock()
		n, err := s.putPiece(ctx, &p)
		if err != nil {
			return err
		}
		*left = (*left)[1:]
		s.mu.Lock()
		s.pieces++
		s.bytes += int64(n)
		s.mu.Unlock()
	}
	s.mu.Lock()
	s.shipped = at
	s.mu.Unlock()
	return nil
}

// putPiece puts a piece under a fresh id. One that failed may be held somewhere all the
// same: it comes again under another id, and a reader takes either, for they are equal.
func (s *Shipper) putPiece(ctx context.Context, p *piece) (n int, err error) {
	p.lineage = s.cfg.Lineage
	s.put.Lock()
	defer s.put.Unlock()
	s.mu.Lock()
	id := s.next
	s.next++
	s.mu.Unlock()
	data := p.encode()
	if len(data) > tnv.MaxBlockSize {
		return 0, tnv.E("ship metadata", tnv.KindTooBig, "a piece of %d bytes", len(data))
	}
	call, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	return len(data), s.groups.Put(call, id, homeOf(s.cfg.Lineage, p.kind), data)
}

// note tells those who wait, and the log, how it went.
func (s *Shipper) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (err != nil) != (s.failing != nil) {
		if err != nil {
			s.cfg.Log.WithError(err).Warn("the copy of the metadata in the storage groups does not follow")
		} else {
			s.cfg.Log.Info("the copy of the metadata in the storage groups follows again")
		}
	}
	if s.failing = err; err == nil && s.oldest != 0 {
		s.since = time.Now()
	}
	close(s.progress)
	s.progress = make(chan struct{})
}

// due tells whether a checkpoint is due: none is complete, or the log is longer.
func (s *Shipper) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.oldest == 0 || s.renewed < s.asked || s.bytes > max(s.cfg.MinLog, s.whole) || s.pieces-s.begin > maxChain
}

// cleanBatch is how many pieces one call deletes.
const cleanBatch = 1024

// clean deletes what no restore needs any more, from every store that has it, whoever
// put it there: so what a tracker left that was killed goes, too.
func (s *Shipper) clean(ctx context.Context) {
	old := map[tnv.NodeID][]tnv.BlockID{}
	foreign := map[uint64]bool{}
	err := s.groups.List(ctx, func(p Stored) {
		if !s.Needed(p.ID, p.Home) {
			old[p.Node] = append(old[p.Node], p.ID)
		} else if l := uint64(p.Home.Ino); l != s.cfg.Lineage && l != s.cfg.Predecessor {
			foreign[l] = true
		}
	})
	for node, ids := range old {
		for len(ids) > 0 {
			n := min(len(ids), cleanBatch)
			if derr := s.groups.Delete(ctx, node, ids[:n]); derr != nil {
				err = errors.Join(err, derr)
				break
			}
			ids = ids[n:]
		}
	}
	if err != nil && ctx.Err() == nil {
		s.cfg.Log.WithError(err).Debug("old pieces of the copy of the metadata stay for now")
	}
	for l := range foreign {
		s.cfg.Log.WithField("lineage", l).Warn("the storage groups hold a copy of another tracker's metadata: tnv restore shows it")
	}
}
