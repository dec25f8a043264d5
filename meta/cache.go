package meta

import (
	"context"
	"sort"
	"sync/atomic"

	"github.com/tnvfs/tnv"
)

// entry is a record in memory. val is nil where the record does not exist.
type entry struct {
	key  string
	val  any
	seq  tnv.BatchSeq // the batch that wrote it; 0: it was read from the engine
	size int64
	pins int32       // under mu
	used atomic.Bool // looked at since the clock hand passed
	gone bool        // not in the cache any more
}

// entryOverhead is what an entry costs beyond its record, in bytes: map, ring, key.
const entryOverhead = 160

func sizeOf(key string, val any) int64 {
	n := int64(entryOverhead + len(key))
	switch v := val.(type) {
	case *inode:
		n += 200 + int64(len(v.Target))
	case *chunk:
		n += 96 + int64(len(v.extents))*40 + int64(len(v.deltas))*8
	case *xattr:
		n += int64(len(v.Value))
	case *held:
		n += 48 + int64(len(v.Ranges))*24
	case *slot:
		n += int64(len(v.Reply)) + 48
	default:
		n += 64
	}
	return n
}

// putLocked makes val the newest state of key.
func (s *store) putLocked(key string, val any, seq tnv.BatchSeq) *entry {
	e := s.cache[key]
	if e == nil {
		e = &entry{key: key}
		s.cache[key] = e
		s.ring = append(s.ring, e)
	}
	size := sizeOf(key, val)
	s.size += size - e.size
	e.val, e.seq, e.size = val, seq, size
	e.used.Store(true)
	return e
}

// evictLocked lets the clock hand pass over the cache until it fits its budget.
// Its work is bounded by the number of records that came or were settled: what
// it cannot free now it tries again at the next call.
func (s *store) evictLocked(records int) {
	applied := s.appliedLocked()
	for steps := 64 + 4*records; s.size > s.budget && steps > 0 && len(s.ring) > 0; steps-- {
		if s.hand >= len(s.ring) {
			s.hand = 0
		}
		e := s.ring[s.hand]
		if e.pins > 0 || e.seq > applied || s.fetches[e.key] != nil || e.used.Swap(false) {
			s.hand++
			continue
		}
		last := len(s.ring) - 1
		s.ring[s.hand] = s.ring[last]
		s.ring[last] = nil
		s.ring = s.ring[:last]
		delete(s.cache, e.key)
		e.gone = true
		s.size -= e.size
	}
}

// fetch brings the records that tx missed into the cache and pins them for it.
// Keys that another function is fetching are waited for.
func (s *store) fetch(ctx context.Context, tx *Tx) error {
	mine, others := s.claim(tx.missing)
	if len(mine) > 0 {
		err := s.load(ctx, tx, mine)
		s.mu.Lock()
		for _, k := range mine {
			close(s.fetches[k])
			delete(s.fetches, k)
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
	for _, ch := range others {
		select {
		case <-ch:
		case <-ctx.Done():
			return tnv.Wrap("fetch", ctx.Err())
		}
	}
	return nil
}

func (s *store) claim(keys []string) (mine []string, others []chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		if ch := s.fetches[k]; ch != nil {
			others = append(others, ch)
		} else if s.cache[k] == nil {
			s.fetches[k] = make(chan struct{})
			mine = append(mine, k)
		}
	}
	return mine, others
}

// load reads records from the engine. A record that was published meanwhile is
// newer than what was read, and stays.
func (s *store) load(ctx context.Context, tx *Tx, keys []string) error {
	var plain [][]byte
	vals := make([]any, len(keys))
	for i, k := range keys {
		if k[0] != keyChunk {
			plain = append(plain, []byte(k))
			continue
		}
		c, err := s.loadChunk(ctx, k)
		if err != nil {
			return err
		}
		if c != nil {
			vals[i] = c
		}
	}
	if len(plain) > 0 {
		got, err := s.engine.Get(ctx, s.vol, plain...)
		if err != nil {
			return err
		}
		n := 0
		for i, k := range keys {
			if k[0] == keyChunk {
				continue
			}
			if got[n] != nil {
				if vals[i], err = decoders[k[0]](got[n]); err != nil {
					return s.damaged(k, err)
				}
			}
			n++
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, k := range keys {
		e := s.cache[k]
		if e == nil {
			e = s.putLocked(k, vals[i], 0)
		}
		e.pins++
		tx.pins = append(tx.pins, e)
	}
	s.evictLocked(len(keys))
	return nil
}

func (s *store) damaged(key string, err error) error {
	return &tnv.Error{Op: "read metadata", Kind: tnv.KindCorrupt, Msg: formatKey(s.vol, key), Err: err}
}

func (s *store) loadChunk(ctx context.Context, key string) (*chunk, error) {
	c := &chunk{base: -1}
	var bad error
	found := false
	err := s.engine.Scan(ctx, s.vol, []byte(key), []byte(prefixEnd(key)), 0, func(k, v []byte) bool {
		found = true
		bad = c.load(string(k[len(key):]), v)
		return bad == nil
	})
	if err != nil {
		return nil, err
	}
	if bad != nil {
		return nil, s.damaged(key, bad)
	}
	if !found {
		return nil, nil
	}
	return c, nil
}

// mergePending lays pending writes over sorted pairs.
func mergePending(pairs []pair, over map[string][]byte, limit int) []pair {
	added := false
	for k, v := range over {
		if v != nil {
			pairs = append(pairs, pair{k, v})
			added = true
		}
	}
	if added {
		sort.Slice(pairs, func(i, j int) bool { return pairs[i].key < pairs[j].key })
	}
	if limit > 0 && len(pairs) > limit {
		pairs = pairs[:limit]
	}
	return pairs
}

// pin keeps a record in memory until unpin is called. version tells, under the
// read lock at least, whether the record has changed: it returns the batch that
// wrote it last.
func (s *store) pin(ctx context.Context, key string) (version func() any, unpin func(), err error) {
	for range maxReruns {
		s.mu.Lock()
		if e := s.cache[key]; e != nil {
			e.pins++
			s.mu.Unlock()
			return func() any { return e.seq }, func() {
				s.mu.Lock()
				e.pins--
				s.mu.Unlock()
			}, nil
		}
		s.mu.Unlock()
		tx := &Tx{s: s, missing: []string{key}}
		err := s.fetch(ctx, tx)
		tx.unpin()
		if err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, tnv.E("read", tnv.KindBusy, "records move too fast")
}
