package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/cluster"
	"github.com/tnvfs/tnv/protocol"
)

func (a *app) nodeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node",
		Short: "List storage daemons, and take one out",
		Long: `List storage daemons, and take one out of the cluster.

To replace a member of a group start a new storage daemon in the group (stored --group NAME), wait until
the group is whole, and remove the old one. To move a daemon to another address start it there
with the same directory: it tells the trackers.`,
	}
	cmd.AddCommand(a.nodeListCommand(), a.nodeRemoveCommand())
	return cmd
}

func (a *app) nodeListCommand() *cobra.Command {
	var loc location
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List storage daemons",
		Example: "  tnv node list",
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
			t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "NODE\tGROUP\tADDRESS\tSTATE\tUSED\tCAPACITY\tBLOCKS")
			for _, g := range st.Groups {
				for _, n := range g.Nodes {
					fmt.Fprintf(t, "%v\t%s\t%s\t%v\t%s\t%s\t%d\n", n.Node.ID, g.Name, n.Node.Addr, n.Node.State,
						formatSize(n.Node.Used), formatSize(n.Node.Capacity), n.Blocks)
				}
			}
			return t.Flush()
		},
	}
	loc.register(cmd)
	return cmd
}

func (a *app) nodeRemoveCommand() *cobra.Command {
	var loc location
	cmd := &cobra.Command{
		Use:   "remove NODE",
		Short: "Take a storage daemon out of its group, for good",
		Long: `Take a storage daemon out of its group, dead or alive, for good. It is refused while the other
members that live do not hold every block of the group.`,
		Example: "  tnv node remove 0550a19ed533ffd2",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			id, err := tnv.ParseNodeID(names[0])
			if err != nil {
				return usage("%q is no storage daemon's id: see `tnv node list`", names[0])
			}
			at, err := loc.find()
			if err != nil {
				return err
			}
			return cluster.Ask(cmd.Context(), at.Trackers, at.Key, collectLimit, protocol.TypeNodeRemove, nil, &protocol.NodeRemove{Node: id})
		},
	}
	loc.register(cmd)
	return cmd
}

func (a *app) balanceCommand() *cobra.Command {
	var loc location
	var rq protocol.Balance
	var rate size
	cmd := &cobra.Command{
		Use:   "balance",
		Short: "Move blocks from full groups to empty ones",
		Long: `Move blocks from the fullest group to the emptiest, in the background, until the shares of their
space that are in use are alike. tnv group list shows how far it is.`,
		Example: "  tnv balance --rate 100M",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := loc.find()
			if err != nil {
				return err
			}
			rq.Rate = uint64(rate)
			return cluster.Ask(cmd.Context(), at.Trackers, at.Key, moveAsk, protocol.TypeBalance, nil, &rq)
		},
	}
	cmd.Flags().Var(&rate, "rate", "move at most so many bytes a second (default 64M)")
	cmd.Flags().Uint32Var(&rq.Within, "within", 0, "until they differ by less than so many percent (default 5)")
	cmd.Flags().BoolVar(&rq.Cancel, "cancel", false, "stop it")
	loc.register(cmd)
	return cmd
}
