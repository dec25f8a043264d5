package cluster

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tnvfs/tnv"
)

// A daemon whose data is gone is not begun anew, unless someone says so.
func TestDataGone(t *testing.T) {
	for _, lost := range []struct {
		name  string
		empty bool // the directory is there, and empty
		want  string
	}{
		{"trackerd-1", false, "tnv restore"}, {"trackerd-1", true, "tnv restore"}, {"stored-2", false, "mkdir"}, {"stored-2", true, ""},
	} {
		cfg := config(t)
		up := func() error {
			_, err := Up(context.Background(), cfg)
			return err
		}
		down := func() {
			if _, err := Down(context.Background(), cfg.Dir, cfg.Log); err != nil {
				t.Fatal(err)
			}
		}
		if err := up(); err != nil {
			t.Fatal(err)
		}
		down()
		data, aside := filepath.Join(cfg.Dir, lost.name), filepath.Join(cfg.Dir, "..", "aside")
		if err := os.Rename(data, aside); err != nil {
			t.Fatal(err)
		}
		if lost.empty {
			os.Mkdir(data, 0o755)
		}
		err := up()
		switch {
		case lost.want == "":
			if err != nil {
				t.Errorf("%+v: %v", lost, err)
			}
			down()
		case tnv.KindOf(err) != tnv.KindNotExist || !strings.Contains(err.Error(), lost.want) || !strings.Contains(err.Error(), data):
			t.Errorf("%+v: %v", lost, err)
		}
		os.RemoveAll(data)
		if err := os.Rename(aside, data); err != nil {
			t.Fatal(err)
		}
		if err := up(); err != nil {
			t.Errorf("%+v: restored: %v", lost, err)
		}
		down()
	}
}
