package meta

import (
	"context"

	"github.com/tnvfs/tnv"
)

// Named is what the metadata says of a block.
type Named struct {
	Group  tnv.GroupID
	Len    uint32
	Home   tnv.Home // a chunk that names it
	Shared bool     // it has references: other chunks may name it, too
}

// Part is one of Of equal parts of all block ids, by a hash of the id: so that
// what is compared at a time fits in memory. The zero Part has all ids.
type Part struct{ N, Of uint32 }

// Has tells whether an id is in the part.
func (p Part) Has(id uint64) bool {
	return p.Of <= 1 || uint32((id*0x9e3779b97f4a7c15)>>32)%p.Of == p.N
}

// maxCensus is how many blocks a census holds: some 100 MiB.
const maxCensus = 1 << 20

// ErrTooMany: the part has more blocks than are looked at together.
var ErrTooMany = tnv.E("census", tnv.KindTooBig, "more than %d blocks: take a smaller part", maxCensus)

// Census lists the blocks of a part that the metadata names at one moment,
// chunks that truncation has left to the background included. ErrTooMany asks
// for a smaller part.
func (v *Volume) Census(ctx context.Context, part Part) (map[tnv.BlockID]Named, error) {
	named := map[tnv.BlockID]Named{}
	err := v.eachChunk(ctx, func(home tnv.Home, c *chunk) error {
		for _, e := range c.extents {
			if e.Block == 0 || !part.Has(uint64(e.Block)) {
				continue
			}
			if len(named) == maxCensus {
				return ErrTooMany
			}
			named[e.Block] = Named{e.Group, e.BlockLen, home, e.Flags&tnv.ExtentShared != 0}
		}
		return nil
	})
	return named, err
}
