package protocol

import (
	"encoding/binary"

	"github.com/tnvfs/tnv"
)

// maxDepth is how deep arrays may lie in each other. Messages need five.
const maxDepth = 16

// checkLengths walks over msgpack values and refuses a length that the bytes
// behind it cannot hold. The decoder makes room for an array by the length that
// its header claims, so this comes before it: what is allocated is bounded by
// what was sent.
func checkLengths(b []byte) error {
	for len(b) > 0 {
		var err error
		if b, err = skipValue(b, 0); err != nil {
			return err
		}
	}
	return nil
}

func skipValue(b []byte, depth int) ([]byte, error) {
	if len(b) == 0 || depth > maxDepth {
		return nil, badLength()
	}
	c, b := b[0], b[1:]
	switch {
	case c <= 0x7f || c >= 0xe0 || c == 0xc0 || c == 0xc2 || c == 0xc3: // small integers, nil, booleans
		return b, nil
	case c <= 0x8f:
		return skipValues(b, 2*uint64(c&0x0f), depth)
	case c <= 0x9f:
		return skipValues(b, uint64(c&0x0f), depth)
	case c <= 0xbf:
		return skipBytes(b, uint64(c&0x1f))
	}
	switch c {
	case 0xc4, 0xd9: // bin, str: one byte of length
		return skipCounted(b, 1, 0)
	case 0xc5, 0xda:
		return skipCounted(b, 2, 0)
	case 0xc6, 0xdb:
		return skipCounted(b, 4, 0)
	case 0xc7: // ext: a length, then a type
		return skipCounted(b, 1, 1)
	case 0xc8:
		return skipCounted(b, 2, 1)
	case 0xc9:
		return skipCounted(b, 4, 1)
	case 0xcc, 0xd0:
		return skipBytes(b, 1)
	case 0xcd, 0xd1:
		return skipBytes(b, 2)
	case 0xca, 0xce, 0xd2:
		return skipBytes(b, 4)
	case 0xcb, 0xcf, 0xd3:
		return skipBytes(b, 8)
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8: // ext of 1 to 16 bytes
		return skipBytes(b, 1+1<<(c-0xd4))
	case 0xdc, 0xdd, 0xde, 0xdf: // array, map
		width := 2 << (c & 1)
		n, rest, err := length(b, width)
		if err != nil {
			return nil, err
		}
		if c >= 0xde {
			n *= 2
		}
		return skipValues(rest, n, depth)
	}
	return nil, badLength()
}

func badLength() error {
	return tnv.E("decode", tnv.KindProtocol, "a length that the message does not hold")
}

func length(b []byte, width int) (uint64, []byte, error) {
	if len(b) < width {
		return 0, nil, badLength()
	}
	var n uint64
	switch width {
	case 1:
		n = uint64(b[0])
	case 2:
		n = uint64(binary.BigEndian.Uint16(b))
	default:
		n = uint64(binary.BigEndian.Uint32(b))
	}
	return n, b[width:], nil
}

func skipCounted(b []byte, width int, more uint64) ([]byte, error) {
	n, b, err := length(b, width)
	if err != nil {
		return nil, err
	}
	return skipBytes(b, n+more)
}

func skipBytes(b []byte, n uint64) ([]byte, error) {
	if n > uint64(len(b)) {
		return nil, badLength()
	}
	return b[n:], nil
}

func skipValues(b []byte, n uint64, depth int) ([]byte, error) {
	if n > uint64(len(b)) { // each takes a byte at least
		return nil, badLength()
	}
	for ; n > 0; n-- {
		var err error
		if b, err = skipValue(b, depth+1); err != nil {
			return nil, err
		}
	}
	return b, nil
}
