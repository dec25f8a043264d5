package access

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"github.com/tnvfs/tnv"
)

// maxFile bounds the size of a file of users, tokens or rules.
const maxFile = 8 << 20

// parseUsers reads an htpasswd file: "NAME:HASH" a line, bcrypt only.
func parseUsers(b []byte) (map[string]string, error) {
	out := map[string]string{}
	return out, eachPair(b, "file of users", func(n int, name, hash string) error {
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return tnv.E("file of users", tnv.KindInvalid, "line %d: the password of %q is not hashed with bcrypt: make it with `tnv passwd` or `htpasswd -B`", n, name)
		}
		out[name] = hash
		return nil
	})
}

// parseTokens reads a file of tokens: "NAME:SHA256" a line; a user may have several.
func parseTokens(b []byte) (map[[32]byte]string, error) {
	out := map[[32]byte]string{}
	return out, eachPair(b, "file of tokens", func(n int, name, digest string) error {
		d, err := hex.DecodeString(digest)
		if err != nil || len(d) != sha256.Size {
			return tnv.E("file of tokens", tnv.KindInvalid, "line %d: want NAME:SHA256; make it with `tnv token`", n)
		}
		out[[32]byte(d)] = name
		return nil
	})
}

func eachPair(b []byte, op string, do func(n int, name, value string) error) error {
	sc := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, found := strings.Cut(line, ":")
		if err := CheckName(name); !found || err != nil {
			return tnv.E(op, tnv.KindInvalid, "line %d: want NAME:VALUE", n)
		}
		if err := do(n, name, value); err != nil {
			return err
		}
	}
	return tnv.Wrap(op, sc.Err())
}

// CheckName refuses what cannot be a user's name.
func CheckName(name string) error {
	if name == "" || name == Everyone || name == Users || len(name) > 255 || strings.ContainsAny(name, ": \t\r\n#") {
		return tnv.E("user", tnv.KindInvalid, "%q cannot be a user's name", name)
	}
	return nil
}

// readFile reads a small file; "" is an empty one.
func readFile(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	fi, err := os.Stat(path)
	if err == nil && fi.Size() > maxFile {
		err = tnv.E(path, tnv.KindTooBig, "%d bytes", fi.Size())
	}
	if err != nil {
		return nil, tnv.Wrap("read access", err)
	}
	b, err := os.ReadFile(path)
	return b, tnv.Wrap("read access", err)
}

// HashPassword makes the line of an htpasswd file.
func HashPassword(user, password string) (string, error) {
	if err := CheckName(user); err != nil {
		return "", err
	}
	if len(password) > 72 {
		return "", tnv.E("password", tnv.KindInvalid, "bcrypt takes at most 72 bytes")
	}
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	return user + ":" + string(h), tnv.Wrap("hash password", err)
}

// NewToken makes a token, and the line of the file of tokens by which it is known.
func NewToken(user string) (token, line string, err error) {
	if err := CheckName(user); err != nil {
		return "", "", err
	}
	var b [24]byte
	rand.Read(b[:])
	token = "tnv_" + enc.EncodeToString(b[:])
	d := sha256.Sum256([]byte(token))
	return token, user + ":" + hex.EncodeToString(d[:]), nil
}
