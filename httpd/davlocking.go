package httpd

import (
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/webdav"

	"github.com/tnvfs/tnv"
)

// lockInfo is the body of LOCK (RFC 4918, 14.11).
type lockInfo struct {
	XMLName   xml.Name  `xml:"DAV: lockinfo"`
	Exclusive *struct{} `xml:"DAV: lockscope>exclusive"`
	Shared    *struct{} `xml:"DAV: lockscope>shared"`
	Write     *struct{} `xml:"DAV: locktype>write"`
	Owner     struct {
		Inner string `xml:",innerxml"`
	} `xml:"DAV: owner"`
}

const maxOwner = 4 << 10

// tokenForm finds the locks that an If header names, whatever they are tied to.
var tokenForm = regexp.MustCompile(`<([a-z]+:[^<>\s]+)>`)

// namedTokens lists the locks that a client says it holds.
func namedTokens(r *http.Request) (list []string) {
	for _, m := range tokenForm.FindAllStringSubmatch(strings.Join(r.Header.Values("If"), " "), 64) {
		list = append(list, m[1])
	}
	return list
}

// lockLife is for how long a lock is given: what is wished for first, within the bound.
func lockLife(wish string) time.Duration {
	first, _, _ := strings.Cut(wish, ",")
	n, err := strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(first), "Second-"))
	if err != nil || n <= 0 || n > int(maxDAVLife/time.Second) {
		return maxDAVLife
	}
	return time.Duration(n) * time.Second
}

// lock answers LOCK. A name that is not taken becomes an empty file.
func (d *davFS) lock(body []byte) {
	w, r, locks := d.w, d.r, d.h.dav
	life := lockLife(r.Header.Get("Timeout"))
	if len(strings.TrimSpace(string(body))) == 0 {
		for _, token := range d.tokens {
			if x, ok := locks.refresh(token, d.path, life); ok {
				d.answerLock(http.StatusOK, x, life)
				return
			}
		}
		d.h.refuse(w, http.StatusPreconditionFailed, "no such lock is held here")
		return
	}
	var in lockInfo
	depth := r.Header.Get("Depth")
	if err := xml.Unmarshal(body, &in); err != nil || (in.Exclusive == nil) == (in.Shared == nil) || in.Write == nil ||
		depth != "" && depth != "0" && !strings.EqualFold(depth, "infinity") || len(in.Owner.Inner) > maxOwner {
		d.h.refuse(w, http.StatusBadRequest, "want lockinfo, and Depth 0 or infinity")
		return
	}
	x := &davLock{path: d.path, owner: in.Owner.Inner, shared: in.Shared != nil, infinite: depth != "0"}
	if err := locks.add(r.Context(), x, life); err != nil {
		if errors.Is(err, tnv.KindWouldBlock) {
			d.h.refuse(w, http.StatusLocked, "it is locked")
			return
		}
		d.h.fail(w, r, err)
		return
	}
	status := http.StatusOK
	if d.was == nil {
		if err := d.makeEmpty(x); err != nil {
			locks.drop(x.token)
			if errors.Is(err, tnv.KindNotExist) || errors.Is(err, tnv.KindNotDir) {
				d.h.refuse(w, http.StatusConflict, "there is no such directory")
				return
			}
			d.h.fail(w, r, err)
			return
		}
		status = http.StatusCreated
	}
	w.Header().Set("Lock-Token", "<"+x.token+">")
	d.answerLock(status, x, life)
}

// makeEmpty makes the file of a lock that was taken of a name.
func (d *davFS) makeEmpty(x *davLock) error {
	ctx := d.r.Context()
	if _, _, err := d.h.tree.parent(ctx, d.path); err != nil {
		return err
	}
	f, err := d.h.newDraft(ctx)
	if err != nil {
		return err
	}
	at, err := f.w.Attr(ctx)
	if err == nil {
		err = d.h.dav.hold(ctx, x, at.Ino)
	}
	if err == nil {
		err = f.publish(ctx, d.path, nil)
	}
	return errors.Join(err, f.close())
}

// unlock answers UNLOCK.
func (d *davFS) unlock() {
	token := strings.TrimSpace(d.r.Header.Get("Lock-Token"))
	if len(token) < 3 || token[0] != '<' || token[len(token)-1] != '>' {
		d.h.refuse(d.w, http.StatusBadRequest, "Lock-Token is needed")
		return
	}
	token = token[1 : len(token)-1]
	if !d.h.dav.knows(token, d.path) || !d.h.dav.drop(token) {
		d.h.refuse(d.w, http.StatusConflict, "no such lock is held here")
		return
	}
	d.w.WriteHeader(http.StatusNoContent)
}

func (d *davFS) answerLock(status int, x *davLock, left time.Duration) {
	d.w.Header().Set("Content-Type", "application/xml; charset=utf-8")
	d.w.WriteHeader(status)
	fmt.Fprintf(d.w, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:prop xmlns:D=\"DAV:\"><D:lockdiscovery>%s</D:lockdiscovery></D:prop>\n", activeLock(x, left))
}

// activeLock describes a lock (RFC 4918, 14.1). The owner is what the client gave,
// which was well-formed.
func activeLock(x *davLock, left time.Duration) string {
	scope, depth := "exclusive", "0"
	if x.shared {
		scope = "shared"
	}
	if x.infinite {
		depth = "infinity"
	}
	return fmt.Sprintf("<D:activelock xmlns:D=\"DAV:\"><D:locktype><D:write/></D:locktype><D:lockscope><D:%s/></D:lockscope><D:depth>%s</D:depth>"+
		"<D:owner>%s</D:owner><D:timeout>Second-%d</D:timeout><D:locktoken><D:href>%s</D:href></D:locktoken><D:lockroot><D:href>%s</D:href></D:lockroot></D:activelock>",
		scope, depth, x.owner, max(1, int(left/time.Second)), x.token, link(x.path))
}

// lockProps are the properties that tell of locks.
func (d *davFS) lockProps(p string, out map[xml.Name]webdav.Property) {
	list, left := d.h.dav.of(p)
	var b strings.Builder
	for i, x := range list {
		b.WriteString(activeLock(x, left[i]))
	}
	entry := `<D:lockentry xmlns:D="DAV:"><D:lockscope><D:%s/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>`
	for local, inner := range map[string]string{"lockdiscovery": b.String(), "supportedlock": fmt.Sprintf(entry+entry, "exclusive", "shared")} {
		n := xml.Name{Space: "DAV:", Local: local}
		out[n] = webdav.Property{XMLName: n, InnerXML: []byte(inner)}
	}
}
