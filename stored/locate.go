package stored

import (
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// locators keeps, per connection over the unix socket, which segments'
// descriptors were sent.
type locators struct {
	mu sync.Mutex
	m  map[*protocol.Peer]*protocol.Descriptors
}

func (l *locators) of(p *protocol.Peer) *protocol.Descriptors {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil {
		l.m = map[*protocol.Peer]*protocol.Descriptors{}
	}
	if l.m[p] == nil {
		l.m[p] = &protocol.Descriptors{}
	}
	return l.m[p]
}

func (l *locators) closed(p *protocol.Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.m, p)
}

// locate tells a client on this host where a block lies, and hands it a
// read-only descriptor of the segment.
func (d *daemon) locate(p *protocol.Peer, f *protocol.Frame) error {
	w := p.Wire()
	conn, ok := w.Conn().(*net.UnixConn)
	if !ok || p.Role != protocol.RoleClient && p.Role != protocol.RoleTool {
		return d.refuse(w, f, tnv.E("locate", tnv.KindPermission, "descriptors go to clients on this host only, over the store's unix socket"))
	}
	var req protocol.Locate
	if err := f.Decode(&req); err != nil {
		return d.refuse(w, f, err)
	}
	r, err := d.store.Open(req.Key)
	if err != nil {
		return d.refuse(w, f, err)
	}
	defer r.Close()
	file, off := r.File()
	reply := protocol.LocateReply{Block: r.Meta(), Segment: r.SegmentID(), Off: off}
	d.met.located.Inc()
	d.viewers.seen()
	sent := d.locators.of(p)
	if sent.Has(reply.Segment) {
		return w.WriteReply(f, nil, []any{&reply})
	}
	// The store's own descriptor may be one for writing: open the file anew.
	ro, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(file.Fd())))
	if err != nil {
		return d.refuse(w, f, tnv.Wrap("open a segment for reading", err))
	}
	defer ro.Close()
	conn.SetWriteDeadline(time.Now().Add(replyStall))
	defer conn.SetWriteDeadline(time.Time{})
	err = w.WriteFrameFrom(f.Type, protocol.FlagReply, f.Stream, []any{&reply}, 1, func(net.Conn) error {
		return protocol.SendDescriptor(conn, ro)
	})
	if err == nil {
		sent.Add(reply.Segment)
	}
	return err
}
