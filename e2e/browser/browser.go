// Package browser drives a headless Chromium for tests of the page: what a user
// would do, and what he would see.
//
// It promises: the browser is its own, with a profile of its own, and is gone when
// the test is over; nothing waits for longer than Patience; and what the page
// complains of (exceptions, errors in the console, requests that the
// Content-Security-Policy refused or that went elsewhere) fails the test.
package browser

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Patience is how long the page may take for one thing.
const Patience = 20 * time.Second

var shots = flag.String("shots", "", "directory for the pictures of the page; empty: none are kept")

// Browser is one window.
type Browser struct {
	t    testing.TB
	ctx  context.Context
	host string // where all requests go

	mu       sync.Mutex
	excused  []string // complaints that are expected hold one of these
	requests []Request
}

// Request is one that the page sent.
type Request struct {
	Method, Path string
	Header       map[string]string // names in lower case
}

// Start starts a browser for a site, such as http://127.0.0.1:8080.
func Start(t testing.TB, site string) *Browser {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is missing: apt-get install chromium")
	}
	u, err := url.Parse(site)
	if err != nil {
		t.Fatal(err)
	}
	profile, err := os.MkdirTemp("", "tnv-browser-*")
	if err != nil {
		t.Fatal(err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.UserDataDir(profile), chromedp.WindowSize(1280, 800),
		chromedp.Flag("lang", "en-GB"), chromedp.Env("LANGUAGE=en", "TZ=UTC"))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	alloc, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, end := chromedp.NewContext(alloc)
	b := &Browser{t: t, ctx: ctx, host: u.Host}
	t.Cleanup(func() {
		end()
		stop() // waits for the process
		os.RemoveAll(profile)
	})
	err = chromedp.Listen(ctx, b.heard) // starts it
	if err == nil {
		_, err = chromedp.Call(ctx, network.Enable, network.EnableParams{})
	}
	if err == nil {
		_, err = chromedp.Call(ctx, log.Enable, struct{}{})
	}
	if err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	return b
}

// heard takes in what the browser tells.
func (b *Browser) heard(ev any) {
	switch e := ev.(type) {
	case *runtime.EventExceptionThrown:
		what := e.ExceptionDetails.Text
		if x := e.ExceptionDetails.Exception; x != nil {
			what += " " + x.Description
		}
		b.complain("exception: " + what)
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError {
			b.complain(fmt.Sprintf("console: %s %s", e.Entry.Text, e.Entry.URL))
		}
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(e.Request.URL)
		if err != nil || (u.Scheme != "data" && u.Scheme != "blob" && u.Host != b.host) {
			b.complain("a request goes elsewhere: " + e.Request.URL)
			return
		}
		b.mu.Lock()
		r := Request{e.Request.Method, u.Path, map[string]string{}}
		for k, v := range e.Request.Headers {
			r.Header[strings.ToLower(k)] = fmt.Sprint(v)
		}
		b.requests = append(b.requests, r)
		b.mu.Unlock()
	}
}

func (b *Browser) complain(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range b.excused {
		if strings.Contains(what, x) {
			return
		}
	}
	b.t.Errorf("the page: %s", what)
}

// Excuse says that complaints which hold a text are expected from now on.
func (b *Browser) Excuse(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.excused = append(b.excused, text)
}

// Requests lists what was sent with a method to a path, or below it.
func (b *Browser) Requests(method, path string) (found []Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.requests {
		if r.Method == method && strings.HasPrefix(r.Path, path) {
			found = append(found, r)
		}
	}
	return found
}

// do runs actions, which must succeed in time.
func (b *Browser) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, Patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.Shot("failed")
		b.t.Fatalf("%s: %v", what, err)
	}
}

// Open goes to an address of the site.
func (b *Browser) Open(address string) {
	b.t.Helper()
	b.do("open "+address, chromedp.Navigate("http://"+b.host+address))
}

// Eval runs a script in the page and returns its value, which may be a promise's.
func Eval[T any](b *Browser, script string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, Patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise, chromedp.EvalAsValue))
	if err != nil {
		b.Shot("failed")
		b.t.Fatalf("%.300s: %v", script, err)
	}
	return v
}

// Until waits until a script's value is true; one that fails is not, yet.
func (b *Browser) Until(script string) {
	b.t.Helper()
	b.UntilIn(Patience, script)
}

// UntilIn is Until with a limit of its own.
func (b *Browser) UntilIn(limit time.Duration, script string) {
	b.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		if Eval[bool](b, "(() => { try { return !!("+script+") } catch { return false } })()") {
			return
		}
		if time.Now().After(end) {
			b.Shot("failed")
			b.t.Fatalf("not within %v: %s\nthe page says: %s", limit, script, Eval[string](b, "document.body.innerText.slice(0, 2000)"))
		}
	}
}

// Sees waits until the page shows a text.
func (b *Browser) Sees(text string) {
	b.t.Helper()
	b.Until("document.body.innerText.includes(" + Quote(text) + ")")
}

// Quote writes a text as a script's.
func Quote(text string) string {
	q, _ := json.Marshal(text)
	return string(q)
}

// Click clicks what a selector finds, when it is there, with the mouse.
func (b *Browser) Click(selector string) {
	b.t.Helper()
	b.do("click "+selector, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// Type types into what a selector finds.
func (b *Browser) Type(selector, text string) {
	b.t.Helper()
	b.do("type into "+selector, chromedp.SendKeys(chromedp.CSS(selector), text))
}

// Press presses keys, wherever the focus is. See chromedp's package kb.
func (b *Browser) Press(keys string, modifiers ...chromedp.Modifier) {
	b.t.Helper()
	b.do("press keys", chromedp.KeyEvent(keys, chromedp.KeyModifiers(modifiers...)))
}

// Choose chooses files in a field for files.
func (b *Browser) Choose(selector string, files ...string) {
	b.t.Helper()
	b.do("choose files", chromedp.SetUploadFiles(chromedp.CSS(selector), files))
}

// Size makes the window as large as that of a device; one that is touched where touch is true.
func (b *Browser) Size(width, height int64, touch bool) {
	b.t.Helper()
	options := []chromedp.EmulateViewportOption{chromedp.EmulatePortrait}
	if touch {
		options = append(options, chromedp.EmulateMobile, chromedp.EmulateTouch)
	}
	b.do("size the window", chromedp.EmulateViewport(width, height, options...))
}

// Dark has the page be dark, or light.
func (b *Browser) Dark(dark bool) {
	b.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		b.t.Fatal(err)
	}
}

// Shot takes a picture of the page, for a person to look at.
func (b *Browser) Shot(name string) {
	if *shots == "" {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, Patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(filepath.Join(*shots, name+".png"), png, 0o644)
	}
	if err != nil {
		b.t.Logf("picture %s: %v", name, err)
	}
}

// Finding is what axe-core found.
type Finding struct {
	ID, Impact, Help string
	Nodes            []struct{ HTML string }
}

// Accessible has axe-core (its source) look at the page as it is, and fails the test for
// whatever is serious or critical.
func (b *Browser) Accessible(axe, where string) {
	b.t.Helper()
	Eval[int](b, axe+";0")
	found := Eval[[]Finding](b, `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations.map(v => ({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.map(n => ({html: n.html}))})))`)
	for _, f := range found {
		say := b.t.Logf
		if f.Impact == "serious" || f.Impact == "critical" {
			say = b.t.Errorf
		}
		for i, n := range f.Nodes {
			if i < 3 {
				say("%s: axe-core: %s (%s): %s: %.300s", where, f.ID, f.Impact, f.Help, n.HTML)
			}
		}
	}
}
