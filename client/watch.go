package client

import (
	"context"
	"time"

	"github.com/tnvfs/tnv"
)

const (
	slowAnswer = 400 * time.Millisecond // after which the tracker is asked about a member
	askAgain   = 200 * time.Millisecond
)

// whileAlive is a context that ends when the tracker says that a member is lost, or
// slow: a daemon or disk that froze would else be waited for until the call's own deadline.
// Nothing is asked about members that answer in time. stop frees it; it returns
// err, or that the member is lost if the context ended for that.
func (c *Client) whileAlive(ctx context.Context, id tnv.NodeID) (watched context.Context, stop func(err error) error) {
	watched, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	lost := tnv.E("wait for an answer", tnv.KindUnavailable, "store %v was lost, or slow, meanwhile", id)
	timer := time.AfterFunc(slowAnswer, func() {
		defer close(done)
		for watched.Err() == nil {
			err := c.refreshMap(watched)
			if err == nil && c.cmap.get().Awaited(id) == nil {
				cancel(lost)
				return
			}
			select {
			case <-time.After(askAgain):
			case <-watched.Done():
			}
		}
	})
	return watched, func(err error) error {
		cancel(nil)
		if !timer.Stop() {
			<-done
		}
		if err != nil && context.Cause(watched) == lost {
			return lost
		}
		return err
	}
}
