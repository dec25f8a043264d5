package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv/cluster"
	"github.com/tnvfs/tnv/protocol"
)

// The JSON of `tnv volume ls`. Names that stand here stay.
type volumeInfoJSON struct {
	ID          uint32     `json:"id"`
	Name        string     `json:"name"`
	State       string     `json:"state"`
	PurgeAt     *time.Time `json:"purge_at,omitempty"`
	MinReplicas uint32     `json:"min_replicas"`
	MaxFiles    uint64     `json:"max_files"`
	MaxBytes    uint64     `json:"max_bytes"`
}

func (a *app) volumeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "volume", Short: "Make, list, delete, rename and set volumes"}
	cmd.AddCommand(a.volumeCreate(), a.volumeList(), a.volumeRemove(), a.volumeUndelete(), a.volumeRename(), a.volumeSet())
	return cmd
}

// volumeVerb makes a command of one request, whose answer is the volume.
func (a *app) volumeVerb(use, short, long, example string, n int, request func(names []string) (protocol.Type, any, error)) *cobra.Command {
	var loc location
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example,
		Args: args(cobra.ExactArgs(n)),
		RunE: func(cmd *cobra.Command, names []string) error {
			t, rq, err := request(names)
			if err != nil {
				return err
			}
			var rep protocol.VolumeInfo
			if err := a.askRegistry(cmd.Context(), &loc, t, &rep, rq); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s: %s\n", rep.Name, describeVolume(&rep))
			return nil
		},
	}
	loc.registerCluster(cmd)
	return cmd
}

func (a *app) askRegistry(ctx context.Context, loc *location, t protocol.Type, rep, rq any) error {
	at, err := loc.find()
	if err != nil {
		return err
	}
	return cluster.Ask(ctx, at.Trackers, at.Key, askLimit, t, rep, rq)
}

func describeVolume(v *protocol.VolumeInfo) string {
	s := v.State
	if v.State == "deleted" {
		s += ", gone for good at " + time.Unix(0, v.PurgeAt).Format(time.DateTime)
	}
	return s
}

func (a *app) volumeCreate() *cobra.Command {
	return a.volumeVerb("create NAME", "Make a volume", "Make an empty volume. It can be mounted at once: -o volume=NAME.",
		"  tnv volume create films\n  mount.tnv 10.0.0.1:7400 /mnt/films -o volume=films", 1,
		func(names []string) (protocol.Type, any, error) {
			return protocol.TypeCreateVolume, &protocol.CreateVolume{Name: names[0]}, nil
		})
}

// defaultDelay is how long a deleted volume can be had back.
const defaultDelay = 7 * 24 * time.Hour

func (a *app) volumeRemove() *cobra.Command {
	var delay time.Duration
	cmd := a.volumeVerb("rm NAME [--delay 168h]", "Delete a volume",
		`Delete a volume: nobody can open it any more, and what has it open gets errors. Its content
stays for the delay, in which tnv volume undelete brings all of it back; then it is removed.
Its name is taken until it is gone.`,
		"  tnv volume rm films\n  tnv volume rm scratch --delay 0s", 1,
		func(names []string) (protocol.Type, any, error) {
			if delay < 0 {
				return 0, nil, usage("--delay %v: not below zero", delay)
			}
			return protocol.TypeDeleteVolume, &protocol.DeleteVolume{Name: names[0], DelayMs: uint64(delay.Milliseconds())}, nil
		})
	cmd.Flags().DurationVar(&delay, "delay", defaultDelay, "how long it can be had back")
	return cmd
}

func (a *app) volumeUndelete() *cobra.Command {
	return a.volumeVerb("undelete NAME", "Bring a deleted volume back", "Bring back a volume that was deleted and whose delay is not over, with all that it held.",
		"  tnv volume undelete films", 1,
		func(names []string) (protocol.Type, any, error) {
			return protocol.TypeUndeleteVolume, &protocol.UndeleteVolume{Name: names[0]}, nil
		})
}

func (a *app) volumeRename() *cobra.Command {
	return a.volumeVerb("rename NAME NEWNAME", "Rename a volume", "Give a volume another name. Mounts of it go on; the old name leads to it, still.",
		"  tnv volume rename films movies", 2,
		func(names []string) (protocol.Type, any, error) {
			return protocol.TypeRenameVolume, &protocol.RenameVolume{Name: names[0], To: names[1]}, nil
		})
}

func (a *app) volumeSet() *cobra.Command {
	var loc location
	cmd := &cobra.Command{
		Use:   "set NAME SETTING=VALUE...",
		Short: "Change a volume's settings",
		Long: `Change settings of a volume, from now on:
  min-replicas=N   storage daemons that must have a block before it counts as written; 0: the default
  max-bytes=SIZE   no more than that may be allocated to files (EDQUOT); 0: no limit
  max-files=N      no more inodes than that; 0: no limit`,
		Example: "  tnv volume set films max-bytes=2T min-replicas=3",
		Args:    args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, names []string) error {
			rq := protocol.SetVolume{Name: names[0]}
			for _, s := range names[1:] {
				if err := parseSetting(&rq, s); err != nil {
					return err
				}
			}
			var rep protocol.VolumeInfo
			return a.askRegistry(cmd.Context(), &loc, protocol.TypeSetVolume, &rep, &rq)
		},
	}
	loc.registerCluster(cmd)
	return cmd
}

func parseSetting(rq *protocol.SetVolume, s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return usage("%q: want SETTING=VALUE", s)
	}
	var err error
	var n uint64
	switch name {
	case "min-replicas":
		n, err = strconv.ParseUint(value, 10, 8)
		rq.Set, rq.Info.MinReplicas = rq.Set|protocol.SetMinReplicas, uint32(n)
	case "max-files":
		rq.Info.MaxFiles, err = strconv.ParseUint(value, 10, 64)
		rq.Set |= protocol.SetMaxFiles
	case "max-bytes":
		var b size
		err = b.Set(value)
		rq.Set, rq.Info.MaxBytes = rq.Set|protocol.SetMaxBytes, uint64(b)
	default:
		return usage("there is no setting %q: min-replicas, max-files and max-bytes are", name)
	}
	if err != nil {
		return usage("%s=%q: %v", name, value, err)
	}
	return nil
}

func (a *app) volumeList() *cobra.Command {
	var loc location
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List the volumes",
		Long:    "List the volumes, deleted ones that are not gone included. How full they are shows tnv status.",
		Example: "  tnv volume ls\n  tnv volume ls --json | jq -r '.[].name'",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all := []volumeInfoJSON{}
			for rq, more := (protocol.ListVolumes{Limit: pageSize}), true; more; {
				var rep protocol.ListVolumesReply
				if err := a.askRegistry(cmd.Context(), &loc, protocol.TypeListVolumes, &rep, &rq); err != nil {
					return err
				}
				for _, v := range rep.Volumes {
					j := volumeInfoJSON{uint32(v.ID), v.Name, v.State, nil, v.MinReplicas, v.MaxFiles, v.MaxBytes}
					if v.PurgeAt != 0 {
						at := time.Unix(0, v.PurgeAt)
						j.PurgeAt = &at
					}
					all = append(all, j)
					rq.After = v.Name
				}
				more = rep.More && len(rep.Volumes) > 0
			}
			if asJSON {
				return a.printJSON(all)
			}
			return a.printVolumes(all)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	loc.registerCluster(cmd)
	return cmd
}

func (a *app) printVolumes(all []volumeInfoJSON) error {
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "VOLUME\tID\tSTATE\tMIN REPLICAS\tMAX FILES\tMAX BYTES\tGONE AT")
	limit := func(n uint64, s string) string {
		if n == 0 {
			return "-"
		}
		return s
	}
	for _, v := range all {
		gone := ""
		if v.PurgeAt != nil {
			gone = v.PurgeAt.Format(time.DateTime)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", v.Name, v.ID, v.State, limit(uint64(v.MinReplicas), strconv.Itoa(int(v.MinReplicas))),
			limit(v.MaxFiles, strconv.FormatUint(v.MaxFiles, 10)), limit(v.MaxBytes, formatSize(v.MaxBytes)), gone)
	}
	return t.Flush()
}
