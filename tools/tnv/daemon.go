package main

import (
	"math"
	"os"
	"runtime/debug"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// daemonFlags are those that every daemon has.
type daemonFlags struct {
	logLevel  string
	logFormat string
	admin     string
	memory    size
}

func (d *daemonFlags) register(cmd *cobra.Command, memory size) {
	d.memory = memory
	f := cmd.Flags()
	f.StringVar(&d.logLevel, "log-level", "info", "log this and what is worse: error, warn, info, debug")
	f.StringVar(&d.logFormat, "log-format", "text", "text or json")
	f.StringVar(&d.admin, "admin", "", "serve /metrics, /healthz and /debug/pprof at this `ADDR`; nowhere if empty")
	f.Var(&d.memory, "memory", "memory budget of the whole process")
	complete(cmd, "log-level", "error", "warn", "info", "debug")
	complete(cmd, "log-format", "text", "json")
}

// complete offers fixed words for a flag.
func complete(cmd *cobra.Command, flag string, words ...string) {
	cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// start makes the daemon's log and sets the memory limit.
func (d *daemonFlags) start(a *app, name string) (*logrus.Entry, error) {
	log, err := newLog(a, d.logLevel, d.logFormat)
	if err != nil {
		return nil, err
	}
	if err := limitMemory(int64(d.memory)); err != nil {
		return nil, err
	}
	return log.WithField("daemon", name), nil
}

// newLog makes a log to standard error.
func newLog(a *app, level, format string) (*logrus.Entry, error) {
	l := logrus.New()
	l.SetOutput(a.stderr)
	lv, err := logrus.ParseLevel(level)
	if err != nil {
		return nil, usage("--log-level %q: want error, warn, info or debug", level)
	}
	l.SetLevel(lv)
	switch format {
	case "text":
		l.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, TimestampFormat: "2006-01-02T15:04:05.000Z07:00"})
	case "json":
		l.SetFormatter(&logrus.JSONFormatter{TimestampFormat: "2006-01-02T15:04:05.000Z07:00"})
	default:
		return nil, usage("--log-format %q: want text or json", format)
	}
	return logrus.NewEntry(l), nil
}

// minProcess is the least memory that a daemon can do with.
const minProcess = 64 << 20

// limitMemory has the garbage collector work harder as the process nears its
// budget. A tenth is left for what Go does not count: stacks of the kernel,
// mapped files, the program itself. GOMEMLIMIT in the environment goes before it.
func limitMemory(budget int64) error {
	if budget < minProcess {
		return usage("--memory %d: at least %s are needed", budget, formatSize(minProcess))
	}
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(budget / 10 * 9)
	}
	return nil
}

// buffers is the part of a process's budget that it may fill with blocks: the
// rest is for the collector's slack, connections and tables.
func buffers(process size) int64 { return int64(process) / 2 }

// keyFlag reads the cluster's key from a file named by flag, environment or the usual place.
type keyFlag struct{ path string }

const defaultKeyFile = "/etc/tnv/key"

func (k *keyFlag) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&k.path, "keyfile", "", "`FILE` with the cluster's key, from `tnv key new` (default $TNV_KEYFILE, else "+defaultKeyFile+")")
}

func (k *keyFlag) read() (protocol.Key, error) {
	path := k.path
	if path == "" {
		path = os.Getenv("TNV_KEYFILE")
	}
	if path == "" {
		path = defaultKeyFile
	}
	key, err := protocol.ReadKeyFile(path)
	if err != nil {
		return key, &tnv.Error{Op: "key", Kind: tnv.KindOf(err), Msg: "name the cluster's key file with --keyfile (make one for a new cluster with `tnv key new`)", Err: err}
	}
	return key, nil
}

// trackerList is the value of --trackers, or of TNV_TRACKERS.
func trackerList(flag string) []string {
	if flag == "" {
		flag = os.Getenv("TNV_TRACKERS")
	}
	return strings.FieldsFunc(flag, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
}
