package stored

import (
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Config says how a storage daemon runs. Dir, Trackers and Key are needed; the
// zero value of the rest works.
type Config struct {
	Listen    string // host:port for clients and peers; "": 127.0.0.1:0 (loopback, a free port)
	Advertise string // host:port that others are told; "": what Listen became
	Dir       string // data directory; made and initialised if it is missing or empty
	Group     string // "": g1
	Trackers  []string
	Key       protocol.Key
	Host      string // the machine's id, equal for daemons on one machine; "": read from the system
	// AllowSameHost lets the group have several members on this host.
	AllowSameHost bool
	Capacity      int64  // bytes that may be used; 0: what the file system has
	Admin         string // address of /metrics and /healthz; "": none
	Memory        int64  // bytes for blocks on their way; 0: 256 MiB
	// ScrubPeriod is how long one pass over all blocks takes; 0: 14 days.
	ScrubPeriod time.Duration
	// ConvergeEvery is how often the store compares itself with its peers; 0: 30 s.
	ConvergeEvery time.Duration
	// ConvergeGrace is how long a difference must last before it is acted
	// upon: blocks that are just being written are not all there yet; 0: 1 s.
	ConvergeGrace time.Duration
	// CopyRate is bytes per second that may be copied from peers, and an eighth of
	// it while clients read here or there; 0: 256 MiB.
	CopyRate  int64
	ScrubRate int64 // bytes per second that a scrub which was asked for reads; 0: 128 MiB
	// PunchDelay is how long the space of a deleted block is kept: longer than
	// the longest read (D9); 0: 60 s.
	PunchDelay time.Duration
	Log        *logrus.Entry
	// Ready, if set, is called once with the address, when requests are served.
	Ready func(addr string)
}

const (
	minMemory     = 32 << 20
	defaultMemory = 256 << 20
)

// withDefaults checks the configuration and fills in what was left out.
func (c Config) withDefaults() (Config, error) {
	const op = "storage daemon"
	bad := func(format string, args ...any) (Config, error) {
		return c, tnv.E(op, tnv.KindInvalid, format, args...)
	}
	switch {
	case c.Dir == "":
		return bad("no data directory was named")
	case len(c.Trackers) == 0:
		return bad("no tracker was named: a storage daemon announces itself to every tracker of its cluster")
	case c.Key.Cluster == "" || len(c.Key.Secret) == 0:
		return bad("no cluster key was given")
	case c.Memory != 0 && c.Memory < minMemory:
		return bad("memory of %d bytes: at least %d MiB are needed", c.Memory, minMemory>>20)
	case c.Capacity < 0 || c.CopyRate < 0 || c.ScrubRate < 0 || c.ScrubPeriod < 0 || c.ConvergeEvery < 0 || c.ConvergeGrace < 0 || c.PunchDelay < 0:
		return bad("a capacity, rate or period below zero")
	}
	for _, a := range append([]string{or(c.Listen, "127.0.0.1:0"), or(c.Advertise, "127.0.0.1:1")}, c.Trackers...) {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return bad("address %q: want host:port", a)
		}
	}
	c.Listen, c.Group = or(c.Listen, "127.0.0.1:0"), or(c.Group, "g1")
	c.Memory, c.CopyRate, c.ScrubRate = or(c.Memory, defaultMemory), or(c.CopyRate, 256<<20), or(c.ScrubRate, 128<<20)
	c.ScrubPeriod, c.ConvergeEvery = or(c.ScrubPeriod, 14*24*time.Hour), or(c.ConvergeEvery, 30*time.Second)
	c.ConvergeGrace = or(c.ConvergeGrace, time.Second)
	c.Host = or(c.Host, hostID())
	if c.Log == nil {
		l := logrus.New()
		l.SetOutput(io.Discard)
		c.Log = logrus.NewEntry(l)
	}
	return c, nil
}

// or gives v, or d where v is the zero value.
func or[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// hostID is what tells this machine from others: machine-id(5), or its name.
func hostID() string {
	if b, err := os.ReadFile("/etc/machine-id"); err == nil {
		if id := strings.TrimSpace(string(b)); id != "" {
			return id
		}
	}
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "unknown"
	}
	return name
}
