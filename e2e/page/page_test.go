// Package page has the HTTP daemon's page driven by a real browser, with the real
// daemon and cluster behind it.
package page

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"

	"github.com/tnvfs/tnv/e2e"
	"github.com/tnvfs/tnv/e2e/browser"
)

func TestMain(m *testing.M) { os.Exit(e2e.Main(m, nil)) }

// site is a cluster with an HTTP daemon that lets everybody write, and a browser
// whose connections to it the test can break.
type site struct {
	*browser.Browser
	t    *testing.T
	c    *e2e.Cluster
	link *e2e.Link
}

func start(t *testing.T) *site {
	t.Helper()
	return startWith(t, e2e.Start(t, e2e.Options{NoHTTP: true}), "--anonymous", "write")
}

func startWith(t *testing.T, c *e2e.Cluster, flags ...string) *site {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	log, err := os.Create(filepath.Join(c.Base, "httpd.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(e2e.Program("httpd"), append([]string{"--dir", c.Dir, "--listen", addr}, flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		time.AfterFunc(15*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		if b, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("httpd:\n%s", b)
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if r, err := http.Get("http://" + addr + "/.tnv/healthz"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(end) {
			t.Fatal("the HTTP daemon does not answer")
		}
	}
	link := e2e.NewLink(t, addr)
	return &site{browser.Start(t, "http://"+link.Addr), t, c, link}
}

// path is a file's path on the mount.
func (s *site) path(name string) string { return filepath.Join(s.c.Mount, name) }

func (s *site) write(name string, data []byte) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), data, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// film has ffmpeg make a clip of so many seconds on the mount.
func (s *site) film(name string, seconds int, output ...string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
		s.t.Fatal(err)
	}
	args := []string{"-nostdin", "-y", "-loglevel", "error", "-f", "lavfi", "-i", fmt.Sprintf("testsrc2=size=320x180:rate=10:duration=%d", seconds),
		"-f", "lavfi", "-i", fmt.Sprintf("sine=frequency=440:duration=%d", seconds)}
	if r := e2e.Exec(time.Minute, "ffmpeg", append(append(args, output...), "-g", "10", "-pix_fmt", "yuv420p", s.path(name))...); r.Code != 0 {
		s.t.Fatalf("ffmpeg (apt-get install ffmpeg): %v", r)
	}
}

// rows waits until the directory shows these entries in this order.
func (s *site) rows(want ...string) {
	s.t.Helper()
	s.Until("[...document.querySelectorAll('.space [data-index]')].map(r => r.dataset.name).join('|') === " + browser.Quote(strings.Join(want, "|")))
}

// plays waits until the film is behind a second, with a picture.
func (s *site) plays(behind float64) {
	s.t.Helper()
	s.Until(fmt.Sprintf("(v => v.currentTime > %v && v.videoWidth === 320 && !v.paused && !v.seeking)(document.querySelector('video'))", behind))
}

// People find films and watch them: mp4 and webm as they are, with subtitles, and
// what the browser cannot play, converted.
func TestWatch(t *testing.T) {
	s := start(t)
	s.film("films/one.mp4", 80, "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac", "-movflags", "+faststart")
	s.film("films/two.webm", 30, "-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus")
	s.write("multi.srt", []byte("1\n00:00:00,000 --> 00:00:40,000\nFrom within\n"))
	s.film("films/multi.mkv", 40, "-i", s.path("multi.srt"), "-map", "0:v", "-map", "1:a", "-map", "1:a", "-map", "2:s", "-metadata:s:a:0", "language=eng",
		"-metadata:s:a:1", "language=fra", "-metadata:s:s:0", "language=deu", "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac", "-c:s", "srt")
	s.film("films/old.avi", 40, "-c:v", "mpeg4", "-c:a", "mp2")
	s.write("films/one.en.srt", []byte("1\n00:00:00,000 --> 00:01:20,000\nHello there\n"))
	s.film("films/poster.jpg", 1, "-frames:v", "1", "-update", "1")
	s.Open("/")
	s.rows("films", "multi.srt")
	s.Click("[role=row] a[title=films]")
	s.rows("multi.mkv", "old.avi", "one.en.srt", "one.mp4", "poster.jpg", "two.webm")
	s.Click("[role=columnheader].size button") // the largest first
	s.Until("document.querySelector('[role=columnheader].size').getAttribute('aria-sort') === 'descending'")
	s.Until("document.querySelector('.space [data-index=\"5\"]').dataset.name === 'one.en.srt'")
	s.Click("[role=columnheader].name button")
	s.Type("#search", "ONE mp")
	s.rows("one.mp4")
	s.Click("[role=row] a[title='one.mp4']")
	s.plays(0.3)
	s.Press("7") // seven tenths
	s.plays(56.3)
	s.Press("k") // a film that stands has its controls
	s.Click("[aria-label=Subtitles]")
	s.Click("[role=menu] [role=menuitemradio]:nth-child(2)")
	s.Until("document.querySelector('video').textTracks[0]?.activeCues?.[0]?.text === 'Hello there'")
	s.Shot("e2e-player")
	s.Press(kb.Escape)
	s.Open("/films/?view=one.mp4")
	s.Sees("Resumed at 0:5")
	s.Open("/films/?view=two.webm")
	s.Until("document.querySelector('video')?.readyState > 2")
	s.Press("k")
	s.Press("5")
	s.plays(15.3)
	s.Open("/films/?view=old.avi")
	s.Sees("converted by the server")
	s.Until("document.querySelector('video')?.readyState > 2")
	s.Press("k")
	s.Press("5")
	s.plays(20.3)
	s.Shot("e2e-converted")
	s.Open("/films/?view=multi.mkv")
	s.Until("document.querySelector('video')?.readyState > 2")
	s.Press("k")
	s.plays(0.3)
	s.Press("k")
	s.Click("[aria-label=Subtitles]")
	s.Click("[role=menu] [role=menuitemradio]:nth-child(2)")
	s.Until("document.querySelector('video').textTracks[0]?.activeCues?.[0]?.text === 'From within'")
	s.Click("[aria-label='Audio track']")
	s.Until("document.querySelector('[role=menu]').innerText.includes('French')")
	s.Shot("e2e-audio")
	s.Click("[role=menu] [role=menuitemradio]:nth-child(2)")
	s.Sees("converted by the server")
	s.plays(0.5)
	s.Sees("0:40") // its whole length
	s.Open("/films/")
	s.Click("[aria-label='Show pictures']")
	s.Until("document.querySelectorAll('.tile img').length === 5 && [...document.querySelectorAll('.tile img')].every(i => i.naturalWidth > 0)")
	s.Shot("e2e-tiles")
}

// Whoever may changes files, and what was deleted comes back; what others do is
// seen without asking.
func TestChange(t *testing.T) {
	s := start(t)
	s.write("films/a.bin", []byte("first"))
	s.write("films/b.bin", []byte("second"))
	s.Open("/films/")
	s.rows("a.bin", "b.bin")
	s.Press(kb.Home)
	s.Press(kb.F2)
	s.Until("document.querySelector('dialog input').value === 'a.bin'")
	s.Press("c")
	s.Press(kb.Enter)
	s.rows("b.bin", "c.bin")
	s.Press(kb.Home)
	s.Press(kb.ArrowDown)
	s.Press(kb.Delete)
	s.rows("b.bin")
	if _, err := os.Stat(s.path("films/c.bin")); !os.IsNotExist(err) {
		t.Errorf("the deleted file: %v", err)
	}
	s.Shot("e2e-deleted")
	s.Click(".toast button.text") // Undo
	s.rows("b.bin", "c.bin")
	if b, err := os.ReadFile(s.path("films/c.bin")); string(b) != "first" {
		t.Errorf("the file is back as %q: %v", b, err)
	}
	s.Click("[aria-label='New folder']")
	s.Until("document.activeElement.matches('dialog input')")
	s.Press("season 1")
	s.Press(kb.Enter)
	s.rows("season 1", "b.bin", "c.bin")
	s.write("films/d.bin", []byte("by the mount"))
	s.rows("season 1", "b.bin", "c.bin", "d.bin")
	s.Open("/.tnv/")
	s.Sees("All is well")
	s.Sees("Group ")
	s.Shot("e2e-status")
	s.Size(390, 844, true)
	s.Open("/films/")
	s.rows("season 1", "b.bin", "c.bin", "d.bin")
	if w := browser.Eval[int](s.Browser, "document.documentElement.scrollWidth"); w > 390 {
		t.Errorf("on a phone the page is %d wide", w)
	}
	s.Shot("e2e-phone")
}

// An upload of 200 MB goes on where it stopped when its connection breaks, and
// arrives byte for byte.
func TestUpload(t *testing.T) {
	s := start(t)
	const size = 200_000_000
	local := filepath.Join(s.c.Base, "large.bin")
	sum := noise(t, local, size)
	s.Excuse("ERR_") // connections break: the browser says so
	s.Excuse("423")  // and the daemon may not have noticed when the page comes back
	s.Open("/")
	s.Sees("This folder is empty")
	s.Choose("#upload-files", local)
	s.UntilIn(time.Minute, "document.querySelector('.uploads progress')?.value > 0.3")
	s.link.Break()
	s.UntilIn(time.Minute, "document.querySelector('.uploads progress')?.value > 0.5")
	stalled := make(chan struct{})
	go func() {
		defer close(stalled)
		s.link.Stall(2 * time.Second) // it would be over before the button is found
	}()
	defer func() { <-stalled }()
	s.Click(".uploads [aria-label='Pause large.bin']")
	s.Shot("e2e-upload")
	s.Until("document.querySelector('.uploads [data-state=paused]')")
	if _, err := os.Stat(s.path("large.bin")); !os.IsNotExist(err) {
		t.Errorf("half a file has its name already: %v", err)
	}
	s.Click(".uploads [aria-label='Resume large.bin']")
	s.UntilIn(time.Minute, "document.querySelector('.uploads [data-state=done]')")
	s.rows("large.bin")
	f, err := os.Open(s.path("large.bin"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if n, err := io.Copy(h, f); n != size || err != nil || !bytes.Equal(h.Sum(nil), sum) {
		t.Errorf("%d bytes arrived, the same: %v, %v", n, bytes.Equal(h.Sum(nil), sum), err)
	}
	var resumed int
	for _, r := range s.Requests(http.MethodPatch, "/.tnv/api/uploads/") {
		if n, _ := strconv.Atoi(r.Header["upload-offset"]); n > 0 {
			resumed++
		}
	}
	if begun := len(s.Requests(http.MethodPost, "/.tnv/api/uploads")); begun != 1 || resumed < 2 {
		t.Errorf("begun %d times, resumed %d times", begun, resumed)
	}
}

// noise makes a file of pseudo-random bytes, and returns its SHA-256.
func noise(t *testing.T, name string, size int64) []byte {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	_, err = io.CopyN(io.MultiWriter(f, h), rand.NewChaCha8([32]byte{1}), size)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return h.Sum(nil)
}

// Who may only look signs in to change, and out again.
func TestLogin(t *testing.T) {
	c := e2e.Start(t, e2e.Options{NoHTTP: true})
	users := filepath.Join(c.Base, "users")
	r := exec.Command(e2e.Program("tnv"), "passwd", users, "ann")
	r.Stdin = strings.NewReader("secret words\nsecret words\n")
	if out, err := r.CombinedOutput(); err != nil {
		t.Fatalf("tnv passwd: %v\n%s", err, out)
	}
	rules := filepath.Join(c.Base, "rules")
	if err := os.WriteFile(rules, []byte("ann write /\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startWith(t, c, "--users", users, "--access", rules, "--anonymous", "read")
	s.write("a.bin", []byte("first"))
	s.Open("/")
	s.rows("a.bin")
	if browser.Eval[bool](s.Browser, "!!document.querySelector('#upload-files + *, .tools .primary')") {
		t.Error("who may only look is offered to upload")
	}
	s.Excuse("401")
	s.Click("[aria-label='Sign in']")
	s.Type("[name=user]", "ann")
	s.Type("[name=password]", "guess")
	s.Press(kb.Enter)
	s.Sees("do not match")
	s.Type("[name=password]", kb.Backspace+kb.Backspace+kb.Backspace+kb.Backspace+kb.Backspace+"secret words")
	s.Press(kb.Enter)
	s.Until("document.querySelector('.tools .primary')")
	s.Click("[aria-label='Signed in as ann']")
	s.Click("[role=menuitem]")
	s.Until("document.querySelector('[aria-label=\"Sign in\"]') && !document.querySelector('.tools .primary')")
}

// Browsers get the page, programs what they always got.
func TestNegotiation(t *testing.T) {
	c := e2e.Start(t, e2e.Options{})
	if err := os.WriteFile(filepath.Join(c.Mount, "film.mkv"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		query, accept string
		page          bool
	}{
		{"", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true},
		{"?plain", "text/html,*/*;q=0.8", false},
		{"", "*/*", false},
		{"", "", false},
	} {
		r, err := http.NewRequest(http.MethodGet, c.HTTP+"/"+x.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", x.accept)
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(a.Body)
		a.Body.Close()
		isPage := strings.Contains(string(b), "/.tnv/page/main-")
		if err != nil || isPage != x.page || strings.Contains(string(b), `href="./film.mkv"`) == x.page {
			t.Errorf("%q with Accept %q: the page %v, %v\n%s", x.query, x.accept, isPage, err, b)
		}
		if a.Header.Get("Vary") != "Accept" && !strings.Contains(a.Header.Get("Vary"), "Accept,") && len(a.Header.Values("Vary")) < 2 {
			t.Errorf("Vary is %q", a.Header.Values("Vary"))
		}
		if csp := a.Header.Get("Content-Security-Policy"); x.page && !strings.Contains(csp, "script-src 'self'") {
			t.Errorf("the page's policy is %q", csp)
		}
	}
}
