package access

import (
	"crypto/rand"
	"crypto/sha256"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/tnvfs/tnv"
)

// Config names the files; each may be empty.
type Config struct {
	UsersFile  string // htpasswd, bcrypt
	TokensFile string // as `tnv token` makes it
	RulesFile  string // WHO ROLE /PATH; none: every user may read all
	Anonymous  Role   // of who does not say who he is, at /, unless the rules say otherwise
	// OnError is told when a file that changed cannot be read: what was read before stays in force.
	OnError func(error)
}

// Unsaid tells whether nothing says who may do anything.
func (c *Config) Unsaid() bool {
	return c.UsersFile == "" && c.TokensFile == "" && c.RulesFile == "" && c.Anonymous == None
}

const (
	rereadEvery   = 2 * time.Second
	rememberFor   = 5 * time.Minute
	maxRemembered = 1024
	hashesAtOnce  = 2
	// wrongLimit is how many wrong proofs an address may hand in within wrongSpan.
	wrongLimit = 10
	wrongSpan  = time.Minute
	maxWrong   = 4096
)

// tables are the files as they were read.
type tables struct {
	users  map[string]string
	tokens map[[32]byte]string
	rules  []Rule
	stamp  [3]fileStamp
}

type fileStamp struct {
	size  int64
	mtime time.Time
}

// Policy is who may do what. Any number of goroutines use it at once.
type Policy struct {
	cfg    Config
	signer *Signer
	now    func() time.Time
	cur    atomic.Pointer[tables]
	hashes chan struct{} // one place per hash that is being computed
	salt   [32]byte      // of what is remembered

	mu    sync.Mutex
	next  time.Time              // when the files are looked at again
	right map[[32]byte]time.Time // passwords that were proven, until
	wrong map[string]*wrongs     // by address
}

type wrongs struct {
	n     int
	since time.Time
}

// New reads the files.
func New(cfg Config, signer *Signer) (*Policy, error) {
	p := &Policy{cfg: cfg, signer: signer, now: time.Now, hashes: make(chan struct{}, hashesAtOnce),
		right: map[[32]byte]time.Time{}, wrong: map[string]*wrongs{}}
	rand.Read(p.salt[:])
	t, err := p.read()
	if err != nil {
		return nil, err
	}
	p.cur.Store(t)
	return p, nil
}

func (p *Policy) stamps() (s [3]fileStamp) {
	for i, f := range [...]string{p.cfg.UsersFile, p.cfg.TokensFile, p.cfg.RulesFile} {
		if fi, err := os.Stat(f); f != "" && err == nil {
			s[i] = fileStamp{fi.Size(), fi.ModTime()}
		}
	}
	return s
}

func (p *Policy) read() (*tables, error) {
	t := &tables{stamp: p.stamps()}
	b, err := readFile(p.cfg.UsersFile)
	if err == nil {
		t.users, err = parseUsers(b)
	}
	if err != nil {
		return nil, err
	}
	if b, err = readFile(p.cfg.TokensFile); err == nil {
		t.tokens, err = parseTokens(b)
	}
	if err != nil {
		return nil, err
	}
	t.rules = []Rule{{Everyone, p.cfg.Anonymous, "/"}}
	if p.cfg.RulesFile == "" {
		t.rules = append(t.rules, Rule{Users, max(Read, p.cfg.Anonymous), "/"})
		return t, nil
	}
	if b, err = readFile(p.cfg.RulesFile); err != nil {
		return nil, err
	}
	rules, err := ParseRules(b)
	t.rules = append(t.rules, rules...)
	return t, err
}

// tables are the newest that could be read.
func (p *Policy) tables() *tables {
	t := p.cur.Load()
	now := p.now()
	p.mu.Lock()
	due := !now.Before(p.next)
	if due {
		p.next = now.Add(rereadEvery)
	}
	p.mu.Unlock()
	if !due || p.stamps() == t.stamp {
		return t
	}
	fresh, err := p.read()
	if err != nil {
		if p.cfg.OnError != nil {
			p.cfg.OnError(err)
		}
		return t
	}
	p.cur.Store(fresh)
	return fresh
}

// HasUsers tells whether there is anybody who could say who he is.
func (p *Policy) HasUsers() bool { t := p.tables(); return len(t.users) > 0 || len(t.tokens) > 0 }

// MayWrite tells whether any rule lets anybody write.
func (p *Policy) MayWrite() bool {
	for _, r := range p.tables().rules {
		if r.Role >= Write {
			return true
		}
	}
	return false
}

// Cookies and the parameter by which proofs come.
const (
	SessionCookie = "tnv-session"
	LinkCookie    = "tnv-link-" // and a part of the proof
	LinkParam     = "k"
	maxLinks      = 8
)

// Who is somebody, as far as he has proven it.
type Who struct {
	User  string // "": anonymous
	Links []Link // each worth something only at what it covers
	t     *tables
	p     *Policy
}

// Errors of Identify.
var (
	// ErrWrong is a proof that is wrong.
	ErrWrong = tnv.E("access", tnv.KindAuth, "wrong name, password or token")
	// ErrTooMany is told to an address that was wrong too often lately.
	ErrTooMany = tnv.E("access", tnv.KindBusy, "too many wrong passwords from this address: wait a minute")
)

// Identify tells who sends a request. With an error he is nobody.
func (p *Policy) Identify(r *http.Request) (Who, error) {
	t := p.tables()
	w := Who{t: t, p: p}
	w.addLinks(r)
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case strings.EqualFold(scheme, "Basic"):
		user, password, ok := r.BasicAuth()
		if !ok {
			return w, ErrWrong
		}
		return p.asUser(w, r, user, password)
	case strings.EqualFold(scheme, "Bearer"):
		return p.byToken(w, t, r, strings.TrimSpace(value))
	case scheme != "":
		return w, ErrWrong
	}
	if c, err := r.Cookie(SessionCookie); err == nil {
		if user, ok := p.signer.sessionUser(c.Value, p.now(), t.proof); ok {
			w.User = user
		}
	}
	return w, nil
}

// proof is what a user's sessions hang on.
func (t *tables) proof(user string) (string, bool) { h, ok := t.users[user]; return h, ok }

func (w *Who) addLinks(r *http.Request) {
	add := func(s string) {
		if l, err := ParseLink(s); err == nil && len(w.Links) < maxLinks {
			w.Links = append(w.Links, l)
		}
	}
	if r.URL.RawQuery != "" {
		if k := r.URL.Query().Get(LinkParam); k != "" {
			add(k)
		}
	}
	for _, c := range r.Cookies() {
		if strings.HasPrefix(c.Name, LinkCookie) {
			add(c.Value)
		}
	}
}

func (p *Policy) asUser(w Who, r *http.Request, user, password string) (Who, error) {
	if err := p.CheckPassword(r, user, password); err != nil {
		return w, err
	}
	w.User = user
	return w, nil
}

func (p *Policy) byToken(w Who, t *tables, r *http.Request, token string) (Who, error) {
	user, known := t.tokens[sha256.Sum256([]byte(token))]
	if !known {
		return w, p.failed(r)
	}
	w.User = user
	return w, nil
}

// CheckPassword tells whether a password is the user's. It takes its time.
func (p *Policy) CheckPassword(r *http.Request, user, password string) error {
	hash, known := p.tables().users[user]
	if !known {
		hash = dummyHash
	}
	key := [32]byte(mac(p.salt[:], user, password, hash))
	p.mu.Lock()
	until, right := p.right[key]
	p.mu.Unlock()
	if right && p.now().Before(until) {
		return nil
	}
	if p.barred(r) {
		return ErrTooMany
	}
	select {
	case p.hashes <- struct{}{}:
		defer func() { <-p.hashes }()
	case <-r.Context().Done():
		return tnv.Wrap("access", r.Context().Err())
	}
	if p.barred(r) { // by those that were before it in the queue
		return ErrTooMany
	}
	if err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)); err != nil || !known {
		return p.failed(r)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.right) >= maxRemembered {
		clear(p.right)
	}
	p.right[key] = p.now().Add(rememberFor)
	return nil
}

// dummyHash takes as long as a real one, so that time does not tell who is a user.
const dummyHash = "$2a$10$AAAAAAAAAAAAAAAAAAAAAOYnlR6Xc7vY1kzCcQ8Jx2Zp9mQk5Wm6e"

func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// barred tells whether an address was wrong too often lately.
func (p *Policy) barred(r *http.Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.wrong[address(r)]
	return w != nil && w.n >= wrongLimit && p.now().Sub(w.since) < wrongSpan
}

// failed notes a wrong proof.
func (p *Policy) failed(r *http.Request) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, a := p.now(), address(r)
	w := p.wrong[a]
	if w == nil || now.Sub(w.since) >= wrongSpan {
		if len(p.wrong) >= maxWrong {
			clear(p.wrong)
		}
		w = &wrongs{since: now}
		p.wrong[a] = w
	}
	w.n++
	return ErrWrong
}

// NewSession makes a session's cookie for a user who has just proven himself.
func (p *Policy) NewSession(user string, life time.Duration) (string, bool) {
	proof, ok := p.tables().proof(user)
	return p.signer.session(user, proof, p.now().Add(life)), ok
}

// Signer is the policy's signer.
func (p *Policy) Signer() *Signer { return p.signer }

// As is somebody who is known to be a user already, or anonymous.
func (p *Policy) As(user string) Who { return Who{User: user, t: p.tables(), p: p} }

// Role is what he may do at a clean path.
func (w *Who) Role(path string) Role {
	r := w.Own(path)
	if r < Read && !w.LinkEnd(path).IsZero() {
		return Read
	}
	return r
}

// Own is Role without links.
func (w *Who) Own(path string) Role { return role(w.t.rules, w.User, path) }

// LinkEnd is until when a link lets him read a path; zero: none does.
func (w *Who) LinkEnd(path string) time.Time {
	if l := w.link(path); l != nil {
		return l.End
	}
	return time.Time{}
}

// ProofFor is the proof that lets him read a path the longest; "": none does.
func (w *Who) ProofFor(path string) string {
	if l := w.link(path); l != nil {
		return l.Proof
	}
	return ""
}

func (w *Who) link(path string) *Link {
	now := w.p.now()
	var best *Link
	for i := range w.Links {
		l := &w.Links[i]
		if (best == nil || l.End.After(best.End)) && w.p.signer.Covers(l, path, now) && w.t.mayShare(l.Maker, path) {
			best = l
		}
	}
	return best
}

// mayShare tells whether a link's maker may still read what it leads to.
func (t *tables) mayShare(maker, path string) bool {
	return maker == "" || t.knows(maker) && role(t.rules, maker, path) >= Read
}

// knows tells whether somebody is a user.
func (t *tables) knows(user string) bool {
	if _, ok := t.users[user]; ok {
		return true
	}
	for _, u := range t.tokens {
		if u == user {
			return true
		}
	}
	return false
}

// Whole tells whether no rule gives him less than Write strictly beneath a path.
func (w *Who) Whole(path string) bool { return whole(w.t.rules, w.User, path) }

// Leads tells whether he may see something beneath a path that he may not read itself.
func (w *Who) Leads(path string) bool { return leads(w.t.rules, w.User, path) }
