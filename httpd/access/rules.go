package access

import (
	"bufio"
	"bytes"
	"slices"
	"strings"

	"github.com/tnvfs/tnv"
)

// Role is what somebody may do at a path; each includes those before it.
type Role uint8

const (
	None  Role = iota // not even see it
	Read              // look, play, fetch
	Write             // put, move, delete; sees hidden names
	Admin             // see all of the cluster's state
)

var roleNames = [...]string{"none", "read", "write", "admin"}

func (r Role) String() string { return roleNames[min(int(r), len(roleNames)-1)] }

// ParseRole reads what Role.String wrote.
func ParseRole(s string) (Role, error) {
	if i := slices.Index(roleNames[:], s); i >= 0 {
		return Role(i), nil
	}
	return None, tnv.E("access", tnv.KindInvalid, "%q is no role: want none, read, write or admin", s)
}

// Who a rule is about, besides users by name.
const (
	Everyone = "*" // anonymous too
	Users    = "@" // all who have proven to be a user
)

// Rule gives a role at a path and all beneath it.
type Rule struct {
	Who  string // a user's name, Everyone or Users
	Role Role
	Path string // clean and absolute
}

// ParseRules reads an access file: a rule a line, "WHO ROLE PATH", where the path
// is the rest of the line. Lines that begin with # say nothing.
func ParseRules(b []byte) ([]Rule, error) {
	var out []Rule
	sc := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		who, rest, _ := strings.Cut(line, " ")
		role, path, found := strings.Cut(strings.TrimSpace(rest), " ")
		path = strings.TrimSpace(path)
		if !found || !strings.HasPrefix(path, "/") {
			return nil, tnv.E("access file", tnv.KindInvalid, "line %d: want WHO ROLE /PATH", n)
		}
		r, err := ParseRole(role)
		if err != nil {
			return nil, tnv.E("access file", tnv.KindInvalid, "line %d: %q is no role: want none, read, write or admin", n, role)
		}
		if path != "/" {
			path = strings.TrimRight(path, "/")
		}
		out = append(out, Rule{who, r, path})
	}
	return out, tnv.Wrap("access file", sc.Err())
}

// Beneath tells whether a path is another, or lies beneath it.
func Beneath(path, top string) bool {
	return top == "/" || path == top || strings.HasPrefix(path, top) && path[len(top)] == '/'
}

// about tells how closely a rule is about a user: 0, not at all.
func (r *Rule) about(user string) int {
	switch {
	case r.Who == user && user != "":
		return 3
	case r.Who == Users && user != "":
		return 2
	case r.Who == Everyone:
		return 1
	}
	return 0
}

// role finds what the rules give a user at a path: the longest path counts, then
// the rule that names the user most closely, then the last.
func role(rules []Rule, user, path string) Role {
	best, length, close := None, -1, 0
	for i := range rules {
		r := &rules[i]
		a := r.about(user)
		if a == 0 || !Beneath(path, r.Path) || len(r.Path) < length || len(r.Path) == length && a < close {
			continue
		}
		best, length, close = r.Role, len(r.Path), a
	}
	return best
}

// whole tells whether no rule gives a user less than Write beneath a path: what he
// may write at the path itself, he may then move or remove with all that is in it.
func whole(rules []Rule, user, path string) bool {
	for i := range rules {
		r := &rules[i]
		if r.about(user) > 0 && r.Path != path && Beneath(r.Path, path) && role(rules, user, r.Path) < Write {
			return false
		}
	}
	return true
}

// leads tells whether a user may see something beneath a path, so that he has to
// be let through.
func leads(rules []Rule, user, path string) bool {
	for i := range rules {
		r := &rules[i]
		if r.about(user) > 0 && r.Path != path && Beneath(r.Path, path) && role(rules, user, r.Path) >= Read {
			return true
		}
	}
	return false
}
