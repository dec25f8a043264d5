package httpd

import (
	"context"
	"encoding/json"
	"errors"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/httpd/access"
	"github.com/tnvfs/tnv/protocol"
)

// What is deleted is moved to the trash: a directory of its own for each,
//
//	/.tnv/trash/ID/record   what it was, written first
//	/.tnv/trash/ID/item     it
//
// Invariant: an item has a record beside it. What has a record and no item is
// nothing: put back, or never taken. Who wants an item takes it away by a rename
// that replaces nothing (back to its place, or to "gone" to be removed), so that one
// of several gets it.
const (
	recordName = "record"
	itemName   = "item"
	goneName   = "gone"
	maxRecord  = 32 << 10 // JSON writes some bytes of a path as six
	// maxTrash is how many are listed.
	maxTrash = 10_000
)

// trashed is a record.
type trashed struct {
	Path string    `json:"path"` // where it was
	By   string    `json:"by"`
	At   time.Time `json:"at"`
	Size uint64    `json:"size"`
	Type string    `json:"type"`
}

// discard moves what is at a path to the trash, and returns its id there. With
// no trash (Config.TrashLife below zero) it is removed for good, and the id is empty.
func (h *handler) discard(ctx context.Context, p, by string) (string, error) {
	if h.trashLife < 0 {
		_, _, _, err := h.tree.entry(ctx, p)
		if err == nil {
			err = h.tree.purge(ctx, p)
		}
		return "", err
	}
	_, _, at, err := h.tree.entry(ctx, p)
	if err != nil {
		return "", err
	}
	if _, err := h.store(ctx, trashDir); err != nil {
		return "", err
	}
	now := time.Now()
	id := newID(now)
	dir := trashDir + "/" + id
	if _, err := h.tree.mkdir(ctx, dir, storeMode); err != nil {
		return "", err
	}
	b, _ := json.Marshal(trashed{Path: p, By: by, At: now.UTC(), Size: at.Size, Type: typeName(&at)})
	if err = h.tree.write(ctx, dir+"/"+recordName, b, 0o600); err != nil {
		h.tree.purge(context.WithoutCancel(ctx), dir)
		return "", err
	}
	// A rename without an answer may have been done, or be done yet: what it was to
	// lead into stays, and the sweep takes it.
	if err = h.tree.move(ctx, p, dir+"/"+itemName, protocol.RenameNoReplace); err != nil {
		return "", err
	}
	h.tell(change{Op: opRemove, Path: p, Dir: at.IsDir()})
	return id, nil
}

// replace moves what is at from to to, where something is: that goes to the trash when
// it is clear that the other can come, and comes back if it does not.
func (h *handler) replace(ctx context.Context, who *access.Who, from, to string) error {
	if _, _, err := h.tree.leaving(ctx, from); err != nil {
		return err
	}
	id, err := h.discard(ctx, to, who.User)
	if err != nil {
		return err
	}
	if err = h.tree.move(ctx, from, to, protocol.RenameNoReplace); err != nil && id != "" {
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), uploadEnd)
		defer cancel()
		if _, rerr := h.restore(back, who, id); rerr != nil {
			h.log.WithError(rerr).WithField("path", to).Warn("what was to be replaced stays in the trash")
		}
	}
	return err
}

// record reads what the trash knows of an id.
func (h *handler) record(ctx context.Context, id string) (trashed, error) {
	var rec trashed
	if !validID(id) {
		return rec, tnv.E("trash", tnv.KindNotExist, "no such id")
	}
	b, err := h.tree.read(ctx, trashDir+"/"+id+"/"+recordName, maxRecord)
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return rec, tnv.E("trash "+id, tnv.KindCorrupt, "its record cannot be read")
	}
	if p, _, err := cleanPath(rec.Path); err != nil || p != rec.Path || own(p) {
		return rec, tnv.E("trash "+id, tnv.KindCorrupt, "its record names no path")
	}
	return rec, nil
}

// restore puts back what was deleted; KindExist if its name is taken.
func (h *handler) restore(ctx context.Context, who *access.Who, id string) (string, error) {
	rec, err := h.record(ctx, id)
	if err == nil && who.Role(rec.Path) < access.Write {
		err = tnv.E("undo", tnv.KindNotExist, "")
	}
	if err != nil {
		return "", err
	}
	if _, err := h.tree.mkdirs(ctx, path.Dir(rec.Path), dirMode); err != nil {
		return rec.Path, err
	}
	dir := trashDir + "/" + id
	if err := h.tree.move(ctx, dir+"/"+itemName, rec.Path, protocol.RenameNoReplace); err != nil {
		return rec.Path, err
	}
	h.tell(change{Op: opCreate, Path: rec.Path, Dir: rec.Type == "dir"})
	return rec.Path, h.tree.purge(context.WithoutCancel(ctx), dir)
}

// drop removes what is in the trash for good.
func (h *handler) drop(ctx context.Context, id string) error {
	dir := trashDir + "/" + id
	err := h.tree.move(ctx, dir+"/"+itemName, dir+"/"+goneName, protocol.RenameNoReplace)
	if err != nil && !errors.Is(err, tnv.KindNotExist) && !errors.Is(err, tnv.KindExist) {
		return err
	}
	return h.tree.purge(ctx, dir)
}

// trashItem is an entry of the listing of the trash.
type trashItem struct {
	ID      string    `json:"id"`
	Path    string    `json:"path"`
	Deleted time.Time `json:"deleted"`
	By      string    `json:"by,omitempty"`
	Size    uint64    `json:"size"`
	Type    string    `json:"type"`
	Expires time.Time `json:"expires"`
}

// listTrash lists what somebody may put back, the newest first.
func (h *handler) listTrash(ctx context.Context, who *access.Who) ([]trashItem, error) {
	var ids []string
	err := h.tree.each(ctx, trashDir, func(name string, _ *tnv.Attr) error {
		if validID(name) {
			ids = append(ids, name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(ids, func(a, b string) int { return strings.Compare(b, a) })
	out := []trashItem{}
	for _, id := range ids[:min(len(ids), maxTrash)] {
		rec, err := h.record(ctx, id)
		if errors.Is(err, tnv.KindNotExist) || errors.Is(err, tnv.KindCorrupt) || errors.Is(err, tnv.KindTooBig) || err == nil && who.Role(rec.Path) < access.Write {
			continue
		}
		if err != nil {
			return nil, err
		}
		if _, err := h.src.Resolve(ctx, h.cred, trashDir+"/"+id+"/"+itemName, false); err != nil {
			continue
		}
		out = append(out, trashItem{id, rec.Path, rec.At, rec.By, rec.Size, rec.Type, rec.At.Add(h.trashLife)})
	}
	return out, nil
}

// sweepTrash removes what lay there for its life.
func (h *handler) sweepTrash(ctx context.Context, now time.Time) error {
	if h.trashLife < 0 {
		return nil
	}
	return h.tree.each(ctx, trashDir, func(name string, _ *tnv.Attr) error {
		if t, ok := idTime(name); ok && now.Sub(t) > h.trashLife {
			return h.drop(ctx, name)
		}
		return nil
	})
}
