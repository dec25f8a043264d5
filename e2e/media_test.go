package e2e

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func chmod(t testing.TB, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The clip: so many seconds and frames a second, a key frame each second.
const (
	clipSeconds = 6
	clipRate    = 25
)

// encode has ffmpeg make the same clip, byte for byte, wherever it is put.
func encode(t testing.TB, to string, output ...string) {
	t.Helper()
	run(t, playLimit, "ffmpeg", slices.Concat(source(), output, []string{to})...)
}

func source(input ...string) []string {
	sec, rate := strconv.Itoa(clipSeconds), strconv.Itoa(clipRate)
	return slices.Concat([]string{"-nostdin", "-y", "-loglevel", "error"}, input, []string{
		"-f", "lavfi", "-i", "testsrc2=size=320x192:rate=" + rate + ":duration=" + sec}, input, []string{
		"-f", "lavfi", "-i", "sine=frequency=440:duration=" + sec,
		"-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", rate, "-c:a", "aac",
		"-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"})
}

// ffmpeg encodes onto the mount, and what is there is byte for byte what it
// makes on a local disk. Players show it, from the mount and over HTTP, from the
// start and after a seek, and every picture is that of the local copy.
func TestPlayers(t *testing.T) {
	c := Start(t, Options{})
	chmod(t, c.Base, 0o755) // players that are not root
	local := filepath.Join(c.Base, "local")
	for _, clip := range []struct {
		name   string
		output []string
	}{
		{"clip.mp4", []string{"-movflags", "+faststart"}},
		{"clip.mkv", nil},
		{"hls/clip.m3u8", []string{"-f", "hls", "-hls_time", "1", "-hls_list_size", "0"}},
	} {
		t.Run(clip.name, func(t *testing.T) {
			here, there := filepath.Join(local, clip.name), filepath.Join(c.Mount, clip.name)
			for _, p := range []string{here, there} {
				if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
					t.Fatal(err)
				}
				encode(t, p, clip.output...)
			}
			if clip.name == "hls/clip.m3u8" {
				if segments, _ := filepath.Glob(filepath.Join(filepath.Dir(there), "*.ts")); len(segments) != clipSeconds {
					t.Errorf("%d segments, want %d", len(segments), clipSeconds)
				}
				run(t, time.Minute, "diff", "-r", filepath.Dir(here), filepath.Dir(there))
			} else {
				run(t, time.Minute, "cmp", here, there)
			}
			playAll(t, here, map[string]string{"mount": there, "HTTP": c.HTTP + "/" + clip.name})
		})
	}
}

// playAll compares all players' pictures of several places with the local copy's.
func playAll(t *testing.T, local string, places map[string]string) {
	all := ffmpegFrames(t, local, 0)
	if len(all) != clipSeconds*clipRate {
		t.Fatalf("the local copy has %d frames, want %d", len(all), clipSeconds*clipRate)
	}
	for name, where := range places {
		if got := probe(t, where); got != probe(t, local) {
			t.Errorf("ffprobe, %s: %+v, of the local copy %+v", name, got, probe(t, local))
		}
		for _, p := range players() {
			for _, from := range []int{0, 4} {
				began := time.Now()
				got := p.frames(t, where, from)
				p.checkFrames(t, name, got, all, from*clipRate)
				t.Logf("%-6s %-5s from second %d: %3d frames in %v", p.name, name, from, len(got), time.Since(began).Round(time.Millisecond))
			}
		}
	}
}

// probed is what ffprobe says of a file.
type probed struct{ format, duration, video, audio string }

func probe(t testing.TB, where string) (p probed) {
	t.Helper()
	var got struct {
		Format struct {
			Name     string `json:"format_name"`
			Duration string
		}
		Streams []struct {
			Type  string `json:"codec_type"`
			Codec string `json:"codec_name"`
			Width int
		}
	}
	out := run(t, playLimit, "ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", where)
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	p.format, p.duration = got.Format.Name, got.Format.Duration
	for _, s := range got.Streams {
		switch s.Type {
		case "video":
			p.video = fmt.Sprintf("%s %d", s.Codec, s.Width)
		case "audio":
			p.audio = s.Codec
		}
	}
	if p.video != "h264 320" || p.audio != "aac" {
		t.Errorf("ffprobe %s: %+v", where, p)
	}
	return p
}

// mostBehind is how far a reader may be behind a recording: it is flushed every second.
const mostBehind = 2 * time.Second

// A file that is being written slowly, and not closed, can be read while it
// grows: on its own mount, on another, and over HTTP.
func TestGrowingFile(t *testing.T) {
	c := Start(t, Options{})
	second := secondMount(t, c)
	f, err := os.Create(filepath.Join(c.Mount, "growing"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	began := time.Now()
	const lasts = 6 * time.Second
	var wg sync.WaitGroup
	wg.Go(func() { // each record is its time
		for time.Since(began) < lasts {
			if _, err := f.Write(binary.BigEndian.AppendUint64(nil, uint64(time.Since(began)))); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	for name, from := range map[string]func(off int64) ([]byte, error){
		"its own mount":   func(off int64) ([]byte, error) { return tail(filepath.Join(c.Mount, "growing"), off) },
		"a second mount":  func(off int64) ([]byte, error) { return tail(filepath.Join(second, "growing"), off) },
		"HTTP, by ranges": func(off int64) ([]byte, error) { return tailHTTP(c.HTTP+"/growing", off) },
	} {
		wg.Go(func() { follow(t, name, began, lasts, from) })
	}
	wg.Wait()
}

// follow reads what is new, over and over, and checks how old the newest is.
func follow(t *testing.T, name string, began time.Time, lasts time.Duration, from func(int64) ([]byte, error)) {
	var off int64
	var last, worst time.Duration
	for time.Since(began) < lasts {
		b, err := from(off)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		for ; len(b) >= 8; b = b[8:] {
			at := time.Duration(binary.BigEndian.Uint64(b))
			if at <= last && off > 0 {
				t.Errorf("%s: record %d has the time %v after %v", name, off/8, at, last)
				return
			}
			last = at
			off += 8
		}
		worst = max(worst, time.Since(began)-last)
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("%-16s at most %v behind, %d records", name, worst.Round(time.Millisecond), off/8)
	if worst > mostBehind {
		t.Errorf("%s: %v behind, more than %v", name, worst, mostBehind)
	}
}

func tail(path string, off int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, off, 1<<20))
}

func tailHTTP(url string, off int64) ([]byte, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-", off))
	c := http.Client{Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusPartialContent, resp.StatusCode == http.StatusOK && off == 0: // an empty file has no range
		return io.ReadAll(resp.Body)
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable: // nothing new
		return nil, nil
	}
	return nil, fmt.Errorf("%s", resp.Status)
}

// secondMount mounts the volume once more.
func secondMount(t testing.TB, c *Cluster) string {
	t.Helper()
	dir := filepath.Join(c.Base, "m2")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c.OK("mount", "--dir", c.Dir, dir)
	return dir
}

// A recording that ffmpeg makes in real time plays from the start while it is
// being made, up to 2 s before now.
func TestRecordingPlays(t *testing.T) {
	c := Start(t, Options{})
	second := secondMount(t, c)
	path := filepath.Join(c.Mount, "recording.mkv")
	rec := exec.Command("ffmpeg", slices.Concat(source("-re"), []string{"-tune", "zerolatency", "-flush_packets", "1", "-cluster_time_limit", "200", path})...)
	var said strings.Builder
	rec.Stderr = &said
	if err := rec.Start(); err != nil {
		t.Fatalf("%v: apt-get install %s", err, packageOf("ffmpeg"))
	}
	began := time.Now()
	done := make(chan error, 1)
	go func() { done <- rec.Wait() }()
	time.Sleep(clipSeconds * time.Second * 2 / 3)
	seen := map[string][]string{}
	for _, where := range []string{filepath.Join(second, "recording.mkv"), c.HTTP + "/recording.mkv"} {
		now := time.Since(began)
		seen[where] = ffmpegFrames(t, where, 0)
		t.Logf("%.1f s after its start the recording has %.1f s at %s", now.Seconds(), float64(len(seen[where]))/clipRate, where)
		if least := int((now - mostBehind - time.Second/2).Seconds() * clipRate); len(seen[where]) < least { // half a second: ffmpeg's start
			t.Errorf("%s: %d frames, want %d at least", where, len(seen[where]), least)
		}
	}
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("ffmpeg: %v\n%s", err, said.String())
		}
	case <-time.After(playLimit):
		rec.Process.Kill()
		t.Fatal("ffmpeg does not end its recording")
	}
	all := ffmpegFrames(t, path, 0)
	if len(all) != clipSeconds*clipRate {
		t.Errorf("the finished recording has %d frames", len(all))
	}
	for where, got := range seen {
		if len(got) > len(all) || !slices.Equal(got, all[:len(got)]) {
			t.Errorf("%s: the %d frames that were read while it grew are not the first of the finished recording", where, len(got))
		}
	}
}
