package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/tnvfs/tnv"
)

// stateVersion is the version of cluster.json. A newer one is refused.
const stateVersion = 1

// state is cluster.json: what was made, and where it listened last.
type state struct {
	Version   int           `json:"version"`
	Groups    int           `json:"groups"`
	Replicas  int           `json:"replicas"`
	Trackers  int           `json:"trackers,omitempty"` // 0: 1
	Meta      string        `json:"meta,omitempty"`     // database of the metadata; empty: the tracker's directory
	Mount     string        `json:"mount"`              // mountpoint; empty: none
	HTTP      string        `json:"http"`               // address; empty: none
	AdminPort int           `json:"admin_port,omitempty"`
	Daemons   []daemonState `json:"daemons"`
	Dropped   []string      `json:"dropped,omitempty"` // groups that were emptied: their names are not used again
}

// daemonState is one tracker, storage daemon or HTTP daemon.
type daemonState struct {
	Name  string `json:"name"`
	Group string `json:"group,omitempty"`
	Addr  string `json:"addr,omitempty"` // where it listened last
}

func (s *state) daemon(name string) *daemonState {
	for i := range s.Daemons {
		if s.Daemons[i].Name == name {
			return &s.Daemons[i]
		}
	}
	s.Daemons = append(s.Daemons, daemonState{Name: name})
	return &s.Daemons[len(s.Daemons)-1]
}

// plan adds the storage daemons that groups and replicas ask for. Those that
// are there keep name and group; none is ever taken away.
func (s *state) plan(groups, replicas int) error {
	if groups < s.Groups || replicas < s.Replicas {
		return tnv.E("up", tnv.KindInvalid, "the cluster has %d groups of %d storage daemons, and up takes none away: give at least as many with --groups and --replicas, or leave the flags out", s.Groups, s.Replicas)
	}
	s.Groups, s.Replicas = groups, replicas
	have, last := map[string]int{}, 0
	for _, d := range s.Daemons {
		if role, n, _ := roleOf(d.Name); role == RoleStore {
			have[d.Group]++
			last = max(last, n)
		}
	}
	for _, name := range s.groupNames() {
		for ; have[name] < replicas; have[name]++ {
			last++
			s.daemon(RoleStore.name(last)).Group = name
		}
	}
	return nil
}

// planTrackers adds the trackers that are asked for. Where the metadata is never changes.
func (s *state) planTrackers(n int, meta string, fresh bool) error {
	switch {
	case n < max(s.Trackers, 1):
		return tnv.E("up", tnv.KindInvalid, "the cluster has %d trackers, and up takes none away: give at least as many with --trackers, or leave the flag out", max(s.Trackers, 1))
	case n > maxTrackers:
		return tnv.E("up", tnv.KindInvalid, "%d trackers: one machine takes up to %d", n, maxTrackers)
	case !fresh && meta != s.Meta:
		return tnv.E("up", tnv.KindInvalid, "the cluster's metadata is in %s: it stays there", or(given(s.Meta), "the tracker's own directory"))
	case n > 1 && meta == "":
		return tnv.E("up", tnv.KindInvalid, "%d trackers need a database that they share: name it with --meta postgres://…", n)
	}
	s.Trackers, s.Meta = n, meta
	for i := range n {
		s.daemon(RoleTracker.name(i + 1))
	}
	return nil
}

// given is nil for an empty string.
func given(v string) *string {
	if v == "" {
		return nil
	}
	return &v
}

// groupNames are the groups that are to run.
func (s *state) groupNames() (names []string) {
	for g := 1; len(names) < s.Groups; g++ {
		if name := fmt.Sprintf("g%d", g); !slices.Contains(s.Dropped, name) {
			names = append(names, name)
		}
	}
	return names
}

// load reads cluster.json. fresh: there is none yet.
func (l Layout) load() (s *state, fresh bool, err error) {
	b, err := os.ReadFile(l.stateFile())
	if os.IsNotExist(err) {
		return &state{Version: stateVersion}, true, nil
	}
	if err != nil {
		return nil, false, tnv.Wrap("read the cluster's state", err)
	}
	s = &state{}
	if err := json.Unmarshal(b, s); err != nil || s.Version < 1 {
		return nil, false, tnv.E("read "+l.stateFile(), tnv.KindCorrupt, "it is damaged (%v): restore it from a backup; the data beside it is not touched", err)
	}
	if s.Version > stateVersion {
		return nil, false, tnv.E("read "+l.stateFile(), tnv.KindVersion, "a newer tnv wrote it (version %d, this one knows %d): use that one", s.Version, stateVersion)
	}
	return s, false, nil
}

func (l Layout) store(s *state) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return tnv.Wrap("write the cluster's state", err)
	}
	mode := os.FileMode(0o644)
	if s.Meta != "" {
		mode = 0o600 // a database's address may have a password in it
	}
	return writeFile(l.stateFile(), append(b, '\n'), mode)
}

// lockWait is how long an up or down waits for another one in the same directory.
const lockWait = 5 * time.Second

// lock keeps other ups and downs out of the directory until unlock.
func (l Layout) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(l.lockFile(), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fullHint("lock the cluster", err)
	}
	deadline := time.Now().Add(lockWait)
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			f.Close()
			return nil, tnv.E("lock "+l.Dir, tnv.KindBusy, "another `tnv up` or `tnv down` is at work there: wait until it has ended")
		}
		time.Sleep(50 * time.Millisecond)
	}
}
