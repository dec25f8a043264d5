package stored

import (
	"context"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	// pieceSize is how much of a payload is read before it is passed on.
	pieceSize = 256 << 10
	// maxChain is how many members a put may still go to.
	maxChain = 7
	// memoryWait is below what a sender takes for a freeze, so that it hears BUSY.
	memoryWait = 200 * time.Millisecond
	// payloadStall is how long the asking side may send nothing of its payload.
	payloadStall = 10 * time.Second
	// diskWrites is how many puts may be at the disk at once; a put waits memoryWait
	// for its turn, and is not kept here then (BUSY).
	diskWrites = 256
)

// put takes a block, and hands it on. It runs on the connection's goroutine.
func (d *daemon) put(ctx context.Context, p *protocol.Peer, f *protocol.Frame) error {
	w := p.Wire()
	var req protocol.Put
	if err := d.checkPut(f, &req); err != nil {
		return d.refuse(w, f, err)
	}
	behind := len(req.Chain)
	size := bufferSize(min(int(req.Block.Len), pieceSize))
	if behind > 0 {
		size = bufferSize(int(req.Block.Len))
	}
	mem := d.mem.forPut(behind)
	if err := mem.acquire(ctx, size, memoryWait); err != nil {
		return d.refuse(w, f, err)
	}
	defer mem.release(size)
	buf := d.mem.bufs.get(min(int(req.Block.Len), int(size)))
	defer d.mem.bufs.put(buf)

	t := &transfer{d: d, req: &req, buf: buf}
	t.changed.L = &t.mu
	own, err := d.beginPut(&req.Block)
	if err != nil && (behind == 0 || blockRefused(err)) {
		return d.refuse(w, f, err)
	}
	t.ownErr = err
	holders, err := t.run(ctx, p, f.Flags, own)
	if err != nil { // the connection is in the middle of a payload
		return err
	}
	if len(holders) == 0 {
		return d.refuse(w, f, t.ownErr)
	}
	if t.ownErr != nil {
		d.met.failed(t.ownErr)
		d.log.WithError(t.ownErr).WithField("block", req.Block.Key.String()).Warn("a block was handed on but could not be kept here")
	}
	d.met.puts.Inc()
	d.met.bytesIn.Add(float64(req.Block.Len))
	return w.WriteReply(f, nil, []any{&protocol.PutReply{Holders: holders}})
}

func (d *daemon) checkPut(f *protocol.Frame, req *protocol.Put) error {
	if err := f.Decode(req); err != nil {
		return err
	}
	if err := req.Block.Check(); err != nil {
		return err
	}
	const op = "put"
	if f.Payload != req.Block.Len {
		return tnv.E(op, tnv.KindInvalid, "block %v of %d bytes with a payload of %d", req.Block.Key, req.Block.Len, f.Payload)
	}
	if len(req.Chain) > maxChain {
		return tnv.E(op, tnv.KindInvalid, "a chain of %d members, at most %d", len(req.Chain), maxChain)
	}
	for i, l := range req.Chain {
		if l.Node == d.node || l.Addr == "" {
			return tnv.E(op, tnv.KindInvalid, "the chain names %v at %q: every member once, with its address", l.Node, l.Addr)
		}
		for _, o := range req.Chain[:i] {
			if o.Node == l.Node {
				return tnv.E(op, tnv.KindInvalid, "the chain names %v twice", l.Node)
			}
		}
	}
	return nil
}

// blockRefused tells whether the block is to blame, and not the store: no other
// member will take it.
func blockRefused(err error) bool {
	switch tnv.KindOf(err) {
	case tnv.KindConflict, tnv.KindInvalid, tnv.KindStale, tnv.KindCorrupt:
		return true
	}
	return false
}

// transfer is one put under way: the connection's goroutine fills buf and the
// store, a second one sends buf to the next member.
type transfer struct {
	d      *daemon
	req    *protocol.Put
	buf    []byte // the whole block where there is a chain, else one piece
	ownErr error  // why this store does not have the block; nil: it has

	mu      sync.Mutex
	changed sync.Cond
	filled  int   // bytes of buf that are there
	broken  error // the asking side went away: filled grows no more
}

// run takes the payload in and gives the holders. An error means that the
// asking side went away.
func (t *transfer) run(ctx context.Context, p *protocol.Peer, flags protocol.Flags, own writer) ([]tnv.Holder, error) {
	defer func() {
		if own != nil {
			own.Abort()
		}
	}()
	n := int(t.req.Block.Len)
	var forwarded chan []tnv.Holder
	for off := 0; off < n; {
		piece := t.buf
		if len(t.req.Chain) > 0 {
			piece = t.buf[off:]
		}
		piece = piece[:min(len(piece), pieceSize, n-off)]
		if err := t.receive(p.Wire(), piece); err != nil {
			t.fail(err)
			if forwarded != nil {
				<-forwarded
			}
			return nil, err
		}
		off += len(piece)
		t.advance(off)
		if off == len(piece) && len(t.req.Chain) > 0 {
			forwarded = make(chan []tnv.Holder, 1)
			go func() { forwarded <- t.forward(ctx) }()
		}
		if own != nil && t.ownErr == nil {
			t.ownErr = t.atDisk(ctx, func() error {
				return t.d.timed(func() error {
					_, err := own.Write(piece)
					return err
				})
			})
		}
	}
	alive := startWorking(p, flags)
	defer alive.stop()
	own = t.finish(ctx, own, alive)
	var holders []tnv.Holder
	if t.ownErr == nil {
		holders = append(holders, tnv.Holder{Node: t.d.node, Boot: t.d.boot})
	}
	if forwarded != nil {
		holders = append(holders, <-forwarded...)
	}
	return holders, nil
}

// finish makes the block visible, and with Sync durable. The writer that is left
// is to be given up.
func (t *transfer) finish(ctx context.Context, own writer, alive *working) writer {
	defer alive.diskDone()
	switch {
	case t.ownErr != nil:
	case own != nil:
		t.ownErr = t.atDisk(ctx, func() error {
			w := own
			own = nil
			return t.d.commitPut(w, t.req.Sync)
		})
	case t.req.Sync: // the block was here already
		t.ownErr = t.atDisk(ctx, func() error { return t.d.syncBlock(t.req.Block.Key) })
	}
	return own
}

// atDisk runs an operation in its turn at the disk: KindBusy if that does not come soon.
func (t *transfer) atDisk(ctx context.Context, fn func() error) error {
	if err := t.d.writes.acquire(ctx, 1, memoryWait); err != nil {
		return err
	}
	defer t.d.writes.release(1)
	return fn()
}

func (t *transfer) receive(w *protocol.Wire, piece []byte) error {
	w.Conn().SetReadDeadline(time.Now().Add(payloadStall))
	return w.ReadPayload(piece)
}

func (t *transfer) advance(filled int) {
	t.mu.Lock()
	t.filled = filled
	t.mu.Unlock()
	t.changed.Broadcast()
}

func (t *transfer) fail(err error) {
	t.mu.Lock()
	t.broken = err
	t.mu.Unlock()
	t.changed.Broadcast()
}

// wait returns what of the block is there once it is more than sent.
func (t *transfer) wait(sent int) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.filled <= sent && t.broken == nil {
		t.changed.Wait()
	}
	return t.buf[:t.filled], t.broken
}

// working tells whoever asked for a put, again and again, that this store lives;
// or, when its disk takes too long, not to wait for it.
type working struct {
	p     *protocol.Peer // nil: the asker wants no signs
	began time.Time

	mu   sync.Mutex
	t    *time.Timer
	disk bool // the own part is done
	done bool
}

func startWorking(p *protocol.Peer, flags protocol.Flags) *working {
	if flags&protocol.FlagLife == 0 {
		return &working{}
	}
	k := &working{p: p, began: time.Now()}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.t = time.AfterFunc(protocol.LifeEvery, k.tick)
	return k
}

func (k *working) tick() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.done {
		return
	}
	k.p.Wire().Conn().SetWriteDeadline(time.Now().Add(replyStall))
	if !k.disk && time.Since(k.began) > slowOp {
		k.p.SayBusyDisk(protocol.TypePut, tnv.E("put", tnv.KindTimeout, "the disk takes longer than %v", slowOp))
		return
	}
	if k.p.Push(protocol.TypePut) == nil {
		k.t.Reset(protocol.LifeEvery)
	}
}

// diskDone says that what takes longer from now on is not this store's disk.
func (k *working) diskDone() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.disk = true
}

// stop returns when no more is sent: the reply may follow.
func (k *working) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.done = true; k.p == nil {
		return
	}
	k.t.Stop()
	k.p.Wire().Conn().SetWriteDeadline(time.Time{})
}
