package e2e

import (
	"fmt"
	"os"
	"testing"
)

// Main is what TestMain of a package does that starts clusters: it builds the
// program, starts the guard and runs the tests. A test starts this very program
// again as a worker of one of the kinds named (WorkerEnv).
func Main(m *testing.M, workers map[string]func() int) int {
	if kind := os.Getenv(workEnv); kind == "guard" {
		GuardMain()
		return 0
	} else if kind != "" {
		if work := workers[kind]; work != nil {
			return work()
		}
		fmt.Fprintf(os.Stderr, "no such worker: %s\n", kind)
		return 2
	}
	dir, err := os.MkdirTemp("", "tnv-e2e-build-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	stop, err := StartGuard()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer stop()
	return m.Run()
}

// WorkerEnv is the environment setting that makes this program a worker.
func WorkerEnv(kind string) string { return workEnv + "=" + kind }
