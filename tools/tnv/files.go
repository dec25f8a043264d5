package main

import (
	"context"
	"errors"
	"os"
	"path"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/protocol"
)

// volume is a connection to a volume for one command, with the identity of the caller.
type volume struct {
	*client.Client
	cred tnv.Cred
}

// toolMemory is what a command on files may use for blocks.
const toolMemory = 128 << 20

// onVolume connects, runs a command's work, and ends the connection: what was
// written is flushed, and an error of that is the command's.
func (a *app) onVolume(cmd *cobra.Command, loc *location, readOnly bool, work func(ctx context.Context, v volume) error) (err error) {
	at, err := loc.find()
	if err != nil {
		return err
	}
	log := logrus.New()
	log.SetOutput(a.stderr)
	log.SetLevel(logrus.ErrorLevel)
	host, _ := os.Hostname()
	c, err := client.Connect(cmd.Context(), client.Config{
		Trackers: at.Trackers, Key: at.Key, Volume: loc.volume, ReadOnly: readOnly, Memory: toolMemory,
		Name: cmd.CommandPath() + " on " + host, Log: logrus.NewEntry(log),
	})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 30*time.Second)
		defer cancel()
		err = errors.Join(err, c.Close(ctx))
	}()
	return work(cmd.Context(), volume{c, tnv.Cred{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}})
}

// clean makes a path of the volume absolute.
func clean(p string) string { return path.Clean("/" + p) }

// resolve finds a path, following symbolic links at its end if asked to.
func (v volume) resolve(ctx context.Context, p string, follow bool) (protocol.ResolveReply, error) {
	r, err := v.Resolve(ctx, v.cred, clean(p), follow)
	return r, withPath(p, err)
}

// parent finds the directory in which a path's last element stands or would stand.
func (v volume) parent(ctx context.Context, p string) (dir tnv.Ino, name string, err error) {
	p = clean(p)
	if p == "/" {
		return 0, "", tnv.E(p, tnv.KindInvalid, "that is the volume itself")
	}
	d, name := path.Split(p)
	r, err := v.resolve(ctx, d, true)
	if err == nil && !r.Attr.IsDir() {
		err = tnv.E(d, tnv.KindNotDir, "")
	}
	return r.Attr.Ino, name, err
}

// withPath names the path in an error.
func withPath(p string, err error) error {
	if err == nil {
		return nil
	}
	var e *tnv.Error
	if errors.As(err, &e) && e.Err == nil {
		return &tnv.Error{Op: p, Kind: e.Kind, Msg: e.Msg}
	}
	return tnv.Wrap(p, err)
}

// entry is a directory's entry with its attributes.
type entry struct {
	name string
	attr tnv.Attr
}

// pageSize is how many entries are asked for at a time.
const pageSize = 1000

// eachEntry calls fn for the entries of a directory, in no particular order.
func (v volume) eachEntry(ctx context.Context, dir tnv.Ino, fn func(entry) error) error {
	req := protocol.ReadDir{Ino: dir, Limit: pageSize, Attrs: true}
	for {
		page, err := v.ReadDir(ctx, v.cred, req)
		if err != nil {
			return err
		}
		for i, d := range page.Entries {
			if err := fn(entry{d.Name, page.Attrs[i]}); err != nil {
				return err
			}
			req.Cookie = d.Cookie
		}
		if page.End || len(page.Entries) == 0 {
			return nil
		}
	}
}

// entries reads a whole directory.
func (v volume) entries(ctx context.Context, dir tnv.Ino) (all []entry, err error) {
	err = v.eachEntry(ctx, dir, func(e entry) error {
		all = append(all, e)
		return nil
	})
	return all, err
}

// typeWord names a type of inode in JSON.
func typeWord(t tnv.FileType) string {
	switch t {
	case tnv.TypeDir:
		return "directory"
	case tnv.TypeRegular:
		return "file"
	case tnv.TypeSymlink:
		return "symlink"
	case tnv.TypeFIFO:
		return "fifo"
	case tnv.TypeSocket:
		return "socket"
	case tnv.TypeChar:
		return "char"
	case tnv.TypeBlock:
		return "block"
	}
	return "unknown"
}

// modeString writes a mode as ls -l does.
func modeString(mode uint32) string {
	letters := map[tnv.FileType]byte{tnv.TypeDir: 'd', tnv.TypeRegular: '-', tnv.TypeSymlink: 'l', tnv.TypeFIFO: 'p',
		tnv.TypeSocket: 's', tnv.TypeChar: 'c', tnv.TypeBlock: 'b'}
	b := []byte("?rwxrwxrwx")
	if l, ok := letters[tnv.FileType(mode>>12&0o17)]; ok {
		b[0] = l
	}
	for i := range 9 {
		if mode>>(8-i)&1 == 0 {
			b[i+1] = '-'
		}
	}
	special := []struct {
		bit  uint32
		at   int
		x, n byte // with and without the right to execute
	}{{0o4000, 3, 's', 'S'}, {0o2000, 6, 's', 'S'}, {0o1000, 9, 't', 'T'}}
	for _, sp := range special {
		switch {
		case mode&sp.bit == 0:
		case b[sp.at] == 'x':
			b[sp.at] = sp.x
		default:
			b[sp.at] = sp.n
		}
	}
	return string(b)
}

// completePath completes nothing locally: the argument is a path of the volume.
func completePath(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// childPath joins a directory's path and a name.
func childPath(dir, name string) string { return strings.TrimSuffix(dir, "/") + "/" + name }
