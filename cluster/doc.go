// Package cluster runs a whole cluster of real processes on one machine: one
// tracker, storage daemons in groups, an HTTP daemon and a mount.
//
// It promises: a cluster that is up answers on its mountpoint and over HTTP;
// what Up started and could not finish is stopped again; Down drains the mount
// before it stops what the mount writes to, signals only processes that are
// certainly this cluster's, and ends in bounded time; Up finds everything that
// an earlier Up made. Nothing here ever deletes data.
//
// A cluster lives in one directory:
//
//	DIR/cluster.json     what was made: daemons, their groups, addresses, mountpoint
//	DIR/key              the cluster's key, made once, mode 0600
//	DIR/run/NAME.pid     the process id, one line, nothing else
//	DIR/run/NAME.json    what tells that process from another with the same id, and where it listens
//	DIR/run/trackers     addresses of the trackers, one a line
//	DIR/run/lock         held (flock) by the Up or Down at work
//	DIR/log/NAME.log     what the process wrote
//	DIR/NAME/            data of a tracker or storage daemon
//
// NAME is trackerd-1, stored-1, stored-2, httpd-1, mount-1 and so on. A process
// is recognised by its id, start time and the machine's boot id together, so a
// pid file from before a crash or reboot is never taken for a living daemon.
// Signals go through pidfds: a process that ends in between is not mistaken for
// its successor.
//
// Daemons tell that they are ready, or why they cannot be, through an inherited
// pipe (see Reporter): nothing sleeps and hopes.
package cluster
