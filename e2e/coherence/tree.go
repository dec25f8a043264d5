package coherence

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// tree is a state of an arena's names: what porcupine steps through. It is never
// changed once made. Equal trees have equal keys: the objects stand in the order
// in which a walk from the roots finds them, those without a name behind them.
type tree struct {
	objs []object
	key  string
}

// object is a file or a directory. Its inode number is 0 until some result
// named it.
type object struct {
	ino   uint64
	dir   bool
	root  bool
	mode  int
	size  int
	nlink int     // names of a file
	was   uint16  // names that a file ever had, as bits (nameBit)
	ents  []entry // of a directory, sorted by name
}

type entry struct {
	name string
	obj  int
}

// Names in an arena: files, directories (which are in the roots only), and the
// file that is there always, of which links are made.
var (
	fileNames = []string{"a", "b", "c"}
	dirNames  = []string{"u", "v"}
)

const fixedName = "k"

// nameBit is a bit for each name of an arena.
func nameBit(name string) uint16 { return 1 << strings.IndexByte("abcuvk", name[0]) }

// find is the object with an inode number, or -1.
func (t *tree) find(ino uint64) int {
	return slices.IndexFunc(t.objs, func(o object) bool { return o.ino == ino && ino != 0 })
}

// at is the object that a name leads to, or -1.
func (t *tree) at(dir int, name string) int {
	for _, e := range t.objs[dir].ents {
		if e.name == name {
			return e.obj
		}
	}
	return -1
}

func (t *tree) dead(i int) bool {
	o := &t.objs[i]
	return !o.root && o.nlink == 0
}

// clone is a copy to be changed. It has to be settled.
func (t *tree) clone() *tree {
	n := &tree{objs: slices.Clone(t.objs)}
	for i := range n.objs {
		n.objs[i].ents = slices.Clone(n.objs[i].ents)
	}
	return n
}

// put gives an object a name.
func (t *tree) put(dir int, name string, obj int) {
	d := &t.objs[dir]
	d.ents = append(d.ents, entry{name, obj})
	slices.SortFunc(d.ents, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	t.objs[obj].nlink++
	if !t.objs[obj].dir {
		t.objs[obj].was |= nameBit(name)
	}
}

// cut takes a name away.
func (t *tree) cut(dir int, name string) (obj int) {
	d := &t.objs[dir]
	i := slices.IndexFunc(d.ents, func(e entry) bool { return e.name == name })
	obj = d.ents[i].obj
	d.ents = slices.Delete(d.ents, i, i+1)
	t.objs[obj].nlink--
	return obj
}

// add makes a new object.
func (t *tree) add(dir int, name string, o object) {
	t.objs = append(t.objs, o)
	t.put(dir, name, len(t.objs)-1)
}

// settle puts a changed tree in order. Objects without a name are kept only if
// something may still be asked of them.
func (t *tree) settle(keep func(ino uint64) bool) *tree {
	order, place := make([]int, 0, len(t.objs)), make([]int, len(t.objs))
	for i := range place {
		place[i] = -1
	}
	visit := func(i int) {
		if place[i] < 0 {
			place[i] = len(order)
			order = append(order, i)
		}
	}
	for i, o := range t.objs {
		if o.root {
			visit(i)
		}
	}
	for at := 0; at < len(order); at++ {
		for _, e := range t.objs[order[at]].ents {
			visit(e.obj)
		}
	}
	var rest []int
	for i, o := range t.objs {
		if place[i] < 0 && o.ino != 0 && keep(o.ino) {
			rest = append(rest, i)
		}
	}
	slices.SortFunc(rest, func(a, b int) int { return cmp.Compare(t.objs[a].ino, t.objs[b].ino) })
	for _, i := range rest {
		visit(i)
	}
	n := &tree{objs: make([]object, len(order))}
	for to, from := range order {
		n.objs[to] = t.objs[from]
		for j := range n.objs[to].ents {
			n.objs[to].ents[j].obj = place[n.objs[to].ents[j].obj]
		}
	}
	n.key = n.encode()
	return n
}

func (t *tree) encode() string {
	var b []byte
	for _, o := range t.objs {
		b = binary.AppendUvarint(b, o.ino)
		if o.dir {
			b = append(b, 'd')
		}
		for _, n := range []int{o.mode, o.size, o.nlink, int(o.was), len(o.ents)} {
			b = binary.AppendUvarint(b, uint64(n))
		}
		for _, e := range o.ents {
			b = append(append(b, e.name...), byte(e.obj))
		}
	}
	return string(b)
}

// names is the model of the names and attributes of one arena.
type names struct {
	last map[uint64]int64 // when the last call ended that names an inode by its number
}

// Each step returns the states that may follow; none: the result is impossible
// in this state.
func (m *names) step(t *tree, o *Op) []*tree {
	same := []*tree{t}
	if o.Err == syscall.ESTALE {
		// The kernel looked a name up and found the inode gone, twice. It says
		// nothing of what is there, and does nothing.
		return same
	}
	switch o.Kind {
	case GetAttr, Chmod, Truncate, Link:
		i := t.find(o.Ino)
		if i < 0 {
			return nil // not yet seen by the one who told the number
		}
		if o.Kind == Link {
			return m.link(t, i, o)
		}
		return m.inode(t, i, o)
	}
	d := t.find(o.Dir)
	if d < 0 {
		return nil
	}
	if t.dead(d) { // a removed directory in which somebody still is
		if o.Err == 0 && !(o.Kind == List && len(o.Ents) == 0) {
			return nil
		}
		return same
	}
	switch o.Kind {
	case Lookup, Exists, List:
		return m.look(t, d, o)
	case Create, Ensure, Mkdir:
		return m.make(t, d, o)
	case Unlink, Rmdir:
		return m.remove(t, d, o)
	case Rename:
		return m.rename(t, d, o)
	}
	panic("no such operation: " + string(o.Kind))
}

// change is a changed copy.
func (m *names) change(t *tree, o *Op, fn func(n *tree)) []*tree {
	n := t.clone()
	fn(n)
	return []*tree{n.settle(func(ino uint64) bool { return m.last[ino] >= o.Call })}
}

// maybe is what follows a call of which nobody knows whether it was done.
func maybe(t *tree, done []*tree) []*tree { return append([]*tree{t}, done...) }

// bind notes which inode number an object turned out to have. None: it has
// another, or another has it.
func (m *names) bind(t *tree, i int, o *Op, ino uint64, dir bool) []*tree {
	switch {
	case t.objs[i].dir != dir:
		return nil
	case t.objs[i].ino == ino || ino == 0:
		return []*tree{t}
	case t.objs[i].ino != 0 || t.find(ino) >= 0:
		return nil
	}
	return m.change(t, o, func(n *tree) { n.objs[i].ino = ino })
}

func (m *names) look(t *tree, d int, o *Op) []*tree {
	i := -1
	if o.Name != "" {
		i = t.at(d, o.Name)
	}
	switch {
	case o.Kind == List && o.Err == 0:
		return m.list(t, d, o)
	case o.Err == syscall.ENOENT && o.Kind != List && i < 0:
		return []*tree{t}
	case o.Err == 0 && o.Kind == Exists && i >= 0:
		return []*tree{t}
	case o.Err == 0 && o.Kind == Lookup && i >= 0:
		return m.bind(t, i, o, o.Attr.Ino, o.Attr.Dir)
	}
	return nil
}

func (m *names) list(t *tree, d int, o *Op) []*tree {
	if len(o.Ents) != len(t.objs[d].ents) {
		return nil
	}
	out := []*tree{t}
	for _, e := range o.Ents {
		i := out[0].at(out[0].find(o.Dir), e.Name)
		if i < 0 {
			return nil
		}
		if out = m.bind(out[0], i, o, e.Ino, e.Dir); len(out) == 0 {
			return nil
		}
	}
	return out
}

func (m *names) make(t *tree, d int, o *Op) []*tree {
	i := t.at(d, o.Name)
	made := func() []*tree {
		obj := object{dir: o.Kind == Mkdir, mode: o.Arg}
		if o.Attr != nil {
			if obj.ino = o.Attr.Ino; t.find(obj.ino) >= 0 {
				return nil
			}
		}
		return m.change(t, o, func(n *tree) { n.add(d, o.Name, obj) })
	}
	switch {
	case o.unknown() && i < 0:
		return maybe(t, made())
	case o.unknown():
		return []*tree{t}
	case o.Err == 0 && i < 0:
		return made()
	case o.Err == 0 && o.Kind == Ensure:
		return m.bind(t, i, o, o.Attr.Ino, false)
	case o.Err == syscall.EEXIST && o.Kind != Ensure && i >= 0,
		o.Err == syscall.EISDIR && o.Kind == Ensure && i >= 0 && t.objs[i].dir:
		return []*tree{t}
	}
	return nil
}

func (m *names) remove(t *tree, d int, o *Op) []*tree {
	i := t.at(d, o.Name)
	isDir := i >= 0 && t.objs[i].dir
	empty := i >= 0 && len(t.objs[i].ents) == 0
	can := i >= 0 && isDir == (o.Kind == Rmdir) && empty
	done := func() []*tree { return m.change(t, o, func(n *tree) { n.cut(d, o.Name) }) }
	ok := false
	switch {
	case o.unknown() && can:
		return maybe(t, done())
	case o.Err == 0 && can:
		return done()
	case o.unknown():
		ok = true
	case o.Err == syscall.ENOENT:
		ok = i < 0
	case o.Err == syscall.EISDIR:
		ok = isDir && o.Kind == Unlink
	case o.Err == syscall.ENOTDIR:
		ok = i >= 0 && !isDir && o.Kind == Rmdir
	case o.Err == syscall.ENOTEMPTY:
		ok = isDir && !empty && o.Kind == Rmdir
	}
	if ok {
		return []*tree{t}
	}
	return nil
}

// rename: the kernel looks both names up, one after the other, before it asks. If
// it refuses by itself, for what the target is, the source need not have been
// there any more; if it found the same file behind both, which is success without
// effect, the file need not have had both names at once.
func (m *names) rename(t *tree, d int, o *Op) []*tree {
	e := t.find(o.Dir2)
	if e < 0 {
		return nil
	}
	if t.dead(e) {
		if o.Err == 0 {
			return nil
		}
		return []*tree{t}
	}
	from, to := t.at(d, o.Name), t.at(e, o.Name2)
	done := m.moved(t, d, e, from, to, o)
	isDir := to >= 0 && t.objs[to].dir
	full := isDir && len(t.objs[to].ents) > 0
	ok := false
	switch o.Err {
	case 0:
		ok = o.Arg != unix.RENAME_NOREPLACE && to >= 0 && !isDir && t.objs[to].was&nameBit(o.Name) != 0
	case syscall.ENOENT:
		ok = from < 0 || o.Arg == unix.RENAME_EXCHANGE && to < 0
	case syscall.EEXIST:
		ok = o.Arg == unix.RENAME_NOREPLACE && to >= 0 || full
	case syscall.ENOTEMPTY:
		ok = full
	case syscall.EISDIR:
		ok = isDir
	case syscall.ENOTDIR:
		ok = to >= 0 && !isDir
	default:
		ok = o.unknown()
	}
	var out []*tree
	if o.Err == 0 || o.unknown() {
		out = done
	}
	if ok {
		out = append(out, t)
	}
	return out
}

// moved is what follows a rename that is done; none: it cannot be.
func (m *names) moved(t *tree, d, e, from, to int, o *Op) []*tree {
	switch {
	case from < 0, o.Arg == unix.RENAME_EXCHANGE && to < 0, o.Arg == unix.RENAME_NOREPLACE && to >= 0:
		return nil
	case from == to:
		return []*tree{t}
	case o.Arg == unix.RENAME_EXCHANGE:
		return m.change(t, o, func(n *tree) {
			n.cut(d, o.Name)
			n.cut(e, o.Name2)
			n.put(d, o.Name, to)
			n.put(e, o.Name2, from)
		})
	case to >= 0 && (t.objs[from].dir != t.objs[to].dir || len(t.objs[to].ents) > 0):
		return nil
	}
	return m.change(t, o, func(n *tree) {
		n.cut(d, o.Name)
		if to >= 0 {
			n.cut(e, o.Name2)
		}
		n.put(e, o.Name2, from)
	})
}

// link: the kernel refuses to link an inode that by its own count has no name,
// and its count may be behind; that is ENOENT without effect.
func (m *names) link(t *tree, i int, o *Op) []*tree {
	e := t.find(o.Dir2)
	if e < 0 {
		return nil
	}
	there := !t.dead(e) && t.at(e, o.Name2) >= 0
	can := !t.dead(e) && !there && t.objs[i].nlink > 0
	done := func() []*tree { return m.change(t, o, func(n *tree) { n.put(e, o.Name2, i) }) }
	switch {
	case o.unknown() && can:
		return maybe(t, done())
	case o.Err == 0 && can:
		return done()
	case o.unknown(), o.Err == syscall.ENOENT, o.Err == syscall.EEXIST && there:
		return []*tree{t}
	}
	return nil
}

// inode is what is done by an open file, or to the file that is always there.
func (m *names) inode(t *tree, i int, o *Op) []*tree {
	x := &t.objs[i]
	if x.dir && t.dead(i) {
		return []*tree{t} // a removed directory need not answer
	}
	if o.Kind == GetAttr {
		nlink := x.nlink
		if x.dir {
			nlink = 2
			for _, e := range x.ents {
				if t.objs[e.obj].dir {
					nlink++
				}
			}
		}
		a := o.Attr
		if o.Err == 0 && a.Dir == x.dir && a.Mode == x.mode && a.Nlink == nlink && (x.dir || a.Size == x.size) {
			return []*tree{t}
		}
		return nil
	}
	done := func() []*tree {
		return m.change(t, o, func(n *tree) {
			if o.Kind == Chmod {
				n.objs[i].mode = o.Arg
			} else {
				n.objs[i].size = o.Arg
			}
		})
	}
	switch {
	case o.unknown():
		return maybe(t, done())
	case o.Err == 0:
		return done()
	}
	return nil
}
