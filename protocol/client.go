package protocol

import (
	"context"
	"sync"

	"github.com/tnvfs/tnv"
)

// Client is the asking side of a multiplexed connection. Any number of
// goroutines may call it at once.
type Client struct {
	w    *Wire
	Role Role // of the other side
	push func(*Frame)
	done chan struct{}

	mu      sync.Mutex
	next    uint32
	waiting map[uint32]chan<- reply
	err     error // why the connection is over
}

type reply struct {
	f   Frame
	err error
}

// DialClient connects to a daemon that speaks multiplexed frames. push is
// called for frames that the other side sends unasked, one after another on the
// reading goroutine: it must not block. It may be nil.
func DialClient(ctx context.Context, e *Endpoint, addr string, push func(*Frame)) (*Client, error) {
	w, role, err := Dial(ctx, e, addr)
	if err != nil {
		return nil, err
	}
	c := &Client{w: w, Role: role, push: push, done: make(chan struct{}), waiting: map[uint32]chan<- reply{}}
	go c.read()
	return c, nil
}

func (c *Client) read() {
	defer close(c.done)
	for {
		f, err := c.w.ReadFrame()
		if err != nil {
			c.fail(&tnv.Error{Op: "connection to " + c.Addr(), Kind: tnv.KindUnavailable, Err: err})
			return
		}
		if f.Flags&FlagPush != 0 {
			if c.push != nil {
				c.push(&f)
			}
			continue
		}
		c.mu.Lock()
		ch := c.waiting[f.Stream]
		delete(c.waiting, f.Stream)
		c.mu.Unlock()
		if ch != nil { // nil: whoever asked has gone away
			ch <- reply{f: f}
		}
	}
}

func (c *Client) fail(err error) {
	c.w.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	for s, ch := range c.waiting {
		delete(c.waiting, s)
		ch <- reply{err: c.err}
	}
}

// Addr is the address of the other side.
func (c *Client) Addr() string { return c.w.Conn().RemoteAddr().String() }

// Err tells why the connection is over; nil while it is not.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection; outstanding calls fail with KindUnavailable.
func (c *Client) Close() error {
	c.fail(tnv.E("connection", tnv.KindUnavailable, "closed"))
	<-c.done
	return nil
}

// Call sends a request (the values of its body) and decodes the reply's body
// into rep, unless that is nil. An error whose kind is KindUnavailable,
// KindTimeout or KindCanceled leaves open whether the request was executed.
func (c *Client) Call(ctx context.Context, t Type, rep any, values ...any) error {
	f, err := c.CallRaw(ctx, t, values...)
	if err != nil {
		return err
	}
	if rep == nil {
		return f.Decode()
	}
	return f.Decode(rep)
}

// CallRaw sends a request and returns the reply as it came.
func (c *Client) CallRaw(ctx context.Context, t Type, values ...any) (Frame, error) {
	ch := make(chan reply, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return Frame{}, c.err
	}
	c.next++
	stream := c.next
	c.waiting[stream] = ch
	c.mu.Unlock()
	if err := c.w.WriteFrame(t, 0, stream, values); err != nil {
		c.forget(stream)
		if tnv.KindOf(err) == tnv.KindProtocol { // nothing was sent
			return Frame{}, err
		}
		err = &tnv.Error{Op: "send to " + c.Addr(), Kind: tnv.KindUnavailable, Err: err}
		c.fail(err)
		return Frame{}, err
	}
	select {
	case r := <-ch:
		return r.f, r.err
	case <-ctx.Done():
		c.forget(stream)
		return Frame{}, tnv.Wrap("call "+c.Addr(), ctx.Err())
	}
}

func (c *Client) forget(stream uint32) {
	c.mu.Lock()
	delete(c.waiting, stream)
	c.mu.Unlock()
}
