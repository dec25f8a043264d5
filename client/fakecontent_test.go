package client

import (
	"slices"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// alive answers by what all files name.
func (t *fakeTracker) alive(f *protocol.Frame) ([]any, error) {
	var rq protocol.Alive
	if err := f.Decode(&rq); err != nil {
		return nil, err
	}
	named := map[tnv.BlockID]bool{}
	for _, ff := range t.files {
		for c := uint64(0); c*tnv.ChunkSize < ff.attr.Size; c++ {
			for _, e := range ff.chunk(c) {
				named[e.Block] = true
			}
		}
	}
	rep := protocol.AliveReply{State: make([]protocol.Liveness, len(rq.Blocks))}
	for i, b := range rq.Blocks {
		if !named[b.Block] {
			rep.State[i] = protocol.DeadBlock
		}
	}
	return []any{&rep}, nil
}

// seek looks for data, chunk by chunk.
func (t *fakeTracker) seek(f *protocol.Frame, head *protocol.Head) ([]any, error) {
	var rq protocol.Seek
	if err := f.Decode(head, &rq); err != nil {
		return nil, err
	}
	ff, err := t.file(rq.Ino)
	if err != nil {
		return nil, err
	}
	rep := protocol.SeekReply{Attr: ff.attr}
	for c := rq.Off / tnv.ChunkSize; !rq.Hole && c*tnv.ChunkSize < ff.attr.Size; c++ {
		for _, e := range ff.chunk(c) {
			if base := c * tnv.ChunkSize; base+uint64(e.End()) > rq.Off {
				rep.State, rep.Off = protocol.SeekFound, max(rq.Off, base+uint64(e.Off))
				return []any{&rep}, nil
			}
		}
	}
	return []any{&rep}, nil
}

// copyRange makes an empty file the clone of a whole one.
func (t *fakeTracker) copyRange(f *protocol.Frame, head *protocol.Head) ([]any, error) {
	var rq protocol.CopyRange
	if err := f.Decode(head, &rq); err != nil {
		return nil, err
	}
	from, err := t.file(rq.From)
	if err != nil {
		return nil, err
	}
	to, err := t.file(rq.To)
	if err != nil {
		return nil, err
	}
	to.extents = slices.Clone(from.extents)
	to.attr.Size, to.attr.Version, to.attr.Data = from.attr.Size, t.version, t.version
	rep := protocol.CopyRangeReply{Attr: to.attr, Copied: from.attr.Size}
	for _, x := range to.extents {
		rep.Groups = append(rep.Groups, x.e.Group)
	}
	return []any{&rep}, nil
}
