package httpd

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/subs"
)

// What takes much waits for its place.
func TestPlaces(t *testing.T) {
	f := newFake()
	f.file("/a.srt", []byte("1\n00:00:01,000 --> 00:00:02,000\nx\n"))
	f.file("/a.mkv", noise(10))
	f.file("/big.srt", make([]byte, subs.MaxSize+1))
	srv, h := startWith(t, f, tnv.Root, writers(t))
	var err error
	if h.media.feeder, err = newFeeder(h); err != nil {
		t.Fatal(err)
	}
	if h.media.ffmpeg, err = exec.LookPath("false"); err != nil {
		t.Fatal(err)
	}
	h.media.ffprobe = h.media.ffmpeg
	for _, c := range []struct {
		method, path, body string
		places             places
		n                  int
	}{
		{"PROPFIND", "/", "", h.propfinds, 8},
		{"GET", "/a.srt?vtt", "", h.turned, 2},
		{"POST", "/.tnv/api/hls", `{"path":"/a.mkv"}`, h.probes, 2},
	} {
		for range c.n {
			if !c.places.try() {
				t.Fatalf("%s has fewer than %d", c.path, c.n)
			}
		}
		done := make(chan int)
		go func() {
			resp, _ := send(t, c.method, srv.URL+c.path, c.body, "Depth: 1")
			done <- resp.StatusCode
		}()
		select {
		case status := <-done:
			t.Errorf("%s %s did not wait: %d", c.method, c.path, status)
			continue
		case <-time.After(100 * time.Millisecond):
		}
		c.places.give()
		if status := <-done; status == http.StatusServiceUnavailable {
			t.Errorf("%s: %d", c.path, status)
		}
		for range c.n - 1 {
			c.places.give()
		}
		if len(c.places) != 0 {
			t.Errorf("%s keeps its place", c.path)
		}
	}
	if subs.MaxSize > 4<<20 {
		t.Error("larger files of subtitles are turned than there is memory for")
	}
	if resp, _ := do(t, "GET", srv.URL+"/big.srt?vtt"); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("%d", resp.StatusCode)
	}
}

// deadlines notes by when an answer must be written.
type deadlines struct {
	*httptest.ResponseRecorder
	write time.Time
}

func (d *deadlines) SetWriteDeadline(t time.Time) error { d.write = t; return nil }
func (d *deadlines) SetReadDeadline(time.Time) error    { return nil }

func TestPropfindEnds(t *testing.T) {
	_, h := startWith(t, newFake(), tnv.Root, writers(t))
	r := httptest.NewRequest("PROPFIND", "/", nil)
	r.Header.Set("Depth", "1")
	d := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(d, r)
	if left := time.Until(d.write); d.Code != http.StatusMultiStatus || left > propfindLimit {
		t.Errorf("%d, it may be read for %v", d.Code, left)
	}
}

// Long bodies of JSON that come slowly are few, and end.
func TestLongBodies(t *testing.T) {
	f := newFake()
	srv, h := startWith(t, f, tnv.Root, writers(t))
	for range maxLong - 1 {
		h.long.try()
	}
	dial := func(length int, text string) net.Conn {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "POST /.tnv/api/delete HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", length, text)
		return c
	}
	long := `{"paths":["` + strings.Repeat("a", shortJSON) + `"]}`
	c := dial(len(long), long[:shortJSON+1])
	for end := time.Now().Add(5 * time.Second); len(h.long) < maxLong; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a long body takes no place")
		}
	}
	api := srv.URL + "/.tnv/api/delete"
	if resp, _ := send(t, "POST", api, long); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("one more than may be: %d", resp.StatusCode)
	}
	ask(t, srv.URL, "POST", "delete", `{"paths":[]}`, 200)
	io.WriteString(c, long[shortJSON+1:])
	for end := time.Now().Add(5 * time.Second); len(h.long) == maxLong; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("its place is not given back")
		}
	}
	if resp, _ := send(t, "POST", api, long); resp.StatusCode != http.StatusOK {
		t.Errorf("a long body: %d", resp.StatusCode)
	}
	h.jsonTime = 200 * time.Millisecond
	slow := dial(10_000, "{")
	go func() {
		for range 100 {
			time.Sleep(50 * time.Millisecond)
			if _, err := io.WriteString(slow, " "); err != nil {
				return
			}
		}
	}()
	slow.SetReadDeadline(time.Now().Add(3 * time.Second))
	if b, err := io.ReadAll(io.LimitReader(slow, 12)); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 400") {
		t.Errorf("who sends a byte now and then is waited for: %q, %v", b, err)
	}
}
