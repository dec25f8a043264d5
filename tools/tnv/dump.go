package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/cluster"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
	"github.com/tnvfs/tnv/trackerd"
)

// store is a tracker's directory that a command works on while no tracker runs.
type store struct {
	dir     string // of a local cluster
	at      string // the tracker's own
	keyfile string
}

func (s *store) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.dir, "dir", "", "`DIR` of a cluster that tnv up made on this machine, and that is down")
	f.StringVar(&s.at, "store", "", "`DIR` of a tracker's data (trackerd --dir), which does not run; or postgres://…")
	f.StringVar(&s.keyfile, "keyfile", "", "file with the cluster's key; needed for a new directory")
	cmd.MarkFlagDirname("dir")
	cmd.MarkFlagDirname("store")
	cmd.MarkFlagFilename("keyfile")
}

// settle finds the tracker's directory, and the cluster's key if one is named.
func (s *store) settle() (key protocol.Key, err error) {
	switch {
	case s.dir != "" && s.at != "", s.dir == "" && s.at == "":
		return key, usage("name the tracker's directory: --store DIR, or --dir DIR of a cluster on this machine")
	case s.dir != "":
		s.at = filepath.Join(s.dir, "trackerd-1")
		if s.keyfile == "" {
			s.keyfile = cluster.Layout{Dir: s.dir}.KeyFile()
		}
	}
	if s.keyfile == "" {
		return key, nil
	}
	return protocol.ReadKeyFile(s.keyfile)
}

// open opens it; cluster is whose it is.
func (s *store) open(a *app, create bool) (e kv.Engine, cluster string, log *logrus.Entry, err error) {
	key, err := s.settle()
	if err != nil {
		return nil, "", nil, err
	}
	l := logrus.New()
	l.SetOutput(a.stderr)
	l.SetLevel(logrus.ErrorLevel)
	log = logrus.NewEntry(l)
	e, cluster, err = trackerd.OpenStore(s.at, key.Cluster, create, log)
	if tnv.KindOf(err) == tnv.KindBusy {
		err = &tnv.Error{Op: "open " + s.at, Kind: tnv.KindBusy, Msg: "a tracker runs on it: stop it first, nothing is written meanwhile"}
	}
	return e, cluster, log, err
}

func (a *app) dumpCommand() *cobra.Command {
	var at store
	var name string
	cmd := &cobra.Command{
		Use:   "dump --store DIR [FILE]",
		Short: "Write a volume's metadata to a file, to move it or to keep it",
		Long: `Write a volume's metadata, as it stands in a tracker's directory, to FILE or standard
output: names, attributes, extents, all that the blocks in the storage groups belong to.
The tracker must not run. Sessions and locks are not part of it. The format is told in
docs/dump.md; tnv load reads it. Blocks that are deleted after a dump was made are missing
in what is loaded from it: to move a volume, load the dump before the old tracker runs again.`,
		Example: "  tnv dump --store /srv/tnv/tracker --volume media media.dump\n  tnv dump --dir ~/tnv | tnv load --store /srv/new/tracker --keyfile ~/tnv/key",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) (err error) {
			e, owner, _, err := at.open(a, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, e.Close()) }()
			out, commit, err := a.output(files)
			if err != nil {
				return err
			}
			st, err := meta.Dump(cmd.Context(), e, owner, name, out)
			if err = commit(err); err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "dumped %v: %d inodes, %d records\n", st.Info, st.Files, st.Records)
			return nil
		},
	}
	at.register(cmd)
	cmd.Flags().StringVar(&name, "volume", "media", "volume")
	return cmd
}

// output opens the file that is named, or standard output. commit keeps what was
// written if the error given is nil, on disk, and else leaves what was there.
func (a *app) output(files []string) (w io.Writer, commit func(error) error, err error) {
	if len(files) == 0 || files[0] == "-" {
		return a.stdout, func(err error) error { return err }, nil
	}
	f, err := os.CreateTemp(filepath.Dir(files[0]), ".tnv-dump-*")
	if err != nil {
		return nil, nil, tnv.Wrap("write "+files[0], err)
	}
	return f, func(err error) error {
		if err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
		if err == nil {
			err = os.Rename(f.Name(), files[0])
		}
		if err != nil {
			os.Remove(f.Name())
		}
		return err
	}, nil
}

func (a *app) loadCommand() *cobra.Command {
	var at store
	cmd := &cobra.Command{
		Use:   "load --store DIR [FILE]",
		Short: "Load a volume's metadata that tnv dump wrote",
		Long: `Load a volume from FILE or standard input into a tracker's directory, which is made if
it is not there. The tracker must not run. The volume keeps its name and id; it must not be
there yet, or be empty. Unless all of the dump is whole nothing changes. Afterwards blocks
that the dump does not name are kept until tnv collect --approve.`,
		Example: "  tnv load --store /srv/tnv/tracker --keyfile /etc/tnv/key media.dump",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) (err error) {
			in := a.stdin
			if len(files) == 1 && files[0] != "-" {
				f, err := os.Open(files[0])
				if err != nil {
					return tnv.Wrap("load", err)
				}
				defer f.Close()
				in = f
			}
			e, owner, log, err := at.open(a, true)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, e.Close()) }()
			st, err := meta.Load(cmd.Context(), e, owner, in, log)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "loaded %v: %d inodes, %d records\n", st.Info, st.Files, st.Records)
			return nil
		},
	}
	at.register(cmd)
	return cmd
}
