package main

import (
	"context"
	"fmt"
	"path"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/cluster"
	"github.com/tnvfs/tnv/protocol"
)

const (
	scrubAsk   = 5 * time.Second // one storage daemon's answer
	scrubPoll  = 500 * time.Millisecond
	scrubTell  = 10 * time.Second // between lines of progress
	scrubMends = time.Minute      // for what was found to be mended, at the end
)

func (a *app) scrubCommand() *cobra.Command {
	var loc location
	var now bool
	cmd := &cobra.Command{
		Use:   "scrub [--now]",
		Short: "Show how far storage daemons are with checking all blocks; or have them check all now",
		Long: `Storage daemons read all their blocks within 14 days, compare them with their checksums, and
mend what is bad from another member of the group. This shows how far they are, and which
files were hit since they were started. With --now they check everything at once, at a
bounded rate, which is less while clients read; the command waits for them, and ends with
exit code 1 if something is damaged and could not be mended, or a daemon does not answer.`,
		Example: `  tnv scrub
  tnv scrub --now`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.onVolume(cmd, &loc, true, func(ctx context.Context, v volume) error {
				at, err := loc.find()
				if err != nil {
					return err
				}
				s := scrub{a: a, v: v, pool: &protocol.Pool{Endpoint: &protocol.Endpoint{Key: at.Key, Role: protocol.RoleTool}}}
				defer s.pool.Close()
				st, err := cluster.AskStatus(ctx, at.Trackers, at.Key)
				if err != nil {
					return err
				}
				return s.run(ctx, &st, now)
			})
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "check all blocks at once, and wait for it")
	loc.register(cmd)
	return cmd
}

// scrub is one run of the command.
type scrub struct {
	a    *app
	v    volume
	pool *protocol.Pool
}

// scrubbed is what one storage daemon says.
type scrubbed struct {
	group string
	node  tnv.Node
	rep   protocol.ScrubReply
	err   error
}

func (s *scrub) run(ctx context.Context, st *protocol.Status, now bool) error {
	all := s.ask(ctx, st, now)
	told, ended := time.Now(), time.Time{}
	for now {
		running, waiting := 0, uint64(0)
		var done, total uint64
		for _, x := range all {
			if x.rep.Hurried {
				running++
			}
			waiting += x.rep.Waiting
			done, total = done+x.rep.Bytes, total+x.rep.TotalBytes
		}
		if running == 0 && ended.IsZero() {
			ended = time.Now()
		}
		if running == 0 && (waiting == 0 || time.Since(ended) > scrubMends) {
			break
		}
		if time.Since(told) > scrubTell {
			fmt.Fprintf(s.a.stderr, "%d storage daemons at work: %s of %s\n", running, formatSize(done), formatSize(total))
			told = time.Now()
		}
		select {
		case <-time.After(scrubPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
		all = s.ask(ctx, st, false)
	}
	return s.print(ctx, all)
}

// ask asks all storage daemons.
func (s *scrub) ask(ctx context.Context, st *protocol.Status, now bool) (all []scrubbed) {
	for _, g := range st.Groups {
		for _, n := range g.Nodes {
			x := scrubbed{group: g.Name, node: n.Node}
			actx, cancel := context.WithTimeout(ctx, scrubAsk)
			x.err = s.pool.Call(actx, n.Node.Addr, protocol.TypeScrub, &x.rep, &protocol.Scrub{Now: now})
			cancel()
			all = append(all, x)
		}
	}
	return all
}

// print shows what was found; its error is what a person must see to.
func (s *scrub) print(ctx context.Context, all []scrubbed) error {
	t := tabwriter.NewWriter(s.a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GROUP\tNODE\tADDRESS\tREAD\tOF\tPASSES\tBAD\tTO MEND")
	var found []protocol.BadBlock
	var silent, left int
	for _, x := range all {
		if x.err != nil {
			silent++
			fmt.Fprintf(t, "%s\t%s\t%s\tdoes not answer: %v\n", x.group, x.node.ID, x.node.Addr, x.err)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\n", x.group, x.node.ID, x.node.Addr, formatSize(x.rep.Bytes), formatSize(x.rep.TotalBytes),
			x.rep.Passes, x.rep.Bad, x.rep.Waiting)
		found = append(found, x.rep.Found...)
	}
	if len(found) > 0 {
		fmt.Fprintln(t, "\nDAMAGED\tBLOCK\tSTATE\tWHY")
	}
	names, err := s.paths(ctx, found)
	for _, b := range found {
		state := "mended"
		if !b.Mended {
			state = "NOT MENDED"
			left++
		}
		fmt.Fprintf(t, "%s\t%v\t%s\t%s\n", names[b.Home.Ino], b.Key, state, b.Why)
	}
	if ferr := t.Flush(); err == nil {
		err = ferr
	}
	switch {
	case err != nil:
		return err
	case left > 0:
		return tnv.E("scrub", tnv.KindCorrupt, "%d blocks are damaged, and no member of their group has given a good copy yet", left)
	case silent > 0:
		return tnv.E("scrub", tnv.KindUnavailable, "%d storage daemons do not answer", silent)
	}
	return nil
}

// paths looks for the names of damaged files, by walking the volume if there are any.
func (s *scrub) paths(ctx context.Context, found []protocol.BadBlock) (map[tnv.Ino]string, error) {
	names, wanted := map[tnv.Ino]string{}, map[tnv.Ino]bool{}
	for _, b := range found {
		names[b.Home.Ino] = fmt.Sprintf("inode %d of volume %d", b.Home.Ino, b.Key.Vol)
		if b.Key.Vol == s.v.Info().Vol {
			wanted[b.Home.Ino] = true
		}
	}
	for dirs := []string{"/"}; len(dirs) > 0 && len(wanted) > 0; {
		dir := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		entries, err := s.v.ReadDirPath(ctx, dir)
		if err != nil {
			return names, withPath(dir, err)
		}
		for _, e := range entries {
			p := path.Join(dir, e.Name)
			if e.Attr.IsDir() {
				dirs = append(dirs, p)
			}
			if wanted[e.Attr.Ino] {
				names[e.Attr.Ino] = p
				delete(wanted, e.Attr.Ino)
			}
		}
	}
	return names, nil
}
