package e2e

import (
	"flag"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// full has the tests that copy much do so at the sizes of the issue.
var full = flag.Bool("e2e.full", false, "copy 2 GiB and 10 GiB where the default is 256 MiB and 1 GiB")

// packageOf is the Debian package that has a program.
func packageOf(program string) string {
	switch program {
	case "ffmpeg", "ffprobe":
		return "ffmpeg"
	case "cvlc":
		return "vlc-bin vlc-plugin-base"
	case "cmp", "diff":
		return "diffutils"
	case "cp", "rm":
		return "coreutils"
	case "setpriv":
		return "util-linux"
	}
	return program
}

// run runs a program that must succeed within limit, and returns its output.
func run(t testing.TB, limit time.Duration, program string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%s is missing: apt-get install %s", program, packageOf(program))
	}
	r := Exec(limit, program, args...)
	if r.Code != 0 {
		t.Fatalf("%s %s: %v", program, strings.Join(args, " "), r)
	}
	return r.Out
}

// playLimit is how long a player may take for a clip of some seconds.
const playLimit = 60 * time.Second

// player decodes a file or URL from a second on. frames are the MD5 sums of the
// decoded pictures, in order.
type player struct {
	name string
	// exact says that two runs give the same frames. VLC may leave out the last
	// one, and show the first before it seeks.
	exact  bool
	frames func(t testing.TB, where string, from int) []string
}

func players() []player {
	return []player{
		{"ffmpeg", true, ffmpegFrames},
		{"mpv", true, mpvFrames},
		{"vlc", false, vlcFrames},
	}
}

func ffmpegFrames(t testing.TB, where string, from int) []string {
	t.Helper()
	args := []string{"-nostdin", "-loglevel", "error"}
	if from > 0 {
		args = append(args, "-ss", strconv.Itoa(from))
	}
	return hashes(run(t, playLimit, "ffmpeg", append(args, "-i", where, "-map", "0:v", "-f", "framemd5", "-")...))
}

func mpvFrames(t testing.TB, where string, from int) []string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "frames")
	args := []string{"--no-config", "--no-audio", "--msg-level=all=error", "--o=" + out, "--of=framemd5", "--ovc=rawvideo"}
	if from > 0 { // a seek to 0 in HLS goes to the second segment
		args = append(args, "--start="+strconv.Itoa(from))
	}
	run(t, playLimit, "mpv", append(args, where)...)
	return hashes(read(t, out))
}

// vlcFrames has VLC write the decoded pictures into a file, whose packets they
// then are. VLC does not run as root.
func vlcFrames(t testing.TB, where string, from int) []string {
	t.Helper()
	dir := t.TempDir()
	out := filepath.Join(dir, "frames.avi")
	args := []string{"-q", "--no-audio", "--start-time=" + strconv.Itoa(from), "--sout", "#transcode{vcodec=I420}:std{access=file,mux=avi,dst=" + out + "}", where, "vlc://quit"}
	if syscall.Geteuid() == 0 {
		for d := dir; d != "/" && d != "/tmp"; d = filepath.Dir(d) {
			chmod(t, d, 0o777)
		}
		if _, err := exec.LookPath("cvlc"); err != nil {
			t.Fatalf("cvlc is missing: apt-get install %s", packageOf("cvlc"))
		}
		run(t, playLimit, "setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "env", "HOME=" + dir, "cvlc"}, args...)...)
	} else {
		run(t, playLimit, "cvlc", args...)
	}
	return hashes(run(t, playLimit, "ffmpeg", "-nostdin", "-loglevel", "fatal", "-i", out, "-map", "0:v", "-c", "copy", "-f", "framemd5", "-"))
}

// hashes takes the sums out of ffmpeg's framemd5 format.
func hashes(text string) (out []string) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 0 && !strings.HasPrefix(line, "#") {
			out = append(out, f[len(f)-1])
		}
	}
	return out
}

// checkFrames compares what a player decoded, from frame `from` on, with all
// frames of the local copy, as ffmpeg decodes it.
func (p player) checkFrames(t testing.TB, where string, got, all []string, from int) {
	t.Helper()
	if p.exact {
		if !slices.Equal(got, all[from:]) {
			t.Errorf("%s, %s from frame %d: %d frames came that are not the %d of the local copy", p.name, where, from, len(got), len(all)-from)
		}
		return
	}
	at, early := 0, 0
	for i, h := range got {
		k := slices.Index(all[at:], h)
		if k < 0 {
			t.Errorf("%s, %s: frame %d of %d is not as in the local copy, or not in order", p.name, where, i, len(got))
			return
		}
		if at += k + 1; at <= from {
			early++
		}
	}
	if want := len(all) - from; early > 2 || len(got)-early < want-2 || at < len(all)-2 {
		t.Errorf("%s, %s from frame %d: %d frames, %d of them too early, the last is number %d; want about %d, up to %d", p.name, where, from, len(got), early, at, want, len(all))
	}
}
