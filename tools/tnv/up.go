package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv/cluster"
)

// defaultDir is where a cluster lives if --dir names no other place.
const defaultDir = ".tnv"

// defaultMount is where it is mounted if --mount names no other place.
func defaultMount() string {
	if os.Geteuid() == 0 {
		return "/mnt/media"
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, "media")
}

func (a *app) upCommand() *cobra.Command {
	var detach bool
	var logLevel, dir, mount, http, meta string
	var groups, replicas, trackers, adminPort int
	cmd := &cobra.Command{
		Use:   "up [-d] [--dir DIR] [--mount MOUNTPOINT] [--http ADDR]",
		Short: "Bring a cluster up on this machine, and mount it",
		Long: `Bring a whole cluster up on this machine: a tracker, storage daemons in groups, an HTTP
daemon and a mount, each a process of its own that listens on loopback only. Everything is
in DIR; a later up finds it again, and starts what does not run.

With -d it returns when the mount answers, and the daemons stay. Without, it stays in front,
starts again what dies, and stops all of it on Ctrl-C.

Addresses and the mountpoint stay as they were unless a flag names others. An address that
a flag names must be free; for the rest a free one is taken.`,
		Example: `  tnv up -d --dir ~/tnv --mount ~/media --http 127.0.0.1:8080
  tnv up --groups 2 --replicas 3          # six storage daemons, until Ctrl-C
  tnv up -d --mount ''                    # no mount: HTTP and the tnv commands only
  tnv up --trackers 3 --meta postgres://tnv@localhost/tnv    # trackers that stand in for each other`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLog(a, logLevel, "text")
			if err != nil {
				return err
			}
			if dir == "" {
				return usage("--dir is empty: name a directory for the cluster")
			}
			cfg := cluster.Config{Dir: dir, Log: log}
			changed := cmd.Flags().Changed
			cfg.Mount = given(changed("mount"), &mount)
			cfg.HTTP = given(changed("http"), &http)
			cfg.Groups = given(changed("groups"), &groups)
			cfg.Replicas = given(changed("replicas"), &replicas)
			cfg.Trackers = given(changed("trackers"), &trackers)
			cfg.Meta = given(changed("meta"), &meta)
			cfg.AdminPort = given(changed("admin-port"), &adminPort)
			if cfg.Mount == nil && !cluster.Exists(dir) {
				cfg.Mount = &mount
			}
			return a.up(cmd.Context(), cfg, detach)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&detach, "detach", "d", false, "return when it is up; the daemons stay")
	f.StringVar(&dir, "dir", defaultDir, "directory of the cluster")
	f.StringVar(&mount, "mount", defaultMount(), "mountpoint; made if it is not there; empty: no mount")
	f.StringVar(&http, "http", cluster.DefaultHTTP, "`ADDR` of the HTTP daemon; port 0: any free one; empty: no HTTP daemon")
	f.IntVar(&groups, "groups", 1, "groups of storage daemons")
	f.IntVar(&replicas, "replicas", 2, "storage daemons in each group, which hold the same data")
	f.IntVar(&trackers, "trackers", 1, "trackers; more than one need --meta")
	f.StringVar(&meta, "meta", "", "keep the metadata in the database at this `URL`, postgres://…; empty: in the tracker's directory")
	f.IntVar(&adminPort, "admin-port", 0, "first of the consecutive `PORT`s at which the daemons serve /metrics, /healthz and /debug/pprof; 0: none")
	f.StringVar(&logLevel, "log-level", "info", "error, warn, info or debug")
	cmd.MarkFlagDirname("dir")
	cmd.MarkFlagDirname("mount")
	return cmd
}

// up brings a cluster up, and watches over it unless it is to be left alone.
func (a *app) up(ctx context.Context, cfg cluster.Config, detach bool) error {
	c, err := cluster.Up(ctx, cfg)
	if err != nil {
		return err
	}
	a.remember(c.Dir, cfg.Log)
	fmt.Fprint(a.stdout, c.Summary())
	if detach {
		return nil
	}
	fmt.Fprintln(a.stdout, "Ctrl-C stops it.")
	defer a.forget(c.Dir, cfg.Log)
	return c.Supervise(ctx)
}

// given is the flag's value if it was given.
func given[T any](changed bool, v *T) *T {
	if changed {
		return v
	}
	return nil
}

func (a *app) downCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "down [--dir DIR]",
		Short: "Stop a cluster that up started",
		Long: `Unmount (what was written is drained first), then stop HTTP daemon, storage daemons and
tracker, each by the process id that up noted, checked to be that very process. One that does
not end in its time is killed. The data stays: up finds it again.`,
		Example: "  tnv down --dir ~/tnv",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLog(a, "info", "text")
			if err != nil {
				return err
			}
			stopped, err := cluster.Down(cmd.Context(), dir, log)
			if err != nil {
				return err
			}
			a.forget(dir, log)
			if len(stopped) == 0 {
				fmt.Fprintln(a.stdout, "Nothing was running.")
				return nil
			}
			fmt.Fprintf(a.stdout, "TNV is down (%d processes stopped).\n", len(stopped))
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "directory of the cluster")
	cmd.MarkFlagDirname("dir")
	return cmd
}
