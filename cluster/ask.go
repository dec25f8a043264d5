package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Ask puts a question to the trackers, one after another, until one answers it:
// one that does not own what it is about is passed over.
func Ask(ctx context.Context, trackers []string, key protocol.Key, limit time.Duration, t protocol.Type, rep any, req any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var all []error
	for _, addr := range trackers {
		err := askTracker(ctx, addr, key, t, rep, req)
		switch tnv.KindOf(err) {
		case tnv.KindNotOwner, tnv.KindUnavailable, tnv.KindTimeout:
			if err != nil {
				all = append(all, tnv.Wrap("ask "+addr, err))
				continue
			}
		}
		return err
	}
	if len(all) == 0 {
		return tnv.E("ask a tracker", tnv.KindInvalid, "no tracker is named")
	}
	return errors.Join(all...)
}

func askTracker(ctx context.Context, addr string, key protocol.Key, t protocol.Type, rep any, req any) error {
	dial, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := protocol.DialClient(dial, &protocol.Endpoint{Key: key, Role: protocol.RoleTool}, addr, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	if c.Role != protocol.RoleTracker {
		return tnv.E("ask "+addr, tnv.KindInvalid, "a %s answers there, not a tracker", c.Role)
	}
	return c.Call(ctx, t, rep, req)
}
