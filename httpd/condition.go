package httpd

import (
	"net/http"
	"strings"
	"time"

	"github.com/tnvfs/tnv"
)

// matches tells whether a list of entity tags (RFC 9110, 8.8.3 and 13.1) holds a
// tag, or is "*". strong: tags that are weak match nothing.
func matches(list, tag string, strong bool) bool {
	for list != "" {
		list = strings.TrimLeft(list, " \t,")
		if list == "" {
			return false
		}
		if list[0] == '*' {
			return true
		}
		weak := strings.HasPrefix(list, "W/")
		list = strings.TrimPrefix(list, "W/")
		if !strings.HasPrefix(list, `"`) {
			return false
		}
		end := strings.IndexByte(list[1:], '"')
		if end < 0 {
			return false
		}
		if list[:end+2] == tag && (!weak || !strong) {
			return true
		}
		list = list[end+2:]
	}
	return false
}

// holds tells whether the conditions of a request that changes something hold, in
// the order of RFC 9110, 13.2.2. at is what is there, nil: nothing.
func holds(r *http.Request, at *tnv.Attr) bool {
	tag := ""
	if at != nil {
		tag = etag(at)
	}
	list := func(name string) string { return strings.Join(r.Header.Values(name), ", ") }
	if m := list("If-Match"); m != "" {
		if at == nil || !matches(m, tag, true) {
			return false
		}
	} else if since, err := http.ParseTime(r.Header.Get("If-Unmodified-Since")); err == nil && at != nil {
		if tnv.Time(at.Mtime).Truncate(time.Second).After(since) {
			return false
		}
	}
	if m := list("If-None-Match"); m != "" && at != nil && matches(m, tag, false) {
		return false
	}
	return true
}
