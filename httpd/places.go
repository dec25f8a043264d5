package httpd

import (
	"context"

	"github.com/tnvfs/tnv"
)

// places bounds how many do something at once that takes memory or processors.
type places chan struct{}

// take waits for a place.
func (p places) take(ctx context.Context) error {
	select {
	case p <- struct{}{}:
		return nil
	case <-ctx.Done():
		return tnv.Wrap("wait for a place", ctx.Err())
	}
}

// try takes a place if one is free.
func (p places) try() bool {
	select {
	case p <- struct{}{}:
		return true
	default:
		return false
	}
}

func (p places) give() { <-p }

const (
	maxLong      = 32 // bodies of JSON that are longer than shortJSON
	maxPropfinds = 8
	maxProbes    = 2 // runs of ffprobe for which a request waits
	maxTurned    = 2 // files of subtitles
)
