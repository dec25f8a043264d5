// Package discover finds the cluster that a command means when it was not told.
//
// Trackers are looked for in this order, and the first place that names any is
// taken:
//
//  1. the command's own argument, or the cluster's directory (--dir DIR), which
//     holds run/trackers and key as `tnv up --dir DIR` wrote them;
//  2. the environment: TNV_TRACKERS, host:port, separated by commas;
//  3. /etc/tnv/tnv.conf, lines "key = value" with the keys trackers, keyfile and
//     volume, # beginning a comment;
//  4. the newest cluster that `tnv up` started for this user: the last line of
//     $XDG_STATE_HOME/tnv/clusters (~/.local/state/tnv/clusters), one directory
//     per line, that holds run/trackers and key.
//
// The key is looked for in the same order (--keyfile, the directory, TNV_KEYFILE,
// keyfile in tnv.conf), except that trackers from a cluster's directory come with that
// cluster's key, unless an argument named another, and that trackers without any key
// are looked for among this user's clusters. The volume comes from tnv.conf, if at all.
package discover

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// ConfigFile is the machine's configuration.
const ConfigFile = "/etc/tnv/tnv.conf"

// found is a cluster to talk to.
type found struct {
	Trackers []string // host:port, at least one
	Key      protocol.Key
	Volume   string // "" if nothing named one
	Source   string // where trackers and key come from, for people
}

// Find looks for a cluster. Each argument may be empty: trackers as host:port,
// separated by commas, a key file, and the directory of a cluster that `tnv up`
// made. tnv.KindNotExist: there is none; the error says where was looked.
func Find(explicitTrackers, keyfile, dir string) (trackers []string, key protocol.Key, volume, source string, err error) {
	p := place{getenv: os.Getenv, config: ConfigFile, clusters: clustersFile}
	f, err := p.find(explicitTrackers, keyfile, dir)
	return f.Trackers, f.Key, f.Volume, f.Source, err
}

// place is where to look.
type place struct {
	getenv   func(string) string
	config   string
	clusters func() (string, error)
}

const op = "find a cluster"

func (p place) find(trackers, keyfile, dir string) (found, error) {
	conf, err := readConfig(p.config)
	if err != nil {
		return found{}, err
	}
	f := found{Volume: conf.volume}
	from, err := p.trackers(&f, trackers, dir, conf)
	if err != nil {
		return found{}, err
	}
	file, why, err := p.keyFile(f.Trackers, keyfile, from, conf)
	if err != nil {
		return found{}, err
	}
	if f.Key, err = protocol.ReadKeyFile(file); err != nil {
		return found{}, tnv.Wrap(op, err)
	}
	f.Source += ", key from " + why
	return f, nil
}

// trackers fills in Trackers and Source, and tells of which cluster's directory they are, if of any.
func (p place) trackers(f *found, list, dir string, conf config) (from string, err error) {
	switch {
	case list != "":
		f.Source, from = "trackers from the command line", dir
		f.Trackers, err = SplitTrackers(list)
	case dir != "":
		f.Source, from = "trackers of the cluster in "+dir, dir
		f.Trackers, err = trackersOf(dir)
	case p.getenv("TNV_TRACKERS") != "":
		f.Source = "trackers from TNV_TRACKERS"
		f.Trackers, err = SplitTrackers(p.getenv("TNV_TRACKERS"))
	case conf.trackers != "":
		f.Source = "trackers from " + p.config
		f.Trackers, err = SplitTrackers(conf.trackers)
	default:
		return p.newest(f)
	}
	return from, tnv.Wrap(f.Source, err)
}

// newest takes the newest of this user's clusters.
func (p place) newest(f *found) (string, error) {
	known, file, err := p.known()
	if err != nil {
		return "", err
	}
	for _, dir := range slices.Backward(known) {
		t, err := trackersOf(dir)
		if err != nil {
			continue // taken away, or not up
		}
		f.Trackers, f.Source = t, "trackers of this user's cluster in "+dir
		return dir, nil
	}
	return "", tnv.E(op, tnv.KindNotExist, "no tracker is named: neither by an argument, nor in TNV_TRACKERS, nor in %s, and %s "+
		"names no cluster that is up; start one with `tnv up`, or name a tracker (HOST:PORT) and the cluster's key file", p.config, file)
}

// keyFile finds the key that goes with the trackers.
func (p place) keyFile(trackers []string, file, dir string, conf config) (path, why string, err error) {
	env := p.getenv("TNV_KEYFILE")
	switch {
	case file != "":
		return file, file, nil
	case dir != "":
		return filepath.Join(dir, "key"), dir, nil
	case env != "":
		return env, "TNV_KEYFILE", nil
	case conf.keyfile != "":
		return conf.keyfile, p.config, nil
	}
	known, _, err := p.known()
	if err != nil {
		return "", "", err
	}
	for _, dir := range slices.Backward(known) {
		t, err := trackersOf(dir)
		if err == nil && slices.ContainsFunc(t, func(a string) bool { return slices.Contains(trackers, a) }) {
			return filepath.Join(dir, "key"), dir, nil
		}
	}
	return "", "", tnv.E(op, tnv.KindNotExist, "no key is named for the cluster of %s: give its key file (keyfile=FILE, TNV_KEYFILE, or keyfile in %s); "+
		"`tnv up --dir DIR` keeps it in DIR/key", strings.Join(trackers, ","), p.config)
}

// SplitTrackers reads a list of trackers: host:port, separated by commas or
// white space. tnv.KindInvalid: it names none, or one is no address.
func SplitTrackers(list string) ([]string, error) {
	t := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' })
	if len(t) == 0 {
		return nil, tnv.E("read trackers", tnv.KindInvalid, "none is named in %q", list)
	}
	for _, a := range t {
		host, port, err := net.SplitHostPort(a)
		if err != nil || host == "" || port == "" {
			return nil, tnv.E("read trackers", tnv.KindInvalid, "%q is not HOST:PORT", a)
		}
	}
	return t, nil
}

func trackersOf(dir string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "run", "trackers"))
	if err != nil {
		return nil, &tnv.Error{Op: op, Kind: tnv.KindOf(err), Msg: "is it up? `tnv up --dir " + dir + "` starts it", Err: err}
	}
	return SplitTrackers(string(b))
}

// config is what tnv.conf says.
type config struct{ trackers, keyfile, volume string }

// readConfig reads tnv.conf. A file that is not there says nothing.
func readConfig(path string) (c config, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, tnv.Wrap("read "+path, err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		line, _, _ := strings.Cut(s.Text(), "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		value = strings.Trim(strings.TrimSpace(value), `"`)
		switch key = strings.TrimSpace(key); {
		case !ok:
			return c, tnv.E("read "+path, tnv.KindInvalid, "line %d: want key = value", n)
		case key == "trackers":
			c.trackers = value
		case key == "keyfile":
			c.keyfile = value
		case key == "volume":
			c.volume = value
		default:
			return c, tnv.E("read "+path, tnv.KindInvalid, "line %d: unknown key %q; known are trackers, keyfile and volume", n, key)
		}
	}
	return c, tnv.Wrap("read "+path, s.Err())
}

// known are this user's clusters, newest last, and the file that lists them.
func (p place) known() ([]string, string, error) {
	file, err := p.clusters()
	if err != nil {
		return nil, "", err
	}
	dirs, err := readLines(file)
	return dirs, file, err
}

func readLines(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, tnv.Wrap("read the list of clusters", err)
	}
	var lines []string
	for l := range strings.Lines(string(b)) {
		if l = strings.TrimSuffix(l, "\n"); l != "" {
			lines = append(lines, l)
		}
	}
	return lines, nil
}

// clustersFile is where this user's clusters are listed.
func clustersFile() (string, error) {
	if s := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(s) {
		return filepath.Join(s, "tnv", "clusters"), nil
	}
	home := os.Getenv("HOME")
	if home == "" {
		u, err := user.Current()
		if err != nil || u.HomeDir == "" {
			return "", tnv.E(op, tnv.KindNotExist, "this user has no home directory: set HOME or XDG_STATE_HOME")
		}
		home = u.HomeDir
	}
	return filepath.Join(home, ".local", "state", "tnv", "clusters"), nil
}

// String tells where a cluster was found.
func (f found) String() string {
	return fmt.Sprintf("%s (%s)", strings.Join(f.Trackers, ","), f.Source)
}
