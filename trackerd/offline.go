package trackerd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/kv/postgres"
	"github.com/tnvfs/tnv/protocol"
)

func isDatabase(where string) bool {
	return strings.HasPrefix(where, "postgres://") || strings.HasPrefix(where, "postgresql://")
}

// OpenStore opens the metadata in a tracker's directory, or in a database, while no tracker runs on it
// (else KindBusy), for a tool, and tells whose it is. With create a directory that is
// not there is made, for the cluster that is named.
func OpenStore(dir, cluster string, create bool, log *logrus.Entry) (e kv.Engine, owner string, err error) {
	if isDatabase(dir) {
		if cluster == "" {
			return nil, "", tnv.E("open "+dir, tnv.KindInvalid, "the cluster's key is needed with a database")
		}
		e, err = postgres.Open(context.Background(), dir, postgres.Options{Cluster: cluster, Log: log})
		return e, cluster, err
	}
	b, err := os.ReadFile(filepath.Join(dir, "cluster"))
	switch {
	case errors.Is(err, os.ErrNotExist) && create && cluster != "":
	case errors.Is(err, os.ErrNotExist):
		return nil, "", tnv.E("open "+dir, tnv.KindNotExist, "this is no tracker's directory")
	case err != nil:
		return nil, "", tnv.Wrap("open "+dir, err)
	case cluster != "" && string(b) != cluster:
		return nil, "", tnv.E("open "+dir, tnv.KindWrongCluster, "it belongs to cluster %.40q, the key to %s", b, cluster)
	default:
		cluster = string(b)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", tnv.Wrap("open "+dir, err)
	}
	if e, err = openPebble(Config{Dir: dir, Log: log, Memory: DefaultMemory, Key: protocol.Key{Cluster: cluster}}); err != nil {
		return nil, "", err
	}
	return e, cluster, nil
}
