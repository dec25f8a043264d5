package cluster

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// AddGroup starts one more group of storage daemons in the cluster in dir, which
// runs or is started. It returns the group's name.
func AddGroup(ctx context.Context, dir string, log *logrus.Entry) (string, error) {
	l, st, err := stateIn(dir)
	if err != nil {
		return "", err
	}
	n := st.Groups + 1
	c, err := Up(ctx, Config{Dir: l.Dir, Groups: &n, Log: log})
	if err != nil {
		return "", err
	}
	return c.st.groupNames()[n-1], nil
}

// DropGroup stops the storage daemons of a group that was emptied, and does not
// start them any more. Their directories stay.
func DropGroup(ctx context.Context, dir, group string, log *logrus.Entry) error {
	l, _, err := stateIn(dir)
	if err != nil {
		return err
	}
	if front := l.Record(RoleFront.name(1)); front.Alive() && front.Pid != os.Getpid() {
		return tnv.E("drop group "+group, tnv.KindBusy, "a `tnv up` in the foreground watches over the cluster: stop it first, and begin it again without the group")
	}
	unlock, err := l.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	st, _, err := l.load()
	if err != nil {
		return err
	}
	if !slices.Contains(st.groupNames(), group) {
		return nil // it is not one of those on this machine
	}
	var gone []Record
	st.Daemons = slices.DeleteFunc(st.Daemons, func(d daemonState) bool {
		if d.Group == group {
			gone = append(gone, l.Record(d.Name))
		}
		return d.Group == group
	})
	st.Groups--
	st.Dropped = append(st.Dropped, group)
	if err := l.store(st); err != nil {
		return err
	}
	return stopAll(ctx, l, gone, log)
}

func stateIn(dir string) (Layout, *state, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Layout{}, nil, tnv.Wrap("find the cluster", err)
	}
	l := Layout{abs}
	st, fresh, err := l.load()
	if err == nil && fresh {
		err = tnv.E("find the cluster", tnv.KindNotExist, "no cluster is in %s: name its directory with --dir", abs)
	}
	return l, st, err
}

// noteLeft finds groups that the tracker does not know any more: they were
// emptied and have left the cluster. Starting their daemons would be in vain.
func (c *Cluster) noteLeft(ctx context.Context) error {
	var st protocol.Status
	if err := Ask(ctx, c.Trackers, c.key, aliveLimit, protocol.TypeStatus, &st, &protocol.StatusRequest{}); err != nil {
		return err
	}
	known := map[string]bool{}
	for _, g := range st.Groups {
		known[g.Name] = true
	}
	c.left = map[string]bool{}
	for _, d := range c.st.Daemons {
		if d.Group == "" || known[d.Group] || c.left[d.Group] {
			continue
		}
		if _, err := os.Stat(filepath.Join(c.data(d.Name), announcedFile)); err == nil {
			c.left[d.Group] = true
			c.log.WithField("group", d.Group).Warn("a group has left the cluster: its storage daemons are not started (`tnv group drain --dir DIR --wait` has them forgotten)")
		}
	}
	return nil
}

// announcedFile marks the directory of a storage daemon that a tracker has taken in: see package stored.
const announcedFile = "announced"
