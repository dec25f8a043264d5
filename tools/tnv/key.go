package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

func (a *app) keyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Make keys"}
	cmd.AddCommand(&cobra.Command{
		Use:   "new [FILE]",
		Short: "Draw the key of a new cluster",
		Long: `Draw the key of a new cluster and write it to FILE (mode 0600), or to standard output.
Every daemon and client of the cluster needs it. A file that exists is not replaced.`,
		Example: "  tnv key new /etc/tnv/key",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, names []string) error {
			key := protocol.NewKey().String()
			if len(names) == 0 {
				_, err := fmt.Fprint(a.stdout, key)
				return err
			}
			f, err := os.OpenFile(names[0], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				return tnv.Wrap("make key", err)
			}
			defer f.Close()
			if _, err = f.WriteString(key); err == nil {
				err = f.Sync()
			}
			return tnv.Wrap("make key", err)
		},
	})
	return cmd
}
