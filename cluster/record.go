package cluster

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/tnvfs/tnv"
)

// Record is what is known of one process of a cluster.
type Record struct {
	Name       string `json:"name"`
	Role       Role   `json:"role"`
	Pid        int    `json:"pid"`
	Start      uint64 `json:"start"`           // clock ticks since the machine started
	Boot       string `json:"boot"`            // the machine's boot id
	Addr       string `json:"addr,omitempty"`  // where it listens
	Admin      string `json:"admin,omitempty"` // its side door
	Mountpoint string `json:"mountpoint,omitempty"`
}

// procStat reads state and start time of a process.
func procStat(pid int) (state byte, start uint64, err error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, 0, err
	}
	i := bytes.LastIndexByte(b, ')') // the command's name may hold anything
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 20 {
		return 0, 0, tnv.E("read /proc/PID/stat", tnv.KindInvalid, "of pid %d: %.80q", pid, b)
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	return f[0][0], start, err
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// argv0 is the name under which a process was called, without its directory.
func argv0(pid int) string {
	b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	first, _, _ := bytes.Cut(b, []byte{0})
	return filepath.Base(string(first))
}

// Alive tells whether the very process of the record runs.
func (r Record) Alive() bool {
	if r.Pid <= 0 {
		return false
	}
	state, start, err := procStat(r.Pid)
	return err == nil && state != 'Z' && state != 'X' && start == r.Start && r.Boot == bootID()
}

// newRecord describes a process that was just started.
func newRecord(name string, role Role, pid int) (Record, error) {
	_, start, err := procStat(pid)
	return Record{Name: name, Role: role, Pid: pid, Start: start, Boot: bootID()}, err
}

// save writes NAME.json, then NAME.pid.
func (l Layout) save(r Record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return tnv.Wrap("record "+r.Name, err)
	}
	if err := writeFile(l.recordFile(r.Name), append(b, '\n'), 0o644); err != nil {
		return err
	}
	return writeFile(l.PidFile(r.Name), []byte(strconv.Itoa(r.Pid)+"\n"), 0o644)
}

// forget removes what save wrote.
func (l Layout) forget(name string) {
	os.Remove(l.PidFile(name))
	os.Remove(l.recordFile(name))
}

// Record reads what is known of a process. The zero Record: nothing. Where the
// pid file names another process than the record (an operator restarted the
// daemon by hand), that one counts if it was called by the role's name.
func (l Layout) Record(name string) Record {
	var r Record
	if b, err := os.ReadFile(l.recordFile(name)); err != nil || json.Unmarshal(b, &r) != nil {
		r = Record{}
	}
	b, err := os.ReadFile(l.PidFile(name))
	if err != nil {
		return r
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 || pid == r.Pid {
		return r
	}
	role, _, ok := roleOf(name)
	if !ok || argv0(pid) != string(role) {
		return r
	}
	byHand, err := newRecord(name, role, pid)
	if err != nil {
		return r
	}
	byHand.Addr, byHand.Admin, byHand.Mountpoint = r.Addr, r.Admin, r.Mountpoint
	return byHand
}

// Records lists what is known of all processes of a cluster, running or not, by name.
func (l Layout) Records() []Record {
	seen := map[string]bool{}
	for _, pattern := range []string{"*.json", "*.pid"} {
		files, _ := filepath.Glob(filepath.Join(l.Dir, "run", pattern))
		for _, f := range files {
			name := strings.TrimSuffix(filepath.Base(f), filepath.Ext(f))
			if _, _, ok := roleOf(name); ok {
				seen[name] = true
			}
		}
	}
	var out []Record
	for name := range seen {
		if r := l.Record(name); r.Name != "" {
			out = append(out, r)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}
