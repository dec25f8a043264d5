package httpd

import (
	"net/url"
	"strings"

	"github.com/tnvfs/tnv"
)

// maxPath bounds the length of a path, as PATH_MAX does.
const maxPath = 4096

// ownPrefix is where the daemon's own pages are.
const (
	ownName   = ".tnv"
	ownPrefix = "/" + ownName
)

// volumePath makes a path of the volume of a request's: absolute, without empty
// segments, without a slash at its end but for the root. dir tells that the
// request's path ended in a slash. KindInvalid for what names no file: a zero
// byte, an escaped slash, "." and ".." as segments (clients resolve these
// themselves; who sends them tries something).
func volumePath(u *url.URL) (p string, dir bool, err error) {
	raw := u.EscapedPath()
	if strings.Contains(raw, "%2f") || strings.Contains(raw, "%2F") {
		return "", false, tnv.E("path", tnv.KindInvalid, "it holds an escaped slash, which no file name can")
	}
	return cleanPath(u.Path)
}

// cleanPath is volumePath of a path that is not escaped, as parameters and bodies have it.
func cleanPath(raw string) (p string, dir bool, err error) {
	if !strings.HasPrefix(raw, "/") {
		return "", false, tnv.E("path", tnv.KindInvalid, "it does not begin with a slash")
	}
	if len(raw) > maxPath {
		return "", false, tnv.E("path", tnv.KindNameTooLong, "it is longer than %d bytes", maxPath)
	}
	if strings.IndexByte(raw, 0) >= 0 {
		return "", false, tnv.E("path", tnv.KindInvalid, "it holds a zero byte")
	}
	var b strings.Builder
	for seg := range strings.SplitSeq(raw, "/") {
		switch {
		case seg == "":
			continue
		case seg == "." || seg == "..":
			return "", false, tnv.E("path", tnv.KindInvalid, `it holds "." or ".."`)
		case len(seg) > tnv.MaxNameLen:
			return "", false, tnv.E("path", tnv.KindNameTooLong, "a name is longer than %d bytes", tnv.MaxNameLen)
		}
		b.WriteByte('/')
		b.WriteString(seg)
	}
	if b.Len() == 0 {
		return "/", true, nil
	}
	return b.String(), strings.HasSuffix(raw, "/"), nil
}

// own tells whether a path is the daemon's own.
func own(p string) bool { return p == ownPrefix || strings.HasPrefix(p, ownPrefix+"/") }

// link writes a path of the volume as a URL's path.
func link(p string) string { return (&url.URL{Path: p}).EscapedPath() }

// hiddenPath tells whether a name on the way begins with a dot: such are shown only
// to those who may write.
func hiddenPath(p string) bool { return strings.Contains(p, "/.") }
