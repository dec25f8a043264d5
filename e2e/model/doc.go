// Package model compares a mount with a model in memory and with the local disk:
// random sequences of operations, drawn and shortened by pgregory.net/rapid, are
// done on all three, and every result, all content and all attributes must agree.
// The model is the expectation, the local disk judges the model.
package model

import (
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// node is a file or directory of the model.
type node struct {
	dir   bool
	mode  uint32
	data  []byte
	nlink int
	ents  map[string]*node
}

func newDir(mode uint32) *node {
	return &node{dir: true, mode: mode, nlink: 2, ents: map[string]*node{}}
}

// walk finds the directory of a path, and the last name.
func (root *node) walk(p string) (dir *node, name string, err syscall.Errno) {
	dir = root
	elems := strings.Split(p, "/")
	for _, e := range elems[:len(elems)-1] {
		next := dir.ents[e]
		switch {
		case next == nil:
			return nil, "", unix.ENOENT
		case !next.dir:
			return nil, "", unix.ENOTDIR
		}
		dir = next
	}
	return dir, elems[len(elems)-1], 0
}

func (root *node) find(p string) (*node, syscall.Errno) {
	d, name, err := root.walk(p)
	if err != 0 {
		return nil, err
	}
	if n := d.ents[name]; n != nil {
		return n, 0
	}
	return nil, unix.ENOENT
}

// open finds or makes a file.
func (root *node) open(p string, flags int, mode uint32) (*node, syscall.Errno) {
	d, name, err := root.walk(p)
	if err != 0 {
		return nil, err
	}
	n := d.ents[name]
	switch {
	case n == nil && flags&unix.O_CREAT == 0:
		return nil, unix.ENOENT
	case n == nil:
		n = &node{mode: mode, nlink: 1}
		d.ents[name] = n
	case flags&unix.O_EXCL != 0:
		return nil, unix.EEXIST
	case n.dir:
		return nil, unix.EISDIR
	case flags&unix.O_TRUNC != 0:
		n.truncate(0)
	}
	return n, 0
}

func (n *node) truncate(size int) {
	if size <= len(n.data) {
		n.data = slices.Clone(n.data[:size])
	} else {
		n.data = append(n.data, make([]byte, size-len(n.data))...)
	}
}

func (n *node) write(p []byte, off int) {
	if len(p) == 0 {
		return
	}
	if end := off + len(p); end > len(n.data) {
		n.truncate(end)
	}
	copy(n.data[off:], p)
}

func (n *node) read(off, size int) []byte {
	off = min(off, len(n.data))
	return n.data[off:min(off+size, len(n.data))]
}

func (root *node) mkdir(p string, mode uint32) syscall.Errno {
	d, name, err := root.walk(p)
	switch {
	case err != 0:
		return err
	case d.ents[name] != nil:
		return unix.EEXIST
	}
	d.ents[name] = newDir(mode)
	d.nlink++
	return 0
}

func (root *node) unlink(p string) syscall.Errno {
	d, name, err := root.walk(p)
	if err != 0 {
		return err
	}
	switch n := d.ents[name]; {
	case n == nil:
		return unix.ENOENT
	case n.dir:
		return unix.EISDIR
	default:
		n.nlink--
		delete(d.ents, name)
	}
	return 0
}

func (root *node) rmdir(p string) syscall.Errno {
	d, name, err := root.walk(p)
	if err != 0 {
		return err
	}
	switch n := d.ents[name]; {
	case n == nil:
		return unix.ENOENT
	case !n.dir:
		return unix.ENOTDIR
	case len(n.ents) > 0:
		return unix.ENOTEMPTY
	}
	delete(d.ents, name)
	d.nlink--
	return 0
}

func (root *node) link(p, q string) syscall.Errno {
	n, err := root.find(p)
	if err != 0 {
		return err
	}
	d, name, err := root.walk(q)
	switch {
	case err != 0:
		return err
	case d.ents[name] != nil:
		return unix.EEXIST
	case n.dir:
		return unix.EPERM
	}
	d.ents[name] = n
	n.nlink++
	return 0
}

func (root *node) rename(p, q string) syscall.Errno {
	d, name, err := root.walk(p)
	if err != 0 {
		return err
	}
	e, to, err := root.walk(q)
	if err != 0 {
		return err
	}
	n, old := d.ents[name], e.ents[to]
	switch {
	case n == nil:
		return unix.ENOENT
	case strings.HasPrefix(path.Dir(q)+"/", p+"/"):
		return unix.EINVAL
	case strings.HasPrefix(path.Dir(p)+"/", q+"/"):
		return unix.ENOTEMPTY
	case n == old:
		return 0
	case old != nil && n.dir && !old.dir:
		return unix.ENOTDIR
	case old != nil && !n.dir && old.dir:
		return unix.EISDIR
	case old != nil && len(old.ents) > 0:
		return unix.ENOTEMPTY
	}
	if old != nil {
		old.nlink--
	}
	if n.dir {
		d.nlink--
		if old == nil {
			e.nlink++
		}
	}
	delete(d.ents, name)
	e.ents[to] = n
	return 0
}
