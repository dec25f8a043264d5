package stored

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	// diskOps is how many reads may be at the disk at once, diskWait how long
	// one waits for its turn before it is told BUSY.
	diskOps  = 32
	diskWait = 150 * time.Millisecond
	// smallRead is up to where one read and one write beat sendfile.
	smallRead = 64 << 10
	// hintFrom is from where the kernel is told what will be read.
	hintFrom = 128 << 10
	// replyStall is how long whoever asked may take no byte of the answer.
	replyStall = 10 * time.Second
)

// get answers the units that cover a range. Nothing is verified here: the
// reader does, and reports what is bad.
func (d *daemon) get(ctx context.Context, p *protocol.Peer, f *protocol.Frame) error {
	w := p.Wire()
	var req protocol.Get
	if err := f.Decode(&req); err != nil {
		return d.refuse(w, f, err)
	}
	if p.Role != protocol.RoleStore {
		d.viewers.seen()
	} else if err := d.viewers.yield(ctx, 0); err != nil { // what this copy takes is charged to the next
		return err
	}
	if err := d.disk.acquire(ctx, 1, diskWait); err != nil {
		return d.refuse(w, f, err)
	}
	var r reader
	err := d.timedRead(func() (err error) {
		r, err = d.store.Open(req.Key) // may read an index file
		return err
	})
	if err != nil {
		d.disk.release(1)
		return d.refuse(w, f, err)
	}
	defer r.Close()
	meta := r.Meta()
	off, n, err := covering(&meta, req.Off, req.Len)
	if err != nil {
		d.disk.release(1)
		return d.refuse(w, f, err)
	}
	reply := protocol.GetReply{Block: meta, Off: off}
	if !req.Meta {
		first := int(off / meta.Unit)
		reply.Block.Sums = meta.Sums[first : first+protocol.Units(n, meta.Unit)]
	}
	d.met.gets.Inc()
	d.met.bytesOut.Add(float64(n))
	if p.Role == protocol.RoleStore {
		d.viewers.slow.charge(int(n))
	}
	w.Conn().SetWriteDeadline(time.Now().Add(replyStall))
	defer w.Conn().SetWriteDeadline(time.Time{})
	if n <= smallRead {
		return d.getSmall(ctx, w, f, r, &reply, n)
	}
	file, base := r.File()
	if n >= hintFrom {
		unix.Fadvise(int(file.Fd()), base+int64(off), int64(n), unix.FADV_WILLNEED) // a hint: if it fails, it is slower
	}
	d.disk.release(1)
	return w.WriteFrameFrom(f.Type, protocol.FlagReply, f.Stream, []any{&reply}, int(n), func(c net.Conn) error {
		err := d.sendFile(c, file, base+int64(off), int64(n))
		if errors.Is(err, unix.EIO) {
			d.unreadable(&meta, err)
		}
		return err
	})
}

// unreadable has a block looked after that the disk does not give out: whoever
// asked hears of an error, or that the connection ends, and asks another member.
func (d *daemon) unreadable(m *protocol.BlockMeta, err error) {
	d.log.WithError(err).WithField("block", m.Key.String()).Error("cannot read a block")
	if err := d.repairs.ask(m.Key, m.Home); err != nil {
		d.log.WithError(err).WithField("block", m.Key.String()).Error("a block that cannot be read is not looked after now")
	}
}

// getSmall reads into memory and answers in one write. It gives the place at
// the disk back.
func (d *daemon) getSmall(ctx context.Context, w *protocol.Wire, f *protocol.Frame, r reader, reply *protocol.GetReply, n uint32) error {
	size := bufferSize(int(n))
	if err := d.mem.gets.acquire(ctx, size, diskWait); err != nil {
		d.disk.release(1)
		return d.refuse(w, f, err)
	}
	defer d.mem.gets.release(size)
	buf := d.mem.bufs.get(int(n))
	defer d.mem.bufs.put(buf)
	err := d.timedRead(func() error {
		_, err := r.ReadAt(buf, int64(reply.Off))
		return err
	})
	d.disk.release(1)
	if err != nil && err != io.EOF {
		d.unreadable(&reply.Block, err)
		return d.refuse(w, f, tnv.Wrap("read block "+reply.Block.Key.String(), err))
	}
	return w.WriteReply(f, nil, []any{reply}, buf)
}

// covering gives the whole units of a block that cover [off, off+n); n 0 means
// up to its end.
func covering(m *protocol.BlockMeta, off, n uint32) (from, length uint32, err error) {
	if off >= m.Len || n > m.Len-off {
		return 0, 0, tnv.E("get", tnv.KindInvalid, "block %v has %d bytes: no %d at %d", m.Key, m.Len, n, off)
	}
	end := m.Len
	if n > 0 {
		end = off + n
	}
	from = off / m.Unit * m.Unit
	end = min(m.Len, (end+m.Unit-1)/m.Unit*m.Unit)
	return from, end - from, nil
}

// sendFile sends a range of a file by sendfile(2), at offsets of its own, since
// the descriptor is shared. A place at the disk is held while the kernel reads,
// not while it waits for the other side.
func (d *daemon) sendFile(c net.Conn, file *os.File, off, n int64) error {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	src := int(file.Fd())
	for n > 0 {
		c.SetWriteDeadline(time.Now().Add(replyStall))
		var m int
		var serr error
		err := raw.Write(func(dst uintptr) bool {
			if serr = d.disk.acquire(context.Background(), 1, replyStall); serr != nil {
				return true
			}
			op := d.watch.begin(time.Now())
			m, serr = unix.Sendfile(int(dst), src, &off, int(min(n, 1<<20)))
			var failed error
			if serr == unix.EIO { // of the file; what a connection can have has other numbers
				failed = serr
			}
			d.watch.endRead(op, time.Now(), failed)
			d.disk.release(1)
			return serr != unix.EAGAIN
		})
		if err != nil {
			return err
		}
		switch {
		case serr == unix.EINTR:
			continue
		case serr != nil:
			return tnv.Wrap("sendfile", serr)
		case m == 0:
			return io.ErrUnexpectedEOF
		}
		n -= int64(m)
	}
	return nil
}
