package coherence

import (
	"fmt"
	"strings"
	"syscall"
)

// Kind is what an operation does.
type Kind string

// Operations on names and attributes. Stat is one call of two steps: it is
// judged as a Lookup and a GetAttr.
const (
	Create   Kind = "create" // O_CREAT|O_EXCL
	Ensure   Kind = "ensure" // O_CREAT
	Mkdir    Kind = "mkdir"
	Unlink   Kind = "unlink"
	Rmdir    Kind = "rmdir"
	Rename   Kind = "rename"
	Link     Kind = "link"
	Stat     Kind = "stat"
	Lookup   Kind = "lookup" // open(2) of what is there
	GetAttr  Kind = "getattr"
	Chmod    Kind = "chmod"
	Truncate Kind = "truncate"
	List     Kind = "list"
	Exists   Kind = "exists" // HEAD
)

// Operations on data. Write is judged in two steps: it is seen on its mount, and
// it is seen by all.
const (
	Read    Kind = "read"
	Size    Kind = "size" // HEAD
	Write   Kind = "write"
	dirty   Kind = "dirty"
	publish Kind = "publish"
	Empty   Kind = "empty"   // O_TRUNC
	Replace Kind = "replace" // a new file is renamed over the old one
	Append  Kind = "append"  // O_APPEND
)

// Op is one call of a worker with its result.
type Op struct {
	Worker int
	Mount  int // the HTTP daemon: httpMount
	Arena  int `json:",omitempty"` // of names
	File   string
	Kind   Kind
	Call   int64 // nanoseconds of CLOCK_MONOTONIC
	Ret    int64
	Err    syscall.Errno `json:",omitempty"`

	Dir   uint64 `json:",omitempty"` // inode of the directory
	Name  string `json:",omitempty"`
	Dir2  uint64 `json:",omitempty"`
	Name2 string `json:",omitempty"`
	Ino   uint64 `json:",omitempty"` // of the open file that it is about
	Arg   int    `json:",omitempty"` // mode, size or flags
	Val   string `json:",omitempty"` // data written or read

	Attr *Attr   `json:",omitempty"` // what was found
	Ents []Entry `json:",omitempty"` // what was listed
}

// Attr is what the attributes say.
type Attr struct {
	Ino   uint64
	Dir   bool `json:",omitempty"`
	Mode  int
	Size  int
	Nlink int
}

// Entry is a name in a listing.
type Entry struct {
	Name string
	Ino  uint64
	Dir  bool `json:",omitempty"`
}

// httpMount is the Mount of what is asked of the HTTP daemon.
const httpMount = -1

// forever is the end of a call of which nobody knows when it took effect.
const forever = int64(1) << 62

// unknown tells whether the result does not say what was done.
func (o *Op) unknown() bool {
	switch o.Err {
	case syscall.EIO, syscall.ETIMEDOUT, syscall.EINTR, syscall.ENOTCONN, syscall.ECONNABORTED, syscall.EAGAIN, syscall.EHOSTDOWN, unanswered:
		return true
	}
	return false
}

// unanswered stands for the result of a call that had not returned when the
// history was cut.
const unanswered = syscall.Errno(4095)

func (o *Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "m%d.w%-2d %-8s", o.Mount, o.Worker, o.Kind)
	at := func(dir uint64, name string) {
		if name != "" {
			fmt.Fprintf(&b, " %d/%s", dir, name)
		} else if dir != 0 {
			fmt.Fprintf(&b, " dir %d", dir)
		}
	}
	if o.File != "" {
		fmt.Fprintf(&b, " %s", o.File)
	}
	if o.Ino != 0 {
		fmt.Fprintf(&b, " inode %d", o.Ino)
	}
	at(o.Dir, o.Name)
	at(o.Dir2, o.Name2)
	if o.Arg != 0 {
		fmt.Fprintf(&b, " %#o", o.Arg)
	}
	b.WriteString(" -> ")
	switch {
	case o.Err == unanswered:
		b.WriteString("?")
	case o.Err != 0:
		b.WriteString(o.Err.Error())
	case o.Attr != nil:
		fmt.Fprintf(&b, "inode %d", o.Attr.Ino)
		if o.Kind == Stat || o.Kind == GetAttr {
			fmt.Fprintf(&b, " dir=%v mode=%o size=%d nlink=%d", o.Attr.Dir, o.Attr.Mode, o.Attr.Size, o.Attr.Nlink)
		}
	case o.Kind == List:
		for _, e := range o.Ents {
			fmt.Fprintf(&b, "%s=%d ", e.Name, e.Ino)
		}
	case o.Val != "":
		fmt.Fprintf(&b, "%.12q", o.Val)
	case o.Kind == Size:
		fmt.Fprintf(&b, "%d", o.Arg)
	default:
		b.WriteString("ok")
	}
	return b.String()
}
