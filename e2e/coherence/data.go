package coherence

import (
	"maps"
	"syscall"
)

// register is a state of one file's content: what all see, and what is seen on
// a mount where something was written that is not yet published. One worker of a
// mount writes to a file, so there is at most one such value per mount.
type register struct {
	pub  string
	mine map[int]string
}

func (r *register) equal(o *register) bool { return r.pub == o.pub && maps.Equal(r.mine, o.mine) }

// with is a copy in which a mount has a value of its own; "": none.
func (r *register) with(mount int, val string) *register {
	n := &register{r.pub, maps.Clone(r.mine)}
	if n.mine == nil {
		n.mine = map[int]string{}
	}
	if delete(n.mine, mount); val != "" {
		n.mine[mount] = val
	}
	return n
}

// step returns the states that may follow; none: the result is impossible.
func (r *register) step(o *Op) (out []*register) {
	switch {
	case o.Err == syscall.ESTALE: // as with names
		return []*register{r}
	case o.Err != 0 && !o.unknown():
		return nil
	}
	val, mine := r.mine[o.Mount]
	if !mine {
		val = r.pub
	}
	switch o.Kind {
	case Read:
		if o.Val == val {
			out = append(out, r)
		}
	case Size:
		if o.Arg == len(val) {
			out = append(out, r)
		}
	case dirty:
		out = append(out, r.with(o.Mount, o.Val))
	case publish:
		if mine && val == o.Val {
			n := r.with(o.Mount, "")
			n.pub = o.Val
			out = append(out, n)
		}
	case Empty:
		n := r.with(o.Mount, "")
		n.pub = ""
		out = append(out, n)
	case Replace:
		out = append(out, &register{pub: o.Val})
	default:
		panic("no such operation: " + string(o.Kind))
	}
	if o.unknown() {
		if out = append(out, r); mine { // what was written may have been given up
			out = append(out, r.with(o.Mount, ""))
		}
	}
	return out
}

// firstValue is what overwritten files hold at first.
const firstValue = "the first value of a file ....." + "\n"
