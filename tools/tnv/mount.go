package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv/cluster"
	"github.com/tnvfs/tnv/mount"
)

const mountMemory size = 512 << 20

// staleEnv lets the kernel keep names and attributes for this time without any
// invalidation. It is for one test only, which shows that the test of coherence
// finds what then goes wrong.
const staleEnv = "TNV_TEST_STALE"

// mountStart bounds the start of a mount in the background.
const mountStart = 2 * time.Minute

func (a *app) mountCommand(asHelper bool) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mount [TRACKER,…][:/SUBDIR] MOUNTPOINT [-o OPTIONS] [--dir DIR]",
		Short: "Mount a volume (the same as mount.tnv)",
		Long: `Mount a volume, in the background: it returns when the mount answers, and umount ends it.

With a mountpoint alone, trackers and key come from --dir, from the environment (TNV_TRACKERS,
TNV_KEYFILE), from /etc/tnv/tnv.conf, or from the newest cluster that this user brought up, in
this order.

Options: volume=NAME, ro, allow_other, noatime, cache_dir=DIR, cache_size=SIZE, memory=SIZE (of the
whole process; 512M), keyfile=FILE, dir=DIR, admin=ADDR, log=FILE, timeout=TIME, foreground, and
what mount(8) passes to all helpers.`,
		Example: `  tnv mount --dir ~/tnv /mnt/second
  mount.tnv 10.0.0.1:7400 /mnt/media -o ro,keyfile=/etc/tnv/key
  mount -t tnv 10.0.0.1:7400:/films /mnt/films -o cache_dir=/var/cache/tnv`,
		DisableFlagParsing: true, // mount(8) and package mount rule here
		RunE: func(cmd *cobra.Command, words []string) error {
			got, err := mount.ParseArgs(words)
			if err != nil {
				return &exitError{exitFailed, err}
			}
			if got.Help {
				return cmd.Help()
			}
			if err := a.mount(cmd.Context(), got, words); err != nil {
				return &exitError{exitMount, err}
			}
			return nil
		},
	}
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	if asHelper {
		cmd.Long = mount.Usage + "\n\n" + cmd.Long
	}
	return cmd
}

// mount mounts, here or in the background.
func (a *app) mount(ctx context.Context, got mount.Args, words []string) error {
	cfg, source, err := mount.Resolve(got)
	if err != nil {
		return err
	}
	if got.Verbose {
		fmt.Fprintf(a.stdout, "trackers %s (%s)\n", strings.Join(cfg.Client.Trackers, ","), source)
	}
	switch {
	case got.Fake:
		return nil
	case got.Foreground:
		return a.mountHere(ctx, got, cfg)
	}
	return mountBehind(ctx, got, words)
}

// mountHere serves the mount until it is unmounted.
func (a *app) mountHere(ctx context.Context, got mount.Args, cfg mount.Config) error {
	budget := size(got.Memory)
	if budget == 0 {
		budget = mountMemory
	}
	if err := limitMemory(int64(budget)); err != nil {
		return err
	}
	cfg.Client.Memory = mountBuffers(budget)
	debug.SetGCPercent(mountGC)
	log, err := newLog(a, "info", "text")
	if err != nil {
		return err
	}
	for _, p := range []*string{&cfg.Mountpoint, &cfg.Client.CacheDir} {
		if *p == "" {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	if err := os.Chdir("/"); err != nil { // keep no directory busy
		return err
	}
	if v := os.Getenv(staleEnv); v != "" {
		if cfg.Stale, err = time.ParseDuration(v); err != nil {
			return usage("$%s is %q: want a time", staleEnv, v)
		}
		log.Warn(staleEnv + " is set: this mount shows names and attributes that are out of date")
	}
	cfg.Log = log.WithFields(logrus.Fields{"daemon": "mount", "mountpoint": cfg.Mountpoint})
	cfg.Ready = func() { a.ready.Ready(cfg.Mountpoint) }
	return mount.Run(ctx, cfg)
}

// mountBehind starts the mount in the background and waits until it answers. One
// of a local cluster becomes one of its processes, which `tnv down` ends too.
func mountBehind(ctx context.Context, got mount.Args, words []string) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	spawn := cluster.Spawn{Role: cluster.RoleMount, Args: append([]string{"--foreground"}, words...), Dir: here, Log: got.LogFile}
	if got.Dir != "" && cluster.Exists(got.Dir) {
		return cluster.Mount(ctx, got.Dir, got.Mountpoint, spawn)
	}
	if spawn.Log == "" {
		spawn.Log = mountLog(got.Mountpoint)
	}
	ctx, cancel := context.WithTimeout(ctx, mountStart)
	defer cancel()
	_, err = cluster.Start(ctx, spawn, nil)
	return err
}

// mountLog is where a mount logs that was told of no place: below /var/log where
// that may be written, else nowhere.
func mountLog(mountpoint string) string {
	abs, err := filepath.Abs(mountpoint)
	if err != nil || os.MkdirAll("/var/log/tnv", 0o755) != nil {
		return ""
	}
	path := filepath.Join("/var/log/tnv", "mount"+strings.ReplaceAll(abs, "/", "-")+".log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return ""
	}
	f.Close()
	return path
}

// mountBuffers is the part of a mount's budget that it may fill with blocks. It
// is less than other daemons': what was read stays in the kernel's page cache.
func mountBuffers(process size) int64 { return int64(process) / 4 }

// mountGC is how much garbage, in percent of what is in use, may gather in a
// mount. Blocks are used again, not collected, so frequent collection costs
// little and keeps the process near what it needs.
const mountGC = 40
