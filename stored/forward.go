package stored

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	// hopDial is how long the next member may take to be connected.
	hopDial = 500 * time.Millisecond
	// hopStall is how long it may take no byte (rule D11).
	hopStall = 300 * time.Millisecond
	// hopSilence is how long it may say nothing once it has all bytes: a live
	// one says every protocol.LifeEvery that it is at work.
	hopSilence = time.Second
	// hopAnswer bounds its answer, however alive it is; per member behind it, as much again.
	hopAnswer = 10 * time.Second
	// suspectFor is how long a member that froze is passed over.
	suspectFor = time.Second
)

// forward hands the block to the first member of the chain that takes it, which
// hands it on to the rest. It returns who has it.
func (t *transfer) forward(ctx context.Context) []tnv.Holder {
	chain := t.req.Chain
	for i, link := range chain {
		if t.d.hops.suspect(link.Addr) {
			t.d.met.skipped.Inc()
			continue
		}
		holders, err := t.send(ctx, link, chain[i+1:])
		if err == nil {
			t.d.hops.succeeded(link.Addr)
			return holders
		}
		if t.gone() || ctx.Err() != nil {
			return nil
		}
		if blockRefused(err) { // the block's fault, not the member's
			t.d.log.WithError(err).WithField("addr", link.Addr).Debug("a member refuses a block")
			continue
		}
		t.d.met.skipped.Inc()
		log := t.d.log.WithError(err).WithField("member", link.Node.String()).WithField("addr", link.Addr)
		if t.d.hops.failed(link.Addr, tnv.KindOf(err)) {
			log.Warn("a member takes no blocks: it is skipped, and will have to catch up")
		} else {
			log.WithField("block", t.req.Block.Key.String()).Debug("skipped a member")
		}
	}
	return nil
}

func (t *transfer) gone() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.broken != nil
}

// send puts the block to one member, with the rest of the chain.
func (t *transfer) send(ctx context.Context, link protocol.ChainLink, rest []protocol.ChainLink) ([]tnv.Holder, error) {
	hctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dialling := time.AfterFunc(hopDial, cancel)
	defer dialling.Stop()
	put := protocol.Put{Block: t.req.Block, Sync: t.req.Sync, Chain: rest}
	var reply protocol.PutReply
	err := t.d.pool.Do(hctx, link.Addr, func(w *protocol.Wire) (keep bool, err error) {
		dialling.Stop()
		defer func() {
			if err != nil && !keep { // another connection may be tried
				dialling.Reset(hopDial)
			}
		}()
		if err := t.sendPayload(w, &put); err != nil {
			return false, protocol.Stalled(err)
		}
		f, err := w.ReadAnswer(hopSilence, hopAnswer*time.Duration(1+len(rest)))
		if err != nil {
			return false, err
		}
		return true, f.Decode(&reply)
	})
	switch {
	case err == nil:
		return t.trusted(link, rest, reply.Holders)
	case hctx.Err() != nil && ctx.Err() == nil:
		return nil, tnv.E("connect to "+link.Addr, tnv.KindTimeout, "no answer within %v", hopDial)
	}
	return nil, err
}

// trusted gives those of the holders that the member was asked for.
func (t *transfer) trusted(link protocol.ChainLink, rest []protocol.ChainLink, named []tnv.Holder) ([]tnv.Holder, error) {
	var holders []tnv.Holder
	for _, l := range append([]protocol.ChainLink{link}, rest...) {
		for _, h := range named {
			if h.Node == l.Node {
				holders = append(holders, h)
				break
			}
		}
	}
	if len(holders) == 0 {
		return nil, tnv.E("put to "+link.Addr, tnv.KindProtocol, "the store there names no holder that was asked for: is it %v?", link.Node)
	}
	return holders, nil
}

func (t *transfer) sendPayload(w *protocol.Wire, put *protocol.Put) error {
	n := int(put.Block.Len)
	c := w.Conn()
	c.SetWriteDeadline(time.Now().Add(hopStall))
	defer c.SetWriteDeadline(time.Time{})
	if n <= bufferSizes[1] { // it is all there already
		b, err := t.wait(n - 1)
		if err != nil {
			return err
		}
		return w.WriteFrame(protocol.TypePut, protocol.FlagLife, 0, []any{put}, b)
	}
	return w.WriteFrameFrom(protocol.TypePut, protocol.FlagLife, 0, []any{put}, n, func(c net.Conn) error {
		for sent := 0; sent < n; {
			b, err := t.wait(sent)
			if err != nil {
				return err
			}
			m, err := protocol.WriteMoving(c, b[sent:], hopStall)
			sent += m
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// hops remembers which members froze, so that not every put waits for them.
type hops struct {
	mu sync.Mutex
	m  map[string]*hop
}

type hop struct {
	until  time.Time // passed over till then
	warned time.Time
}

// suspect tells whether the member at addr is to be passed over. After each
// suspectFor one put tries it again, and the rest go on passing it over.
func (h *hops) suspect(addr string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.m[addr]
	if o == nil || o.until.IsZero() {
		return false
	}
	if time.Now().Before(o.until) {
		return true
	}
	o.until = time.Now().Add(suspectFor)
	return false
}

// failed notes a failure; warn is true once in a while.
func (h *hops) failed(addr string, kind tnv.Kind) (warn bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m == nil {
		h.m = map[string]*hop{}
	}
	o := h.m[addr]
	if o == nil {
		if len(h.m) >= 1024 { // addresses come from clients
			clear(h.m)
		}
		o = &hop{}
		h.m[addr] = o
	}
	now := time.Now()
	if kind == tnv.KindTimeout {
		o.until = now.Add(suspectFor)
	}
	warn = now.Sub(o.warned) > 30*time.Second
	if warn {
		o.warned = now
	}
	return warn
}

func (h *hops) succeeded(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o := h.m[addr]; o != nil {
		o.until = time.Time{}
	}
}
