package protocol

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/tnvfs/tnv"
)

const (
	magic      = 0x7456
	headerSize = 24
	// MaxBody is the longest body of a frame in bytes.
	MaxBody = 4 << 20
	// maxHandshake is the longest body before the other side has proven the key.
	maxHandshake = 1 << 10
	// MaxPayload is the longest payload of a frame in bytes.
	MaxPayload = tnv.MaxBlockSize
)

// Castagnoli is the table of CRC32C, the checksum of everything in TNV.
var Castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Flags qualify a frame.
type Flags uint16

const (
	FlagReply Flags = 1 << iota // answers the request of the same stream
	FlagError                   // the body is a WireError
	FlagPush                    // nobody waits for an answer
	FlagLife                    // the asker reads signs of life before the reply: see life.go
)

// Header is a frame's header, without magic and checksum.
type Header struct {
	Type    Type
	Flags   Flags
	Stream  uint32
	Body    uint32 // bytes
	Payload uint32 // bytes
}

func (h Header) encode(dst *[headerSize]byte, body []byte) {
	b := dst[:]
	binary.BigEndian.PutUint16(b[0:], magic)
	binary.BigEndian.PutUint16(b[2:], uint16(h.Type))
	binary.BigEndian.PutUint16(b[4:], uint16(h.Flags))
	binary.BigEndian.PutUint16(b[6:], 0)
	binary.BigEndian.PutUint32(b[8:], h.Stream)
	binary.BigEndian.PutUint32(b[12:], h.Body)
	binary.BigEndian.PutUint32(b[16:], h.Payload)
	binary.BigEndian.PutUint32(b[20:], checksum(b[:20], body))
}

func checksum(head, body []byte) uint32 {
	return crc32.Update(crc32.Update(0, Castagnoli, head), Castagnoli, body)
}

func decodeHeader(b []byte) (Header, uint32, error) {
	h := Header{
		Type:    Type(binary.BigEndian.Uint16(b[2:])),
		Flags:   Flags(binary.BigEndian.Uint16(b[4:])),
		Stream:  binary.BigEndian.Uint32(b[8:]),
		Body:    binary.BigEndian.Uint32(b[12:]),
		Payload: binary.BigEndian.Uint32(b[16:]),
	}
	switch {
	case binary.BigEndian.Uint16(b) != magic:
		return h, 0, tnv.E("read frame", tnv.KindProtocol, "not a TNV frame")
	case h.Body > MaxBody:
		return h, 0, tnv.E("read frame", tnv.KindProtocol, "body of %d bytes, at most %d", h.Body, MaxBody)
	case h.Payload > MaxPayload:
		return h, 0, tnv.E("read frame", tnv.KindProtocol, "payload of %d bytes, at most %d", h.Payload, MaxPayload)
	}
	return h, binary.BigEndian.Uint32(b[20:]), nil
}

// Frame is a frame as it was read: header and body. The payload, if the header
// names one, is still in the connection and must be taken from it before the
// next frame is read (Wire.ReadPayload, Wire.Payload).
type Frame struct {
	Header
	body []byte
}

// Decode reads the body's values, one into each of dst. It allocates nothing
// that the body's own length does not cover.
func (f *Frame) Decode(dst ...any) error {
	if f.Flags&FlagError != 0 {
		var we WireError
		if err := unmarshal(f.body, &we); err != nil {
			return err
		}
		return we.Err()
	}
	return unmarshal(f.body, dst...)
}

func unmarshal(body []byte, dst ...any) (err error) {
	// A decoder that panics on strange input must not take the daemon along.
	defer func() {
		if p := recover(); p != nil {
			err = tnv.E("decode", tnv.KindProtocol, "%v", p)
		}
	}()
	if err := checkLengths(body); err != nil {
		return err
	}
	d := msgpack.GetDecoder()
	defer msgpack.PutDecoder(d)
	d.Reset(bytes.NewReader(body))
	for _, v := range dst {
		if err := d.Decode(v); err != nil {
			return tnv.E("decode", tnv.KindProtocol, "%T: %v", v, err)
		}
	}
	return nil
}

// Marshal writes values as the body of a frame carries them.
func Marshal(values ...any) ([]byte, error) {
	var b bytes.Buffer
	err := marshal(&b, values...)
	return b.Bytes(), err
}

// Unmarshal reads what Marshal wrote.
func Unmarshal(body []byte, dst ...any) error { return unmarshal(body, dst...) }

func marshal(b *bytes.Buffer, values ...any) error {
	e := msgpack.GetEncoder()
	defer msgpack.PutEncoder(e)
	e.Reset(b) // which also forgets the settings
	e.UseCompactInts(true)
	e.UseArrayEncodedStructs(true)
	for _, v := range values {
		if raw, ok := v.(Raw); ok {
			b.Write(raw)
			continue
		}
		if err := e.Encode(v); err != nil {
			return fmt.Errorf("encode %T: %w", v, err)
		}
	}
	if b.Len() > MaxBody {
		return tnv.E("write frame", tnv.KindProtocol, "body of %d bytes, at most %d", b.Len(), MaxBody)
	}
	return nil
}

// Raw is a value that is msgpack already.
type Raw []byte

// WireError is an error as a frame carries it.
type WireError struct {
	Kind tnv.Kind
	Op   string
	Msg  string
}

// Err makes a Go error of it.
func (w WireError) Err() error { return &tnv.Error{Op: w.Op, Kind: w.Kind, Msg: w.Msg} }

// ToWire makes a WireError of any error.
func ToWire(err error) WireError {
	k := tnv.KindOf(err)
	if e, ok := err.(*tnv.Error); ok && e.Err == nil {
		return WireError{Kind: k, Op: e.Op, Msg: e.Msg}
	}
	return WireError{Kind: k, Msg: err.Error()}
}

// Wire reads and writes frames on one connection. One goroutine may read while
// others write; writes are serialised by it.
type Wire struct {
	conn  net.Conn
	r     *bufio.Reader
	limit uint32 // of a body in bytes: small until the handshake is done
	left  int64  // payload bytes of the last frame that were not taken yet
	addr  string // as dialled, for the pool

	wmu sync.Mutex
	buf bytes.Buffer // under wmu: the frame that is being written
}

const readBuffer = 64 << 10

// NewWire wraps a connection on which nothing was read yet.
func NewWire(c net.Conn) *Wire {
	return &Wire{conn: c, r: bufio.NewReaderSize(c, readBuffer), limit: MaxBody}
}

// Conn is the connection itself: for deadlines, and to send a payload by sendfile.
func (w *Wire) Conn() net.Conn { return w.conn }

// Close closes the connection; a blocked reader or writer returns with an error.
func (w *Wire) Close() error { return w.conn.Close() }

// SetDeadline bounds all reads and writes from now on; the zero time lifts it.
func (w *Wire) SetDeadline(t time.Time) error { return w.conn.SetDeadline(t) }

// ReadFrame reads a header and its body. What was left of the payload before it is skipped.
func (w *Wire) ReadFrame() (Frame, error) {
	if w.left > 0 {
		if _, err := io.CopyN(io.Discard, w.r, w.left); err != nil {
			return Frame{}, err
		}
		w.left = 0
	}
	var hb [headerSize]byte
	if _, err := io.ReadFull(w.r, hb[:]); err != nil {
		return Frame{}, err
	}
	h, sum, err := decodeHeader(hb[:])
	if err != nil {
		return Frame{}, err
	}
	if h.Body > w.limit {
		return Frame{}, tnv.E("read frame", tnv.KindProtocol, "body of %d bytes before the handshake", h.Body)
	}
	body := make([]byte, h.Body)
	if _, err := io.ReadFull(w.r, body); err != nil {
		return Frame{}, noEOF(err)
	}
	if checksum(hb[:20], body) != sum {
		return Frame{}, tnv.E("read frame", tnv.KindProtocol, "wrong checksum")
	}
	w.left = int64(h.Payload)
	return Frame{Header: h, body: body}, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ReadPayload fills p from the payload of the frame that was read last. It
// returns io.ErrUnexpectedEOF if the payload has fewer bytes left.
func (w *Wire) ReadPayload(p []byte) error {
	if int64(len(p)) > w.left {
		return io.ErrUnexpectedEOF
	}
	n, err := io.ReadFull(w.r, p)
	w.left -= int64(n)
	return noEOF(err)
}

// PayloadLeft is how many bytes of the last frame's payload were not taken yet.
func (w *Wire) PayloadLeft() int { return int(w.left) }

// WriteFrame writes one frame in one go: header, the values as its body, and
// the payload pieces, whose lengths must add up to at most MaxPayload. The
// pieces are not kept.
func (w *Wire) WriteFrame(t Type, flags Flags, stream uint32, values []any, payload ...[]byte) error {
	n := 0
	for _, p := range payload {
		n += len(p)
	}
	w.wmu.Lock()
	defer w.wmu.Unlock()
	if err := w.encodeLocked(t, flags, stream, n, values); err != nil {
		return err
	}
	if n == 0 {
		_, err := w.conn.Write(w.buf.Bytes())
		return err
	}
	if n <= 16<<10 { // one small write beats a vector
		for _, p := range payload {
			w.buf.Write(p)
		}
		_, err := w.conn.Write(w.buf.Bytes())
		return err
	}
	v := make(net.Buffers, 0, 1+len(payload))
	v = append(append(v, w.buf.Bytes()), payload...)
	_, err := v.WriteTo(w.conn)
	return err
}

// WriteFrameFrom writes a frame whose payload of n bytes send writes to the
// connection itself (by sendfile, or as it arrives from elsewhere). If send
// fails the connection is of no more use and is closed.
func (w *Wire) WriteFrameFrom(t Type, flags Flags, stream uint32, values []any, n int, send func(net.Conn) error) error {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	if err := w.encodeLocked(t, flags, stream, n, values); err != nil {
		return err
	}
	_, err := w.conn.Write(w.buf.Bytes())
	if err == nil {
		err = send(w.conn)
	}
	if err != nil {
		w.conn.Close()
	}
	return err
}

func (w *Wire) encodeLocked(t Type, flags Flags, stream uint32, payload int, values []any) error {
	if payload > MaxPayload {
		return tnv.E("write frame", tnv.KindProtocol, "payload of %d bytes, at most %d", payload, MaxPayload)
	}
	if w.buf.Cap() > 256<<10 {
		w.buf = bytes.Buffer{}
	}
	w.buf.Reset()
	var hb [headerSize]byte
	w.buf.Write(hb[:])
	if err := marshal(&w.buf, values...); err != nil {
		return err
	}
	b := w.buf.Bytes()
	Header{Type: t, Flags: flags, Stream: stream, Body: uint32(len(b) - headerSize), Payload: uint32(payload)}.
		encode((*[headerSize]byte)(b[:headerSize]), b[headerSize:])
	return nil
}

// WriteReply answers the request f: with the values and payload, or with err if it is not nil.
func (w *Wire) WriteReply(f *Frame, err error, values []any, payload ...[]byte) error {
	if err != nil {
		return w.WriteFrame(f.Type, FlagReply|FlagError, f.Stream, []any{ToWire(err)})
	}
	return w.WriteFrame(f.Type, FlagReply, f.Stream, values, payload...)
}

// NewFrame makes a frame with a body, as if it had been read.
func NewFrame(t Type, values ...any) (*Frame, error) {
	body, err := Marshal(values...)
	return &Frame{Header: Header{Type: t, Body: uint32(len(body))}, body: body}, err
}
