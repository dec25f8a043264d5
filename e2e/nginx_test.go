package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startNginx serves a directory with nginx, and returns its URL.
func startNginx(t *testing.T, dir string) string {
	t.Helper()
	if _, err := exec.LookPath("nginx"); err != nil {
		t.Fatal("nginx is missing: apt-get install nginx")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	tmp := t.TempDir()
	conf := filepath.Join(tmp, "nginx.conf")
	text := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/pid; error_log stderr crit; user root;
events { worker_connections 64; }
http { access_log off; client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  default_type application/octet-stream; types { video/mp4 mp4; }
  server { listen %[2]s; root %[3]s; } }`, tmp, addr, dir)
	if os.Getuid() != 0 {
		text = strings.Replace(text, " user root;", "", 1)
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nginx", "-p", tmp, "-c", conf)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return "http://" + addr
		}
		if time.Now().After(end) {
			t.Fatalf("nginx does not answer: %v", err)
		}
	}
}

// answer is what of an answer has a meaning.
type answer struct {
	status                                         int
	length                                         int64
	contentRange, kind, modified, accept, encoding string
	body                                           string
}

func (a answer) String() string {
	return fmt.Sprintf("%d, length %d, range %q, type %q, %d bytes", a.status, a.length, a.contentRange, a.kind, len(a.body))
}

// take asks one server. ETAG and WEAK in headers stand for the server's own tag.
func take(t *testing.T, method, url, tag string, headers []string) answer {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Add(k, strings.NewReplacer("WEAK", "W/"+tag, "ETAG", tag).Replace(v))
	}
	resp, err := (&http.Client{Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		t.Fatalf("%s %s %v: %v", method, url, headers, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s %v: %v", method, url, headers, err)
	}
	a := answer{status: resp.StatusCode, length: resp.ContentLength, contentRange: resp.Header.Get("Content-Range"),
		modified: resp.Header.Get("Last-Modified"), accept: resp.Header.Get("Accept-Ranges"), encoding: strings.Join(resp.TransferEncoding, ","), body: string(b)}
	if a.status != 200 {
		a.accept = "" // 14.3: who gets a part knows
	}
	switch {
	case a.status >= 300: // what is said then is for people
		a.body, a.length, a.modified, a.accept, a.encoding = "", 0, "", "", ""
	default:
		a.kind, a.body = parts(t, resp.Header.Get("Content-Type"), b)
		if a.kind == "multipart/byteranges" {
			a.length = 0 // boundaries differ
		}
	}
	return a
}

// parts makes several ranges comparable: each with its range and bytes.
func parts(t *testing.T, kind string, b []byte) (string, string) {
	t.Helper()
	media, params, err := mime.ParseMediaType(kind)
	if err != nil || media != "multipart/byteranges" || len(b) == 0 {
		return media, string(b)
	}
	var out strings.Builder
	for r := multipart.NewReader(bytes.NewReader(b), params["boundary"]); ; {
		p, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return media, out.String()
		}
		if err != nil {
			t.Fatalf("several ranges: %v", err)
		}
		data, err := io.ReadAll(p)
		if err != nil {
			t.Fatalf("several ranges: %v", err)
		}
		fmt.Fprintf(&out, "%s %s\n%s\n", p.Header.Get("Content-Type"), p.Header.Get("Content-Range"), data)
	}
}

// asked is a request, as differences look at it.
type asked struct {
	method  string
	size    int64
	rng     string   // the Range; "": none
	headers []string // all of them, with dates as they are named in the cases
}

func (a *asked) has(header string) bool { return slices.Contains(a.headers, header) }

func (a *asked) names(header string) bool {
	return slices.ContainsFunc(a.headers, func(h string) bool { return strings.HasPrefix(h, header+": ") })
}

// difference is one that the standard demands, or leaves open.
type difference struct {
	paragraph string // of RFC 9110
	why       string
	here      func(a *asked) bool
	statuses  []int // what ours may be then
}

var differences = []difference{
	{"14.2", "a Range means something for GET only; nginx heeds it for HEAD", func(a *asked) bool { return a.method == "HEAD" && a.rng != "" }, []int{200, 304, 412}},
	{"13.1.3", "If-Modified-Since is about being later, not about being equal", func(a *asked) bool { return a.has("If-Modified-Since: T2") && !a.names("If-None-Match") }, []int{304}},
	{"13.1.3", "If-None-Match takes precedence over If-Modified-Since", func(a *asked) bool { return a.has("If-None-Match: ETAG") && a.names("If-Modified-Since") }, []int{304}},
	{"13.1.4", "If-Match takes precedence over If-Unmodified-Since", func(a *asked) bool { return a.has("If-Match: ETAG") && a.names("If-Unmodified-Since") }, []int{200, 206}},
	{"13.1.4", "an If-Unmodified-Since that is no date is ignored", func(a *asked) bool { return a.has("If-Unmodified-Since: junk") }, []int{200, 206}},
	{"14.1.2", "a last position behind the end means the end, however large", func(a *asked) bool { return a.rng == "bytes=0-99999999999999999999" }, []int{200, 206}},
	{"14.1.2", "the last 0 bytes cannot be sent", func(a *asked) bool { return a.rng == "bytes=-0" }, []int{416}},
	{"5.6.1.2", "elements of a list may be empty", func(a *asked) bool {
		return strings.HasPrefix(a.rng, "bytes=,") || strings.HasSuffix(a.rng, ",") || strings.Contains(a.rng, ",,")
	}, []int{200, 206, 416}},
	{"14.2", "a list that is no valid one may be refused; nginx takes part of it", func(a *asked) bool {
		return slices.Contains([]string{"bytes=", "bytes=0 - 0", "bytes=0-0,abc", "bytes=1-0,0-0"}, a.rng)
	}, []int{416}},
}

// rangeCases are values of Range for a file of a size.
func rangeCases(size int64) []string {
	n := func(format string, args ...any) string { return fmt.Sprintf(format, args...) }
	return []string{"", "bytes=0-0", "bytes=0-", "bytes=1-3", "bytes=-1", "bytes=-0", "bytes=-999999999", n("bytes=%d-", size-1), n("bytes=%d-", size),
		n("bytes=0-%d", size-1), n("bytes=0-%d", size), n("bytes=%d-%d", size/2, size*2), n("bytes=%d-%d", size, size+5), "bytes=5-2", "bytes=abc", "bytes=1", "bytes=", "bytes=-",
		"bytes=99999999999999999999-", "bytes=0-99999999999999999999", "bytes=18446744073709551615-", "bytes= 0-0", "bytes=0 - 0", "bytes=0-0 ", "items=0-1", "BYTES=0-0", "Bytes=0-0",
		"bytes=0-0,2-2", "bytes=0-0, 2-2", "bytes=0-0,-1", "bytes=2-2,0-0", "bytes=0-9,5-14", "bytes=0-0,0-0", n("bytes=0-0,%d-", size), n("bytes=%d-,0-0", size+7),
		n("bytes=%d-,%d-", size, size+1), "bytes=0-,0-", "bytes=0-0,abc", "bytes=,0-0", "bytes=0-0,", "bytes=,", "bytes=0-0,,2-2", "bytes=1-0,0-0", "bytes=0--1", "bytes=+0-1", "bytes=0x0-1"}
}

// conditionCases are conditional requests; T0 is before, T1 at, T2 after the file's time.
var conditionCases = [][]string{
	{"If-None-Match: ETAG"}, {"If-None-Match: WEAK"}, {`If-None-Match: "x"`}, {`If-None-Match: "x", ETAG`}, {`If-None-Match: "x",ETAG,"y"`}, {"If-None-Match: *"},
	{"If-Match: ETAG"}, {"If-Match: WEAK"}, {`If-Match: "x"`}, {`If-Match: "x", ETAG`}, {"If-Match: *"},
	{"If-Modified-Since: T0"}, {"If-Modified-Since: T1"}, {"If-Modified-Since: T2"}, {"If-Modified-Since: junk"},
	{"If-Unmodified-Since: T0"}, {"If-Unmodified-Since: T1"}, {"If-Unmodified-Since: T2"}, {"If-Unmodified-Since: junk"},
	{"If-None-Match: ETAG", "If-Modified-Since: T0"}, {`If-None-Match: "x"`, "If-Modified-Since: T2"},
	{"If-Match: ETAG", "If-Unmodified-Since: T0"}, {`If-Match: "x"`, "If-Unmodified-Since: T2"},
	{"If-Match: ETAG", "If-None-Match: ETAG"}, {"If-Unmodified-Since: T2", "If-None-Match: ETAG"},
	{"If-Range: ETAG"}, {"If-Range: WEAK"}, {`If-Range: "x"`}, {"If-Range: T0"}, {"If-Range: T1"}, {"If-Range: T2"}, {"If-Range: junk"},
	{"If-Range: ETAG", "If-None-Match: ETAG"}, {`If-Range: "x"`, `If-Match: ETAG`},
}

// The same requests to nginx on a local copy and to httpd get the same status,
// headers of meaning and bytes, but for what is listed in differences.
func TestLikeNginx(t *testing.T) {
	c := Start(t, Options{NoMount: true, NoHTTP: true})
	base := c.serveHTTP("--anonymous", "write")
	local := t.TempDir()
	os.Chmod(local, 0o755)
	nginx := startNginx(t, local)
	at := time.Date(2020, 5, 6, 7, 8, 9, 0, time.UTC)
	dates := strings.NewReplacer("T0", at.Add(-time.Hour).Format(http.TimeFormat), "T1", at.Format(http.TimeFormat), "T2", at.Add(time.Hour).Format(http.TimeFormat))
	total, listed := 0, map[string]int{}
	for _, size := range []int64{0, 1, 1000, 300_000} {
		name := fmt.Sprintf("%d.mp4", size)
		data := bytes.Repeat([]byte("0123456789abcdef-"), int(size/17)+1)[:size]
		if err := os.WriteFile(filepath.Join(local, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		os.Chtimes(filepath.Join(local, name), at, at)
		if resp, _ := request(t, "PUT", base+"/"+name, data, fmt.Sprintf("X-OC-Mtime: %d", at.Unix())); resp.StatusCode != 201 {
			t.Fatalf("PUT: %d", resp.StatusCode)
		}
		tags := map[string]string{}
		for _, s := range []string{nginx, base} {
			resp, _ := request(t, "HEAD", s+"/"+name, nil)
			tags[s] = resp.Header.Get("ETag")
		}
		compare := func(method string, headers ...string) {
			total++
			a := asked{method: method, size: size, headers: slices.Clone(headers)}
			for i, h := range headers {
				headers[i] = dates.Replace(h)
				if v, ok := strings.CutPrefix(h, "Range: "); ok {
					a.rng = strings.TrimSpace(v)
				}
			}
			n, o := take(t, method, nginx+"/"+name, tags[nginx], headers), take(t, method, base+"/"+name, tags[base], headers)
			if n == o {
				return
			}
			for _, d := range differences {
				if d.here(&a) && slices.Contains(d.statuses, o.status) {
					listed[d.paragraph+": "+d.why]++
					return
				}
			}
			t.Errorf("%s %s %q:\n  nginx %v\n  ours  %v", method, name, headers, n, o)
		}
		for _, method := range []string{"GET", "HEAD"} {
			for _, r := range rangeCases(size) {
				if r == "" {
					compare(method)
					continue
				}
				compare(method, "Range: "+r)
			}
			for _, cond := range conditionCases {
				compare(method, slices.Clone(cond)...)
				compare(method, append([]string{"Range: bytes=0-0"}, cond...)...)
				compare(method, append([]string{"Range: bytes=0-0,2-2"}, cond...)...)
			}
		}
	}
	t.Logf("%d requests", total)
	for _, why := range slices.Sorted(maps.Keys(listed)) {
		t.Logf("%4d differ, RFC 9110, %s", listed[why], why)
	}
}
