package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
)

// Grace per role: how long a process may take to end after SIGTERM. A mount
// drains what was written through it; the others finish what is under way.
const (
	mountGrace  = 3 * time.Minute
	daemonGrace = 20 * time.Second
	frontGrace  = 5 * time.Minute
)

// Down stops the cluster in dir: a watching `tnv up` first, then mounts
// (drained), HTTP daemons, storage daemons, trackers. It returns the names of
// the processes that it stopped: none, if nothing ran. KindNotExist: no cluster
// was ever made there.
func Down(ctx context.Context, dir string, log *logrus.Entry) ([]string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, tnv.Wrap("down", err)
	}
	l := Layout{abs}
	if _, err := os.Stat(l.stateFile()); err != nil {
		return nil, &tnv.Error{Op: "down", Kind: tnv.KindOf(err), Msg: "no cluster is in " + abs + ": name its directory with --dir", Err: err}
	}
	var names []string
	if front := l.Record(RoleFront.name(1)); front.Alive() && front.Pid != os.Getpid() {
		names = append(names, front.Name)
		for _, r := range l.Records() {
			if r.Alive() && r.Name != front.Name {
				names = append(names, r.Name)
			}
		}
		if _, err := Stop(ctx, front, frontGrace); err != nil {
			return nil, err
		}
	}
	unlock, err := l.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	all := l.Records()
	for _, r := range all {
		if r.Alive() && r.Role != RoleFront {
			names = append(names, r.Name)
		}
	}
	return names, stopAll(ctx, l, all, log)
}

// stopAll stops processes, role by role, those of one role at once. Each that is
// gone is forgotten.
func stopAll(ctx context.Context, l Layout, records []Record, log *logrus.Entry) error {
	var errs []error
	for _, role := range []Role{RoleMount, RoleHTTP, RoleStore, RoleTracker, RoleFront} {
		var wg sync.WaitGroup
		var mu sync.Mutex
		for _, r := range records {
			if r.Role != role || r.Role == RoleFront && r.Pid == os.Getpid() {
				continue
			}
			wg.Go(func() {
				if err := stopOne(ctx, l, r, log); err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, err)
				}
			})
		}
		wg.Wait()
	}
	return errors.Join(errs...)
}

func stopOne(ctx context.Context, l Layout, r Record, log *logrus.Entry) error {
	grace := daemonGrace
	if r.Role == RoleMount {
		grace = mountGrace
	}
	killed, err := Stop(ctx, r, grace)
	if err != nil {
		return err
	}
	if killed {
		log.WithFields(logrus.Fields{"name": r.Name, "pid": r.Pid, "log": l.LogFile(r.Name)}).Warn("it did not end within its time and was killed")
	}
	if r.Role == RoleMount && r.Mountpoint != "" {
		if err := detachIfMounted(r.Mountpoint); err != nil {
			return err
		}
	}
	l.forget(r.Name)
	return nil
}
