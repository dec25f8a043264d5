package e2e

import (
	"os"
	"strings"
	"testing"
	"time"
)

// Programs get the same from a mount as from the local disk, which is the judge
// of the script too.
func TestACLsAsOnTheLocalDisk(t *testing.T) {
	c := Start(t, Options{NoHTTP: true})
	disk, err := os.MkdirTemp("", "tnv-e2e-acl-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(disk)
	if err := os.Chmod(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(dir string) []string {
		r := Exec(time.Minute, "bash", "testdata/acl.sh", dir)
		if r.Code != 0 || r.Err != "" {
			t.Fatalf("in %s: %v", dir, r)
		}
		return strings.Split(r.Out, "\n")
	}
	want, got := run(disk), run(c.Mount)
	part, bad := "", 0
	for i := range max(len(want), len(got)) {
		var w, g string
		if i < len(want) {
			w = want[i]
		}
		if i < len(got) {
			g = got[i]
		}
		if strings.HasPrefix(w, "== ") {
			part = w
		}
		if w != g && bad < 20 {
			t.Errorf("%s, line %d: %q, on the local disk %q", part, i+1, g, w)
			bad++
		}
	}
	if len(want) < 170 {
		t.Errorf("the script said only %d lines", len(want))
	}
}
