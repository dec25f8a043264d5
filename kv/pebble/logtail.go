package pebble

import (
	"encoding/binary"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A log is a row of blocks of 32 KiB. Chunks do not cross a block's end:
//
//	crc(4) length(2) type(1) log number(4) payload
//
// and what is left behind the last one, if shorter than a header, is zero. But a
// reader passes over up to 18 zero bytes, since later formats have headers of 19.
// Where a power loss took a chunk of 11 to 18 bytes at a block's end and left the
// next block, it would miss that batch and find the next: no prefix survives.
const (
	logBlock       = 32 << 10
	logHeader      = 11
	longestHeader  = 19
	firstChunkType = 5
	lastChunkType  = 8
)

// trimLog ends the newest log of a directory where a chunk is missing that
// Pebble would not miss. The directory must be locked.
func trimLog(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	newest, number := "", uint64(0)
	for _, name := range names {
		if n, err := strconv.ParseUint(strings.TrimSuffix(name, ".log"), 10, 64); err == nil && isLog(name) && n >= number {
			newest, number = name, n
		}
	}
	if newest == "" {
		return nil
	}
	name := fs.PathJoin(dir, path.Base(newest))
	b, err := readFile(fs, name)
	if err != nil {
		return err
	}
	at := missingChunk(b, uint32(number))
	if at < 0 {
		return nil
	}
	f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, len(b)-at), int64(at)); err != nil {
		return err
	}
	return f.Sync()
}

func readFile(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// missingChunk finds where a reader would pass over a chunk that is lost, or -1.
// It trusts lengths without their checksum: behind a wrong one no reader goes on.
func missingChunk(b []byte, number uint32) int {
	for at := 0; at+logHeader <= len(b); {
		left := logBlock - at%logBlock
		if left < logHeader {
			at += left
			continue
		}
		h := b[at : at+logHeader]
		kind := h[6]
		if kind == 0 && left < longestHeader && at+left < len(b) {
			for _, c := range b[at : at+left] {
				if c != 0 {
					return -1 // a damaged chunk: reading ends here
				}
			}
			return at
		}
		if kind < firstChunkType || kind > lastChunkType || binary.LittleEndian.Uint32(h[7:]) != number {
			return -1
		}
		n := logHeader + int(binary.LittleEndian.Uint16(h[4:]))
		if n > left {
			return -1
		}
		at += n
	}
	return -1
}
