package httpd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// The daemon's own directory in the volume. No request can name it: the paths of
// the daemon's own pages lie over it (see own). All daemons of a volume share it.
const (
	storeDir   = ownPrefix
	trashDir   = storeDir + "/trash"
	uploadDir  = storeDir + "/uploads"
	mediaDir   = storeDir + "/media"
	storeMode  = 0o700 // what was deleted may be private
	dirMode    = 0o755
	fileMode   = 0o644
	sweepEvery = 10 * time.Minute
	sweepLimit = 5 * time.Minute
)

// store makes sure that one of the daemon's own directories is there.
func (h *handler) store(ctx context.Context, p string) (tnv.Attr, error) {
	at, err := h.tree.dir(ctx, p)
	if errors.Is(err, tnv.KindNotExist) {
		at, err = h.tree.mkdirs(ctx, p, storeMode)
	}
	if err != nil {
		return at, &tnv.Error{Op: "store", Kind: tnv.KindOf(err), Err: err, Msg: "the daemon needs a directory " + storeDir + " in the volume"}
	}
	return at, nil
}

// newID is a name that nobody can guess, and that begins with the time.
func newID(now time.Time) string {
	var b [8]byte
	rand.Read(b[:])
	return now.UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(b[:])
}

// validID tells whether a string from outside can be a name that newID made.
func validID(s string) bool {
	if len(s) != 33 || s[16] != '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && c != 'T' && c != 'Z' && c != '-' {
			return false
		}
	}
	return true
}

// idTime is when newID made a name.
func idTime(id string) (time.Time, bool) {
	if !validID(id) {
		return time.Time{}, false
	}
	t, err := time.Parse("20060102T150405Z", id[:16])
	return t, err == nil
}

// each calls do for all names of a directory, in no order, until it fails. That the
// directory is not there is no error.
func (t *tree) each(ctx context.Context, p string, do func(name string, at *tnv.Attr) error) error {
	dir, err := t.dir(ctx, p)
	if errors.Is(err, tnv.KindNotExist) {
		return nil
	}
	for req := (protocol.ReadDir{Ino: dir.Ino, Limit: pageEntries, Attrs: true}); err == nil; {
		var rep protocol.ReadDirReply
		if rep, err = t.src.ReadDir(ctx, t.cred, req); err != nil {
			break
		}
		for i, e := range rep.Entries {
			if err := do(e.Name, &rep.Attrs[i]); err != nil {
				return err
			}
			req.Cookie = e.Cookie
		}
		if rep.End || len(rep.Entries) == 0 {
			return nil
		}
	}
	return err
}

// sweep removes what is over, again and again, until ctx ends.
func (h *handler) sweep(ctx context.Context) {
	defer h.under.Done()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepEvery):
		}
		ctx, cancel := context.WithTimeout(ctx, sweepLimit)
		for what, do := range map[string]func(context.Context, time.Time) error{"trash": h.sweepTrash, "uploads": h.sweepUploads, "media": h.media.sweep} {
			if err := do(ctx, time.Now()); err != nil && ctx.Err() == nil {
				h.log.WithError(err).WithField("what", what).Warn("what is over was not all removed")
			}
		}
		cancel()
	}
}
