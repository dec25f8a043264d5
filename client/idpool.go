package client

import (
	"context"
	"sync"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// idPool keeps block ids granted to one session, some ahead of need. They are
// void when the session ends. The zero value is empty and ready.
type idPool struct {
	mu      sync.Mutex
	ranges  []protocol.GrantReply
	left    uint32
	ask     uint32        // size of the next grant
	filling chan struct{} // not nil: closed when the grant under way is over
	err     error         // of the last grant
}

const (
	firstGrant = 64
	maxGrant   = 1024
)

// take hands out an id that nobody had before.
func (p *idPool) take(ctx context.Context, l *link, s *sess) (tnv.BlockID, error) {
	for tried := false; ; tried = true {
		p.mu.Lock()
		if p.left <= p.ask/4 && p.filling == nil && (p.left == 0 || p.ask > 0) {
			p.ask = min(max(2*p.ask, firstGrant), maxGrant)
			p.filling = make(chan struct{})
			l.wg.Add(1)
			go p.fill(l, s, p.ask, p.filling)
		}
		if p.left > 0 {
			r := &p.ranges[0]
			id := r.First
			r.First, r.Count, p.left = r.First+1, r.Count-1, p.left-1
			if r.Count == 0 {
				p.ranges = p.ranges[1:]
			}
			p.mu.Unlock()
			return id, nil
		}
		wait, err := p.filling, p.err
		p.mu.Unlock()
		if tried && err != nil {
			return 0, err
		}
		if wait == nil {
			continue
		}
		select {
		case <-wait:
		case <-s.ended:
			return 0, errSessionEnded(protocol.TypeGrant)
		case <-ctx.Done():
			return 0, tnv.Wrap("grant", ctx.Err())
		}
	}
}

func (p *idPool) fill(l *link, s *sess, n uint32, done chan struct{}) {
	defer l.wg.Done()
	var rep protocol.GrantReply
	err := l.change(l.life, protocol.TypeGrant, tnv.Root, &protocol.Grant{Count: n}, s, nil, &rep)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
	if err == nil && rep.Count > 0 && rep.First > 0 {
		p.ranges = append(p.ranges, rep)
		p.left += rep.Count
	} else if err == nil {
		p.err = tnv.E("grant", tnv.KindProtocol, "the tracker granted no ids")
	}
	p.filling = nil
	close(done)
}
