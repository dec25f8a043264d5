package httpd

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
)

// Films that a browser cannot play are turned, while they are watched, into HLS
// with H.264 and AAC. The playlist has all segments at once, each of the same
// length, so that one can seek at will; a segment that is not there yet is waited
// for if the encoder is about to make it, else the encoder begins anew there.
//
// A session is somebody's watching of one film. Its segments lie in a directory of
// its own on the local disk, those far behind are removed, and it ends when nothing
// was asked for a while. Encoders are stopped while they are far enough ahead.
const (
	hlsPrefix    = ownPrefix + "/hls/"
	segmentTime  = 6
	maxSessions  = 2 // encoders at once
	sessionIdle  = time.Minute
	aheadMost    = 10 // segments that the encoder may be ahead
	keepBehind   = 3
	waitMost     = 4 // segments ahead of the encoder for which one waits
	segmentLimit = 30 * time.Second
	hlsHeight    = 1080
	maxFilm      = 48 * time.Hour // a longer one's playlist would fill the memory: the length is what the file claims
)

// hls keeps the sessions.
type hls struct {
	h *handler

	mu       sync.Mutex
	sessions map[string]*hlsSession
}

// hlsSession is one film that is being turned.
type hlsSession struct {
	id, path, dir string
	user          string
	ino           tnv.Ino
	duration      float64
	audio         int // stream; below zero: the first

	mu      sync.Mutex
	used    time.Time
	enc     *encoder
	closed  bool
	wanted  int // the segment that was asked for last
	running int
}

// encoder is one run of ffmpeg, from a segment on.
type encoder struct {
	cmd     *exec.Cmd
	end     context.CancelFunc
	first   int
	next    int  // the segment that is being made
	stopped bool // by SIGSTOP
	done    chan struct{}
	news    chan struct{} // closed and replaced when next grows
}

func newHLS(h *handler) *hls { return &hls{h: h, sessions: map[string]*hlsSession{}} }

// can tells whether films can be turned.
func (s *hls) can() bool { return s.h.media.ffmpeg != "" && s.h.media.feeder != nil }

// running counts the sessions.
func (s *hls) running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// apiHLS begins a session.
func (h *handler) apiHLS(w *recorder, r *http.Request) {
	var in struct {
		Path  string
		Audio *int
	}
	if !h.read(w, r, &in) {
		return
	}
	p, ok := h.pathOf(w, r, in.Path)
	if !ok {
		return
	}
	if !h.hls.can() {
		h.refuse(w, http.StatusNotImplemented, "ffmpeg is not installed where this daemon runs")
		return
	}
	res, err := h.lookups.resolve(r.Context(), p)
	if err == nil && !permits(h.cred, &res.Attr, mayRead) {
		err = tnv.E(p, tnv.KindPermission, "")
	}
	var found *probe
	if err == nil {
		found, err = h.hls.probe(r.Context(), p, &res.Attr)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if found.Failed || !(found.Duration > 0 && found.Duration <= maxFilm.Seconds()) || found.first("video") == nil {
		h.refuse(w, http.StatusUnsupportedMediaType, "it cannot be played")
		return
	}
	s := &hlsSession{id: newID(time.Now()), path: p, user: w.who.User, ino: res.Attr.Ino, duration: found.Duration, audio: -1, used: time.Now()}
	if in.Audio != nil {
		s.audio = *in.Audio
	}
	if err := h.hls.add(s); err != nil {
		if tnv.KindOf(err) == tnv.KindBusy {
			w.Header().Set("Retry-After", "10")
			h.refuse(w, http.StatusTooManyRequests, "as many films are turned as may be at once")
			return
		}
		h.fail(w, r, err)
		return
	}
	h.answer(w, http.StatusOK, map[string]string{"url": hlsPrefix + s.id + "/index.m3u8", "mode": "transcode"})
}

// probe finds the length of a film; if that is not known yet, it is looked up now:
// somebody is about to watch it.
func (s *hls) probe(ctx context.Context, p string, at *tnv.Attr) (*probe, error) {
	found, err := s.h.media.ask(ctx, path.Base(p), "video", at)
	if found != nil || err != nil {
		return found, err
	}
	if err := s.h.probes.take(ctx); err != nil {
		return nil, err
	}
	defer s.h.probes.give()
	return s.h.media.probe(ctx, &mediaJob{versionOf(at), path.Base(p), "video", -1})
}

// add takes a session in; KindBusy: there are as many as may be.
func (s *hls) add(x *hlsSession) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions) >= maxSessions {
		for id, old := range s.sessions { // one that belongs to the same viewer makes place
			if old.user == x.user && old.idle() > 3*segmentTime*time.Second {
				delete(s.sessions, id)
				go old.close()
				break
			}
		}
	}
	if len(s.sessions) >= maxSessions {
		return tnv.E("hls", tnv.KindBusy, "")
	}
	dir, err := os.MkdirTemp("", "tnv-hls-")
	if err != nil {
		return tnv.Wrap("hls", err)
	}
	x.dir = dir
	s.sessions[x.id] = x
	s.h.under.Add(1)
	go s.watch(x)
	return nil
}

func (x *hlsSession) idle() time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.running > 0 {
		return 0
	}
	return time.Since(x.used)
}

// watch ends a session that nobody uses, and holds its encoder back when it is far ahead.
func (s *hls) watch(x *hlsSession) {
	defer s.h.under.Done()
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for s.h.life.Err() == nil && x.idle() < sessionIdle {
		select {
		case <-t.C:
			x.pace()
		case <-s.h.life.Done():
		}
		x.mu.Lock()
		closed := x.closed
		x.mu.Unlock()
		if closed {
			break
		}
	}
	s.mu.Lock()
	delete(s.sessions, x.id)
	s.mu.Unlock()
	x.close()
}

func (x *hlsSession) close() {
	x.mu.Lock()
	e, closed := x.enc, x.closed
	x.enc, x.closed = nil, true
	x.mu.Unlock()
	if closed {
		return
	}
	if e != nil {
		e.stop()
	}
	os.RemoveAll(x.dir)
}

// pace stops the encoder while it is far ahead, and lets it go on; segments that
// were played are removed.
func (x *hlsSession) pace() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.enc; e != nil {
		switch far := e.next - x.wanted; {
		case far > aheadMost && !e.stopped:
			e.stopped = e.cmd.Process.Signal(syscall.SIGSTOP) == nil
		case far < aheadMost/2 && e.stopped:
			e.stopped = e.cmd.Process.Signal(syscall.SIGCONT) != nil
		}
	}
	old, _ := filepath.Glob(filepath.Join(x.dir, "*.ts"))
	for _, f := range old {
		if n, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(f), ".ts")); err == nil && (n < x.wanted-keepBehind || n > x.wanted+3*aheadMost) {
			os.Remove(f)
		}
	}
}

func (e *encoder) stop() {
	e.end()
	e.cmd.Process.Signal(syscall.SIGCONT)
	<-e.done
}

func (x *hlsSession) segments() int { return int(math.Ceil(x.duration / segmentTime)) }

// hlsFile answers with a playlist or a segment: "ID/index.m3u8", "ID/N.ts".
func (h *handler) hlsFile(w *recorder, r *http.Request, name string) {
	id, file, _ := strings.Cut(name, "/")
	h.hls.mu.Lock()
	x := h.hls.sessions[id]
	h.hls.mu.Unlock()
	if x == nil || x.user != w.who.User || w.who.Role(x.path) < access.Read {
		h.refuse(w, http.StatusNotFound, "no such session: it ends when nothing is asked for a minute")
		return
	}
	x.mu.Lock()
	x.used = time.Now()
	x.running++
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		x.running--
		x.used = time.Now()
		x.mu.Unlock()
	}()
	w.Header().Set("Cache-Control", "no-store")
	n, err := strconv.Atoi(strings.TrimSuffix(file, ".ts"))
	switch {
	case file == "index.m3u8":
		w.Header().Set("Content-Type", "application/vnd.apple.mpegurl")
		if r.Method != http.MethodHead {
			w.Write(x.playlist())
		}
	case strings.HasSuffix(file, ".ts") && err == nil && n >= 0 && n < x.segments():
		h.segment(w, r, x, n)
	default:
		h.refuse(w, http.StatusNotFound, "no such segment")
	}
}

func (x *hlsSession) playlist() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:%d\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:VOD\n", segmentTime)
	left := x.duration
	for i := range x.segments() {
		fmt.Fprintf(&b, "#EXTINF:%.3f,\n%d.ts\n", min(left, segmentTime), i)
		left -= segmentTime
	}
	b.WriteString("#EXT-X-ENDLIST\n")
	return []byte(b.String())
}

// segment waits for a segment and sends it.
func (h *handler) segment(w *recorder, r *http.Request, x *hlsSession, n int) {
	ctx, cancel := context.WithTimeout(r.Context(), segmentLimit)
	defer cancel()
	name := filepath.Join(x.dir, strconv.Itoa(n)+".ts")
	for {
		ready, wait, err := h.hls.want(x, n)
		if err != nil {
			h.fail(w, r, err)
			return
		}
		if ready {
			break
		}
		select {
		case <-wait:
		case <-ctx.Done():
			h.fail(w, r, tnv.E("hls", tnv.KindTimeout, "segment %d is not made in time", n))
			return
		}
	}
	f, err := os.Open(name)
	if err != nil {
		h.fail(w, r, tnv.Wrap("hls", err))
		return
	}
	defer f.Close()
	http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(h.stall))
	w.Header().Set("Content-Type", "video/mp2t")
	http.ServeContent(w, r, "", time.Time{}, f)
}

// want tells whether a segment is there, or sees to it that it will be and tells
// what to wait for.
func (s *hls) want(x *hlsSession, n int) (ready bool, wait <-chan struct{}, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return false, nil, tnv.E("hls", tnv.KindNotExist, "the session is over")
	}
	x.wanted = n
	e := x.enc
	making := e != nil && n >= e.next
	if _, err := os.Stat(filepath.Join(x.dir, strconv.Itoa(n)+".ts")); err == nil && !making {
		return true, nil, nil
	}
	if e != nil && e.stopped {
		e.stopped = e.cmd.Process.Signal(syscall.SIGCONT) != nil
	}
	if e != nil && (n < e.next || n > e.next+waitMost || e.over()) {
		x.enc = nil
		x.mu.Unlock()
		e.stop()
		x.mu.Lock()
		if e.over() && n >= e.first && n == e.next { // it ended without it
			return false, nil, tnv.E("hls", tnv.KindNotSupported, "ffmpeg ended before segment %d", n)
		}
	}
	if x.enc == nil && !x.closed {
		if x.enc, err = s.encode(x, n); err != nil {
			return false, nil, err
		}
	}
	if x.enc == nil {
		return false, nil, tnv.E("hls", tnv.KindNotExist, "the session is over")
	}
	return false, x.enc.news, nil
}

func (e *encoder) over() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// encode starts ffmpeg at a segment. It tells on its output which segments are whole.
func (s *hls) encode(x *hlsSession, n int) (*encoder, error) {
	ctx, cancel := context.WithCancel(s.h.life)
	url, giveBack := s.h.media.feeder.lend(x.ino, path.Base(x.path))
	end := func() { cancel(); giveBack() }
	from := strconv.Itoa(n * segmentTime)
	audio := "0:a:0?"
	if x.audio >= 0 {
		audio = "0:" + strconv.Itoa(x.audio)
	}
	args := append([]string{"-nostdin", "-v", "error", "-ss", from}, inputArgs(url)...)
	args = append(args, "-map", "0:v:0", "-map", audio, "-sn", "-dn",
		"-fps_mode", "vfr", "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-maxrate", "8M", "-bufsize", "16M", "-pix_fmt", "yuv420p",
		"-vf", fmt.Sprintf("scale=-2:'min(%d,ih)'", hlsHeight), "-force_key_frames", fmt.Sprintf("expr:gte(t,n_forced*%d)", segmentTime),
		"-c:a", "aac", "-ac", "2", "-b:a", "160k", "-output_ts_offset", from, "-muxdelay", "0",
		"-f", "segment", "-segment_time", strconv.Itoa(segmentTime), "-segment_format", "mpegts", "-segment_start_number", strconv.Itoa(n),
		"-segment_list", "pipe:1", "-segment_list_type", "flat", filepath.Join(x.dir, "%d.ts"))
	cmd := quietly(ctx, s.h.media.ffmpeg, args...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		end()
		return nil, tnv.Wrap("start ffmpeg", err)
	}
	e := &encoder{cmd: cmd, end: end, first: n, next: n, done: make(chan struct{}), news: make(chan struct{})}
	s.h.under.Add(1)
	go func() {
		defer s.h.under.Done()
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if k, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(sc.Text()), ".ts")); err == nil {
				x.mu.Lock()
				e.next = k + 1
				close(e.news)
				e.news = make(chan struct{})
				x.mu.Unlock()
			}
		}
		cmd.Wait()
		end()
		x.mu.Lock()
		close(e.done)
		close(e.news)
		e.news = make(chan struct{})
		x.mu.Unlock()
	}()
	return e, nil
}
