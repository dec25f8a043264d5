package cluster

import (
	"context"
	"path/filepath"

	"github.com/tnvfs/tnv"
)

// Mount starts one more mount process of the cluster in dir and returns when it
// answers. The process gets a name of its own (mount-2 and on), a pid file and,
// unless s names one, a log, and Down drains and ends it with the others.
func Mount(ctx context.Context, dir, mountpoint string, s Spawn) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return tnv.Wrap("mount", err)
	}
	l := Layout{abs}
	point, err := realMountpoint(mountpoint)
	if err != nil {
		return err
	}
	name, unlock, err := l.freeMount(ctx, point)
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if s.Log == "" {
		s.Log = l.LogFile(name)
	}
	_, err = Start(ctx, s, func(pid int) error {
		rec, err := newRecord(name, RoleMount, pid)
		if err != nil {
			return err
		}
		rec.Mountpoint = point
		return l.save(rec)
	})
	if err != nil {
		l.forget(name)
	}
	return err
}

// freeMount finds a name for a mount process, and keeps the cluster locked.
// mount-1 is the cluster's own. What a dead mount left at the point is detached.
func (l Layout) freeMount(ctx context.Context, point string) (name string, unlock func(), err error) {
	if unlock, err = l.lock(ctx); err != nil {
		return "", nil, err
	}
	for _, r := range l.Records() {
		if r.Role == RoleMount && r.Mountpoint == point && !r.Alive() {
			if err := detachIfMounted(point); err != nil {
				unlock()
				return "", nil, err
			}
		}
	}
	for n := 2; ; n++ {
		if name = RoleMount.name(n); !l.Record(name).Alive() {
			return name, unlock, nil
		}
	}
}
