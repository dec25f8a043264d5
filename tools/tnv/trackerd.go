package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv/trackerd"
)

const trackerdMemory size = 512 << 20

// Defaults of flags, also for the trackers that `tnv up` starts: they inherit them.
const (
	quarantineEnv   = "TNV_QUARANTINE"
	collectEveryEnv = "TNV_COLLECT_EVERY"
)

// fromEnv is a time that the environment gives; 0 if it gives none.
func fromEnv(name string) time.Duration {
	d, err := time.ParseDuration(os.Getenv(name))
	if err != nil {
		return 0
	}
	return d
}

func (a *app) trackerdCommand() *cobra.Command {
	var d daemonFlags
	var k keyFlag
	var cfg trackerd.Config
	cmd := &cobra.Command{
		Use:   "trackerd {--dir DIR | --meta URL} --listen ADDR --keyfile FILE",
		Short: "Run a tracker: metadata and the cluster map",
		Long: `Run a tracker until SIGTERM or SIGINT. It keeps the cluster map and the metadata of
the volumes that it owns in DIR, and makes them if DIR is empty.

With --meta the metadata is in a PostgreSQL database, and any number of trackers run on it:
each volume is owned by one of them, the others take over when it dies, and at once when it
is stopped. Such a tracker has no data of its own. See docs/cluster.md.

Durability "os": what was acknowledged survives the end of any process, and a power
failure after fsync, syncfs or a second. "sync": a power failure at once, which is slower.`,
		Example: `  trackerd --dir /srv/tnv/tracker --listen 10.0.0.1:7400 --keyfile /etc/tnv/key
  trackerd --dir /srv/tnv/tracker --listen 0.0.0.0:7400 --advertise tracker1:7400 --durability sync
  trackerd --meta postgres://tnv@db1,db2/tnv --listen 0.0.0.0:7400 --advertise tracker2:7400`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Meta == "" && cfg.Dir == "" {
				cfg.Meta = os.Getenv("TNV_META")
			}
			switch {
			case cfg.Dir == "" && cfg.Meta == "":
				return usage("--dir is missing: name the directory of the tracker's data, or a database with --meta")
			case cfg.Dir != "" && cfg.Meta != "":
				return usage("--dir and --meta exclude each other: the metadata is in a directory or in a database")
			case cfg.Meta != "" && cmd.Flags().Changed("durability"):
				return usage("--durability is for --dir: what a database keeps it says itself (synchronous_commit)")
			}
			if cfg.Durability != "os" && cfg.Durability != "sync" {
				return usage("--durability %q: want os or sync", cfg.Durability)
			}
			log, err := d.start(a, "trackerd")
			if err != nil {
				return err
			}
			if cfg.Key, err = k.read(); err != nil {
				return err
			}
			cfg.Admin, cfg.Log, cfg.Ready = d.admin, log, a.ready.Ready
			return trackerd.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:7400", "listen at this `ADDR`; port 0: any free one")
	f.StringVar(&cfg.Advertise, "advertise", "", "`ADDR` that others are told; default: where it listens")
	f.StringVar(&cfg.Dir, "dir", "", "directory of the tracker's data")
	f.StringVar(&cfg.Meta, "meta", "", "`URL` of the database that trackers share, postgres://… (default $TNV_META)")
	f.StringVar(&cfg.Durability, "durability", "os", "what an acknowledged operation survives: os or sync")
	f.DurationVar(&cfg.Quarantine, "quarantine", fromEnv(quarantineEnv), "keep blocks that no file names for so long, for certainty (default 24h, or $"+quarantineEnv+")")
	f.DurationVar(&cfg.CollectEvery, "collect-every", fromEnv(collectEveryEnv), "look for such blocks so often (default 1h, or $"+collectEveryEnv+")")
	f.StringSliceVar(&cfg.Volumes, "volume", []string{"media"}, "volumes to make if they are not there")
	f.BoolVar(&cfg.NoCopies, "no-copies", false, "keep no copy of the metadata in the storage groups: losing DIR is losing all names")
	d.register(cmd, trackerdMemory)
	k.register(cmd)
	complete(cmd, "durability", "os", "sync")
	return cmd
}
