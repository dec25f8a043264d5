package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	raw "github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/admin"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/fuse"
)

const (
	// answerTime is how long a fresh mount has to answer.
	answerTime = 15 * time.Second
	// closeTime bounds the end of the session, behind the unmount.
	closeTime = 60 * time.Second
	// readAheadKiB is what the kernel reads ahead of a sequential reader.
	readAheadKiB = 1024
)

// Run mounts and serves until the mount is unmounted, or ctx ends: then it
// flushes and unmounts itself. It returns nil if nothing was lost.
//
// Errors before Ready was called mean that nothing is mounted: tnv.KindBusy for
// a mountpoint in use, KindNotExist for a missing mountpoint or Subdir,
// KindUnavailable, KindAuth, KindWrongCluster or KindVersion from the cluster.
func Run(ctx context.Context, cfg Config) (err error) {
	cfg = cfg.withDefaults()
	point, err := prepare(ctx, cfg.Mountpoint, cfg.Log)
	if err != nil {
		return err
	}
	side := admin.New()
	if cfg.Client.Registry == nil {
		cfg.Client.Registry = side.Registry
	}
	if cfg.Client.Identity == "" {
		cfg.Client.Identity = cfg.identity(point)
	}
	if cfg.Client.Name == "" {
		host, _ := os.Hostname()
		cfg.Client.Name = fmt.Sprintf("mount %s on %s", point, host)
	}
	// The side door outlives ctx: one wants to see what a daemon does that stops.
	doorCtx, shut := context.WithCancel(context.WithoutCancel(ctx))
	defer shut()
	if err := side.Serve(doorCtx, cfg.Admin); err != nil {
		return err
	}
	c, err := client.Connect(ctx, cfg.Client)
	if err != nil {
		return tnv.Wrap("connect to the cluster", err)
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
		defer cancel()
		err = errors.Join(err, tnv.Wrap("end the session", c.Close(end)))
	}()
	root, err := findRoot(ctx, c, cfg.Subdir)
	if err != nil {
		return err
	}
	m := &mounting{cfg: cfg, log: cfg.Log.WithField("mountpoint", point), point: point,
		fs: fuse.New(c, fuse.Options{Root: root, Log: cfg.Log, Registry: cfg.Client.Registry, Stale: cfg.Stale,
			Atime: cfg.Options.atime(), NoDirAtime: cfg.Options.set("nodiratime", "diratime")})}
	return m.run(ctx)
}

// findRoot finds the directory that is to be the mount's root.
func findRoot(ctx context.Context, c *client.Client, sub string) (tnv.Ino, error) {
	rep, err := c.Resolve(ctx, tnv.Root, sub, true)
	switch {
	case tnv.KindOf(err) == tnv.KindNotExist:
		return 0, tnv.E("mount", tnv.KindNotExist, "the volume has no directory %s: mount the volume's root and make it", sub)
	case err != nil:
		return 0, tnv.Wrap("find "+sub+" in the volume", err)
	case !rep.Attr.IsDir():
		return 0, tnv.E("mount", tnv.KindNotDir, "%s in the volume is no directory", sub)
	}
	return rep.Attr.Ino, nil
}

// mounting is a mount while it is.
type mounting struct {
	cfg   Config
	log   *logrus.Entry
	point string
	fs    *fuse.FS
	id    int           // in mountinfo
	dev   string        // MAJOR:MINOR
	over  chan struct{} // closed when the kernel's side has ended
}

// run mounts, serves, and ends what it began. The client is not closed.
func (m *mounting) run(ctx context.Context) error {
	srv, err := m.mount()
	if err != nil {
		return err
	}
	m.over = make(chan struct{})
	go func() { defer close(m.over); srv.Serve() }()
	if err := m.ready(ctx, srv); err != nil {
		return errors.Join(err, m.stop(context.WithoutCancel(ctx)))
	}
	m.log.Info("mounted")
	m.cfg.Ready()
	select {
	case <-m.over:
		m.log.Info("unmounted")
	case <-ctx.Done():
		err = m.stop(context.WithoutCancel(ctx))
	}
	select {
	case <-m.over:
	default: // requests may still come: the client flushes as it closes
		return err
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	return errors.Join(err, m.fs.Drain(end))
}

func (m *mounting) mount() (*raw.Server, error) {
	op := "mount on " + m.point
	opt := m.cfg.Options
	flags := opt.Flags
	if opt.ReadOnly {
		flags = append([]string{"ro"}, flags...)
	}
	if opt.NoAtime {
		flags = append([]string{"noatime"}, flags...)
	}
	var o *raw.MountOptions
	if os.Geteuid() == 0 {
		o = m.fs.MountOptions(m.cfg.source())
		o.DirectMountStrict = true
		o.DirectMountFlags = directFlags(flags)
		o.AllowOther = true
	} else {
		if _, err := fusermount(); err != nil {
			return nil, err
		}
		o = m.fs.MountOptions(m.cfg.source(), flags...)
		o.AllowOther = opt.AllowOther
	}
	srv, err := raw.NewServer(m.fs, m.point, o)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENODEV):
		return nil, &tnv.Error{Op: op, Kind: tnv.KindNotExist, Msg: "the kernel offers no /dev/fuse: load it with modprobe fuse", Err: err}
	case errors.Is(err, os.ErrPermission):
		return nil, &tnv.Error{Op: op, Kind: tnv.KindNotPermitted, Msg: "this process may not mount (a container needs CAP_SYS_ADMIN and /dev/fuse)", Err: err}
	case err != nil && os.Geteuid() != 0 && opt.AllowOther:
		return nil, &tnv.Error{Op: op, Kind: tnv.KindNotPermitted, Msg: "fusermount3 refused; allow_other needs user_allow_other in /etc/fuse.conf", Err: err}
	case err != nil:
		return nil, &tnv.Error{Op: op, Kind: tnv.KindOf(err), Err: err}
	}
	return srv, nil
}

// ready waits until the mount answers, and sets what can be set only then.
func (m *mounting) ready(ctx context.Context, srv *raw.Server) error {
	e, there, err := mountedAt(m.point)
	if err == nil && (!there || e.fstype != fsType) {
		err = tnv.E("mount on "+m.point, tnv.KindOther, "the mount does not show there")
	}
	if err != nil {
		return err
	}
	m.id, m.dev = e.id, e.dev
	if err := bounded(answerTime, "mount on "+m.point, srv.WaitMount); err != nil {
		return tnv.Wrap("wait for the mount to answer", err)
	}
	m.readAhead()
	return ctx.Err()
}

// readAhead raises the kernel's read-ahead, where this process may.
func (m *mounting) readAhead() {
	file := "/sys/class/bdi/" + m.dev + "/read_ahead_kb"
	if err := os.WriteFile(file, fmt.Appendln(nil, readAheadKiB), 0); err != nil {
		m.log.WithError(err).Debug("the kernel's read-ahead stays as it is")
	}
}
