package mount

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
)

const (
	// grace is how long users of open files have when the daemon is told to stop.
	grace = 5 * time.Second
	// retryUnmount is how often it is tried meanwhile.
	retryUnmount = 100 * time.Millisecond
	// flushTime bounds each of the flushes at the end.
	flushTime = 60 * time.Second
	// endTime is how long the kernel's side may take to end behind the unmount.
	endTime = 20 * time.Second
)

// stop unmounts, so that nothing which was acknowledged is lost: politely as
// long as grace lasts; then everything written, mapped pages too, is flushed, and
// the mount is taken away from those who still use it.
func (m *mounting) stop(ctx context.Context) error {
	until := time.Now().Add(grace)
	err := m.flush(ctx)
	for {
		if !m.mounted() {
			return errors.Join(err, m.ended())
		}
		busy := unmount(ctx, m.point, 0)
		if busy == nil {
			return errors.Join(err, m.ended())
		}
		if time.Now().After(until) {
			m.log.WithError(busy).Warn("still in use: it is taken away from its users")
			break
		}
		select {
		case <-m.over:
			return err
		case <-time.After(retryUnmount):
		}
	}
	err = errors.Join(err, m.writeBack(), m.flush(ctx))
	flags := unix.MNT_FORCE | unix.MNT_DETACH
	if un := unmount(ctx, m.point, flags); un != nil {
		m.log.WithError(un).Warn("unmount failed")
	}
	m.abort()
	return errors.Join(err, m.ended())
}

func (m *mounting) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushTime)
	defer cancel()
	return m.fs.FlushAll(ctx)
}

// mounted tells whether this very mount is on top at the mountpoint.
func (m *mounting) mounted() bool {
	e, there, err := mountedAt(m.point)
	if m.dev == "" { // it never showed
		return err != nil || there && e.fstype == fsType
	}
	return err == nil && there && e.dev == m.dev && e.id == m.id
}

// writeBack has the kernel write the pages that were written through mappings.
func (m *mounting) writeBack() error {
	return bounded(flushTime, "write back mapped pages", func() error {
		fd, err := unix.Open(m.point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return tnv.Wrap("write back mapped pages", err)
		}
		defer unix.Close(fd)
		return tnv.Wrap("write back mapped pages", unix.Syncfs(fd))
	})
}

// abort ends the connection if an unmount did not, as after fusermount3 -z.
func (m *mounting) abort() {
	_, minor, _ := strings.Cut(m.dev, ":")
	file := filepath.Join("/sys/fs/fuse/connections", minor, "abort")
	if err := os.WriteFile(file, []byte("1"), 0); err != nil {
		m.log.WithError(err).Debug("the connection was not aborted; it ends with the process")
	}
}

// ended waits for the kernel's side to end.
func (m *mounting) ended() error {
	select {
	case <-m.over:
		m.log.Info("unmounted")
		return nil
	case <-time.After(endTime):
		return tnv.E("unmount "+m.point, tnv.KindTimeout, "files of it are still in use; the mount ends with this process")
	}
}
