package mount

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/fuse"
)

// Config says what to mount where. Client's Identity, Name, ReadOnly, Log and
// Registry are filled in where they are empty.
type Config struct {
	Mountpoint string
	Subdir     string // directory of the volume to show as the root, "" or "/": its own
	Options    Options
	Client     client.Config
	Admin      string        // address of /metrics and /healthz; "": none
	Log        *logrus.Entry // nil: nothing is logged
	Ready      func()        // called once, when the mount answers
	Stale      time.Duration // fuse.Options.Stale: for a test of the tests
}

// Options are the mount's.
type Options struct {
	ReadOnly   bool
	AllowOther bool // others than the one who mounts may use it: always so for root
	NoAtime    bool // times of access do not change by reading
	// Flags are further options of mount(8) for the kernel: nodev, dev, nosuid,
	// suid, noexec, exec, sync, async, dirsync, nodiratime, strictatime, …
	Flags []string
}

// atime is what the options say of times of access, with which the kernel does
// nothing: the last one counts, and relatime is the default.
func (o Options) atime() fuse.Atime {
	switch {
	case o.NoAtime || o.ReadOnly:
		return fuse.NoAtime
	case o.set("strictatime", "nostrictatime", "relatime"):
		return fuse.StrictAtime
	}
	return fuse.Relatime
}

// set tells whether a flag was given, and none behind it that takes it back.
func (o Options) set(flag string, back ...string) bool {
	on := false
	for _, f := range o.Flags {
		on = f == flag || on && !slices.Contains(back, f)
	}
	return on
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		l := logrus.New()
		l.SetOutput(io.Discard)
		c.Log = logrus.NewEntry(l)
	}
	if c.Client.Log == nil {
		c.Client.Log = c.Log
	}
	if c.Options.ReadOnly {
		c.Client.ReadOnly = true
	}
	if c.Ready == nil {
		c.Ready = func() {}
	}
	c.Subdir = path.Clean("/" + c.Subdir)
	return c
}

// source is what findmnt(8) and df(1) show.
func (c Config) source() string {
	volume := c.Client.Volume
	if volume == "" {
		volume = "media"
	}
	s := "tnv:" + volume
	if c.Subdir != "/" {
		s += c.Subdir
	}
	return strings.Map(func(r rune) rune {
		if r == ',' || r < ' ' {
			return '_'
		}
		return r
	}, s)
}

// identity names the mount at a point of this machine, the same at each start.
// Mountpoints in containers are apart from each other, and from the host's.
func (c Config) identity(point string) string {
	ns, _ := os.Readlink("/proc/self/ns/mnt")
	if host, err := os.Readlink("/proc/1/ns/mnt"); err == nil && host == ns {
		ns = "" // its number may be another after a boot
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %d %q", tnv.HostID(), ns, os.Geteuid(), point)
	return "mount-" + hex.EncodeToString(h.Sum(nil)[:12])
}

// kernelFlags are the options of mount(8) that are flags of mount(2). A FUSE
// mount is nosuid and nodev unless told otherwise.
func kernelFlags(options []string) uintptr {
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	for _, o := range options {
		f, ok := mountFlags[o]
		if ok && f.off {
			flags &^= f.bit
		} else if ok {
			flags |= f.bit
		}
	}
	return flags
}

type mountFlag struct {
	bit uintptr
	off bool
}

// directFlags are kernelFlags for go-fuse, to which zero would mean its own
// default. The kernel ignores MS_MGC_VAL where it stands alone in the upper half;
// beside strictatime or lazytime it is refused.
func directFlags(options []string) uintptr {
	if flags := kernelFlags(options); flags != 0 {
		return flags
	}
	return unix.MS_MGC_VAL
}

// mountFlags are those options, by the names of mount(8).
var mountFlags = map[string]mountFlag{
	"ro": {unix.MS_RDONLY, false}, "rw": {unix.MS_RDONLY, true},
	"nosuid": {unix.MS_NOSUID, false}, "suid": {unix.MS_NOSUID, true},
	"nodev": {unix.MS_NODEV, false}, "dev": {unix.MS_NODEV, true},
	"noexec": {unix.MS_NOEXEC, false}, "exec": {unix.MS_NOEXEC, true},
	"sync": {unix.MS_SYNCHRONOUS, false}, "async": {unix.MS_SYNCHRONOUS, true},
	"dirsync": {unix.MS_DIRSYNC, false},
	"noatime": {unix.MS_NOATIME, false}, "atime": {unix.MS_NOATIME, true},
	"nodiratime": {unix.MS_NODIRATIME, false}, "diratime": {unix.MS_NODIRATIME, true},
	"relatime": {unix.MS_RELATIME, false}, "norelatime": {unix.MS_RELATIME, true},
	"strictatime": {unix.MS_STRICTATIME, false}, "nostrictatime": {unix.MS_STRICTATIME, true},
	"lazytime": {unix.MS_LAZYTIME, false}, "nolazytime": {unix.MS_LAZYTIME, true},
}
