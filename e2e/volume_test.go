package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Volumes by the commands: made, filled, mounted, renamed under the mount, deleted and
// had back, limited, and gone for good with their blocks.
func TestVolumeCommands(t *testing.T) {
	c := Start(t, Options{NoMount: true, NoHTTP: true})
	at := func(args ...string) []string { return append(args, "--dir", c.Dir) }
	c.OK(at("volume", "create", "films")...)
	file := filepath.Join(c.Base, "film")
	data := []byte(strings.Repeat("film", 100_000))
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	c.OK(at("put", file, "/film", "--volume", "films")...)
	if r := c.Tnv(at("cat", "/film")...); r.Code == 0 {
		t.Error("a file of one volume is in another")
	}
	vol := c.volumeID("films")
	if n := c.blocksOf(vol); n == 0 {
		t.Error("the volume has no blocks")
	}
	c.OK(at("volume", "rename", "films", "movies")...)
	if got := c.OK(at("cat", "/film", "--volume", "movies")...); got != string(data) {
		t.Errorf("%d bytes come back of %d", len(got), len(data))
	}
	c.OK(at("volume", "set", "movies", "max-bytes=450K")...)
	if r := c.Tnv(at("put", file, "/second", "--volume", "movies")...); r.Code == 0 || !strings.Contains(r.Err, "quota") {
		t.Errorf("beyond the limit: %v", r)
	}
	c.OK(at("volume", "rm", "movies", "--delay", "1h")...)
	if r := c.Tnv(at("ls", "/", "--volume", "movies")...); r.Code == 0 || !strings.Contains(r.Err, "no volume") {
		t.Errorf("a deleted volume: %v", r)
	}
	if ls := c.OK(at("volume", "ls")...); !strings.Contains(ls, "movies") || !strings.Contains(ls, "deleted") {
		t.Errorf("volume ls: %s", ls)
	}
	c.OK(at("volume", "undelete", "movies")...)
	if got := c.OK(at("cat", "/film", "--volume", "movies")...); got != string(data) {
		t.Errorf("after undelete %d bytes come back of %d", len(got), len(data))
	}
	c.OK(at("volume", "rm", "movies", "--delay", "0s")...)
	for end := time.Now().Add(time.Minute); strings.Contains(c.OK(at("volume", "ls")...), "movies"); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a deleted volume is not gone after a minute")
		}
	}
	if r := c.Tnv(at("volume", "undelete", "movies")...); r.Code == 0 {
		t.Error("a volume that is gone came back")
	}
	if n := c.blocksOf(vol); n > 0 {
		t.Errorf("%d blocks are left", n)
	}
}

// volumeID finds a volume's number.
func (c *Cluster) volumeID(name string) tnv.VolumeID {
	c.t.Helper()
	for _, v := range c.Status().Volumes {
		if v.Name == name {
			return tnv.VolumeID(v.ID)
		}
	}
	c.t.Fatalf("no volume %s", name)
	return 0
}

// blocksOf asks all stores how many blocks of a volume they hold.
func (c *Cluster) blocksOf(vol tnv.VolumeID) (n int) {
	c.t.Helper()
	pool := &protocol.Pool{Endpoint: &protocol.Endpoint{Key: c.Key(), Role: protocol.RoleTool}}
	defer pool.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, node := range c.Status().Groups[0].Nodes {
		var rep protocol.ListReply
		if err := pool.Call(ctx, node.Addr, protocol.TypeList, &rep, &protocol.List{Vol: vol, From: 1, Limit: 100}); err != nil {
			c.t.Fatal(err)
		}
		n += len(rep.Blocks)
	}
	return n
}
