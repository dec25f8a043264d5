package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/cluster"
	"github.com/tnvfs/tnv/meta"
	"github.com/tnvfs/tnv/protocol"
	"github.com/tnvfs/tnv/ship"
	"github.com/tnvfs/tnv/trackerd"
)

// restoring is what `tnv restore` was told.
type restoring struct {
	store
	stores  string
	lineage uint64
	list    bool
	anyway  bool
}

func (a *app) restoreCommand() *cobra.Command {
	var r restoring
	cmd := &cobra.Command{
		Use:   "restore --store DIR --stores ADDR[,ADDR...]",
		Short: "Make a lost tracker's directory again, from the storage groups",
		Long: `Make the directory of a tracker with the embedded engine again, from the copy of its
metadata that it keeps in the storage groups: as of a second before it was lost. DIR must not
be there. The storage daemons must run, all of them if that can be, for one that does not
answer may have something newer. The tracker must not run: two that go on from one state are
one too many.
Mounts that were there begin new sessions. Blocks that the restored metadata does not name are
kept until tnv collect --approve.`,
		Example: `  tnv restore --dir ~/tnv && tnv up --dir ~/tnv
  tnv restore --store /srv/tnv/tracker --keyfile /etc/tnv/key --stores 10.0.0.2:7500,10.0.0.3:7500`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.restore(cmd.Context(), &r) },
	}
	r.register(cmd)
	f := cmd.Flags()
	f.StringVar(&r.stores, "stores", "", "addresses of the storage daemons; default with --dir: those that run there")
	f.Uint64Var(&r.lineage, "lineage", 0, "which tracker's copy, where there are several (--list shows them)")
	f.BoolVar(&r.list, "list", false, "only show of which trackers there are copies")
	f.BoolVar(&r.anyway, "anyway", false, "restore though a storage daemon does not answer")
	return cmd
}

func (a *app) restore(ctx context.Context, r *restoring) error {
	key, err := r.settle()
	if err != nil {
		return err
	}
	if len(key.Secret) == 0 {
		return usage("--keyfile is missing: the storage daemons want the cluster's key")
	}
	addrs, err := r.addrs()
	if err != nil {
		return err
	}
	pool := &protocol.Pool{Endpoint: &protocol.Endpoint{Key: key, Role: protocol.RoleTool}}
	defer pool.Close()
	src, err := storesAt(ctx, pool, addrs, r.anyway)
	if err != nil {
		return err
	}
	lineage, err := a.chooseLineage(ctx, src, r)
	if err != nil || r.list {
		return err
	}
	if _, err := os.Stat(r.at); err == nil {
		return tnv.E("restore", tnv.KindExist, "%s is there: move it away first, it may know more than the copy", r.at)
	}
	return a.restoreTo(ctx, src, lineage, key, r.at, r.anyway)
}

// addrs is where the storage daemons are.
func (r *restoring) addrs() ([]string, error) {
	if r.stores != "" {
		return strings.FieldsFunc(r.stores, func(c rune) bool { return c == ',' || c == ' ' }), nil
	}
	if r.dir == "" {
		return nil, usage("--stores is missing: name the storage daemons' addresses")
	}
	var l []string
	for _, p := range (cluster.Layout{Dir: r.dir}).Records() {
		if strings.HasPrefix(p.Name, "stored-") && p.Alive() {
			l = append(l, p.Addr)
		}
	}
	if len(l) == 0 {
		return nil, tnv.E("restore", tnv.KindUnavailable, "no storage daemon of the cluster in %s runs: start them (`stored`), and name them with --stores", r.dir)
	}
	return l, nil
}

// storesAt asks storage daemons who they are.
func storesAt(ctx context.Context, pool *protocol.Pool, addrs []string, anyway bool) (*ship.Stores, error) {
	m := &tnv.Map{Groups: []tnv.Group{{ID: 1}}}
	for _, addr := range addrs {
		call, cancel := context.WithTimeout(ctx, 10*time.Second)
		var who protocol.SyncReply
		err := pool.Call(call, addr, protocol.TypeSync, &who, &protocol.Sync{})
		cancel()
		if err != nil && !anyway {
			return nil, &tnv.Error{Op: "restore", Kind: tnv.KindOf(err), Msg: "storage daemon " + addr + " does not answer; it may have something newer than the others (--anyway goes on without it)", Err: err}
		}
		if err == nil {
			m.Groups[0].Nodes = append(m.Groups[0].Nodes, tnv.Node{ID: who.Node, Addr: addr, State: tnv.NodeAlive})
		}
	}
	return &ship.Stores{Pool: pool, Map: func() *tnv.Map { return m }}, nil
}

// chooseLineage finds the tracker that is meant, and shows all if asked to.
func (a *app) chooseLineage(ctx context.Context, src *ship.Stores, r *restoring) (uint64, error) {
	all, err := ship.Lineages(ctx, src)
	if err != nil && !r.anyway {
		return 0, tnv.Wrap("restore", err)
	}
	var whole []uint64
	for _, l := range all {
		state := "no checkpoint was completed: it cannot be restored"
		if l.Ends > 0 {
			whole = append(whole, l.ID)
			state = "can be restored"
		}
		if r.list {
			fmt.Fprintf(a.stdout, "%d\t%d pieces\t%s\n", l.ID, l.Pieces, state)
		}
	}
	switch {
	case r.list || r.lineage != 0:
		return r.lineage, nil
	case len(whole) == 0:
		return 0, tnv.E("restore", tnv.KindNotExist, "the storage daemons hold no copy of a tracker's metadata that is complete")
	case len(whole) > 1:
		return 0, tnv.E("restore", tnv.KindInvalid, "there are copies of several trackers: name one with --lineage (%v)", whole)
	}
	return whole[0], nil
}

// restoreTo makes the directory: beside its place first, so that it is whole or not there.
func (a *app) restoreTo(ctx context.Context, src *ship.Stores, lineage uint64, key protocol.Key, dir string, anyway bool) (err error) {
	l := logrus.New()
	l.SetOutput(io.Discard)
	made := dir + ".restoring"
	if err := os.RemoveAll(made); err != nil { // of one that was interrupted
		return tnv.Wrap("restore", err)
	}
	defer os.RemoveAll(made)
	e, _, err := trackerd.OpenStore(made, key.Cluster, true, logrus.NewEntry(l))
	if err != nil {
		return err
	}
	done, err := ship.Restore(ctx, src, lineage, e)
	if err == nil && done.Unheard != nil && !anyway {
		err = tnv.Wrap("restore", done.Unheard)
	}
	if err == nil {
		err = meta.FinishRestore(ctx, e, time.Now())
	}
	if err = errors.Join(err, e.Close()); err != nil {
		return err
	}
	if err := os.Rename(made, dir); err != nil {
		return tnv.Wrap("restore", err)
	}
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return tnv.Wrap("restore", err)
	}
	if err := errors.Join(parent.Sync(), parent.Close()); err != nil {
		return tnv.Wrap("restore", err)
	}
	fmt.Fprintf(a.stderr, "restored %d volumes into %s: %d records of a checkpoint, %d batches since\n", len(done.Volumes)-1, dir, done.Records, done.Batches)
	return nil
}
