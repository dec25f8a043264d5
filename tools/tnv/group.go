package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/cluster"
	"github.com/tnvfs/tnv/protocol"
)

const (
	movesPoll = 200 * time.Millisecond
	moveAsk   = 30 * time.Second
)

// The JSON of `tnv group list`. Names that stand here stay.
type moveJSON struct {
	Kind       string `json:"kind"`
	Group      string `json:"group,omitempty"`
	Stage      string `json:"stage"`
	Moved      uint64 `json:"moved_blocks"`
	MovedBytes uint64 `json:"moved_bytes"`
	Left       uint64 `json:"left_blocks"`
	Failed     string `json:"failed,omitempty"`
}

func (a *app) groupCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "group", Short: "Add, empty and list groups of storage daemons"}
	cmd.AddCommand(a.groupListCommand(), a.groupAddCommand(), a.groupDrainCommand())
	return cmd
}

func askMoves(ctx context.Context, at target) (protocol.Moves, error) {
	var rep protocol.Moves
	err := cluster.Ask(ctx, at.Trackers, at.Key, moveAsk, protocol.TypeMoves, &rep, &protocol.MovesRequest{})
	return rep, err
}

func (a *app) groupListCommand() *cobra.Command {
	var loc location
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List groups, and what is moved between them",
		Example: "  tnv group list --json | jq '.moves'",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := loc.find()
			if err != nil {
				return err
			}
			st, err := cluster.AskStatus(cmd.Context(), at.Trackers, at.Key)
			if err != nil {
				return err
			}
			rep, err := askMoves(cmd.Context(), at)
			if err != nil {
				return err
			}
			if asJSON {
				moves := []moveJSON{}
				for _, j := range rep.Jobs {
					moves = append(moves, moveJSON{j.Kind, j.Group, j.Stage, j.Moved, j.MovedBytes, j.Left, j.Failed})
				}
				return a.printJSON(struct {
					Groups []groupJSON `json:"groups"`
					Moves  []moveJSON  `json:"moves"`
				}{toStatusJSON(&st).Groups, moves})
			}
			t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "GROUP\tSTATE\tMEMBERS\tUSED")
			for _, g := range st.Groups {
				used := uint64(0)
				for _, n := range g.Nodes {
					used = max(used, n.Node.Used)
				}
				fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", g.Name, g.State, len(g.Nodes), formatSize(used))
			}
			if err := t.Flush(); err != nil {
				return err
			}
			for _, j := range rep.Jobs {
				fmt.Fprintln(a.stdout, describeMove(&j))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	loc.register(cmd)
	return cmd
}

func describeMove(j *protocol.MoveJob) string {
	s := fmt.Sprintf("%s %s: %s, %d blocks (%s) moved", j.Kind, j.Group, j.Stage, j.Moved, formatSize(j.MovedBytes))
	if j.Kind == "drain" && j.Stage != "done" {
		s += fmt.Sprintf(", %d left", j.Left)
	}
	if j.Failed != "" {
		s += "; " + j.Failed
	}
	return s
}

func (a *app) groupAddCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "add --dir DIR",
		Short: "Start one more group in a cluster on this machine",
		Long: `Start one more group of storage daemons in a cluster that tnv up made on this machine, while it
runs. In a cluster over several machines a group is added by the first storage daemon that names
it: stored --group NAME. So is a member to a group.`,
		Example: "  tnv group add --dir ~/tnv",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return usage("--dir is missing: name the cluster's directory; elsewhere start `stored --group NAME`")
			}
			log, err := newLog(a, "warn", "text")
			if err != nil {
				return err
			}
			name, err := cluster.AddGroup(cmd.Context(), dir, log)
			if err == nil {
				fmt.Fprintln(a.stdout, name)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "`DIR` of a cluster that tnv up made on this machine")
	return cmd
}

func (a *app) groupDrainCommand() *cobra.Command {
	var loc location
	var rq protocol.GroupDrain
	var rate size
	var wait bool
	cmd := &cobra.Command{
		Use:   "drain GROUP",
		Short: "Empty a group into the others, and take it out of the cluster",
		Long: `Empty a group into the others while everything goes on, and take it out of the cluster: its data
is copied, named in its new place, and deleted last. It goes on over restarts until it is done or
cancelled; tnv group list shows how far it is. With --dir and --wait the group's daemons on this
machine are stopped in the end.`,
		Example: `  tnv group drain g1 --rate 100M
  tnv group drain g2 --dir ~/tnv --wait`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			at, err := loc.find()
			if err != nil {
				return err
			}
			rq.Group, rq.Rate = names[0], uint64(rate)
			err = cluster.Ask(cmd.Context(), at.Trackers, at.Key, moveAsk, protocol.TypeGroupDrain, nil, &rq)
			if k := tnv.KindOf(err); wait && (k == tnv.KindBusy || k == tnv.KindNotExist) {
				err = nil // it is under way, or done
			}
			if err != nil || !wait || rq.Cancel {
				return err
			}
			if err := a.awaitDrain(cmd.Context(), at, rq.Group); err != nil || loc.dir == "" {
				return err
			}
			log, err := newLog(a, "warn", "text")
			if err != nil {
				return err
			}
			return cluster.DropGroup(cmd.Context(), loc.dir, rq.Group, log)
		},
	}
	cmd.Flags().Var(&rate, "rate", "move at most so many bytes a second (default 64M)")
	cmd.Flags().BoolVar(&rq.Cancel, "cancel", false, "stop emptying it: what was moved stays where it is")
	cmd.Flags().BoolVar(&wait, "wait", false, "return when the group has left")
	loc.register(cmd)
	return cmd
}

// awaitDrain waits until a group is gone. A tracker that is away for a while is waited for.
func (a *app) awaitDrain(ctx context.Context, at target, group string) error {
	last := ""
	for {
		st, err := cluster.AskStatus(ctx, at.Trackers, at.Key)
		if err == nil {
			there := false
			for _, g := range st.Groups {
				there = there || g.Name == group
			}
			if !there {
				return nil
			}
			if rep, err := askMoves(ctx, at); err == nil {
				for _, j := range rep.Jobs {
					if j.Group != group {
						continue
					}
					if j.Stage == "cancelled" {
						return tnv.E("drain "+group, tnv.KindCanceled, "it was cancelled")
					}
					if s := describeMove(&j); s != last {
						fmt.Fprintln(a.stderr, s)
						last = s
					}
				}
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(movesPoll):
		}
	}
}
