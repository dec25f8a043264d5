package meta

import (
	"context"
	"maps"
	"slices"

	"github.com/tnvfs/tnv"
)

// snapshot calls fn for the stored keys in [from, to), in order, as of one
// moment, batches that are published but not applied included. The moment is
// held by the engine's scan alone: mutations go on meanwhile. Key and value are
// fn's only until it returns; fn must not use the store.
//
// The moment: the read lock keeps anything from being published until the scan
// has begun. A batch that is being applied meanwhile may be in the scan or not:
// what it writes is in pending, which lies over the scan.
func (s *store) snapshot(ctx context.Context, from, to string, fn func(key string, value []byte) error) error {
	s.mu.RLock()
	held := true
	begun := func() {
		if held {
			held = false
			s.mu.RUnlock()
		}
	}
	defer begun()
	if s.failed != nil {
		return s.failed
	}
	over, seen := s.pendingInLocked(from, to)
	above := slices.Sorted(maps.Keys(over))
	var ferr error
	emit := func(key string, value []byte) bool {
		if value != nil && ferr == nil {
			ferr = fn(key, value)
		}
		return ferr == nil
	}
	var end []byte
	if to != "" {
		end = []byte(to)
	}
	err := s.engine.Scan(ctx, s.vol, []byte(from), end, 0, func(k, v []byte) bool {
		begun()
		key := string(k)
		for len(above) > 0 && above[0] < key {
			if !emit(above[0], over[above[0]]) {
				return false
			}
			above = above[1:]
		}
		if len(above) > 0 && above[0] == key {
			above = above[1:]
			return emit(key, over[key])
		}
		if v == nil {
			v = []byte{}
		}
		return emit(key, v) && ctx.Err() == nil
	})
	begun()
	for ; err == nil && len(above) > 0; above = above[1:] {
		emit(above[0], over[above[0]])
	}
	switch {
	case ferr != nil:
		return ferr
	case err != nil:
		return err
	case ctx.Err() != nil:
		return tnv.Wrap("scan", ctx.Err())
	}
	return s.wait(ctx, seen)
}

// chunkWalk puts the records of chunks, which come key by key, together.
type chunkWalk struct {
	key string
	c   *chunk
	fn  func(home tnv.Home, c *chunk) error
}

// take takes the next stored record of a chunk in.
func (w *chunkWalk) take(key string, value []byte) error {
	if key[:17] != w.key {
		if err := w.flush(); err != nil {
			return err
		}
		w.key, w.c = key[:17], &chunk{base: -1}
	}
	return w.c.load(key[17:], value)
}

// flush hands the last chunk on.
func (w *chunkWalk) flush() error {
	if w.c == nil {
		return nil
	}
	ino, index := split2(w.key)
	c := w.c
	w.key, w.c = "", nil
	return w.fn(tnv.Home{Ino: tnv.Ino(ino), Chunk: index}, c)
}

// eachChunk calls fn for every chunk of the volume, as of one moment.
func (v *Volume) eachChunk(ctx context.Context, fn func(home tnv.Home, c *chunk) error) error {
	w := chunkWalk{fn: fn}
	class := string([]byte{keyChunk})
	err := v.snapshot(ctx, class, prefixEnd(class), func(key string, value []byte) error {
		if err := w.take(key, value); err != nil {
			return v.damaged(key, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.flush()
}
