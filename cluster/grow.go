package cluster

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
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
