package meta

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv/mem"
	"github.com/tnvfs/tnv/protocol"
)

// A run says that n bytes at an offset of a file are those of a block from an
// offset on.
type modelRun struct {
	at, n uint64
	block tnv.BlockID
	off   uint64
}

// content is a file as the model has it: sorted, disjoint runs, joined where they can be.
type content struct {
	size uint64
	runs []modelRun
}

// part is what lies in [from, to), with places relative to from.
func (c *content) part(from, to uint64) (out []modelRun) {
	for _, r := range c.runs {
		lo, hi := max(r.at, from), min(r.at+r.n, to)
		if lo < hi {
			out = append(out, modelRun{lo - from, hi - lo, r.block, r.off + lo - r.at})
		}
	}
	return out
}

func moved(l []modelRun, by uint64) []modelRun {
	l = slices.Clone(l)
	for i := range l {
		l[i].at += by
	}
	return l
}

// join joins runs that go on in each other.
func join(l []modelRun) (out []modelRun) {
	for _, r := range l {
		if k := len(out) - 1; k >= 0 && out[k].at+out[k].n == r.at && out[k].block == r.block && out[k].off+out[k].n == r.off {
			out[k].n += r.n
			continue
		}
		out = append(out, r)
	}
	return out
}

// set makes [from, to) what l says, places relative to from.
func (c *content) set(from, to uint64, l []modelRun) {
	all := slices.Concat(c.part(0, from), moved(l, from), moved(c.part(to, ^uint64(0)), to))
	c.runs = join(all)
}

// world is the files of the model test and what they hold.
type world struct {
	h     *harness
	r     *rand.Rand
	files map[tnv.Ino]*content
	inos  []tnv.Ino
	last  string // the last step, for failures
	span  uint64 // files are about so large
}

// off is an offset that is interesting: near chunk boundaries, odd, or aligned.
func (w *world) off() uint64 {
	at := w.r.Uint64N(w.span)
	switch w.r.IntN(4) {
	case 0:
		at = at / tnv.ChunkSize * tnv.ChunkSize
		at += []uint64{0, 1, 4096, tnv.ChunkSize - 1}[w.r.IntN(4)]
	case 1:
		at = at / (1 << 20) * (1 << 20)
	}
	return at
}

func (w *world) length() uint64 {
	return 1 + w.r.Uint64N(1<<(1+w.r.IntN(28)))
}

func (w *world) write(ino tnv.Ino, at uint64) {
	n := min(1+w.r.Uint64N(tnv.MaxBlockSize), tnv.ChunkSize-at%tnv.ChunkSize)
	w.last = fmt.Sprintf("write %d bytes at %d of %d", n, at, ino)
	b, err := w.h.write(ino, at, uint32(n))
	w.h.must(err)
	w.h.homes[b] = tnv.Home{Ino: ino, Chunk: at / tnv.ChunkSize}
	f := w.files[ino]
	f.set(at, at+n, []modelRun{{0, n, b, 0}})
	f.size = max(f.size, at+n)
}

func (w *world) truncate(ino tnv.Ino, size uint64) {
	w.last = fmt.Sprintf("truncate %d to %d", ino, size)
	_, err := do[protocol.AttrReply](w.h, protocol.TypeSetAttr, &protocol.SetAttr{Ino: ino, Mask: protocol.SetSize, Size: size})
	w.h.must(err)
	f := w.files[ino]
	f.runs, f.size = f.part(0, size), size
}

func (w *world) fallocate(ino tnv.Ino, mode uint32, at, n uint64) {
	w.last = fmt.Sprintf("fallocate mode %#x, %d bytes at %d of %d", mode, n, at, ino)
	f := w.files[ino]
	var want error
	if mode == protocol.FallocCollapseRange && at+n >= f.size || mode == protocol.FallocInsertRange && at >= f.size ||
		mode&(protocol.FallocCollapseRange|protocol.FallocInsertRange) != 0 && (at%4096 != 0 || n%4096 != 0) {
		want = tnv.KindInvalid
	}
	for done := uint64(0); done < n; {
		rep, err := do[protocol.FallocateReply](w.h, protocol.TypeFallocate, &protocol.Fallocate{Ino: ino, Mode: mode, Off: at + done, Len: n - done})
		if want != nil {
			kindIs(w.h.t, err, tnv.KindInvalid)
			return
		}
		w.h.must(err)
		if rep.Done == 0 || rep.Done > n-done {
			w.h.t.Fatalf("%s: %d bytes done", w.last, rep.Done)
		}
		done += rep.Done
	}
	switch mode {
	case protocol.FallocCollapseRange:
		f.runs = join(slices.Concat(f.part(0, at), moved(f.part(at+n, f.size), at)))
		f.size -= n
	case protocol.FallocInsertRange:
		f.runs = join(slices.Concat(f.part(0, at), moved(f.part(at, f.size), at+n)))
		f.size += n
	case 0, protocol.FallocKeepSize:
	default:
		f.set(at, at+n, nil)
	}
	if mode&^protocol.FallocZeroRange == 0 {
		f.size = max(f.size, at+n)
	}
}

func (w *world) copy(from, to tnv.Ino, at, dst, n uint64) {
	w.last = fmt.Sprintf("copy %d bytes at %d of %d to %d of %d", n, at, from, dst, to)
	src, f := w.files[from], w.files[to]
	rep, err := do[protocol.CopyRangeReply](w.h, protocol.TypeCopyRange, &protocol.CopyRange{From: from, FromOff: at, To: to, ToOff: dst, Len: n})
	if from == to && at < dst+n && dst < at+n {
		kindIs(w.h.t, err, tnv.KindInvalid)
		return
	}
	w.h.must(err)
	left := min(n, src.size-min(src.size, at))
	if rep.Copied > left || rep.Copied == 0 && left > 0 {
		w.h.t.Fatalf("%s: %d bytes copied", w.last, rep.Copied)
	}
	if n = rep.Copied; n == 0 {
		return
	}
	f.set(dst, dst+n, src.part(at, at+n))
	f.size = max(f.size, dst+n)
}

// remove removes a file, with or without content left to the background, and makes another.
func (w *world) remove(i int) {
	ino := w.inos[i]
	w.last = fmt.Sprintf("remove %d", ino)
	name := fmt.Sprint(i)
	rep, err := do[protocol.UnlinkReply](w.h, protocol.TypeUnlink, &protocol.Unlink{Parent: tnv.RootIno, Name: name})
	w.h.must(err)
	_, err = do[struct{}](w.h, protocol.TypeReleased, &protocol.Released{Inos: []tnv.Ino{rep.Unlinked}})
	w.h.must(err)
	delete(w.files, ino)
	w.inos[i] = w.h.create(tnv.RootIno, name)
	w.files[w.inos[i]] = &content{}
}

func (w *world) step() {
	i := w.r.IntN(len(w.inos))
	ino, other := w.inos[i], w.inos[w.r.IntN(len(w.inos))]
	switch k := w.r.IntN(100); {
	case k < 30:
		w.write(ino, w.off())
	case k < 37:
		w.truncate(ino, w.off())
	case k < 42:
		w.fallocate(ino, []uint32{0, protocol.FallocKeepSize}[w.r.IntN(2)], w.off(), w.length())
	case k < 52:
		w.fallocate(ino, protocol.FallocPunchHole|protocol.FallocKeepSize, w.off(), w.length())
	case k < 58:
		w.fallocate(ino, protocol.FallocZeroRange|protocol.FallocKeepSize*uint32(w.r.IntN(2)), w.off(), w.length())
	case k < 66:
		w.fallocate(ino, protocol.FallocCollapseRange, w.off()/4096*4096, (w.length()+4095)/4096*4096)
	case k < 71:
		if w.files[ino].size < 2*w.span {
			w.fallocate(ino, protocol.FallocInsertRange, w.off()/4096*4096, (w.length()+4095)/4096*4096)
		}
	case k < 95:
		w.copy(ino, other, w.off(), w.off(), w.length())
	case k < 97:
		w.remove(i)
	default:
		w.last = "restart"
		w.h.reopen()
	}
}

// compare reads all extents of a file, and seeks in it, and compares with the model.
func (w *world) compare(ino tnv.Ino) {
	h, f := w.h, w.files[ino]
	h.t.Helper()
	var got []modelRun
	for first := uint64(0); first == 0 || first*tnv.ChunkSize < f.size; {
		rep, err := do[protocol.ExtentsReply](h, protocol.TypeExtents, &protocol.Extents{Ino: ino, First: first, Count: protocol.MaxChunks})
		h.must(err)
		if rep.Attr.Size != f.size {
			h.t.Fatalf("%s: inode %d has %d bytes, want %d", w.last, ino, rep.Attr.Size, f.size)
		}
		for _, l := range rep.Chunks {
			for _, e := range l {
				got = append(got, modelRun{first*tnv.ChunkSize + uint64(e.Off), uint64(e.Len), e.Block, uint64(e.BlockOff)})
			}
			first++
		}
	}
	if got = join(got); !slices.Equal(got, f.runs) {
		h.t.Fatalf("%s: inode %d has\n%v, want\n%v", w.last, ino, got, f.runs)
	}
	at := w.off()
	for _, hole := range []bool{false, true} {
		if found, there := w.seek(ino, at, hole); found != f.seek(at, hole) || there != (found < f.size || hole && at < f.size) {
			h.t.Fatalf("%s: seek in %d from %d, hole %v: %d, %v; want %d", w.last, ino, at, hole, found, there, f.seek(at, hole))
		}
	}
}

// seek is where data or a hole is from an offset on; the size if there is none.
func (c *content) seek(at uint64, hole bool) uint64 {
	for _, r := range c.runs {
		switch {
		case r.at+r.n <= at:
		case !hole:
			return max(at, r.at)
		case r.at > at:
			return at
		default:
			at = r.at + r.n
		}
	}
	if hole && at < c.size {
		return at
	}
	return c.size
}

func (w *world) seek(ino tnv.Ino, at uint64, hole bool) (uint64, bool) {
	for {
		rep, err := do[protocol.SeekReply](w.h, protocol.TypeSeek, &protocol.Seek{Ino: ino, Off: at, Hole: hole})
		w.h.must(err)
		switch rep.State {
		case protocol.SeekNone:
			return rep.Attr.Size, false
		case protocol.SeekFound:
			return rep.Off, true
		}
		if rep.Off <= at {
			w.h.t.Fatalf("a seek from %d goes on at %d", at, rep.Off)
		}
		at = rep.Off
	}
}

// settled waits until nothing is left to the background.
func (w *world) settled() {
	w.h.eventually("everything is reclaimed", func() bool {
		w.h.v.smu.Lock()
		defer w.h.v.smu.Unlock()
		return len(w.h.v.reclaim) == 0
	})
}

func newWorld(t *testing.T, cfg Config, span uint64, files int) *world {
	w := &world{h: start(t, mem.New(mem.Options{}), cfg), r: newRand(t), files: map[tnv.Ino]*content{}, span: span}
	for i := range files {
		ino := w.h.create(tnv.RootIno, fmt.Sprint(i))
		w.files[ino], w.inos = &content{}, append(w.inos, ino)
	}
	return w
}

// TestModelOfClones runs all that changes content against a model that knows of
// every byte from which block it is; the checker looks at every record after
// each step, and after restarts.
func TestModelOfClones(t *testing.T) {
	steps := 300
	for name, cfg := range map[string]Config{"cached": {}, "evicted": {CacheBytes: 3000}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, cfg, 3*tnv.ChunkSize, 3)
			for range steps {
				w.step()
				w.settled()
				w.h.check()
				for _, ino := range w.inos {
					w.compare(ino)
				}
				if t.Failed() {
					t.Fatal(w.last)
				}
			}
			for _, ino := range w.inos {
				w.truncate(ino, 0)
			}
			w.settled()
			w.h.check() // nothing lives, no reference is left: it compares
		})
	}
}

// TestModelOfTrims leaves large truncations and removals to the background while
// the rest goes on, checked without waiting for it.
func TestModelOfTrims(t *testing.T) {
	w := newWorld(t, Config{}, 100*tnv.ChunkSize, 3)
	for range 20 {
		for _, ino := range w.inos {
			for range 30 {
				w.write(ino, w.off())
			}
		}
		for range 10 {
			w.step()
			a, b := w.inos[w.r.IntN(3)], w.inos[w.r.IntN(3)]
			at := w.off()
			w.copy(a, b, at, w.off(), 30*tnv.ChunkSize)
			w.truncate(w.inos[w.r.IntN(3)], w.r.Uint64N(tnv.ChunkSize))
		}
		w.settled()
		w.h.check()
		for _, ino := range w.inos {
			w.compare(ino)
		}
		if t.Failed() {
			t.Fatal(w.last)
		}
	}
}

// A range of many pieces is copied, punched and moved in requests of bounded size.
func TestContentInManyPieces(t *testing.T) {
	w := newWorld(t, Config{}, 4*tnv.ChunkSize, 2)
	a, b := w.inos[0], w.inos[1]
	for i := range 6 * maxCopyPieces / 4 { // small pieces with holes between, over some chunks
		at := uint64(i) * 30000
		blk, err := w.h.write(a, at, 100)
		if tnv.KindOf(err) == tnv.KindInvalid {
			continue // it would cross into the next chunk
		}
		w.h.must(err)
		w.h.homes[blk] = tnv.Home{Ino: a, Chunk: at / tnv.ChunkSize}
		w.files[a].set(at, at+100, []modelRun{{0, 100, blk, 0}})
		w.files[a].size = at + 100
	}
	size := w.files[a].size
	calls := 0
	for done := uint64(0); done < size; calls++ {
		was := w.files[b].size
		w.copy(a, b, done, 7+done, size-done)
		done += w.files[b].size - max(was, 7)
	}
	if calls != 2 {
		t.Errorf("%d pieces were copied in %d requests", len(w.files[a].runs), calls)
	}
	w.compare(b)
	w.fallocate(b, protocol.FallocInsertRange, 0, 8192)
	w.compare(b)
	w.fallocate(a, protocol.FallocPunchHole|protocol.FallocKeepSize, 0, size)
	w.fallocate(b, protocol.FallocPunchHole|protocol.FallocKeepSize, 5, size)
	for _, ino := range w.inos {
		w.compare(ino)
	}
	w.h.check()
}

// What cannot be moved in one transaction is refused as not supported, and
// nothing has changed.
func TestShiftIsBounded(t *testing.T) {
	w := newWorld(t, Config{}, tnv.ChunkSize, 1)
	ino := w.inos[0]
	w.write(ino, 0)
	w.truncate(ino, (maxShiftChunks+2)*tnv.ChunkSize)
	was := w.h.attr(ino)
	for _, mode := range []uint32{protocol.FallocCollapseRange, protocol.FallocInsertRange} {
		_, err := do[protocol.FallocateReply](w.h, protocol.TypeFallocate, &protocol.Fallocate{Ino: ino, Mode: mode, Off: 4096, Len: 4096})
		kindIs(t, err, tnv.KindNotSupported)
	}
	if w.h.attr(ino) != was {
		t.Error("it changed all the same")
	}
	w.fallocate(ino, protocol.FallocInsertRange, 3*tnv.ChunkSize, 1<<40) // few chunks move, however far
	w.truncate(ino, 5000)
	w.compare(ino)
	w.h.check()
}

func TestFallocateRefusals(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	ino, dir := h.create(tnv.RootIno, "f"), h.mkdir(tnv.RootIno, "d")
	_, err := h.write(ino, 0, 100000)
	h.must(err)
	was := h.attr(ino)
	for _, c := range []struct {
		what string
		rq   protocol.Fallocate
		want tnv.Kind
	}{
		{"no bytes", protocol.Fallocate{Ino: ino}, tnv.KindInvalid},
		{"too large", protocol.Fallocate{Ino: ino, Off: 1 << 62, Len: 1 << 62}, tnv.KindTooBig},
		{"beyond all", protocol.Fallocate{Ino: ino, Off: 1 << 63, Len: 1}, tnv.KindTooBig},
		{"a directory", protocol.Fallocate{Ino: dir, Len: 1}, tnv.KindInvalid},
		{"punch that may grow", protocol.Fallocate{Ino: ino, Mode: 2, Len: 1}, tnv.KindNotSupported},
		{"unshare", protocol.Fallocate{Ino: ino, Mode: 0x40, Len: 1}, tnv.KindNotSupported},
		{"collapse, keep size", protocol.Fallocate{Ino: ino, Mode: 0x09, Len: 4096}, tnv.KindNotSupported},
		{"collapse, unaligned", protocol.Fallocate{Ino: ino, Mode: 0x08, Len: 4095}, tnv.KindInvalid},
		{"collapse to the end", protocol.Fallocate{Ino: ino, Mode: 0x08, Off: 4096, Len: 100000 / 4096 * 4096}, tnv.KindInvalid},
		{"insert, unaligned", protocol.Fallocate{Ino: ino, Mode: 0x20, Off: 1, Len: 4096}, tnv.KindInvalid},
		{"insert at the end", protocol.Fallocate{Ino: ino, Mode: 0x20, Off: 102400, Len: 4096}, tnv.KindInvalid},
		{"insert too much", protocol.Fallocate{Ino: ino, Mode: 0x20, Len: 1<<63 - 4096}, tnv.KindTooBig},
		{"an inode that is not", protocol.Fallocate{Ino: 999, Len: 1}, tnv.KindStale},
	} {
		if _, err := do[protocol.FallocateReply](h, protocol.TypeFallocate, &c.rq); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	for _, c := range []struct {
		what string
		rq   protocol.CopyRange
		want tnv.Kind
	}{
		{"overlap", protocol.CopyRange{From: ino, To: ino, ToOff: 50, Len: 51}, tnv.KindInvalid},
		{"too large", protocol.CopyRange{From: ino, To: ino, ToOff: 1 << 62, Len: 1 << 62}, tnv.KindTooBig},
		{"overflow", protocol.CopyRange{From: ino, To: ino, FromOff: 1<<64 - 1, Len: 2}, tnv.KindTooBig},
		{"from a directory", protocol.CopyRange{From: dir, To: ino, Len: 1}, tnv.KindInvalid},
		{"to a directory", protocol.CopyRange{From: ino, To: dir, Len: 1}, tnv.KindInvalid},
		{"to nothing", protocol.CopyRange{From: ino, To: 999, Len: 1}, tnv.KindStale},
	} {
		if _, err := do[protocol.CopyRangeReply](h, protocol.TypeCopyRange, &c.rq); !errors.Is(err, c.want) {
			t.Errorf("copy, %s: %v, want %v", c.what, err, c.want)
		}
	}
	if _, err := do[protocol.SeekReply](h, protocol.TypeSeek, &protocol.Seek{Ino: dir}); !errors.Is(err, tnv.KindInvalid) {
		t.Errorf("seek in a directory: %v", err)
	}
	rep, err := do[protocol.CopyRangeReply](h, protocol.TypeCopyRange, &protocol.CopyRange{From: ino, FromOff: 100000, To: ino, Len: 5})
	if err != nil || rep.Copied != 0 {
		t.Errorf("copy from the end: %d, %v", rep.Copied, err)
	}
	if h.attr(ino) != was {
		t.Error("what was refused changed the file")
	}
	h.check()
}

// Allocation fails where the groups have no room, once their members have told
// how much they have; what the file has already counts.
func TestFallocateNoSpace(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	ino := h.create(tnv.RootIno, "f")
	_, err := h.write(ino, 0, 1<<20)
	h.must(err)
	alloc := func(mode uint32, off, n uint64) error {
		_, err := do[protocol.FallocateReply](h, protocol.TypeFallocate, &protocol.Fallocate{Ino: ino, Mode: mode, Off: off, Len: n})
		return err
	}
	h.must(alloc(0, 0, 1<<40)) // nobody has told
	_, err = do[protocol.AttrReply](h, protocol.TypeSetAttr, &protocol.SetAttr{Ino: ino, Mask: protocol.SetSize, Size: 1 << 20})
	h.must(err)
	m := *h.cluster.m
	m.Groups = []tnv.Group{{ID: 1, Name: "g1", Nodes: slices.Clone(m.Groups[0].Nodes)}}
	m.Groups[0].Nodes[0].Capacity, m.Groups[0].Nodes[0].Used = 10<<20, 6<<20
	m.Groups[0].Nodes[1].Capacity = 1 << 40
	h.cluster.m = &m
	kindIs(t, alloc(0, 0, 5<<20+1), tnv.KindNoSpace)
	kindIs(t, alloc(protocol.FallocKeepSize, 1<<20, 4<<20+1), tnv.KindNoSpace)
	kindIs(t, alloc(protocol.FallocZeroRange, 1<<20, 4<<20+1), tnv.KindNoSpace)
	h.must(alloc(0, 0, 5<<20))
	if a := h.attr(ino); a.Size != 5<<20 {
		t.Errorf("%d bytes", a.Size)
	}
}

// Times, version and set-user-id follow a change of the content.
func TestContentTimes(t *testing.T) {
	h := start(t, mem.New(mem.Options{}), Config{})
	ino, to := h.create(tnv.RootIno, "f"), h.create(tnv.RootIno, "g")
	_, err := h.write(ino, 0, 100000)
	h.must(err)
	for _, mode := range []uint32{0, 1, 3, 0x10, 0x11, 0x08, 0x20} {
		_, err := do[protocol.AttrReply](h, protocol.TypeSetAttr, &protocol.SetAttr{Ino: ino, Mask: protocol.SetMode | protocol.SetMtime, Mode: 0o6777, Mtime: 5})
		h.must(err)
		was := h.attr(ino)
		rep, err := do[protocol.FallocateReply](h, protocol.TypeFallocate, &protocol.Fallocate{Ino: ino, Mode: mode, Len: 4096, KillSUID: true})
		h.must(err)
		a := h.attr(ino)
		if a != rep.Attr || a.Mtime != a.Ctime || a.Ctime <= was.Ctime || a.Version <= was.Version || (a.Data > was.Data) != (mode != 1) || a.Mode&0o7777 != 0o777 {
			t.Errorf("mode %#x: %+v after %+v", mode, a, was)
		}
	}
	src, was := h.attr(ino), h.attr(to)
	rep, err := do[protocol.CopyRangeReply](h, protocol.TypeCopyRange, &protocol.CopyRange{From: ino, To: to, Len: 1 << 20})
	h.must(err)
	if a := h.attr(to); a != rep.Attr || a.Mtime != a.Ctime || a.Ctime <= was.Ctime || a.Data <= was.Data || a.Size != src.Size || a.Blocks != src.Blocks || rep.Copied != src.Size || len(rep.Groups) != 1 {
		t.Errorf("copy: %+v after %+v, %+v", a, was, rep)
	}
	if a := h.attr(ino); a != src {
		t.Errorf("the source: %+v, was %+v", a, src)
	}
	h.check()
}

// A seek in a file as large as can be looks at what is stored, and no more.
func TestSeekSparse(t *testing.T) {
	w := newWorld(t, Config{}, tnv.ChunkSize, 1)
	ino := w.inos[0]
	for _, at := range []uint64{1<<62 - 4096, 1 << 50, 1<<40 + 3} {
		w.write(ino, at)
	}
	w.truncate(ino, 1<<63-1)
	f := w.files[ino]
	for _, at := range []uint64{0, 1 << 40, 1<<40 + 4, 1 << 41, 1 << 60, 1<<62 - 4096, 1<<62 - 4095, 1 << 62, 1<<63 - 2, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
		for _, hole := range []bool{false, true} {
			found, there := w.seek(ino, at, hole)
			if want := f.seek(at, hole); found != want || there != (at < f.size && (hole || want < f.size)) {
				t.Errorf("from %d, hole %v: %d, %v; want %d", at, hole, found, there, want)
			}
		}
	}
	for i := range uint64(3 * seekSteps) { // more full chunks than one request looks at, and as many empty records
		w.write(ino, i*tnv.ChunkSize)
		f.set(i*tnv.ChunkSize, (i+1)*tnv.ChunkSize, nil)
		b := w.h.block()
		c := w.h.commitOf(ino, i*tnv.ChunkSize, tnv.MaxBlockSize, b)
		w.h.homes[b] = tnv.Home{Ino: ino, Chunk: i}
		for k := range uint32(16) {
			e := c.Chunks[0].Extents[0]
			e.Off = k * tnv.MaxBlockSize
			c.Chunks[0].Extents = append(c.Chunks[0].Extents, e)
			f.set(i*tnv.ChunkSize+uint64(e.Off), i*tnv.ChunkSize+uint64(e.End()), []modelRun{{0, uint64(e.Len), b, 0}})
		}
		_, err := do[protocol.AttrReply](w.h, protocol.TypeCommit, c)
		w.h.must(err)
	}
	if found, _ := w.seek(ino, 5, true); found != 3*seekSteps*tnv.ChunkSize {
		t.Errorf("the first hole is at %d", found)
	}
	w.h.check()
}

// A clone keeps a block alive whose home is long gone; a store is told so
// whichever place it asks by.
func TestCloneOutlivesSource(t *testing.T) {
	w := newWorld(t, Config{}, tnv.ChunkSize, 2)
	a, b := w.inos[0], w.inos[1]
	w.write(a, 0)
	block, n := w.files[a].runs[0].block, w.files[a].size
	w.copy(a, b, 0, 1<<30+7, n)
	ask := []protocol.BlockHome{{Block: block, Home: tnv.Home{Ino: a}}, {Block: block, Home: tnv.Home{Ino: b, Chunk: (1<<30 + 7) / tnv.ChunkSize}}}
	want := func(what string, s protocol.Liveness) {
		t.Helper()
		got, err := w.h.v.Alive(context.Background(), ask)
		w.h.must(err)
		if got[0] != s || got[1] != s {
			t.Errorf("%s: %v", what, got)
		}
	}
	want("cloned", protocol.LiveBlock)
	w.remove(0)
	w.settled()
	want("the source is gone", protocol.LiveBlock)
	w.h.reopen()
	want("after a restart", protocol.LiveBlock)
	w.compare(b)
	w.truncate(b, 1<<30+8)
	want("one byte is left", protocol.LiveBlock)
	w.truncate(b, 1<<30+7)
	want("nothing is left", protocol.DeadBlock)
	w.h.check()
}

// A repeated copy is answered as the first time and counts nothing twice.
func TestCopyOnce(t *testing.T) {
	w := newWorld(t, Config{}, tnv.ChunkSize, 2)
	w.write(w.inos[0], 0)
	rq := &protocol.CopyRange{From: w.inos[0], To: w.inos[1], Len: 1 << 30}
	var first, second protocol.CopyRangeReply
	w.h.must(w.h.send(5, 1, protocol.TypeCopyRange, &first, rq))
	w.h.must(w.h.send(5, 1, protocol.TypeCopyRange, &second, rq))
	if first.Attr != second.Attr || first.Copied != second.Copied {
		t.Errorf("%+v, then %+v", first, second)
	}
	w.h.check()
}
