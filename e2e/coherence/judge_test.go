package coherence

import (
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// script is a history in which each operation is over before the next begins,
// unless during says how many of those before it are still under way.
type script struct {
	arena Arena
	ops   []Op
}

func newScript() *script { return &script{arena: Arena{P: 1, Q: 2, Fixed: 3}} }

func (s *script) add(o Op) *script {
	o.Worker = len(s.ops)
	o.Call, o.Ret = int64(10*len(s.ops)), int64(10*len(s.ops)+5)
	s.ops = append(s.ops, o)
	return s
}

// during adds an operation that began with the first one.
func (s *script) during(o Op) *script {
	s.add(o)
	s.ops[len(s.ops)-1].Call = 0
	return s
}

func (s *script) found(t *testing.T) []Violation {
	r := Round{Arenas: []Arena{s.arena}, Ops: s.ops}
	return r.Judge(t.TempDir())
}

func made(name string, ino uint64) Op {
	return Op{Kind: Create, Dir: 1, Name: name, Arg: 0o644, Attr: &Attr{Ino: ino, Mode: 0o644, Nlink: 1}}
}

func stat(name string, ino uint64, nlink int) Op {
	return Op{Kind: Stat, Dir: 1, Name: name, Attr: &Attr{Ino: ino, Mode: 0o644, Nlink: nlink}}
}

func missing(o Op) Op {
	o.Err, o.Attr = syscall.ENOENT, nil
	return o
}

func move(from, to string) Op {
	return Op{Kind: Rename, Dir: 1, Name: from, Dir2: 1, Name2: to}
}

func unlink(name string) Op { return Op{Kind: Unlink, Dir: 1, Name: name} }

// The judge of names says yes to what is right.
func TestNamesThatAreRight(t *testing.T) {
	for name, s := range map[string]*script{
		"come and go": newScript().add(made("a", 10)).add(stat("a", 10, 1)).add(unlink("a")).add(missing(stat("a", 0, 0))),
		"renamed over": newScript().add(made("a", 10)).add(made("b", 11)).add(Op{Kind: Lookup, Dir: 1, Name: "b", Attr: &Attr{Ino: 11}}).
			add(move("a", "b")).add(stat("b", 10, 1)).add(Op{Kind: GetAttr, Ino: 11, Attr: &Attr{Ino: 11, Mode: 0o644}}),
		"links":            newScript().add(Op{Kind: Link, Ino: 3, Dir2: 1, Name2: "a"}).add(stat("a", 3, 2)).add(stat("k", 3, 2)),
		"exchanged":        newScript().add(made("a", 10)).add(made("b", 11)).add(Op{Kind: Rename, Dir: 1, Name: "a", Dir2: 1, Name2: "b", Arg: unix.RENAME_EXCHANGE}).add(stat("a", 11, 1)),
		"late":             newScript().add(made("a", 10)).during(missing(stat("a", 0, 0))),
		"nobody knows":     newScript().add(Op{Kind: Unlink, Dir: 1, Name: "k", Err: syscall.EIO}).add(stat("k", 3, 1)).add(missing(stat("k", 0, 0))),
		"directory's size": newScript().add(Op{Kind: Mkdir, Dir: 1, Name: "u", Arg: 0o755}).add(Op{Kind: GetAttr, Ino: 1, Attr: &Attr{Ino: 1, Dir: true, Mode: 0o755, Nlink: 3}}),
		"listed":           newScript().add(made("a", 10)).add(Op{Kind: List, Dir: 1, Ents: []Entry{{Name: "k", Ino: 3}, {Name: "a", Ino: 10}}}),
		"removed under us": newScript().add(Op{Kind: Mkdir, Dir: 1, Name: "u", Arg: 0o755}).add(Op{Kind: Lookup, Dir: 1, Name: "u", Attr: &Attr{Ino: 20, Dir: true}}).
			add(Op{Kind: Rmdir, Dir: 1, Name: "u"}).add(Op{Kind: Create, Dir: 20, Name: "a", Err: syscall.ENOENT}),
		"both won the rename": newScript().add(made("a", 10)).add(move("a", "b")).add(move("a", "b")),
	} {
		if v := s.found(t); len(v) != 0 {
			t.Errorf("%s: %s", name, v[0].Message)
		}
	}
}

// The judge of names says no to what is wrong, and what it shows ends with it.
func TestNamesThatAreWrong(t *testing.T) {
	for name, s := range map[string]*script{
		"stale negative":   newScript().add(made("a", 10)).add(missing(stat("a", 0, 0))),
		"stale positive":   newScript().add(made("a", 10)).add(unlink("a")).add(stat("a", 10, 1)),
		"other inode":      newScript().add(made("a", 10)).add(made("b", 11)).add(move("a", "b")).add(stat("b", 11, 1)),
		"made twice":       newScript().add(made("a", 10)).add(made("a", 11)),
		"number twice":     newScript().add(made("a", 10)).add(made("b", 10)),
		"count of links":   newScript().add(Op{Kind: Link, Ino: 3, Dir2: 1, Name2: "a"}).add(stat("k", 3, 1)),
		"mode":             newScript().add(Op{Kind: Chmod, Ino: 3, Arg: 0o600}).add(stat("k", 3, 1)),
		"size":             newScript().add(Op{Kind: Truncate, Ino: 3, Arg: 5}).add(stat("k", 3, 1)),
		"listed too long":  newScript().add(made("a", 10)).add(unlink("a")).add(Op{Kind: List, Dir: 1, Ents: []Entry{{Name: "k", Ino: 3}, {Name: "a", Ino: 10}}}),
		"not listed":       newScript().add(made("a", 10)).add(Op{Kind: List, Dir: 1, Ents: []Entry{{Name: "k", Ino: 3}}}),
		"listed as other":  newScript().add(made("a", 10)).add(Op{Kind: List, Dir: 1, Ents: []Entry{{Name: "k", Ino: 3}, {Name: "a", Ino: 11}}}),
		"replaced anyway":  newScript().add(made("a", 10)).add(made("b", 11)).add(Op{Kind: Rename, Dir: 1, Name: "a", Dir2: 1, Name2: "b", Arg: unix.RENAME_NOREPLACE}),
		"rename lost":      newScript().add(made("a", 10)).add(move("a", "b")).add(stat("a", 10, 1)),
		"removed full":     newScript().add(Op{Kind: Rmdir, Dir: 1, Name: "k"}),
		"no such file":     newScript().add(unlink("a")),
		"removed twice":    newScript().add(unlink("k")).add(unlink("k")),
		"open file gone":   newScript().add(unlink("k")).add(Op{Kind: GetAttr, Ino: 3, Err: syscall.ENOENT}),
		"HTTP is late":     newScript().add(unlink("k")).add(Op{Kind: Exists, Mount: httpMount, Dir: 1, Name: "k"}),
		"made in the void": newScript().add(Op{Kind: Mkdir, Dir: 1, Name: "u"}).add(Op{Kind: Lookup, Dir: 1, Name: "u", Attr: &Attr{Ino: 20, Dir: true}}).add(Op{Kind: Rmdir, Dir: 1, Name: "u"}).add(Op{Kind: Create, Dir: 20, Name: "a", Attr: &Attr{Ino: 21}}),
	} {
		v := s.found(t)
		if len(v) != 1 {
			t.Errorf("%s goes unnoticed", name)
			continue
		}
		if last := s.ops[len(s.ops)-1]; !strings.Contains(v[0].Message, last.String()) || v[0].File == "" {
			t.Errorf("%s: the end of the history is not %v: %s", name, &last, v[0].Message)
		}
	}
}

func data(k Kind, mount int, val string) Op {
	return Op{Kind: k, Mount: mount, File: "e0", Val: val, Arg: len(val)}
}

func TestData(t *testing.T) {
	under := func(s *script, i int, until int64) *script {
		s.ops[i].Ret = until
		return s
	}
	for name, c := range map[string]struct {
		s  *script
		ok bool
	}{
		"close to open":         {newScript().add(data(Write, 0, "x")).add(data(Read, 1, "x")).add(data(Size, httpMount, "x")), true},
		"stale elsewhere":       {newScript().add(data(Write, 0, "x")).add(data(Read, 1, "")), false},
		"stale here":            {newScript().add(data(Write, 0, "x")).add(data(Read, 0, "")), false},
		"stale over HTTP":       {newScript().add(data(Write, 0, "x")).add(data(Size, httpMount, "")), false},
		"here before elsewhere": {under(newScript().add(data(Write, 0, "x")).add(data(Read, 0, "x")).add(data(Read, 1, "")), 0, 100), true},
		"back again here":       {under(newScript().add(data(Write, 0, "x")).add(data(Read, 0, "x")).add(data(Read, 0, "")), 0, 100), false},
		"back again elsewhere":  {under(newScript().add(data(Write, 0, "x")).add(data(Read, 1, "x")).add(data(Read, 2, "")), 0, 100), false},
		"never written":         {newScript().add(data(Write, 0, "x")).add(data(Read, 1, "y")), false},
		"emptied":               {newScript().add(data(Write, 0, "x")).add(data(Empty, 1, "")).add(data(Read, 0, "")), true},
		"not emptied":           {newScript().add(data(Write, 0, "x")).add(data(Empty, 1, "")).add(data(Read, 0, "x")), false},
		"replaced":              {newScript().add(data(Replace, 0, "x")).add(data(Read, 1, "x")), true},
		"torn":                  {newScript().add(data(Replace, 0, "xx")).add(data(Read, 1, "x")), false},
		"missing":               {newScript().add(data(Replace, 0, "x")).add(missing(data(Read, 1, "x"))), false},
		"may be lost":           {newScript().add(Op{Kind: Write, File: "e0", Val: "x", Err: syscall.EIO}).add(data(Read, 1, "")).add(data(Read, 1, "x")), true},
	} {
		if v := c.s.found(t); (len(v) == 0) != c.ok {
			t.Errorf("%s: %v", name, v)
		}
	}
}

func TestAppends(t *testing.T) {
	rec := func(c string) string { return strings.Repeat(c, recordSize) }
	r := Round{Ops: newScript().add(data(Append, 0, rec("x"))).add(data(Append, 1, rec("y"))).ops}
	for content, ok := range map[string]bool{
		rec("x") + rec("y"):            true,
		rec("y") + rec("x"):            false,
		rec("x"):                       false,
		rec("x") + rec("y") + rec("z"): false,
		rec("x") + rec("y") + rec("y"): false,
		rec("x") + rec("y")[1:]:        false,
	} {
		if err := r.CheckAppends(content); (err == nil) != ok {
			t.Errorf("%q: %v", content, err)
		}
	}
}
