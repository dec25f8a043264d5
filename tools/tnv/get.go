package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
)

func (a *app) catCommand() *cobra.Command {
	var loc location
	cmd := &cobra.Command{
		Use:               "cat PATH…",
		Short:             "Write files to standard output",
		Example:           "  tnv cat /films/a.mkv | ffprobe -",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: completePath,
		RunE: func(cmd *cobra.Command, paths []string) error {
			return a.onVolume(cmd, &loc, true, func(ctx context.Context, v volume) error {
				for _, p := range paths {
					r, err := v.resolve(ctx, p, true)
					if err != nil {
						return err
					}
					if err := v.read(ctx, p, &r.Attr, a.stdout, progress{}); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	loc.register(cmd)
	return cmd
}

// read copies a file's content to w.
func (v volume) read(ctx context.Context, p string, at *tnv.Attr, w io.Writer, bar progress) error {
	switch {
	case at.IsDir():
		return tnv.E(p, tnv.KindIsDir, "")
	case !at.IsRegular():
		return tnv.E(p, tnv.KindInvalid, "it is a %s, not a file", typeWord(at.Type()))
	}
	h, _, err := v.OpenFile(ctx, at.Ino, os.O_RDONLY)
	if err != nil {
		return withPath(p, err)
	}
	return withPath(p, errors.Join(readAll(ctx, h, w, bar), h.Close()))
}

// getting is one run of `tnv get`.
type getting struct {
	v         volume
	bar       progress
	recursive bool
	preserve  bool
}

func (a *app) getCommand() *cobra.Command {
	var loc location
	var g getting
	var quiet bool
	cmd := &cobra.Command{
		Use:   "get PATH… LOCAL",
		Short: "Copy files from the volume",
		Long: `Copy files from the volume to this machine. LOCAL is a directory, or the new name of a
single file. A file appears under its name when it is there as a whole.`,
		Example: `  tnv get /films/a.mkv .
  tnv get -r /films /backup/`,
		Args:              args(cobra.MinimumNArgs(2)),
		ValidArgsFunction: completePath,
		RunE: func(cmd *cobra.Command, paths []string) error {
			return a.onVolume(cmd, &loc, true, func(ctx context.Context, v volume) error {
				sources, local := paths[:len(paths)-1], paths[len(paths)-1]
				fi, err := os.Stat(local)
				into := err == nil && fi.IsDir()
				if len(sources) > 1 && !into {
					return tnv.E(local, tnv.KindNotDir, "several files can only be copied into a directory")
				}
				g.v, g.bar = v, a.newProgress(-1, "get", quiet)
				defer g.bar.end()
				for _, p := range sources {
					to := local
					if into {
						to = filepath.Join(local, path.Base(clean(p)))
					}
					r, err := v.resolve(ctx, p, true)
					if err != nil {
						return err
					}
					if r.Attr.IsRegular() && len(sources) == 1 {
						g.bar = a.newProgress(int64(r.Attr.Size), path.Base(clean(p)), quiet)
					}
					if err := g.get(ctx, p, r.Attr, to); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&g.recursive, "recursive", "r", false, "directories, with all that is in them")
	f.BoolVarP(&g.preserve, "preserve", "p", false, "keep modification times")
	f.BoolVarP(&quiet, "quiet", "q", false, "no progress bar")
	loc.register(cmd)
	return cmd
}

func (g *getting) get(ctx context.Context, p string, at tnv.Attr, local string) error {
	switch {
	case at.IsRegular():
		return g.file(ctx, p, at, local)
	case at.Type() == tnv.TypeSymlink:
		target, err := g.v.ReadLink(ctx, g.v.cred, at.Ino)
		if err != nil {
			return withPath(p, err)
		}
		return os.Symlink(target, local)
	case !at.IsDir():
		return tnv.E(p, tnv.KindInvalid, "it is a %s, which is not copied", typeWord(at.Type()))
	case !g.recursive:
		return tnv.E(p, tnv.KindIsDir, "copy it and all that is in it with -r")
	}
	if err := os.MkdirAll(local, 0o755); err != nil {
		return err
	}
	all, err := g.v.entries(ctx, at.Ino)
	if err != nil {
		return withPath(p, err)
	}
	for _, e := range all {
		if !filepath.IsLocal(e.name) || filepath.Base(e.name) != e.name {
			return tnv.E(p, tnv.KindInvalid, "the entry %q has a name that this machine cannot take", e.name)
		}
		if err := g.get(ctx, childPath(p, e.name), e.attr, filepath.Join(local, e.name)); err != nil {
			return err
		}
	}
	return nil
}

// file copies to a temporary name beside the target, then renames.
func (g *getting) file(ctx context.Context, p string, at tnv.Attr, local string) error {
	g.bar.describe(path.Base(clean(p)))
	if fi, err := os.Stat(local); err == nil && !fi.Mode().IsRegular() { // /dev/null, a pipe: write through it
		f, err := os.OpenFile(local, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(g.v.read(ctx, p, &at, f, g.bar), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(local), ".tnv-get-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = g.v.read(ctx, p, &at, f, g.bar)
	if err == nil {
		err = f.Chmod(os.FileMode(at.Mode & 0o777))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if g.preserve {
		if err := os.Chtimes(f.Name(), tnv.Time(at.Atime), tnv.Time(at.Mtime)); err != nil {
			return err
		}
	}
	return os.Rename(f.Name(), local)
}
