package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/client"
	"github.com/tnvfs/tnv/httpd"
	"github.com/tnvfs/tnv/httpd/access"
)

const maxLink = 365 * 24 * time.Hour

func (a *app) linkCommand() *cobra.Command {
	var loc location
	var life time.Duration
	var url string
	cmd := &cobra.Command{
		Use:   "link PATH [--for DURATION]",
		Short: "Make a link by which a file or directory can be read over HTTP without a login",
		Long: `Print a link to PATH of the volume that lets whoever has it read PATH, and all beneath it if it is
a directory, from any httpd of the volume, until its time is over. It cannot be taken back before
that: all links of a volume end only with the cluster's key.`,
		Example: "  tnv link /films/a.mkv --for 2h --url https://media.example.org",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, names []string) error {
			if life < time.Second || life > maxLink {
				return usage("--for %v: a link lives for at least a second, and at most a year", life)
			}
			at, err := loc.find()
			if err != nil {
				return err
			}
			if loc.volume == "" {
				loc.volume = "media"
			}
			c, err := client.Connect(cmd.Context(), client.Config{Trackers: at.Trackers, Key: at.Key, Volume: loc.volume, ReadOnly: true})
			if err != nil {
				return err
			}
			defer c.Close(cmd.Context())
			p := path.Clean("/" + names[0])
			st, err := c.Stat(cmd.Context(), p)
			if err != nil {
				return err
			}
			s := access.NewSigner(at.Key.Secret, at.Key.Cluster, loc.volume)
			fmt.Fprintln(a.stdout, strings.TrimRight(url, "/")+httpd.SignedPath(s, p, "", st.IsDir(), time.Now().Add(life)))
			return nil
		},
	}
	cmd.Flags().DurationVar(&life, "for", 24*time.Hour, "how long it is good")
	cmd.Flags().StringVar(&url, "url", "http://"+httpd.DefaultListen, "`URL` at which viewers find httpd")
	loc.register(cmd)
	return cmd
}

func (a *app) passwdCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "passwd FILE USER",
		Short: "Set the password of a user of httpd",
		Long: `Read a password (from the terminal, or the first line of standard input) and set it for USER in FILE,
an htpasswd file with bcrypt, which is made if it is not there. httpd reads it again by itself.`,
		Example: "  tnv passwd /etc/tnv/users alice",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(_ *cobra.Command, in []string) error {
			if err := access.CheckName(in[1]); err != nil {
				return usage("%v", err)
			}
			password, err := a.password()
			if err != nil {
				return err
			}
			line, err := access.HashPassword(in[1], password)
			if err != nil {
				return err
			}
			return setLine(in[0], in[1]+":", line)
		},
	}
}

func (a *app) tokenCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "token FILE USER",
		Short: "Make a token with which a program is a user of httpd",
		Long: `Draw a token for USER, print it, and add its digest to FILE, which is made if it is not there. The
token itself is nowhere kept. Programs send it as "Authorization: Bearer TOKEN". To take it back,
remove its line.`,
		Example: "  tnv token /etc/tnv/tokens jellyfin",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(_ *cobra.Command, in []string) error {
			token, line, err := access.NewToken(in[1])
			if err != nil {
				return usage("%v", err)
			}
			if err := setLine(in[0], "", line); err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, token)
			return nil
		},
	}
}

// password asks for a password, twice on a terminal.
func (a *app) password() (string, error) {
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		line, err := bufio.NewReader(a.stdin).ReadString('\n')
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return "", tnv.E("password", tnv.KindInvalid, "standard input holds none (%v)", err)
		}
		return line, nil
	}
	var got [2]string
	for i, prompt := range []string{"Password: ", "Again: "} {
		fmt.Fprint(a.stderr, prompt)
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.stderr)
		if err != nil {
			return "", tnv.Wrap("password", err)
		}
		got[i] = string(b)
	}
	if got[0] != got[1] || got[0] == "" {
		return "", tnv.E("password", tnv.KindInvalid, "the two are not the same, or empty")
	}
	return got[0], nil
}

// setLine puts a line into a file in place of those that begin with prefix; an
// empty prefix adds it. The file is replaced as a whole: who reads it meanwhile
// reads all of the old or of the new.
func setLine(file, prefix, line string) error {
	mode := os.FileMode(0o600)
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return tnv.Wrap("read", err)
	}
	if fi, err := os.Stat(file); err == nil {
		mode = fi.Mode().Perm()
	}
	var out strings.Builder
	for l := range strings.Lines(string(b)) {
		if prefix == "" || !strings.HasPrefix(l, prefix) {
			out.WriteString(strings.TrimRight(l, "\n") + "\n")
		}
	}
	out.WriteString(line + "\n")
	tmp := file + ".new"
	if err := os.WriteFile(tmp, []byte(out.String()), mode); err != nil {
		return tnv.Wrap("write", err)
	}
	return tnv.Wrap("write", os.Rename(tmp, file))
}
