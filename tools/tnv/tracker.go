package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv/protocol"
)

// drainTimeout is how long a tracker may take to hand over what it owns.
const drainTimeout = time.Minute

func (a *app) trackerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tracker",
		Short: "See to one tracker of several",
		Long: `See to one tracker of a cluster that has several on a database (trackerd --meta). Which there are,
and which of them owns what, tnv status shows.`,
		Example: "  tnv tracker drain tracker2:7400",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.drainCommand())
	return cmd
}

func (a *app) drainCommand() *cobra.Command {
	var k keyFlag
	cmd := &cobra.Command{
		Use:   "drain ADDR",
		Short: "Have a tracker hand over its volumes and take none any more",
		Long: `Have the tracker at ADDR hand over all volumes that it owns to the other trackers, and take
none any more: before its host is serviced, say. It returns when that is done; applications
notice nothing but a pause of a fraction of a second. The tracker goes on running, and takes
volumes again after it was restarted. To stop one it need not be drained: SIGTERM does the same.`,
		Example: "  tnv tracker drain tracker2:7400",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := k.read()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), drainTimeout)
			defer cancel()
			c, err := protocol.DialClient(ctx, &protocol.Endpoint{Key: key, Role: protocol.RoleTool}, args[0], nil)
			if err != nil {
				return err
			}
			defer c.Close()
			if err := c.Call(ctx, protocol.TypeDrain, nil, &protocol.Drain{}); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "Tracker %s owns nothing any more.\n", args[0])
			return nil
		},
	}
	k.register(cmd)
	return cmd
}
