package meta

import (
	"sort"

	"github.com/tnvfs/tnv/protocol"
)

// lockRange is a range of bytes that its owner has locked; end is the last byte.
type lockRange struct {
	start, end uint64
	mode       protocol.LockMode
}

// setRange lays r over what an owner has, which is sorted and disjoint with no
// two neighbours of one mode that touch; so is the result. LockNone cuts r out.
func setRange(own []lockRange, r lockRange) []lockRange {
	out := make([]lockRange, 0, len(own)+2)
	add := func(x lockRange) {
		if n := len(out); n > 0 && out[n-1].mode == x.mode && out[n-1].end+1 == x.start {
			out[n-1].end = x.end
			return
		}
		out = append(out, x)
	}
	for _, o := range own {
		if o.start < r.start {
			add(lockRange{o.start, min(o.end, r.start-1), o.mode})
		}
	}
	if r.mode != protocol.LockNone {
		add(r)
	}
	for _, o := range own {
		if o.end > r.end {
			add(lockRange{max(o.start, r.end+1), o.end, o.mode})
		}
	}
	return out
}

// excludes is the first range of what somebody has that excludes another's r, nil if none does.
func excludes(held []lockRange, r lockRange) *lockRange {
	for i := sort.Search(len(held), func(i int) bool { return held[i].end >= r.start }); i < len(held); i++ {
		switch o := &held[i]; {
		case o.start > r.end:
			return nil
		case o.mode == protocol.LockExclusive || r.mode == protocol.LockExclusive:
			return o
		}
	}
	return nil
}

// wellFormed tells whether ranges are as setRange makes them.
func wellFormed(l []lockRange) bool {
	for i, r := range l {
		switch {
		case r.mode != protocol.LockShared && r.mode != protocol.LockExclusive,
			r.start > r.end, r.end > protocol.LockEOF:
			return false
		case i > 0 && (l[i-1].end >= r.start || l[i-1].end+1 == r.start && l[i-1].mode == r.mode):
			return false
		}
	}
	return true
}
