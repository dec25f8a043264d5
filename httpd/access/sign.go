package access

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"

	"github.com/tnvfs/tnv"
)

// Signer makes and checks links and sessions: with a key that all daemons of a
// volume, and who holds the cluster's key, derive alike.
type Signer struct{ key []byte }

// NewSigner derives a volume's signer of the cluster's secret.
func NewSigner(secret []byte, cluster, volume string) *Signer {
	return &Signer{mac(secret, "tnv httpd signatures 1", cluster, volume)}
}

// mac is HMAC-SHA256 over parts, each with its length, so that no two lists of
// parts are the same bytes.
func mac(key []byte, parts ...string) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		h.Write([]byte(p))
	}
	return h.Sum(nil)
}

// A link's proof is, in base64url: end (8 bytes, Unix seconds), depth (2 bytes),
// the first 16 bytes of the mac over both, the maker and the path, and the maker's
// name, empty for the operator. It is good for the path of which it was made and
// all beneath, the first depth names of what is asked for, as far as its maker may
// read that himself at the time.
const (
	linkHead = 10
	linkSize = linkHead + 16
	maxMaker = 255
)

// Link is a proof that was handed in. It is worth something only at paths that
// it covers.
type Link struct {
	raw   [linkSize]byte
	depth int
	End   time.Time
	Maker string
	Proof string // as it came
}

var enc = base64.RawURLEncoding

// Depth is how many names a clean path has.
func depth(path string) int {
	if path == "/" {
		return 0
	}
	return strings.Count(path, "/")
}

// Link signs a path until a time. maker is the user on whose account it is, "" the operator.
func (s *Signer) Link(path, maker string, end time.Time) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(end.Unix()))
	b = binary.BigEndian.AppendUint16(b, uint16(depth(path)))
	return enc.EncodeToString(append(append(b, s.linkMac(b, maker, path)...), maker...))
}

func (s *Signer) linkMac(head []byte, maker, path string) []byte {
	return mac(s.key, "link", string(head), maker, path)[:linkSize-linkHead]
}

// ParseLink takes a link's proof apart.
func ParseLink(proof string) (Link, error) {
	l := Link{Proof: proof}
	if n := enc.DecodedLen(len(proof)); n < linkSize || n > linkSize+maxMaker {
		return l, tnv.E("link", tnv.KindInvalid, "a proof has %d bytes and a name", linkSize)
	}
	b, err := enc.DecodeString(proof)
	if err != nil || len(b) < linkSize {
		return l, tnv.E("link", tnv.KindInvalid, "the proof is no base64url")
	}
	copy(l.raw[:], b)
	l.Maker = string(b[linkSize:])
	end := binary.BigEndian.Uint64(l.raw[:])
	if end > 1<<40 {
		return l, tnv.E("link", tnv.KindInvalid, "it ends too late")
	}
	l.End, l.depth = time.Unix(int64(end), 0), int(binary.BigEndian.Uint16(l.raw[8:]))
	return l, nil
}

// top is the part of a clean path that a link of this depth must be for; false:
// the path is too short.
func top(path string, depth int) (string, bool) {
	if depth == 0 {
		return "/", true
	}
	at := 0
	for range depth {
		if at >= len(path) || path == "/" {
			return "", false
		}
		next := strings.IndexByte(path[at+1:], '/')
		if next < 0 {
			at = len(path)
		} else {
			at += 1 + next
		}
	}
	return path[:at], true
}

// Covers tells whether a link was signed for a clean path or one above it, and is not over.
func (s *Signer) Covers(l *Link, path string, now time.Time) bool {
	t, ok := top(path, l.depth)
	return ok && now.Before(l.End) && hmac.Equal(l.raw[linkHead:], s.linkMac(l.raw[:linkHead], l.Maker, t))
}

// session is the value of a session's cookie. proof is what the user's password is
// checked against: the cookie ends with it.
func (s *Signer) session(user, proof string, end time.Time) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(end.Unix()))
	b = append(b, mac(s.key, "session", string(b), user, proof)...)
	return enc.EncodeToString(append(b, user...))
}

// sessionUser reads a session's cookie: whose it is, if proof says so.
func (s *Signer) sessionUser(cookie string, now time.Time, proof func(user string) (string, bool)) (string, bool) {
	b, err := enc.DecodeString(cookie)
	if err != nil || len(b) < 8+sha256.Size {
		return "", false
	}
	user := string(b[8+sha256.Size:])
	p, known := proof(user)
	if !known || !hmac.Equal(b[8:8+sha256.Size], mac(s.key, "session", string(b[:8]), user, p)) {
		return "", false
	}
	return user, uint64(now.Unix()) < binary.BigEndian.Uint64(b)
}
