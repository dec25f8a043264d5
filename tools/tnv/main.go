// Command tnv is all of TNV in one binary: the daemons trackerd, stored, httpd
// and mount.tnv, which are also names of it (argv[0] decides), and the tool that
// brings a cluster up, looks at it and works on its files.
//
// Flags, environment and exit codes are read and given here and nowhere else;
// the work is done by the packages below. Exit codes: 0 done, 1 failed, 2 the
// command line makes no sense; mount.tnv: 1 for the command line and 32 for a
// failed mount, as mount(8) says.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv/cluster"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitMount  = 32 // mount(8): the mount failed
)

// app is what one run of the program has to work with.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	ready          *cluster.Reporter
}

func main() {
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, ready: cluster.ReporterFromEnv()}
	os.Exit(a.run(os.Args))
}

// run does what the command line says and returns the exit code.
func (a *app) run(argv []string) int {
	ctx, stop := untilSignal(a.stderr)
	defer stop()
	args := argv[1:]
	name := filepath.Base(argv[0])
	switch name {
	case "trackerd", "stored", "httpd":
		args = append([]string{name}, args...)
	case "mount.tnv":
		args = append([]string{"mount"}, args...)
	}
	root := a.rootCommand(name == "mount.tnv")
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if a.ready != nil {
		a.ready.Failed(err)
	}
	fmt.Fprintf(a.stderr, "%s: %v\n", name, err)
	var e *exitError
	if errors.As(err, &e) {
		return e.code
	}
	return exitFailed
}

// exitError is an error that chooses the exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usage makes an error of the command line.
func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// untilSignal gives a context that ends with the first SIGINT, SIGTERM or
// SIGHUP. The second one ends the program at once.
func untilSignal(stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		select {
		case <-ch:
			cancel()
		case <-done:
			return
		}
		select {
		case s := <-ch:
			fmt.Fprintf(stderr, "second signal (%v): ending at once\n", s)
			os.Exit(exitFailed)
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		close(done)
		cancel()
	}
}

func (a *app) rootCommand(asHelper bool) *cobra.Command {
	root := &cobra.Command{
		Use:   "tnv",
		Short: "A distributed file system for media",
		Long: `TNV is one directory spread over many machines, for media first: mount it, play films from it over HTTP.

Bring a cluster up on this machine, put a film in, play it, stop:

  tnv up -d --dir ~/tnv --mount ~/media
  cp film.mkv ~/media/
  mpv http://127.0.0.1:8080/film.mkv
  tnv down --dir ~/tnv

The commands on files find the cluster by --dir, by --trackers and --keyfile, by the
environment (TNV_TRACKERS, TNV_KEYFILE), in /etc/tnv/tnv.conf, or take the one that
this user brought up.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       versionString(),
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%v; see `%s --help`", err, cmd.CommandPath())
	})
	root.AddGroup(&cobra.Group{ID: "cluster", Title: "A cluster on this machine:"},
		&cobra.Group{ID: "files", Title: "Files of a volume:"},
		&cobra.Group{ID: "daemon", Title: "Daemons:"})
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("cluster", a.upCommand(), a.downCommand(), a.statusCommand(), a.scrubCommand(), a.keyCommand(), a.volumeCommand(), a.trackerCommand())
	add("cluster", a.groupCommand(), a.nodeCommand(), a.balanceCommand(), a.fsckCommand(), a.collectCommand(), a.dumpCommand(), a.loadCommand(), a.restoreCommand())
	add("files", a.lsCommand(), a.statCommand(), a.catCommand(), a.putCommand(), a.getCommand(),
		a.rmCommand(), a.mkdirCommand(), a.mvCommand(), a.linkCommand(), a.idCommand())
	add("daemon", a.trackerdCommand(), a.storedCommand(), a.httpdCommand(), a.mountCommand(asHelper),
		a.passwdCommand(), a.tokenCommand())
	root.AddCommand(a.versionCommand())
	return root
}

// args wraps cobra's check of the number of arguments so that it is a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		if err := check(cmd, got); err != nil {
			return usage("%v; see `%s --help`", err, cmd.CommandPath())
		}
		return nil
	}
}
