package access

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func TestRoles(t *testing.T) {
	rules, err := ParseRules([]byte("# who may\n* read /films\n@ read /\nalice write /\nbob none /private\nbob write /films/bob's own\n* none /films/adult\nalice read /films/adult\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		user, path string
		want       Role
		leads      bool
	}{
		{"", "/", None, true},
		{"", "/films", Read, false},
		{"", "/films/a", Read, false},
		{"", "/filmsX", None, false},
		{"", "/films/adult/x", None, false},
		{"bob", "/", Read, true},
		{"bob", "/private/x", None, false},
		{"bob", "/films/bob's own/x", Write, false},
		{"bob", "/films/adult", None, false},
		{"alice", "/private", Write, false},
		{"alice", "/films/x", Read, false}, // the longest path counts: what everybody may there
		{"alice", "/films/adult", Read, false},
	} {
		if got := role(rules, c.user, c.path); got != c.want {
			t.Errorf("%q at %s: %v, want %v", c.user, c.path, got, c.want)
		}
		if got := leads(rules, c.user, c.path); got != c.leads {
			t.Errorf("%q at %s leads: %v", c.user, c.path, got)
		}
	}
	for p, want := range map[string]bool{"/": false, "/films": false, "/films/x": true, "/films/adult": true, "/fil": true} {
		if got := whole(rules, "alice", p); got != want {
			t.Errorf("alice may write all beneath %s: %v", p, got)
		}
	}
	for _, bad := range []string{"x", "* read", "* see /", "* read films"} {
		if _, err := ParseRules([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a rule", bad)
		}
	}
}

func TestLinks(t *testing.T) {
	s := NewSigner([]byte("secret"), "c", "media")
	now := time.Unix(1_700_000_000, 0)
	proof := s.Link("/films/a", "", now.Add(time.Hour))
	l, err := ParseLink(proof)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]bool{"/films/a": true, "/films/a/b/c": true, "/films": false, "/films/ab": false, "/films/b": false, "/": false, "/a/films/a": false} {
		if got := s.Covers(&l, p, now); got != want {
			t.Errorf("a link to /films/a covers %s: %v", p, got)
		}
	}
	if s.Covers(&l, "/films/a", now.Add(time.Hour)) {
		t.Error("it is good when its time is over")
	}
	for i := range proof {
		b := []byte(proof)
		b[i] ^= 1
		if m, err := ParseLink(string(b)); err == nil && s.Covers(&m, "/films/a", now) && i < len(proof)-1 {
			t.Fatalf("byte %d may be changed", i)
		}
	}
	if o := NewSigner([]byte("secret"), "c", "other"); o.Covers(&l, "/films/a", now) {
		t.Error("it is good for another volume")
	}
	root, _ := ParseLink(s.Link("/", "", now.Add(time.Hour)))
	if !s.Covers(&root, "/", now) || !s.Covers(&root, "/x/y", now) {
		t.Error("a link to the root does not cover all")
	}
}

// FuzzLink: no proof that was not made here is worth anything.
func FuzzLink(f *testing.F) {
	s := NewSigner([]byte("secret"), "c", "media")
	now := time.Unix(1_700_000_000, 0)
	good := s.Link("/a/b", "u", now.Add(time.Hour))
	f.Add(good, "/a/b/c")
	f.Add(strings.Repeat("A", 40), "/")
	f.Fuzz(func(t *testing.T, proof, path string) {
		l, err := ParseLink(proof)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		if s.Covers(&l, path, now) && !Beneath(path, "/a/b") {
			t.Fatalf("%q is good at %q", proof, path)
		}
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func hash(t *testing.T, password string) string {
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func TestIdentify(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{UsersFile: filepath.Join(dir, "users"), TokensFile: filepath.Join(dir, "tokens")}
	token, line, err := NewToken("robot")
	if err != nil {
		t.Fatal(err)
	}
	write(t, cfg.UsersFile, "alice:"+hash(t, "secret")+"\n")
	write(t, cfg.TokensFile, line+"\n")
	p, err := New(cfg, NewSigner([]byte("k"), "c", "v"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	p.now = func() time.Time { return now }
	as := func(set func(h map[string][]string)) (Who, error) {
		r := httptest.NewRequest("GET", "/", nil)
		if set != nil {
			set(r.Header)
		}
		return p.Identify(r)
	}
	basic := func(user, password string) func(h map[string][]string) {
		return func(h map[string][]string) {
			r := httptest.NewRequest("GET", "/", nil)
			r.SetBasicAuth(user, password)
			h["Authorization"] = r.Header["Authorization"]
		}
	}
	if w, err := as(nil); err != nil || w.Role("/x") != None {
		t.Errorf("nobody: %v, %v", w.Role("/x"), err)
	}
	if w, err := as(basic("alice", "secret")); err != nil || w.User != "alice" || w.Role("/x") != Read {
		t.Errorf("alice: %+v, %v", w, err)
	}
	if w, err := as(func(h map[string][]string) { h["Authorization"] = []string{"Bearer " + token} }); err != nil || w.User != "robot" {
		t.Errorf("robot: %v, %v", w.User, err)
	}
	cookie, ok := p.NewSession("alice", time.Hour)
	session := func(h map[string][]string) { h["Cookie"] = []string{SessionCookie + "=" + cookie} }
	if w, err := as(session); !ok || err != nil || w.User != "alice" {
		t.Errorf("a session: %v, %v", w.User, err)
	}
	now = now.Add(time.Hour)
	if w, _ := as(session); w.User != "" {
		t.Error("a session is good when it is over")
	}
	cookie, _ = p.NewSession("alice", time.Hour)
	for i := range wrongLimit {
		who := "alice"
		if i == 0 {
			who = "eve" // who is no user costs as much as a user
		}
		if w, err := as(basic(who, "guess")); err == nil || w.User != "" {
			t.Fatalf("%s got in", who)
		}
	}
	if _, err := as(basic("eve", "guess")); err != ErrTooMany {
		t.Errorf("after many guesses: %v", err)
	}
	write(t, cfg.UsersFile, "alice:"+hash(t, "another one")+"\n# longer\n")
	now = now.Add(2 * wrongSpan)
	if w, _ := as(session); w.User != "" {
		t.Error("a session outlives the password with which it began")
	}
	if _, err := as(basic("alice", "secret")); err == nil {
		t.Error("the old password is good")
	}
	if w, err := as(basic("alice", "another one")); err != nil || w.User != "alice" {
		t.Errorf("the new password: %v", err)
	}
	var told error
	p.cfg.OnError = func(err error) { told = err }
	write(t, cfg.UsersFile, "bob:plain\n")
	now = now.Add(time.Minute)
	if w, err := as(basic("alice", "another one")); err != nil || w.User != "alice" || told == nil {
		t.Errorf("with a file that makes no sense: %v; told %v", err, told)
	}
}

// A link is worth what its maker may read, now.
func TestLinkOfUser(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{UsersFile: filepath.Join(dir, "users"), RulesFile: filepath.Join(dir, "rules")}
	write(t, cfg.UsersFile, "bob:"+hash(t, "x")+"\n")
	write(t, cfg.RulesFile, "bob read /\nbob none /private\n")
	p, err := New(cfg, NewSigner([]byte("k"), "c", "v"))
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/?k="+p.Signer().Link("/", "bob", time.Now().Add(time.Hour)), nil)
	w, err := p.Identify(r)
	if err != nil || w.Role("/films/x") != Read || w.Role("/private/x") != None {
		t.Errorf("%v: films %v, private %v", err, w.Role("/films/x"), w.Role("/private/x"))
	}
	r = httptest.NewRequest("GET", "/?k="+p.Signer().Link("/", "carol", time.Now().Add(time.Hour)), nil)
	if w, _ := p.Identify(r); w.Role("/films/x") != None {
		t.Error("the link of somebody who is no user is good")
	}
}

func TestDummyHash(t *testing.T) {
	if err := bcrypt.CompareHashAndPassword([]byte(dummyHash), []byte("x")); err != bcrypt.ErrMismatchedHashAndPassword {
		t.Errorf("it takes no time: %v", err)
	}
}

// Who waits for a hash while others at his address are wrong gets no try of his own for it.
func TestBarredInQueue(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{UsersFile: filepath.Join(dir, "users")}
	write(t, cfg.UsersFile, "u:"+hash(t, "pw")+"\n")
	p, err := New(cfg, NewSigner([]byte("k"), "c", "media"))
	if err != nil {
		t.Fatal(err)
	}
	for range hashesAtOnce {
		p.hashes <- struct{}{}
	}
	r := httptest.NewRequest("GET", "/", nil)
	done := make(chan error)
	go func() { done <- p.CheckPassword(r, "u", "pw") }()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	for range wrongLimit {
		p.failed(r)
	}
	<-p.hashes
	if err := <-done; err != ErrTooMany {
		t.Errorf("%v", err)
	}
}
