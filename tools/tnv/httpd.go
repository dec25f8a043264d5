package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd"
	"github.com/tnvfs/tnv/httpd/access"
	"github.com/tnvfs/tnv/httpd/page"
)

const httpdMemory size = 512 << 20

func (a *app) httpdCommand() *cobra.Command {
	var d daemonFlags
	var loc location
	var cfg httpd.Config
	var user, anonymous string
	var perViewer, inAll, maxUpload size
	cmd := &cobra.Command{
		Use:   "httpd --trackers ADDR,… --keyfile FILE",
		Short: "Serve a volume over HTTP: streaming, WebDAV, JSON",
		Long: `Serve a volume's files over HTTP until SIGTERM or SIGINT: by path, with ranges and conditions;
as WebDAV on the same paths; as JSON below /.tnv/api/ (docs/openapi.yaml).

On loopback whoever can connect may read, unless something says who may do what; elsewhere
something must. A file of rules (--access) has a rule a line, WHO ROLE /PATH, where WHO is a
user, @ for all users or * for everybody, ROLE is none, read, write or admin, and the longest
path counts. Names that begin with a dot are shown to those who may write. Users are in an
htpasswd file (see "tnv passwd"), tokens in a file of their own (see "tnv token"); both, and the
rules, are read again when they change. "tnv link" makes links that need no login.`,
		Example: `  httpd --dir ~/tnv --listen 127.0.0.1:8081
  httpd --trackers 10.0.0.1:7400 --keyfile /etc/tnv/key --listen :443 --tls-dir /etc/tnv/tls \
        --users /etc/tnv/users --access /etc/tnv/access --user 65534:65534`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if user != "" {
				cfg.Cred = &tnv.Cred{}
				if n, err := fmt.Sscanf(user, "%d:%d", &cfg.Cred.UID, &cfg.Cred.GID); n != 2 || err != nil {
					return usage("--user %q: want UID:GID, two numbers", user)
				}
			}
			role, err := access.ParseRole(anonymous)
			if err != nil {
				return usage("--anonymous: %v", err)
			}
			cfg.Access.Anonymous = role
			cfg.PerViewer, cfg.InAll, cfg.MaxUpload = int64(perViewer), int64(inAll), int64(maxUpload)
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
			cfg.Admin, cfg.Log, cfg.Ready, cfg.Page = d.admin, log, a.ready.Ready, page.Handler()
			return httpd.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Listen, "listen", httpd.DefaultListen, "listen at this `ADDR`; port 0: any free one")
	f.StringVar(&user, "user", "", "read and write as this `UID:GID` (default: that of the process)")
	f.StringVar(&cfg.Access.UsersFile, "users", "", "htpasswd `FILE` of users, with bcrypt")
	f.StringVar(&cfg.Access.TokensFile, "tokens", "", "`FILE` of tokens")
	f.StringVar(&cfg.Access.RulesFile, "access", "", "`FILE` of rules: WHO ROLE /PATH a line")
	f.StringVar(&anonymous, "anonymous", "none", "`ROLE` of who does not say who he is: none, read, write or admin")
	f.BoolVar(&cfg.ReadOnly, "read-only", false, "refuse every change, and write nothing to the volume")
	f.DurationVar(&cfg.TrashLife, "trash-life", httpd.DefaultTrashLife, "how long what was deleted can be put back; below 0: not at all")
	f.Var(&maxUpload, "max-upload", "largest file that is taken (default 4 TiB)")
	f.StringSliceVar(&cfg.CORS, "cors", nil, "`ORIGIN`s whose pages may read files; *: all")
	f.StringSliceVar(&cfg.Hosts, "host", nil, "`NAME`s by which requests may come while it listens on loopback, besides loopback's own: those of a proxy in front")
	f.Var(&perViewer, "rate", "bytes per second to each viewer (default: no limit)")
	f.Var(&inAll, "rate-all", "bytes per second to all viewers (default: no limit)")
	f.StringVar(&cfg.TLS.Cert, "tls-cert", "", "certificate `FILE`, PEM")
	f.StringVar(&cfg.TLS.Key, "tls-key", "", "its key `FILE`, PEM")
	f.StringVar(&cfg.TLS.SelfMade, "tls-dir", "", "keep a self-made certificate in this `DIR`, and serve with it")
	f.BoolVar(&cfg.HTTP1, "http1", false, "speak HTTP/1.1 only")
	cmd.MarkFlagDirname("tls-dir")
	f.StringVar(&cfg.Client.CacheDir, "cache-dir", "", "keep pieces of blocks in this directory as well")
	f.Var((*size)(&cfg.Client.CacheSize), "cache-size", "size of that cache (default 10 GiB)")
	f.DurationVar(&cfg.Client.Timeout, "timeout", 0, "how long a request rides out a cluster that does not answer (default 30s)")
	d.register(cmd, httpdMemory)
	loc.register(cmd)
	return cmd
}
