package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv/protocol"
)

// The command line: exit codes, and messages that say what to do.
func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	tnvOK(t, "key", "new", key)
	other := filepath.Join(dir, "other")
	os.WriteFile(other, []byte("no key\n"), 0o600)
	for _, c := range []struct {
		name string
		args string
		code int
		want string
	}{
		{"tnv", "", 0, "Bring a cluster up"},
		{"tnv", "--help", 0, "Daemons:"},
		{"tnv", "version", 0, "protocol 1"},
		{"tnv", "--version", 0, "protocol 1"},
		{"tnv", "nonsense", 1, "unknown command"},
		{"tnv", "up --nonsense", 2, "--help"},
		{"tnv", "up surplus", 2, "--help"},
		{"tnv", "up --replicas many", 2, "--help"},
		{"tnv", "up --dir " + dir + "/c --mount= --replicas 99", 1, "1 to 8"},
		{"tnv", "down --dir " + dir + "/none", 1, "--dir"},
		{"tnv", "status --dir " + dir + "/none", 1, "tnv up"},
		{"tnv", "status --trackers nonsense --keyfile " + key, 1, "HOST:PORT"},
		{"tnv", "status --trackers 127.0.0.1:1 --keyfile " + key, 1, "no tracker answers"},
		{"tnv", "ls", 1, "tnv up"},
		{"tnv", "stat", 2, "--help"},
		{"tnv", "key new " + key, 1, "file exists"},
		{"trackerd", "--keyfile " + key, 2, "--dir"},
		{"trackerd", "--dir " + dir + "/t --keyfile " + dir + "/none", 1, "tnv key new"},
		{"trackerd", "--dir " + dir + "/t --keyfile " + other, 1, "not a TNV key"},
		{"trackerd", "--dir " + dir + "/t --keyfile " + key + " --durability none", 2, "os or sync"},
		{"trackerd", "--dir " + dir + "/t --keyfile " + key + " --memory 1K", 2, "at least"},
		{"trackerd", "--dir " + dir + "/t --keyfile " + key + " --log-level loud", 2, "debug"},
		{"trackerd", "--dir " + dir + "/t --keyfile " + key + " --listen " + taken(t), 1, "in use"},
		{"stored", "--dir " + dir + "/s --keyfile " + key, 2, "--trackers"},
		{"stored", "--dir " + dir + "/s --keyfile " + key + " --trackers x", 1, "host:port"},
		{"stored", "--capacity lots", 2, "--help"},
		{"httpd", "--user root", 2, "UID:GID"},
		{"httpd", "--trackers 127.0.0.1:1 --keyfile " + key + " --listen " + taken(t), 1, "--listen"},
		{"mount.tnv", "", 1, "MOUNTPOINT"},
		{"mount.tnv", "--help", 0, "MOUNTPOINT"},
		{"mount.tnv", dir + " -o nonsense", 1, "unknown option"},
		{"mount.tnv", dir, 32, "tnv up"},
		{"mount.tnv", "127.0.0.1:1 " + dir + " -o keyfile=" + key + ",timeout=1s,log=" + dir + "/log", 32, "127.0.0.1:1"},
	} {
		r := runAs(t, nil, c.name, strings.Fields(c.args)...)
		text := r.out
		if c.code != 0 {
			text = r.errOut
			if r.out != "" && !strings.HasPrefix(c.args, "status") {
				t.Errorf("%s %s: an error's output is on standard output: %q", c.name, c.args, r.out)
			}
		}
		if r.code != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%s %s: exit code %d, want %d, and %q in:\n%s", c.name, c.args, r.code, c.code, c.want, text)
		}
	}
}

func TestKeyNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	tnvOK(t, "key", "new", path)
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o600 {
		t.Errorf("%v %v, want mode 0600", fi, err)
	}
	if _, err := protocol.ReadKeyFile(path); err != nil {
		t.Error(err)
	}
	if k, err := protocol.ParseKey(tnvOK(t, "key", "new")); err != nil || len(k.Secret) != 32 {
		t.Errorf("key on standard output: %v", err)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := tnvOK(t, "completion", shell); !strings.Contains(out, "tnv") {
			t.Errorf("%s: %.80q", shell, out)
		}
	}
	if out := tnvOK(t, "__complete", "st"); !strings.Contains(out, "status") || !strings.Contains(out, "stored") {
		t.Errorf("completing st: %s", out)
	}
	if out := tnvOK(t, "__complete", "trackerd", "--durability", ""); !strings.Contains(out, "sync") {
		t.Errorf("completing --durability: %s", out)
	}
}

// Every command has an example and says what it does.
func TestHelp(t *testing.T) {
	a := &app{}
	var check func(*cobra.Command)
	check = func(c *cobra.Command) {
		if c.Short == "" || c.Runnable() && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			check(sub)
		}
	}
	for _, c := range a.rootCommand(false).Commands() {
		check(c)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "100": 100, "1k": 1024, "512M": 512 << 20, "1.5GiB": 3 << 29, "2T": 2 << 40, "7B": 7, "3 ": 3} {
		var s size
		if err := s.Set(text); err != nil || int64(s) != want {
			t.Errorf("%q: %d %v, want %d", text, int64(s), err, want)
		}
	}
	for _, text := range []string{"", "x", "-1", "1X", "M", "9e99", "NaN", "8388608T"} {
		var s size
		if err := s.Set(text); err == nil {
			t.Errorf("%q: %d, want an error", text, int64(s))
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 512 << 20: "512 MiB", 3 << 40: "3 TiB"} {
		if got := formatSize(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestModeString(t *testing.T) {
	for mode, want := range map[uint32]string{0o100644: "-rw-r--r--", 0o040755: "drwxr-xr-x", 0o104755: "-rwsr-xr-x", 0o102644: "-rw-r-Sr--", 0o041777: "drwxrwxrwt", 0o120777: "lrwxrwxrwx"} {
		if got := modeString(mode); got != want {
			t.Errorf("%o: %s, want %s", mode, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for name, want := range map[string]string{"a b": "a b", "ü.mkv": "ü.mkv", "a\x1b[2J": `"a\x1b[2J"`, "a\nb": `"a\nb"`, `a"b`: `a"b`} {
		if got := printable(name); got != want {
			t.Errorf("%q is printed as %s, want %s", name, got, want)
		}
	}
}
