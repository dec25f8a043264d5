// Package pgtest starts PostgreSQL servers for tests: real ones, each in a
// temporary directory, reached by a unix socket alone, and gone when the test or
// its process is over, however it ends.
//
// postgres refuses to run as root; a test that does has the server run as the
// user postgres. Where the programs are missing the test fails and names the
// package to install.
package pgtest

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/lib/pq" // for NewDatabase
)

// Server is a PostgreSQL server. Its methods are for one goroutine.
type Server struct {
	Dir string // holds data, socket and log

	t    testing.TB
	bin  string
	cred *syscall.Credential
	pid  int           // of the postmaster; 0: it does not run
	over chan struct{} // closed when it has ended
	dbs  int
}

// startLimit bounds the start of a server, recovery included.
const startLimit = 60 * time.Second

// Start makes a server and starts it. settings are lines of postgresql.conf.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s := &Server{t: t, bin: programs(t)}
	dir, err := os.MkdirTemp("", "tnv-pg-*")
	if err != nil {
		t.Fatal(err)
	}
	s.Dir = dir
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("the end of the log of PostgreSQL:\n%s", s.Log())
		}
		os.RemoveAll(dir)
	})
	s.becomePostgres()
	if out, err := s.command("initdb", "-D", s.data(), "-U", "tnv", "-A", "trust", "-E", "UTF8", "--locale=C", "-N").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	// What a kill of the server loses does not depend on fsync: the machine lives on.
	conf := append([]string{"listen_addresses = ''", "unix_socket_directories = '" + dir + "'", "fsync = off", "full_page_writes = off",
		"max_connections = 200", "shared_buffers = 32MB", "autovacuum_naptime = 5s", "log_line_prefix = '%m [%p] '"}, settings...)
	f, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(strings.Join(conf, "\n") + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Run()
	return s
}

// programs finds the directory of the newest installed server.
func programs(t testing.TB) string {
	t.Helper()
	if p, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(p)
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(dirs, func(a, b string) int {
		va, _ := strconv.Atoi(filepath.Base(filepath.Dir(a)))
		vb, _ := strconv.Atoi(filepath.Base(filepath.Dir(b)))
		return vb - va
	})
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(d, "initdb")); err == nil {
			return d
		}
	}
	t.Fatal("PostgreSQL is missing: apt-get install postgresql")
	return ""
}

// becomePostgres gives the directory to the user that the server runs as.
func (s *Server) becomePostgres() {
	s.t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		s.t.Fatalf("%v: apt-get install postgresql", err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	s.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if err := os.Chown(s.Dir, uid, gid); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Server) data() string { return filepath.Join(s.Dir, "data") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.Dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + s.Dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred}
	return cmd
}

// Run starts the server, after Stop or Kill, and returns when it answers.
func (s *Server) Run() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := s.command("postgres", "-D", s.data())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT // the test's process died
	started, over := make(chan error), make(chan struct{})
	go func() {
		defer close(over)
		// The signal comes when the thread ends that started the server.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		s.t.Fatalf("postgres: %v", err)
	}
	s.pid, s.over = cmd.Process.Pid, over
	s.await()
}

// await returns when the server answers.
func (s *Server) await() {
	s.t.Helper()
	db, err := sql.Open("postgres", s.DSN("postgres"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	for end := time.Now().Add(startLimit); ; time.Sleep(20 * time.Millisecond) {
		if err = db.Ping(); err == nil {
			return
		}
		select {
		case <-s.over:
			s.t.Fatalf("postgres has ended:\n%s", s.Log())
		default:
		}
		if time.Now().After(end) {
			s.t.Fatalf("postgres does not answer: %v\n%s", err, s.Log())
		}
	}
}

// Log is what the server has logged.
func (s *Server) Log() string {
	b, _ := os.ReadFile(filepath.Join(s.Dir, "log"))
	return string(b[max(0, len(b)-8000):])
}

// DSN is the address of a database, for Open of package postgres and for lib/pq.
func (s *Server) DSN(database string) string {
	q := url.Values{"host": {s.Dir}, "user": {"tnv"}, "sslmode": {"disable"}}
	return "postgres:///" + url.PathEscape(database) + "?" + q.Encode()
}

// NewDatabase makes an empty database and returns its address.
func (s *Server) NewDatabase() string {
	s.t.Helper()
	s.dbs++
	s.Exec("postgres", "CREATE DATABASE "+s.Last())
	return s.DSN(s.Last())
}

// Last is the name of the database that NewDatabase made last.
func (s *Server) Last() string { return fmt.Sprintf("test%d", s.dbs) }

// Exec runs a statement as the server's superuser.
func (s *Server) Exec(database, statement string) {
	s.t.Helper()
	db, err := sql.Open("postgres", s.DSN(database))
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		s.t.Fatalf("%s: %v", statement, err)
	}
}

// Kill ends every process of the server at once, as the loss of its machine's power
// supply would, but for the disks. It does nothing if the server does not run.
func (s *Server) Kill() {
	s.t.Helper()
	if s.pid == 0 {
		return
	}
	processes := append([]int{s.pid}, childrenOf(s.pid)...)
	for _, pid := range processes {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	<-s.over
	for _, pid := range processes { // whoever still has the shared memory keeps the next server from starting
		for end := time.Now().Add(10 * time.Second); alive(pid) && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
	s.pid = 0
}

// Stop ends the server in order; clients are disconnected.
func (s *Server) Stop() {
	s.t.Helper()
	if s.pid == 0 {
		return
	}
	syscall.Kill(s.pid, syscall.SIGCONT)
	syscall.Kill(s.pid, syscall.SIGINT) // a fast shutdown
	select {
	case <-s.over:
		s.pid = 0
	case <-time.After(startLimit):
		s.Kill()
	}
}

// Restart stops the server in order and starts it again.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.Run()
}

// Signal sends a signal to every process of the server: SIGSTOP freezes it, as
// a dead network would, SIGCONT lets it go on.
func (s *Server) Signal(sig syscall.Signal) {
	for _, pid := range append([]int{s.pid}, childrenOf(s.pid)...) {
		syscall.Kill(pid, sig)
	}
}

// childrenOf lists the processes that pid has started and that live.
func childrenOf(pid int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range stats {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		// pid (name) state ppid …; the name may hold anything.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			if child, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// alive tells whether a process runs; one that only waits to be noted does not.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	return len(fields) > 0 && fields[0] != "Z" && fields[0] != "X"
}
