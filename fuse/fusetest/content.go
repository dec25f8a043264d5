package fusetest

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/fuse"
	"github.com/tnvfs/tnv/protocol"
)

// Holes are whole chunks of 1 MiB that were never written or are punched
// altogether: what is written of a chunk makes all of it data.

// Fallocate does what the kernel hands on: allocate, punch and zero.
func (f *file) Fallocate(ctx context.Context, mode uint32, off, n int64) error {
	if err := f.v.begin(ctx, "fallocate"); err != nil {
		return err
	}
	defer f.v.mu.Unlock()
	switch mode {
	case 0, protocol.FallocKeepSize:
	case protocol.FallocPunchHole | protocol.FallocKeepSize, protocol.FallocZeroRange, protocol.FallocZeroRange | protocol.FallocKeepSize:
		for at := off; at < off+n; {
			in := at % chunkSize
			part := min(off+n-at, chunkSize-in)
			switch {
			case f.n.chunks[at/chunkSize] == nil:
			case part == chunkSize:
				delete(f.n.chunks, at/chunkSize)
			default:
				clear(f.n.writable(at / chunkSize).data[in : in+part])
			}
			at += part
		}
	default:
		return tnv.E("fallocate", tnv.KindNotSupported, "mode %#x", mode)
	}
	if mode&protocol.FallocKeepSize == 0 {
		f.n.attr.Size = max(f.n.attr.Size, uint64(off+n))
	}
	f.contentLocked()
	return nil
}

// contentLocked notes a change of the content.
func (f *file) contentLocked() {
	if f.killSUID {
		f.n.killSUID()
		f.killSUID = false
	}
	f.n.attr.Blocks = uint64(len(f.n.chunks)) * chunkSize / 512
	f.v.changedLocked(f.n, true)
}

func (f *file) SeekData(ctx context.Context, off int64) (int64, error) { return f.seek(ctx, off, true) }
func (f *file) SeekHole(ctx context.Context, off int64) (int64, error) {
	return f.seek(ctx, off, false)
}

func (f *file) seek(ctx context.Context, off int64, data bool) (int64, error) {
	if err := f.v.begin(ctx, "seek"); err != nil {
		return 0, err
	}
	defer f.v.mu.Unlock()
	size := int64(f.n.attr.Size)
	for at := off; at < size; at = (at/chunkSize + 1) * chunkSize {
		if (f.n.chunks[at/chunkSize] != nil) == data {
			return at, nil
		}
	}
	if data || off >= size {
		return 0, tnv.E("seek", tnv.KindNotDeviceOrAddr, "from %d on", off)
	}
	return size, nil
}

func (f *file) CopyRange(ctx context.Context, to fuse.File, off, toOff, n int64) (int64, error) {
	if err := f.v.begin(ctx, "copyrange"); err != nil {
		return 0, err
	}
	defer f.v.mu.Unlock()
	t := to.(*file)
	n = max(0, min(n, int64(f.n.attr.Size)-off))
	if f.n == t.n && off < toOff+n && toOff < off+n {
		return 0, tnv.E("copy range", tnv.KindInvalid, "the ranges overlap")
	}
	for done := int64(0); done < n; {
		from, at := off+done, toOff+done
		part := min(n-done, chunkSize-from%chunkSize, chunkSize-at%chunkSize)
		b := zeros[:part]
		if c := f.n.chunks[from/chunkSize]; c != nil {
			b = c.data[from%chunkSize:][:part]
		}
		copy(t.n.writable(at / chunkSize).data[at%chunkSize:], b)
		done += part
	}
	if n > 0 {
		t.n.attr.Size = max(t.n.attr.Size, uint64(toOff+n))
		t.contentLocked()
	}
	return n, nil
}
