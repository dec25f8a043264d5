package protocol

import (
	"context"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/tnvfs/tnv"
)

// A LocateReply brings the segment's descriptor only the first time that the
// segment is named on a connection: then its payload is one byte, and the
// descriptor comes with that byte (SCM_RIGHTS, see unix(7)). Both sides keep
// the MaxDescriptors segments named first-to-last, and forget the oldest
// when one more is sent; a Descriptors on each side does that.

// MaxDescriptors is how many segments each side of a connection remembers.
const MaxDescriptors = 128

// Descriptors remembers, in the order in which they were sent, the segments
// whose descriptors went over one connection.
type Descriptors struct {
	sent []uint64
}

// Has tells whether the segment's descriptor was sent and is not forgotten.
func (d *Descriptors) Has(segment uint64) bool { return slices.Contains(d.sent, segment) }

// Add notes that it was sent. It returns the segment that is forgotten instead, if any.
func (d *Descriptors) Add(segment uint64) (forgotten uint64, ok bool) {
	d.sent = append(d.sent, segment)
	if len(d.sent) <= MaxDescriptors {
		return 0, false
	}
	forgotten = d.sent[0]
	d.sent = slices.Delete(d.sent, 0, 1)
	return forgotten, true
}

// SendDescriptor sends one byte, and with it a file's descriptor. The file may
// be closed afterwards: the other side has a descriptor of its own.
func SendDescriptor(c *net.UnixConn, f *os.File) error {
	_, _, err := c.WriteMsgUnix([]byte{1}, syscall.UnixRights(int(f.Fd())), nil)
	return err
}

// maxPending is how many descriptors may be under way and not yet asked for.
const maxPending = 4

// descriptorConn is a unix socket that collects the descriptors that come with
// what is read. So a reader with a buffer may read ahead and loses none.
type descriptorConn struct {
	*net.UnixConn
	oob  []byte
	file []*os.File // come, not yet taken; owned by the reading goroutine
}

func newDescriptorConn(c *net.UnixConn) *descriptorConn {
	return &descriptorConn{UnixConn: c, oob: make([]byte, syscall.CmsgSpace(4*maxPending))}
}

func (c *descriptorConn) Read(p []byte) (int, error) {
	n, oobn, flags, _, err := c.ReadMsgUnix(p, c.oob)
	if oobn > 0 {
		if cerr := c.collect(c.oob[:oobn]); err == nil {
			err = cerr
		}
	}
	if err == nil && flags&syscall.MSG_CTRUNC != 0 {
		err = tnv.E("receive a descriptor", tnv.KindProtocol, "more came than was asked for")
	}
	return max(n, 0), err // after an error it is -1
}

func (c *descriptorConn) collect(oob []byte) error {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return tnv.E("receive a descriptor", tnv.KindProtocol, "%v", err)
	}
	for _, m := range msgs {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return tnv.E("receive a descriptor", tnv.KindProtocol, "%v", err)
		}
		for _, fd := range fds {
			c.file = append(c.file, os.NewFile(uintptr(fd), "segment"))
		}
	}
	if len(c.file) > maxPending {
		return tnv.E("receive a descriptor", tnv.KindProtocol, "%d came unasked", len(c.file))
	}
	return nil
}

// take gives the oldest descriptor that has come; nil if there is none.
func (c *descriptorConn) take() *os.File {
	if len(c.file) == 0 {
		return nil
	}
	f := c.file[0]
	c.file = c.file[1:]
	return f
}

func (c *descriptorConn) Close() error { return c.UnixConn.Close() }

// LocalConn asks a storage daemon on the same host where blocks lie, and reads
// the segments itself. Any number of goroutines may call it; one asks at a time.
type LocalConn struct {
	w    *Wire
	c    *descriptorConn
	Role Role // of the other side
	turn chan struct{}

	// Under turn:
	known  Descriptors
	files  map[uint64]*os.File
	broken error

	closing sync.Once
}

// ReceiveTimeout bounds one question to a daemon on the same host.
const ReceiveTimeout = 5 * time.Second

// DialLocal connects to a daemon's unix socket and does the handshake.
func DialLocal(ctx context.Context, e *Endpoint, path string) (*LocalConn, error) {
	op := "connect to " + path
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, &tnv.Error{Op: op, Kind: tnv.KindUnavailable, Err: err}
	}
	c := newDescriptorConn(nc.(*net.UnixConn))
	l := &LocalConn{w: NewWire(c), c: c, turn: make(chan struct{}, 1), files: map[uint64]*os.File{}}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	l.Role, err = ask(e, l.w)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		l.Close()
		if tnv.KindOf(err) == tnv.KindOther {
			return nil, &tnv.Error{Op: op, Kind: tnv.KindUnavailable, Err: err}
		}
		return nil, tnv.Wrap(op, err)
	}
	return l, nil
}

// Locate asks where a block lies. The block's bytes are Len bytes at Off of the
// file; they may be punched out or moved at any time, so whoever reads them
// verifies them against Block.Sums, and asks the daemon for the block if they do
// not match. The file belongs to the LocalConn: it stays open while it is used,
// and is not to be closed. KindMissing: the store lacks the block. After an
// error of the connection itself every call fails with KindUnavailable: close
// it and dial again.
func (l *LocalConn) Locate(ctx context.Context, key tnv.BlockKey) (LocateReply, *os.File, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return LocateReply{}, nil, tnv.Wrap("locate block "+key.String(), ctx.Err())
	}
	if l.broken != nil {
		return LocateReply{}, nil, l.broken
	}
	ctx, cancel := context.WithTimeout(ctx, ReceiveTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.c.SetDeadline(time.Unix(1, 0)) })
	reply, file, keep, err := l.locate(key)
	if !stop() {
		keep = false
	}
	if !keep {
		l.broken = tnv.E("locate", tnv.KindUnavailable, "the connection to the storage daemon on this host is over")
		l.c.Close()
		if err != nil && ctx.Err() != nil {
			err = ctx.Err()
		}
	}
	if err != nil {
		if tnv.KindOf(err) == tnv.KindOther {
			return LocateReply{}, nil, &tnv.Error{Op: "locate block " + key.String(), Kind: tnv.KindUnavailable, Err: err}
		}
		return LocateReply{}, nil, tnv.Wrap("locate block "+key.String(), err)
	}
	return reply, file, nil
}

// locate does the exchange. keep tells whether the connection is of use still.
func (l *LocalConn) locate(key tnv.BlockKey) (reply LocateReply, file *os.File, keep bool, err error) {
	if err := l.w.WriteFrame(TypeLocate, 0, 0, []any{&Locate{Key: key}}); err != nil {
		return reply, nil, false, err
	}
	f, err := l.w.ReadFrame()
	if err != nil {
		return reply, nil, false, err
	}
	if err := f.Decode(&reply); err != nil {
		return reply, nil, f.Flags&FlagError != 0, err
	}
	if reply.Block.Check() != nil || reply.Block.Key != key || reply.Off < 0 {
		return reply, nil, false, tnv.E("locate", tnv.KindProtocol, "the answer is not about the block that was asked for")
	}
	if f.Payload == 0 {
		file = l.files[reply.Segment]
	} else {
		var mark [1]byte
		if err := l.w.ReadPayload(mark[:]); err != nil {
			return reply, nil, false, err
		}
		if file = l.c.take(); file != nil {
			l.remember(reply.Segment, file)
		}
	}
	if file == nil {
		return reply, nil, false, tnv.E("locate", tnv.KindProtocol, "no descriptor of segment %d came", reply.Segment)
	}
	return reply, file, true, nil
}

// remember keeps a segment's file. One that is forgotten is not closed here,
// since someone may be reading it: it closes once nobody refers to it.
func (l *LocalConn) remember(segment uint64, file *os.File) {
	l.files[segment] = file
	if old, ok := l.known.Add(segment); ok {
		delete(l.files, old)
	}
}

// Close ends the connection and closes the files.
func (l *LocalConn) Close() error {
	err := net.ErrClosed
	l.closing.Do(func() {
		err = l.c.Close() // whoever asks at the moment fails
		l.turn <- struct{}{}
		defer func() { <-l.turn }()
		l.broken = tnv.E("locate", tnv.KindUnavailable, "the connection is closed")
		for _, f := range l.files {
			f.Close()
		}
		for f := l.c.take(); f != nil; f = l.c.take() {
			f.Close()
		}
		clear(l.files)
	})
	return err
}
