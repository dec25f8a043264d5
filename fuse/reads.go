package fuse

import (
	"context"
	"time"

	"github.com/tnvfs/tnv"
)

// A READ that was asked before a notification and answered by what came to be
// behind it would show zeros (see pages). The answer can only be such if the
// notification let somebody go on who makes the file shorter: so before the kernel
// is told that attributes are recalled, READs under way are waited for.

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
