package protocol

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tnvfs/tnv"
)

// Version is the protocol's version that this program speaks.
const Version = 1

// Key is a cluster's id and secret.
type Key struct {
	Cluster string // 32 hexadecimal digits
	Secret  []byte // 32 bytes
}

// NewKey draws the key of a new cluster.
func NewKey() Key {
	var b [48]byte
	rand.Read(b[:]) // never fails: see crypto/rand
	return Key{Cluster: hex.EncodeToString(b[:16]), Secret: b[16:]}
}

const keyPrefix = "tnv-key-1"

// String is the key as it stands in a key file. It is a secret.
func (k Key) String() string {
	return fmt.Sprintf("%s %s %s\n", keyPrefix, k.Cluster, base64.StdEncoding.EncodeToString(k.Secret))
}

// ParseKey reads what String wrote.
func ParseKey(s string) (Key, error) {
	f := strings.Fields(s)
	if len(f) != 3 || f[0] != keyPrefix || len(f[1]) != 32 {
		return Key{}, tnv.E("read key", tnv.KindInvalid, "not a TNV key: want a line %q, cluster id, secret", keyPrefix)
	}
	secret, err := base64.StdEncoding.DecodeString(f[2])
	if err != nil || len(secret) != 32 {
		return Key{}, tnv.E("read key", tnv.KindInvalid, "the secret is not 32 bytes of base64")
	}
	return Key{Cluster: f[1], Secret: secret}, nil
}

// ReadKeyFile reads a key file.
func ReadKeyFile(path string) (Key, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Key{}, tnv.Wrap("read key file", err)
	}
	k, err := ParseKey(string(b))
	if err != nil {
		return Key{}, tnv.Wrap("read key file "+path, err)
	}
	return k, nil
}

// Endpoint is who one is on a connection. It is read-only once in use.
type Endpoint struct {
	Key  Key
	Role Role
	// Versions that are spoken; nil: Version alone.
	Versions []uint16
}

func (e *Endpoint) versions() []uint16 {
	if len(e.Versions) == 0 {
		return []uint16{Version}
	}
	return e.Versions
}

// HandshakeTimeout bounds a handshake on either side.
const HandshakeTimeout = 5 * time.Second

func mac(k Key, side string, a, b []byte, version uint16, asker, answerer Role) []byte {
	h := hmac.New(sha256.New, k.Secret)
	for _, part := range [][]byte{[]byte(side), a, b, []byte(k.Cluster),
		binary.BigEndian.AppendUint16(nil, version), []byte(asker), []byte(answerer)} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	return h.Sum(nil)
}

// Dial connects and proves the key to the other side and has it proven. addr is
// host:port, or the path of a unix socket where it begins with a slash. The
// peer's role is returned with the connection.
func Dial(ctx context.Context, e *Endpoint, addr string) (*Wire, Role, error) {
	op := "connect to " + addr
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		kind := tnv.KindUnavailable
		if tnv.KindOf(err) == tnv.KindCanceled {
			kind = tnv.KindCanceled
		}
		return nil, "", &tnv.Error{Op: op, Kind: kind, Err: err}
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	w := NewWire(c)
	w.limit = maxHandshake
	role, err := ask(e, w)
	w.limit = MaxBody
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		if tnv.KindOf(err) == tnv.KindOther {
			err = &tnv.Error{Op: op, Kind: tnv.KindUnavailable, Err: err}
		} else {
			err = tnv.Wrap(op, err)
		}
		return nil, "", err
	}
	return w, role, nil
}

func ask(e *Endpoint, w *Wire) (Role, error) {
	a := make([]byte, 32)
	rand.Read(a)
	hello := Hello{Versions: e.versions(), Cluster: e.Key.Cluster, Role: e.Role, Nonce: a}
	if err := w.WriteFrame(TypeHello, 0, 0, []any{&hello}); err != nil {
		return "", err
	}
	f, err := w.ReadFrame()
	if err != nil {
		return "", err
	}
	var answer Hello
	if err := f.Decode(&answer); err != nil {
		return "", err
	}
	if f.Type != TypeHello || len(answer.Versions) != 1 || len(answer.Nonce) != 32 {
		return "", tnv.E("handshake", tnv.KindProtocol, "no proper hello")
	}
	v := answer.Versions[0]
	if !hmac.Equal(answer.Proof, mac(e.Key, "answer", a, answer.Nonce, v, e.Role, answer.Role)) {
		return "", tnv.E("handshake", tnv.KindAuth, "the other side does not hold this cluster's key")
	}
	if !slices.Contains(e.versions(), v) {
		return "", tnv.E("handshake", tnv.KindVersion, "the other side chose version %d", v)
	}
	proof := Proof{MAC: mac(e.Key, "ask", a, answer.Nonce, v, e.Role, answer.Role)}
	if err := w.WriteFrame(TypeProof, 0, 0, []any{&proof}); err != nil {
		return "", err
	}
	if f, err = w.ReadFrame(); err != nil {
		return "", err
	}
	return answer.Role, f.Decode()
}

// Accept does the answering side of the handshake on a fresh connection. The
// asker's role is returned with it. On an error the connection is closed.
func Accept(e *Endpoint, c net.Conn) (*Wire, Role, error) {
	c.SetDeadline(time.Now().Add(HandshakeTimeout))
	w := NewWire(c)
	w.limit = maxHandshake
	role, err := answer(e, w)
	w.limit = MaxBody
	if err != nil {
		c.Close()
		return nil, "", tnv.Wrap("handshake with "+c.RemoteAddr().String(), err)
	}
	return w, role, c.SetDeadline(time.Time{})
}

func answer(e *Endpoint, w *Wire) (Role, error) {
	f, err := w.ReadFrame()
	if err != nil {
		return "", err
	}
	refuse := func(err error) (Role, error) {
		w.WriteReply(&f, err, nil)
		return "", err
	}
	var hello Hello
	if f.Type != TypeHello {
		return refuse(tnv.E("handshake", tnv.KindProtocol, "frame of type %d instead of hello", f.Type))
	}
	if err := f.Decode(&hello); err != nil {
		return refuse(err)
	}
	if len(hello.Nonce) != 32 {
		return refuse(tnv.E("handshake", tnv.KindProtocol, "nonce of %d bytes", len(hello.Nonce)))
	}
	var v uint16
	for _, o := range hello.Versions {
		if o > v && slices.Contains(e.versions(), o) {
			v = o
		}
	}
	if v == 0 {
		return refuse(tnv.E("handshake", tnv.KindVersion, "this side speaks %v, the other %v: upgrade the older of the two", e.versions(), hello.Versions))
	}
	if hello.Cluster != e.Key.Cluster {
		return refuse(tnv.E("handshake", tnv.KindWrongCluster, "this is cluster %s, the other side belongs to %.40q", e.Key.Cluster, hello.Cluster))
	}
	b := make([]byte, 32)
	rand.Read(b)
	reply := Hello{Versions: []uint16{v}, Cluster: e.Key.Cluster, Role: e.Role, Nonce: b,
		Proof: mac(e.Key, "answer", hello.Nonce, b, v, hello.Role, e.Role)}
	if err := w.WriteReply(&f, nil, []any{&reply}); err != nil {
		return "", err
	}
	if f, err = w.ReadFrame(); err != nil {
		return "", err
	}
	var proof Proof
	if err := f.Decode(&proof); err != nil || f.Type != TypeProof {
		return refuse(tnv.E("handshake", tnv.KindProtocol, "no proper proof"))
	}
	if !hmac.Equal(proof.MAC, mac(e.Key, "ask", hello.Nonce, b, v, hello.Role, e.Role)) {
		return refuse(tnv.E("handshake", tnv.KindAuth, "the key does not prove right"))
	}
	return hello.Role, w.WriteReply(&f, nil, nil)
}
