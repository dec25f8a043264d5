package cluster

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tnvfs/tnv"
)

// mountEntry is one line of /proc/self/mountinfo.
type mountEntry struct{ Point, FSType, Source string }

// readMounts reads the mounts of this process's namespace. It touches no mount.
func readMounts() ([]mountEntry, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, tnv.Wrap("read mounts", err)
	}
	defer f.Close()
	return parseMounts(f)
}

// parseMounts reads lines as proc_pid_mountinfo(5) gives them.
func parseMounts(r io.Reader) ([]mountEntry, error) {
	var out []mountEntry
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		before, after, ok := strings.Cut(sc.Text(), " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if !ok || len(b) < 5 || len(a) < 2 {
			continue
		}
		out = append(out, mountEntry{unescape(b[4]), unescape(a[0]), unescape(a[1])})
	}
	return out, sc.Err()
}

// unescape undoes the octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountAt finds the topmost mount at a point.
func mountAt(point string) (mountEntry, bool) {
	ms, _ := readMounts()
	for i := len(ms) - 1; i >= 0; i-- {
		if ms[i].Point == point {
			return ms[i], true
		}
	}
	return mountEntry{}, false
}

// realMountpoint resolves symbolic links of the directory above the mountpoint,
// and never touches the mountpoint itself, which may be a dead mount.
func realMountpoint(p string) (string, error) {
	abs, err := filepath.Abs(p)
	if err != nil {
		return "", tnv.Wrap("mountpoint "+p, err)
	}
	if parent, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		abs = filepath.Join(parent, filepath.Base(abs))
	}
	if _, ok := mountAt(abs); ok {
		return abs, nil
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil { // the last element may be a link as well
		return real, nil
	}
	return abs, nil
}

// prepareMountpoint makes the directory, and refuses one that is in use. ours
// tells that the last mount there was this cluster's and its process is gone:
// then what is left of it is detached.
func prepareMountpoint(p string, ours bool) error {
	op := "mount on " + p
	if m, ok := mountAt(p); ok {
		if !ours || !strings.HasPrefix(m.FSType, "fuse") {
			return tnv.E(op, tnv.KindBusy, "%s (%s) is mounted there: unmount it, or choose another mountpoint with --mount (make up MOUNT=…)", m.Source, m.FSType)
		}
		if err := detach(p); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(p, 0o755); err != nil {
		return &tnv.Error{Op: op, Kind: tnv.KindOf(err), Msg: "make the directory yourself, or choose another with --mount (make up MOUNT=…)", Err: err}
	}
	entries, err := os.ReadDir(p)
	if err != nil {
		return &tnv.Error{Op: op, Kind: tnv.KindOf(err), Msg: "choose a directory with --mount (make up MOUNT=…)", Err: err}
	}
	if len(entries) > 0 {
		return tnv.E(op, tnv.KindNotEmpty, "it holds files (%q), which a mount would hide: move them away, or choose an empty directory with --mount (make up MOUNT=…)", entries[0].Name())
	}
	return nil
}

// detachIfMounted takes away what a mount process that is gone left behind.
func detachIfMounted(p string) error {
	if m, ok := mountAt(p); ok && strings.HasPrefix(m.FSType, "fuse") {
		return detach(p)
	}
	return nil
}

// detach takes a mount away, at once and whatever still uses it.
func detach(p string) error {
	err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || err == unix.EINVAL { // EINVAL: nothing is mounted there any more
		return nil
	}
	if err == unix.EPERM {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if out, err2 := exec.CommandContext(ctx, "fusermount3", "-u", "-z", "--", p).CombinedOutput(); err2 != nil {
			return tnv.E("unmount "+p, tnv.KindOf(err2), "fusermount3: %v: %s", err2, strings.TrimSpace(string(out)))
		}
		return nil
	}
	return tnv.Wrap("unmount "+p, err)
}
