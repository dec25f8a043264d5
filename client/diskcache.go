package client

import (
	"container/list"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// diskCache keeps parts of blocks in files of a directory of its own, the
// longest unused of which make room. Blocks never change, so a part is right
// for ever; that its bytes are those that were verified when they came is proven
// at each read by the checksum in front of them:
//
//	 0         4         8        16        20        24        28
//	+---------+---------+---------+---------+---------+---------+
//	| "tvC1"  | volume  | block   | lo      | hi      | CRC32C  |  bytes lo to hi
//	+---------+---------+---------+---------+---------+---------+
//
// The checksum covers what stands before it and the bytes. Integers are
// big-endian. A file is named by volume, block and lo, in hexadecimal; which files
// there are is known by listing them once. While the cache is open a file
// "open" stands in the directory: if it is there at the start, the last stop was
// unclean, and everything is dropped. A second process on one directory fails.
type diskCache struct {
	dir   string
	limit int64
	log   *logrus.Entry
	lock  *os.File

	mu    sync.Mutex
	parts map[diskKey]*list.Element // of *diskPart
	lru   *list.List                // the longest unused first
	used  int64
	off   bool // a write failed: nothing more is written
}

type diskKey struct {
	vol   tnv.VolumeID
	block tnv.BlockID
	lo    uint32
}

type diskPart struct {
	key  diskKey
	size int64 // of the file
}

const (
	diskHeader = 28
	diskMagic  = "tvC1"
	diskSuffix = ".part"
	openMark   = "open"
)

func (k diskKey) path(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("%02x", uint8(k.block)), fmt.Sprintf("%x-%x-%x%s", uint32(k.vol), uint64(k.block), k.lo, diskSuffix))
}

// openDiskCache takes a directory into use, and what a clean stop left in it.
func openDiskCache(dir string, limit int64, log *logrus.Entry) (*diskCache, error) {
	d := &diskCache{dir: dir, limit: limit, log: log, parts: map[diskKey]*list.Element{}, lru: list.New()}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, tnv.Wrap("open the disk cache "+dir, err)
	}
	var err error
	if d.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	mark := filepath.Join(dir, openMark)
	_, err = os.Stat(mark)
	unclean := err == nil
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		d.lock.Close()
		return nil, tnv.Wrap("open the disk cache "+dir, err)
	}
	if unclean {
		log.WithField("dir", dir).Info("the disk cache was not closed properly and is emptied")
	}
	d.load(unclean)
	return d, nil
}

// load takes in, or drops, the files that are there.
func (d *diskCache) load(drop bool) {
	for i := range 256 {
		sub := filepath.Join(d.dir, fmt.Sprintf("%02x", i))
		entries, err := os.ReadDir(sub)
		if err != nil {
			continue
		}
		for _, e := range entries {
			var k diskKey
			name := strings.TrimSuffix(e.Name(), diskSuffix)
			n, _ := fmt.Sscanf(name, "%x-%x-%x", &k.vol, &k.block, &k.lo)
			info, err := e.Info()
			if drop || n != 3 || err != nil || k.path(d.dir) != filepath.Join(sub, e.Name()) {
				if strings.Contains(e.Name(), diskSuffix) {
					os.Remove(filepath.Join(sub, e.Name()))
				}
				continue
			}
			d.parts[k] = d.lru.PushBack(&diskPart{k, info.Size()})
			d.used += info.Size()
		}
	}
	d.shrink()
}

// header writes what stands before the bytes.
func diskHead(blk blockRef, p []byte) (h [diskHeader]byte) {
	copy(h[:], diskMagic)
	binary.BigEndian.PutUint32(h[4:], uint32(blk.key.Vol))
	binary.BigEndian.PutUint64(h[8:], uint64(blk.key.ID))
	binary.BigEndian.PutUint32(h[16:], blk.lo)
	binary.BigEndian.PutUint32(h[20:], blk.hi)
	sum := crc32.Update(crc32.Update(0, protocol.Castagnoli, h[:24]), protocol.Castagnoli, p)
	binary.BigEndian.PutUint32(h[24:], sum)
	return h
}

// read fills p with [lo, hi) of a block; false: it is not there, or damaged.
func (d *diskCache) read(blk blockRef, p []byte) bool {
	k := diskKey{blk.key.Vol, blk.key.ID, blk.lo}
	d.mu.Lock()
	e := d.parts[k]
	if e != nil {
		d.lru.MoveToBack(e)
	}
	d.mu.Unlock()
	if e == nil {
		return false
	}
	ok, damaged := readPart(k.path(d.dir), blk, p)
	if damaged {
		d.log.WithField("block", blk.key).Warn("a part in the disk cache is damaged and is dropped")
		d.remove(k)
	}
	return ok
}

func readPart(path string, blk blockRef, p []byte) (ok, damaged bool) {
	f, err := os.Open(path)
	if err != nil {
		return false, true
	}
	defer f.Close()
	var head [diskHeader]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return false, true
	}
	if hi := binary.BigEndian.Uint32(head[20:]); hi != blk.hi {
		return false, false // another length of the same part: a miss
	}
	if _, err := f.ReadAt(p, diskHeader); err != nil {
		return false, true
	}
	ok = head == diskHead(blk, p)
	return ok, !ok
}

// write keeps a verified part. What fails is not kept.
func (d *diskCache) write(blk blockRef, p []byte) {
	k := diskKey{blk.key.Vol, blk.key.ID, blk.lo}
	size := int64(diskHeader + len(p))
	d.mu.Lock()
	skip := d.off || size > d.limit
	d.mu.Unlock()
	if skip {
		return
	}
	path := k.path(d.dir)
	if err := writePart(path, diskHead(blk, p), p); err != nil {
		d.log.WithError(err).Warn("the disk cache can not be written: it takes nothing more")
		d.mu.Lock()
		d.off = true
		d.mu.Unlock()
		return
	}
	d.mu.Lock()
	if e := d.parts[k]; e != nil {
		d.used -= e.Value.(*diskPart).size
		d.lru.Remove(e)
	}
	d.parts[k] = d.lru.PushBack(&diskPart{k, size})
	d.used += size
	d.mu.Unlock()
	d.shrink()
}

// writePart writes a file under another name first: readers see all of it or none.
func writePart(path string, head [diskHeader]byte, p []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "*"+diskSuffix+".new")
	if err != nil {
		return err
	}
	_, err = f.Write(head[:])
	if err == nil {
		_, err = f.Write(p)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// shrink drops the longest unused parts beyond the limit.
func (d *diskCache) shrink() {
	for {
		d.mu.Lock()
		e := d.lru.Front()
		if d.used <= d.limit || e == nil {
			d.mu.Unlock()
			return
		}
		k := e.Value.(*diskPart).key
		d.mu.Unlock()
		d.remove(k)
	}
}

func (d *diskCache) remove(k diskKey) {
	d.mu.Lock()
	e := d.parts[k]
	if e != nil {
		d.used -= e.Value.(*diskPart).size
		d.lru.Remove(e)
		delete(d.parts, k)
	}
	d.mu.Unlock()
	if e != nil {
		os.Remove(k.path(d.dir))
	}
}

// close is the clean stop: what is there may be used again.
func (d *diskCache) close() {
	if err := os.Remove(filepath.Join(d.dir, openMark)); err != nil {
		d.log.WithError(err).Warn("the disk cache was not closed properly")
	}
	d.lock.Close()
}

// lockDir takes the directory for this process alone (flock(2)).
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, tnv.Wrap("open the disk cache "+dir, err)
	}
	if err := flock(f); err != nil {
		f.Close()
		return nil, tnv.E("open the disk cache "+dir, tnv.KindBusy, "another process uses it: name another directory")
	}
	return f, nil
}
