package main

import (
	"bufio"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv/cluster"
	"github.com/tnvfs/tnv/protocol"
)

// askLimit bounds a question to the trackers; it rides out a tracker's restart.
const askLimit = 30 * time.Second

func (a *app) idCommand() *cobra.Command {
	var loc location
	var n uint64
	cmd := &cobra.Command{
		Use:   "id [-n N]",
		Short: "Take numbers that nobody else has or will have",
		Long: `Print N numbers, one a line, that were never given out for this volume and never will be
again, whatever crashes. They grow, with gaps.`,
		Example: "  tnv id\n  tnv id -n 1000",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n < 1 {
				return usage("-n %d: at least one", n)
			}
			at, err := loc.find()
			if err != nil {
				return err
			}
			out := bufio.NewWriter(a.stdout)
			for n > 0 {
				var rep protocol.TakeIDsReply
				rq := protocol.TakeIDs{Volume: loc.name(), Count: uint32(min(n, protocol.MaxIDs))}
				if err := cluster.Ask(cmd.Context(), at.Trackers, at.Key, askLimit, protocol.TypeTakeIDs, &rep, &rq); err != nil {
					return err
				}
				for i := range uint64(rep.Count) {
					out.WriteString(strconv.FormatUint(rep.First+i, 10))
					out.WriteByte('\n')
				}
				n -= uint64(rep.Count)
			}
			return out.Flush()
		},
	}
	cmd.Flags().Uint64VarP(&n, "count", "n", 1, "how many")
	loc.register(cmd)
	return cmd
}
