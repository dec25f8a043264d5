package discover

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/tnvfs/tnv"
)

// maxKnown is how many clusters are remembered; the oldest make room.
const maxKnown = 64

// Remember notes that this user's newest cluster is in dir.
func Remember(dir string) error { return change(clustersFile, dir, true) }

// Forget notes that the cluster in dir is not up any more. One that is not known is no error.
func Forget(dir string) error { return change(clustersFile, dir, false) }

// change rewrites the list: readers see the old or the new one, and writers take turns.
func change(where func() (string, error), dir string, add bool) error {
	const op = "note this user's clusters"
	dir, err := filepath.Abs(dir)
	if err != nil {
		return tnv.Wrap(op, err)
	}
	if strings.ContainsAny(dir, "\n\r") {
		return tnv.E(op, tnv.KindInvalid, "%q has a line break", dir)
	}
	file, err := where()
	if err != nil {
		return err
	}
	if !add {
		if _, err := os.Stat(file); os.IsNotExist(err) {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return tnv.Wrap(op, err)
	}
	lock, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return tnv.Wrap(op, err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return tnv.Wrap(op, err)
	}
	dirs, err := readLines(file)
	if err != nil {
		return err
	}
	dirs = slices.DeleteFunc(dirs, func(d string) bool { return d == dir })
	if add {
		dirs = append(dirs, dir)
	}
	dirs = dirs[max(0, len(dirs)-maxKnown):]
	text := ""
	if len(dirs) > 0 {
		text = strings.Join(dirs, "\n") + "\n"
	}
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		return tnv.Wrap(op, err)
	}
	return tnv.Wrap(op, os.Rename(file+".new", file))
}
