package pebble

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	crdb "github.com/cockroachdb/pebble/v2"
	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
)

// failure is the first write or sync that failed. It ends the engine.
type failure struct {
	dir  string
	log  logrus.FieldLogger
	once sync.Once
	err  atomic.Pointer[error]
	done chan struct{} // closed when it has happened
}

func newFailure(dir string, log logrus.FieldLogger) *failure {
	return &failure{dir: dir, log: log, done: make(chan struct{})}
}

// set records err unless it is nil or not the first, and returns it.
func (f *failure) set(op string, err error) error {
	if err == nil {
		return nil
	}
	f.once.Do(func() {
		failed := error(&tnv.Error{
			Op: "store " + f.dir, Kind: tnv.KindOf(err),
			Msg: "the store has failed and must be opened anew: " + op, Err: err,
		})
		f.err.Store(&failed)
		close(f.done)
		f.log.WithError(err).WithField("op", op).Error("store has failed")
	})
	return err
}

// get is the failure, nil while there is none.
func (f *failure) get() error {
	if p := f.err.Load(); p != nil {
		return *p
	}
	return nil
}

// logger takes what Pebble says. Pebble calls Fatalf where it cannot go on, and
// it returns nowhere with a lock held; the disk is frozen by then, so that
// whatever Pebble does next stays in memory.
type logger struct {
	log     logrus.FieldLogger
	failure *failure
}

func (l logger) Infof(format string, args ...any) { l.log.Debugf(format, args...) }

func (l logger) Errorf(format string, args ...any) {
	if l.failure.get() == nil {
		l.log.Errorf(format, args...)
	}
}

func (l logger) Fatalf(format string, args ...any) {
	_ = l.failure.set("pebble", fmt.Errorf(format, args...))
}

// listener logs what an operator wants to know.
func listener(log logrus.FieldLogger, f *failure) *crdb.EventListener {
	return &crdb.EventListener{
		BackgroundError: func(err error) {
			if f.get() == nil {
				log.WithError(err).Error("flush or compaction failed, it is tried again")
			}
		},
		DataCorruption: func(info crdb.DataCorruptionInfo) {
			log.WithError(info.Details).WithField("file", info.Path).Error("store is damaged")
		},
		WriteStallBegin: func(info crdb.WriteStallBeginInfo) {
			log.WithField("reason", info.Reason).Warn("writes wait for the disk")
		},
		WriteStallEnd: func() { log.Info("writes go on") },
	}
}

// isInconsistent tells whether Open found files that do not fit together; Pebble
// has no kind of error for that.
func isInconsistent(err error) bool {
	for _, s := range []string{"object size mismatch", "MANIFEST", "manifest"} {
		if strings.Contains(err.Error(), s) {
			return true
		}
	}
	return false
}
