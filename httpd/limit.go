package httpd

import (
	"context"
	"net"
	"net/http"
	"sync"

	"golang.org/x/time/rate"
)

// limits hold down how fast files are sent: to each viewer, and in all. A viewer
// is a user, or an address where nobody says who he is.
type limits struct {
	perViewer int64 // bytes per second; 0: no limit
	all       *rate.Limiter

	mu      sync.Mutex
	viewers map[string]*viewer
}

// viewer is there while transfers to him are under way.
type viewer struct {
	limit     *rate.Limiter
	transfers int
}

// burst is what may be sent at once.
const burst = 256 << 10

func newLimits(perViewer, all int64) *limits {
	l := &limits{perViewer: perViewer, viewers: map[string]*viewer{}}
	if all > 0 {
		l.all = rate.NewLimiter(rate.Limit(all), burst)
	}
	return l
}

func viewerOf(w *recorder, r *http.Request) string {
	if w.who.User != "" {
		return "user " + w.who.User
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// enter begins a transfer to a viewer; leave ends it. Nil: nothing holds it down.
func (l *limits) enter(name string) *viewer {
	if l.perViewer <= 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.viewers[name]
	if v == nil {
		v = &viewer{limit: rate.NewLimiter(rate.Limit(l.perViewer), burst)}
		l.viewers[name] = v
	}
	v.transfers++
	return v
}

func (l *limits) leave(name string, v *viewer) {
	if v == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if v.transfers--; v.transfers == 0 {
		delete(l.viewers, name)
	}
}

// wait waits until so many bytes, burst at most, may be sent.
func (l *limits) wait(ctx context.Context, v *viewer, n int) error {
	if v != nil {
		if err := v.limit.WaitN(ctx, n); err != nil {
			return err
		}
	}
	if l.all != nil {
		return l.all.WaitN(ctx, n)
	}
	return nil
}

func (l *limits) any() bool { return l.perViewer > 0 || l.all != nil }
