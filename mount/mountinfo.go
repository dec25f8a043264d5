package mount

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/tnvfs/tnv"
)

// mountEntry is a line of /proc/self/mountinfo: proc_pid_mountinfo(5).
type mountEntry struct {
	id     int
	dev    string // MAJOR:MINOR
	point  string
	fstype string
	source string
}

// readMounts lists this process's mounts; of several at one point the last is on top.
func readMounts() ([]mountEntry, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, tnv.Wrap("list the mounts", err)
	}
	defer f.Close()
	return parseMounts(f)
}

func parseMounts(r io.Reader) ([]mountEntry, error) {
	var all []mountEntry
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		before, after, ok := strings.Cut(s.Text(), " - ")
		a, b := strings.Fields(before), strings.Fields(after)
		if !ok || len(a) < 6 || len(b) < 2 {
			continue
		}
		var e mountEntry
		if _, err := fmt.Sscan(a[0], &e.id); err != nil {
			continue
		}
		e.dev, e.point, e.fstype, e.source = a[2], unescape(a[4]), unescape(b[0]), unescape(b[1])
		all = append(all, e)
	}
	return all, tnv.Wrap("list the mounts", s.Err())
}

// unescape undoes the kernel's \ooo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			var c byte
			if _, err := fmt.Sscanf(s[i+1:i+4], "%03o", &c); err == nil {
				b.WriteByte(c)
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountedAt is the mount on top of a point.
func mountedAt(point string) (e mountEntry, ok bool, err error) {
	all, err := readMounts()
	for _, m := range all {
		if m.point == point {
			e, ok = m, true
		}
	}
	return e, ok, err
}
