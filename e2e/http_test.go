package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// HTTP starts one more HTTP daemon of the cluster, a child of the test, and
// returns its URL, when it answers.
func (c *Cluster) serveHTTP(flags ...string) string {
	c.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	cmd := exec.Command(Program("httpd"), append([]string{"--dir", c.Dir, "--listen", addr}, flags...)...)
	var log logBuffer
	cmd.Stdout, cmd.Stderr = &logWriter{&log}, &logWriter{&log}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case err := <-done:
			if err != nil {
				c.t.Errorf("httpd ended with %v", err)
			}
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			c.t.Error("httpd does not end")
		}
		if text := log.end(); c.t.Failed() || strings.Contains(text, "panic: ") || strings.Contains(text, "DATA RACE") {
			c.t.Errorf("the end of httpd's log:\n%s", text)
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + addr + "/.tnv/healthz")
		if err == nil {
			resp.Body.Close()
			return "http://" + addr
		}
		if time.Now().After(end) {
			c.t.Fatalf("httpd does not answer: %v", err)
		}
	}
}

// logWriter is a log buffer as an io.Writer of its own, so that exec makes a pipe.
type logWriter struct{ l *logBuffer }

func (w *logWriter) Write(p []byte) (int, error) { return w.l.Write(p) }

// request sends one request and returns the status and the body.
func request(t testing.TB, method, url string, body []byte, headers ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
	}
	resp, err := (&http.Client{Timeout: time.Minute}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp, b
}

// The WebDAV tests of litmus pass, all of them. Locks hold between two daemons;
// what a deletion took comes back; a signed link lets one in.
func TestWebDAV(t *testing.T) {
	c := Start(t, Options{NoMount: true, NoHTTP: true})
	one, two := c.serveHTTP("--anonymous", "write"), c.serveHTTP("--anonymous", "write")
	dir := t.TempDir()
	out := run(t, 2*time.Minute, "sh", "-c", fmt.Sprintf("cd %s && exec litmus -k %s/", dir, one))
	if n := strings.Count(out, " 0 failed. 100.0%"); n != 5 || strings.Contains(out, "FAIL") || strings.Contains(out, "SKIPPED") || strings.Contains(out, "WARNING") {
		t.Errorf("litmus (%d of 5 groups):\n%s", n, out)
	}
	if resp, _ := request(t, "PUT", one+"/locked.txt", []byte("1")); resp.StatusCode != 201 {
		t.Fatalf("PUT: %d", resp.StatusCode)
	}
	lock := []byte(`<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>`)
	resp, _ := request(t, "LOCK", one+"/locked.txt", lock, "Timeout: Second-60")
	token := resp.Header.Get("Lock-Token")
	if resp.StatusCode != 200 || token == "" {
		t.Fatalf("LOCK: %d", resp.StatusCode)
	}
	for i, want := range []int{423, 204, 423} {
		url, headers := two, []string{}
		if i == 1 { // the owner writes, and the lock goes on with the new content
			url, headers = one, []string{"If: (" + token + ")"}
		}
		if resp, _ := request(t, "PUT", url+"/locked.txt", []byte("2"), headers...); resp.StatusCode != want {
			t.Errorf("PUT %d: %d, want %d", i, resp.StatusCode, want)
		}
	}
	for _, method := range []string{"DELETE", "LOCK"} {
		if resp, _ := request(t, method, two+"/locked.txt", lock); resp.StatusCode != 423 && !(method == "DELETE" && resp.StatusCode == 423) {
			t.Errorf("%s by the other daemon: %d, want 423", method, resp.StatusCode)
		}
	}
	if resp, _ := request(t, "UNLOCK", one+"/locked.txt", nil, "Lock-Token: "+token); resp.StatusCode != 204 {
		t.Errorf("UNLOCK: %d", resp.StatusCode)
	}
	_, b := request(t, "POST", two+"/.tnv/api/delete", []byte(`{"paths":["/locked.txt"]}`))
	var deleted struct{ Items []struct{ Trash string } }
	if err := json.Unmarshal(b, &deleted); err != nil || len(deleted.Items) != 1 || deleted.Items[0].Trash == "" {
		t.Fatalf("delete: %s", b)
	}
	if resp, _ := request(t, "GET", one+"/locked.txt", nil); resp.StatusCode != 404 {
		t.Errorf("what was deleted: %d", resp.StatusCode)
	}
	request(t, "POST", one+"/.tnv/api/undo", []byte(`{"trash":["`+deleted.Items[0].Trash+`"]}`))
	if _, b := request(t, "GET", two+"/locked.txt", nil); string(b) != "2" {
		t.Errorf("put back: %q", b)
	}
}

func TestSignedLink(t *testing.T) {
	c := Start(t, Options{NoMount: true, NoHTTP: true})
	users, rules := filepath.Join(c.Base, "users"), filepath.Join(c.Base, "rules")
	run(t, time.Minute, "sh", "-c", fmt.Sprintf("echo secret | %s passwd %s alice", Program("tnv"), users))
	token := strings.TrimSpace(c.OK("token", filepath.Join(c.Base, "tokens"), "alice"))
	if err := os.WriteFile(rules, []byte("alice write /\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := c.serveHTTP("--users", users, "--tokens", filepath.Join(c.Base, "tokens"), "--access", rules)
	if resp, _ := request(t, "PUT", base+"/a.txt", []byte("hello"), "Authorization: Bearer "+token); resp.StatusCode != 201 {
		t.Fatalf("PUT with a token: %d", resp.StatusCode)
	}
	if resp, _ := request(t, "GET", base+"/a.txt", nil); resp.StatusCode != 401 {
		t.Errorf("without: %d", resp.StatusCode)
	}
	link := strings.TrimSpace(c.OK("link", "/a.txt", "--for", "1m", "--url", base, "--dir", c.Dir))
	if _, b := request(t, "GET", link, nil); string(b) != "hello" {
		t.Errorf("by a link: %q", b)
	}
	got := run(t, time.Minute, "curl", "-s", "-u", "alice:secret", base+"/a.txt")
	if got != "hello" {
		t.Errorf("with a password: %q", got)
	}
}

// What ffmpeg knows of a film is there soon; what a browser cannot play is turned.
func TestMedia(t *testing.T) {
	c := Start(t, Options{NoMount: true, NoHTTP: true})
	base := c.serveHTTP("--anonymous", "write")
	film := filepath.Join(c.Base, "film.mkv")
	encode(t, film)
	b, err := os.ReadFile(film)
	if err != nil {
		t.Fatal(err)
	}
	if resp, _ := request(t, "PUT", base+"/a%20film.mkv", b, "X-OC-Mtime: 1600000000"); resp.StatusCode != 201 {
		t.Fatalf("PUT: %d", resp.StatusCode)
	}
	request(t, "PUT", base+"/a%20film.en.srt", []byte("1\n00:00:01,000 --> 00:00:02,000\nHi\n"))
	request(t, "PUT", base+"/broken.mkv", []byte("#EXTM3U\n/etc/passwd\n"), "X-OC-Mtime: 1600000000")
	var m struct {
		State, Thumb, Mime string
		Duration           float64
		Streams            []struct{ Type, Codec string }
		Subtitles          []struct{ URL, Label string }
	}
	known := func(p, want string) {
		t.Helper()
		for end := time.Now().Add(40 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			resp, b := request(t, "GET", base+"/.tnv/api/media?path="+url.QueryEscape(p), nil)
			if err := json.Unmarshal(b, &m); err != nil || resp.StatusCode != 200 {
				t.Fatalf("%d %s", resp.StatusCode, b)
			}
			if m.State == want {
				return
			}
			if m.State != "pending" || time.Now().After(end) {
				t.Fatalf("%s: %s", p, b)
			}
		}
	}
	known("/broken.mkv", "failed")
	known("/a film.mkv", "ready")
	if m.Duration < clipSeconds-1 || m.Duration > clipSeconds+1 || len(m.Streams) != 2 || !strings.HasPrefix(m.Mime, `video/x-matroska; codecs="avc1.`) ||
		len(m.Subtitles) != 1 || m.Subtitles[0].URL != "/a%20film.en.srt?vtt" {
		t.Errorf("%+v", m)
	}
	if resp, b := request(t, "GET", base+m.Thumb, nil); resp.StatusCode != 200 || !bytes.HasPrefix(b, []byte{0xff, 0xd8}) {
		t.Errorf("picture: %d, %d bytes", resp.StatusCode, len(b))
	}
	resp, b := request(t, "POST", base+"/.tnv/api/hls", []byte(`{"path":"/a film.mkv"}`))
	var h struct{ URL string }
	if err := json.Unmarshal(b, &h); err != nil || resp.StatusCode != 200 {
		t.Fatalf("hls: %d %s", resp.StatusCode, b)
	}
	frames := run(t, time.Minute, "ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0", "-show_entries", "stream=nb_read_frames,codec_name", "-of", "csv=p=0", base+h.URL)
	if want := fmt.Sprintf("h264,%d", clipSeconds*clipRate); !strings.Contains(frames, want) {
		t.Errorf("frames of the stream: %q, want %s", frames, want)
	}
}
