package httpd

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
)

func TestParseRanges(t *testing.T) {
	for _, c := range []struct {
		list string
		size int64
		want string
	}{
		{"0-0", 10, "0-0"}, {"5-", 10, "5-9"}, {"-3", 10, "7-9"}, {"-30", 10, "0-9"}, {"2-100", 10, "2-9"}, {" 1-2 ,\t-1,", 10, "1-2 9-9"},
		{"10-,0-1", 10, "0-1"}, {"0-99999999999999999999", 10, "0-9"}, {"9223372036854775807-", 10, string(errUnsatisfied)},
		{"10-", 10, string(errUnsatisfied)}, {"-0", 10, string(errUnsatisfied)}, {"0-", 0, ""}, {"-5", 0, ""}, {"1-", 0, string(errUnsatisfied)},
		{"", 10, string(errRange)}, {",", 10, string(errRange)}, {"-", 10, string(errRange)}, {"5", 10, string(errRange)}, {"5-2", 10, string(errRange)},
		{"+1-2", 10, string(errRange)}, {"1 - 2", 10, string(errRange)}, {"0--1", 10, string(errRange)}, {"0x1-2", 10, string(errRange)},
		{strings.Repeat("0-0,", maxRanges) + "1-1", 10, string(errTooMany)},
	} {
		spans, err := parseRanges(c.list, c.size)
		var got []string
		for _, s := range spans {
			got = append(got, fmt.Sprintf("%d-%d", s.first, s.last))
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%.30q of %d: %v, want %q", c.list, c.size, got, c.want)
		}
	}
}

// FuzzParseRanges: what comes out lies within the file, and is not more than was asked for.
func FuzzParseRanges(f *testing.F) {
	f.Add("0-0,-1, 5-", int64(10))
	f.Add(",,-0", int64(0))
	f.Fuzz(func(t *testing.T, list string, size int64) {
		if size < 0 {
			return
		}
		spans, err := parseRanges(list, size)
		if err != nil && spans != nil {
			t.Fatal("an error and ranges")
		}
		if len(spans) > maxRanges {
			t.Fatalf("%d ranges", len(spans))
		}
		for _, s := range spans {
			if s.first < 0 || s.last < s.first || s.last >= size {
				t.Fatalf("%q of %d: %v", list, size, s)
			}
		}
	})
}

// FuzzMatches: no list of tags makes it run away, and a tag is in the list of itself.
func FuzzMatches(f *testing.F) {
	f.Add(`"a", W/"b"`, `"b"`)
	f.Add(`*`, `"b"`)
	f.Fuzz(func(t *testing.T, list, tag string) {
		strong := matches(list, tag, true)
		if strong && !matches(list, tag, false) {
			t.Fatal("it matches as a strong tag only")
		}
	})
}

func TestCORS(t *testing.T) {
	s := access.NewSigner(nil, "", "")
	for _, c := range []struct {
		cors   []string
		query  string
		origin string
		want   string
	}{
		{nil, "", "https://a.example", ""}, {[]string{"*"}, "", "https://a.example", "*"}, {[]string{"https://a.example"}, "", "https://a.example", "https://a.example"},
		{[]string{"https://a.example"}, "", "https://b.example", ""}, {nil, "?k=x", "https://a.example", ""},
		{nil, "?k=" + s.Link("/a.m3u8", "", time.Now().Add(time.Hour)), "https://a.example", "*"}, {nil, "?k=" + s.Link("/b", "", time.Now().Add(time.Hour)), "https://a.example", ""},
		{nil, "?k=" + s.Link("/a.m3u8", "", time.Now().Add(-time.Hour)), "https://a.example", ""}, {[]string{"*"}, "", "", ""},
	} {
		f := newFake()
		f.file("/a.m3u8", noise(10))
		srv, _ := startWith(t, f, tnv.Root, options{cors: c.cors})
		headers := []string{"X: 1"}
		if c.origin != "" {
			headers = append(headers, "Origin: "+c.origin)
		}
		resp, _ := do(t, "GET", srv.URL+"/a.m3u8"+c.query, headers...)
		if got := resp.Header.Get("Access-Control-Allow-Origin"); got != c.want || resp.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%v, %s: %q, want %q", c.cors, c.origin, got, c.want)
		}
		resp, _ = do(t, "OPTIONS", srv.URL+"/a.m3u8"+c.query, append(headers, "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: range")...)
		if got := resp.Header.Get("Access-Control-Allow-Origin"); got != c.want || c.want != "" && !strings.Contains(resp.Header.Get("Access-Control-Allow-Headers"), "Range") {
			t.Errorf("asked before, %v, %s: %q", c.cors, c.origin, got)
		}
	}
}

// On loopback, a name that somebody made to lead there is not served.
func TestHosts(t *testing.T) {
	f := newFake()
	f.file("/a", noise(10))
	srv, _ := startWith(t, f, tnv.Root, options{local: true, hosts: []string{"films.example"}})
	g := newFake()
	g.file("/a", noise(10))
	anywhere, _ := start(t, g, tnv.Root)
	for host, want := range map[string]int{"localhost": 200, "LOCALHOST:80": 200, "127.0.0.1:1": 200, "127.9.9.9": 200, "[::1]:8080": 200, "[::1]": 200, "Films.example:443": 200,
		"evil.example": 421, "evil.example:8080": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example": 421, "10.0.0.1": 421} {
		for at, want := range map[string]int{srv.URL: want, anywhere.URL: 200} {
			req, err := http.NewRequest("GET", at+"/a", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s: %d, want %d", host, resp.StatusCode, want)
			}
		}
	}
	for listen, want := range map[string]bool{"": true, "localhost:1": true, "[::1]:1": true, ":1": false, "10.0.0.1:1": false} {
		if cfg := (Config{Listen: listen}).withDefaults(); cfg.local() != want {
			t.Errorf("%q is local: %v", listen, !want)
		}
	}
}

// What could run in the page's name is told to do nothing.
func TestSafeHeaders(t *testing.T) {
	f := newFake()
	for _, n := range []string{"/a.html", "/a.svg", "/a.mp4"} {
		f.file(n, noise(10))
	}
	srv, _ := start(t, f, tnv.Root)
	for n, want := range map[string]bool{"/a.html": true, "/a.svg": true, "/a.mp4": false} {
		resp, _ := do(t, "GET", srv.URL+n)
		if got := strings.HasPrefix(resp.Header.Get("Content-Security-Policy"), "sandbox;"); got != want {
			t.Errorf("%s: %q", n, resp.Header.Get("Content-Security-Policy"))
		}
		if resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("X-Frame-Options") == "" || resp.Header.Get("Referrer-Policy") == "" {
			t.Errorf("%s: %v", n, resp.Header)
		}
	}
}

func TestRateLimit(t *testing.T) {
	f := newFake()
	data := noise(1 << 20)
	f.file("/a.mp4", data)
	srv, h := startWith(t, f, tnv.Root, options{perViewer: 1 << 20})
	begin := time.Now()
	_, body := do(t, "GET", srv.URL+"/a.mp4")
	if took := time.Since(begin); !bytes.Equal(body, data) || took < 600*time.Millisecond || took > 5*time.Second {
		t.Errorf("1 MiB at 1 MiB/s, of which %d at once, took %v", burst, took)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		h.limits.mu.Lock()
		n := len(h.limits.viewers)
		h.limits.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d viewers are still noted", n)
		}
	}
}

// A certificate is made once, and both versions of HTTP are spoken with it.
func TestTLS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	cfg := TLS{SelfMade: dir}
	first, err := cfg.load("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	again, err := cfg.load("127.0.0.1:0")
	if err != nil || !bytes.Equal(first.Certificate[0], again.Certificate[0]) {
		t.Errorf("another certificate: %v", err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "tls.pem")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v %v", fi, err)
	}
	if _, err := (&TLS{Cert: "x"}).load(""); err == nil {
		t.Error("a certificate without a key is taken")
	}
	for _, http1 := range []bool{false, true} {
		f := newFake()
		data := noise(3 << 20)
		f.file("/a.mp4", data)
		h := newHandler(f, tnv.Root, "media", 256<<20, quietLog(), newMetrics(nil), options{})
		srv := newServer(h, silent(), http1)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*first}}
		go srv.ServeTLS(newLimitListener(ln, 100, func(int) {}), "", "")
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
		req, _ := http.NewRequest("GET", "https://"+ln.Addr().String()+"/a.mp4", nil)
		req.Header.Set("Range", "bytes=5-3000000")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := map[bool]int{false: 2, true: 1}[http1]; err != nil || !bytes.Equal(body, data[5:3000001]) || resp.ProtoMajor != want || resp.Header.Get("Strict-Transport-Security") == "" {
			t.Errorf("http1 %v: HTTP/%d, %d bytes, %v", http1, resp.ProtoMajor, len(body), err)
		}
		c.CloseIdleConnections()
		srv.Close()
		h.close()
	}
}

// A daemon that others can reach must be told who may read.
func TestMustSayWho(t *testing.T) {
	for listen, fails := range map[string]bool{"127.0.0.1:1": false, "[::1]:1": false, "localhost:1": false, "0.0.0.0:1": true, ":1": true, "10.0.0.1:1": true, "[::]:1": true} {
		cfg := Config{Listen: listen}.withDefaults()
		if _, err := cfg.policy(); (err != nil) != fails {
			t.Errorf("%s: %v", listen, err)
		}
		cfg.Access.Anonymous = access.Read
		if _, err := cfg.policy(); err != nil {
			t.Errorf("%s, said: %v", listen, err)
		}
	}
}

// Nothing that a request of WebDAV or JSON holds leads out of the volume, or into
// the daemon's own directory.
func TestHostileChanges(t *testing.T) {
	f := newFake()
	f.dir("/d")
	f.file("/d/a", noise(10))
	srv, _ := startWith(t, f, tnv.Root, writers(t))
	host := strings.TrimPrefix(srv.URL, "http://")
	for _, to := range []string{"/../../etc/x", "/d/%2e%2e/%2e%2e/x", "/d/..%2f..%2fx", "/.tnv/trash/x", "//.tnv/x", "/%2etnv/x", "/.tnv", "http://other.example/x", "/d/a%00b", "x", "", "/d/a/b",
		"http://" + host + "/.tnv/x", "http://" + host + "/d/../../x"} {
		for _, m := range []string{"MOVE", "COPY"} {
			resp, _ := send(t, m, srv.URL+"/d/a", "", "Destination: "+to)
			if resp.StatusCode < 400 {
				t.Errorf("%s to %q: %d", m, to, resp.StatusCode)
			}
		}
	}
	bomb := `<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><propfind xmlns="DAV:"><prop><x>&b;</x></prop></propfind>`
	for _, c := range []struct {
		method, body string
		headers      []string
		want         int
	}{
		{"PROPFIND", "", nil, 403}, {"PROPFIND", "", []string{"Depth: infinity"}, 403}, {"PROPFIND", bomb, []string{"Depth: 0"}, 400}, {"PROPFIND", "<", []string{"Depth: 0"}, 400},
		{"PROPFIND", strings.Repeat("<a>", 100_000), []string{"Depth: 0"}, 413}, {"LOCK", bomb, nil, 400}, {"LOCK", "<lockinfo xmlns='DAV:'/>", nil, 400},
		{"UNLOCK", "", []string{"Lock-Token: <urn:uuid:1>"}, 409}, {"UNLOCK", "", nil, 400}, {"LOCK", "", []string{"If: (<urn:uuid:1>)"}, 412},
		{"PUT", "x", []string{"If: (<urn:uuid:1>)"}, 412}, {"PUT", "x", []string{"If: ((((("}, 400}, {"MKCOL", "<x/>", nil, 415}, {"PATCH", "x", nil, 405},
	} {
		if resp, body := send(t, c.method, srv.URL+"/d/a", c.body, c.headers...); resp.StatusCode != c.want {
			t.Errorf("%s %.50q %v: %d %.80s, want %d", c.method, c.body, c.headers, resp.StatusCode, body, c.want)
		}
	}
	if resp, body := do(t, "GET", srv.URL+"/d/a"); resp.StatusCode != 200 || !bytes.Equal(body, noise(10)) {
		t.Errorf("after all that the file is %d, %d bytes", resp.StatusCode, len(body))
	}
	big := `{"paths":["` + strings.Repeat("a", maxJSON) + `"]}`
	ask(t, srv.URL, "POST", "delete", big, 413)
	ask(t, srv.URL, "POST", "delete", `{"paths":["/d/a"]}{"paths":["/d"]}`, 400)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.asked {
		if strings.Contains(p+"/", "/../") || !strings.HasPrefix(p, "/") {
			t.Errorf("the volume was asked for %q", p)
		}
	}
}

// Requests that smuggle: two lengths, a length and chunks, folded headers.
func TestSmuggling(t *testing.T) {
	f := newFake()
	f.file("/a", noise(10))
	srv, _ := startWith(t, f, tnv.Root, writers(t))
	for _, head := range []string{
		"PUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
		"PUT /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"PUT /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"PUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
		"PUT /b HTTP/1.1\r\nHost: x\r\nHost: y\r\nContent-Length: 0\r\n\r\n",
		"PUT /b HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
	} {
		if got := raw(t, srv.Listener.Addr().String(), head); got != 400 && got != 501 {
			t.Errorf("%q: %d", head, got)
		}
	}
	if resp, _ := do(t, "GET", srv.URL+"/b"); resp.StatusCode != 404 {
		t.Error("one of them made a file")
	}
}

// FuzzChange: whatever a request holds, the volume is asked for clean paths, and
// nothing leads into the daemon's own directory from outside.
func FuzzChange(f *testing.F) {
	f.Add("MOVE", "/d/a", "/d/b", "", "")
	f.Add("PUT", "/d/x", "", `(<urn:uuid:1> ["x"])`, "body")
	f.Add("PROPFIND", "/", "", "", "<propfind xmlns='DAV:'><allprop/></propfind>")
	f.Add("LOCK", "/d/a", "", "", "<lockinfo xmlns='DAV:'><lockscope><shared/></lockscope><locktype><write/></locktype></lockinfo>")
	f.Add("POST", "/.tnv/api/move", "", "", `{"from":"/d/a","to":"/.tnv/x"}`)
	vol := newFake()
	vol.dir("/d")
	vol.file("/d/a", noise(10))
	h := newHandler(vol, tnv.Root, "media", 256<<20, quietLog(), newMetrics(nil), writers(f))
	f.Fuzz(func(t *testing.T, method, target, to, cond, body string) {
		r := httptest.NewRequest("GET", "/", strings.NewReader(body))
		u, err := r.URL.Parse(target)
		if err != nil || u.Host != "" {
			return
		}
		r.Method, r.URL = method, u
		r.Header.Set("Destination", to)
		r.Header.Set("If", cond)
		r.Header.Set("Depth", "1")
		w := httptest.NewRecorder()
		func() {
			defer func() {
				if e := recover(); e != nil && e != http.ErrAbortHandler {
					panic(e)
				}
			}()
			h.ServeHTTP(w, r)
		}()
		vol.mu.Lock()
		defer vol.mu.Unlock()
		for p := range vol.nodes {
			if rest, ok := strings.CutPrefix(p, "/.tnv/"); ok && !strings.HasPrefix(rest, "trash") && !strings.HasPrefix(rest, "uploads") && !strings.HasPrefix(rest, "media") {
				t.Fatalf("%s %s to %s made %s", method, target, to, p)
			}
		}
		vol.asked = nil
	})
}
