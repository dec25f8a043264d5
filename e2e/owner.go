package e2e

import (
	"context"
	"fmt"
	"time"

	"github.com/tnvfs/tnv/protocol"
)

// Owner is the name of the tracker's process that owns a volume, as that tracker
// itself says. It is waited for; the test fails if nobody owns the volume.
func (c *Cluster) Owner(volume string) string {
	c.t.Helper()
	ep := &protocol.Endpoint{Key: c.Key(), Role: protocol.RoleTool}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for i, addr := range c.Trackers() {
			if ownedAt(ep, addr, volume) {
				return fmt.Sprintf("trackerd-%d", i+1)
			}
		}
	}
	c.t.Fatalf("nobody owns volume %s", volume)
	return ""
}

func ownedAt(ep *protocol.Endpoint, addr, volume string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	conn, err := protocol.DialClient(ctx, ep, addr, nil)
	if err != nil {
		return false
	}
	defer conn.Close()
	var rep protocol.OwnerReply
	return conn.Call(ctx, protocol.TypeOwner, &rep, &protocol.Owner{Name: volume}) == nil && rep.Here
}
