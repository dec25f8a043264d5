package page

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, h http.Handler, method, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Every file that the page names is there, and nothing of it is elsewhere or inline.
func TestPageIsWhole(t *testing.T) {
	h := Handler()
	for _, address := range []string{"/", "/films/", "/.tnv/"} {
		r := get(t, h, "GET", address)
		html := body(t, r.Body)
		if r.StatusCode != 200 || r.Header.Get("Content-Type") != "text/html; charset=utf-8" || r.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %d %v", address, r.StatusCode, r.Header)
		}
		csp := r.Header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "http") {
			t.Errorf("%s: the policy is %q", address, csp)
		}
		links := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(html, -1)
		if len(links) < 4 {
			t.Errorf("%s names %d files", address, len(links))
		}
		for _, l := range links {
			if strings.HasPrefix(l[1], Assets) {
				if r := get(t, h, "GET", l[1]); r.StatusCode != 200 {
					t.Errorf("%s is %d", l[1], r.StatusCode)
				}
			} else if l[1] != "?plain" && l[1] != "/.tnv/api/status" {
				t.Errorf("%s leads to %s", address, l[1])
			}
		}
		if strings.Contains(html, "<style") || regexp.MustCompile(`<script[^>]*>[^<]`).MatchString(html) {
			t.Errorf("%s has something inline", address)
		}
		if (address == "/.tnv/") != strings.Contains(html, "url=/.tnv/api/status") {
			t.Errorf("%s: where are those sent who run no scripts?\n%s", address, html)
		}
	}
	if r := get(t, h, "GET", "/.tnv"); r.StatusCode != http.StatusMovedPermanently || r.Header.Get("Location") != "/.tnv/" {
		t.Errorf("/.tnv is %d, %q", r.StatusCode, r.Header.Get("Location"))
	}
	if r := get(t, h, "GET", Assets+"nothing.js"); r.StatusCode != http.StatusNotFound {
		t.Errorf("an asset that is not there is %d", r.StatusCode)
	}
	if r := get(t, h, "GET", Assets+"index.html"); r.StatusCode != http.StatusNotFound {
		t.Errorf("the page as an asset is %d", r.StatusCode)
	}
}

// Assets go compressed to who takes that, and not again to who has them.
func TestAssets(t *testing.T) {
	h := Handler()
	script := regexp.MustCompile(`/\.tnv/page/main-[A-Z0-9]+\.js`).FindString(body(t, get(t, h, "GET", "/").Body))
	plain := get(t, h, "GET", script)
	text := body(t, plain.Body)
	if plain.Header.Get("Content-Encoding") != "" || !strings.Contains(plain.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("%s: %v", script, plain.Header)
	}
	packed := get(t, h, "GET", script, "Accept-Encoding", "br, gzip;q=0.5")
	z, err := gzip.NewReader(packed.Body)
	if err != nil {
		t.Fatalf("%v: %v", packed.Header, err)
	}
	if body(t, z) != text {
		t.Error("the compressed script is another one")
	}
	for _, no := range []string{"", "br", "gzip;q=0", "gzip; q=0.0"} {
		if r := get(t, h, "GET", script, "Accept-Encoding", no); r.Header.Get("Content-Encoding") != "" {
			t.Errorf("Accept-Encoding %q gets it compressed", no)
		}
	}
	etag := packed.Header.Get("ETag")
	if etag == plain.Header.Get("ETag") {
		t.Error("two representations have one ETag")
	}
	for _, tag := range []string{etag, `"x", W/` + etag, "*"} {
		if r := get(t, h, "GET", script, "Accept-Encoding", "gzip", "If-None-Match", tag); r.StatusCode != http.StatusNotModified {
			t.Errorf("If-None-Match %s is %d", tag, r.StatusCode)
		}
	}
	head := get(t, h, "HEAD", script)
	if head.ContentLength != int64(len(text)) || body(t, head.Body) != "" {
		t.Errorf("HEAD: %d bytes long", head.ContentLength)
	}
}
