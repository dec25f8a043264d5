package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv/cluster"
	"github.com/tnvfs/tnv/protocol"
)

// collectLimit bounds one run over all stores.
const collectLimit = time.Hour

// The JSON of `tnv collect`. Names that stand here stay.
type collectionJSON struct {
	Quarantined      uint64   `json:"quarantined"`
	QuarantinedBytes uint64   `json:"quarantined_bytes"`
	Due              uint64   `json:"due"`
	Collected        uint64   `json:"collected"`
	Asks             []string `json:"asks"`
}

func (a *app) collectCommand() *cobra.Command {
	var loc location
	var rq protocol.Collect
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "collect",
		Short: "Show, or delete, blocks that no file names",
		Long: `Show how the collection of orphans stands: blocks that storage daemons hold and no file
names, left by clients that died. They are found every hour, kept for a day, and deleted.

Where that would delete more than 1% of a group's blocks, or where the metadata may be older
than the blocks (it was restored from a backup, or a block has an id that was never given out), nothing is
deleted before you have said --approve: look first whether the metadata is the right one.`,
		Example: `  tnv collect
  tnv collect --now --approve`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := loc.find()
			if err != nil {
				return err
			}
			rq.Volume = loc.name()
			var st protocol.Collection
			if err := cluster.Ask(cmd.Context(), at.Trackers, at.Key, collectLimit, protocol.TypeCollect, &st, &rq); err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(collectionJSON{st.Quarantined, st.QuarantinedBytes, st.Due, st.Collected, append([]string{}, st.Asks...)})
			}
			fmt.Fprintf(a.stdout, "in quarantine: %d blocks, %s; due: %d; deleted now: %d\n", st.Quarantined, formatSize(st.QuarantinedBytes), st.Due, st.Collected)
			for _, why := range st.Asks {
				fmt.Fprintf(a.stdout, "kept until --approve: %s\n", why)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&rq.Now, "now", false, "look through all storage daemons now, and delete what is due")
	f.BoolVar(&rq.Approve, "approve", false, "what is in quarantine may be deleted, when that is over")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	loc.register(cmd)
	return cmd
}
