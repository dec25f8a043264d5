package client

import (
	"io"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Config says which volume of which cluster to use, and how. The zero value of
// every field but Trackers and Key works.
type Config struct {
	Trackers []string     // host:port of any of the cluster's trackers
	Key      protocol.Key // the cluster's key
	Volume   string       // default "media"
	Identity string       // a client that comes back with the same identity ends its predecessor's session
	Name     string       // who this is, for people: "mount /mnt/media on host x"
	ReadOnly bool         // refuse every mutation here already
	Memory   int64        // bytes of buffers and cache in all; default 256 MiB, at least 16 MiB
	// Timeout is how long an operation rides out an unreachable tracker or
	// group before it fails with tnv.KindUnavailable. Default 30 s.
	Timeout   time.Duration
	CacheDir  string // keep verified pieces of blocks here as well; "": no disk cache
	CacheSize int64  // bytes of the disk cache; default 10 GiB
	NoLocal   bool   // never read the segments of storage daemons on this host directly
	Log       *logrus.Entry
	Registry  prometheus.Registerer // takes the metrics; may be nil
}

const (
	defaultMemory    = 256 << 20
	minMemory        = 16 << 20
	defaultTimeout   = 30 * time.Second
	defaultCacheSize = 10 << 30
)

// withDefaults checks the configuration and fills in what was left open.
func (c Config) withDefaults() (Config, error) {
	const op = "client configuration"
	switch {
	case len(c.Trackers) == 0:
		return c, tnv.E(op, tnv.KindInvalid, "no tracker is named: give at least one host:port")
	case c.Key.Cluster == "" || len(c.Key.Secret) == 0:
		return c, tnv.E(op, tnv.KindInvalid, "no cluster key is given")
	case c.Memory < 0 || c.Timeout < 0 || c.CacheSize < 0:
		return c, tnv.E(op, tnv.KindInvalid, "memory, timeout and cache size must not be negative")
	}
	if c.Volume == "" {
		c.Volume = "media"
	}
	if c.Memory == 0 {
		c.Memory = defaultMemory
	}
	if c.Memory < minMemory {
		return c, tnv.E(op, tnv.KindInvalid, "memory of %d bytes: at least %d are needed", c.Memory, minMemory)
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.CacheSize == 0 {
		c.CacheSize = defaultCacheSize
	}
	if c.Name == "" {
		host, _ := os.Hostname()
		c.Name = "client on " + host
	}
	if c.Log == nil {
		l := logrus.New()
		l.SetOutput(io.Discard)
		c.Log = logrus.NewEntry(l)
	}
	return c, nil
}
