package chaos

import (
	"context"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// trouble is what a disk does instead of its work. The zero value: nothing.
type trouble struct {
	errno syscall.Errno // of everything that reads, writes, allocates or syncs
	full  bool          // what needs room gets ENOSPC, and no room is shown
	delay time.Duration // before everything
}

// disk is a file system on a directory, with a switch for trouble.
type disk struct {
	backing string
	point   string
	server  *fuse.Server
	root    *fs.Inode

	mu  sync.Mutex
	how trouble
}

// mountDisk shows the directory backing at point.
func mountDisk(backing, point string) (*disk, error) {
	for _, dir := range []string{backing, point} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	d := &disk{backing: backing, point: point}
	data := &fs.LoopbackRoot{Path: backing}
	root := &diskNode{LoopbackNode: fs.LoopbackNode{RootData: data}, d: d}
	data.RootNode = root
	none := time.Duration(0) // the directory is changed behind the kernel's back, too
	server, err := fs.Mount(point, root, &fs.Options{EntryTimeout: &none, AttrTimeout: &none, NegativeTimeout: &none,
		MountOptions: fuse.MountOptions{Name: "tnvchaos", FsName: "tnvchaos", DirectMount: true, AllowOther: true, MaxWrite: 1 << 20}})
	if err != nil {
		return nil, err
	}
	d.server, d.root = server, root.EmbeddedInode()
	return d, nil
}

// unmount takes it away; whoever still uses it gets errors.
func (d *disk) unmount() {
	d.set(trouble{})
	if d.server.Unmount() != nil {
		syscall.Unmount(d.point, syscall.MNT_DETACH)
	}
}

// set makes trouble, or ends it. What the kernel has in memory of the files does
// not count from then on.
func (d *disk) set(how trouble) {
	d.mu.Lock()
	d.how = how
	d.mu.Unlock()
	if how == (trouble{}) {
		return
	}
	for _, child := range d.root.Children() {
		child.NotifyContent(0, 0)
	}
}

// touch is the way of everything to the disk.
func (d *disk) touch(needsRoom bool) syscall.Errno {
	d.mu.Lock()
	how := d.how
	d.mu.Unlock()
	time.Sleep(how.delay)
	if how.full && needsRoom {
		return syscall.ENOSPC
	}
	return how.errno
}

type diskNode struct {
	fs.LoopbackNode
	d *disk
}

var (
	_ fs.NodeOpener      = (*diskNode)(nil)
	_ fs.NodeCreater     = (*diskNode)(nil)
	_ fs.NodeStatfser    = (*diskNode)(nil)
	_ fs.NodeWrapChilder = (*diskNode)(nil)
)

// WrapChild makes the nodes below pass the switch, too.
func (n *diskNode) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &diskNode{LoopbackNode: fs.LoopbackNode{RootData: ops.(*fs.LoopbackNode).RootData}, d: n.d}
}

func (n *diskNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if e := n.d.touch(false); e != 0 {
		return nil, 0, e
	}
	f, fl, e := n.LoopbackNode.Open(ctx, flags)
	if e != 0 {
		return nil, 0, e
	}
	return &diskFile{f.(*fs.LoopbackFile), n.d}, fl, 0
}

func (n *diskNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if e := n.d.touch(true); e != 0 {
		return nil, nil, 0, e
	}
	in, f, fl, e := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if e != 0 {
		return nil, nil, 0, e
	}
	return in, &diskFile{f.(*fs.LoopbackFile), n.d}, fl, 0
}

func (n *diskNode) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	e := n.LoopbackNode.Statfs(ctx, out)
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	if n.d.how.full {
		out.Bfree, out.Bavail = 0, 0
	}
	return e
}

// diskFile is an open file: what reads, writes, allocates and syncs passes the switch.
type diskFile struct {
	*fs.LoopbackFile
	d *disk
}

func (f *diskFile) Read(ctx context.Context, buf []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if e := f.d.touch(false); e != 0 {
		return nil, e
	}
	return f.LoopbackFile.Read(ctx, buf, off)
}

func (f *diskFile) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if e := f.d.touch(true); e != 0 {
		return 0, e
	}
	return f.LoopbackFile.Write(ctx, data, off)
}

func (f *diskFile) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if e := f.d.touch(false); e != 0 {
		return e
	}
	return f.LoopbackFile.Fsync(ctx, flags)
}

func (f *diskFile) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	const punch = 0x02 // FALLOC_FL_PUNCH_HOLE: it gives room
	if e := f.d.touch(mode&punch == 0); e != 0 {
		return e
	}
	return f.LoopbackFile.Allocate(ctx, off, size, mode)
}

// PassthroughFd keeps the kernel from going to the directory by itself.
func (f *diskFile) PassthroughFd() (int, bool) { return 0, false }
