package httpd

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
)

// do sends a request with headers "Name: value", following no redirect.
func do(t testing.TB, method, url string, headers ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Add(k, v)
	}
	c := &http.Client{Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp, body
}

func TestContentAndRanges(t *testing.T) {
	f := newFake()
	data := noise(3<<20 + 17)
	f.dir("/films")
	f.file("/films/a ü.mkv", data)
	srv, _ := start(t, f, tnv.Root)
	url := srv.URL + "/films/a%20%C3%BC.mkv"
	n := len(data)
	for _, c := range []struct {
		rng    string
		status int
		from   int
		to     int
	}{
		{"", 200, 0, n},
		{"bytes=0-0", 206, 0, 1},
		{"bytes=100-65635", 206, 100, 65636},
		{"bytes=1048577-", 206, 1048577, n},
		{"bytes=-5", 206, n - 5, n},
		{fmt.Sprintf("bytes=-%d", n+5), 206, 0, n},
		{fmt.Sprintf("bytes=%d-%d", n-1, n+99), 206, n - 1, n},
		{"seconds=1-2", 200, 0, n},
	} {
		resp, body := do(t, "GET", url, "Range: "+c.rng)
		if resp.StatusCode != c.status || !bytes.Equal(body, data[c.from:c.to]) {
			t.Errorf("Range %q: status %d, %d bytes, want %d and bytes %d to %d", c.rng, resp.StatusCode, len(body), c.status, c.from, c.to)
		}
		if c.status == 206 {
			if got, want := resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", c.from, c.to-1, n); got != want {
				t.Errorf("Content-Range %q, want %q", got, want)
			}
		}
		if resp.ContentLength != int64(c.to-c.from) || resp.Header.Get("Accept-Ranges") != "bytes" ||
			resp.Header.Get("Content-Type") != "video/x-matroska" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("Range %q: headers %v", c.rng, resp.Header)
		}
	}
	resp, body := do(t, "HEAD", url)
	if resp.StatusCode != 200 || resp.ContentLength != int64(n) || len(body) != 0 {
		t.Errorf("HEAD: %d, length %d, %d bytes", resp.StatusCode, resp.ContentLength, len(body))
	}
	for _, bad := range []string{fmt.Sprintf("bytes=%d-", n), "bytes=5-2", "bytes=a-b", "bytes=--1", "bytes=1", "bytes=99999999999999999999-", manyRanges(33), manyRanges(3000)} {
		resp, _ := do(t, "GET", url, "Range: "+bad)
		if resp.StatusCode != 416 {
			t.Errorf("Range %.40q: %d, want 416", bad, resp.StatusCode)
		}
	}
}

func TestMultipleRanges(t *testing.T) {
	f := newFake()
	data := noise(1 << 20)
	f.file("/a.mp4", data)
	srv, _ := start(t, f, tnv.Root)
	resp, body := do(t, "GET", srv.URL+"/a.mp4", "Range: bytes=0-9,300000-600000,-7")
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode != 206 || kind != "multipart/byteranges" || err != nil {
		t.Fatalf("status %d, type %q", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	mr := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for _, want := range [][]byte{data[:10], data[300000:600001], data[len(data)-7:]} {
		part, err := mr.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(part)
		if err != nil || !bytes.Equal(got, want) || part.Header.Get("Content-Type") != "video/mp4" {
			t.Errorf("part %v: %d bytes, want %d (%v)", part.Header, len(got), len(want), err)
		}
	}
	if _, err := mr.NextPart(); err != io.EOF {
		t.Errorf("a part too many: %v", err)
	}
	if resp, _ := do(t, "GET", srv.URL+"/a.mp4", "Range: "+manyRanges(maxRanges)); resp.StatusCode != 206 {
		t.Errorf("%d ranges: %d, want 206", maxRanges, resp.StatusCode)
	}
}

func TestConditions(t *testing.T) {
	f := newFake()
	n := f.file("/a.mp4", noise(1000))
	srv, _ := start(t, f, tnv.Root)
	url := srv.URL + "/a.mp4"
	resp, _ := do(t, "GET", url)
	tag, mod := resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	if !regexp.MustCompile(`^"[0-9a-f]+-[0-9a-f]+"$`).MatchString(tag) || mod != "Mon, 06 May 2024 07:08:09 GMT" {
		t.Fatalf("ETag %q, Last-Modified %q", tag, mod)
	}
	before := "Sun, 05 May 2024 00:00:00 GMT"
	for _, c := range []struct {
		status  int
		headers []string
	}{
		{304, []string{"If-None-Match: " + tag}},
		{304, []string{`If-None-Match: "x", ` + tag}},
		{304, []string{"If-None-Match: *"}},
		{200, []string{`If-None-Match: "x"`}},
		{200, []string{`If-None-Match: "x"`, "If-Modified-Since: " + mod}},
		{200, []string{"If-Match: " + tag}},
		{412, []string{`If-Match: "x"`}},
		{412, []string{"If-Match: W/" + tag}},
		{304, []string{"If-Modified-Since: " + mod}},
		{200, []string{"If-Modified-Since: " + before}},
		{200, []string{"If-Modified-Since: nonsense"}},
		{412, []string{"If-Unmodified-Since: " + before}},
		{200, []string{"If-Unmodified-Since: " + mod}},
		{206, []string{"Range: bytes=0-1", "If-Range: " + tag}},
		{200, []string{"Range: bytes=0-1", `If-Range: "x"`}},
		{200, []string{"Range: bytes=0-1", "If-Range: W/" + tag}},
		{206, []string{"Range: bytes=0-1", "If-Range: " + mod}},
		{200, []string{"Range: bytes=0-1", "If-Range: " + before}},
	} {
		if resp, _ := do(t, "GET", url, c.headers...); resp.StatusCode != c.status {
			t.Errorf("%v: %d, want %d", c.headers, resp.StatusCode, c.status)
		}
	}
	f.mu.Lock()
	n.attr.Data++
	f.mu.Unlock()
	if resp, _ := do(t, "GET", url, "If-None-Match: "+tag); resp.StatusCode != 200 || resp.Header.Get("ETag") == tag {
		t.Errorf("after a change: %d, ETag %s", resp.StatusCode, resp.Header.Get("ETag"))
	}
	f.mu.Lock()
	now := time.Now()
	n.attr.Mtime = now.UnixNano()
	f.mu.Unlock()
	fresh := now.UTC().Format(http.TimeFormat)
	if resp, _ := do(t, "GET", url, "Range: bytes=0-1", "If-Range: "+fresh); resp.StatusCode != 200 {
		t.Errorf("If-Range by the date of a file that changed this second: %d, want 200", resp.StatusCode)
	}
}

func TestStatuses(t *testing.T) {
	f := newFake()
	f.dir("/d")
	f.dir("/d/e f")
	f.file("/d/a.mp4", noise(10))
	f.add("/pipe", tnv.TypeFIFO.Mode()|0o666, nil)
	f.add("/secret", tnv.TypeRegular.Mode()|0o600, noise(3))
	srv, _ := start(t, f, tnv.Cred{UID: 1000, GID: 1000})
	for _, c := range []struct {
		method, path string
		status       int
		header, want string
	}{
		{"GET", "/none", 404, "", ""},
		{"GET", "/d/a.mp4/", 404, "", ""},
		{"GET", "/pipe", 403, "", ""},
		{"GET", "/secret", 403, "", ""},
		{"GET", "/d", 301, "Location", "/d/"},
		{"GET", "//d", 301, "Location", "/d/"},
		{"GET", "/d/e%20f?x=1", 301, "Location", "/d/e%20f/?x=1"},
		{"GET", "/d/", 200, "Content-Type", "text/html; charset=utf-8"},
		{"HEAD", "/d/", 200, "Content-Type", "text/html; charset=utf-8"},
		{"OPTIONS", "/d/a.mp4", 204, "Allow", "GET, HEAD, OPTIONS, PROPFIND"},
		{"PUT", "/d/a.mp4", 403, "", ""},
		{"DELETE", "/d/a.mp4", 403, "", ""},
		{"MKCOL", "/new", 403, "", ""},
		{"LOCK", "/d/a.mp4", 403, "", ""},
		{"POST", "/", 405, "Allow", "GET, HEAD, OPTIONS, PROPFIND"},
		{"PROPFIND", "/", 403, "", ""}, // without Depth: infinite
		{"GET", "/.tnv/healthz", 200, "", ""},
		{"GET", "/.tnv/status", 200, "Content-Type", "application/json"},
		{"GET", "/.tnv/", 404, "", ""},
		{"GET", "/.tnv", 404, "", ""},
		{"GET", "/" + strings.Repeat("x", 300), 404, "", ""},
		{"GET", strings.Repeat("/yy", 2000), 404, "", ""},
	} {
		resp, _ := do(t, c.method, srv.URL+c.path)
		if resp.StatusCode != c.status || c.header != "" && resp.Header.Get(c.header) != c.want {
			t.Errorf("%s %.40s: %d, %s %q; want %d, %q", c.method, c.path, resp.StatusCode, c.header, resp.Header.Get(c.header), c.status, c.want)
		}
	}
	f.mu.Lock()
	f.down = tnv.E("resolve", tnv.KindUnavailable, "")
	f.mu.Unlock()
	for _, p := range []string{"/d/a.mp4", "/d/", "/.tnv/healthz"} {
		if resp, _ := do(t, "GET", srv.URL+p); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s without a cluster: %d %v", p, resp.StatusCode, resp.Header)
		}
	}
}

// raw sends bytes as they are and returns the answer's status.
func raw(t *testing.T, addr, request string) int {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	go io.WriteString(c, request)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%.60q: %v", request, err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestHostileRequests(t *testing.T) {
	f := newFake()
	f.dir("/d")
	f.file("/d/a.mp4", noise(10))
	srv, _ := start(t, f, tnv.Root)
	addr := srv.Listener.Addr().String()
	get := func(target string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	}
	for _, c := range []struct {
		request string
		allowed []int
	}{
		{get("/../etc/passwd"), []int{400}},
		{get("/d/../../etc/passwd"), []int{400}},
		{get("/%2e%2e/etc/passwd"), []int{400}},
		{get("/d/%2e%2e%2f%2e%2e%2fetc"), []int{400}},
		{get("/d/..%5c..%5cetc"), []int{404}},
		{get("/d/%252e%252e/etc"), []int{404}},
		{get("/d/..%c0%af..%c0%afetc"), []int{404}},
		{get("/d/."), []int{400}},
		{get("/d/a.mp4%00.txt"), []int{400}},
		{get("/%zz"), []int{400}},
		{get("d/a.mp4"), []int{400}},
		{get("*"), []int{400}},
		{get("http://x/../../etc/passwd"), []int{400}},
		{get("/" + strings.Repeat("a/", 1<<20)), []int{431, 414, 400}},
		{"GET /d/a.mp4 HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("h", 1<<20) + "\r\n\r\n", []int{431}},
		{"GET /d/a.mp4 HTTP/1.1\r\nHost: x\r\nRange: bytes=" + strings.Repeat("0-1,", 7000) + "\r\nConnection: close\r\n\r\n", []int{416}},
		{"GET /d/a.mp4 HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", []int{200}},
		{"CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n", []int{400, 405}},
		{"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", []int{400}},
	} {
		if got := raw(t, addr, c.request); !slices.Contains(c.allowed, got) {
			t.Errorf("%.60q: %d, want one of %v", c.request, got, c.allowed)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.asked {
		for seg := range strings.SplitSeq(p, "/") {
			if seg == ".." || !strings.HasPrefix(p, "/") || strings.ContainsRune(p, 0) {
				t.Errorf("the volume was asked for %q", p)
			}
		}
	}
}

func TestListing(t *testing.T) {
	f := newFake()
	f.dir("/d")
	for _, n := range []string{`z.mp4`, `<script>alert(1)`, `a "b" & c?#.mkv`, `javascript:x`, "new\nline", "b\xff"} {
		f.file("/d/"+n, noise(5))
	}
	f.dir("/d/Sub")
	srv, _ := start(t, f, tnv.Root)
	_, body := do(t, "GET", srv.URL+"/d/")
	page := string(body)
	if strings.Contains(page, "<script") || strings.Contains(page, `href="javascript`) {
		t.Errorf("a name got into the page as it is:\n%s", page)
	}
	hrefs := regexp.MustCompile(`href="\./([^"]*)"`).FindAllStringSubmatch(page, -1)
	var names []string
	for _, h := range hrefs {
		names = append(names, h[1])
		if !strings.HasSuffix(h[1], "/") {
			if resp, _ := do(t, "GET", srv.URL+"/d/"+strings.ReplaceAll(h[1], "&amp;", "&")); resp.StatusCode != 200 {
				t.Errorf("link %q leads to %d", h[1], resp.StatusCode)
			}
		}
	}
	if len(names) != 7 || names[len(names)-1] != "z.mp4" || names[1] != "Sub/" {
		t.Errorf("names %q: want 7, sorted", names)
	}
	f.dir("/many")
	for i := range 2500 {
		f.file(fmt.Sprintf("/many/%05d.ts", (i*7919)%2500), nil)
	}
	_, body = do(t, "GET", srv.URL+"/many/")
	links := regexp.MustCompile(`href="\./(\d+)\.ts"`).FindAllSubmatch(body, -1)
	for i, l := range links {
		if string(l[1]) != fmt.Sprintf("%05d", i) {
			t.Fatalf("entry %d is %s", i, l[1])
		}
	}
	if len(links) != 2500 || !bytes.HasSuffix(body, []byte("</html>\n")) {
		t.Errorf("%d entries, want 2500 and the page's end", len(links))
	}
}

func TestTypes(t *testing.T) {
	for name, want := range map[string]string{"a.MP4": "video/mp4", "x.m3u8": "application/vnd.apple.mpegurl", "x.mpd": "application/dash+xml",
		"a.b.vtt": "text/vtt; charset=utf-8", "noext": "application/octet-stream", "x.exe": "application/octet-stream", ".mp3": "audio/mpeg"} {
		if got := contentType("/d/" + name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
