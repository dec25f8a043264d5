package mount

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tnvfs/tnv"
)

// Args is a command line of mount.tnv, as it was given: what was not given is zero.
type Args struct {
	Trackers   string // host:port, separated by commas
	Subdir     string // begins with a slash
	Mountpoint string
	Options    Options
	Volume     string
	KeyFile    string
	Dir        string // of a cluster that `tnv up --dir` made
	Admin      string
	LogFile    string
	CacheDir   string
	CacheSize  int64         // bytes
	Memory     int64         // bytes
	Timeout    time.Duration // client.Config.Timeout
	Foreground bool
	Fake       bool // mount(8) -f: do everything but mount
	Verbose    bool
	Help       bool
}

// Usage is the command line in short.
const Usage = "mount.tnv [TRACKER,...][:/SUBDIR] MOUNTPOINT [-o OPTION,...] [--dir DIR] [--admin ADDR] [--foreground]"

// ParseArgs reads the command line of mount.tnv, without the command's name:
//
//	[TRACKER,…][:/SUBDIR] MOUNTPOINT [-o OPTIONS]
//
// as a person, mount(8) or systemd writes it. "tnv", "none" or "media" as the first
// argument (fstab(5) needs one) stands for no tracker. Options are volume=,
// ro, rw, allow_other, noatime, cache_dir=, cache_size=, memory=, keyfile=, dir=, admin=,
// log=, timeout=, foreground, and all that mount(8) hands to any helper. Sizes are bytes,
// or have the suffix K, M, G or T (powers of 1024). A comma within a value is written \,.
// Errors are tnv.KindInvalid and say what to write instead.
func ParseArgs(args []string) (Args, error) {
	p := parser{}
	var words []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			words = append(words, args[i+1:]...)
			break
		}
		if arg == "" || arg == "-" || arg[0] != '-' {
			words = append(words, arg)
			continue
		}
		name, value, attached := strings.Cut(arg, "=")
		if !strings.HasPrefix(arg, "--") {
			name, value, attached = arg[:2], arg[2:], len(arg) > 2
		}
		takes, err := p.takesValue(name)
		if err != nil {
			return Args{}, err
		}
		if takes && !attached {
			if i++; i == len(args) {
				return Args{}, bad("%s needs a value: %s", name, Usage)
			}
			value = args[i]
		}
		if !takes && attached && strings.HasPrefix(arg, "--") {
			return Args{}, bad("%s takes no value", name)
		}
		if err := p.flag(name, value); err != nil {
			return Args{}, err
		}
		if !takes && attached { // -nv is -n -v
			args[i] = "-" + value
			i--
		}
	}
	return p.finish(words)
}

func bad(format string, args ...any) error {
	return tnv.E("read the command line", tnv.KindInvalid, "%s", fmt.Sprintf(format, args...))
}

// parser collects what was read; options are judged at the end, since -s may follow.
type parser struct {
	a       Args
	options []string
	sloppy  bool
}

// takesValue tells whether a flag has a value, and that it is one.
func (p *parser) takesValue(name string) (bool, error) {
	switch name {
	case "-o", "-t", "-N", "--options", "--types", "--namespace", "--dir", "--admin", "--log", "--keyfile", "--volume", "--tracker":
		return true, nil
	case "-s", "-f", "-n", "-v", "-r", "-w", "-i", "-h", "--fake", "--verbose", "--foreground", "--help", "--read-only":
		return false, nil
	}
	return false, bad("unknown flag %s: %s", name, Usage)
}

func (p *parser) flag(name, value string) error {
	switch name {
	case "-o", "--options":
		p.options = append(p.options, splitOptions(value)...)
	case "-t", "--types":
		if value != "tnv" && value != fsType {
			return bad("this mounts file systems of type tnv, not %q", value)
		}
	case "-N", "--namespace":
		return bad("mounting in another namespace (%s) is not supported: enter it with nsenter(1)", value)
	case "-s":
		p.sloppy = true
	case "-f", "--fake":
		p.a.Fake = true
	case "-v", "--verbose":
		p.a.Verbose = true
	case "-h", "--help":
		p.a.Help = true
	case "-r", "--read-only":
		p.options = append(p.options, "ro")
	case "-w":
		p.options = append(p.options, "rw")
	case "-n", "-i": // no mtab is written, no other helper called: always so
	case "--foreground":
		p.a.Foreground = true
	case "--tracker":
		p.a.Trackers = value
	default:
		_, err := p.ours(strings.TrimPrefix(name, "--"), value)
		return err
	}
	return nil
}

// splitOptions splits at commas that have no backslash before them.
func splitOptions(s string) []string {
	var all []string
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == ',' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case s[i] == ',':
			all = append(all, b.String())
			b.Reset()
		default:
			b.WriteByte(s[i])
		}
	}
	return append(all, b.String())
}

func (p *parser) finish(words []string) (Args, error) {
	for _, o := range p.options {
		if err := p.option(o); err != nil {
			return Args{}, err
		}
	}
	switch {
	case p.a.Help:
		return p.a, nil
	case len(words) == 1:
		p.a.Mountpoint = words[0]
	case len(words) == 2:
		p.a.Mountpoint = words[1]
		if err := p.spec(words[0]); err != nil {
			return Args{}, err
		}
	default:
		return Args{}, bad("want a mountpoint, and before it trackers or nothing: %s", Usage)
	}
	if p.a.Mountpoint == "" {
		return Args{}, bad("the mountpoint is empty: %s", Usage)
	}
	return p.a, nil
}

// spec reads [TRACKER,…][:/SUBDIR].
func (p *parser) spec(s string) error {
	trackers, sub, ok := s, "", false
	if i := strings.Index(s, ":/"); i >= 0 {
		trackers, sub, ok = s[:i], s[i+1:], true
	}
	if ok {
		p.a.Subdir = sub
	}
	switch trackers {
	case "", "tnv", "none", "media":
		return nil
	}
	if strings.HasPrefix(trackers, "/") {
		return bad("%q are no trackers: want HOST:PORT,… and :/SUBDIR behind them; a cluster's directory is named by dir=", s)
	}
	for _, t := range strings.Split(trackers, ",") {
		if i := strings.LastIndexByte(t, ':'); i <= 0 || i == len(t)-1 {
			return bad("tracker %q is not HOST:PORT", t)
		}
	}
	p.a.Trackers = trackers
	return nil
}

// option reads one of -o.
func (p *parser) option(o string) error {
	name, value, has := strings.Cut(o, "=")
	if known, err := p.ours(name, value); known {
		if !has {
			err = bad("the option %s needs a value: %s=…", name, name)
		}
		return err
	}
	switch {
	case o == "":
	case name == "redis":
		return bad("the option redis= is not there yet: leave it out")
	case o == "remount", o == "bind", o == "rbind":
		return bad("%s is not supported: unmount, then mount with the options that you want", o)
	case o == "ro", o == "rw":
		p.a.Options.ReadOnly = o == "ro"
	case o == "allow_other":
		p.a.Options.AllowOther = true
	case o == "noatime", o == "atime":
		p.a.Options.NoAtime = o == "noatime"
	case o == "foreground":
		p.a.Foreground = true
	case mountFlags[o].bit != 0:
		p.a.Options.Flags = append(p.a.Options.Flags, o)
	case helperOption(name):
	case p.sloppy:
	default:
		return bad("unknown option %q: known are volume=, ro, rw, allow_other, noatime, cache_dir=, cache_size=, memory=, "+
			"keyfile=, dir=, admin=, log=, timeout=, foreground, and those of mount(8)", o)
	}
	return nil
}

// ours reads the options that have a value.
func (p *parser) ours(name, value string) (known bool, err error) {
	switch name {
	case "volume":
		p.a.Volume = value
	case "keyfile":
		p.a.KeyFile = value
	case "dir":
		p.a.Dir = value
	case "admin":
		p.a.Admin = value
	case "log":
		p.a.LogFile = value
	case "cache_dir":
		p.a.CacheDir = value
	case "cache_size":
		p.a.CacheSize, err = parseSize(name, value)
	case "memory":
		p.a.Memory, err = parseSize(name, value)
	case "timeout":
		if p.a.Timeout, err = time.ParseDuration(value); err != nil || p.a.Timeout <= 0 {
			err = bad("timeout=%s: want a time such as 30s", value)
		}
	default:
		return false, nil
	}
	if err == nil && value == "" {
		err = bad("%s has no value", name)
	}
	return true, err
}

func parseSize(name, s string) (int64, error) {
	t := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(s), "B"), "I")
	shift := 0
	if t != "" {
		if i := strings.IndexByte("KMGT", t[len(t)-1]); i >= 0 {
			shift, t = 10*(i+1), t[:len(t)-1]
		}
	}
	n, err := strconv.ParseInt(t, 10, 64)
	if err != nil || n <= 0 || n > 1<<62>>shift {
		return 0, bad("%s=%s: want a number of bytes, or one with K, M, G or T behind it", name, s)
	}
	return n << shift, nil
}

// helperOption tells of options that are for mount(8), systemd or fstab(5)
// themselves, or say what is so anyway, and come along nevertheless.
func helperOption(name string) bool {
	switch name {
	case "defaults", "auto", "noauto", "_netdev", "netdev", "nofail", "fail", "user", "nouser", "users", "nousers", "owner", "noowner",
		"group", "nogroup", "uid", "gid", "comment", "loop", "silent", "loud", "iversion", "noiversion", "mand", "nomand",
		"uhelper", "helper", "default_permissions", "nonempty", "symfollow":
		return true
	}
	return strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-") || strings.HasPrefix(name, "_")
}
