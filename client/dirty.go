package client

import (
	"context"
	"slices"
	"time"

	"github.com/tnvfs/tnv"
)

// Dirty data of an inode. Writes collect in open pieces, which lie within
// windows of MaxBlockSize of the file and never overlap each other. A piece is
// sealed when it is full, flushed, or the longest untouched of too many; from
// then on it never changes: it becomes one block, is put and committed. Sealed
// pieces are committed in the order of sealing. So where pieces overlap, an open
// one is newer than all sealed ones, and a sealed one newer than those before it.

// piece is a run of bytes of the file that becomes one block.
type piece struct {
	off   int64 // in the file
	n     int   // bytes
	buf   *buffer
	at    int    // where in buf they begin
	mtime int64  // of the last write to it
	used  uint64 // clock of the last write to it
	kill  bool   // set-user-id and set-group-id go with its commit

	// Once sealed:
	seq  uint64
	sync bool // put with the sync flag
	put  putState
}

func (p *piece) end() int64    { return p.off + int64(p.n) }
func (p *piece) bytes() []byte { return p.buf.b[p.at : p.at+p.n] }

const (
	window        = tnv.MaxBlockSize
	maxOpenPieces = 128 // per inode; the longest untouched is sealed beyond
	firstPiece    = 64 << 10
)

// dirtyData is under its inode's mutex.
type dirtyData struct {
	windows  map[int64][]*piece // open pieces by window number, sorted
	open     int
	clock    uint64
	sealed   []*piece // in the order of seq
	seq      uint64   // of the piece sealed last
	putBytes int64    // put and not yet committed
	since    time.Time
	flushing bool   // a background flush is under way
	fails    uint64 // how often all was thrown away
	err      error  // why, the last time
}

func (d *dirtyData) empty() bool { return d.open == 0 && len(d.sealed) == 0 }

// end is the offset behind the last dirty byte, 0 if there is none.
func (d *dirtyData) end() uint64 {
	var e int64
	for _, p := range d.sealed {
		e = max(e, p.end())
	}
	for _, w := range d.windows {
		e = max(e, w[len(w)-1].end())
	}
	return uint64(e)
}

// mergeInto changes attributes to those that the inode will have when all is committed.
func (d *dirtyData) mergeInto(a *tnv.Attr) {
	if d.empty() {
		return
	}
	bytes, kill := 0, false
	take := func(p *piece) {
		bytes += p.n
		kill = kill || p.kill
		a.Mtime, a.Ctime = max(a.Mtime, p.mtime), max(a.Ctime, p.mtime)
	}
	for _, p := range d.sealed {
		take(p)
	}
	for _, w := range d.windows {
		for _, p := range w {
			take(p)
		}
	}
	if end := d.end(); end > a.Size {
		a.Size = end
		a.Blocks = min((end+511)/512, a.Blocks+uint64(bytes+511)/512)
	}
	if kill {
		a.Mode = killSUID(a.Mode)
	}
}

// copyOver is a dirty run that lies over what the extents say.
type copyOver struct {
	off int64
	b   []byte
}

// overlay copies the dirty bytes of [off, off+n) in the order in which they lie
// over each other; whole tells whether they cover the range.
func (d *dirtyData) overlay(off int64, n int) (l []copyOver, whole bool) {
	add := func(p *piece) {
		lo, hi := max(off, p.off), min(off+int64(n), p.end())
		if lo < hi {
			l = append(l, copyOver{lo, slices.Clone(p.bytes()[lo-p.off : hi-p.off])})
			whole = whole || lo == off && hi == off+int64(n)
		}
	}
	for _, p := range d.sealed {
		add(p)
	}
	if d.open > 0 {
		for w := off / window; w <= (off+int64(n)-1)/window; w++ {
			for _, p := range d.windows[w] {
				add(p)
			}
		}
	}
	return l, whole
}

// writeLocked puts b, which lies within one window, into an open piece. If that
// needs a buffer and spare is nil, nothing changes and want says how large a
// one; a buffer that was used comes back as used.
func (in *inode) writeLocked(b []byte, off, now int64, spare *buffer) (want int, used bool) {
	d := &in.dirty
	w, end := off/window, off+int64(len(b))
	list := d.windows[w]
	i := slices.IndexFunc(list, func(p *piece) bool { return p.end() >= off })
	var p *piece
	if i >= 0 && list[i].off <= off {
		p = list[i]
		if need := p.at + int(end-p.off); need > len(p.buf.b) {
			if spare == nil || len(spare.b) < int(end-p.off) {
				return pieceSize(int(end-p.off), p.n > 0), false
			}
			copy(spare.b, p.bytes())
			in.c.mem.give(p.buf)
			p.buf, p.at, used = spare, 0, true
		}
	} else {
		if spare == nil || len(spare.b) < len(b) {
			return in.newPieceSize(off, len(b)), false
		}
		if i < 0 {
			i = len(list)
		}
		p = &piece{off: off, buf: spare}
		used = true
		list = slices.Insert(list, i, p)
		if d.empty() {
			d.since = time.Now()
		}
		d.open++
	}
	copy(p.buf.b[p.at+int(off-p.off):], b)
	p.n = max(p.n, int(end-p.off))
	p.mtime = now
	p.kill, in.killSUID = p.kill || in.killSUID, false
	d.clock++
	p.used = d.clock
	d.windows[w] = in.trimLocked(list, i)
	if p.end()%window == 0 && p.off%window == 0 {
		in.sealLocked(p, false)
		in.c.puts.add(in, p)
	} else if d.open > maxOpenPieces {
		in.sealOldestLocked()
	}
	return 0, used
}

// trimLocked cuts off the heads of the pieces behind list[i] that it now covers.
func (in *inode) trimLocked(list []*piece, i int) []*piece {
	end := list[i].end()
	j := i + 1
	for ; j < len(list) && list[j].off < end; j++ {
		q := list[j]
		cut := int(min(end, q.end()) - q.off)
		q.off, q.at, q.n = q.off+int64(cut), q.at+cut, q.n-cut
		if q.n > 0 {
			break
		}
		list[i].kill = list[i].kill || q.kill
		in.c.mem.give(q.buf)
		in.dirty.open--
	}
	return slices.Delete(list, i+1, j)
}

// pieceSize is how large a buffer to take for a piece of n bytes: with room to
// grow if it has grown before.
func pieceSize(n int, grows bool) int {
	if grows {
		n = max(4*n, firstPiece)
	}
	return min(n, window)
}

// newPieceSize is the buffer's size for a new piece: a whole block where the
// stream of writes has just filled the window before.
func (in *inode) newPieceSize(off int64, n int) int {
	d := &in.dirty
	if k := len(d.sealed); off%window == 0 && k > 0 && d.sealed[k-1].end() == off {
		return window
	}
	return n
}

// sealLocked makes an open piece immutable and gives it its place in the order.
func (in *inode) sealLocked(p *piece, sync bool) {
	d := &in.dirty
	w := p.off / window
	list := d.windows[w]
	if len(list) == 1 {
		delete(d.windows, w)
	} else {
		i := slices.Index(list, p)
		d.windows[w] = slices.Delete(list, i, i+1)
	}
	d.open--
	d.seq++
	p.seq, p.sync = d.seq, sync
	p.put.init()
	d.sealed = append(d.sealed, p)
}

func (in *inode) sealOldestLocked() {
	var old *piece
	for _, w := range in.dirty.windows {
		for _, p := range w {
			if old == nil || p.used < old.used {
				old = p
			}
		}
	}
	in.sealLocked(old, false)
	in.c.puts.add(in, old)
}

// sealAllLocked seals every open piece, the oldest first, and returns them.
func (in *inode) sealAllLocked(sync bool) []*piece {
	var l []*piece
	for _, w := range in.dirty.windows {
		l = append(l, w...)
	}
	slices.SortFunc(l, func(a, b *piece) int { return int(int64(a.used) - int64(b.used)) })
	for _, p := range l {
		in.sealLocked(p, sync)
	}
	return l
}

// write takes p at off into dirty pieces. It blocks while there is no memory.
func (in *inode) write(ctx context.Context, h *Handle, p []byte, off int64) (int, error) {
	now := time.Now().UnixNano()
	done := 0
	var spare *buffer
	defer func() {
		if spare != nil {
			in.c.mem.give(spare)
		}
	}()
	in.everDirty.Store(true)
	for done < len(p) {
		o := off + int64(done)
		n := min(len(p)-done, int(window-o%window))
		in.mu.Lock()
		if err := h.err; err != nil {
			in.mu.Unlock()
			return done, err
		}
		want, used := in.writeLocked(p[done:done+n], o, now, spare)
		if used {
			spare = nil
		}
		in.mu.Unlock()
		if want == 0 {
			done += n
			continue
		}
		if spare != nil {
			in.c.mem.give(spare)
			spare = nil
		}
		var err error
		if spare, err = in.c.mem.wait(ctx, forWrite, want); err != nil {
			return done, err
		}
	}
	return done, nil
}

// fail throws away everything that is dirty and makes the error stick to every
// handle that is open for writing (D12, K8).
func (in *inode) fail(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for h := range in.writers {
		if h.err == nil {
			h.err = err
		}
	}
	d := &in.dirty
	for _, w := range d.windows {
		for _, p := range w {
			in.c.mem.give(p.buf)
		}
	}
	for _, p := range d.sealed {
		in.dropLocked(p)
	}
	clear(d.windows)
	d.open, d.sealed, d.putBytes = 0, nil, 0
	d.fails++
	d.err = err
}

// dropLocked frees the buffer of a sealed piece, now or when its put or commit is over.
func (in *inode) dropLocked(p *piece) {
	p.put.dropped = true
	in.freeLocked(p)
}

// freeLocked frees the buffer of a dropped piece that nobody works on.
func (in *inode) freeLocked(p *piece) {
	if p.put.dropped && p.put.idleLocked() && p.buf != nil {
		in.c.mem.give(p.buf)
		p.buf = nil
		if !p.put.named {
			p.abandon()
		}
	}
}
