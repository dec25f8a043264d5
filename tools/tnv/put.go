package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// putting is one run of `tnv put`.
type putting struct {
	v         volume
	bar       progress
	recursive bool
	preserve  bool
	sync      bool
}

func (a *app) putCommand() *cobra.Command {
	var loc location
	var p putting
	var quiet bool
	cmd := &cobra.Command{
		Use:   "put LOCAL… PATH",
		Short: "Copy files into the volume",
		Long: `Copy files into the volume. PATH is a directory, or the new name of a single file. A file
appears under its name when it is there as a whole, and replaces the one before. "-" reads
standard input.`,
		Example: `  tnv put film.mkv /films/
  tnv put -r ~/Music /
  ffmpeg -i in.mp4 -f matroska - | tnv put - /films/out.mkv`,
		Args: args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.onVolume(cmd, &loc, false, func(ctx context.Context, v volume) error {
				sources, target := names[:len(names)-1], names[len(names)-1]
				into, err := v.isDir(ctx, target)
				if err != nil {
					return err
				}
				if !into && (len(sources) > 1 || len(target) > 1 && target[len(target)-1] == '/') {
					return tnv.E(target, tnv.KindNotDir, "make the directory first with `tnv mkdir`")
				}
				total := int64(-1)
				if fi, err := os.Stat(sources[0]); err == nil && len(sources) == 1 && fi.Mode().IsRegular() {
					total = fi.Size()
				}
				p.v, p.bar = v, a.newProgress(total, "put", quiet)
				defer p.bar.end()
				for _, src := range sources {
					to := target
					if into {
						to = childPath(target, filepath.Base(src))
					}
					if src == "-" {
						if into {
							return usage("standard input needs a name: give PATH as that of the new file")
						}
						err = p.content(ctx, a.stdin, to, 0o644, time.Time{})
					} else {
						err = p.put(ctx, src, to)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&p.recursive, "recursive", "r", false, "directories, with all that is in them")
	f.BoolVarP(&p.preserve, "preserve", "p", false, "keep modification times")
	f.BoolVar(&p.sync, "sync", false, "return only when the data is on the disks of all that hold it (fsync)")
	f.BoolVarP(&quiet, "quiet", "q", false, "no progress bar")
	loc.register(cmd)
	return cmd
}

func (p *putting) put(ctx context.Context, src, to string) error {
	fi, err := os.Stat(src)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return p.file(ctx, src, to)
	}
	if !p.recursive {
		return tnv.E(src, tnv.KindIsDir, "copy it and all that is in it with -r")
	}
	return filepath.WalkDir(src, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, name)
		if err != nil {
			return err
		}
		dst := clean(path.Join(to, filepath.ToSlash(rel)))
		switch {
		case d.IsDir():
			return p.v.mkdirAll(ctx, dst)
		case d.Type()&fs.ModeSymlink != 0:
			return p.symlink(ctx, name, dst)
		case d.Type().IsRegular():
			return p.file(ctx, name, dst)
		}
		return tnv.E(name, tnv.KindInvalid, "it is neither file nor directory, and is not copied")
	})
}

func (p *putting) symlink(ctx context.Context, name, dst string) error {
	target, err := os.Readlink(name)
	if err != nil {
		return err
	}
	dir, base, err := p.v.parent(ctx, dst)
	if err != nil {
		return err
	}
	_, err = p.v.Symlink(ctx, p.v.cred, protocol.Symlink{Parent: dir, Name: base, Target: target})
	return withPath(dst, err)
}

func (p *putting) file(ctx context.Context, src, to string) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	p.bar.describe(filepath.Base(src))
	mtime := time.Time{}
	if p.preserve {
		mtime = fi.ModTime()
	}
	return p.content(ctx, f, to, uint32(fi.Mode().Perm()), mtime)
}

// content writes r to a temporary name beside the target, then renames it.
func (p *putting) content(ctx context.Context, r io.Reader, to string, mode uint32, mtime time.Time) (err error) {
	v := p.v
	dir, name, err := v.parent(ctx, to)
	if err != nil {
		return err
	}
	if at, err := v.Lookup(ctx, v.cred, dir, name); err == nil && at.IsDir() {
		return tnv.E(to, tnv.KindIsDir, "")
	}
	temp := ".tnv-put-" + rand.Text()
	made, err := v.Create(ctx, v.cred, protocol.Create{Parent: dir, Name: temp, Mode: tnv.TypeRegular.Mode() | mode, Excl: true})
	if err != nil {
		return withPath(to, err)
	}
	defer func() {
		if err != nil { // what was begun goes away, even if ctx has ended
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			_, rmErr := v.Unlink(ctx, v.cred, protocol.Unlink{Parent: dir, Name: temp})
			err = errors.Join(err, withPath("remove "+temp, rmErr))
		}
	}()
	if err := p.write(ctx, made.Attr.Ino, r); err != nil {
		return withPath(to, err)
	}
	if !mtime.IsZero() {
		set := protocol.SetAttr{Ino: made.Attr.Ino, Mask: protocol.SetMtime | protocol.SetAtime, Mtime: mtime.UnixNano(), Atime: mtime.UnixNano()}
		if _, err := v.SetAttr(ctx, v.cred, set); err != nil {
			return withPath(to, err)
		}
	}
	_, err = v.Rename(ctx, v.cred, protocol.Rename{Parent: dir, Name: temp, NewParent: dir, NewName: name})
	return withPath(to, err)
}

func (p *putting) write(ctx context.Context, ino tnv.Ino, r io.Reader) error {
	h, _, err := p.v.OpenFile(ctx, ino, syscall.O_WRONLY)
	if err != nil {
		return err
	}
	return errors.Join(writeAll(ctx, h, r, p.bar, p.sync), h.Close())
}
