package mount

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/fuse"
)

func TestParseArgs(t *testing.T) {
	ro := Options{ReadOnly: true}
	for line, want := range map[string]Args{
		"/mnt/media":                {Mountpoint: "/mnt/media"},
		"tnv /m":                    {Mountpoint: "/m"},
		"none /m -o rw":             {Mountpoint: "/m"},
		"h:1 /m":                    {Mountpoint: "/m", Trackers: "h:1"},
		"h:1,[::1]:2:/films/new /m": {Mountpoint: "/m", Trackers: "h:1,[::1]:2", Subdir: "/films/new"},
		":/films /m":                {Mountpoint: "/m", Subdir: "/films"},
		"-o ro /m":                  {Mountpoint: "/m", Options: ro},
		"/m -oro":                   {Mountpoint: "/m", Options: ro},
		"-r /m":                     {Mountpoint: "/m", Options: ro},
		"/m -o ro,rw":               {Mountpoint: "/m"},
		"h:1 /m -o rw -sfnv -t tnv": {Mountpoint: "/m", Trackers: "h:1", Fake: true, Verbose: true},
		"h:1 /m -t fuse.tnv -s -o nonsense=1,volume=v": {Mountpoint: "/m", Trackers: "h:1", Volume: "v"},
		"-- /m":                     {Mountpoint: "/m"},
		"--dir /d --foreground /m":  {Mountpoint: "/m", Dir: "/d", Foreground: true},
		"--dir=/d /m -o foreground": {Mountpoint: "/m", Dir: "/d", Foreground: true},
		"--help":                    {Help: true},
		"/m -o allow_other,noatime,nodev,suid,noexec,dirsync,sync": {Mountpoint: "/m",
			Options: Options{AllowOther: true, NoAtime: true, Flags: []string{"nodev", "suid", "noexec", "dirsync", "sync"}}},
		"/m -o defaults,noauto,_netdev,nofail,user,uid=7,x-systemd.automount,X-mount.mkdir,relatime,atime,user=joe": {Mountpoint: "/m",
			Options: Options{Flags: []string{"relatime"}}},
		`/m -o volume=a\,b,keyfile=/k,cache_dir=/c,cache_size=10G,memory=512MiB,timeout=5s,admin=:9,log=/l`: {Mountpoint: "/m", Volume: "a,b",
			KeyFile: "/k", CacheDir: "/c", CacheSize: 10 << 30, Memory: 512 << 20, Timeout: 5 * time.Second, Admin: ":9", LogFile: "/l"},
		"/m -o memory=1048576,cache_size=2k": {Mountpoint: "/m", Memory: 1 << 20, CacheSize: 2048},
	} {
		got, err := ParseArgs(strings.Fields(line))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", line, got, err, want)
		}
	}
}

func TestParseArgsRefuses(t *testing.T) {
	for line, mention := range map[string]string{
		"":                      "MOUNTPOINT",
		"a:1 b c":               "MOUNTPOINT",
		"/m -o":                 "needs a value",
		"/m -x":                 "unknown flag -x",
		"/m --bogus":            "unknown flag --bogus",
		"/m --foreground=1":     "takes no value",
		"/m -o bogus":           `unknown option "bogus"`,
		"/m -o volume":          "needs a value",
		"/m -o volume=":         "has no value",
		"/m -o redis=h:6379":    "redis",
		"/m -o remount,ro":      "unmount",
		"/m -o memory=much":     "memory=much",
		"/m -o memory=-1":       "memory=-1",
		"/m -o memory=9999999T": "memory=9999999T",
		"/m -o timeout=soon":    "timeout=soon",
		"host /m":               "HOST:PORT",
		"h:1,:2 /m":             "HOST:PORT",
		"/srv/cluster /m":       "dir=",
		"/m -t nfs":             "nfs",
		"/m -N /proc/1/ns/mnt":  "nsenter",
	} {
		_, err := ParseArgs(strings.Fields(line))
		if tnv.KindOf(err) != tnv.KindInvalid || !strings.Contains(err.Error(), mention) {
			t.Errorf("%s: %v; want an error that mentions %s", line, err, mention)
		}
	}
}

func TestKernelFlags(t *testing.T) {
	const def = unix.MS_NOSUID | unix.MS_NODEV
	for line, want := range map[string]uintptr{
		"":               def,
		"ro noexec":      def | unix.MS_RDONLY | unix.MS_NOEXEC,
		"suid dev":       0,
		"noatime atime":  def,
		"noatime":        def | unix.MS_NOATIME,
		"sync dirsync":   def | unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC,
		"noexec exec rw": def,
	} {
		if got := kernelFlags(strings.Fields(line)); got != want {
			t.Errorf("%q: %x, want %x", line, got, want)
		}
	}
}

func TestParseMounts(t *testing.T) {
	got, err := parseMounts(strings.NewReader(
		"22 27 0:21 / /proc rw,relatime - proc proc rw\n" +
			"42 27 0:39 / /mnt/my\\040films\\134 rw shared:1 master:2 - fuse.tnv tnv:media rw,user_id=0\n" +
			"nonsense\n"))
	want := []mountEntry{{22, "0:21", "/proc", "proc", "proc"}, {42, "0:39", `/mnt/my films\`, "fuse.tnv", "tnv:media"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzParseArgs(f *testing.F) {
	f.Add("h:1:/s /m -o ro,memory=1G")
	f.Fuzz(func(t *testing.T, line string) {
		a, err := ParseArgs(strings.Split(line, " "))
		if err == nil && !a.Help && a.Mountpoint == "" {
			t.Errorf("%q: no mountpoint, and no error", line)
		}
	})
}

// Of the options on times of access the last one counts; without any it is relatime.
func TestAtimeOptions(t *testing.T) {
	for options, want := range map[string]fuse.Atime{
		"volume=media":                  fuse.Relatime,
		"noatime":                       fuse.NoAtime,
		"noatime,atime":                 fuse.Relatime,
		"ro":                            fuse.NoAtime,
		"strictatime":                   fuse.StrictAtime,
		"strictatime,relatime":          fuse.Relatime,
		"relatime,strictatime":          fuse.StrictAtime,
		"strictatime,noatime":           fuse.NoAtime,
		"nodiratime,strictatime,noexec": fuse.StrictAtime,
	} {
		a, err := ParseArgs([]string{"tnv", "/mnt", "-o", options})
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Options.atime(); got != want {
			t.Errorf("-o %s: %v, want %v", options, got, want)
		}
	}
	a, err := ParseArgs([]string{"tnv", "/mnt", "-o", "nodiratime"})
	if err != nil || !a.Options.set("nodiratime", "diratime") {
		t.Errorf("nodiratime: %+v, %v", a.Options, err)
	}
}

// What the kernel is given it takes: no magic number beside flags of the upper half.
func TestDirectFlags(t *testing.T) {
	for _, c := range []struct {
		options []string
		want    uintptr
	}{
		{nil, unix.MS_NOSUID | unix.MS_NODEV},
		{[]string{"strictatime"}, unix.MS_NOSUID | unix.MS_NODEV | unix.MS_STRICTATIME},
		{[]string{"suid", "dev"}, unix.MS_MGC_VAL},
	} {
		if got := directFlags(c.options); got != c.want {
			t.Errorf("%v: %#x, want %#x", c.options, got, c.want)
		}
	}
}
