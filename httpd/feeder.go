package httpd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tnvfs/tnv"
)

// feeder lets the programs that this daemon starts read files of the volume: over
// HTTP, at an address of loopback. A program's command line is seen by all users of
// the machine: so each run gets a random name, for one file, which is forgotten when
// it ends. A file is known by its inode: it stays the same whatever is renamed meanwhile.
type feeder struct {
	h   *handler
	ln  net.Listener
	srv *http.Server

	mu   sync.Mutex
	lent map[string]tnv.Ino // by name
}

func newFeeder(h *handler) (*feeder, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, tnv.Wrap("listen for ffmpeg", err)
	}
	f := &feeder{h: h, ln: ln, lent: map[string]tnv.Ino{}}
	f.srv = &http.Server{Handler: f, ReadHeaderTimeout: headerLimit, MaxHeaderBytes: maxHeader, ErrorLog: silent()}
	h.under.Add(1)
	go func() {
		defer h.under.Done()
		f.srv.Serve(ln)
	}()
	return f, nil
}

func (f *feeder) close() { f.srv.Close() }

// lend gives an address at which a program finds a file until end. It says nothing of the
// file's name but its extension.
func (f *feeder) lend(ino tnv.Ino, name string) (url string, end func()) {
	var b [16]byte
	rand.Read(b[:])
	key := hex.EncodeToString(b[:])
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lent[key] = ino
	return "http://" + f.ln.Addr().String() + "/" + key + "/film." + link("/" + extOf(name))[1:], func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.lent, key)
	}
}

// ServeHTTP implements http.Handler.
func (f *feeder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.h.under.Add(1)
	defer f.h.under.Done()
	key, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	f.mu.Lock()
	ino, ok := f.lent[key]
	f.mu.Unlock()
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.NotFound(w, r)
		return
	}
	rec := &recorder{ResponseWriter: w, start: time.Now(), who: f.h.access.As("")}
	o, err := f.h.files.take(r.Context(), ino)
	if err != nil {
		f.h.fail(rec, r, err)
		return
	}
	defer f.h.files.give(o)
	at, err := o.Attr(r.Context())
	if err != nil {
		f.h.fail(rec, r, err)
		return
	}
	f.h.serve(rec, r, "/"+name, &at)
}

// demuxers are the containers that programs may take a file for: none of them
// names other files or addresses, as playlists do.
const demuxers = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flac,mp3,wav,aac,ac3,eac3,asf,flv,mxf,aiff,h264,hevc,srt,ass," +
	"image2,image2pipe,jpeg_pipe,png_pipe,webp_pipe,gif,gif_pipe,bmp_pipe,tiff_pipe,av1,ivf,w64,dts,truehd,mjpeg"

// inputArgs are what precedes each input of a program that reads what anybody may have put there.
func inputArgs(url string) []string {
	return []string{"-protocol_whitelist", "http,tcp", "-format_whitelist", demuxers, "-i", url}
}

// quietly prepares a program that yields to everything else, and ends with this daemon.
func quietly(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.WaitDelay = time.Second
	return cmd
}

// limited keeps what a program writes, up to a bound; then it fails, which ends the program.
type limited struct {
	b    []byte
	most int
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	if len(l.b)+len(p) > l.most {
		return 0, tnv.E("program", tnv.KindTooBig, "it wrote more than %d bytes", l.most)
	}
	l.b = append(l.b, p...)
	return len(p), nil
}
