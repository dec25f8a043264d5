package httpd

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// span is a part of a file: bytes from first to last.
type span struct{ first, last int64 }

// rangeError says why a Range is answered with 416.
type rangeError string

func (e rangeError) Error() string { return string(e) }

const (
	errRange       = rangeError("the Range is no list of ranges")
	errTooMany     = rangeError("so many ranges are not answered at once")
	errUnsatisfied = rangeError("no range lies within the file")
)

// parseRanges reads the list behind "bytes=" (RFC 9110, 14.1.2), and gives the
// ranges that can be satisfied, in order; nil: the whole file is the answer. Elements
// of a list may be empty (5.6.1.2).
func parseRanges(list string, size int64) ([]span, error) {
	var out []span
	n, whole := 0, false
	for spec := range strings.SplitSeq(list, ",") {
		spec = strings.Trim(spec, " \t")
		if spec == "" {
			continue
		}
		if n++; n > maxRanges {
			return nil, errTooMany
		}
		first, last, found := strings.Cut(spec, "-")
		a, okA := position(first)
		b, okB := position(last)
		if !found || first == "" && last == "" || !okA || !okB {
			return nil, errRange
		}
		switch {
		case first == "" && b > 0: // the last b bytes
			whole = whole || size == 0
			if size > 0 {
				out = append(out, span{max(0, size-b), size - 1})
			}
		case first == "":
		case last != "" && b < a:
			return nil, errRange
		case a < size:
			if last == "" || b >= size {
				b = size - 1
			}
			out = append(out, span{a, b})
		case a == 0:
			whole = true // of an empty file; no Content-Range could tell of it
		}
	}
	switch {
	case n == 0:
		return nil, errRange
	case len(out) == 0 && !whole:
		return nil, errUnsatisfied
	}
	return out, nil
}

// position reads a number of digits; one that is too large is as large as can be.
// Nothing is 0.
func position(s string) (int64, bool) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		n = 1<<63 - 1
	}
	return n, true
}

// checkRange makes a Range header one that http.ServeContent answers as it should,
// or removes one that is to be ignored, and refuses one that cannot be satisfied: false.
func (h *handler) checkRange(w *recorder, r *http.Request, modified time.Time, size int64) bool {
	values := r.Header.Values("Range")
	if len(values) == 0 {
		return true
	}
	unit, list, found := strings.Cut(values[0], "=")
	switch {
	case len(values) > 1, !found || !strings.EqualFold(unit, "bytes"), // RFC 9110, 14.2: a unit that is not understood
		r.Method != http.MethodGet, // 14.2: for other methods it means nothing
		!applies(r, w.Header().Get("ETag"), modified),
		!rangeStill(r, w.Header().Get("ETag"), modified):
		r.Header.Del("Range")
		return true
	}
	spans, err := parseRanges(list, size)
	if err != nil {
		w.Header().Del("ETag")
		w.Header().Del("Cache-Control")
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		h.refuse(w, http.StatusRequestedRangeNotSatisfiable, err.Error())
		return false
	}
	var total int64
	specs := make([]string, len(spans))
	for i, s := range spans {
		specs[i] = fmt.Sprintf("%d-%d", s.first, s.last)
		total += s.last - s.first + 1
	}
	r.Header.Del("If-Range")
	r.Header.Del("Range")
	if len(spans) > 0 && total <= size { // more would be all of it, and then some
		r.Header.Set("Range", "bytes="+strings.Join(specs, ","))
	}
	return true
}

// applies tells whether the conditions of a request let its Range count: the
// answer is neither 304 nor 412 (RFC 9110, 13.2.2).
func applies(r *http.Request, tag string, modified time.Time) bool {
	list := func(name string) string { return strings.Join(r.Header.Values(name), ", ") }
	second := modified.Truncate(time.Second)
	if m := list("If-Match"); m != "" {
		if !matches(m, tag, true) {
			return false
		}
	} else if t, err := http.ParseTime(r.Header.Get("If-Unmodified-Since")); err == nil && second.After(t) {
		return false
	}
	if m := list("If-None-Match"); m != "" {
		return !matches(m, tag, false)
	}
	t, err := http.ParseTime(r.Header.Get("If-Modified-Since"))
	return err != nil || second.After(t)
}

// rangeStill tells whether the version that If-Range names is this one (13.1.5). A
// date is good only where it proves a version.
func rangeStill(r *http.Request, tag string, modified time.Time) bool {
	cond := r.Header.Get("If-Range")
	if cond == "" {
		return true
	}
	if strings.HasPrefix(cond, `"`) || strings.HasPrefix(cond, "W/") {
		return cond == tag
	}
	t, err := http.ParseTime(cond)
	return err == nil && t.Equal(modified.Truncate(time.Second)) && time.Since(modified) >= strongAfter
}
