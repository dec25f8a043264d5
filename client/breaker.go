package client

import "time"

// breaker keeps requests from a member that failed. It is closed (the zero
// value) while the member works; a failure opens it for a while, longer with
// each failure in a row. Behind that one read at a time may probe: its success
// closes the breaker, its failure opens it again. It reads no clock.
type breaker struct {
	pause   time.Duration // of the last opening; 0: closed
	until   time.Time     // open till then
	probing time.Time     // a probe is under way, or was given up by then
}

const (
	firstPause = 3 * time.Second
	maxPause   = 12 * time.Second
	probeLife  = time.Second
)

// open tells whether the member is to be asked last.
func (b *breaker) open(now time.Time) bool { return now.Before(b.until) || now.Before(b.probing) }

// failed opens the breaker. Requests that were under way when it opened fail,
// too, and say nothing new.
func (b *breaker) failed(now time.Time) {
	if now.Before(b.until) {
		return
	}
	b.pause = min(max(2*b.pause, firstPause), maxPause)
	b.until, b.probing = now.Add(b.pause), time.Time{}
}

// probe tells whether the caller is to try whether the member works again.
func (b *breaker) probe(now time.Time) bool {
	if b.pause == 0 || b.open(now) {
		return false
	}
	b.probing = now.Add(probeLife)
	return true
}
