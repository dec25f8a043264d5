package httpd

import (
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	trafficStep  = 10 * time.Second
	trafficSteps = 360 // one hour
	maxStreams   = 100 // told of in the status
)

// traffic counts what goes over the wire: in all, per step of the last hour, and
// per transfer under way.
type traffic struct {
	began                       time.Time
	requests, sent, receivedAll atomic.Int64
	conns                       atomic.Int64

	mu      sync.Mutex
	steps   [trafficSteps]step // the step of a time is at its number, modulo their count
	last    int64              // number of the newest step
	streams map[*transfer]*flow
}

type step struct{ sent, received, requests int64 }

// flow is a transfer under way.
type flow struct {
	path, user, client string
	began              time.Time
	sent               atomic.Int64
}

func newTraffic() *traffic {
	now := time.Now()
	return &traffic{began: now, streams: map[*transfer]*flow{}, last: stepOf(now)}
}

func stepOf(at time.Time) int64 { return at.UnixNano() / int64(trafficStep) }

func (t *traffic) request()       { t.count(step{requests: 1}); t.requests.Add(1) }
func (t *traffic) received(n int) { t.count(step{received: int64(n)}); t.receivedAll.Add(int64(n)) }
func (t *traffic) send(n int)     { t.count(step{sent: int64(n)}); t.sent.Add(int64(n)) }

func (t *traffic) count(s step) {
	now := stepOf(time.Now())
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turnLocked(now)
	x := &t.steps[now%trafficSteps]
	x.sent, x.received, x.requests = x.sent+s.sent, x.received+s.received, x.requests+s.requests
}

// turnLocked empties the steps that have begun since the newest.
func (t *traffic) turnLocked(now int64) {
	for n := max(t.last+1, now-trafficSteps+1); n <= now; n++ {
		t.steps[n%trafficSteps] = step{}
	}
	t.last = max(t.last, now)
}

// lastHour lists the steps, the oldest first.
func (t *traffic) lastHour(now time.Time) (sent, received, requests []int64) {
	n := stepOf(now)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turnLocked(n)
	for i := n - trafficSteps + 1; i <= n; i++ {
		s := t.steps[i%trafficSteps]
		sent, received, requests = append(sent, s.sent), append(received, s.received), append(requests, s.requests)
	}
	return sent, received, requests
}

func (t *traffic) begin(x *transfer, w *recorder, r *http.Request, p string) *flow {
	f := &flow{path: p, user: w.who.User, client: r.RemoteAddr, began: time.Now()}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams[x] = f
	return f
}

func (t *traffic) finish(x *transfer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.streams, x)
}

// streamStatus is a transfer as the status tells of it.
type streamStatus struct {
	Path    string    `json:"path"`
	User    string    `json:"user,omitempty"`
	Client  string    `json:"client"`
	Started time.Time `json:"started"`
	Sent    int64     `json:"sent_bytes"`
	Rate    int64     `json:"rate"`
}

// now lists transfers under way, the oldest first.
func (t *traffic) now() []streamStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := []streamStatus{}
	for _, f := range t.streams {
		n := f.sent.Load()
		rate := int64(float64(n) / max(0.001, time.Since(f.began).Seconds()))
		out = append(out, streamStatus{valid(f.path), f.user, f.client, f.began.UTC(), n, rate})
	}
	slices.SortFunc(out, func(a, b streamStatus) int { return a.Started.Compare(b.Started) })
	return out[:min(len(out), maxStreams)]
}
