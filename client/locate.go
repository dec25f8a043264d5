package client

import (
	"context"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Times of a client that knows several trackers: it need not be patient with one.
const (
	askTimeout      = 500 * time.Millisecond  // a tracker's answer to who owns the volume
	ownerTimeout    = time.Second             // the owner's answer to a connection
	silentTimeout   = 1200 * time.Millisecond // silence after which the owner is pinged
	avoidFor        = time.Second             // an owner that did not take the session is not tried again, unless in a newer epoch
	mostWait        = 200 * time.Millisecond  // between rounds, with jitter
	trackersRefresh = 10 * time.Second        // how often the list of trackers is asked for
)

// avoided is an owner that did not take the session.
type avoided struct {
	addr  string
	epoch tnv.Epoch
	until time.Time
}

// known are the trackers that can be asked: those of the configuration, and those
// that a tracker named.
func (l *link) known() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Clone(l.cfg.Trackers)
	for _, t := range l.told {
		if !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	return all
}

func (l *link) mostBackoff() time.Duration {
	if len(l.known()) > 1 {
		return mostWait
	}
	return maxBackoff
}

// patience is how long the owner may be silent before it is pinged.
func (l *link) patience() time.Duration {
	if len(l.known()) > 1 {
		return silentTimeout
	}
	return attemptTimeout
}

// ask asks a tracker who owns the volume, and takes in which trackers there are.
func (l *link) ask(ctx context.Context, conn *protocol.Client) (protocol.OwnerReply, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var rep protocol.OwnerReply
	err := conn.Call(ctx, protocol.TypeOwner, &rep, &protocol.Owner{Name: l.cfg.Volume})
	if err == nil {
		l.learn(rep.Trackers)
	}
	return rep, err
}

// learn takes in which trackers live.
func (l *link) learn(addrs []string) {
	if len(addrs) == 0 || len(addrs) > protocol.MaxTrackers {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = addrs
}

// refreshTrackers asks for the list of trackers for as long as the connection lasts.
func (l *link) refreshTrackers(conn *protocol.Client) {
	tick := time.NewTicker(trackersRefresh)
	defer tick.Stop()
	for conn.Err() == nil {
		if _, err := l.ask(l.life, conn); tnv.KindOf(err) == tnv.KindProtocol {
			return // it does not know the question
		}
		select {
		case <-tick.C:
		case <-l.life.Done():
			return
		}
	}
}

// found is a tracker's answer to who owns the volume.
type found struct {
	tracker string
	rep     protocol.OwnerReply
	err     error
}

// round asks all trackers at once who owns the volume, and opens the session at
// whom they name: the first answer that leads there counts. Of the errors it returns
// the most telling.
func (l *link) round() (*attachment, error) {
	l.mu.Lock()
	s := l.sess
	l.mu.Unlock()
	known := l.known()
	if len(known) == 1 {
		return l.try(known[0], s)
	}
	answers := l.askAll(known)
	tried := map[string]bool{}
	var worst error
	note := func(tracker string, err error) {
		l.cfg.Log.WithError(err).WithField("tracker", tracker).Debug("tracker does not take the session")
		if worst == nil || definite(err) {
			worst = err
		}
	}
	for range known {
		f := <-answers
		switch {
		case l.life.Err() != nil:
			return nil, errClosed
		case f.err != nil:
			note(f.tracker, f.err)
			continue
		case f.rep.Here:
			f.rep.Addr = f.tracker // where it was reached; what others are told may be wrong from here
		}
		if f.rep.Addr == "" || tried[f.rep.Addr] || l.avoids(f.rep) {
			continue
		}
		tried[f.rep.Addr] = true
		a, err := l.try(f.rep.Addr, s)
		if err == nil {
			return a, nil
		}
		note(f.rep.Addr, err)
		l.mu.Lock()
		if !definite(err) && tnv.KindOf(err) != tnv.KindNotOwner {
			l.avoid = avoided{f.rep.Addr, f.rep.Epoch, time.Now().Add(avoidFor)}
		}
		l.mu.Unlock()
	}
	if worst == nil {
		worst = tnv.E("connect", tnv.KindUnavailable, "no tracker owns volume %s at the moment", l.cfg.Volume)
	}
	return nil, worst
}

func (l *link) avoids(rep protocol.OwnerReply) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.avoid.addr == rep.Addr && l.avoid.epoch >= rep.Epoch && time.Now().Before(l.avoid.until)
}

// askAll asks each tracker on a connection of its own. As many answers come as
// there are trackers, all within askTimeout.
func (l *link) askAll(known []string) <-chan found {
	answers := make(chan found, len(known))
	for _, addr := range known {
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			f := found{tracker: addr}
			defer func() { answers <- f }()
			ctx, cancel := context.WithTimeout(l.life, askTimeout)
			defer cancel()
			conn, err := protocol.DialClient(ctx, l.ep, addr, nil)
			if err != nil {
				f.err = err
				return
			}
			defer conn.Close()
			f.rep, f.err = l.ask(ctx, conn)
		}()
	}
	return answers
}
