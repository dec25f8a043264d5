package cluster

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// TestMain lets the test program be started as a daemon: Start calls it by a role's name.
func TestMain(m *testing.M) {
	switch role := Role(os.Args[0]); role {
	case RoleTracker, RoleStore, RoleHTTP, RoleMount:
		os.Exit(fakeDaemon(role, os.Args[1:]))
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // each fake daemon would sleep a second at its end
	os.Exit(m.Run())
}

// fakeDaemon listens and reports as the real ones do. A file beside its data
// directory says what goes wrong: NAME.fail (it reports the file's text), NAME.crash
// (it exits with a word), NAME.hang (it never reports, and ignores SIGTERM).
func fakeDaemon(role Role, args []string) int {
	rep := ReporterFromEnv()
	f := flag.NewFlagSet(string(role), flag.ContinueOnError)
	listen, dir, keyfile := f.String("listen", "127.0.0.1:0", ""), f.String("dir", "", ""), f.String("keyfile", "", "")
	f.String("trackers", "", "")
	f.String("group", "", "")
	f.String("admin", "", "")
	f.Bool("allow-same-host", false, "")
	if role != RoleMount {
		if err := f.Parse(args); err != nil {
			rep.Failed(err)
			return 2
		}
	}
	if *dir == "" { // httpd and mount have none: their key's directory tells the cluster
		base := filepath.Dir(*keyfile)
		if role == RoleMount {
			_, key, _ := strings.Cut(args[len(args)-1], "keyfile=")
			key, _, _ = strings.Cut(key, ",")
			base = filepath.Dir(key)
		}
		*dir = filepath.Join(base, role.name(1))
	}
	if b, err := os.ReadFile(*dir + ".fail"); err == nil {
		rep.Failed(tnv.E("open the store", tnv.KindCorrupt, "%s", b))
		return 1
	}
	if b, err := os.ReadFile(*dir + ".crash"); err == nil {
		fmt.Fprintf(os.Stderr, "panic: %s\n", b)
		return 3
	}
	stop := make(chan os.Signal, 1)
	if _, err := os.Stat(*dir + ".hang"); err == nil {
		signal.Ignore(syscall.SIGTERM)
		select {}
	}
	signal.Notify(stop, syscall.SIGTERM)
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		rep.Failed(err)
		return 1
	}
	if role == RoleTracker || role == RoleStore { // some data
		os.MkdirAll(*dir, 0o755)
		os.WriteFile(filepath.Join(*dir, "data"), nil, 0o644)
	}
	if role == RoleTracker {
		go fakeTracker(ln, *keyfile, filepath.Dir(*dir))
	}
	rep.Ready(ln.Addr().String())
	<-stop
	fmt.Fprintln(os.Stderr, "stopped", time.Now().UnixNano())
	return 0
}

// fakeTracker counts the storage daemons whose processes live.
func fakeTracker(ln net.Listener, keyfile, dir string) {
	key, err := protocol.ReadKeyFile(keyfile)
	if err != nil {
		return
	}
	srv := &protocol.Server{
		Endpoint: &protocol.Endpoint{Key: key, Role: protocol.RoleTracker},
		Log:      logrus.NewEntry(logrus.New()),
		Handle: func(context.Context, *protocol.Peer, *protocol.Frame) ([]any, error) {
			g := protocol.GroupStatus{Name: "g1", State: "whole"}
			for _, r := range (Layout{dir}).Records() {
				if r.Role == RoleStore && r.Alive() {
					g.Nodes = append(g.Nodes, protocol.NodeStatus{Node: tnv.Node{State: tnv.NodeAlive}})
				}
			}
			return []any{&protocol.Status{Groups: []protocol.GroupStatus{g}}}, nil
		},
	}
	srv.Serve(ln)
}

// config is that of a cluster in a fresh directory, of fake daemons.
func config(t *testing.T) Config {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := logrus.New()
	l.SetOutput(testWriter{t})
	dir := filepath.Join(t.TempDir(), "c")
	t.Cleanup(func() {
		for _, r := range (Layout{dir}).Records() {
			if r.Alive() && r.Pid != os.Getpid() {
				syscall.Kill(r.Pid, syscall.SIGKILL)
			}
		}
	})
	free := "127.0.0.1:0"
	return Config{Dir: dir, HTTP: &free, Exe: exe, Log: logrus.NewEntry(l)}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
