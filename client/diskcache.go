package client

import "github.com/sirupsen/logrus"

type diskCache struct{}

func openDiskCache(dir string, size int64, log *logrus.Entry) (*diskCache, error) {
	return &diskCache{}, nil
}
func (d *diskCache) read(blk blockRef, p []byte) bool { return false }
func (d *diskCache) write(blk blockRef, p []byte)     {}
func (d *diskCache) close()                           {}
