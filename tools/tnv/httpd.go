package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd"
)

const httpdMemory size = 512 << 20

func (a *app) httpdCommand() *cobra.Command {
	var d daemonFlags
	var loc location
	var cfg httpd.Config
	var user string
	cmd := &cobra.Command{
		Use:   "httpd --trackers ADDR,… --keyfile FILE",
		Short: "Serve a volume over HTTP, for reading",
		Long: `Serve a volume's files over HTTP until SIGTERM or SIGINT: GET, HEAD and OPTIONS by path, with
ranges and conditional requests, and a plain listing of each directory. There is no access
control: whoever can connect may read what the daemon's user may.`,
		Example: `  httpd --dir ~/tnv --listen 127.0.0.1:8081
  httpd --trackers 10.0.0.1:7400 --keyfile /etc/tnv/key --listen 0.0.0.0:80 --user 65534:65534`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if user != "" {
				cfg.Cred = &tnv.Cred{}
				if n, err := fmt.Sscanf(user, "%d:%d", &cfg.Cred.UID, &cfg.Cred.GID); n != 2 || err != nil {
					return usage("--user %q: want UID:GID, two numbers", user)
				}
			}
			log, err := d.start(a, "httpd")
			if err != nil {
				return err
			}
			at, err := loc.find()
			if err != nil {
				return err
			}
			cfg.Client.Trackers, cfg.Client.Key, cfg.Client.Volume = at.Trackers, at.Key, loc.volume
			cfg.Client.Memory = buffers(d.memory)
			cfg.Admin, cfg.Log, cfg.Ready = d.admin, log, a.ready.Ready
			return httpd.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Listen, "listen", httpd.DefaultListen, "listen at this `ADDR`; port 0: any free one")
	f.StringVar(&user, "user", "", "read as this `UID:GID` (default: that of the process)")
	f.StringVar(&cfg.Client.CacheDir, "cache-dir", "", "keep pieces of blocks in this directory as well")
	f.Var((*size)(&cfg.Client.CacheSize), "cache-size", "size of that cache (default 10 GiB)")
	f.DurationVar(&cfg.Client.Timeout, "timeout", 0, "how long a request rides out a cluster that does not answer (default 30s)")
	d.register(cmd, httpdMemory)
	loc.register(cmd)
	return cmd
}
