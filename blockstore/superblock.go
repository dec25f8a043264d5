package blockstore

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

const (
	superName = "superblock"
	lockName  = "LOCK"
	// format is the newest on-disk format, and the only one so far.
	format = 1
	// maxName limits the names of cluster and group.
	maxName = 255
)

var superMagic = [8]byte{'T', 'N', 'V', 'S', 'U', 'P', 'E', 'R'}

// Superblock is the store's identity (D8).
type Superblock struct {
	Format  int
	Cluster string
	Group   string
	Node    tnv.NodeID
	Boot    tnv.BootID // grows with every Open
	Clean   bool       // the last stop was clean: Close returned nil
}

// The superblock is one small file, replaced as a whole (written beside,
// synced, renamed, directory synced): it is never torn, so a damaged one is an
// error that a person must look at. Big endian.
//
//	 0  magic    8  "TNVSUPER"
//	 8  format   4
//	12  clean    4  1 after a clean stop
//	16  node     8
//	24  boot     8
//	32  cluster  2 + n
//	    group    2 + n
//	    crc      4  CRC32C of all before
func (b *Superblock) encode() []byte {
	p := append([]byte(nil), superMagic[:]...)
	p = binary.BigEndian.AppendUint32(p, uint32(b.Format))
	var clean uint32
	if b.Clean {
		clean = 1
	}
	p = binary.BigEndian.AppendUint32(p, clean)
	p = binary.BigEndian.AppendUint64(p, uint64(b.Node))
	p = binary.BigEndian.AppendUint64(p, uint64(b.Boot))
	for _, s := range []string{b.Cluster, b.Group} {
		p = binary.BigEndian.AppendUint16(p, uint16(len(s)))
		p = append(p, s...)
	}
	return binary.BigEndian.AppendUint32(p, crc32.Checksum(p, protocol.Castagnoli))
}

func decodeSuperblock(p []byte) (Superblock, error) {
	bad := func(why string) (Superblock, error) {
		return Superblock{}, tnv.E("read superblock", tnv.KindCorrupt, "%s", why)
	}
	if len(p) < 40 || [8]byte(p[:8]) != superMagic {
		return bad("no superblock")
	}
	body, crc := p[:len(p)-4], binary.BigEndian.Uint32(p[len(p)-4:])
	if crc32.Checksum(body, protocol.Castagnoli) != crc {
		return bad("its checksum does not match")
	}
	b := Superblock{
		Format: int(binary.BigEndian.Uint32(p[8:])),
		Clean:  binary.BigEndian.Uint32(p[12:]) == 1,
		Node:   tnv.NodeID(binary.BigEndian.Uint64(p[16:])),
		Boot:   tnv.BootID(binary.BigEndian.Uint64(p[24:])),
	}
	if b.Format != format {
		return Superblock{}, tnv.E("read superblock", tnv.KindVersion, "format %d, this program knows %d", b.Format, format)
	}
	rest := body[32:]
	for _, s := range []*string{&b.Cluster, &b.Group} {
		if len(rest) < 2 {
			return bad("it is cut short")
		}
		n := int(binary.BigEndian.Uint16(rest))
		if n > maxName || len(rest) < 2+n {
			return bad("a name is longer than its place")
		}
		*s, rest = string(rest[2:2+n]), rest[2+n:]
	}
	if len(rest) != 0 || b.Node == 0 || b.Boot >= 1<<32 {
		return bad("its fields make no sense")
	}
	return b, nil
}

func readSuperblock(fsys vfs.FS, dir string) (Superblock, error) {
	f, err := fsys.Open(fsys.PathJoin(dir, superName))
	if err != nil {
		return Superblock{}, wrap("open superblock of "+dir, err)
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return Superblock{}, wrap("read superblock of "+dir, err)
	}
	b, err := decodeSuperblock(p)
	if err != nil {
		return Superblock{}, wrap("store "+dir, err)
	}
	return b, nil
}

func writeSuperblock(fsys vfs.FS, dir string, b Superblock) error {
	return replaceFile(fsys, dir, superName, func(w io.Writer) error {
		_, err := w.Write(b.encode())
		return err
	})
}

// Init makes an empty store with a random node id in dir, which is made if it
// is missing. KindExist: there is one already.
func Init(dir, cluster, group string, opt Options) (Superblock, error) {
	opt = opt.withDefaults()
	op := "make store " + dir
	if len(cluster) > maxName || len(group) > maxName {
		return Superblock{}, tnv.E(op, tnv.KindInvalid, "a name is longer than %d bytes", maxName)
	}
	if err := opt.FS.MkdirAll(dir, 0o755); err != nil {
		return Superblock{}, wrap(op, err)
	}
	lock, err := lockDir(opt.FS, dir)
	if err != nil {
		return Superblock{}, err
	}
	defer lock.Close()
	switch _, err := opt.FS.Stat(opt.FS.PathJoin(dir, superName)); {
	case err == nil:
		return Superblock{}, tnv.E(op, tnv.KindExist, "there is a store already")
	case !errors.Is(err, fs.ErrNotExist):
		return Superblock{}, wrap(op, err)
	}
	b := Superblock{Format: format, Cluster: cluster, Group: group, Clean: true}
	for b.Node == 0 {
		var p [8]byte
		rand.Read(p[:])
		b.Node = tnv.NodeID(binary.BigEndian.Uint64(p[:]))
	}
	// The superblock comes last: without it there is no store.
	if err := writeEmptyLog(opt.FS, dir, b.Node); err != nil {
		return Superblock{}, wrap(op, err)
	}
	if err := writeSuperblock(opt.FS, dir, b); err != nil {
		return Superblock{}, wrap(op, err)
	}
	if err := syncDir(opt.FS, opt.FS.PathDir(dir)); err != nil {
		return Superblock{}, wrap(op, err)
	}
	return b, nil
}

func lockDir(fsys vfs.FS, dir string) (io.Closer, error) {
	lock, err := fsys.Lock(fsys.PathJoin(dir, lockName))
	if err == nil {
		return lock, nil
	}
	// Another process's lock is EAGAIN (fcntl(2)); one of this process has no errno.
	var no syscall.Errno
	if errors.Is(err, fs.ErrNotExist) || errors.As(err, &no) && no != syscall.EAGAIN {
		return nil, wrap("lock store "+dir, err)
	}
	return nil, &tnv.Error{Op: "lock store " + dir, Kind: tnv.KindBusy, Msg: "another process uses it", Err: err}
}
