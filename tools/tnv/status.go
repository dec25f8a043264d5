package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/cluster"
	"github.com/tnvfs/tnv/protocol"
)

// The JSON of `tnv status`. Names that stand here stay.
type (
	statusJSON struct {
		Trackers  []trackerJSON `json:"trackers"`
		Volumes   []volumeJSON  `json:"volumes"`
		Groups    []groupJSON   `json:"groups"`
		Processes []processJSON `json:"processes,omitempty"` // of a local cluster, with --dir
	}
	trackerJSON struct {
		Addr   string `json:"addr"`
		Alive  bool   `json:"alive"`
		Engine string `json:"engine,omitempty"`
	}
	volumeJSON struct {
		Name             string `json:"name"`
		Owner            string `json:"owner"`
		Files            uint64 `json:"files"`
		Bytes            uint64 `json:"bytes"`
		ID               uint32 `json:"id"`
		Epoch            uint64 `json:"epoch"`
		Sessions         uint32 `json:"sessions"`
		PendingDeletions uint64 `json:"pending_deletions"`
		Unlinked         uint64 `json:"unlinked"`
	}
	groupJSON struct {
		Name         string     `json:"name"`
		State        string     `json:"state"`
		BehindBlocks uint64     `json:"behind_blocks"`
		BehindBytes  uint64     `json:"behind_bytes"`
		ID           uint32     `json:"id"`
		Nodes        []nodeJSON `json:"nodes"`
	}
	nodeJSON struct {
		ID            string `json:"id"`
		Addr          string `json:"addr"`
		Alive         bool   `json:"alive"`
		State         string `json:"state"`
		UsedBytes     uint64 `json:"used_bytes"`
		CapacityBytes uint64 `json:"capacity_bytes"`
		Blocks        uint64 `json:"blocks"`
		BehindBlocks  uint64 `json:"behind_blocks"`
		BehindBytes   uint64 `json:"behind_bytes"`
		CopyRate      uint64 `json:"copy_bytes_per_second"`
		LeftSeconds   uint64 `json:"left_seconds"` // until it lacks nothing, at that rate; 0: not known
		CorruptBlocks uint64 `json:"corrupt_blocks"`
		MendedBlocks  uint64 `json:"mended_blocks"`
		Host          string `json:"host"`
		Boot          uint64 `json:"boot"`
		LastBeatMs    uint64 `json:"last_beat_ms"`
	}
	processJSON struct {
		Name       string `json:"name"`
		Pid        int    `json:"pid"`
		Alive      bool   `json:"alive"`
		Addr       string `json:"addr,omitempty"`
		Admin      string `json:"admin,omitempty"`
		Mountpoint string `json:"mountpoint,omitempty"`
	}
)

func (a *app) statusCommand() *cobra.Command {
	var loc location
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show trackers, volumes, groups and storage daemons",
		Long: `Show trackers, volumes, groups and storage daemons. A group is whole when every member is
alive and lacks nothing, degraded when a member is away or has something to copy, down when
no member is alive. The exit code is 0 if a tracker answered.`,
		Example: `  tnv status --dir ~/tnv
  tnv status --json | jq -r '.groups[] | .name + " " + .state'`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := loc.find()
			if err != nil {
				return err
			}
			st, askErr := cluster.AskStatus(cmd.Context(), at.Trackers, at.Key)
			out := toStatusJSON(&st)
			if loc.dir != "" {
				out.Processes = processes(cluster.Layout{Dir: loc.dir})
			}
			if asJSON {
				err = a.printJSON(out)
			} else {
				err = printStatus(a.stdout, out)
			}
			if askErr != nil {
				return tnv.Wrap("no tracker answers (is the cluster up? `tnv up`)", askErr)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	loc.register(cmd)
	return cmd
}

func toStatusJSON(st *protocol.Status) statusJSON {
	out := statusJSON{Trackers: []trackerJSON{}, Volumes: []volumeJSON{}, Groups: []groupJSON{}}
	for _, t := range st.Trackers {
		out.Trackers = append(out.Trackers, trackerJSON{t.Addr, t.Alive, t.Engine})
	}
	for _, v := range st.Volumes {
		out.Volumes = append(out.Volumes, volumeJSON{Name: v.Name, Owner: v.Owner, Files: v.Files, Bytes: v.Bytes, ID: uint32(v.ID),
			Epoch: uint64(v.Epoch), Sessions: v.Sessions, PendingDeletions: v.PendingDeletions, Unlinked: v.Unlinked})
	}
	for _, g := range st.Groups {
		gj := groupJSON{Name: g.Name, State: g.State, BehindBlocks: g.BehindBlocks, BehindBytes: g.BehindBytes, ID: uint32(g.ID), Nodes: []nodeJSON{}}
		for _, n := range g.Nodes {
			gj.Nodes = append(gj.Nodes, nodeJSON{ID: n.Node.ID.String(), Addr: n.Node.Addr, Alive: n.Node.State != tnv.NodeLost,
				State: n.Node.State.String(), UsedBytes: n.Node.Used, CapacityBytes: n.Node.Capacity, Blocks: n.Blocks,
				BehindBlocks: n.BehindBlocks, BehindBytes: n.BehindBytes, CopyRate: n.CopyRate, LeftSeconds: left(n), CorruptBlocks: n.CorruptBlocks, MendedBlocks: n.MendedBlocks,
				Host: n.Node.Host, Boot: uint64(n.Node.Boot), LastBeatMs: n.LastBeatMs})
		}
		out.Groups = append(out.Groups, gj)
	}
	return out
}

func processes(l cluster.Layout) []processJSON {
	var out []processJSON
	for _, r := range l.Records() {
		out = append(out, processJSON{r.Name, r.Pid, r.Alive(), r.Addr, r.Admin, r.Mountpoint})
	}
	return out
}

func printStatus(w io.Writer, st statusJSON) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	yes := map[bool]string{true: "alive", false: "DEAD"}
	fmt.Fprintln(t, "TRACKER\tSTATE\tENGINE")
	for _, x := range st.Trackers {
		fmt.Fprintf(t, "%s\t%s\t%s\n", x.Addr, yes[x.Alive], x.Engine)
	}
	fmt.Fprintln(t, "\nVOLUME\tOWNER\tFILES\tSIZE\tCLIENTS\tTO DELETE")
	for _, v := range st.Volumes {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%d\t%d\n", v.Name, v.Owner, v.Files, formatSize(v.Bytes), v.Sessions, v.PendingDeletions)
	}
	fmt.Fprintln(t, "\nGROUP\tSTATE\tBEHIND\tNODE\tADDRESS\tSTATE\tUSED\tCAPACITY\tBLOCKS\tLAST SEEN")
	for _, g := range st.Groups {
		fmt.Fprintf(t, "%s\t%s\t%d blocks, %s\t\t\t\t\t\t\t\n", g.Name, g.State, g.BehindBlocks, formatSize(g.BehindBytes))
		for _, n := range g.Nodes {
			fmt.Fprintf(t, "\t\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", behind(n), n.ID, n.Addr, n.State,
				formatSize(n.UsedBytes), formatSize(n.CapacityBytes), n.Blocks, time.Duration(n.LastBeatMs)*time.Millisecond)
		}
	}
	if len(st.Processes) > 0 {
		fmt.Fprintln(t, "\nPROCESS\tPID\tSTATE\tAT")
	}
	for _, p := range st.Processes {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", p.Name, p.Pid, yes[p.Alive], cmp.Or(p.Mountpoint, p.Addr))
	}
	return t.Flush()
}

func behind(n nodeJSON) string {
	if n.BehindBlocks == 0 {
		return ""
	}
	s := fmt.Sprintf("%d blocks, %s", n.BehindBlocks, formatSize(n.BehindBytes))
	if n.CopyRate > 0 {
		s += fmt.Sprintf(", %s/s, %v left", formatSize(n.CopyRate), time.Duration(n.LeftSeconds)*time.Second)
	}
	return s
}

// left is how many seconds a node needs for what it lacks, at the rate that it has.
func left(n protocol.NodeStatus) uint64 {
	if n.CopyRate == 0 {
		return 0
	}
	return (n.BehindBytes + n.CopyRate - 1) / n.CopyRate
}
