package mount

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
)

const (
	fsType = "fuse.tnv"
	// probeTime is how long a mount that is there already has to answer.
	probeTime = 3 * time.Second
	// maxStacked is how many dead mounts on top of each other are taken away.
	maxStacked = 16
)

// bounded runs a system call that may hang, on a goroutine that is left behind
// if it does; it ends when the file system in question does.
func bounded(d time.Duration, what string, call func() error) error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return err
	case <-time.After(d):
		return tnv.E(what, tnv.KindTimeout, "no answer in %v", d)
	}
}

// prepare makes sure that a mount can go to path, and returns the path as
// /proc/self/mountinfo will show it.
func prepare(ctx context.Context, path string, log *logrus.Entry) (string, error) {
	op := "mount on " + path
	if path == "" {
		return "", tnv.E("mount", tnv.KindInvalid, "no mountpoint is given")
	}
	point, err := filepath.Abs(path)
	if err != nil {
		return "", tnv.Wrap(op, err)
	}
	// The mountpoint itself may be a dead mount: only what is above it is looked at.
	above := filepath.Dir(point)
	err = bounded(probeTime, op, func() (err error) { above, err = filepath.EvalSymlinks(above); return err })
	if err != nil {
		return "", &tnv.Error{Op: op, Kind: tnv.KindOf(err), Msg: "the mountpoint must be there: make it with mkdir -p " + point, Err: err}
	}
	if point != "/" {
		point = filepath.Join(above, filepath.Base(point))
	}
	for range maxStacked {
		m, there, err := mountedAt(point)
		if err != nil {
			return "", err
		}
		if !there {
			return checkDir(op, point)
		}
		if err := removeDead(ctx, op, m, log); err != nil {
			return "", err
		}
	}
	return "", tnv.E(op, tnv.KindBusy, "dead mounts lie on top of each other there: unmount them with umount -l %s", point)
}

// checkDir checks what is no mount: it must be a directory. A link is followed.
func checkDir(op, point string) (string, error) {
	var real string
	var fi os.FileInfo
	err := bounded(probeTime, op, func() (err error) {
		if real, err = filepath.EvalSymlinks(point); err != nil {
			return err
		}
		fi, err = os.Stat(real)
		return err
	})
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", tnv.E(op, tnv.KindNotExist, "the mountpoint must be there: make it with mkdir -p %s", point)
	case err != nil:
		return "", tnv.Wrap(op, err)
	case !fi.IsDir():
		return "", tnv.E(op, tnv.KindNotDir, "choose a directory")
	}
	if real == point {
		return point, nil
	}
	if m, there, err := mountedAt(real); err != nil || there {
		return "", inUse(op, m, err)
	}
	return real, nil
}

func inUse(op string, m mountEntry, err error) error {
	if err != nil {
		return err
	}
	return tnv.E(op, tnv.KindBusy, "in use: %s (%s) is mounted there; unmount it with umount %s, or choose another directory", m.source, m.fstype, m.point)
}

// removeDead takes away a mount that a dead daemon of ours left behind. The
// kernel answers ENOTCONN for it at once; a daemon that lives answers something
// else, or does not answer.
func removeDead(ctx context.Context, op string, m mountEntry, log *logrus.Entry) error {
	if !strings.HasPrefix(m.fstype, "fuse") {
		return inUse(op, m, nil)
	}
	var st unix.Stat_t
	err := bounded(probeTime, op, func() error { return unix.Stat(m.point, &st) })
	switch {
	case tnv.KindOf(err) == tnv.KindTimeout:
		return tnv.E(op, tnv.KindBusy, "in use: %s is mounted there and its daemon does not answer; if that is to end, "+
			"kill the daemon, then mount again", m.source)
	case !errors.Is(err, syscall.ENOTCONN):
		return inUse(op, m, nil)
	case m.fstype != fsType:
		return tnv.E(op, tnv.KindBusy, "a dead mount of %s (%s) is there: unmount it with umount -l %s", m.source, m.fstype, m.point)
	}
	log.WithField("mountpoint", m.point).Warn("a mount whose daemon is dead is taken away")
	return tnv.Wrap(op, unmount(ctx, m.point, unix.MNT_DETACH))
}

// unmount is umount2(2), or fusermount3 for who is not root. flags are MNT_DETACH and MNT_FORCE.
func unmount(ctx context.Context, point string, flags int) error {
	if os.Geteuid() == 0 {
		return bounded(unmountTime, "unmount "+point, func() error { return unix.Unmount(point, flags|unix.UMOUNT_NOFOLLOW) })
	}
	ctx, cancel := context.WithTimeout(ctx, unmountTime)
	defer cancel()
	args := []string{"-u", "-q"}
	if flags != 0 {
		args = append(args, "-z")
	}
	bin, err := fusermount()
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, bin, append(args, "--", point)...).CombinedOutput(); err != nil {
		return &tnv.Error{Op: "unmount " + point, Kind: tnv.KindBusy, Msg: strings.TrimSpace(string(out)), Err: err}
	}
	return nil
}

// unmountTime bounds an unmount: it writes out mapped pages.
const unmountTime = 30 * time.Second

// fusermount finds the helper by which others than root mount.
func fusermount() (string, error) {
	for _, name := range []string{"fusermount3", "fusermount"} {
		if p, err := exec.LookPath(name); err == nil {
			return p, nil
		}
	}
	return "", tnv.E("mount", tnv.KindNotExist, "fusermount3 is needed to mount as a user: install the package fuse3, or mount as root")
}
