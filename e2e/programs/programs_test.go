// Package programs runs programs that know nothing of TNV on a mount: what they
// check themselves is the judge. The short ones run always, those of TestLong
// with -long (make programs).
package programs

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tnvfs/tnv/e2e"
)

var long = flag.Bool("long", false, "run what takes minutes, too")

func TestMain(m *testing.M) { os.Exit(e2e.Main(m, nil)) }

// need fails the test if a program is not installed.
func need(t *testing.T, program, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%s is missing: apt-get install %s", program, pkg)
	}
}

// sh runs a script that must succeed, in a directory, and returns its output.
func sh(t *testing.T, limit time.Duration, dir, script string, env ...string) string {
	t.Helper()
	began := time.Now()
	args := append([]string{"-i"}, "PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"), "LC_ALL=C.UTF-8")
	args = append(append(args, env...), "bash", "-c", "set -euo pipefail\ncd "+dir+"\n"+script)
	r := e2e.Exec(limit, "env", args...)
	if r.Code != 0 {
		t.Fatalf("%s\n%.6000v", script, r)
	}
	t.Logf("%.60q took %v", script, time.Since(began).Round(10*time.Millisecond))
	return r.Out
}

func start(t *testing.T, limit time.Duration) *e2e.Cluster {
	t.Helper()
	c := e2e.Start(t, e2e.Options{NoHTTP: true, Limit: limit})
	if err := os.Chmod(c.Base, 0o755); err != nil { // others come in
		t.Fatal(err)
	}
	return c
}

// sub is a new directory on the mount.
func sub(t *testing.T, c *e2e.Cluster, name string) string {
	t.Helper()
	dir := filepath.Join(c.Mount, name)
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestSQLite: two processes write to one database, by both kinds of journal. Each
// row is there once, and the database is whole.
func TestSQLite(t *testing.T) {
	need(t, "sqlite3", "sqlite3")
	c := start(t, 5*time.Minute)
	for _, journal := range []string{"delete", "truncate", "wal"} {
		t.Run(journal, func(t *testing.T) { sqlite(t, sub(t, c, journal), journal, 40) })
	}
}

func sqlite(t *testing.T, dir, journal string, rows int) {
	db := filepath.Join(dir, "db")
	sh(t, time.Minute, dir, fmt.Sprintf("sqlite3 %s 'PRAGMA journal_mode=%s; CREATE TABLE t(who INT, n INT, x BLOB, UNIQUE(who,n)); CREATE TABLE sum(n INT); INSERT INTO sum VALUES(0);'", db, journal))
	var wg sync.WaitGroup
	for who := range 2 {
		wg.Go(func() {
			var in strings.Builder
			in.WriteString(".timeout 60000\n.bail on\n")
			for n := range rows {
				fmt.Fprintf(&in, "BEGIN IMMEDIATE; INSERT INTO t VALUES(%d,%d,randomblob(3000)); UPDATE sum SET n=n+1; COMMIT;\n", who, n)
			}
			script := filepath.Join(t.TempDir(), "in.sql")
			if err := os.WriteFile(script, []byte(in.String()), 0o644); err != nil {
				t.Error(err)
				return
			}
			if r := e2e.Exec(2*time.Minute, "sqlite3", "-init", script, db, ".quit"); r.Code != 0 || strings.Contains(r.Err, "rror") {
				t.Errorf("writer %d: %v", who, r)
			}
		})
	}
	wg.Wait()
	got := sh(t, time.Minute, dir, "sqlite3 "+db+" 'PRAGMA integrity_check; SELECT count(*) FROM t; SELECT n FROM sum;'")
	if want := fmt.Sprintf("ok\n%d\n%d\n", 2*rows, 2*rows); got != want {
		t.Errorf("the database says %q, want %q", got, want)
	}
}

// TestArchives: what zip and unzip, tar and cpio carry there and back is the same.
func TestArchives(t *testing.T) {
	need(t, "unzip", "unzip")
	need(t, "zip", "zip")
	c := start(t, 5*time.Minute)
	sh(t, 2*time.Minute, sub(t, c, "zip"), `
		mkdir -p src/a/b && for i in $(seq 60); do head -c $((i * 137)) /dev/urandom >src/a/b/$i; done
		ln -s a/b/1 src/link && chmod 741 src/a/b/7
		zip -qry x.zip src && mkdir out && unzip -q x.zip -d out && unzip -tq x.zip
		diff -r --no-dereference src out/src
		test "$(stat -c %a out/src/a/b/7)" = 741
		tar -C src -cf - . | (mkdir tar && tar -C tar -xf -) && diff -r --no-dereference src tar`)
}

// TestVerify: fio reads back what it wrote, by several ways of input and output.
func TestVerify(t *testing.T) {
	need(t, "fio", "fio")
	c := start(t, 5*time.Minute)
	dir := sub(t, c, "fio")
	size := "8M"
	if *long {
		size = "256M"
	}
	for _, way := range []string{"--ioengine=psync --rw=randwrite --bs=4k", "--ioengine=psync --rw=randrw --bsrange=512-64k --bs_unaligned",
		"--ioengine=mmap --rw=randwrite --bs=4k", "--ioengine=libaio --direct=1 --iodepth=8 --rw=randwrite --bs=16k", "--ioengine=psync --rw=write --bs=1M --fsync=4"} {
		sh(t, 3*time.Minute, dir, "fio --name=v --filename=f --size="+size+" --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0 --output=/dev/null "+way+"; rm -f f")
	}
}

// TestLong is what takes minutes.
func TestLong(t *testing.T) {
	if !*long {
		return // make programs
	}
	c := start(t, 3*time.Hour)
	for name, run := range map[string]func(*testing.T, *e2e.Cluster, string){
		"git": gitBig, "go": goPrograms, "postgres": postgres, "rsync": rsync, "dbench": dbench, "stress-ng": stress, "torrent": torrent,
		"sqlite": func(t *testing.T, _ *e2e.Cluster, dir string) {
			for _, journal := range []string{"delete", "wal"} {
				sqlite(t, sub(t, c, "sqlite-"+journal), journal, 500)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { run(t, c, sub(t, c, name)) })
	}
}

// gitBig clones a repository of some thousand commits and has git look at it.
func gitBig(t *testing.T, c *e2e.Cluster, dir string) {
	need(t, "git", "git")
	const commits = 4000
	var in bytes.Buffer
	for i := range commits {
		body := strings.Repeat(fmt.Sprintf("line %d\n", i), 1+i%50)
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter T <t@example.org> %d +0000\ndata 4\nc%03d", 1700000000+i, i%1000)
		fmt.Fprintf(&in, "\nM 100644 inline d%d/f%d\ndata %d\n%s\n", i%40, i%997, len(body), body)
	}
	stream := filepath.Join(c.Base, "stream")
	if err := os.WriteFile(stream, in.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, 10*time.Minute, dir, `
		export GIT_CONFIG_GLOBAL=/dev/null
		git init -q --bare origin.git && git -C origin.git fast-import --quiet <`+stream+` && git -C origin.git symbolic-ref HEAD refs/heads/main
		git clone -q --no-local origin.git clone && cd clone
		git fsck --full --strict && test -z "$(git status --porcelain)"
		test "$(git rev-list --count main)" = `+fmt.Sprint(commits)+`
		git repack -qad && git fsck --full && git worktree add -q ../tree main~100 && git -C ../tree status --porcelain`)
}

// goPrograms builds a program and runs the tests of Go's own os package there.
func goPrograms(t *testing.T, _ *e2e.Cluster, dir string) {
	sh(t, 30*time.Minute, dir, `
		mkdir tmp cache prog && cp -r "$(go env GOROOT)/src/cmd/gofmt" prog/ 
		cd prog/gofmt && rm -f *_test.go && printf 'module gofmt\n' >go.mod && cd ../..
		export GOFLAGS=-mod=mod GOCACHE=$PWD/cache TMPDIR=$PWD/tmp GOTOOLCHAIN=local CGO_ENABLED=0
		printf 'package main\nimport ("fmt";"net/http")\nfunc main() { fmt.Println(http.StatusText(200)) }\n' >prog/main.go
		go build -o prog/hello prog/main.go && test "$(prog/hello)" = OK
		go test -count=1 os path/filepath io/fs`)
}

// postgres keeps its data there.
func postgres(t *testing.T, _ *e2e.Cluster, dir string) {
	need(t, "runuser", "util-linux")
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		t.Fatal("PostgreSQL is missing: apt-get install postgresql")
	}
	sh(t, time.Minute, dir, "chown postgres .")
	as := `
		B=` + bins[len(bins)-1] + ` D=` + dir + `/data
		pg() { runuser -u postgres -- "$B/$@"; }
		`
	defer e2e.Exec(time.Minute, "bash", "-c", as+`pg pg_ctl -D $D stop -m immediate`)
	sh(t, 15*time.Minute, dir, as+`
		pg initdb -D $D --data-checksums >/dev/null
		pg pg_ctl -D $D -w -t 120 -l `+dir+`/log -o "-c listen_addresses= -k `+dir+`" start >/dev/null
		pg createdb -h `+dir+` bench
		pg pgbench -h `+dir+` -i -s 5 -q bench 2>/dev/null
		pg pgbench -h `+dir+` -c 4 -j 2 -T 20 bench
		pg pg_ctl -D $D stop -m immediate
		pg pg_ctl -D $D -w -t 120 -l `+dir+`/log -o "-c listen_addresses= -k `+dir+`" start >/dev/null
		test "$(pg psql -h `+dir+` -Atc 'select count(*) from pgbench_accounts where abalance is not null' bench)" = 500000
		test "$(pg psql -h `+dir+` -Atc 'select (select sum(delta) from pgbench_history) = (select sum(bbalance) from pgbench_branches)' bench)" = t
		pg pg_amcheck -h `+dir+` --install-missing bench
		pg pg_ctl -D $D stop -m fast >/dev/null
		pg pg_checksums -D $D --check`)
}

// rsync carries everything it can carry, both ways, without a difference.
func rsync(t *testing.T, c *e2e.Cluster, dir string) {
	need(t, "setfacl", "acl")
	need(t, "setfattr", "attr")
	local := filepath.Join(c.Base, "rsync")
	sh(t, 5*time.Minute, c.Base, `
		mkdir -p rsync/a/b && cd rsync
		for i in $(seq 300); do head -c $((i * 97)) /dev/urandom >a/b/$i; done
		ln a/b/1 a/hard && ln -s a/b/1 soft && mkfifo fifo && mknod null c 1 3 && chmod 4711 a/b/2 && chown 7:8 a/b/3
		setfattr -n user.note -v hello a/b/4 && setfattr -n user.dir -v x a && setfacl -m u:7:rw,g:8:r a/b/5 && setfacl -d -m u:7:rwx a
		touch -d '1975-01-02 03:04:05.678901234' a/b/6 && truncate -s 10M sparse`)
	sh(t, 5*time.Minute, dir, `
		same() { out=$(rsync -aHAXcn --delete --itemize-changes $1/ $2/); test -z "$out" || { echo "$out"; exit 1; }; }
		rsync -aHAX `+local+`/ there/ && same `+local+` there
		rsync -aHAX there/ `+c.Base+`/back/ && same there `+c.Base+`/back && same `+local+` `+c.Base+`/back`)
}

func dbench(t *testing.T, _ *e2e.Cluster, dir string) {
	need(t, "dbench", "dbench")
	t.Log(sh(t, 5*time.Minute, dir, "dbench -t 20 -D . 4 | tail -3"))
}

// stress runs stress-ng's file system stressors, one after the other, with
// verification. Those left out are about other things than the file system in the
// directory (binderfs, mounts, event descriptors, /proc).
func stress(t *testing.T, _ *e2e.Cluster, dir string) {
	need(t, "stress-ng", "stress-ng")
	for _, s := range strings.Fields(`access chdir chmod chown copy-file dentry dir dirdeep dirmany dup fallocate fcntl fiemap filename
		flock fpunch fsize fstat getdent handle hdd inotify io iomix lease link locka lockf lockofd mknod open rename symlink sync-file touch utime verity xattr`) {
		t.Run(s, func(t *testing.T) {
			sh(t, 2*time.Minute, dir, "stress-ng --temp-path . --verify --"+s+" 2 --timeout 4 2>&1 | tail -20")
		})
	}
}

// torrent writes the pieces of a file in random order, by several processes, and
// reads them while it does.
func torrent(t *testing.T, _ *e2e.Cluster, dir string) {
	need(t, "fio", "fio")
	sh(t, 10*time.Minute, dir, "fio --name=t --filename=film --size=128M --fallocate=none --numjobs=4 --offset_increment=128M "+
		"--rw=randwrite --bs=16k --random_generator=lfsr --verify=crc32c --verify_fatal=1 --verify_backlog=64 --verify_state_save=0 --output=/dev/null")
}
