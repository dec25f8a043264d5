package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv/stored"
)

const storedMemory size = 512 << 20

// punchDelayEnv is the default of --punch-delay, also for the storage daemons
// that `tnv up` starts: they inherit it.
const punchDelayEnv = "TNV_PUNCH_DELAY"

// defaultPunchDelay is longer than the longest read.
const defaultPunchDelay = time.Minute

// punchDelay is what the environment says of it.
func punchDelay() (time.Duration, error) {
	v := os.Getenv(punchDelayEnv)
	if v == "" {
		return defaultPunchDelay, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return 0, usage("$%s is %q: want a time, for example 60s", punchDelayEnv, v)
	}
	return d, nil
}

func (a *app) storedCommand() *cobra.Command {
	var d daemonFlags
	var k keyFlag
	var cfg stored.Config
	var trackers string
	var capacity size
	copyRate, scrubRate := size(256<<20), size(128<<20)
	cmd := &cobra.Command{
		Use:   "stored --dir DIR --trackers ADDR,… --group NAME --keyfile FILE",
		Short: "Run a storage daemon: the blocks of one disk",
		Long: `Run a storage daemon until SIGTERM or SIGINT. It keeps blocks in DIR (made if it is
empty), announces itself to every tracker, and holds the same blocks as the other members
of its group: what it missed while it was away it copies from them.`,
		Example: `  stored --dir /srv/disk1/tnv --trackers 10.0.0.1:7400 --group g1 --listen 10.0.0.2:7500
  stored --dir /srv/disk2/tnv --trackers 10.0.0.1:7400 --group g2 --capacity 3T`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Dir == "" {
				return usage("--dir is missing: name the directory of the blocks")
			}
			if cfg.Trackers = trackerList(trackers); len(cfg.Trackers) == 0 {
				return usage("--trackers is missing: name the cluster's trackers as HOST:PORT,…")
			}
			if !cmd.Flags().Changed("punch-delay") {
				var err error
				if cfg.PunchDelay, err = punchDelay(); err != nil {
					return err
				}
			}
			if cfg.PunchDelay <= 0 {
				return usage("--punch-delay %v: want more than nothing", cfg.PunchDelay)
			}
			log, err := d.start(a, "stored")
			if err != nil {
				return err
			}
			if cfg.Key, err = k.read(); err != nil {
				return err
			}
			if copyRate == 0 || scrubRate == 0 || cfg.ScrubPeriod <= 0 {
				return usage("--copy-rate, --scrub-rate and --scrub-period: want more than nothing")
			}
			cfg.CopyRate, cfg.ScrubRate = int64(copyRate), int64(scrubRate)
			cfg.Capacity, cfg.Memory = int64(capacity), buffers(d.memory)
			cfg.Admin, cfg.Log, cfg.Ready = d.admin, log, a.ready.Ready
			return stored.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:0", "listen at this `ADDR`; port 0: any free one")
	f.StringVar(&cfg.Advertise, "advertise", "", "`ADDR` that others are told; default: where it listens")
	f.StringVar(&cfg.Dir, "dir", "", "directory of the blocks")
	f.StringVar(&cfg.Group, "group", "g1", "group of daemons that hold the same blocks; made if it is not there")
	f.StringVar(&trackers, "trackers", "", "addresses of the trackers, with commas (default $TNV_TRACKERS)")
	f.StringVar(&cfg.Host, "host", "", "id of this machine (default: from the system)")
	f.BoolVar(&cfg.AllowSameHost, "allow-same-host", false, "join a group that has a member on this host already")
	f.Var(&capacity, "capacity", "use at most so much of the disk (default: all of it but a reserve)")
	f.DurationVar(&cfg.PunchDelay, "punch-delay", defaultPunchDelay, "keep the space of a deleted block for so long: longer than the longest read (default $"+punchDelayEnv+")")
	f.Var(&copyRate, "copy-rate", "copy at most so much per second from other members, and an eighth of it while clients read")
	f.DurationVar(&cfg.ScrubPeriod, "scrub-period", 14*24*time.Hour, "read and check every block once in so long")
	f.Var(&scrubRate, "scrub-rate", "read so much per second for tnv scrub --now, and an eighth of --copy-rate at most while clients read")
	d.register(cmd, storedMemory)
	k.register(cmd)
	return cmd
}
