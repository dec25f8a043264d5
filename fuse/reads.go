package fuse

import (
	"context"
	"time"

	"github.com/tnvfs/tnv"
)

// Which READs may not end short, and when.
//
// A READ that was asked before a notification and answered by what came to be
// behind it would show zeros (see pages). The answer can only be such if the
// notification let somebody go on who makes the file shorter: so a recall is answered
// only when the READs that were under way as the kernel was told are answered.

// readGroup is some READs under way. It is changed under pages.mu.
type readGroup struct {
	n    int
	over chan struct{} // closed when n is 0 and no more come
}

// reading notes that a READ is under way until done is called.
func (p *pages) reading(ino tnv.Ino) (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[ino]
	if in == nil {
		return func() {}
	}
	if in.reads == nil {
		in.reads = &readGroup{over: make(chan struct{})}
	}
	g := in.reads
	g.n++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if g.n--; g.n == 0 && in.reads != g {
			in.drained = without(in.drained, g)
			close(g.over)
		}
	}
}

func without(l []*readGroup, g *readGroup) []*readGroup {
	for i := range l {
		if l[i] == g {
			return append(l[:i:i], l[i+1:]...)
		}
	}
	return l
}

// maxDraining is how long a recall waits for READs: they may take as long as the
// storage daemons do.
const maxDraining = 100 * time.Millisecond

// drain waits until the READs of now are answered.
func (p *pages) drain(ino tnv.Ino) {
	p.mu.Lock()
	var under []*readGroup
	if in := p.inodes[ino]; in != nil {
		if in.reads != nil && in.reads.n > 0 {
			in.drained = append(in.drained, in.reads)
			in.reads = nil
		}
		under = append(under, in.drained...)
	}
	p.mu.Unlock()
	if len(under) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), maxDraining)
	defer cancel()
	for _, g := range under {
		wait(ctx, g.over, maxDraining)
	}
}

// While this mount itself cuts a file, from before the owner does so until the
// kernel has taken SETATTR's reply in, the kernel does not believe a READ that ends
// short, either (FUSE_I_SIZE_UNSTABLE), and shows zeros. So it is given what was there
// before: the page goes as soon as the reply is taken in. Where that is not known, the
// answer is held back until then.

// cut is a SETATTR of a size.
type cut struct {
	under int           // how many are under way
	over  chan struct{} // closed when none is any more
	at    time.Time     // when the last one was answered
	from  uint64        // the size before: what ends behind it is not short
}

// takenIn is how long an answer is held back behind SETATTR's reply that was asked
// for behind it: by then it is taken in.
const takenIn = 5 * time.Millisecond

// cutting notes that a size is being set, until done is called.
func (p *pages) cutting(ino tnv.Ino) (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[ino]
	if in == nil {
		return func() {}
	}
	c := &in.cut
	if c.under++; c.under == 1 {
		c.over, c.from = make(chan struct{}), 0
	}
	c.from = max(c.from, in.size)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		c.at = time.Now()
		if c.under--; c.under == 0 {
			close(c.over)
		}
	}
}

// under tells whether a READ that arrived at a time overlaps with a cut.
func (p *pages) under(ino tnv.Ino, arrived time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[ino]
	return in != nil && (in.cut.under > 0 || arrived.Before(in.cut.at))
}

// short returns when the kernel may be told that a file ends at an offset, in answer
// to a READ that arrived at a time.
func (p *pages) short(ctx context.Context, ino tnv.Ino, end uint64, arrived time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.inodes[ino]
	if in == nil {
		return
	}
	size := in.size
	if in.cut.under > 0 || time.Since(in.cut.at) < settling {
		size = max(size, in.cut.from)
	}
	if end >= size {
		return
	}
	if under := in.cut.under > 0; under || time.Since(in.cut.at) < settling {
		over := in.cut.over
		p.mu.Unlock()
		if under {
			wait(ctx, over, maxOpening)
		}
		p.mu.Lock()
		until := in.cut.at.Add(takenIn)
		if arrived.Before(in.cut.at) {
			until = in.cut.at.Add(settling)
		}
		p.mu.Unlock()
		wait(ctx, nil, time.Until(until))
		p.mu.Lock()
	}
	in.shortAt = time.Now()
}

// lookedAt is how long it takes whoever was told that a file ends short until it has
// looked at the size: a WRITE that makes the file longer waits for that, or zeros would
// count as its data.
const lookedAt = 20 * time.Millisecond

// writing returns when a WRITE may be answered, which ends at an offset.
func (p *pages) writing(ctx context.Context, ino tnv.Ino, end uint64) {
	p.mu.Lock()
	in := p.inodes[ino]
	if in == nil {
		p.mu.Unlock()
		return
	}
	in.size = max(in.size, end)
	left := time.Until(in.shortAt.Add(lookedAt))
	p.mu.Unlock()
	if left > 0 {
		wait(ctx, nil, left)
	}
}
