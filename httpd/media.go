package httpd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// What is known of films is kept in the volume, by inode and version of the
// content: so it holds for a version for good, wherever the file is moved,
//
//	/.tnv/media/XX/INO-VERSION.json   what ffprobe said, or that it failed
//	/.tnv/media/XX/INO-VERSION.jpg    a picture
//	/.tnv/media/XX/INO-VERSION-N.vtt  the subtitles of stream N
//
// where XX is the inode number modulo 256. It is made in the background, by few
// programs at a time, when somebody has asked for it; nobody waits for that.
const (
	mediaJobs    = 1
	mediaQueue   = 2000
	mediaKnown   = 20_000 // probes in memory
	probeLimit   = 30 * time.Second
	thumbLimit   = 60 * time.Second
	textLimit    = 10 * time.Minute // a whole film is read for its subtitles
	maxProbe     = 1 << 20
	maxThumb     = 1 << 20
	maxText      = 16 << 20
	thumbWidth   = 480
	settledAfter = 20 * time.Second // a file that was written later is perhaps still being written
)

// version names a version of a file's content.
type version struct {
	ino  tnv.Ino
	data uint64
}

func versionOf(at *tnv.Attr) version { return version{at.Ino, at.Data} }

func (v version) dir() string { return fmt.Sprintf("%s/%02x", mediaDir, uint64(v.ino)%256) }

func (v version) path(suffix string) string {
	return fmt.Sprintf("%s/%x-%x%s", v.dir(), uint64(v.ino), v.data, suffix)
}

// mediaJob is something to be made. stream is below zero for probe and picture.
type mediaJob struct {
	v      version
	name   string
	kind   string
	stream int
}

// media makes and keeps what is known.
type media struct {
	h        *handler
	ffprobe  string // path of the program; "": it is not installed
	ffmpeg   string
	feeder   *feeder
	queue    chan mediaJob
	sweepAt  int
	mu       sync.Mutex
	known    map[version]*probe
	waiting  map[string]bool // paths of what is in the queue or being made
	failures map[string]time.Time
}

func newMedia(h *handler) *media {
	m := &media{h: h, queue: make(chan mediaJob, mediaQueue), known: map[version]*probe{}, waiting: map[string]bool{}, failures: map[string]time.Time{}}
	m.ffprobe, _ = exec.LookPath("ffprobe")
	m.ffmpeg, _ = exec.LookPath("ffmpeg")
	return m
}

// begin starts the makers.
func (m *media) begin() error {
	if m.ffprobe == "" && m.ffmpeg == "" {
		return nil
	}
	var err error
	if m.feeder, err = newFeeder(m.h); err != nil || m.h.readOnly {
		return err
	}
	for range mediaJobs {
		m.h.under.Add(1)
		go m.work()
	}
	return nil
}

func (m *media) close() {
	if m.feeder != nil {
		m.feeder.close()
	}
}

// makes tells whether anything is made at all.
func (m *media) makes() bool { return m.feeder != nil && m.ffprobe != "" && !m.h.readOnly }

// ask finds what is known of a version. Nil: it is not known yet; then it will be,
// if this daemon can make it.
func (m *media) ask(ctx context.Context, name, kind string, at *tnv.Attr) (*probe, error) {
	v := versionOf(at)
	m.mu.Lock()
	p := m.known[v]
	m.mu.Unlock()
	if p != nil {
		return p, nil
	}
	b, err := m.h.tree.read(ctx, v.path(".json"), maxProbe)
	if err == nil {
		p = &probe{}
		if err = json.Unmarshal(b, p); err == nil {
			m.remember(v, p)
			return p, nil
		}
		err = nil // it will be made anew
	}
	if err != nil && !errors.Is(err, tnv.KindNotExist) && !errors.Is(err, tnv.KindNotDir) {
		return nil, err
	}
	if m.makes() && time.Since(tnv.Time(at.Mtime)) > settledAfter {
		m.order(mediaJob{v, name, kind, -1})
	}
	return nil, nil
}

func (m *media) remember(v version, p *probe) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.known) >= mediaKnown {
		n := mediaKnown / 4
		for k := range m.known { // any
			delete(m.known, k)
			if n--; n == 0 {
				break
			}
		}
	}
	m.known[v] = p
}

// retryAfterFailure is how long something that could not be made is left alone,
// where the failure was not the file's.
const retryAfterFailure = 5 * time.Minute

func (j *mediaJob) key() string { return j.v.path(strconv.Itoa(j.stream)) }

// order puts a job into the queue, once; a full queue takes none: it will be asked for again.
func (m *media) order(j mediaJob) {
	key := j.key()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting[key] || time.Since(m.failures[key]) < retryAfterFailure {
		return
	}
	select {
	case m.queue <- j:
		m.waiting[key] = true
	default:
	}
}

// work makes what is ordered until the daemon ends.
func (m *media) work() {
	defer m.h.under.Done()
	for {
		select {
		case <-m.h.life.Done():
			return
		case j := <-m.queue:
			err := m.make(m.h.life, &j)
			m.mu.Lock()
			delete(m.waiting, j.key())
			if err != nil {
				if len(m.failures) > mediaQueue {
					clear(m.failures)
				}
				m.failures[j.key()] = time.Now()
			}
			m.mu.Unlock()
			if err != nil && m.h.life.Err() == nil {
				m.h.log.WithError(err).WithField("inode", j.v.ino).Info("what is known of a film could not be kept")
			}
		}
	}
}

// make makes one thing and keeps it. An error is one of keeping; that a file is not
// what its name says is kept as well.
func (m *media) make(ctx context.Context, j *mediaJob) error {
	if j.stream >= 0 {
		return m.makeText(ctx, j)
	}
	p, err := m.probe(ctx, j)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		p = &probe{Failed: true, Streams: []probeStream{}}
	}
	if m.ffmpeg != "" && !p.Failed && (p.first("video") != nil || len(p.Streams) > 0 && p.hasPicture()) {
		if b := m.thumb(ctx, j, p); b != nil {
			if err := m.keep(ctx, j.v, ".jpg", b); err != nil {
				return err
			}
			p.Thumb = true
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	b, err := json.Marshal(p)
	if err == nil {
		err = m.keep(ctx, j.v, ".json", b)
	}
	if err == nil {
		m.remember(j.v, p)
	}
	return err
}

func (p *probe) hasPicture() bool {
	for i := range p.Streams {
		if p.Streams[i].Picture {
			return true
		}
	}
	return false
}

func (m *media) probe(ctx context.Context, j *mediaJob) (*probe, error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	url, end := m.feeder.lend(j.v.ino, j.name)
	defer end()
	args := append([]string{"-v", "error", "-of", "json", "-show_format", "-show_streams"}, inputArgs(url)...)
	b, err := m.run(ctx, m.ffprobe, maxProbe, args...)
	if err != nil {
		return nil, err
	}
	return parseProbe(b, j.name)
}

// thumb makes a picture: of a film from a tenth of its length, where there is more to see.
func (m *media) thumb(ctx context.Context, j *mediaJob, p *probe) []byte {
	ctx, cancel := context.WithTimeout(ctx, thumbLimit)
	defer cancel()
	args := []string{"-nostdin", "-v", "error", "-threads", "1"}
	if j.kind == "video" && p.Duration > 2 {
		args = append(args, "-ss", strconv.FormatFloat(min(p.Duration/10, 300), 'f', 2, 64))
	}
	url, end := m.feeder.lend(j.v.ino, j.name)
	defer end()
	args = append(args, inputArgs(url)...)
	args = append(args, "-map", "0:v:0", "-frames:v", "1", "-vf", fmt.Sprintf("scale='min(%d,iw)':-2", thumbWidth), "-q:v", "5", "-threads", "1", "-f", "mjpeg", "pipe:1")
	b, err := m.run(ctx, m.ffmpeg, maxThumb, args...)
	if err != nil || len(b) == 0 {
		return nil
	}
	return b
}

// makeText takes the subtitles out of a film.
func (m *media) makeText(ctx context.Context, j *mediaJob) error {
	ctx, cancel := context.WithTimeout(ctx, textLimit)
	defer cancel()
	url, end := m.feeder.lend(j.v.ino, j.name)
	defer end()
	args := append([]string{"-nostdin", "-v", "error", "-threads", "1"}, inputArgs(url)...)
	args = append(args, "-map", "0:"+strconv.Itoa(j.stream), "-f", "webvtt", "pipe:1")
	b, err := m.run(ctx, m.ffmpeg, maxText, args...)
	if err != nil {
		return err
	}
	return m.keep(ctx, j.v, fmt.Sprintf("-%d.vtt", j.stream), b)
}

func (m *media) run(ctx context.Context, program string, most int, args ...string) ([]byte, error) {
	out := &limited{most: most}
	complaint := &limited{most: 64 << 10}
	cmd := quietly(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = out, complaint
	if err := cmd.Run(); err != nil {
		return nil, tnv.E(program, tnv.KindNotSupported, "%v: %.300q", err, complaint.b)
	}
	return out.b, nil
}

// keep writes what was made; another daemon may have been faster.
func (m *media) keep(ctx context.Context, v version, suffix string, b []byte) error {
	if _, err := m.h.store(ctx, v.dir()); err != nil {
		return err
	}
	d, err := m.h.newDraft(ctx)
	if err != nil {
		return err
	}
	defer d.close()
	if _, err := d.w.WriteAt(ctx, b, 0); err != nil {
		return err
	}
	if err := d.w.Flush(ctx); err != nil {
		return err
	}
	if err := m.h.tree.move(ctx, d.path, v.path(suffix), 0); err != nil {
		return err
	}
	d.done = true
	return nil
}

// sweep looks at one of the directories: what is of a file that is gone, or of a
// version that is no more, is removed.
func (m *media) sweep(ctx context.Context, _ time.Time) error {
	m.sweepAt = (m.sweepAt + 1) % 256
	return m.h.tree.each(ctx, fmt.Sprintf("%s/%02x", mediaDir, m.sweepAt), func(name string, _ *tnv.Attr) error {
		i, rest, _ := strings.Cut(name, "-")
		ino, err1 := strconv.ParseUint(i, 16, 64)
		data, err2 := strconv.ParseUint(strings.FieldsFunc(rest+".", func(r rune) bool { return r == '.' || r == '-' })[0], 16, 64)
		if err1 == nil && err2 == nil {
			f, err := m.h.files.take(ctx, tnv.Ino(ino))
			if err == nil {
				at, aerr := f.Attr(ctx)
				m.h.files.give(f)
				if aerr != nil || at.Data == data && at.Nlink > 0 {
					return aerr
				}
			} else if k := tnv.KindOf(err); k != tnv.KindStale && k != tnv.KindNotExist {
				return err
			}
		}
		return m.h.tree.purge(ctx, fmt.Sprintf("%s/%02x/%s", mediaDir, m.sweepAt, name))
	})
}

// beside finds the files of subtitles that lie beside a film: those whose name begins with its.
func (h *handler) beside(ctx context.Context, dir tnv.Ino, stem string) (names []string, err error) {
	for req := (protocol.ReadDir{Ino: dir, Limit: pageEntries}); len(names) < maxProbeStreams; {
		rep, err := h.tree.page(ctx, req)
		if err != nil {
			return nil, err
		}
		for _, e := range rep.Entries {
			req.Cookie = e.Cookie
			switch extOf(e.Name) {
			case "srt", "vtt", "ass", "ssa", "sub":
				if strings.HasPrefix(e.Name, stem+".") && len(names) < maxProbeStreams {
					names = append(names, e.Name)
				}
			}
		}
		if rep.End || len(rep.Entries) == 0 {
			break
		}
	}
	return names, nil
}
