package syscalls

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tnvfs/tnv/e2e"
)

func TestMain(m *testing.M) { os.Exit(e2e.Main(m, nil)) }

// TestLocal judges the suite itself.
func TestLocal(t *testing.T) {
	dir := t.TempDir()
	// A test's directory may be closed to others, who have to reach it.
	for p := dir; p != os.TempDir() && len(p) > 1; p = filepath.Dir(p) {
		ok(t, os.Chmod(p, 0o755))
	}
	Run(t, dir)
}

func TestMount(t *testing.T) {
	c := e2e.Start(t, e2e.Options{NoHTTP: true})
	ok(t, os.Chmod(c.Base, 0o755))
	Run(t, c.Mount)
}
