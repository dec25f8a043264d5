package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
)

// fileJSON is a file as `tnv ls --json` and `tnv stat --json` print it.
type fileJSON struct {
	Name   string    `json:"name"`
	Type   string    `json:"type"`
	Size   uint64    `json:"size"`
	Mode   string    `json:"mode"` // octal permissions
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	Nlink  uint32    `json:"nlink"`
	Ino    uint64    `json:"ino"`
	Blocks uint64    `json:"blocks"` // of 512 bytes
	Atime  time.Time `json:"atime"`
	Mtime  time.Time `json:"mtime"`
	Ctime  time.Time `json:"ctime"`
	Btime  time.Time `json:"btime"`
	Target string    `json:"target,omitempty"` // of a symbolic link
}

func toFileJSON(name string, at *tnv.Attr) fileJSON {
	return fileJSON{Name: name, Type: typeWord(at.Type()), Size: at.Size, Mode: fmt.Sprintf("%04o", at.Mode&0o7777), UID: at.UID, GID: at.GID,
		Nlink: at.Nlink, Ino: uint64(at.Ino), Blocks: at.Blocks, Atime: tnv.Time(at.Atime), Mtime: tnv.Time(at.Mtime),
		Ctime: tnv.Time(at.Ctime), Btime: tnv.Time(at.Btime)}
}

func (a *app) lsCommand() *cobra.Command {
	var loc location
	var long, asJSON bool
	cmd := &cobra.Command{
		Use:   "ls [PATH…]",
		Short: "List directories and files",
		Example: `  tnv ls -l /films
  tnv ls --json / | jq -r '.[].name'`,
		ValidArgsFunction: completePath,
		RunE: func(cmd *cobra.Command, paths []string) error {
			if len(paths) == 0 {
				paths = []string{"/"}
			}
			return a.onVolume(cmd, &loc, true, func(ctx context.Context, v volume) error {
				list := []fileJSON{}
				for _, p := range paths {
					files, err := v.list(ctx, p)
					if err != nil {
						return err
					}
					if asJSON {
						list = append(list, files...)
						continue
					}
					if len(paths) > 1 {
						fmt.Fprintf(a.stdout, "%s:\n", p)
					}
					if err := printFiles(a.stdout, files, long); err != nil {
						return err
					}
				}
				if asJSON {
					return a.printJSON(list)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "mode, owner, size and time as well")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	loc.register(cmd)
	return cmd
}

// list lists a directory's entries by name, or names a file alone.
func (v volume) list(ctx context.Context, p string) ([]fileJSON, error) {
	r, err := v.resolve(ctx, p, true)
	if err != nil {
		return nil, err
	}
	if !r.Attr.IsDir() {
		return []fileJSON{toFileJSON(p, &r.Attr)}, nil
	}
	all, err := v.entries(ctx, r.Attr.Ino)
	if err != nil {
		return nil, withPath(p, err)
	}
	slices.SortFunc(all, func(x, y entry) int { return strings.Compare(x.name, y.name) })
	files := make([]fileJSON, len(all))
	for i := range all {
		files[i] = toFileJSON(all[i].name, &all[i].attr)
		if all[i].attr.Type() == tnv.TypeSymlink {
			if files[i].Target, err = v.ReadLink(ctx, v.cred, all[i].attr.Ino); err != nil {
				return nil, withPath(childPath(p, all[i].name), err)
			}
		}
	}
	return files, nil
}

func printFiles(w io.Writer, files []fileJSON, long bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	for _, f := range files {
		name := printable(f.Name)
		if !long {
			if f.Type == "directory" {
				name += "/"
			}
			fmt.Fprintln(t, name)
			continue
		}
		if f.Target != "" {
			name += " -> " + printable(f.Target)
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", modeOf(f), f.Nlink, f.UID, f.GID, f.Size, f.Mtime.Format("2006-01-02 15:04"), name)
	}
	return t.Flush()
}

// printable keeps what a name holds from steering the terminal.
func printable(name string) string {
	q := fmt.Sprintf("%q", name)
	if inner := q[1 : len(q)-1]; inner != name && strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd || r >= 0x80 && r < 0xa0 }) {
		return q
	}
	return name
}

func modeOf(f fileJSON) string {
	var perm uint32
	fmt.Sscanf(f.Mode, "%o", &perm)
	for t := range tnv.FileType(16) {
		if typeWord(t) == f.Type && f.Type != "unknown" {
			return modeString(t.Mode() | perm)
		}
	}
	return modeString(perm)
}

func (a *app) statCommand() *cobra.Command {
	var loc location
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use:               "stat PATH…",
		Short:             "Show a file's attributes",
		Example:           "  tnv stat --json /films/a.mkv | jq .size",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: completePath,
		RunE: func(cmd *cobra.Command, paths []string) error {
			return a.onVolume(cmd, &loc, true, func(ctx context.Context, v volume) error {
				var list []fileJSON
				for _, p := range paths {
					r, err := v.resolve(ctx, p, follow)
					if err != nil {
						return err
					}
					f := toFileJSON(clean(p), &r.Attr)
					if r.Attr.Type() == tnv.TypeSymlink {
						if f.Target, err = v.ReadLink(ctx, v.cred, r.Attr.Ino); err != nil {
							return withPath(p, err)
						}
					}
					list = append(list, f)
				}
				switch {
				case !asJSON:
					return printStat(a.stdout, list)
				case len(list) == 1:
					return a.printJSON(list[0])
				}
				return a.printJSON(list)
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "L", false, "of a symbolic link: show what it leads to")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: one object for one path, an array for several")
	loc.register(cmd)
	return cmd
}

func printStat(w io.Writer, list []fileJSON) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range list {
		name := printable(f.Name)
		if f.Target != "" {
			name += " -> " + printable(f.Target)
		}
		fmt.Fprintf(t, "name\t%s\ntype\t%s\nsize\t%d (%s allocated)\nmode\t%s (%s)\nowner\t%d:%d\nlinks\t%d\ninode\t%d\n",
			name, f.Type, f.Size, formatSize(f.Blocks*512), f.Mode, modeOf(f), f.UID, f.GID, f.Nlink, f.Ino)
		for _, x := range []struct {
			k string
			t time.Time
		}{{"accessed", f.Atime}, {"modified", f.Mtime}, {"changed", f.Ctime}, {"born", f.Btime}} {
			fmt.Fprintf(t, "%s\t%s\n", x.k, x.t.Format(time.RFC3339Nano))
		}
	}
	return t.Flush()
}
