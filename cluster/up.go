package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// Config says what cluster to bring up. Pointers that are nil leave what the
// cluster had, or the default.
type Config struct {
	Dir       string
	Mount     *string // mountpoint; "": none. Default: none
	HTTP      *string // address; "": none. Default: DefaultHTTP if that is free, else any free port
	Groups    *int    // default 1
	Replicas  *int    // storage daemons a group; default 2
	Trackers  *int    // default 1; more need Meta
	Meta      *string // database of the metadata, postgres://…; "": the tracker's own directory. Default: that
	AdminPort *int    // the first of consecutive ports for the daemons' --admin; 0: none. Default: none
	Exe       string  // the program to start; empty: the running one
	Log       *logrus.Entry
}

// DefaultHTTP is where the HTTP daemon listens if nothing else was said.
const DefaultHTTP = "127.0.0.1:8080"

// Bounds of what one machine is asked to run.
const (
	maxGroups   = 32
	maxReplicas = 8
	maxTrackers = 16
)

// startLimit bounds the start of one daemon, recovery after a crash included.
const startLimit = 2 * time.Minute

// Cluster is a cluster that is up.
type Cluster struct {
	Layout
	Mountpoint string // empty: none
	HTTP       string // address; empty: none
	Trackers   []string
	Groups     int
	Replicas   int

	cfg Config
	st  *state
	key protocol.Key
	log *logrus.Entry

	mu      sync.Mutex
	started []Record        // by this Up, in order; under mu
	left    map[string]bool // groups that have left the cluster: their daemons are not started; set before anything watches
}

// Up brings the cluster in cfg.Dir up: it makes what is not there yet, starts
// what does not run, in order, each when what it needs is ready, and returns
// when mount and HTTP daemon answer. KindBusy: all of it runs already, or an
// address or mountpoint is taken. On an error everything that this Up started is stopped again.
func Up(ctx context.Context, cfg Config) (*Cluster, error) {
	if cfg.Log == nil {
		cfg.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, tnv.Wrap("up", err)
	}
	c := &Cluster{Layout: Layout{dir}, cfg: cfg, log: cfg.Log}
	if err := c.prepare(); err != nil {
		return nil, err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := c.settle(); err != nil {
		return nil, err
	}
	if err := c.bringUp(ctx); err != nil {
		c.undo(ctx)
		return nil, err
	}
	return c, nil
}

// settle decides what is to run, checks that it can, and writes it down.
func (c *Cluster) settle() error {
	st, fresh, err := c.load()
	if err != nil {
		return err
	}
	groups, replicas := or(c.cfg.Groups, max(1, st.Groups)), or(c.cfg.Replicas, max(st.Replicas, 1))
	if fresh && c.cfg.Replicas == nil {
		replicas = 2
	}
	if groups < 1 || groups > maxGroups || replicas < 1 || replicas > maxReplicas {
		return tnv.E("up", tnv.KindInvalid, "%d groups of %d replicas: one machine takes 1 to %d groups of 1 to %d", groups, replicas, maxGroups, maxReplicas)
	}
	running := c.running()
	if err := c.checkData(st, running); err != nil {
		return err
	}
	if err := st.plan(groups, replicas); err != nil {
		return err
	}
	if err := st.planTrackers(or(c.cfg.Trackers, max(1, st.Trackers)), or(c.cfg.Meta, st.Meta), fresh); err != nil {
		return err
	}
	if err := c.settleMount(st, running); err != nil {
		return err
	}
	if err := c.settleHTTP(st, fresh, running); err != nil {
		return err
	}
	if st.AdminPort = or(c.cfg.AdminPort, st.AdminPort); st.AdminPort < 0 || st.AdminPort > 65000 {
		return tnv.E("up", tnv.KindInvalid, "admin port %d: want 1 to 65000, or 0 for none", st.AdminPort)
	}
	c.st, c.Groups, c.Replicas, c.Mountpoint = st, groups, replicas, st.Mount
	if c.complete(running) {
		return tnv.E("up", tnv.KindBusy, "the cluster in %s is already up: use it as it is (`tnv status --dir %s`), or stop it first with `tnv down --dir %s`", c.Dir, c.Dir, c.Dir)
	}
	if fresh { // before the key: a directory with a state but no key has lost it
		if c.key, err = c.makeKey(true); err != nil {
			return err
		}
	} else if c.key, err = c.makeKey(false); err != nil {
		return err
	}
	return c.store(st)
}

func or[T any](p *T, d T) T {
	if p == nil {
		return d
	}
	return *p
}

// running lists the processes that live, by name.
func (c *Cluster) running() map[string]Record {
	m := map[string]Record{}
	for _, r := range c.Records() {
		if r.Alive() {
			m[r.Name] = r
		}
	}
	return m
}

// complete tells whether all that is planned runs.
func (c *Cluster) complete(running map[string]Record) bool {
	for _, d := range c.planned() {
		if _, ok := running[d]; !ok {
			return false
		}
	}
	return true
}

// planned names what is to run, in the order of starting.
func (c *Cluster) planned() []string {
	var out []string
	for _, role := range []Role{RoleTracker, RoleStore} {
		for _, d := range c.st.Daemons {
			if r, _, _ := roleOf(d.Name); r == role && !c.left[d.Group] {
				out = append(out, d.Name)
			}
		}
	}
	if c.st.HTTP != "" {
		out = append(out, RoleHTTP.name(1))
	}
	if c.st.Mount != "" {
		out = append(out, RoleMount.name(1))
	}
	return out
}

// settleMount checks the mountpoint, unless the mount runs.
func (c *Cluster) settleMount(st *state, running map[string]Record) error {
	name := RoleMount.name(1)
	if _, ok := running[name]; ok {
		return nil // it stays where it is
	}
	st.Mount = or(c.cfg.Mount, st.Mount)
	if st.Mount == "" {
		return nil
	}
	p, err := realMountpoint(st.Mount)
	if err != nil {
		return err
	}
	if real, err := filepath.EvalSymlinks(c.Dir); err == nil && within(real, p) {
		return tnv.E("mount on "+p, tnv.KindInvalid, "the cluster's own directory %s lies in it, and would be hidden by the mount: choose another --mount or --dir", c.Dir)
	}
	st.Mount = p
	return prepareMountpoint(p, c.Record(name).Mountpoint == p)
}

// within tells whether path is dir or lies below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// settleHTTP chooses the address of the HTTP daemon, unless it runs.
func (c *Cluster) settleHTTP(st *state, fresh bool, running map[string]Record) error {
	if r, ok := running[RoleHTTP.name(1)]; ok {
		c.HTTP = r.Addr
		return nil
	}
	if named := c.cfg.HTTP; named != nil {
		st.HTTP = *named
		if *named == "" {
			return nil
		}
		if _, _, err := net.SplitHostPort(*named); err != nil {
			return tnv.E("listen for HTTP", tnv.KindInvalid, "%q is no address: want HOST:PORT, for example %s", *named, DefaultHTTP)
		}
		if err := tryListen(*named); err != nil {
			return tnv.E("listen for HTTP on "+*named, tnv.KindOf(err), "%v: choose another address, or let a free port be taken, with --http 127.0.0.1:0 (make up HTTP=…)", errors.Unwrap(err))
		}
		return nil
	}
	if fresh {
		st.HTTP = DefaultHTTP
	}
	if st.HTTP != "" && tryListen(st.HTTP) != nil {
		st.HTTP = "127.0.0.1:0"
	}
	return nil
}

// tryListen tells whether an address can be listened on.
func tryListen(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err == nil {
		err = ln.Close()
	}
	return err
}

// listenAddr is where a daemon shall listen: where it did last, if that is free.
func listenAddr(last string) string {
	if last != "" && tryListen(last) == nil {
		return last
	}
	return "127.0.0.1:0"
}

// bringUp starts what does not run.
func (c *Cluster) bringUp(ctx context.Context) error {
	running := c.running()
	if err := c.upTrackers(ctx, running); err != nil {
		return err
	}
	if err := c.noteLeft(ctx); err != nil {
		return err
	}
	var stores []string
	for _, name := range c.planned() {
		if role, _, _ := roleOf(name); role == RoleStore {
			stores = append(stores, name)
		}
	}
	if err := c.startAll(ctx, running, stores); err != nil {
		return err
	}
	for _, tracker := range c.Trackers {
		if err := awaitStores(ctx, tracker, c.key, len(stores)); err != nil {
			return err
		}
	}
	var faces []string
	for _, name := range c.planned() {
		if role, _, _ := roleOf(name); role == RoleHTTP || role == RoleMount {
			faces = append(faces, name)
		}
	}
	if err := c.startAll(ctx, running, faces); err != nil {
		return err
	}
	return c.store(c.st)
}

// upTrackers starts the trackers and publishes their addresses. One that other
// daemons know already must come back where they look for it, if there is no other.
func (c *Cluster) upTrackers(ctx context.Context, running map[string]Record) error {
	var names []string
	for _, name := range c.planned() {
		if role, _, _ := roleOf(name); role == RoleTracker {
			names = append(names, name)
		}
	}
	if last := c.st.daemon(names[0]).Addr; len(names) == 1 && len(running) > 0 && running[names[0]].Name == "" && last != "" {
		if err := tryListen(last); err != nil {
			return tnv.E("start "+names[0], tnv.KindBusy, "the rest of the cluster looks for it at %s, which another process took: run `tnv down --dir %s`, then up again", last, c.Dir)
		}
	}
	if err := c.startAll(ctx, running, names); err != nil {
		return err
	}
	c.Trackers = nil
	for _, name := range names {
		c.Trackers = append(c.Trackers, c.st.daemon(name).Addr)
	}
	return writeFile(c.TrackersFile(), []byte(strings.Join(c.Trackers, "\n")+"\n"), 0o644)
}

// startAll starts several daemons at once.
func (c *Cluster) startAll(ctx context.Context, running map[string]Record, names []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		if _, ok := running[name]; ok {
			continue
		}
		wg.Go(func() {
			if errs[i] = c.startOne(ctx, name); errs[i] != nil {
				cancel() // the others need not go on
			}
		})
	}
	wg.Wait()
	for _, err := range errs { // the cause before what it canceled
		if err != nil && tnv.KindOf(err) != tnv.KindCanceled {
			return err
		}
	}
	return errors.Join(errs...)
}

// startOne starts a daemon and waits until it is ready.
func (c *Cluster) startOne(ctx context.Context, name string) error {
	role, _, _ := roleOf(name)
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	args, admin := c.args(name)
	var rec Record
	spawn := Spawn{Exe: c.cfg.Exe, Role: role, Args: args, Log: c.LogFile(name)}
	if role == RoleTracker && c.st.Meta != "" {
		spawn.Env = []string{"TNV_META=" + c.st.Meta} // others see a command line, and its passwords
	}
	child, err := Start(ctx, spawn, func(pid int) (err error) {
		if rec, err = newRecord(name, role, pid); err != nil {
			return err
		}
		rec.Admin = admin
		if role == RoleMount {
			rec.Mountpoint = c.st.Mount
		}
		return c.save(rec)
	})
	if err != nil {
		if role == RoleMount { // nothing was mounted there before: see prepareMountpoint
			err = errors.Join(err, detachIfMounted(c.st.Mount))
		}
		c.forget(name)
		return &tnv.Error{Op: "start " + name, Kind: tnv.KindOf(err), Msg: err.Error() + " (log: " + c.LogFile(name) + ")"}
	}
	rec.Addr = child.Addr
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started = append(c.started, rec)
	switch role {
	case RoleTracker, RoleStore:
		c.st.daemon(name).Addr = child.Addr
	case RoleHTTP:
		c.HTTP, c.st.HTTP = child.Addr, child.Addr
	}
	c.log.WithFields(logrus.Fields{"name": name, "pid": rec.Pid, "addr": rec.Addr}).Debug("started")
	return c.save(rec)
}

// args are a daemon's command line, and the address of its side door.
func (c *Cluster) args(name string) (args []string, admin string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	role, _, _ := roleOf(name)
	if c.st.AdminPort > 0 {
		for i, n := range c.planned() {
			if n == name {
				admin = net.JoinHostPort("127.0.0.1", strconv.Itoa(c.st.AdminPort+i))
			}
		}
	}
	trackers := strings.Join(c.Trackers, ",")
	switch role {
	case RoleTracker:
		args = []string{"--listen", listenAddr(c.st.daemon(name).Addr), "--keyfile", c.KeyFile()}
		if c.st.Meta == "" {
			args = append(args, "--dir", c.data(name))
		}
	case RoleStore:
		d := c.st.daemon(name)
		args = []string{"--listen", listenAddr(d.Addr), "--dir", c.data(name), "--keyfile", c.KeyFile(),
			"--trackers", trackers, "--group", d.Group, "--allow-same-host"}
	case RoleHTTP:
		args = []string{"--listen", c.st.HTTP, "--keyfile", c.KeyFile(), "--trackers", trackers}
	case RoleMount:
		args = []string{trackers, c.st.Mount, "-o", mountOptions(c.KeyFile())}
		if admin != "" {
			args = append(args, "--admin", admin)
		}
		return args, admin
	}
	if admin != "" {
		args = append(args, "--admin", admin)
	}
	return args, admin
}

// mountOptions are the options of the cluster's own mount. Only root may let
// other users in without an entry in /etc/fuse.conf.
func mountOptions(keyfile string) string {
	o := "foreground,keyfile=" + keyfile
	if os.Geteuid() == 0 {
		o += ",allow_other"
	}
	return o
}

// undo stops what this Up started, in reverse. It is not hurried by a ctx that ended.
func (c *Cluster) undo(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	c.mu.Lock()
	started := c.started
	c.started = nil
	c.mu.Unlock()
	if err := stopAll(ctx, c.Layout, started, c.log); err != nil {
		c.log.WithError(err).Warn("not all of what was started could be stopped")
	}
}

// Summary says where things are, for people.
func (c *Cluster) Summary() string {
	var b strings.Builder
	row := func(k, v string) { fmt.Fprintf(&b, "  %-8s %s\n", k, v) }
	b.WriteString("TNV is up.\n")
	if c.Mountpoint != "" {
		row("files", c.Mountpoint)
	}
	if c.HTTP != "" {
		row("http", "http://"+c.HTTP+"/")
	}
	row("data", fmt.Sprintf("%s (%d × %d storage daemons)", c.Dir, c.Groups, c.Replicas))
	if len(c.Trackers) > 1 {
		row("trackers", strings.Join(c.Trackers, ", "))
	}
	row("logs", filepath.Join(c.Dir, "log"))
	row("state", "tnv status --dir "+c.Dir)
	row("stop", "tnv down --dir "+c.Dir)
	return b.String()
}
