package main

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

func (a *app) mkdirCommand() *cobra.Command {
	var loc location
	var parents bool
	cmd := &cobra.Command{
		Use:               "mkdir PATH…",
		Short:             "Make directories",
		Example:           "  tnv mkdir -p /films/1927",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: completePath,
		RunE: func(cmd *cobra.Command, paths []string) error {
			return a.onVolume(cmd, &loc, false, func(ctx context.Context, v volume) error {
				for _, p := range paths {
					make := v.mkdir
					if parents {
						make = v.mkdirAll
					}
					if err := make(ctx, p); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&parents, "parents", "p", false, "make what is above too, and be content with what is there")
	loc.register(cmd)
	return cmd
}

func (v volume) mkdir(ctx context.Context, p string) error {
	dir, name, err := v.parent(ctx, p)
	if err == nil {
		_, err = v.Mkdir(ctx, v.cred, protocol.Mkdir{Parent: dir, Name: name, Mode: 0o755})
	}
	return withPath(p, err)
}

// mkdirAll makes a directory and those above it; one that is there is fine.
func (v volume) mkdirAll(ctx context.Context, p string) error {
	p = clean(p)
	r, err := v.Resolve(ctx, v.cred, p, true)
	switch {
	case err == nil && r.Attr.IsDir():
		return nil
	case err == nil:
		return tnv.E(p, tnv.KindNotDir, "")
	case tnv.KindOf(err) != tnv.KindNotExist || p == "/":
		return withPath(p, err)
	}
	if err := v.mkdirAll(ctx, path.Dir(p)); err != nil {
		return err
	}
	if err := v.mkdir(ctx, p); err != nil && tnv.KindOf(err) != tnv.KindExist {
		return err
	}
	return nil
}

func (a *app) rmCommand() *cobra.Command {
	var loc location
	var recursive, force bool
	cmd := &cobra.Command{
		Use:               "rm PATH…",
		Short:             "Remove files, and directories with -r",
		Example:           "  tnv rm -r /films/old",
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: completePath,
		RunE: func(cmd *cobra.Command, paths []string) error {
			return a.onVolume(cmd, &loc, false, func(ctx context.Context, v volume) error {
				var errs []error
				for _, p := range paths {
					if err := v.remove(ctx, p, recursive); err != nil && !(force && tnv.KindOf(err) == tnv.KindNotExist) {
						errs = append(errs, err)
					}
				}
				return errors.Join(errs...)
			})
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "directories, with all that is in them")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "what is not there is no error")
	loc.register(cmd)
	return cmd
}

// remove removes a path; a directory only if recursive.
func (v volume) remove(ctx context.Context, p string, recursive bool) error {
	dir, name, err := v.parent(ctx, p)
	if err != nil {
		return err
	}
	at, err := v.Lookup(ctx, v.cred, dir, name)
	if err != nil {
		return withPath(p, err)
	}
	if at.IsDir() && !recursive {
		return tnv.E(p, tnv.KindIsDir, "remove it and all that is in it with -r")
	}
	return v.removeEntry(ctx, dir, name, at, p)
}

// removeEntry removes an entry, a directory's content first.
func (v volume) removeEntry(ctx context.Context, dir tnv.Ino, name string, at tnv.Attr, p string) error {
	if !at.IsDir() {
		_, err := v.Unlink(ctx, v.cred, protocol.Unlink{Parent: dir, Name: name})
		return withPath(p, err)
	}
	for { // page by page from the start: memory stays bounded, however large it is
		page, err := v.ReadDir(ctx, v.cred, protocol.ReadDir{Ino: at.Ino, Limit: pageSize, Attrs: true})
		if err != nil {
			return withPath(p, err)
		}
		for i, d := range page.Entries {
			err := v.removeEntry(ctx, at.Ino, d.Name, page.Attrs[i], childPath(p, d.Name))
			if err != nil && tnv.KindOf(err) != tnv.KindNotExist { // someone else was faster
				return err
			}
		}
		if page.End || len(page.Entries) == 0 {
			break
		}
	}
	return withPath(p, v.Rmdir(ctx, v.cred, protocol.Rmdir{Parent: dir, Name: name}))
}

func (a *app) mvCommand() *cobra.Command {
	var loc location
	var noClobber bool
	cmd := &cobra.Command{
		Use:   "mv SOURCE… TARGET",
		Short: "Rename files and directories, or move them into a directory",
		Example: `  tnv mv /films/a.mkv /films/b.mkv
  tnv mv /films/a.mkv /films/b.mkv /archive/`,
		Args:              args(cobra.MinimumNArgs(2)),
		ValidArgsFunction: completePath,
		RunE: func(cmd *cobra.Command, paths []string) error {
			return a.onVolume(cmd, &loc, false, func(ctx context.Context, v volume) error {
				return v.move(ctx, paths[:len(paths)-1], paths[len(paths)-1], noClobber)
			})
		},
	}
	cmd.Flags().BoolVarP(&noClobber, "no-clobber", "n", false, "never replace what is there")
	loc.register(cmd)
	return cmd
}

func (v volume) move(ctx context.Context, sources []string, target string, noClobber bool) error {
	var flags uint32
	if noClobber {
		flags = protocol.RenameNoReplace
	}
	into, err := v.isDir(ctx, target)
	if err != nil {
		return err
	}
	if len(sources) > 1 && !into {
		return tnv.E(target, tnv.KindNotDir, "several files can only be moved into a directory")
	}
	for _, src := range sources {
		to := target
		if into {
			to = childPath(target, path.Base(clean(src)))
		}
		dir, name, err := v.parent(ctx, src)
		if err != nil {
			return err
		}
		newDir, newName, err := v.parent(ctx, to)
		if err != nil {
			return err
		}
		_, err = v.Rename(ctx, v.cred, protocol.Rename{Parent: dir, Name: name, NewParent: newDir, NewName: newName, Flags: flags})
		if err != nil {
			return withPath(fmt.Sprintf("%s to %s", src, to), err)
		}
	}
	return nil
}

// isDir tells whether a directory is at a path; nothing there is no error.
func (v volume) isDir(ctx context.Context, p string) (bool, error) {
	r, err := v.Resolve(ctx, v.cred, clean(p), true)
	if tnv.KindOf(err) == tnv.KindNotExist && err != nil {
		return false, nil
	}
	return err == nil && r.Attr.IsDir(), withPath(p, err)
}
