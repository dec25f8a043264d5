package coherence

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Arena is where names are: two directories, and the file that is always there.
type Arena struct {
	Dir   string // path beneath the mount
	P, Q  uint64 // inodes of its directories p and q
	Fixed uint64 // inode of p/k
}

// Round is a history from a beginning that is known.
type Round struct {
	Arenas []Arena
	Data   string // directory of the files of data
	Ops    []Op
}

// part is a piece of the history that can be judged alone: of one arena, or of
// one file's data.
type part struct {
	name  string
	arena *Arena // nil: data
	ops   []Op
}

// parts splits a history.
func (r *Round) parts() []part {
	by := map[string]*part{}
	for _, o := range r.Ops {
		if o.Kind == Append {
			continue
		}
		name := o.File
		if name == "" {
			name = fmt.Sprintf("arena %d", o.Arena)
		}
		p := by[name]
		if p == nil {
			p = &part{name: name}
			if o.File == "" {
				p.arena = &r.Arenas[o.Arena]
			}
			by[name] = p
		}
		p.ops = append(p.ops, o)
	}
	var out []part
	for _, p := range by {
		slices.SortStableFunc(p.ops, func(a, b Op) int { return cmp.Compare(a.Call, b.Call) })
		out = append(out, *p)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out
}

// steps are what a history's calls are judged as.
func steps(ops []Op) (out []porcupine.Operation) {
	for i := range ops {
		o := ops[i]
		kinds := []Kind{o.Kind}
		switch o.Kind {
		case Write:
			kinds = []Kind{dirty, publish}
		case Stat:
			if kinds = []Kind{Lookup}; o.Err == 0 {
				kinds = append(kinds, GetAttr)
			}
		case Chmod, Truncate, Link, Create, Ensure, Mkdir, Unlink, Rmdir, Rename, Empty, Replace:
		default:
			if o.unknown() { // it changes nothing and tells nothing
				continue
			}
		}
		if o.Kind == Stat && o.unknown() {
			continue
		}
		if o.unknown() {
			o.Ret = forever
		}
		for _, k := range kinds {
			s := o
			if s.Kind = k; k == GetAttr && o.Kind == Stat {
				s.Ino = o.Attr.Ino
			}
			out = append(out, porcupine.Operation{ClientId: o.Worker, Input: &s, Call: o.Call, Return: o.Ret})
		}
	}
	return out
}

// begin is the tree at the beginning of a round.
func (a *Arena) begin() *tree {
	t := &tree{objs: []object{{ino: a.P, dir: true, root: true, mode: 0o755}, {ino: a.Q, dir: true, root: true, mode: 0o755}}}
	t.add(0, fixedName, object{ino: a.Fixed, mode: 0o644})
	return t.settle(func(uint64) bool { return false })
}

// model is porcupine's for a part.
func (p *part) model(ops []porcupine.Operation) porcupine.Model {
	m := porcupine.NondeterministicModel{
		DescribeOperation: func(in, _ any) string { return in.(*Op).String() },
	}
	if p.arena == nil {
		first := &register{}
		if slices.Contains(overwritten, p.name) {
			first.pub = firstValue
		}
		m.Init = func() []any { return []any{first} }
		m.Equal = func(a, b any) bool { return a.(*register).equal(b.(*register)) }
		m.Step = func(s, in, _ any) []any { return anys(s.(*register).step(in.(*Op))) }
		return m.ToModel()
	}
	n := names{last: map[uint64]int64{}}
	for _, o := range ops {
		in := o.Input.(*Op)
		for _, ino := range []uint64{in.Ino, in.Dir, in.Dir2} {
			n.last[ino] = max(n.last[ino], o.Return)
		}
	}
	m.Init = func() []any { return []any{p.arena.begin()} }
	m.Equal = func(a, b any) bool { return a.(*tree).key == b.(*tree).key }
	m.Step = func(s, in, _ any) []any { return anys(n.step(s.(*tree), in.(*Op))) }
	return m.ToModel()
}

func anys[T any](in []T) (out []any) {
	for _, v := range in {
		out = append(out, v)
	}
	return out
}

// judgeTime bounds the search in one part. It takes milliseconds as a rule.
const judgeTime = 2 * time.Minute

func (p *part) judge(ops []Op, limit time.Duration) porcupine.CheckResult {
	h := steps(ops)
	return porcupine.CheckOperationsTimeout(p.model(h), h, limit)
}

// cut is the history as it was known at a time: what had not returned is unanswered.
func cut(ops []Op, at int64) (out []Op) {
	for _, o := range ops {
		if o.Call >= at {
			continue
		}
		if o.Ret > at {
			o.Err, o.Attr, o.Ents = unanswered, nil, nil
		}
		out = append(out, o)
	}
	return out
}

// shorten finds the earliest time at which the history is already impossible:
// what returned last by then is what cannot be explained.
func (p *part) shorten() (ops []Op, last Op) {
	byRet := slices.Clone(p.ops)
	slices.SortFunc(byRet, func(a, b Op) int { return cmp.Compare(a.Ret, b.Ret) })
	i := sort.Search(len(byRet)-1, func(i int) bool {
		return p.judge(cut(p.ops, byRet[i].Ret+1), judgeTime/4) == porcupine.Illegal
	})
	return cut(p.ops, byRet[i].Ret+1), byRet[i]
}

// Violation is a part of a history that no order explains.
type Violation struct {
	Part    string
	Message string // the end of the shortened history
	File    string // where all of it is
}

// Judge judges a round. What it cannot decide in time is a violation, too. The
// histories that fail are written to dir.
func (r *Round) Judge(dir string) (found []Violation) {
	for _, p := range r.parts() {
		switch p.judge(p.ops, judgeTime) {
		case porcupine.Ok:
		case porcupine.Unknown:
			found = append(found, p.violation(dir, "is not decided in time", p.ops))
		default:
			ops, last := p.shorten()
			found = append(found, p.violation(dir, "has no explanation once this returned: "+last.String(), related(ops, &last)))
		}
	}
	return found
}

// related are the operations that have to do with the last one, the newest of them.
func related(ops []Op, last *Op) (out []Op) {
	inos, about := map[uint64]bool{last.Ino: true}, map[string]bool{}
	place := func(dir uint64, name string) string { return fmt.Sprintf("%d/%s", dir, name) }
	about[place(last.Dir, last.Name)], about[place(last.Dir2, last.Name2)] = true, true
	if last.Attr != nil {
		inos[last.Attr.Ino] = true
	}
	delete(inos, 0)
	for _, o := range ops {
		same := o.File != "" || o.Name != "" && about[place(o.Dir, o.Name)] || o.Name2 != "" && about[place(o.Dir2, o.Name2)]
		same = same || inos[o.Ino] || o.Attr != nil && inos[o.Attr.Ino]
		same = same || last.Kind == List && (o.Dir == last.Dir || o.Dir2 == last.Dir)
		if same {
			out = append(out, o)
		}
	}
	return out[max(0, len(out)-30):]
}

func (p *part) violation(dir, what string, ops []Op) Violation {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", p.name, what)
	for _, o := range ops[max(0, len(ops)-30):] {
		end := fmt.Sprintf("%12.6f", float64(o.Ret-p.ops[0].Call)/1e9)
		if o.Err == unanswered {
			end = "           ?"
		}
		fmt.Fprintf(&b, "  %12.6f %s  %s\n", float64(o.Call-p.ops[0].Call)/1e9, end, o.String())
	}
	v := Violation{Part: p.name, Message: b.String()}
	f, err := os.CreateTemp(dir, "history-*.json")
	if err != nil {
		return v
	}
	defer f.Close()
	if err := json.NewEncoder(f).Encode(Round{Arenas: []Arena{p.first()}, Ops: p.alone()}); err == nil {
		v.File = f.Name()
	}
	return v
}

// first and alone are a part as a round of its own.
func (p *part) first() (a Arena) {
	if p.arena != nil {
		a = *p.arena
	}
	return a
}

func (p *part) alone() []Op {
	ops := slices.Clone(p.ops)
	for i := range ops {
		ops[i].Arena = 0
	}
	return ops
}

// CheckAppends compares a file with what was appended to it, in records of one
// size: each record whose append was acknowledged stands there once, whole, and
// behind those that had been acknowledged before it began.
func (r *Round) CheckAppends(content string) error {
	place := map[string]int{}
	for at := 0; at < len(content); at += recordSize {
		rec := content[at:min(at+recordSize, len(content))]
		if _, twice := place[rec]; twice || len(rec) < recordSize {
			return fmt.Errorf("the record at %d is torn or there twice: %q", at, rec)
		}
		place[rec] = at
	}
	var done []Op
	known := map[string]bool{}
	for _, o := range r.Ops {
		if o.Kind != Append {
			continue
		}
		known[o.Val] = true
		if o.Err == 0 {
			done = append(done, o)
		}
	}
	for rec, at := range place {
		if !known[rec] {
			return fmt.Errorf("nobody appended what stands at %d: %q", at, rec)
		}
	}
	slices.SortFunc(done, func(a, b Op) int { return cmp.Compare(a.Ret, b.Ret) })
	for i, o := range done {
		at, there := place[o.Val]
		if !there {
			return fmt.Errorf("an acknowledged append is lost: %v", &o)
		}
		for _, p := range done[:i] {
			if p.Ret < o.Call && place[p.Val] > at {
				return fmt.Errorf("%v stands at %d, behind the later %v at %d", &p, place[p.Val], &o, at)
			}
		}
	}
	return nil
}
