package httpd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tnvfs/tnv/httpd/access"
)

// What can happen to a name.
const (
	opCreate = "create"
	opChange = "change"
	opRemove = "remove"
	opMove   = "move"
)

// change is an event.
type change struct {
	Op   string `json:"op"`
	Path string `json:"path"`
	From string `json:"from,omitempty"`
	Dir  bool   `json:"dir,omitempty"`
}

const (
	maxFeed    = 4096 // changes that are kept for who comes late
	maxEvents  = 256  // streams of events at once
	heartbeat  = 15 * time.Second
	eventSlice = 512 // changes written at a time
)

// feed keeps the latest changes, in order, each with a number that is one more
// than the last. Nobody who reads it holds up who tells it.
type feed struct {
	boot string // numbers of another run of the daemon mean nothing

	mu    sync.Mutex
	ring  []change
	first uint64        // number of ring[0]
	more  chan struct{} // closed when there is another
	open  int           // streams
}

func newFeed() *feed {
	return &feed{boot: strconv.FormatInt(time.Now().UnixNano(), 36), first: 1, more: make(chan struct{})}
}

// tell tells of a change that this daemon has made.
func (h *handler) tell(c change) {
	h.watcher.told(&c)
	h.feed.add(c)
}

func (f *feed) add(c change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.ring) == maxFeed {
		f.ring = append(f.ring[:0:0], f.ring[maxFeed/4:]...)
		f.first += maxFeed / 4
	}
	f.ring = append(f.ring, c)
	close(f.more)
	f.more = make(chan struct{})
}

// since gives changes from a number on, the next number, and what to wait for if
// there are none. lost: some before them are forgotten, or the number is of the future.
func (f *feed) since(at uint64) (list []change, next uint64, lost bool, more <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	end := f.first + uint64(len(f.ring))
	if at < f.first || at > end {
		return nil, end, true, f.more
	}
	list = f.ring[at-f.first:]
	list = list[:min(len(list), eventSlice)]
	return list, at + uint64(len(list)), false, f.more
}

// position reads what a client says that it has seen; 0: it was another run.
func (f *feed) position(s string) uint64 {
	boot, n, _ := strings.Cut(s, "-")
	at, err := strconv.ParseUint(n, 10, 64)
	if boot != f.boot || err != nil {
		return 0
	}
	return at
}

func (f *feed) end() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.first + uint64(len(f.ring))
}

// enter takes a place among the streams.
func (f *feed) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open >= maxEvents {
		return false
	}
	f.open++
	return true
}

func (f *feed) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open--
}

// events answers with a stream of what changes beneath a path.
func (h *handler) events(w *recorder, r *http.Request) {
	p, ok := h.queryPath(w, r)
	if !ok {
		return
	}
	if !h.feed.enter() {
		w.Header().Set("Retry-After", "10")
		h.refuse(w, http.StatusTooManyRequests, "too many streams of events")
		return
	}
	defer h.feed.leave()
	if r.Method != http.MethodHead {
		defer h.watcher.listen(p)()
	}
	at := h.feed.end()
	seen := r.Header.Get("Last-Event-ID")
	if seen == "" {
		seen = r.URL.Query().Get("since")
	}
	if seen != "" {
		at = h.feed.position(seen)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy must not hold it back
	if r.Method == http.MethodHead {
		return
	}
	s := &stream{h: h, w: w, rc: http.NewResponseController(w.ResponseWriter), top: p}
	if s.write(fmt.Sprintf("retry: 2000\nid: %s-%d\n\n", h.feed.boot, at)) == nil {
		s.run(r, at)
	}
}

// stream is one reader of events.
type stream struct {
	h   *handler
	w   *recorder
	rc  *http.ResponseController
	top string
}

func (s *stream) write(text string) error {
	s.rc.SetWriteDeadline(time.Now().Add(bodyLimit))
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	return s.rc.Flush()
}

// run writes until the reader goes away, takes nothing, or the daemon ends.
func (s *stream) run(r *http.Request, at uint64) {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		list, next, lost, more := s.h.feed.since(at)
		text := ""
		if lost {
			text = fmt.Sprintf("event: lost\nid: %s-%d\ndata: {}\n\n", s.h.feed.boot, next)
		}
		for i := range list {
			text += s.event(&list[i], at+uint64(i)+1)
		}
		at = next
		if text == "" && len(list) == 0 {
			select {
			case <-more:
				continue
			case <-beat.C:
				text = ": \n\n"
			case <-r.Context().Done():
				return
			case <-s.h.life.Done():
				return
			}
		}
		if text != "" && s.write(text) != nil {
			return
		}
	}
}

// event writes a change, if it is for this reader.
func (s *stream) event(c *change, number uint64) string {
	if !access.Beneath(c.Path, s.top) && (c.From == "" || !access.Beneath(c.From, s.top)) {
		return ""
	}
	out := *c
	if c.From != "" && !s.h.sees(&s.w.who, c.From) { // it comes from where he sees nothing
		out.Op, out.From = opCreate, ""
	}
	if !s.h.sees(&s.w.who, c.Path) {
		if out.From == "" {
			return ""
		}
		out = change{Op: opRemove, Path: c.From, Dir: c.Dir}
	}
	out.Path, out.From = valid(out.Path), valid(out.From)
	b, _ := json.Marshal(out)
	return fmt.Sprintf("event: change\nid: %s-%d\ndata: %s\n\n", s.h.feed.boot, number, b)
}
