package fuse_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// A fault holds up a goroutine in a way that the Go runtime does not know of,
// so the process that serves the file system must not map its files: a mapping
// is looked at by a child, which is this test binary with an argument.

const mapperEnv = "TNV_TEST_MAP_FILE"

func TestMain(m *testing.M) {
	if p := os.Getenv(mapperEnv); p != "" {
		if err := serveMapping(p, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if args := os.Getenv(twinsEnv); args != "" {
		compareTwins(args)
	}
	os.Exit(m.Run())
}

// serveMapping answers each line "OFFSET LENGTH" with the quoted bytes of the
// mapping, and "write OFFSET STRING" with the string once it is written and synced.
func serveMapping(path string, in io.Reader, out io.Writer) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for s := bufio.NewScanner(in); s.Scan(); {
		var off, n int
		var text string
		if _, err := fmt.Sscanf(s.Text(), "write %d %s", &off, &text); err == nil {
			copy(b[off:], text)
			if err := unix.Msync(b, unix.MS_SYNC); err != nil {
				return err
			}
			fmt.Fprintf(out, "%q\n", text)
			continue
		}
		if _, err := fmt.Sscanf(s.Text(), "%d %d", &off, &n); err != nil {
			return err
		}
		fmt.Fprintf(out, "%q\n", b[off:off+n])
	}
	return nil
}

// mapping is a file that a child has mapped.
type mapping struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Reader
}

func mapFile(t *testing.T, path string) *mapping {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), mapperEnv+"="+path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the mapping process: %v", err)
		}
	})
	return &mapping{t, in, bufio.NewReader(out)}
}

func (m *mapping) ask(format string, args ...any) string {
	m.t.Helper()
	_, err := fmt.Fprintf(m.in, format+"\n", args...)
	must(m.t, err)
	line, err := m.out.ReadString('\n')
	must(m.t, err)
	var s string
	_, err = fmt.Sscanf(line, "%q", &s)
	must(m.t, err)
	return s
}

func (m *mapping) read(off, n int) string { return m.ask("%d %d", off, n) }
