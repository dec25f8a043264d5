package httpd

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
)

// FuzzPath: whatever a URL holds, what the volume is asked for is a clean
// absolute path of names, and a link to it leads back to it.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/", "//a/", "/%2e%2e/x", "/a%2fb", "/a\x00", "/\xff", "/.tnv/x", "/a/./b", "*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		p, _, err := volumePath(u)
		if err != nil {
			if k := tnv.KindOf(err); k != tnv.KindInvalid && k != tnv.KindNameTooLong {
				t.Fatalf("%q: kind %v", target, k)
			}
			return
		}
		if p != path.Clean("/"+p) || strings.ContainsRune(p, 0) || len(p) > maxPath {
			t.Fatalf("%q became %q", target, p)
		}
		back, err := url.ParseRequestURI(link(p))
		if err != nil || back.Path != p || back.Host != "" {
			t.Fatalf("the link to %q is %q, which leads to %v (%v)", p, link(p), back, err)
		}
	})
}

// FuzzRange: whatever Range and If-Range say, the answer keeps to its own headers.
func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-1", "bytes=-5", "bytes=1-,2-3", "bytes=,", "bytes=18446744073709551615-", "x"} {
		f.Add(s, `"1-7"`, "GET")
	}
	f.Add("bytes=0-3", "Mon, 06 May 2024 07:08:09 GMT", "HEAD")
	vol := newFake()
	vol.file("/a", noise(1000))
	log := logrus.New()
	h := newHandler(vol, tnv.Root, "media", 256<<20, logrus.NewEntry(log), newMetrics(nil), options{})
	f.Fuzz(func(t *testing.T, rng, cond, method string) {
		r := httptest.NewRequest(http.MethodGet, "/a", nil)
		r.Method = method
		r.Header.Set("Range", rng)
		r.Header.Set("If-Range", cond)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if vol.opened > 1 || vol.held != 0 {
			t.Fatalf("%d opened, %d views held", vol.opened, vol.held)
		}
		switch w.Code {
		case 200, 206:
			if w.Body.Len() > 70_000 {
				t.Fatalf("%d bytes for a file of 1000", w.Body.Len())
			}
		case 204, 405, 416:
		default:
			t.Fatalf("status %d for Range %q", w.Code, rng)
		}
	})
}
