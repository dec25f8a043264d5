package syscalls

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"github.com/tnvfs/tnv/e2e"
)

// TestPosixtest runs go-fuse's own tests, each in a directory of its own on the
// mount. FcntlFlockLocksFile wants what no POSIX system does, and what the local
// disk does not do either (see the subject "locks"): that a process's fcntl locks
// conflict with its own.
func TestPosixtest(t *testing.T) {
	c := e2e.Start(t, e2e.Options{NoHTTP: true})
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		if name == "FcntlFlockLocksFile" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(c.Mount, name)
			ok(t, os.Mkdir(dir, 0o777))
			posixtest.All[name](t, dir)
		})
	}
}
