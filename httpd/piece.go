package httpd

import "sync"

// Sizes of the pieces in which files are moved. So many transfers may use large
// ones, so many more medium ones; what comes on top gets small ones: together
// they take some 100 MiB with as many connections as there can be.
const (
	largePiece  = 256 << 10
	mediumPiece = 64 << 10
	smallPiece  = 16 << 10

	fewTransfers  = 64
	manyTransfers = 512
)

// pieces keeps buffers between transfers; each pool has one size. It is a cache
// of memory, not state.
var pieces = [...]struct {
	size int
	pool *sync.Pool
}{{largePiece, &sync.Pool{}}, {mediumPiece, &sync.Pool{}}, {smallPiece, &sync.Pool{}}}

// piece is a buffer of one of the sizes.
type piece struct {
	b    []byte
	pool *sync.Pool
}

// newPiece takes a buffer, given the transfers under way and the bytes to move:
// a small range needs no large one.
func newPiece(active, left int64) *piece {
	i := 0
	switch {
	case active > manyTransfers:
		i = 2
	case active > fewTransfers:
		i = 1
	}
	for i < 2 && int64(pieces[i+1].size) >= left {
		i++
	}
	if p, ok := pieces[i].pool.Get().(*piece); ok {
		return p
	}
	return &piece{make([]byte, pieces[i].size), pieces[i].pool}
}

func (p *piece) release() { p.pool.Put(p) }
