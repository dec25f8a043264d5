package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/cluster"
	"github.com/tnvfs/tnv/protocol"
)

const (
	fsckPoll  = 100 * time.Millisecond
	fsckLimit = 30 * time.Second // of one question
)

// The JSON of `tnv fsck`. Names that stand here stay.
type (
	fsckJSON struct {
		Records  uint64       `json:"records"`
		Blocks   uint64       `json:"blocks"`
		Orphans  uint64       `json:"orphans"`
		Findings []damageJSON `json:"findings"`
	}
	damageJSON struct {
		Kind     string `json:"kind"`
		Path     string `json:"path,omitempty"`
		Ino      uint64 `json:"ino,omitempty"`
		Child    uint64 `json:"child,omitempty"`
		Name     string `json:"name,omitempty"`
		Chunk    uint64 `json:"chunk,omitempty"`
		Block    uint64 `json:"block,omitempty"`
		Node     string `json:"node,omitempty"`
		Have     uint64 `json:"have"`
		Want     uint64 `json:"want"`
		Repaired bool   `json:"repaired"`
		Failed   string `json:"failed,omitempty"`
	}
)

func (a *app) fsckCommand() *cobra.Command {
	var loc location
	var repair, asJSON bool
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check a volume's metadata, and that its blocks are where it says",
		Long: `Check a volume while it is in use: all its metadata, as of one moment, and that every block
that it names is on every living member of its group. With --repair what can be repaired is, and
checked again. Blocks' bytes are checked by the scrubber, not here.

Exit code 0: nothing is wrong, or all of it was repaired; 1: something is.`,
		Example: `  tnv fsck
  tnv fsck --repair --volume media`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := loc.find()
			if err != nil {
				return err
			}
			rep, err := runFsck(cmd.Context(), at, loc.name(), repair)
			if err != nil {
				return err
			}
			if asJSON {
				err = a.printJSON(toFsckJSON(&rep))
			} else {
				a.printFsck(&rep)
			}
			if err == nil {
				err = fsckVerdict(&rep)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "repair what can be repaired")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	loc.register(cmd)
	return cmd
}

// runFsck has a check run, and gathers all that it finds.
func runFsck(ctx context.Context, at target, volume string, repair bool) (protocol.FsckReply, error) {
	rq := protocol.Fsck{Volume: volume, Repair: repair}
	var all []protocol.Damage
	for {
		var rep protocol.FsckReply
		if err := cluster.Ask(ctx, at.Trackers, at.Key, fsckLimit, protocol.TypeFsck, &rep, &rq); err != nil {
			return rep, err
		}
		rq.Job = rep.Job
		if rep.Done {
			all = append(all, rep.Findings...)
			if rq.From = uint32(len(all)); !rep.More {
				rep.Findings = all
				return rep, nil
			}
			continue
		}
		select {
		case <-ctx.Done():
			return rep, ctx.Err()
		case <-time.After(fsckPoll):
		}
	}
}

func fsckVerdict(rep *protocol.FsckReply) error {
	if rep.Failed != "" {
		return tnv.E("fsck", tnv.KindUnavailable, "the check is not complete: %s", rep.Failed)
	}
	left := 0
	for _, d := range rep.Findings {
		if !d.Repaired {
			left++
		}
	}
	if left > 0 {
		return tnv.E("fsck", tnv.KindCorrupt, "%d of %d findings are not repaired", left, len(rep.Findings))
	}
	return nil
}

func (a *app) printFsck(rep *protocol.FsckReply) {
	for _, d := range rep.Findings {
		what := d.Path
		if what == "" && d.Ino != 0 {
			what = fmt.Sprintf("inode %d", d.Ino)
		}
		fmt.Fprintf(a.stdout, "%s: %v", what, d.Kind)
		for _, x := range []struct {
			label string
			is    bool
			value any
		}{{"entry", d.Name != "", d.Name}, {"inode", d.Child != 0, d.Child}, {"chunk", d.Block != 0, d.Chunk}, {"block", d.Block != 0, d.Block},
			{"at", d.Node != 0, d.Node}, {"is", d.Have != d.Want, d.Have}, {"should be", d.Have != d.Want, d.Want}} {
			if x.is {
				fmt.Fprintf(a.stdout, ", %s %v", x.label, x.value)
			}
		}
		switch {
		case d.Repaired:
			fmt.Fprint(a.stdout, ": repaired")
		case d.Failed != "":
			fmt.Fprintf(a.stdout, ": not repaired: %s", d.Failed)
		}
		fmt.Fprintln(a.stdout)
	}
	fmt.Fprintf(a.stdout, "%d records and %d copies of blocks checked, %d findings; %d blocks that nothing names wait to be collected\n",
		rep.Records, rep.Blocks, len(rep.Findings), rep.Orphans)
}

func toFsckJSON(rep *protocol.FsckReply) fsckJSON {
	out := fsckJSON{Records: rep.Records, Blocks: rep.Blocks, Orphans: rep.Orphans, Findings: []damageJSON{}}
	for _, d := range rep.Findings {
		x := damageJSON{Kind: d.Kind.String(), Path: d.Path, Ino: uint64(d.Ino), Child: uint64(d.Child), Name: d.Name, Chunk: d.Chunk,
			Block: uint64(d.Block), Have: d.Have, Want: d.Want, Repaired: d.Repaired, Failed: d.Failed}
		if d.Node != 0 {
			x.Node = d.Node.String()
		}
		out.Findings = append(out.Findings, x)
	}
	return out
}
