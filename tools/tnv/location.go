package main

import (
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/tnvfs/tnv/discover"
	"github.com/tnvfs/tnv/protocol"
)

// location says which cluster and volume are meant, as all clients' flags do.
type location struct {
	dir      string
	trackers string
	keyfile  string
	volume   string
}

func (l *location) register(cmd *cobra.Command) {
	l.registerCluster(cmd)
	cmd.Flags().StringVar(&l.volume, "volume", "", "volume (default media)")
}

// registerCluster is register for commands that are about no volume, or name it otherwise.
func (l *location) registerCluster(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&l.dir, "dir", "", "`DIR` of a cluster that tnv up made on this machine")
	f.StringVar(&l.trackers, "trackers", "", "addresses of the trackers, HOST:PORT with commas (default $TNV_TRACKERS)")
	f.StringVar(&l.keyfile, "keyfile", "", "file with the cluster's key (default $TNV_KEYFILE)")
	cmd.MarkFlagDirname("dir")
	cmd.MarkFlagFilename("keyfile")
}

// target is a cluster that was found.
type target struct {
	Trackers []string
	Key      protocol.Key
}

// find looks for the cluster where package discover says, and settles the volume.
func (l *location) find() (target, error) {
	trackers, key, volume, _, err := discover.Find(l.trackers, l.keyfile, l.dir)
	if l.volume == "" {
		l.volume = volume
	}
	return target{trackers, key}, err
}

// name is the volume's name, once it was settled.
func (l *location) name() string {
	if l.volume == "" {
		return "media"
	}
	return l.volume
}

// remember notes a cluster that is up, so that commands without flags find it.
// That is a convenience: its failure is only logged.
func (a *app) remember(dir string, log *logrus.Entry) {
	if err := discover.Remember(dir); err != nil {
		log.WithError(err).Debug("the cluster could not be noted in the user's list")
	}
}

// forget takes a cluster that was stopped from the list.
func (a *app) forget(dir string, log *logrus.Entry) {
	if err := discover.Forget(dir); err != nil {
		log.WithError(err).Debug("the cluster could not be taken from the user's list")
	}
}
