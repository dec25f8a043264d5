package httpd

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/admin"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/httpd/access"
)

// Config says how the daemon runs. Client needs trackers and key; the zero value
// of the rest works.
type Config struct {
	Listen string        // host:port; "": 127.0.0.1:8080
	Client client.Config // which volume of which cluster
	// Cred is who reads: files and directories that this user may not read are
	// 403. Nil: the user that the process runs as.
	Cred *tnv.Cred
	// ReadOnly refuses every change, and makes no thumbnails: nothing is written to the volume.
	ReadOnly  bool
	Access    access.Config
	TrashLife time.Duration // how long what was deleted can be put back; 0: a week; below zero: not at all
	MaxUpload int64         // bytes of one upload; 0: 4 TiB
	CORS      []string      // origins whose pages may read files; "*": all
	Hosts     []string      // names by which requests may come, besides those of loopback, while it listens there
	PerViewer int64         // bytes per second to each viewer; 0: no limit
	InAll     int64         // bytes per second to all
	Page      http.Handler  // answers directories for browsers; nil: a plain listing
	TLS       TLS
	HTTP1     bool   // no HTTP/2
	Admin     string // address of /metrics and /healthz; "": none
	Log       *logrus.Entry
	// Ready, if set, is called once with the address, when requests are answered.
	Ready func(addr string)
}

// DefaultListen is where the daemon listens unless told otherwise.
const DefaultListen = "127.0.0.1:8080"

// DefaultTrashLife is how long what was deleted can be put back.
const DefaultTrashLife = 7 * 24 * time.Hour

const (
	maxConns = 12_000
	// maxStreamsHTTP2 bounds the requests under way on one connection.
	maxStreamsHTTP2 = 64
	maxHeader       = 32 << 10
	headerLimit     = 10 * time.Second
	idleLimit       = 2 * time.Minute
	shutdownLimit   = 3 * time.Second // what is under way may take so long to end
	closeLimit      = 10 * time.Second
)

// Run serves the volume until ctx ends, then lets short requests end, cuts long
// ones, and ends the session.
func Run(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	policy, err := cfg.policy()
	if err != nil {
		return err
	}
	certificate, err := cfg.TLS.load(cfg.Listen)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return &tnv.Error{Op: "listen for HTTP on " + cfg.Listen, Kind: tnv.KindOf(err), Msg: "choose another address, or port 0 for any free one, with --listen", Err: err}
	}
	defer ln.Close()
	side := admin.New()
	adminCtx, stopAdmin := context.WithCancel(ctx)
	defer stopAdmin()
	if err := side.Serve(adminCtx, cfg.Admin); err != nil {
		return err
	}
	cfg.Client.ReadOnly, cfg.Client.Registry = cfg.ReadOnly, side.Registry
	if cfg.Client.Identity == "" {
		cfg.Client.Identity = identity(ln.Addr().String())
	}
	c, err := client.Connect(ctx, cfg.Client)
	if err != nil {
		return err
	}
	h := newHandler(clientSource{c}, *cfg.Cred, cfg.Client.Volume, cfg.Client.Memory, cfg.Log, newMetrics(side.Registry),
		options{access: policy, trashLife: cfg.TrashLife, maxUpload: cfg.MaxUpload, cors: cfg.CORS, page: cfg.Page, readOnly: cfg.ReadOnly,
			local: cfg.local(), hosts: cfg.Hosts, perViewer: cfg.PerViewer, inAll: cfg.InAll})
	side.Check("volume", func() error {
		ctx, cancel := context.WithTimeout(ctx, healthLimit)
		defer cancel()
		_, err := c.StatFS(ctx)
		return err
	})
	if err = h.begin(); err == nil {
		err = serve(ctx, cfg, ln, certificate, h)
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	return errors.Join(err, c.Close(closing))
}

func (c Config) withDefaults() Config {
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	if c.Log == nil {
		l := logrus.New()
		l.SetOutput(io.Discard)
		c.Log = logrus.NewEntry(l)
	}
	if c.Cred == nil {
		c.Cred = &tnv.Cred{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	}
	if c.Client.Volume == "" {
		c.Client.Volume = "media"
	}
	if c.Client.Memory == 0 {
		c.Client.Memory = 256 << 20
	}
	if c.Client.Log == nil {
		c.Client.Log = c.Log
	}
	if c.Client.Name == "" {
		host, _ := os.Hostname()
		c.Client.Name = "httpd on " + host
	}
	return c
}

// policy decides who may do what. Whoever can connect may read on loopback; at any
// other address, it must be said who may.
func (c *Config) policy() (*access.Policy, error) {
	if host, _, err := net.SplitHostPort(c.Listen); err == nil && !loopback(host) && c.Access.Unsaid() {
		return nil, tnv.E("listen for HTTP on "+c.Listen, tnv.KindInvalid,
			"that is not only this machine: say with --users who may read, or with --anonymous read that everybody may")
	}
	if c.Access.Unsaid() {
		c.Access.Anonymous = access.Read
	}
	cfg := c.Access
	cfg.OnError = func(err error) {
		c.Log.WithError(err).Error("the files of users, tokens or rules cannot be read: what they said before stays in force")
	}
	k := c.Client.Key
	return access.New(cfg, access.NewSigner(k.Secret, k.Cluster, c.Client.Volume))
}

// local tells whether it listens on loopback only.
func (c *Config) local() bool {
	host, _, err := net.SplitHostPort(c.Listen)
	return err == nil && loopback(host)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// identity names the daemon that listens at an address of this machine: there
// is one at a time, so one that comes back after a kill ends its predecessor's
// session, for which unlinked files would be kept until it expires. Empty where
// the machine cannot be told from others.
func identity(addr string) string {
	host := tnv.HostID()
	if host == "" {
		return ""
	}
	ns, _ := os.Readlink("/proc/self/ns/net") // containers share the host's id and have each their loopback
	if first, err := os.Readlink("/proc/1/ns/net"); err == nil && first == ns {
		ns = "" // its number may be another after a boot
	}
	h := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", host, ns, addr))
	return "httpd-" + hex.EncodeToString(h[:12])
}

// newServer sets the limits of connections.
func newServer(h http.Handler, errors *stdlog.Logger, http1 bool) *http.Server {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: headerLimit, IdleTimeout: idleLimit, MaxHeaderBytes: maxHeader, ErrorLog: errors,
		ConnContext: withConn, Protocols: &http.Protocols{}, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreamsHTTP2}}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(!http1)
	return srv
}

// serve answers requests until ctx ends.
func serve(ctx context.Context, cfg Config, ln net.Listener, certificate *tls.Certificate, h *handler) error {
	// What net/http says is of single connections: for debugging only.
	debugLog := cfg.Log.WriterLevel(logrus.DebugLevel)
	defer debugLog.Close()
	srv := newServer(h, stdlog.New(debugLog, "", 0), cfg.HTTP1)
	limited := newLimitListener(ln, maxConns, func(delta int) {
		h.m.conns.Add(float64(delta))
		h.traffic.conns.Add(int64(delta))
	})
	served := make(chan error, 1)
	go func() {
		if certificate == nil {
			served <- srv.Serve(limited)
			return
		}
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS12}
		served <- srv.ServeTLS(limited, "", "")
	}()
	cfg.Log.WithFields(logrus.Fields{"addr": ln.Addr().String(), "tls": certificate != nil}).Info("serving")
	if cfg.Ready != nil {
		cfg.Ready(ln.Addr().String())
	}
	select {
	case err := <-served:
		return tnv.Wrap("serve HTTP", err)
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
	defer cancel()
	h.end() // streams of events, and followers, end by themselves
	if srv.Shutdown(ending) != nil {
		srv.Close() // a film is still on its way: its viewer must do without
	}
	<-served
	h.close()
	return nil
}

// silent is a log that nobody reads.
func silent() *stdlog.Logger { return stdlog.New(io.Discard, "", 0) }
