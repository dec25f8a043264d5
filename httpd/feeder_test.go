package httpd

import (
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/tnvfs/tnv"
)

// What a container claims of its length is not believed beyond what a film has.
func TestFilmTooLong(t *testing.T) {
	f := newFake()
	srv, h := start(t, f, tnv.Root)
	var err error
	if h.media.feeder, err = newFeeder(h); err != nil {
		t.Fatal(err)
	}
	h.media.ffmpeg = "ffmpeg"
	for name, c := range map[string]struct {
		duration float64
		want     int
	}{"/none": {0, 415}, "/less": {-1, 415}, "/long": {8e12, 415}, "/just": {maxFilm.Seconds(), 200}, "/more": {maxFilm.Seconds() + 1, 415}} {
		n := f.file(name, noise(10))
		h.media.remember(versionOf(&n.attr), &probe{Duration: c.duration, Streams: []probeStream{{Type: "video"}}})
		if resp, body := send(t, "POST", srv.URL+"/.tnv/api/hls", `{"path":"`+name+`"}`); resp.StatusCode != c.want {
			t.Errorf("%v s: %d %s, want %d", c.duration, resp.StatusCode, body, c.want)
		}
	}
}

// An address that was in a program's command line, which all users of the machine
// can read, leads to one file, and no longer than the program runs.
func TestLent(t *testing.T) {
	f := newFake()
	a, b := f.file("/a.mkv", []byte("a")), f.file("/b.mkv", []byte("b"))
	_, h := start(t, f, tnv.Root)
	var err error
	if h.media.feeder, err = newFeeder(h); err != nil {
		t.Fatal(err)
	}
	url, end := h.media.feeder.lend(a.attr.Ino, "a.mkv")
	other, endOther := h.media.feeder.lend(b.attr.Ino, "b.mkv")
	again, endAgain := h.media.feeder.lend(a.attr.Ino, "a.mkv")
	if url == again || strings.Contains(url, "a.mkv") {
		t.Errorf("%s is an address twice", url)
	}
	defer endAgain()
	for u, want := range map[string]string{url: "a", other: "b"} {
		if resp, body := do(t, "GET", u); resp.StatusCode != http.StatusOK || string(body) != want {
			t.Errorf("%s: %d %q", u, resp.StatusCode, body)
		}
	}
	if resp, _ := do(t, "PUT", other); resp.StatusCode != http.StatusNotFound {
		t.Errorf("PUT: %d", resp.StatusCode)
	}
	end()
	endOther()
	for _, u := range []string{url, other, strings.Replace(again, "/film", "x/film", 1)} {
		if resp, _ := do(t, "GET", u); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s is good still: %d", u, resp.StatusCode)
		}
	}
	if resp, _ := do(t, "GET", again); resp.StatusCode != http.StatusOK {
		t.Errorf("one that is lent: %d", resp.StatusCode)
	}
}

// Nothing stays lent when the programs are over, whatever they did.
func TestLentByPrograms(t *testing.T) {
	f := newFake()
	a := f.file("/a.mkv", noise(1000))
	_, h := start(t, f, tnv.Root)
	var err error
	if h.media.feeder, err = newFeeder(h); err != nil {
		t.Fatal(err)
	}
	if h.media.ffmpeg, err = exec.LookPath("true"); err != nil {
		t.Fatal(err)
	}
	h.media.ffprobe = h.media.ffmpeg
	j := &mediaJob{versionOf(&a.attr), "a.mkv", "video", -1}
	h.media.probe(t.Context(), j)
	h.media.thumb(t.Context(), j, &probe{})
	h.media.makeText(t.Context(), j)
	e, err := h.hls.encode(&hlsSession{ino: a.attr.Ino, dir: t.TempDir(), audio: -1}, 0)
	if err != nil {
		t.Fatal(err)
	}
	<-e.done
	h.media.ffmpeg = "/nothing"
	if _, err := h.hls.encode(&hlsSession{ino: a.attr.Ino, dir: t.TempDir(), audio: -1}, 0); err == nil {
		t.Error("nothing was started")
	}
	h.media.feeder.mu.Lock()
	defer h.media.feeder.mu.Unlock()
	if n := len(h.media.feeder.lent); n != 0 {
		t.Errorf("%d are lent still", n)
	}
}
