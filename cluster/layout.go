package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Role is what a process of a cluster is: the name under which the binary is called.
type Role string

const (
	RoleTracker Role = "trackerd"
	RoleStore   Role = "stored"
	RoleHTTP    Role = "httpd"
	RoleMount   Role = "mount.tnv"
	// RoleFront is `tnv up` without -d: it watches over the others.
	RoleFront Role = "tnv"
)

// prefix is what the names of a role's processes begin with.
func (r Role) prefix() string {
	switch r {
	case RoleMount:
		return "mount"
	case RoleFront:
		return "up"
	}
	return string(r)
}

// name of the role's n-th process, from 1.
func (r Role) name(n int) string { return fmt.Sprintf("%s-%d", r.prefix(), n) }

// roleOf finds the role and number in a process's name.
func roleOf(name string) (Role, int, bool) {
	p, num, ok := strings.Cut(name, "-")
	n, err := strconv.Atoi(num)
	if !ok || err != nil || n < 1 {
		return "", 0, false
	}
	for _, r := range []Role{RoleTracker, RoleStore, RoleHTTP, RoleMount, RoleFront} {
		if r.prefix() == p {
			return r, n, true
		}
	}
	return "", 0, false
}

// Layout tells where a cluster's files are.
type Layout struct{ Dir string }

// KeyFile holds the cluster's key.
func (l Layout) KeyFile() string { return filepath.Join(l.Dir, "key") }

// TrackersFile holds the addresses of the trackers, one a line.
func (l Layout) TrackersFile() string { return filepath.Join(l.Dir, "run", "trackers") }

// LogFile is where a process writes its log.
func (l Layout) LogFile(name string) string { return filepath.Join(l.Dir, "log", name+".log") }

// PidFile holds a process's id.
func (l Layout) PidFile(name string) string { return filepath.Join(l.Dir, "run", name+".pid") }

func (l Layout) recordFile(name string) string { return filepath.Join(l.Dir, "run", name+".json") }
func (l Layout) stateFile() string             { return filepath.Join(l.Dir, "cluster.json") }
func (l Layout) lockFile() string              { return filepath.Join(l.Dir, "run", "lock") }
func (l Layout) data(name string) string       { return filepath.Join(l.Dir, name) }

// Trackers reads the addresses of the trackers. KindNotExist: no cluster was ever up there.
func (l Layout) Trackers() ([]string, error) {
	b, err := os.ReadFile(l.TrackersFile())
	if err != nil {
		return nil, tnv.Wrap("find the trackers of the cluster in "+l.Dir, err)
	}
	t := strings.Fields(string(b))
	if len(t) == 0 {
		return nil, tnv.E("find trackers", tnv.KindNotExist, "%s is empty: run `tnv up --dir %s`", l.TrackersFile(), l.Dir)
	}
	return t, nil
}

// Key reads the cluster's key.
func (l Layout) Key() (protocol.Key, error) { return protocol.ReadKeyFile(l.KeyFile()) }

// known tells whether a file of this name may stand in a cluster's directory.
func known(name string) bool {
	switch name {
	case "cluster.json", "key", "run", "log", "lost+found":
		return true
	}
	if strings.HasPrefix(name, ".tmp-") {
		return true
	}
	_, _, ok := roleOf(name)
	return ok
}

// prepare makes the directory, or checks that it is one of ours.
func (l Layout) prepare() error {
	op := "prepare " + l.Dir
	entries, err := os.ReadDir(l.Dir)
	if err != nil && !os.IsNotExist(err) {
		return &tnv.Error{Op: op, Kind: tnv.KindOf(err), Msg: "choose a directory that you may write to with --dir", Err: err}
	}
	if _, err := os.Stat(l.stateFile()); err != nil {
		for _, e := range entries {
			if !known(e.Name()) {
				return tnv.E(op, tnv.KindInvalid, "it holds %q and is no TNV cluster's directory: choose a new or empty one with --dir", e.Name())
			}
		}
	}
	for _, d := range []string{l.Dir, filepath.Join(l.Dir, "run"), filepath.Join(l.Dir, "log")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return &tnv.Error{Op: op, Kind: tnv.KindOf(err), Msg: "choose a directory on a disk with room that you may write to with --dir", Err: err}
		}
	}
	return nil
}

// makeKey reads the key, or draws it in a directory where nothing was made yet.
func (l Layout) makeKey(fresh bool) (protocol.Key, error) {
	k, err := l.Key()
	if err == nil || tnv.KindOf(err) != tnv.KindNotExist {
		return k, err
	}
	if !fresh {
		return k, tnv.E("read "+l.KeyFile(), tnv.KindNotExist, "the cluster's key is gone, and without it its daemons trust nobody: restore the file from a backup")
	}
	k = protocol.NewKey()
	return k, writeFile(l.KeyFile(), []byte(k.String()), 0o600)
}

// writeFile replaces a file as a whole: after a crash the old or the new one is there.
func writeFile(path string, data []byte, mode os.FileMode) error {
	op := "write " + path
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return fullHint(op, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err = f.Write(data); err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return fullHint(op, err)
}

// fullHint says what to do about a full disk.
func fullHint(op string, err error) error {
	if tnv.KindOf(err) == tnv.KindNoSpace {
		return &tnv.Error{Op: op, Kind: tnv.KindNoSpace, Msg: "free some space or choose a directory on another disk with --dir", Err: err}
	}
	return tnv.Wrap(op, err)
}

// Exists tells whether a cluster was made in a directory.
func Exists(dir string) bool {
	_, err := os.Stat(Layout{dir}.stateFile())
	return err == nil
}
