package client

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// localStore reads blocks straight from the segment files of a storage daemon on
// this host, by descriptors that it hands out. Where blocks lie is remembered;
// it may be out of date at any time, so every byte is verified, and whatever
// does not work is read over the network instead.
type localStore struct {
	ep   *protocol.Endpoint
	path string // of the daemon's socket

	turn chan struct{} // a lock around dialling
	mu   sync.Mutex
	conn *protocol.LocalConn
	bad  time.Time // not tried again before
	locs map[tnv.BlockKey]location
}

type location struct {
	file *os.File
	off  int64
	meta protocol.BlockMeta
}

const (
	maxLocations = 8192 // some 10 MiB with their checksums
	localRetry   = 2 * time.Second
	localTimeout = 500 * time.Millisecond
)

// localStore returns the one for a socket.
func (n *nodes) localStore(path string, ep *protocol.Endpoint) *localStore {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.local[path]
	if s == nil {
		s = &localStore{ep: ep, path: path, turn: make(chan struct{}, 1), locs: map[tnv.BlockKey]location{}}
		n.local[path] = s
	}
	return s
}

// close ends the connections.
func (n *nodes) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.local {
		s.drop(s.conn)
	}
	clear(n.local)
}

// read fills dst with a part of a block; false: ask over the network.
func (s *localStore) read(ctx context.Context, blk blockRef, dst []byte) bool {
	s.mu.Lock()
	loc, ok := s.locs[blk.key]
	s.mu.Unlock()
	if !ok {
		if loc, ok = s.locate(ctx, blk.key); !ok {
			return false
		}
	}
	m := &loc.meta
	if m.Len != blk.len || blk.lo%m.Unit != 0 || blk.hi%m.Unit != 0 && blk.hi != m.Len {
		return false
	}
	first := int(blk.lo / m.Unit)
	if n, _ := loc.file.ReadAt(dst, loc.off+int64(blk.lo)); n == len(dst) &&
		protocol.Verify(blk.key, m.Unit, first, dst, m.Sums[first:first+protocol.Units(uint32(len(dst)), m.Unit)]) < 0 {
		return true
	}
	s.mu.Lock()
	delete(s.locs, blk.key)
	s.mu.Unlock()
	return false
}

// locate asks the daemon where a block lies.
func (s *localStore) locate(ctx context.Context, key tnv.BlockKey) (location, bool) {
	ctx, cancel := context.WithTimeout(ctx, localTimeout)
	defer cancel()
	conn := s.connect(ctx)
	if conn == nil {
		return location{}, false
	}
	rep, file, err := conn.Locate(ctx, key)
	if err != nil {
		if tnv.KindOf(err) != tnv.KindMissing {
			s.drop(conn)
		}
		return location{}, false
	}
	loc := location{file: file, off: rep.Off, meta: rep.Block}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == conn {
		for k := range s.locs {
			if len(s.locs) < maxLocations {
				break
			}
			delete(s.locs, k)
		}
		s.locs[key] = loc
	}
	return loc, true
}

// connect returns the connection to the daemon, made anew if need be; nil if it
// does not work.
func (s *localStore) connect(ctx context.Context) *protocol.LocalConn {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil
	}
	s.mu.Lock()
	conn, bad := s.conn, time.Now().Before(s.bad)
	s.mu.Unlock()
	if conn != nil || bad {
		return conn
	}
	conn, err := protocol.DialLocal(ctx, s.ep, s.path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.bad = time.Now().Add(localRetry)
		return nil
	}
	s.conn = conn
	return conn
}

// drop gives a connection up, and forgets the files that came over it.
func (s *localStore) drop(conn *protocol.LocalConn) {
	s.mu.Lock()
	if conn == nil || s.conn != conn {
		s.mu.Unlock()
		return
	}
	s.conn = nil
	s.bad = time.Now().Add(localRetry / 10)
	clear(s.locs)
	s.mu.Unlock()
	conn.Close()
}
