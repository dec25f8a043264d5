package client

import (
	"slices"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Recalls, generations, and this client's own mutations: what makes the lease
// cache forget.

// forgetLocked drops what is kept under some keys; outstanding answers about them
// lease nothing.
func (l *leaseCache) forgetLocked(keys []protocol.LeaseKey) {
	l.tick++
	if len(l.recalled)+len(keys) > maxRecalled {
		clear(l.recalled)
		l.floor = l.tick
	}
	for _, k := range keys {
		l.recalled[k] = l.tick
		switch k.Class {
		case protocol.LeaseAttr:
			delete(l.attrs, k.Ino)
		case protocol.LeaseNames:
			l.dropDirLocked(k.Ino)
		}
	}
}

// recall forgets what the owner takes back. The kernel is to forget it too
// before the owner is answered: see pushed.
func (l *leaseCache) recall(keys []protocol.LeaseKey) tnv.VolumeID {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range keys {
		if k.Class == protocol.LeaseAttr {
			l.wantedLocked(k.Ino, l.attrs[k.Ino].Data)
		}
	}
	l.forgetLocked(keys)
	return l.vol
}

// forget forgets what is no more.
func (l *leaseCache) forget(keys []protocol.LeaseKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetLocked(keys)
}

// drop forgets everything, and believes nothing until begin is called.
func (l *leaseCache) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn, l.until = nil, 0
	l.emptyLocked()
}

func (l *leaseCache) emptyLocked() {
	l.tick++
	l.floor = l.tick
	clear(l.recalled)
	clear(l.attrs)
	clear(l.dirs)
	clear(l.hints)
	l.names = 0
}

// began takes in the first generation that the owner names on a connection, in
// the answer to a request that was sent at a moment.
func (l *leaseCache) began(conn *protocol.Client, info *protocol.SessionInfo, sent time.Duration) {
	ttl := time.Duration(info.LeaseMs) * time.Millisecond
	l.mu.Lock()
	defer l.mu.Unlock()
	l.emptyLocked()
	l.conn, l.vol, l.gen, l.ttl, l.until = conn, info.Vol, info.LeaseGen, ttl, sent+ttl
}

// renewed takes in that a message sent at a moment renewed the leases of a
// generation. It tells whether that is a new one: the earlier ones have lapsed.
func (l *leaseCache) renewed(conn *protocol.Client, gen uint32, sent time.Duration) (anew bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if conn != l.conn {
		return false
	}
	if gen != l.gen {
		l.emptyLocked()
		l.gen, anew = gen, true
	}
	l.until = max(l.until, sent+l.ttl)
	return anew
}

// forgetAbove has whoever is above forget.
func (l *leaseCache) forgetAbove(keys []protocol.LeaseKey) {
	if w := l.watcher.Load(); w != nil {
		(*w).Invalidate(keys)
	}
}

func (l *leaseCache) forgetAllAbove() {
	if w := l.watcher.Load(); w != nil {
		(*w).InvalidateAll()
	}
}

// flight is a mutation under way: what it may change is not believed.
type flight struct {
	l     *leaseCache
	keys  []protocol.LeaseKey
	names []nameKey
	users int // whoever must land it: the one that asked, and who carries it on when that one leaves
	taken bool
}

// fly begins a mutation that may change inodes and names.
func (l *leaseCache) fly(inos []tnv.Ino, names ...nameKey) *flight {
	f := &flight{l: l, names: names, users: 1}
	l.mu.Lock()
	for _, n := range names {
		l.flyNames[n]++
		inos = append(inos, n.dir)
		if d := l.dirs[n.dir]; d != nil {
			d.next = nil
			if is, ok := d.names[n.name]; ok && is.ino != 0 {
				inos = append(inos, is.ino)
				continue
			}
		}
		if ino := l.hints[n]; ino != 0 {
			inos = append(inos, ino)
		}
	}
	for _, ino := range inos {
		f.keys = append(f.keys, attrKey(ino))
		l.flying[attrKey(ino)]++
	}
	l.mu.Unlock()
	l.forgetAbove(f.keys) // names are believed above only where nobody else looks
	return f
}

// abandoned keeps it up until the outcome of a mutation is known that its caller
// does not wait for any more.
func (f *flight) abandoned(wg *sync.WaitGroup) func(*mutation) {
	if f == nil {
		return nil
	}
	return func(m *mutation) {
		f.l.mu.Lock()
		f.users++
		f.l.mu.Unlock()
		wg.Go(func() {
			<-m.done
			f.land()
		})
	}
}

// land ends it, at the last call. Unless the answer was taken in, nothing that it
// may have changed is believed.
func (f *flight) land() {
	if f == nil {
		return
	}
	l := f.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.users--; f.users > 0 {
		return
	}
	if !f.taken {
		keys := f.keys
		for _, n := range f.names {
			keys = append(keys, namesKey(n.dir))
		}
		l.forgetLocked(keys)
	}
	for _, k := range f.keys {
		if l.flying[k]--; l.flying[k] == 0 {
			delete(l.flying, k)
		}
	}
	for _, n := range f.names {
		if l.flyNames[n]--; l.flyNames[n] == 0 {
			delete(l.flyNames, n)
		}
	}
}

// failed says that the owner refused the mutation: nothing has changed.
func (f *flight) failed() {
	if f == nil {
		return
	}
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	f.taken = true
}

// take takes the answer to a mutation in: the attributes that it brought, and what
// the names stand for now, in the order in which the flight has them. What it may
// have changed and does not tell of is not believed, nor are answers about it
// that are under way.
func (f *flight) take(t *told, now ...tnv.Ino) {
	l := f.l
	l.mu.Lock()
	defer l.mu.Unlock()
	f.taken = true
	for _, a := range t.leased.Attrs {
		l.takeAttrLocked(t, a)
	}
	var lost []protocol.LeaseKey
	for _, a := range t.leased.Attrs {
		if l.attrs[a.Ino].Version < a.Version {
			lost = append(lost, attrKey(a.Ino))
		}
	}
	for _, k := range f.keys {
		if !slices.ContainsFunc(t.leased.Attrs, func(a tnv.Attr) bool { return a.Ino == k.Ino }) {
			lost = append(lost, k)
		}
	}
	for i, n := range f.names {
		delete(l.hints, n)
		d := l.dirFor(t, n.dir)
		if d == nil {
			lost = append(lost, namesKey(n.dir))
			continue
		}
		d.seq = max(d.seq, t.leased.Seq)
		d.list, d.next = nil, nil
		l.setNameLocked(d, n.name, leasedName{now[i], t.leased.Seq})
	}
	if len(lost) > 0 {
		l.forgetLocked(lost)
	}
}

// pushed handles what the owner pushes on a connection: recalls, new cluster maps,
// and which trackers live. It does not block: it is called where the connection is
// read. The map of a tracker that is the owner no more is not believed.
func (c *Client) pushed(conn *protocol.Client, f *protocol.Frame) {
	switch f.Type {
	case protocol.TypeTrackers:
		var there protocol.Trackers
		if f.Decode(&there) == nil {
			c.link.learn(there.Addrs)
		}
	case protocol.TypeMapChanged:
		var is protocol.MapChanged
		if f.Decode(&is) == nil && !c.link.left(conn) {
			c.cmap.offer(&is.Map)
		}
	case protocol.TypeRecall:
		var rq protocol.Recall
		if f.Decode(&rq) == nil {
			c.recall(conn, rq)
		}
	}
}

// recall forgets what a recall names, at once, and tells the owner when the kernel
// has forgotten it, too.
func (c *Client) recall(conn *protocol.Client, rq protocol.Recall) {
	c.m.recalls.Inc()
	vol := c.leases.recall(rq.Keys)
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		if w := c.leases.watcher.Load(); w != nil {
			(*w).Recalled(rq.Keys)
		}
		ctx, cancel := c.opCtx()
		defer cancel()
		done := protocol.Recalled{Vol: vol, Session: rq.Session, ID: rq.ID}
		if err := conn.Call(ctx, protocol.TypeRecalled, nil, &done); err != nil && c.life.Err() == nil {
			c.cfg.Log.WithError(err).Debug("a recall was not answered: the lease lapses")
		}
	}()
}

// AttrLease is how long attributes of a version, as an operation returned them,
// hold without asking again: 0 if they are not leased, or data of this client's
// is not yet committed.
func (c *Client) AttrLease(ino tnv.Ino, version uint64) time.Duration {
	if in := c.inodes.find(ino); in != nil {
		in.mu.Lock()
		dirty := !in.dirty.empty()
		in.mu.Unlock()
		c.inodes.release(in)
		if dirty {
			return 0
		}
	}
	return c.leases.left(ino, version)
}

// Contested tells whether other clients have changed an inode a moment ago, or are
// about to: what is kept of it above is not kept for long.
func (c *Client) Contested(ino tnv.Ino) bool { return c.leases.contested(ino) }

// NamesLease is how long what names in a directory stand for, or that they do not,
// may be believed above without asking again: 0 unless this client is the only one
// that has an interest in them.
func (c *Client) NamesLease(dir tnv.Ino) time.Duration { return c.leases.namesLeft(dir) }

// dropLeases forgets everything, in the kernel too, before the owner is asked to
// go on with the session on a new connection.
func (c *Client) dropLeases() {
	c.leases.drop()
	c.leases.forgetAllAbove()
}

// renewLeases takes in what a keep-alive brought that was sent at a moment.
func (c *Client) renewLeases(conn *protocol.Client, rep *protocol.KeepAliveReply, sent time.Duration) {
	if rep.Renewed && c.leases.renewed(conn, rep.LeaseGen, sent) {
		c.leases.forgetAllAbove()
	}
}
